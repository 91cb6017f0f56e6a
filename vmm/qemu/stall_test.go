//go:build linux

package qemu

import (
	"encoding/json"
	"net"
	"testing"

	"github.com/vzcompose/vzcompose/vmm"
)

// A machine is stalled from the event of a write that found no room on the host
// until it goes on; other errors are the guest's affair.
func TestStalled(t *testing.T) {
	port, guest := net.Pipe()
	defer guest.Close()
	m := newMachine(&vmm.Config{Name: "m", Disks: []vmm.Disk{{ID: "root", Path: "/r", ReadOnly: true}, {ID: "writable", Path: "/w"}}}, port, nil)
	defer m.port.Close()
	event := func(name, data string) { m.takeEvent(qmpEvent{Name: name, Data: json.RawMessage(data)}) }
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	path, changed := m.Stalled()
	event("BLOCK_IO_ERROR", `{"device":"","node-name":"disk-writable","operation":"write","action":"report","nospace":false,"reason":"Input/output error"}`)
	event("STOP", `{}`) // a pause
	event("BLOCK_IO_ERROR", `nonsense`)
	if path != "" || closed(changed) {
		t.Errorf("stalled by %q without a full disk", path)
	}
	event("BLOCK_IO_ERROR", `{"device":"","node-name":"disk-writable","operation":"write","action":"stop","nospace":true,"reason":"No space left on device"}`)
	if !closed(changed) {
		t.Error("nobody is woken")
	}
	if path, changed = m.Stalled(); path != "/w" {
		t.Errorf("stalled by %q, want /w", path)
	}
	event("RESUME", `{}`)
	if !closed(changed) {
		t.Error("nobody is woken when it goes on")
	}
	m.disks["writable"] = newDrive(vmm.Disk{ID: "writable", Path: "/other"}, 2) // another image in the drive
	event("BLOCK_IO_ERROR", `{"node-name":"disk-writable.2","action":"stop","nospace":true}`)
	if path, _ := m.Stalled(); path != "/other" {
		t.Errorf("stalled by %q, want /other", path)
	}
}
