package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strings"
	"testing"
)

// rule answers what breaks it, one text each, with the place and the reason.
type rule struct {
	name  string
	check func(*source) []string
}

func rules() []rule {
	return []rule{
		{"rooms", checkRooms},
		{"imports", checkImports},
		{"drivers", checkDrivers},
		{"pure", checkPure},
		{"output", checkOutput},
		{"sleep", checkSleep},
		{"renames", checkRenames},
		{"init", checkInit},
		{"variables", checkVariables},
	}
}

func TestModule(t *testing.T) {
	s, err := readSource("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.files) < 20 {
		t.Fatalf("found %d files: this is not the module", len(s.files))
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for _, msg := range r.check(s) {
				t.Error(msg)
			}
		})
	}
}

func TestTableNamesItself(t *testing.T) {
	for pkg, r := range rooms() {
		for _, in := range r.imports {
			if _, ok := rooms()[in]; !ok {
				t.Errorf("%s may import %s, which is not a room", pkg, in)
			}
			if in == pkg {
				t.Errorf("%s may import itself", pkg)
			}
		}
		if r.pure {
			for _, in := range r.imports {
				if in != "spec" && !rooms()[in].pure {
					t.Errorf("%s is pure and may import %s, which is not", pkg, in)
				}
			}
		}
	}
}

func checkRooms(s *source) (bad []string) {
	for _, pkg := range s.packages() {
		if _, ok := roomOf(pkg); !ok {
			bad = append(bad, fmt.Sprintf("%s: not in the table of rooms (internal/arch/rules_test.go): "+
				"a new package needs a row, so that somebody decides what it may know", pkg))
		}
	}
	return bad
}

func checkImports(s *source) (bad []string) {
	for _, f := range s.files {
		r, ok := roomOf(f.pkg)
		if f.test || !ok {
			continue
		}
		for _, im := range f.imports() {
			in, ours := strings.CutPrefix(im, module+"/")
			if ours && !slices.Contains(r.imports, in) {
				bad = append(bad, fmt.Sprintf("%s imports %s, which its row does not have: %s", f.path, in, reason(f.pkg, in)))
			}
			if im == "gopkg.in/yaml.v3" && f.pkg != "spec" && f.pkg != "internal/settings" {
				bad = append(bad, fmt.Sprintf("%s imports %s: only spec and internal/settings do, so that a move to its successor is two lines", f.path, im))
			}
		}
	}
	return bad
}

// reason says why a room may not know another.
func reason(pkg, in string) string {
	switch {
	case in == "vmm/vmmfake" || strings.HasSuffix(in, "test"):
		return "fakes and suites are for tests"
	case under(in, "vmm/qemu") || in == "vmm/vz":
		return "who boots machines is given a vmm.Driver; only internal/driver chooses one"
	case in == "spec" || in == "planner":
		return "what is wanted is decided before, and handed on as a plan or as plain data"
	case in == "internal/ui" || in == "internal/cli":
		return "the ui shows what others answer; nobody asks it"
	case in == "internal/guest":
		return "the agent is reached over the wire only"
	}
	return "what a room may know is short on purpose; if the row is wrong, change it and say why in the commit"
}

func checkDrivers(s *source) (bad []string) {
	for _, f := range s.files {
		for _, im := range f.imports() {
			in := strings.TrimPrefix(im, module+"/")
			goos, ok := drivers()[in]
			if ok && !f.test && !strings.HasSuffix(f.path, "_"+goos+".go") {
				bad = append(bad, fmt.Sprintf("%s imports %s outside of a file for %s (*_%s.go): a platform is a file, never a condition", f.path, in, goos, goos))
			}
		}
	}
	return bad
}

func checkPure(s *source) (bad []string) {
	for _, f := range s.files {
		if r, _ := roomOf(f.pkg); !r.pure || f.test {
			continue
		}
		for _, im := range f.imports() {
			for p, what := range impure() {
				if under(im, p) && im != "net/netip" {
					bad = append(bad, fmt.Sprintf("%s imports %s, which brings %s: %s is pure, the same inputs give the same result", f.path, im, what, f.pkg))
				}
			}
		}
		f.uses("time", func(pos token.Pos, name string) {
			if slices.Contains(clock(), name) {
				bad = append(bad, fmt.Sprintf("%s uses time.%s: %s is pure, the time is an input", s.fset.Position(pos), name, f.pkg))
			}
		})
	}
	return bad
}

const outputReason = "only internal/ui and main programs write to the terminal, so that json and quiet output stay whole; take an io.Writer or answer an error"

