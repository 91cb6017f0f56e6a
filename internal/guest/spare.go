//go:build linux

package guest

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// spare is the stage that is started ahead of the container's start: to start the agent's binary anew is most of what the
// start of a process costs.
type spare struct {
	// ready is closed once the stage waits for orders, or none will.
	ready chan struct{}
	// taken is closed once the stage is another's business, or may not be any more.
	taken chan struct{}

	mu    sync.Mutex    // held while the stage is forked; guards the following
	stage *stageProcess // nil: there is none
}

func newSpare() *spare {
	return &spare{ready: make(chan struct{}), taken: make(chan struct{})}
}

// take answers the stage, which is the caller's from then on, or nil where
// there is none. There will be no other one.
func (s *spare) take() *stageProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.taken:
	default:
		close(s.taken)
	}
	st := s.stage
	s.stage = nil
	return st
}

// spawn starts the stage, nil if nobody wants it any more.
func (s *spare) spawn(r *reaper, exe string) (*stageProcess, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.taken:
		return nil, nil
	default:
	}
	var err error
	s.stage, err = spawnStage(r, exe, nil)
	return s.stage, err
}

// keepSpare starts the stage of s and keeps it until it is taken. It is called
// once for each. Without a spare stage the start of the container makes one.
func (a *agent) keepSpare(s *spare) {
	st, err := s.spawn(a.reaper, a.exe)
	if err == nil && st != nil {
		err = a.drill(st)
	}
	close(s.ready)
	if err == nil && st != nil {
		select {
		case <-s.taken:
		case <-st.child.reaped:
			err = errs.New(errs.Internal, "it has ended (%s)", describe(st.child.status))
		}
	}
	if err != nil {
		a.spareFailed(s, err)
	}
}

// spareFailed drops the stage, unless it is another's business by now.
func (a *agent) spareFailed(s *spare, err error) {
	select {
	case <-s.taken:
		return
	default:
	}
	a.log.printf("the spare stage: %v", err)
	if st := s.take(); st != nil {
		st.drop()
	}
}

// drill makes the stage st and the agent do once, with sample orders, what they
// will do with the real ones, and returns when st waits for those.
func (a *agent) drill(st *stageProcess) error {
	o, err := a.sampleOrders()
	if err != nil {
		return fmt.Errorf("make sample orders: %w", err)
	}
	file, err := writeOrders(o)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // the stage has its own
	h := handover{slotOrders: file}
	if err := h.send(st.socket, handDrill); err != nil {
		return err
	}
	_ = st.socket.SetReadDeadline(time.Now().Add(startLimit)) // a socket has one
	if _, err := st.socket.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("await the answer to sample orders: %w", err)
	}
	return nil
}

// sampleStart has every part that the start of a container usually has.
const sampleStart = `{"id":"init","stdin":"a","stdout":"b","stderr":"c","filter":{"program":"BgAAAAAA/38="},"spec":{"ociVersion":"1.2.0","hostname":"a",
"root":{"path":"` + agentproto.RootPath + `"},
"process":{"user":{"uid":0,"gid":0},"args":["a"],"env":["A=b"],"cwd":"/",
"capabilities":{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"]},
"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]},
"mounts":[{"destination":"/a","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]}],
"linux":{"resources":{"memory":{"limit":1},"cpu":{"quota":1,"period":1}},"cgroupsPath":"/a",
"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"},{"type":"cgroup"}],
"maskedPaths":["/a"],"readonlyPaths":["/a"]}}}`

// sampleOrders makes orders of sampleStart as if the host had sent it.
func (a *agent) sampleOrders() (*orders, error) {
	var s agentproto.Start
	if err := json.Unmarshal([]byte(sampleStart), &s); err != nil {
		return nil, err
	}
	return a.order(s)
}
