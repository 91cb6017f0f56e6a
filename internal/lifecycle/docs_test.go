package lifecycle

import (
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/docs"
)

// The page has the whole table of states, and nothing that is illegal.
func TestDocumentedStates(t *testing.T) {
	rows, err := docs.Table("../..", "state-on-disk.md", "## States", 0)
	if err != nil {
		t.Fatal(err)
	}
	events := map[string]Event{"boot": Boot, "set up": Ready, "start": Start, "pause": Pause, "resume": Resume, "stop": Stop, "exit": Exit, "lost": Fail, "retry": Retry}
	told := map[State]map[Event]State{}
	for _, r := range rows {
		from := State(slices.Index(stateNames[:], r[0]))
		told[from] = map[Event]State{}
		for _, words := range strings.Split(r[2], ", ") {
			on, to, _ := strings.Cut(words, " → ")
			on, _, _ = strings.Cut(on, " (")
			told[from][events[on]] = State(slices.Index(stateNames[:], to))
		}
	}
	for from := Initialized; from < numStates; from++ {
		for e := Boot; e < numEvents; e++ {
			to, legal := transitions[from][e]
			was, documented := told[from][e]
			if legal != documented || to != was {
				t.Errorf("%s on %s: the page has %v (%v), the code %v (%v)", from, e, was, documented, to, legal)
			}
		}
	}
}
