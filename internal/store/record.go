package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Stack is the record of a stack: stack.json.
type Stack struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Dir     string    `json:"dir"`   // of the stack file
	Files   []string  `json:"files"` // absolute
	Created time.Time `json:"created"`
}

// Instance is what an instance is to be: config.json. The engine writes it,
// while no shim is alive.
type Instance struct {
	Version   int             `json:"version"`
	Stack     string          `json:"stack"`
	Container string          `json:"container"`
	Name      string          `json:"name"`
	Index     int             `json:"index"`
	Spec      json.RawMessage `json:"spec"`            // the normalised declaration, as stored by spec
	Image     string          `json:"image,omitempty"` // digest
	Created   time.Time       `json:"created"`

	CPUs    int    `json:"cpus"`   // processors of the machine
	Memory  uint64 `json:"memory"` // of the machine, in bytes
	Root    string `json:"root"`   // path of the read-only root disk
	Volumes []Disk `json:"volumes,omitempty"`
	// Anonymous are the volumes that only this instance has, for its declaration or
	// its image asks for them without a name.
	Anonymous []string `json:"anonymous,omitempty"`

	Runtime     *specs.Spec   `json:"runtime"` // the OCI runtime-spec of its process
	User        string        `json:"user,omitempty"`
	StopSignal  int           `json:"stop_signal"` // Linux number
	StopTimeout time.Duration `json:"stop_timeout"`

	Devices    []Device      `json:"devices,omitempty"`
	Groups     []string      `json:"groups,omitempty"`      // of its process, beside its user's
	Nested     bool          `json:"nested,omitempty"`      // machines can be run in its machine
	Vsock      bool          `json:"vsock,omitempty"`       // its machine has virtual sockets for it
	Stdin      bool          `json:"stdin,omitempty"`       // its process reads standard input
	Init       bool          `json:"init,omitempty"`        // a small init stands before it
	OCIRuntime string        `json:"oci_runtime,omitempty"` // path in its root of what runs it; "": the agent
	BootLog    string        `json:"boot_log,omitempty"`    // host file that gets the console too
	KernelArgs []string      `json:"kernel_args,omitempty"`
	Kernel     string        `json:"kernel,omitempty"` // its id; "": the default one
	Shares     []Share       `json:"shares,omitempty"`
	Files      []File        `json:"files,omitempty"`
	Relays     []state.Relay `json:"relays,omitempty"`
	Ports      []state.Port  `json:"ports,omitempty"`
	Interfaces []Interface   `json:"interfaces,omitempty"` // eth0 is the first
	Restart    Restart       `json:"restart,omitzero"`
	Health     *Health       `json:"health,omitempty"`
	PostStart  []Hook        `json:"post_start,omitempty"`
	PreStop    []Hook        `json:"pre_stop,omitempty"`
	LogSize    int64         `json:"log_size,omitempty"`  // bytes of a log file; 0: the usual
	LogFiles   int           `json:"log_files,omitempty"` // 0: the usual
	Writable   uint64        `json:"writable,omitempty"`  // bytes of its writable layer; 0: the usual
	Seccomp    *Seccomp      `json:"seccomp,omitempty"`   // nil: the usual profile

	HostPorts []state.HostPort `json:"host_ports,omitempty"` // what it reaches of the host
}

// Seccomp is what holds for system calls of an instance: nothing, or the profile
// as it was read from its file when the record was made. At each start it is made
// into a filter for the machine of then.
type Seccomp struct {
	Unconfined bool            `json:"unconfined,omitempty"`
	Path       string          `json:"path,omitempty"` // of the file; for people
	Profile    json.RawMessage `json:"profile,omitempty"`
}

// Share is a folder or a file of the host, or a volume that is a directory, that the
// machine sees.
type Share struct {
	ID       string `json:"id"`
	Path     string `json:"path"`
	File     string `json:"file,omitempty"` // its name, where it is a file
	Make     bool   `json:"make,omitempty"` // a start makes the folder where it is missing
	ReadOnly bool   `json:"read_only,omitempty"`
	UID      uint32 `json:"uid,omitempty"` // whose the user's files are in the container
	GID      uint32 `json:"gid,omitempty"`
	Volume   bool   `json:"volume,omitempty"`  // it is a volume
	CopyUp   string `json:"copy_up,omitempty"` // of a volume, as that of a Disk
}

// Device is a device of the machine that its container has too, at Path.
type Device struct {
	Source string `json:"source"`
	Path   string `json:"path"`
}

