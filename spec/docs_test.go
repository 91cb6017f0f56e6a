package spec

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/vzcompose/vzcompose/internal/docs"
	"github.com/vzcompose/vzcompose/schema"
)

// The page has every key of the top and of a container, and no other. What is refused
// has a list of its own there.
func TestDocumentedKeys(t *testing.T) {
	var s struct {
		Properties map[string]any
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	if err := json.Unmarshal(schema.JSON(), &s); err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct {
		keys     map[string]any
		headings []string
		other    []string // keys that are told of elsewhere
	}{
		{s.Properties, []string{"## The top"}, nil},
		{s.Defs["container"].Properties, []string{"### Root", "### Machine", "### Process", "### What it is given", "### Life"}, []string{"mounts", "shm_size"}},
	} {
		told := slices.Clone(of.other)
		for _, heading := range of.headings {
			rows, err := docs.Table("..", "stack-file.md", heading, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				told = append(told, docs.Words(r[0])...)
			}
			if _, err := docs.Table("..", "stack-file.md", heading, 1); err == nil {
				t.Errorf("%s has two tables: an empty line breaks one", heading)
			}
		}
		slices.Sort(told)
		if want := slices.Sorted(maps.Keys(of.keys)); !slices.Equal(told, want) {
			t.Errorf("%v: the page has\n%v\nthe code\n%v", of.headings, told, want)
		}
	}
}
