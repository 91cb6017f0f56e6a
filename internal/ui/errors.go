package ui

import (
	"errors"
	"strings"

	"github.com/hashicorp/go-multierror"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// Error tells what went wrong: each failure once, on a line that begins with
// "error: ", and what to do about it on the next. Findings are told with their
// source.
func (u *UI) Error(err error) {
	var findings diag.Findings
	if errors.As(err, &findings) {
		u.Findings(findings)
		return
	}
	for _, e := range flatten(err) {
		if u.mode == JSON {
			u.errJSON(struct {
				Error *errorJSON `json:"error"`
			}{toErrorJSON(e)})
			continue
		}
		u.errText(u.paint(sgrRed, "error:") + " " + u.explain(e))
	}
}

// explain answers err and its hint, each on its own line.
func (u *UI) explain(err error) string {
	s := visibleLines(err.Error(), "    ") + "\n"
	if hint := errs.HintOf(err); hint != "" {
		s += "  " + u.paint(sgrCyan, "hint:") + " " + visibleLines(hint, "    ") + "\n"
	}
	return s
}

// flatten answers the failures that err is made of, each text once. What was
// wrapped around a multierror stands before each of its parts.
func flatten(err error) []error {
	seen := map[string]bool{}
	var all []error
	for _, e := range parts(err) {
		if !seen[e.Error()] {
			seen[e.Error()] = true
			all = append(all, e)
		}
	}
	return all
}

func parts(err error) []error {
	if err == nil {
		return nil
	}
	several, text := joined(err)
	if len(several) == 0 {
		return []error{err}
	}
	before, ok := strings.CutSuffix(err.Error(), text)
	var all []error
	for _, part := range several {
		for _, e := range parts(part) {
			if ok && before != "" {
				e = &prefixed{before, e}
			}
			all = append(all, e)
		}
	}
	return all
}

// joined returns the errors that err, or the first that it wraps, stands for, and
// that one's text. One that is made of several in a sentence is one error.
func joined(err error) (several []error, text string) {
	for ; err != nil; err = errors.Unwrap(err) {
		switch e := err.(type) {
		case *multierror.Error:
			return e.Errors, e.Error()
		case interface{ Unwrap() []error }:
			if several = e.Unwrap(); err.Error() == errors.Join(several...).Error() {
				return several, err.Error()
			}
			return nil, ""
		}
	}
	return nil, ""
}

type prefixed struct {
	before string
	err    error
}

func (p *prefixed) Error() string { return p.before + p.err.Error() }
func (p *prefixed) Unwrap() error { return p.err }

// errorJSON is an error for programs.
type errorJSON struct {
	Message string     `json:"message"`
	Class   errs.Class `json:"class,omitempty"`
	Hint    string     `json:"hint,omitempty"`
}

func toErrorJSON(err error) *errorJSON {
	return &errorJSON{Message: err.Error(), Class: errs.ClassOf(err), Hint: errs.HintOf(err)}
}
