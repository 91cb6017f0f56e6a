package shimproto

import (
	"slices"
	"testing"

	"github.com/vzcompose/vzcompose/internal/docs"
)

// The page lists exactly the methods that the server has.
func TestDocumentedMethods(t *testing.T) {
	rows, err := docs.Table("../..", "shim-protocol.md", "# The shim's protocol", 0)
	if err != nil {
		t.Fatal(err)
	}
	var told, want []string
	for _, r := range rows {
		told = append(told, docs.Words(r[0])...)
	}
	for m := range NewServer(noHandler{}, nil, nil).Methods {
		want = append(want, m)
	}
	slices.Sort(told)
	slices.Sort(want)
	if !slices.Equal(told, want) {
		t.Errorf("the page has %v, the code %v", told, want)
	}
}

// noHandler is a shim that nobody calls.
type noHandler struct{ Handler }
