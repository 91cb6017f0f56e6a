// Darwincheck type-checks packages as they are built on macOS, with cgo, on any
// host: it needs neither a C compiler nor Apple's headers.
//
//	go run ./tools/darwincheck ./...
//
// The go command says which files and packages there are; go/types checks them
// from source, with what stands behind import "C" taken on trust. Bodies of
// functions are checked in the named packages only. Each named package is
// checked twice, with its tests. It exits 1 where there are errors, which it
// prints with file and line, and 2 where it could not look.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	patterns := os.Args[1:]
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	code := 0
	for _, arch := range []string{"arm64", "amd64"} {
		begin := time.Now()
		found, checked, err := check(arch, patterns)
		if err != nil {
			fmt.Fprintln(os.Stderr, "darwincheck:", err)
			os.Exit(2)
		}
		for _, e := range found {
			fmt.Println(e)
			code = 1
		}
		fmt.Fprintf(os.Stderr, "darwincheck: darwin/%s: %d packages, %d errors, %s\n", arch, checked, len(found),
			time.Since(begin).Round(10*time.Millisecond))
	}
	os.Exit(code)
}

// pkg is a package as the go command lists it, or one of tests with it.
type pkg struct {
	ImportPath, Dir   string
	DepOnly           bool
	GoFiles, CgoFiles []string
	Imports           []string
	ImportMap         map[string]string
	Module            *struct{ GoVersion string }
	Error             *struct{ Err string }

	done   chan struct{} // closed once the following are set
	types  *types.Package
	errors []string
}

// named reports whether p is to be checked, not only read. A test binary's main
// is generated, and nobody's.
func (p *pkg) named() bool { return !p.DepOnly && !strings.HasSuffix(p.ImportPath, ".test") }

// list answers the packages and all that they import, in the order in which
// they can be checked.
func list(arch string, patterns []string) ([]*pkg, error) {
	args := []string{"list", "-e", "-deps", "-test",
		"-json=ImportPath,Dir,DepOnly,GoFiles,CgoFiles,Imports,ImportMap,Module,Error", "--"}
	cmd := exec.Command("go", append(args, patterns...)...)
	cmd.Env = append(os.Environ(), "GOOS=darwin", "GOARCH="+arch, "CGO_ENABLED=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var all []*pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{done: make(chan struct{})}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("decode list: %w", err)
		}
		all = append(all, p)
	}
}

// checker checks one list of packages.
type checker struct {
	arch  string
	fset  *token.FileSet
	pkgs  map[string]*pkg
	slots chan struct{} // one for each processor
}

// check answers the errors in the packages that the patterns name.
func check(arch string, patterns []string) (found []string, checked int, err error) {
	all, err := list(arch, patterns)
	if err != nil {
		return nil, 0, err
	}
	c := &checker{arch: arch, fset: token.NewFileSet(), pkgs: map[string]*pkg{},
		slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	for _, p := range all {
		c.pkgs[p.ImportPath] = p
	}
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() {
			defer close(p.done)
			c.pkg(p)
		})
	}
	wg.Wait()
	for _, p := range all {
		if p.named() {
			checked++
			found = append(found, p.errors...)
		}
	}
	slices.Sort(found)
	found = slices.Compact(found) // a package and the same with its tests
	if checked == 0 {
		return nil, 0, fmt.Errorf("no packages in %q", patterns)
	}
	return found, checked, nil
}

// pkg checks p once all that it imports is done. It holds a slot only while it
// works, so that those who wait keep nobody from working.
func (c *checker) pkg(p *pkg) {
	if p.ImportPath == "unsafe" {
		p.types = types.Unsafe
		return
	}
	if p.Error != nil {
		p.errors = append(p.errors, p.ImportPath+": "+p.Error.Err)
	}
	files := c.parse(p)
	for _, im := range p.Imports {
		if d := c.pkgs[im]; d != nil {
			<-d.done
		}
	}
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	conf := types.Config{
		FakeImportC:      len(p.CgoFiles) > 0,
		IgnoreFuncBodies: !p.named(),
		Sizes:            types.SizesFor("gc", c.arch),
		Importer:         importer{p, c},
		Error:            func(err error) { p.errors = append(p.errors, relative(err.Error())) },
	}
	if p.Module != nil && p.Module.GoVersion != "" {
		conf.GoVersion = "go" + p.Module.GoVersion
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // "x [x.test]" is x with its tests
	p.types, _ = conf.Check(path, c.fset, files, nil)
}

func (c *checker) parse(p *pkg) (files []*ast.File) {
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		f, err := parser.ParseFile(c.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			p.errors = append(p.errors, relative(err.Error()))
		}
		if f != nil {
			files = append(files, f)
		}
	}
	return files
}

// importer finds what p imports among the packages that are done.
type importer struct {
	p *pkg
	c *checker
}

func (i importer) Import(path string) (*types.Package, error) {
	if m, ok := i.p.ImportMap[path]; ok {
		path = m
	}
	d := i.c.pkgs[path]
	if d == nil {
		return nil, fmt.Errorf("no package %q", path)
	}
	<-d.done
	if d.types == nil {
		return nil, fmt.Errorf("package %q could not be read", path)
	}
	return d.types, nil
}

// relative shortens the place at the head of an error.
func relative(msg string) string {
	wd, err := os.Getwd()
	if err != nil {
		return msg
	}
	return strings.TrimPrefix(msg, wd+string(filepath.Separator))
}
