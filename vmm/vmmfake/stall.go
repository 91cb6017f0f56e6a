package vmmfake

import (
	"context"
	"sync"

	"github.com/vzcompose/vzcompose/vmm"
)

var _ vmm.Staller = (*Machine)(nil)

// stall is whether the machine stands still because its host has no room.
type stall struct {
	mu      sync.Mutex // guards the following
	full    string     // path of the disk for which there is no room; "": there is
	path    string     // of what it is stalled by; "": it goes on
	changed chan struct{}
	tried   int // Proceeds
}

func (s *stall) setLocked(path string) {
	s.path = path
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
	m.stall.setLocked(path)
}

// Free makes room again.
func (m *Machine) Free() {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	m.stall.full = ""
}

// Stalled implements vmm.Staller.
func (m *Machine) Stalled() (string, <-chan struct{}) {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	if m.stall.changed == nil {
		m.stall.changed = make(chan struct{})
	}
	return m.stall.path, m.stall.changed
}

// Proceed implements vmm.Staller. Without room the machine goes on and is stalled
// again.
func (m *Machine) Proceed(context.Context) error {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	m.stall.tried++
	m.stall.setLocked("")
	if m.stall.full != "" {
		m.stall.setLocked(m.stall.full)
	}
	return nil
}

// Proceeds returns how often somebody has let the machine go on.
func (m *Machine) Proceeds() int {
	m.stall.mu.Lock()
	defer m.stall.mu.Unlock()
	return m.stall.tried
}

// awaitGoing blocks while the machine is stalled.
func (m *Machine) awaitGoing() {
	for {
		path, changed := m.Stalled()
		if path == "" {
			return
		}
		select {
		case <-changed:
		case <-m.ctx.Done():
			return
		}
	}
}
