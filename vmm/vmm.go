// Package vmm is what a virtual machine is to vzcompose: a Config that decides
// everything before the machine exists, a Driver that boots it, and a Machine
// that can be dialled. It is pure data and interfaces and compiles everywhere;
// the drivers are vmm/qemu, vmm/vz and the in-memory vmm/vmmfake, and all pass
// the suite vmm/vmmtest.
//
// A machine is generic: nothing of the instance it serves may be in its kernel,
// initramfs or command line, so that a driver is free to restore it from a
// saved template, and to attach the disks afterwards.
package vmm

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// AgentPort is the vsock port on which the agent in a machine listens.
const AgentPort = 1024

// Config describes one machine. Paths are of the host and never cross to the
// guest. A driver does not change or keep it.
type Config struct {
	// Name is for process titles and error texts; the guest does not see it.
	Name string
	// CPUs is the number of virtual processors, at least 1.
	CPUs int
	// Memory is the machine's RAM in bytes, a multiple of 1 MiB.
	Memory uint64
	// Kernel is the path of an uncompressed kernel image for the host's
	// architecture: an ELF vmlinux on amd64, an Image on arm64.
	Kernel string
	// Initramfs is the path of the initial root: the agent as /init and the
	// modules it loads.
	Initramfs string
	// KernelArgs are added to the driver's own kernel command line.
	KernelArgs []string
	// Console is the path of the file to which the machine's console is
	// appended; "" discards it.
	Console string
	// Nested asks for processors on which the guest can run machines itself;
	// errs.Unsupported where the host has none.
	Nested bool
	// Cold asks that the machine be booted by its kernel, also where the driver
	// could restore it from a template.
	Cold bool
	// Progress hears what Boot is about, where that takes long; may be nil. It is
	// called on Boot's goroutine and must not block.
	Progress func(text string)
	// Disks are there when Boot returns or soon after; the agent finds them by
	// their ID and waits for them.
	Disks []Disk
	// Shares are folders of the host, there when Boot returns or soon after; the
	// agent finds them by their ID and waits for them.
	Shares []Share
	// Vsock asks for virtual sockets for the container, there when Boot returns or
	// soon after; the host has them by Vsocker.
	Vsock bool
	// Cards is how many network cards the machine has at least, at most MaxCards.
	// The guest knows card i by CardMAC(i), and gives it the address that it is
	// to have; the host has its frames by Networker.
	Cards int
	// Prepared names what a Preparer has brought a machine like this to, where
	// Boot may restore that: its Trace says if it has. Each writable disk then
	// holds what it did at that moment, and what it held before is lost. "": an
	// empty machine is wanted.
	Prepared string
}

// MaxCards is how many network cards a machine can have.
const MaxCards = 4

// CardMAC is the address that network card i has until the guest gives it
// another. It is the same in every machine.
func CardMAC(i int) net.HardwareAddr { return net.HardwareAddr{0x02, 0x56, 0xff, 0, 0, byte(i)} }

// Networker is the optional ability of a machine to have network cards.
type Networker interface {
	// Frames answers the host's end of card i: a Unix datagram socket on which
	// each datagram is an Ethernet frame. The machine owns it and keeps it open
	// until it is gone, so that who reads frames may come and go; who uses it in
	// another process has a descriptor of its own. errs.NotFound where there is no
	// such card.
	Frames(i int) (*os.File, error)
}

// Share is a folder of the host, or one file of it, that the guest mounts as
// virtio-fs.
type Share struct {
	// ID is the tag by which the guest knows it: 1 to 20 of [a-z0-9-], unique in
	// the machine.
	ID string
	// Path on the host, absolute. A symbolic link is followed when the machine is
	// made, not later. Where it is a file, the share is a folder in which that
	// file alone can be seen, under its own name.
	Path string
	// ReadOnly is enforced on the host.
	ReadOnly bool
	// Owners is a folder in which a driver that is not root remembers the owners that
	// the guest gives; "": nothing is remembered.
	Owners string
	// UID and GID are whose the files of the user who runs the driver are in the
	// guest, unless the guest gave them to others, or the driver is root's.
	UID, GID uint32
	// Coherent: other machines change it too, and the guest sees at once what they
	// do. A driver that cannot have it so leaves it to the guest.
	Coherent bool
}

// Pauser is the optional ability to hold a machine's processors. What was on its
// way stays; the guest's clocks stand still.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// LockBreaker is the optional ability of a machine whose guest cannot interrupt a
// process that waits for a lock on a share.
type LockBreaker interface {
	// BreakLockWaits ends all waits for locks on shares, now and from now on. It is for
	// a machine whose processes have been killed: others would see an error that no
	// program expects.
	BreakLockWaits()
}

