package spec

import "fmt"

// suggest answers `did you mean "restart"?` for a word that is near one of the
// known ones, or "".
func suggest(word string, known []string) string {
	const maxWord, maxKnown = 64, 1000
	limit := min(2, (len(word)+2)/3)
	best, found := limit+1, ""
	if len(word) > maxWord || len(known) > maxKnown {
		return ""
	}
	for _, k := range known {
		if d := distance(word, k, best); d < best || d == best && found != "" && k < found {
			best, found = d, k
		}
	}
	if found == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", found)
}

// distance is the number of single-character insertions, deletions, changes and
// swaps of neighbours between two words (optimal string alignment); an answer
// above limit only says that it is.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(b) > 64 {
		return limit + 1
	}
	var rows [3][66]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
