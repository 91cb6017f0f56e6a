package shim

import (
	"fmt"
	"strconv"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
)

// The back-off of a restart policy: the first wait, which doubles up to the
// last; a process that ran as long as enough begins anew.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = time.Minute
	enough       = 10 * time.Second
)

// retry is where the restart policy stands.
type retry struct {
	wait  time.Duration // the last; 0: none yet
	timer *time.Timer   // of the wait under way
}

// conclude takes the end of a machine: it is the last, or the restart policy
// has the instance come again. The loop's.
func (s *shim) conclude(e lifecycle.Event, exit *state.Exit, cause string, err error) {
	s.input.connect(nil)
	if !s.again(exit) {
		s.finish(e, exit, cause, err)
		return
	}
	s.st.Exit, s.st.Cause, s.st.Finished, s.st.Health = exit, cause, time.Now(), ""
	s.st.Restarts++
	d := s.backoff()
	if err := s.move(lifecycle.Retry, fmt.Sprintf("again in %s", d)); err != nil {
		s.finish(lifecycle.Fail, exit, err.Error(), err)
		return
	}
	s.retry.timer = time.AfterFunc(d, func() { s.send(s.comeAgain) })
}

// again says whether the policy has the instance come again.
func (s *shim) again(exit *state.Exit) bool {
	if s.life == lifecycle.Stopping || s.st.Started.IsZero() && s.st.Restarts == 0 {
		return false // it was asked to end, or has never run: whoever started it is told
	}
	failed := exit == nil || exit.Code != 0
	switch p := s.inst.Restart; p.Policy {
	case "always", "unless-stopped":
		return true
	case "on-failure":
		return failed && (p.Max == 0 || s.st.Restarts < p.Max)
	}
	return false
}

func (s *shim) backoff() time.Duration {
	if !s.st.Started.IsZero() && time.Since(s.st.Started) > enough {
		s.retry.wait = 0
	}
	s.retry.wait = min(max(2*s.retry.wait, firstBackoff), lastBackoff)
	return s.retry.wait
}

// comeAgain boots anew. The loop's.
func (s *shim) comeAgain() {
	if s.life != lifecycle.Restarting {
		return // it was stopped meanwhile
	}
	s.born, s.lost, s.hookErr, s.stopping = time.Now(), nil, nil, nil
	s.st.Boots++
	s.st.Started = time.Time{}
	if err := s.move(lifecycle.Boot, "starting machine"); err != nil {
		s.finish(lifecycle.Fail, s.st.Exit, err.Error(), err)
		return
	}
	s.begin()
}

// cancelRetry ends an instance that waits to come again. The loop's.
func (s *shim) cancelRetry() {
	s.retry.timer.Stop()
	var x *state.Exit
	if s.st.Exit != nil {
		asked := *s.st.Exit // that one has been posted
		asked.Requested = true
		x = &asked
	}
	s.finish(lifecycle.Exit, x, "stopped while it waited to be restarted", nil)
}

// outOfMemory notes that the kernel has killed in the container. The loop's.
func (s *shim) outOfMemory(o agentproto.OOM) {
	if s.life == lifecycle.Started {
		s.tell(fmt.Sprintf("out of memory: the kernel has killed %d in it", o.Kills))
		s.enter("oom", map[string]string{"kills": strconv.FormatUint(o.Kills, 10)})
	}
}

// oomPause is between two notices of memory that are passed on: the guest may send
// any number of them.
const oomPause = time.Second

// replace puts v in the place of what nobody has taken from a channel for one. It
// has one caller at a time.
func replace[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// tellOOM passes the agent's notices on, the latest of those that come at a time,
// until the agent is gone.
func (s *shim) tellOOM(agent *agentproto.Client, notices <-chan agentproto.OOM) {
	for {
		select {
		case o := <-notices:
			s.send(func() { s.outOfMemory(o) })
		case <-agent.Done():
			return
		}
		select {
		case <-time.After(oomPause):
		case <-agent.Done():
			return
		}
	}
}