// Staller is the optional ability of a machine to be stopped where the host has
// no room for what it writes to a disk. Nothing is lost: the guest is told
// nothing, and the write is tried again when the machine goes on.
type Staller interface {
	// Stalled returns the path of the disk for which there is no room, "" while
	// the machine is not stopped for that, and a channel that is closed at the next
	// change.
	Stalled() (path string, changed <-chan struct{})
	// Proceed lets the machine go on. Where there is still no room it is stopped
	// again. Processors that Pause holds go on too.
	Proceed(ctx context.Context) error
}

// Disk is a raw disk image.
type Disk struct {
	// ID is the serial number by which the guest knows it: 1 to 20 of
	// [a-z0-9-], unique in the machine.
	ID string
	// Path of the raw image on the host.
	Path string
	// ReadOnly is enforced on the host. Several machines may share a read-only
	// disk; a writable one belongs to one machine at a time.
	ReadOnly bool
}

// Driver makes machines.
type Driver interface {
	// Check answers what this driver cannot do of cfg, without side effects:
	// errs.InvalidArgument or errs.Unsupported.
	Check(cfg *Config) error
	// Boot makes a machine and lets it run. It returns once the machine exists;
	// the agent is there when Dial to AgentPort succeeds. On error nothing is
	// left behind. ctx bounds Boot itself, not the machine's life.
	Boot(ctx context.Context, cfg *Config) (Machine, error)
}

// Machine is one running machine. Whoever booted it must call Kill (or Stop)
// and Wait. All methods may be called at any time from any goroutine; after the
// machine's end, Dial and Listen answer errs.Unavailable.
type Machine interface {
	// Dial connects to a guest vsock port. While the guest's driver is not up
	// it waits, until ctx ends; a port on which nobody listens is
	// errs.Unavailable at once. The caller owns the connection. Half-close is
	// not available on every driver: protocols carry their own end-of-stream.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen takes connections that the guest makes to a host port.
	Listen(port uint32) (net.Listener, error)
	// Stop ends the machine from outside (power off for the driver's process)
	// and waits until it is gone, or ctx ends. For an orderly end the agent is
	// asked first; this is not that.
	Stop(ctx context.Context) error
	// Kill ends the machine at once. It is idempotent and does not wait.
	Kill() error
	// Wait answers when the machine is gone, to every caller the same, for
	// ever: nil after a power-off by the guest or Stop or Kill, otherwise what
	// went wrong with it. If ctx ends first, ctx's error; of a machine that is
	// gone the answer comes first, whatever ctx is.
	Wait(ctx context.Context) error
}

// As finds an optional ability of m, or of a machine that it wraps and answers
// by Unwrap.
func As[T any](m Machine) (ability T, ok bool) {
	for m != nil {
		if ability, ok = m.(T); ok {
			return ability, true
		}
		w, wraps := m.(interface{ Unwrap() Machine })
		if !wraps {
			break
		}
		m = w.Unwrap()
	}
	return ability, false
}

// Attacher is the optional ability to plug a disk into a running machine.
type Attacher interface {
	AttachDisk(ctx context.Context, d Disk) error
	DetachDisk(ctx context.Context, id string) error
}

// Adopter is the optional ability of a machine that was booted ahead of need to
// become the one of a Config.
type Adopter interface {
	// Adopt gives the machine the Console and the Disks of cfg: those with an ID
	// that it has already take the place of what it had under it, which the guest
	// must not be using; the others are attached. All else of cfg must be as at
	// Boot, and Name does not matter. After an error the machine is of no use.
	Adopt(ctx context.Context, cfg *Config) error
}

// Tracer is the optional ability of a machine to say how it came to be.
type Tracer interface {
	Trace() Trace
}

// Trace is how a machine came to be.
type Trace struct {
	// Origin is how it came to be.
	Origin Origin
	// Phases of Boot, in their order.
	Phases []Phase
	// Notes say what went otherwise than it should have, and was mended: a
	// template that was damaged, and made anew.
	Notes []string
}

// Origin of a machine.
type Origin string

const (
	Booted   Origin = "booted"   // by its kernel
	Restored Origin = "restored" // from a template
	Prepared Origin = "prepared" // from the template of what Config.Prepared names
	Pooled   Origin = "pooled"   // restored ahead of need
)

// Phase is a span of the work of Boot. Start counts from its call.
type Phase struct {
	Name            string
	Start, Duration time.Duration
}

