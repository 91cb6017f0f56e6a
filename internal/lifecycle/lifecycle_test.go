package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The table in words: a change to the machine is a change to this text.
func TestTable(t *testing.T) {
	var b strings.Builder
	for s := Initialized; s < numStates; s++ {
		for e := Boot; e < numEvents; e++ {
			if to, err := s.Next(e); err == nil {
				fmt.Fprintf(&b, "%s --%s--> %s\n", s, e, to)
			}
		}
	}
	want := `initialized --boot--> booting
booting --set up--> created
booting --stop--> stopping
booting --lose--> errored
booting --retry--> restarting
created --start--> started
created --stop--> stopping
created --lose--> errored
created --retry--> restarting
started --pause--> paused
started --stop--> stopping
started --see the end of--> stopped
started --lose--> errored
started --retry--> restarting
paused --resume--> started
paused --stop--> stopping
paused --see the end of--> stopped
paused --lose--> errored
paused --retry--> restarting
stopping --stop--> stopping
stopping --see the end of--> stopped
stopping --lose--> errored
restarting --boot--> booting
restarting --stop--> stopping
restarting --lose--> errored
stopped --boot--> booting
errored --boot--> booting
`
	if b.String() != want {
		t.Errorf("the machine changed:\n%s", b.String())
	}
}

func TestEveryStateIsNamedReachableAndReadBack(t *testing.T) {
	seen := map[State]bool{Initialized: true}
	for todo := []State{Initialized}; len(todo) > 0; todo = todo[1:] {
		for _, to := range transitions[todo[0]] {
			if !seen[to] {
				seen[to] = true
				todo = append(todo, to)
			}
		}
	}
	for s := Initialized; s < numStates; s++ {
		if !seen[s] || len(transitions[s]) == 0 {
			t.Errorf("%s is unreachable or has no way on", s)
		}
		text, err := s.MarshalText()
		var back State
		if err != nil || back.UnmarshalText(text) != nil || back != s {
			t.Errorf("%s does not survive its text", s)
		}
	}
	var s State
	if s.UnmarshalText([]byte("unknown(0)")) == nil {
		t.Error("a made-up state was read")
	}
}

func TestIllegal(t *testing.T) {
	_, err := Stopped.Next(Pause)
	var te *TransitionError
	if !errors.As(err, &te) || te.From != Stopped || err.Error() != "cannot pause what is stopped" {
		t.Fatalf("got %v", err)
	}
}
