package e2e

import (
	"strings"
	"testing"
)

// A container with profiles is in the stack where one of them is asked for, or
// where it is named; what runs by an earlier wish goes on, and down takes it away.
func TestProfiles(t *testing.T) {
	s := scenario(t, quick+`
containers:
  web: {command: [sleep, "36000"], depends_on: {trace: {condition: started, required: false}}}
  trace: {command: [sleep, "36000"], profiles: [debug]}
  store: {command: [sleep, "36000"], profiles: [tools]}
  tool: {command: [sh, -c, "echo worked"], profiles: [tools], depends_on: [store]}
`)
	s.must("up", "-d")
	if got := s.states(); got != "web-1=running" {
		t.Errorf("without profiles: %s", got)
	}
	s.must("--profile", "debug", "up", "-d")
	if got := s.states(); got != "trace-1=running web-1=running" {
		t.Errorf("with debug: %s", got)
	}
	if r := s.must("up", "-d"); strings.Contains(r.err, "orphan") || s.states() != "trace-1=running web-1=running" {
		t.Errorf("what runs by an earlier wish: %s, %s", r, s.states())
	}
	t.Setenv("VZCOMPOSE_PROFILES", "debug,tools")
	if r := s.must("config", "--services"); r.out != "store\ntool\ntrace\nweb\n" {
		t.Errorf("%s", r)
	}
	t.Setenv("VZCOMPOSE_PROFILES", "")
	if r := s.must("config", "--profiles"); r.out != "debug\ntools\n" {
		t.Errorf("%s", r)
	}
	if r := s.must("run", "--rm", "tool"); r.out != "worked\n" || s.states() != "store-1=running trace-1=running web-1=running" {
		t.Errorf("what is named: %s, %s", r, s.states())
	}
	s.must("down")
	if got := s.states(); got != "" {
		t.Errorf("after down: %s", got)
	}
}
