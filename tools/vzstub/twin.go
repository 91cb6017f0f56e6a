package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"strings"
)

// withoutC answers the file without what needs cgo: functions panic, fields,
// parameters and constants of C's types are gone or are numbers. A file that
// does not import "C" stays as it is.
func withoutC(name string, text []byte) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	if !importsC(f) {
		return text, nil
	}
	var decls []ast.Decl
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d = function(d); d != nil {
				decls = append(decls, d)
			}
		case *ast.GenDecl:
			if d.Tok != token.IMPORT {
				decls = append(decls, general(d))
			}
		}
	}
	for _, d := range decls {
		handles(d)
	}
	var b bytes.Buffer
	for _, c := range constraints(f) {
		fmt.Fprintln(&b, c)
	}
	fmt.Fprintf(&b, "\npackage %s\n\nimport (\n%s)\n", f.Name.Name, imports(f, decls))
	for _, d := range decls {
		b.WriteString("\n")
		if err := format.Node(&b, fset, d); err != nil {
			return nil, err
		}
		b.WriteString("\n")
	}
	return format.Source(b.Bytes())
}

func importsC(f *ast.File) bool {
	for _, im := range f.Imports {
		if im.Path.Value == `"C"` {
			return true
		}
	}
	return false
}

// constraints answers the file's build constraints.
func constraints(f *ast.File) (lines []string) {
	for _, g := range f.Comments {
		for _, c := range g.List {
			if c.Pos() < f.Package && strings.HasPrefix(c.Text, "//go:build") {
				lines = append(lines, c.Text)
			}
		}
	}
	return lines
}

// imports answers the file's imports that decls still refer to.
func imports(f *ast.File, decls []ast.Decl) string {
	used := map[string]bool{}
	for _, d := range decls {
		ast.Inspect(d, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if id, ok := s.X.(*ast.Ident); ok {
					used[id.Name] = true
				}
			}
			return true
		})
	}
	var b strings.Builder
	for _, im := range f.Imports {
		p := strings.Trim(im.Path.Value, `"`)
		name := path.Base(p)
		if im.Name != nil {
			name = im.Name.Name
		}
		if p == "C" || !used[name] {
			continue
		}
		if im.Name != nil {
			fmt.Fprintf(&b, "%s ", name)
		}
		fmt.Fprintf(&b, "%q\n", p)
	}
	return b.String()
}

// function answers d with a body that panics, or nil where its type is C's: a
// callback, of no use without the other side.
func function(d *ast.FuncDecl) *ast.FuncDecl {
	if usesC(d.Type) || d.Recv != nil && usesC(d.Recv) {
		return nil
	}
	d.Doc, d.Body = nil, panics()
	return d
}

func panics() *ast.BlockStmt {
	return &ast.BlockStmt{List: []ast.Stmt{&ast.ExprStmt{X: &ast.CallExpr{Fun: ast.NewIdent("panic"),
		Args: []ast.Expr{&ast.BasicLit{Kind: token.STRING, Value: `"vzstub: this is a twin to build with, not to run"`}}}}}}
}

// general answers types, variables and constants without C's.
func general(d *ast.GenDecl) *ast.GenDecl {
	d.Doc = nil
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			s.Doc, s.Comment = nil, nil
			typ(s)
		case *ast.ValueSpec:
			s.Doc, s.Comment = nil, nil
			for i, v := range s.Values {
				s.Values[i] = value(v)
			}
		}
	}
	return d
}

// typ drops the fields of C's types; another type of C is a small number.
func typ(s *ast.TypeSpec) {
	if !usesC(s) {
		return
	}
	st, ok := s.Type.(*ast.StructType)
	if !ok {
		s.Type = ast.NewIdent("int8")
		return
	}
	var keep []*ast.Field
	for _, f := range st.Fields.List {
		if !usesC(f) {
			keep = append(keep, f)
		}
	}
	st.Fields.List = keep
}

func value(v ast.Expr) ast.Expr {
	if !usesC(v) {
		return v
	}
	if fn, ok := v.(*ast.FuncLit); ok {
		fn.Body = panics()
		return fn
	}
	return &ast.BasicLit{Kind: token.INT, Value: "0"}
}

// handles makes numbers of the fields of type cgo.Handle: runtime/cgo brings C
// objects of its own.
func handles(d ast.Decl) {
	ast.Inspect(d, func(n ast.Node) bool {
		f, ok := n.(*ast.Field)
		if !ok {
			return true
		}
		if s, ok := f.Type.(*ast.SelectorExpr); ok {
			if id, ok := s.X.(*ast.Ident); ok && id.Name == "cgo" {
				f.Type = ast.NewIdent("uintptr")
			}
		}
		return true
	})
}

func usesC(n ast.Node) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := s.X.(*ast.Ident); ok && id.Name == "C" {
				found = true
			}
		}
		return !found
	})
	return found
}
