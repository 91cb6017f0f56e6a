//go:build linux

package qemu

import (
	"context"
	"encoding/json"
)

// stall is whether QEMU has stopped the machine because a write to one of its
// disks found no room on the host. That is QEMU's default for a disk of virtio
// (werror=enospc): the write waits, and is tried again when the machine goes on.
// To the guest nothing has happened, where an error would have its filesystem
// shut down.
type stall struct {
	path    string        // of the disk's image; "": it is not stopped
	changed chan struct{} // closed and replaced at each change; nil: nobody waits
}

// set is for a change of what is there.
func (s *stall) set(path string) {
	if s.path == path {
		return
	}
	s.path = path
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// takeIOError records the event BLOCK_IO_ERROR (QEMU's qapi/block-core.json).
// Errors of other classes are the guest's to handle: QEMU reports them to it.
func (m *machine) takeIOError(data json.RawMessage) {
	var d struct {
		Node    string `json:"node-name"`
		Action  string `json:"action"`
		NoSpace bool   `json:"nospace"`
	}
	if json.Unmarshal(data, &d) != nil || d.Action != "stop" || !d.NoSpace {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	path := "a disk of the machine" // one that was just swapped has no name here yet
	for id, drive := range m.disks {
		if drive.node(id) == d.Node {
			path = drive.path
		}
	}
	m.stall.set(path)
}

// takeResume records that the machine goes on, whoever had it do so.
func (m *machine) takeResume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stall.set("")
}

// Stalled implements vmm.Staller.
func (m *machine) Stalled() (path string, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stall.changed == nil {
		m.stall.changed = make(chan struct{})
	}
	return m.stall.path, m.stall.changed
}

// Proceed implements vmm.Staller.
func (m *machine) Proceed(ctx context.Context) error { return m.hold(ctx, "cont") }