// Templater is the optional ability of a driver to keep templates: machines
// booted once and saved, from which others are restored. Boot makes and uses
// them by itself; this is to see them and to make them ahead.
type Templater interface {
	// Templates lists what is there, the one used last first.
	Templates() ([]Template, error)
	// Prewarm makes the template for machines like cfg if it is not there. Name,
	// Console, Disks and Cold of cfg do not matter.
	Prewarm(ctx context.Context, cfg *Config) (Template, error)
	// RemoveTemplate deletes one, by its ID; errs.NotFound. Machines restored
	// from it do not miss it.
	RemoveTemplate(id string) error
}

// Preparer is the optional ability of a Templater to keep templates of machines
// that have been brought further than to an agent that answers.
type Preparer interface {
	// Prepare makes the template for machines like cfg, of which cfg.Prepared names
	// what ready brings them to, if it is not there. ready has the agent do all of
	// that, and returns when nothing is open any more to the machine; the agent
	// says then, by the console, that the machine may be saved. cfg's writable disks
	// are used up.
	Prepare(ctx context.Context, cfg *Config, ready func(context.Context, Machine) error) (Template, error)
	// Discard deletes that template, of which a machine was made that turned out to
	// be of no use. One that is not there is no error.
	Discard(ctx context.Context, cfg *Config) error
}

// Template describes one.
type Template struct {
	ID      string    `json:"id"`
	CPUs    int       `json:"cpus"`
	Memory  uint64    `json:"memory"` // of a machine, in bytes
	Kernel  string    `json:"kernel"` // path of the image
	Root    string    `json:"root"`   // path of the root disk of prepared machines; "": of empty ones
	Size    int64     `json:"size"`   // on disk, in bytes
	Made    time.Time `json:"made"`
	Used    time.Time `json:"used"`    // last
	Problem string    `json:"problem"` // why it is of no use; "": it is sound as far as was looked
}

// Prober is the optional ability of a driver to report at once, without starting
// anything, what keeps it from running machines on this host.
type Prober interface {
	Probe() error
}

// Describer is the optional ability of a driver to say what it found on this
// host. It is for `vzcompose doctor`.
type Describer interface {
	Describe(ctx context.Context) Description
}

// Description is what a driver can do on this host.
type Description struct {
	Driver       string   `json:"driver"`       // "qemu"
	Version      string   `json:"version"`      // of the program or framework behind it; "" where missing
	Acceleration string   `json:"acceleration"` // "kvm", "tcg", "hvf"
	Reason       string   `json:"reason"`       // why that acceleration
	Problems     []string `json:"problems"`     // what keeps it from working
	Remedy       string   `json:"remedy"`       // the one command that mends the first of them
}

// Check answers what is wrong with c for any driver.
func (c *Config) Check() error {
	switch {
	case c.CPUs < 1:
		return errs.New(errs.InvalidArgument, "machine with %d cpus", c.CPUs)
	case c.Memory == 0 || c.Memory%(1<<20) != 0:
		return errs.New(errs.InvalidArgument, "machine memory of %d bytes is not a multiple of 1 MiB", c.Memory)
	case c.Kernel == "" || c.Initramfs == "":
		return errs.New(errs.InvalidArgument, "machine without a kernel or an initramfs")
	case c.Cards < 0 || c.Cards > MaxCards:
		return errs.New(errs.InvalidArgument, "machine with %d network cards; it can have %d", c.Cards, MaxCards)
	}
	seen := map[string]bool{}
	for _, d := range c.Disks {
		if err := d.Check(); err != nil {
			return err
		}
		if seen[d.ID] {
			return errs.New(errs.InvalidArgument, "two disks with the id %q", d.ID)
		}
		seen[d.ID] = true
	}
	for _, h := range c.Shares {
		if err := h.Check(); err != nil {
			return err
		}
		if seen[h.ID] {
			return errs.New(errs.InvalidArgument, "two disks or shares with the id %q", h.ID)
		}
		seen[h.ID] = true
	}
	return nil
}

// Check answers what is wrong with h for any driver.
func (h Share) Check() error {
	if !filepath.IsAbs(h.Path) {
		return errs.New(errs.InvalidArgument, "share %q of %q, which is not an absolute path", h.ID, h.Path)
	}
	return checkID("share", h.ID)
}

// Check answers what is wrong with d for any driver.
func (d Disk) Check() error {
	if d.Path == "" {
		return errs.New(errs.InvalidArgument, "disk %q without a path", d.ID)
	}
	return checkID("disk", d.ID)
}

func checkID(what, id string) error {
	ok := len(id) >= 1 && len(id) <= 20
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return errs.New(errs.InvalidArgument, "%s id %q is not 1 to 20 of [a-z0-9-]", what, id)
	}
	return nil
}