// File is a secret or a config: where its text comes from is kept, the text is
// not, and is read at each start.
type File struct {
	ID   string `json:"id"`
	Path string `json:"path,omitempty"` // host file
	Env  string `json:"env,omitempty"`  // variable of the command that starts it
	Text string `json:"text,omitempty"` // of a config that the stack file spells out
	What string `json:"what,omitempty"` // what people call it: "secret token"
	Mode uint32 `json:"mode"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
}

// Restart is what to do when the process has ended: Policy is "" or "no",
// "always", "on-failure" or "unless-stopped"; Max bounds the attempts of
// on-failure, 0 does not.
type Restart struct {
	Policy string `json:"policy,omitempty"`
	Max    int    `json:"max,omitempty"`
}

// Health is the check of an instance's health: a process in it that ends with 0.
type Health struct {
	Args          []string      `json:"args"`
	Interval      time.Duration `json:"interval"`
	Timeout       time.Duration `json:"timeout"`
	StartPeriod   time.Duration `json:"start_period,omitempty"`
	StartInterval time.Duration `json:"start_interval,omitempty"`
	Retries       int           `json:"retries"`
}

// Hook is a process in the container at a turn of its life.
type Hook struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
	Cwd  string   `json:"cwd,omitempty"`
	User string   `json:"user,omitempty"`
}

// Disk is a named volume as a disk of the machine.
type Disk struct {
	ID       string `json:"id"`
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only,omitempty"`
	CopyUp   string `json:"copy_up,omitempty"` // directory of the root whose files an empty one gets
	Type     string `json:"type,omitempty"`    // of its filesystem; "": ext4
}

// State is what an instance is: state.json. Its shim alone writes it.
type State struct {
	Version  int             `json:"version"`
	State    lifecycle.State `json:"state"`
	Cause    string          `json:"cause,omitempty"`
	Refused  errs.Class      `json:"refused,omitempty"` // class of why the process could not be executed
	Exit     *state.Exit     `json:"exit,omitempty"`
	Started  time.Time       `json:"started,omitzero"`
	Finished time.Time       `json:"finished,omitzero"`
	Health   string          `json:"health,omitempty"`
	Stall    string          `json:"stall,omitempty"`    // why its machine stands still; "": it does not
	Restarts int             `json:"restarts,omitempty"` // by the restart policy, since it was started last
	Boots    int             `json:"boots"`
	PID      int             `json:"pid"`             // of the shim; for people
	Ports    []state.Port    `json:"ports,omitempty"` // that are open
	// Origin is how the machine of the last start came to be: "booted",
	// "restored", "prepared" or "pooled"; "" where its driver does not tell.
	Origin string  `json:"origin,omitempty"`
	Phases []Phase `json:"phases,omitempty"`
	// VsockCID is the context ID of the machine's virtual sockets; 0 where it has
	// none, or its driver does not tell.
	VsockCID uint32 `json:"vsock_cid,omitempty"`
	// Notes say what went otherwise than it should have, and was mended.
	Notes []string `json:"notes,omitempty"`
}

// Phase is a span of the last start, counted from the shim's first instruction.
type Phase struct {
	Name     string        `json:"name"`
	Start    time.Duration `json:"start"`
	Duration time.Duration `json:"duration"`
}

// WriteStack records a stack.
func (h Home) WriteStack(s Stack) error {
	s.Version = Version
	if err := durable.MkdirAll(h.Stack(s.Name)); err != nil {
		return err
	}
	return writeJSON(h.StackRecord(s.Name), s)
}

// ReadStack reads the record of a stack.
func (h Home) ReadStack(name string) (s Stack, err error) {
	err = readJSON(h.StackRecord(name), &s)
	return s, err
}

// WriteInstance records what an instance is to be. Its folder must exist.
func (h Home) WriteInstance(i Instance) error {
	i.Version = Version
	return writeJSON(filepath.Join(h.Instance(i.Stack, i.Name), "config.json"), i)
}

// ReadInstance reads it. errs.NotFound: it was never finished.
func (h Home) ReadInstance(stack, name string) (i Instance, err error) {
	err = readJSON(filepath.Join(h.Instance(stack, name), "config.json"), &i)
	return i, err
}

// WriteState records what an instance is.
func (h Home) WriteState(stack, name string, s State) error {
	s.Version = Version
	// An earlier one will do after a loss of power: no shim lives then, whatever it
	// says, and each change of it delays a start.
	path := h.state(stack, name)
	err := encode(path, s, durable.Replace)
	if errors.Is(err, syscall.ENOSPC) && overwriteJSON(path, s) == nil {
		return nil
	}
	return err
}

// ReadState reads it. Where there is none the instance never had a shim: it is
// Initialized.
func (h Home) ReadState(stack, name string) (s State, err error) {
	err = readJSON(h.state(stack, name), &s)
	if errs.Is(err, errs.NotFound) {
		return State{Version: Version, State: lifecycle.Initialized}, nil
	}
	return s, err
}

// TakeState is ReadState for who is about to write the record and holds the
// instance's lock. A record that is damaged is set aside: lost says so, and the
// state is that of an instance that has not run.
func (h Home) TakeState(stack, name string) (s State, lost string, err error) {
	s, err = h.ReadState(stack, name)
	if !Damaged(err) {
		return s, "", err
	}
	aside, aerr := SetAside(h.state(stack, name))
	if aerr != nil {
		return s, "", errors.Join(err, aerr)
	}
	return State{Version: Version, State: lifecycle.Initialized}, fmt.Sprintf("%v; it is kept as %s", err, aside), nil
}

// Began reports whether an instance ever had a shim, and so may have written
// something.
func (h Home) Began(stack, name string) bool {
	_, err := os.Lstat(h.state(stack, name))
	return !os.IsNotExist(err)
}

// ConsoleOf is the file that has the console of an instance's machines.
func (h Home) ConsoleOf(i Instance) string {
	if i.BootLog != "" {
		return i.BootLog
	}
	return h.Console(i.Stack, i.Name)
}