func checkOutput(s *source) (bad []string) {
	for _, f := range s.files {
		if r, _ := roomOf(f.pkg); r.prints || f.test {
			continue
		}
		report := func(pos token.Pos, what string) {
			bad = append(bad, fmt.Sprintf("%s refers to %s: %s", s.fset.Position(pos), what, outputReason))
		}
		f.uses("os", func(pos token.Pos, name string) {
			if name == "Stdout" || name == "Stderr" {
				report(pos, "os."+name)
			}
		})
		f.uses("fmt", func(pos token.Pos, name string) {
			if name == "Print" || name == "Printf" || name == "Println" {
				report(pos, "fmt."+name)
			}
		})
		for _, im := range f.imports() {
			// A share gives its library a logger that says nothing.
			if im == "log" && f.pkg != "vmm/qemu/share" {
				report(f.ast.Package, "package log, whose default is stderr")
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok {
				if id, ok := c.Fun.(*ast.Ident); ok && (id.Name == "println" || id.Name == "print") {
					report(c.Pos(), "the builtin "+id.Name)
				}
			}
			return true
		})
	}
	return bad
}

func checkSleep(s *source) (bad []string) {
	used, there := map[string]bool{}, map[string]bool{}
	for _, f := range s.files {
		there[f.path] = true
		if f.test && slices.Contains(f.imports(), "testing/synctest") {
			continue
		}
		f.uses("time", func(pos token.Pos, name string) {
			if name != "Sleep" {
				return
			}
			used[f.path] = true
			if _, ok := sleeps()[f.path]; !ok {
				bad = append(bad, fmt.Sprintf("%s calls time.Sleep, which nothing can cancel and which guesses: wait for the fact (a channel, a context, testing/synctest) or list the file with its reason", s.fset.Position(pos)))
			}
		})
	}
	for p := range sleeps() {
		if there[p] && !used[p] {
			bad = append(bad, fmt.Sprintf("%s is listed as a sleeper and does not sleep: take it off the list", p))
		}
	}
	return bad
}

func checkRenames(s *source) (bad []string) {
	used, there := map[string]bool{}, map[string]bool{}
	for _, f := range s.files {
		there[f.path] = true
		if f.test || under(f.pkg, "tools") {
			continue
		}
		f.uses("os", func(pos token.Pos, name string) {
			if name != "Rename" {
				return
			}
			used[f.path] = true
			if _, ok := renames()[f.path]; !ok {
				bad = append(bad, fmt.Sprintf("%s calls os.Rename: a file that must survive a loss of power is synced before and its directory after, which internal/durable does; or list the file with its reason", s.fset.Position(pos)))
			}
		})
	}
	for p := range renames() {
		if there[p] && !used[p] {
			bad = append(bad, fmt.Sprintf("%s is listed as renaming and does not: take it off the list", p))
		}
	}
	return bad
}

func checkInit(s *source) (bad []string) {
	for _, f := range s.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				bad = append(bad, fmt.Sprintf("%s has an init(): what a program does begins in main, where one can read it", s.fset.Position(fn.Pos())))
			}
		}
	}
	return bad
}

// checkVariables finds package variables that are written: a store into one, a
// part of one or through its address. A table that is only read is fine.
func checkVariables(s *source) (bad []string) {
	for _, pkg := range s.packages() {
		info, p := s.resolve(pkg)
		written := func(x ast.Expr, how string) {
			id := root(x)
			if id == nil {
				return
			}
			v, ok := info.Uses[id].(*types.Var)
			if ok && p != nil && v.Parent() == p.Scope() {
				bad = append(bad, fmt.Sprintf("%s: the package variable %s %s: state has an owner that is passed on, or two users of one process meet in it", s.fset.Position(id.Pos()), id.Name, how))
			}
		}
		for _, f := range s.in(pkg) {
			ast.Inspect(f.ast, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.AssignStmt:
					for _, l := range n.Lhs {
						written(l, "is assigned to")
					}
				case *ast.IncDecStmt:
					written(n.X, "is counted")
				case *ast.UnaryExpr:
					if n.Op == token.AND {
						written(n.X, "has its address taken")
					}
				case *ast.CallExpr:
					if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
						written(n.Args[0], "is emptied")
					}
				case *ast.GenDecl:
					bad = append(bad, locks(s, f, n)...)
				}
				return true
			})
		}
	}
	return bad
}

