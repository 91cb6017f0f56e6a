// Package state is the observed World: what is there now, as data. The engine
// fills it (Observe), the planner and the ui read it. It does no I/O.
package state

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
)

// World is one stack as it was found.
type World struct {
	Stack     string
	Instances []Instance // sorted by Name
	Volumes   []Volume   // named volumes that exist, sorted by Name
	External  []Volume   // volumes that exist and no stack owns, sorted by Name
	Networks  []Network  // that exist, sorted by Name
	Images    []Image    // what the references of the stack resolve to locally, sorted by Ref

	// Damage says which records beside those of instances cannot be read, and what
	// is not known for that, a line each.
	Damage []string
}

// Instance is one replica of one container, as its record, its lock and its
// shim show it.
type Instance struct {
	Container string `json:"container"` // the declared name: "web"
	Name      string `json:"name"`      // "web-1"
	Index     int    `json:"index"`     // from 1; 0: a one-off of run

	State  lifecycle.State `json:"state"`
	Health string          `json:"health,omitempty"` // "", "starting", "healthy", "unhealthy"
	Stall  string          `json:"stall,omitempty"`  // why its machine stands still though nobody paused it: "host disk full: PATH"
	Cause  string          `json:"cause,omitempty"`  // why it is Stopped or Errored, in the user's words
	Exit   *Exit           `json:"exit,omitempty"`   // set once the process ended

	// Spec is the normalised, versioned declaration it was made from, as
	// spec.EncodeContainer wrote it.
	Spec  json.RawMessage `json:"spec,omitempty"`
	Image string          `json:"image,omitempty"` // digest of the image it was made from; "" for a rootfs

	Created  time.Time `json:"created,omitzero"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Restarts int       `json:"restarts,omitempty"` // by its restart policy, since it was started last
	Boots    int       `json:"boots,omitempty"`    // how often a machine was booted for it
	PID      int       `json:"pid,omitempty"`      // of the shim, for the reader only; never a sign of life
	Ports    []Port    `json:"ports,omitempty"`    // of the host that lead to it, while it has a shim

	// Broken says why what it was made from is not known: its record cannot be
	// read, or is not there. State is that of its shim then, or Errored where it
	// has none.
	Broken string `json:"broken,omitempty"`
	// Unfinished: it was never finished being created, so that nothing can have
	// been written by it.
	Unfinished bool `json:"unfinished,omitempty"`
}

// Exit is how a process ended.
type Exit struct {
	Code   int       `json:"code"`             // its status, or 128+n for signal n
	Signal string    `json:"signal,omitempty"` // "SIGKILL" where a signal ended it
	OOM    bool      `json:"oom,omitempty"`    // the memory limit ended it
	Full   bool      `json:"full,omitempty"`   // its writable layer had no space left
	At     time.Time `json:"at"`
	// Requested: it ended because it was told to (stop, down), so that a Code of
	// 0 does not mean that its work is done.
	Requested bool `json:"requested,omitempty"`
}

// Kinds of volumes.
const (
	Disk      = "disk"      // one machine at a time has it, or any number read it
	Directory = "directory" // of the host, which any number of machines share
)

// Volume is a volume that exists.
type Volume struct {
	Name string `json:"name"`
	// Instance is whose it is, where it is one that the image asks for and nobody
	// named; "": it is a named one.
	Instance string `json:"instance,omitempty"`
	Kind     string `json:"kind"` // Disk or Directory
	Size     int64  `json:"size"` // bytes the guest sees of a disk
	// Least is the smallest size that may be declared to have one of Size; 0: Size.
	Least int64 `json:"-"`
}

// Network is a network that exists, as it was declared. Of Subnet and Gateway
// there is what was said, not what was chosen.
type Network struct {
	Name     string   `json:"name"`
	Subnet   []string `json:"subnet,omitempty"`
	Gateway  []string `json:"gateway,omitempty"`
	Internal bool     `json:"internal,omitempty"`
	MTU      int      `json:"mtu,omitempty"` // bytes; 0: the usual
}

// Image is what a reference means locally.
type Image struct {
	Ref     string `json:"ref"`
	Digest  string `json:"digest"`
	Checked bool   `json:"checked,omitempty"` // it has a check of its health
}

// Port is a port of the host that leads to one of the container.
type Port struct {
	Target int `json:"target"`
	// Published is the port of the host: one, or as it is declared a range of which
	// one is taken; zeros are any.
	Published [2]int `json:"published"`
	HostIP    string `json:"host_ip"`
	Protocol  string `json:"protocol"` // "tcp" or "udp"
}

// AllAddresses is the HostIP of a port that is open at every address of the host, as
// spec has it.
const AllAddresses = "*"

// Listen returns the network and the address, as package net has them, at which the
// port is opened at at. An address of one family is that family's alone: net would
// open 0.0.0.0 and :: for both.
func (p Port) Listen(at int) (network, address string) {
	a, err := netip.ParseAddr(p.HostIP)
	if err != nil { // AllAddresses: both families, or the one that the host has
		return p.Protocol, ":" + strconv.Itoa(at)
	}
	family := "6"
	if a.Is4() {
		family = "4"
	}
	return p.Protocol + family, netip.AddrPortFrom(a, uint16(at)).String()
}

// Reached is an address at which this host reaches the port.
func (p Port) Reached() string {
	a, err := netip.ParseAddr(p.HostIP)
	if err != nil {
		a = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(a, uint16(p.Published[0])).String()
}

// Overlaps reports whether two ports cannot be open beside each other.
func (p Port) Overlaps(o Port) bool {
	return p.Published == o.Published && p.Protocol == o.Protocol && overlap(p.HostIP, o.HostIP)
}

func overlap(one, other string) bool {
	if one == other || one == AllAddresses || other == AllAddresses {
		return true
	}
	a, aerr := netip.ParseAddr(one)
	b, berr := netip.ParseAddr(other)
	return aerr == nil && berr == nil && a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// String is the port as people write it: "127.0.0.1:8080->80/tcp".
func (p Port) String() string {
	at := strconv.Itoa(p.Published[0])
	if p.Published[1] != p.Published[0] {
		at += "-" + strconv.Itoa(p.Published[1])
	}
	host := p.HostIP
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%s->%d/%s", host, at, p.Target, p.Protocol)
}

// HostPort is ports of the host's loopback that a container reaches.
type HostPort struct {
	Low      uint16 `json:"low"`
	High     uint16 `json:"high"`
	Protocol string `json:"protocol"` // "tcp" or "udp"
}

// Relay is a unix socket on one side that stands for a server on the other.
type Relay struct {
	// Direction is "out_of": the server is in the container at Source, and
	// Destination is a path of the host; or "into": the server is on the host at
	// Source, and Destination is a path in the container. The container's end may
	// be a port of virtual sockets, "vsock:5000"; Mode and the owner are of paths.
	Direction   string `json:"direction"`
	Source      string `json:"source"`        // absolute, or a port
	Destination string `json:"destination"`   // absolute, or a port
	Mode        uint32 `json:"mode"`          // permission bits of Destination
	UID         uint32 `json:"uid,omitempty"` // owner of Destination in the container
	GID         uint32 `json:"gid,omitempty"`
}

// vsockScheme begins the end of a relay that is a port.
const vsockScheme = "vsock:"

// VsockPort returns the port at the container's end; ok is false where that is a
// path. What begins as a port and is none is 0.
func (r Relay) VsockPort() (port uint32, ok bool) {
	end := r.Destination
	if r.Direction == "out_of" {
		end = r.Source
	}
	text, ok := strings.CutPrefix(end, vsockScheme)
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		n = 0
	}
	return uint32(n), ok
}
