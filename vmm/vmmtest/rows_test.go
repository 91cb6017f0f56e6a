package vmmtest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every row of the suite stands in docs/macos.md, where nobody has run it yet.
func TestEveryRowIsInTheDocs(t *testing.T) {
	text, err := os.ReadFile("vmmtest.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/macos.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`t\.Run\("([^"]+)"|(?m:^\t\t\{"([^"]+)", )`).FindAllStringSubmatch(string(text), -1)
	if len(named) < 30 {
		t.Fatalf("%d rows were found", len(named))
	}
	for _, m := range named {
		if row := "| " + m[1] + m[2] + " | compiled, not yet run"; !strings.Contains(string(page), row) {
			t.Errorf("docs/macos.md has no row %q", row)
		}
	}
}