// root answers the variable that a stored-to expression is a part of.
func root(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.IndexExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// locks finds package variables whose type only makes sense where there is
// state to guard.
func locks(s *source, f file, d *ast.GenDecl) (bad []string) {
	if d.Tok != token.VAR || !slices.Contains(f.ast.Decls, ast.Decl(d)) {
		return nil
	}
	for _, spec := range d.Specs {
		sel, ok := spec.(*ast.ValueSpec).Type.(*ast.SelectorExpr)
		if !ok {
			continue
		}
		if id, ok := sel.X.(*ast.Ident); ok && (id.Name == "sync" || id.Name == "atomic") {
			bad = append(bad, fmt.Sprintf("%s: a package variable of type %s.%s: state has an owner that is passed on", s.fset.Position(spec.Pos()), id.Name, sel.Sel.Name))
		}
	}
	return bad
}

// TestRulesBite gives each rule something to find, and something to leave.
func TestRulesBite(t *testing.T) {
	for _, c := range []struct {
		rule, path, text string
		want             string // part of the one message; "" for none
	}{
		{"rooms", "internal/util/x.go", `package util`, "not in the table"},
		{"rooms", "tools/new/main.go", `package main`, ""},
		{"imports", "internal/shim/x.go", `package shim; import _ "` + module + `/planner"`, "handed on as a plan"},
		{"imports", "internal/shim/x_darwin.go", `package shim; import _ "` + module + `/vmm/vz"`, "vmm.Driver"},
		{"imports", "internal/shim/x_test.go", `package shim; import _ "` + module + `/vmm/vmmfake"`, ""},
		{"imports", "tools/x/main.go", `package main; import _ "` + module + `/vmm"`, "tools/x"},
		{"imports", "internal/store/x.go", `package store; import _ "gopkg.in/yaml.v3"`, "only spec"},
		{"drivers", "internal/driver/driver.go", `package driver; import _ "` + module + `/vmm/vz"`, "for darwin"},
		{"drivers", "internal/driver/driver_darwin.go", `package driver; import _ "` + module + `/vmm/vz"`, ""},
		{"pure", "planner/x.go", `package planner; import _ "net/http"`, "the network"},
		{"pure", "planner/x.go", `package planner; import _ "net/netip"`, ""},
		{"pure", "planner/x.go", `package planner; import t "time"; var _ = t.Now`, "the time is an input"},
		{"pure", "planner/x.go", `package planner; import "time"; const d = time.Second`, ""},
		{"output", "spec/x.go", `package spec; import "os"; var w = os.Stderr`, "os.Stderr"},
		{"output", "spec/x.go", `package spec; func f() { println() }`, "builtin"},
		{"output", "internal/ui/x.go", `package ui; import "fmt"; func f() { fmt.Println() }`, ""},
		{"sleep", "relay/x_test.go", `package relay; import "time"; func f() { time.Sleep(1) }`, "wait for the fact"},
		{"renames", "internal/store/x.go", `package store; import "os"; func f() { os.Rename("a", "b") }`, "internal/durable"},
		{"renames", "internal/store/x_test.go", `package store; import "os"; func f() { os.Rename("a", "b") }`, ""},
		{"sleep", "relay/x_test.go", `package relay; import ("time"; "testing/synctest"); func f() { time.Sleep(1); synctest.Wait() }`, ""},
		{"init", "relay/x.go", `package relay; func init() {}`, "init()"},
		{"init", "relay/x.go", `package relay; type t int; func (t) init() {}`, ""},
		{"variables", "relay/x.go", `package relay; var n int; func f() { n++ }`, "is counted"},
		{"variables", "relay/x.go", `package relay; var m = map[int]int{}; func f() { m[1] = 2 }`, "is assigned"},
		{"variables", "relay/x.go", `package relay; var s struct{ x int }; func f() *int { return &s.x }`, "address"},
		{"variables", "relay/x.go", `package relay; import "sync"; var mu sync.Mutex`, "sync.Mutex"},
		{"variables", "relay/x.go", `package relay; var n int; func f() { n := 1; n++; _ = n }`, ""},
		{"variables", "relay/x.go", `package relay; var m = map[int]int{}; func f() int { return m[1] }`, ""},
		{"output", "spec/x.go", "//go:build ignore\n\npackage main\n\nfunc main() { println() }", ""},
	} {
		i := slices.IndexFunc(rules(), func(r rule) bool { return r.name == c.rule })
		s := &source{fset: token.NewFileSet()}
		if err := s.add(path.Base(c.path), c.path, c.text); err != nil {
			t.Fatal(err)
		}
		bad := rules()[i].check(s)
		switch {
		case c.want == "" && len(bad) > 0, c.want != "" && (len(bad) != 1 || !strings.Contains(bad[0], c.want)):
			t.Errorf("%s on %s %q: %q, want %q", c.rule, c.path, c.text, bad, c.want)
		}
	}
}
