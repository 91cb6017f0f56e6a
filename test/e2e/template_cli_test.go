package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/store"
)

// warmOnly skips what makes no sense where every machine boots.
func warmOnly(t *testing.T) {
	t.Helper()
	if os.Getenv("VZCOMPOSE_COLD") != "" {
		t.Skip("VZCOMPOSE_COLD is set: every machine boots")
	}
}

// origin is how the machine of an instance came to be.
func (s *stack) origin(h store.Home, instance string) string {
	s.t.Helper()
	st := must(h.ReadState(s.name, instance))
	if len(st.Notes) > 0 {
		s.t.Errorf("notes: %q", st.Notes)
	}
	return st.Origin
}

// A template is made once, ahead or when it is needed; --cold does without.
func TestTemplateCommands(t *testing.T) {
	s := scenario(t, `
name: templates
containers:
  a: {image: busybox, cpus: 1, memory: 80MiB, command: [sleep, "1000"], stop_signal: KILL}
`)
	warmOnly(t)
	h := must(store.Locate(os.LookupEnv))
	for _, want := range []string{" made: 1 cpus, ", " is there: 1 cpus, "} {
		if r := s.must("template", "prewarm"); !strings.Contains(r.out, want) {
			t.Errorf("prewarm: %s, want %q", r, want)
		}
	}
	id, _, _ := strings.Cut(s.must("template", "prewarm").out, " ")
	if ls := s.must("template", "ls", "-q").out; !strings.HasPrefix(ls, id+"\n") {
		t.Errorf("the one used last does not lead: %s", ls)
	}
	for flag, want := range map[string]string{"--force-recreate": "restored", "--cold": "booted"} {
		s.must("up", "-d", flag)
		if got := s.origin(h, "a-1"); got != want {
			t.Errorf("up %s: the machine was %s, want %s", flag, got, want)
		}
		s.must("down")
	}
	s.must("template", "rm", id)
	if ls := s.must("template", "ls", "-q").out; strings.Contains(ls, id) {
		t.Errorf("still there: %s", ls)
	}
	if r := s.vz("template", "rm", id); r.code != 1 || !strings.Contains(r.err, "no template "+id) {
		t.Errorf("rm of what is not there: %s", r)
	}
	if r := s.vz("template", "prewarm", "many"); r.code != 2 {
		t.Errorf("prewarm many: %s", r)
	}
	if r := s.must("doctor"); !strings.Contains(r.out, "templates") {
		t.Errorf("doctor says nothing: %s", r)
	}
}
