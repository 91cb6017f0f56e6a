package spec

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// reporter collects findings: each once, and no more than a person can read.
type reporter struct {
	findings diag.Findings
	seen     map[string]bool
	count    [2]int // by severity
	left     [2]int // not kept, by severity
}

func newReporter() *reporter { return &reporter{seen: map[string]bool{}} }

// add keeps a finding unless the same was said about the same place: a default
// or an anchor is read once for each container that uses it.
func (r *reporter) add(p place, f diag.Finding) {
	if r.full(f.Severity) {
		r.left[f.Severity]++
		return
	}
	p.locate(&f)
	id := f.Position.String() + "\x00" + f.Message
	if r.seen[id] {
		return
	}
	r.seen[id] = true
	r.count[f.Severity]++
	r.findings = append(r.findings, f)
}

// Place is where something is declared.
type Place struct {
	diag.Position
	// Path names the thing in the stack, as that of a finding does.
	Path string
}

func (p Place) String() string { return p.Position.String() + ": " + p.Path }

func placeOf(n *node, at *trail) Place {
	var f diag.Finding
	n.place.locate(&f)
	if n.path != nil {
		at = n.path
	}
	return Place{f.Position, at.String()}
}

// full reports whether another finding of that severity would not be kept.
func (r *reporter) full(severity diag.Severity) bool {
	if severity == diag.Warning {
		return r.count[severity] >= maxWarnings
	}
	return r.count[severity] >= maxErrors
}

// done answers the findings in order of place.
func (r *reporter) done() diag.Findings {
	r.findings.Sort()
	for severity, left := range r.left {
		if left > 0 {
			r.findings = append(r.findings, diag.Finding{
				Severity: diag.Severity(severity),
				Message:  fmt.Sprintf("%d more findings are not shown", left),
			})
		}
	}
	return r.findings
}

// trail names a thing in the stack, "containers.web.ports[0]"; nil is the stack.
// It is a list from the leaf up, so that walking builds no strings.
type trail struct {
	up    *trail
	name  string
	index int
}

func (p *trail) key(name string) *trail { return &trail{up: p, name: name, index: -1} }
func (p *trail) item(i int) *trail      { return &trail{up: p, index: i} }

// listed reports whether the thing is, or is in, an entry of a list. Those are
// replaced or added to by later files, and never merged.
func (p *trail) listed() bool {
	for ; p != nil; p = p.up {
		if p.index >= 0 {
			return true
		}
	}
	return false
}

func (p *trail) String() string {
	if p == nil {
		return ""
	}
	var parts []string
	for ; p != nil; p = p.up {
		switch {
		case p.index >= 0:
			parts = append(parts, "["+strconv.Itoa(p.index)+"]")
		case p.up == nil:
			parts = append(parts, legible(p.name))
		default:
			parts = append(parts, "."+legible(p.name))
		}
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteString(parts[i])
	}
	return b.String()
}

// cut shortens what a message quotes.
func cut(s string) string {
	const limit = 60
	n := 0
	for i := range s {
		if n == limit {
			return s[:i] + "…"
		}
		n++
	}
	return s
}

// legible keeps a path on one line, and its parts apart.
func legible(name string) string {
	if strings.ContainsFunc(name, unprintable) || strings.ContainsRune(name, '.') {
		return quote(name)
	}
	return cut(name)
}

// quote quotes a text of the file for a message.
func quote(s string) string { return strconv.Quote(cut(s)) }
