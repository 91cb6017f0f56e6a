package logs

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const suffix = ".jsonl"

// segmentPath of number n. Numbers count from 1 and are never used again, so
// that a reader knows its place by number and offset.
func segmentPath(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("%06d%s", n, suffix))
}

// segments answers the numbers of the files in dir, in order. Files of other
// names are none of ours.
func segments(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list log files: %w", err)
	}
	var ns []int
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		n, err := strconv.Atoi(digits)
		if ok && err == nil && n > 0 && filepath.Base(segmentPath(dir, n)) == e.Name() {
			ns = append(ns, n)
		}
	}
	slices.SortFunc(ns, cmp.Compare)
	return ns, nil
}

// backBlock is how much is read at a time on the way back, in bytes.
const backBlock = 64 << 10

// lastNewline answers the offset after the last newline of f before end, or 0.
func lastNewline(f io.ReaderAt, end int64) (int64, error) {
	buf := make([]byte, backBlock)
	for end > 0 {
		n := min(end, backBlock)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}
