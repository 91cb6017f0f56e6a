package wire

import (
	"fmt"
	"testing"

	"github.com/vzcompose/vzcompose/internal/docs"
)

// The page has the kinds of frames with their limits.
func TestDocumentedFrames(t *testing.T) {
	rows, err := docs.Table("../..", "agent-protocol.md", "## Frames", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := Kind(0)
	for Kind(n + 1).known() {
		n++
	}
	if len(rows) != int(n) {
		t.Errorf("the page has %d kinds, the code %d", len(rows), n)
	}
	for i, r := range rows {
		k := Kind(i + 1)
		if r[0] != fmt.Sprint(i+1) || r[3] != docs.Bytes(k.limit()) {
			t.Errorf("%v: the limit of kind %d is %s", r, k, docs.Bytes(k.limit()))
		}
	}
}
