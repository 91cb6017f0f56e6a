package vzcompose

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateAPI = flag.Bool("update-api", false, "write testdata/api.txt anew")

// TestAPI compares what other modules can refer to with testdata/api.txt, so that it
// changes on purpose. `go test -run TestAPI . -update-api` takes a change over.
func TestAPI(t *testing.T) {
	var got strings.Builder
	for _, dir := range []string{".", "vztest"} {
		decls, err := exported(dir)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString("# " + filepath.Join("vzcompose", dir) + "\n\n" + strings.Join(decls, "\n") + "\n\n")
	}
	file := filepath.Join("testdata", "api.txt")
	if *updateAPI {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the public interface is not that of %s; it is\n%s", file, &got)
	}
}

// exported returns the exported declarations of a package, sorted, without comments,
// bodies and what is not exported of them.
func exported(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.FileExports(f)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && !ast.IsExported(receiver(d.Recv.List[0].Type)) {
					continue
				}
				d.Body = nil
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
			}
			var b bytes.Buffer
			if err := printer.Fprint(&b, set, d); err != nil {
				return nil, err
			}
			all = append(all, b.String())
		}
	}
	slices.Sort(all)
	return all, nil
}

// receiver returns the name of a method's type.
func receiver(x ast.Expr) string {
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	name, _ := x.(*ast.Ident)
	return name.Name
}
