package arch

import (
	"errors"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/vzcompose/vzcompose"

// file is one parsed source file.
type file struct {
	path string // relative to the module, with slashes
	pkg  string // its directory
	test bool
	ast  *ast.File
}

// source is the files of a module.
type source struct {
	fset  *token.FileSet
	files []file
}

// readSource parses the Go files under root, of every operating system.
func readSource(root string) (*source, error) {
	s := &source{fset: token.NewFileSet()}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // gone since it was listed: an editor's file
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != root && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		return s.add(p, filepath.ToSlash(rel), nil)
	})
	return s, err
}

// add parses one file; text may be nil, then it is read from p.
func (s *source) add(p, rel string, text any) error {
	f, err := parser.ParseFile(s.fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ignored(f) {
		return nil
	}
	s.files = append(s.files, file{path: rel, pkg: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), ast: f})
	return nil
}

// ignored reports whether f is built under no tag that anybody sets.
func ignored(f *ast.File) bool {
	for _, g := range f.Comments {
		if g.Pos() > f.Package {
			break
		}
		for _, c := range g.List {
			if x, err := constraint.Parse(c.Text); err == nil && x.String() == "ignore" {
				return true
			}
		}
	}
	return false
}

// packages answers the packages with code that is not a test.
func (s *source) packages() []string {
	var out []string
	for _, f := range s.files {
		if !f.test && !slices.Contains(out, f.pkg) {
			out = append(out, f.pkg)
		}
	}
	return out
}

// in answers the files of pkg that are not tests.
func (s *source) in(pkg string) []file {
	var out []file
	for _, f := range s.files {
		if f.pkg == pkg && !f.test {
			out = append(out, f)
		}
	}
	return out
}

// imports answers the paths that f imports.
func (f file) imports() []string {
	var out []string
	for _, im := range f.ast.Imports {
		out = append(out, strings.Trim(im.Path.Value, `"`))
	}
	return out
}

// uses calls fn with each name of the imported package that f refers to.
func (f file) uses(pkg string, fn func(pos token.Pos, name string)) {
	local := ""
	for _, im := range f.ast.Imports {
		if strings.Trim(im.Path.Value, `"`) == pkg {
			local = path.Base(pkg)
			if im.Name != nil {
				local = im.Name.Name
			}
		}
	}
	if local == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == local {
				fn(sel.Pos(), sel.Sel.Name)
			}
		}
		return true
	})
}

func under(p, parent string) bool { return p == parent || strings.HasPrefix(p, parent+"/") }

// resolve says what each name in pkg refers to, as far as that can be told
// without its imports: enough for what is declared in pkg itself. Files of
// several operating systems declare the same names, which is no matter here.
func (s *source) resolve(pkg string) (*types.Info, *types.Package) {
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: nothing{}, Error: func(error) {}, FakeImportC: true}
	var files []*ast.File
	for _, f := range s.in(pkg) {
		files = append(files, f.ast)
	}
	p, err := conf.Check(module+"/"+pkg, s.fset, files, info)
	_ = err // every import is one
	return info, p
}

type nothing struct{}

func (nothing) Import(string) (*types.Package, error) { return nil, errors.New("not needed") }
