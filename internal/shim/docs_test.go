package shim

import (
	"fmt"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/docs"
)

// The page has the limits of the phases. That of a shim's readiness is the engine's.
func TestDocumentedLimits(t *testing.T) {
	rows, err := docs.Table("../..", "shim-protocol.md", "## Limits", 0)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]time.Duration{
		"from the machine's start to the agent's answer": bootLimit,
		"setting up":                             setupLimit,
		"awaiting the machine's virtual sockets": attendLimit,
		"connecting to a port of them":           dialVsockLimit,
		"starting the process":                   startLimit,
		"from SIGKILL to the process's end, then the machine is killed": killLimit,
		"draining the last output into the log":                         drainLimit,
		"power-off, then the machine is killed":                         powerOffLimit,
		"a question to the agent, a pause, a resume":                    callLimit,
		"from SIGHUP to SIGKILL, of an exec whose command is gone":      hangUpLimit,
	}
	for _, r := range rows {
		if r[0] == "from exec to readiness" {
			continue
		}
		limit, ok := want[r[0]]
		delete(want, r[0])
		if !ok || r[1] != inWords(limit) {
			t.Errorf("%v: the code has %s", r, inWords(limit))
		}
	}
	if len(want) > 0 {
		t.Errorf("the page lacks %v", want)
	}
}

func inWords(d time.Duration) string {
	if d > 3*time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}
