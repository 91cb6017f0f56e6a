package spec

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var sizeText = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtKMGT])(?:[iI]?[bB])?|[bB])?$`)

// ParseSize reads a number of bytes: 512MiB, 1GiB, and Compose's 64m, 1g, 2gb,
// which are powers of 1024 too. A plain number is bytes.
func ParseSize(text string) (uint64, error) {
	m := sizeText.FindStringSubmatch(text)
	if m == nil {
		return 0, wrong{quote(text) + " is not a size", "write 512MiB, 2GiB, or a number of bytes"}
	}
	unit := float64(1)
	if m[2] != "" {
		unit = math.Pow(1024, float64(1+strings.Index("kmgt", strings.ToLower(m[2]))))
	}
	if n, err := strconv.ParseUint(m[1], 10, 64); err == nil && n <= maxSize/uint64(unit) {
		return n * uint64(unit), nil
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil || f*unit > maxSize {
		return 0, fmt.Errorf("%s is above %s", quote(text), formatSize(maxSize))
	}
	if f *= unit; f != math.Trunc(f) {
		return 0, fmt.Errorf("%s is not a whole number of bytes", quote(text))
	}
	return uint64(f), nil
}

// maxSize is what no host has and no filesystem here can be.
const maxSize = 16 << 40

// formatSize is the inverse of ParseSize: the largest unit that divides n.
func formatSize(n uint64) string {
	units := []string{"", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n != 0 && n%1024 == 0 && i+1 < len(units) {
		n /= 1024
		i++
	}
	return strconv.FormatUint(n, 10) + units[i]
}

// maxDuration bounds every duration of the language.
const maxDuration = 365 * 24 * time.Hour

// dayText is a duration that begins with days.
var dayText = regexp.MustCompile(`^(\d{1,4})d(.*)$`)

// parseDuration reads 10s, 1m30s, 500ms, 1d. A number without a unit is refused, as
// in Compose.
func parseDuration(text string) (time.Duration, error) {
	if intText.MatchString(text) && text != "0" {
		return 0, wrong{quote(text) + " has no unit", fmt.Sprintf("write %ss for seconds", strings.TrimLeft(text, "+"))}
	}
	d, err := time.ParseDuration(text)
	if days := dayText.FindStringSubmatch(text); days != nil {
		n, _ := strconv.Atoi(days[1])
		d, err = time.ParseDuration(cmp.Or(days[2], "0s"))
		if d < 0 {
			err = errKind
		}
		d += time.Duration(n) * 24 * time.Hour
	}
	switch {
	case err != nil:
		return 0, wrong{quote(text) + " is not a duration", "write 10s, 1m30s or 500ms"}
	case d < 0 || d > maxDuration:
		return 0, fmt.Errorf("%s is not between 0s and %s", quote(text), formatDuration(maxDuration))
	}
	return d, nil
}

// formatDuration is the inverse of parseDuration, without zeros at the end.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// wrong is an error about a value, with what to write instead.
type wrong struct{ message, hint string }

func (w wrong) Error() string { return w.message }
