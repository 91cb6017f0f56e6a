package vmmfake

import (
	"context"
	"sync"

	"github.com/vzcompose/vzcompose/vmm"
)

var (
	_ vmm.Staller = (*Machine)(nil)
	_ vmm.Pauser  = (*Machine)(nil)
)

// stall is whether the machine stands still: because its host has no room, or
// because it is paused.
type stall struct {
	mu      sync.Mutex // guards the following
	full    string     // path of the disk for which there is no room; "": there is
	path    string     // of what it is stalled by; "": it goes on
	paused  bool
	changed chan struct{}
	tried   int // Proceeds
}

// setLocked says by what the machine is stalled and whether it is paused.
func (s *stall) setLocked(path string, paused bool) {
	s.path, s.paused = path, paused
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// Fill has a write to the disk at path find no room on the host: nothing in the
// machine goes on until there is room again and somebody lets it proceed.
func (m *Machine) Fill(path string) {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	m.stall.full = path
	m.stall.setLocked(path, m.stall.paused)
}

// Free makes room again.
func (m *Machine) Free() {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	m.stall.full = ""
}

// Stalled implements vmm.Staller.
func (m *Machine) Stalled() (string, <-chan struct{}) {
	path, _, changed := m.stall.read()
	return path, changed
}

func (s *stall) read() (path string, paused bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.path, s.paused, s.changed
}

// Proceed implements vmm.Staller. Without room the machine goes on and is stalled
// again.
func (m *Machine) Proceed(context.Context) error {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	m.stall.tried++
	m.stall.goOnLocked()
	return nil
}

func (s *stall) goOnLocked() {
	s.setLocked("", false)
	if s.full != "" {
		s.setLocked(s.full, false)
	}
}

// Proceeds returns how often somebody has let the machine go on.
func (m *Machine) Proceeds() int {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	return m.stall.tried
}

// Pause implements vmm.Pauser: nothing in the machine goes on. It fails with the
// error of Options.Pause, and the machine is paused all the same.
func (m *Machine) Pause(context.Context) error {
	if m.ctx.Err() != nil {
		return m.unavailable("pause")
	}
	m.stall.mu.Lock()
	m.stall.setLocked(m.stall.path, true)
	m.stall.mu.Unlock()
	if fn := m.driver.o.Pause; fn != nil {
		return fn(m)
	}
	return nil
}

// Resume implements vmm.Pauser.
func (m *Machine) Resume(context.Context) error {
	if m.ctx.Err() != nil {
		return m.unavailable("resume")
	}
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	m.stall.goOnLocked()
	return nil
}

// Paused reports whether somebody has paused the machine.
func (m *Machine) Paused() bool {
	_, paused, _ := m.stall.read()
	return paused
}

// awaitGoing blocks while the machine stands still.
func (m *Machine) awaitGoing() {
	for {
		path, paused, changed := m.stall.read()
		if path == "" && !paused {
			return
		}
		select {
		case <-changed:
		case <-m.ctx.Done():
			return
		}
	}
}
