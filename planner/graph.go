package planner

import (
	"maps"
	"slices"

	"github.com/vzcompose/vzcompose/spec"
)

// graph is who depends on whom, among containers.
type graph struct {
	needs map[string]map[string]spec.Dependency // container → what it depends on
	users map[string][]string                   // container → what depends on it, sorted
	level map[string]int                        // 0 depends on nothing
	cycle []string                              // the first cycle found, "a b a"; its last edge is not in needs
}

// newGraph orders containers. Dependencies on what is not in needs are left
// out. An edge that closes a cycle is left out too, and the first such cycle is
// kept for the message: a file with one never comes this far, but records of
// different ages may disagree, and their stack must still come down.
func newGraph(declared map[string]map[string]spec.Dependency) *graph {
	g := &graph{
		needs: make(map[string]map[string]spec.Dependency, len(declared)),
		users: make(map[string][]string),
		level: make(map[string]int, len(declared)),
	}
	for _, name := range sortedKeys(declared) {
		g.visit(name, declared, nil)
	}
	for _, name := range sortedKeys(g.needs) {
		for dep := range g.needs[name] {
			g.users[dep] = append(g.users[dep], name)
		}
	}
	return g
}

func (g *graph) visit(name string, declared map[string]map[string]spec.Dependency, path []string) {
	if _, done := g.level[name]; done {
		return
	}
	path = append(path, name)
	g.needs[name] = make(map[string]spec.Dependency)
	level := 0
	for _, dep := range sortedKeys(declared[name]) {
		if _, there := declared[dep]; !there {
			continue
		}
		if at := slices.Index(path, dep); at >= 0 {
			if g.cycle == nil {
				g.cycle = append(slices.Clone(path[at:]), dep)
			}
			continue
		}
		g.visit(dep, declared, path)
		g.needs[name][dep] = declared[name][dep]
		level = max(level, g.level[dep]+1)
	}
	g.level[name] = level
}

// order is every container, by level and then by name.
func (g *graph) order() []string {
	names := sortedKeys(g.level)
	slices.SortStableFunc(names, func(a, b string) int { return g.level[a] - g.level[b] })
	return names
}

// closure answers names and all that they depend on.
func (g *graph) closure(names []string) map[string]bool {
	in := make(map[string]bool)
	for todo := slices.Clone(names); len(todo) > 0; {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if in[name] {
			continue
		}
		in[name] = true
		for dep := range g.needs[name] {
			todo = append(todo, dep)
		}
	}
	return in
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
