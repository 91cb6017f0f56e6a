package store

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Version of the records. A reader refuses any other.
const Version = 1

// maxRecord bounds a record, in bytes.
const maxRecord = 8 << 20

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
	// Anonymous are the volumes that only this instance has, for its image asks for
	// them.
	Anonymous []string `json:"anonymous,omitempty"`

	Runtime     *specs.Spec   `json:"runtime"` // the OCI runtime-spec of its process
	User        string        `json:"user,omitempty"`
	StopSignal  int           `json:"stop_signal"` // Linux number
	StopTimeout time.Duration `json:"stop_timeout"`

	Devices    []Device      `json:"devices,omitempty"`
	Groups     []string      `json:"groups,omitempty"`      // of its process, beside its user's
	Nested     bool          `json:"nested,omitempty"`      // machines can be run in its machine
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
}

// Seccomp is what holds for system calls of an instance: nothing, or the profile
// as it was read from its file when the record was made. At each start it is made
// into a filter for the machine of then.
type Seccomp struct {
	Unconfined bool            `json:"unconfined,omitempty"`
	Path       string          `json:"path,omitempty"` // of the file; for people
	Profile    json.RawMessage `json:"profile,omitempty"`
}

// Share is a folder or a file of the host that the machine sees.
type Share struct {
	ID       string `json:"id"`
	Path     string `json:"path"`
	File     string `json:"file,omitempty"` // its name, where it is a file
	ReadOnly bool   `json:"read_only,omitempty"`
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

// Launch is what a shim is told at its start, on its standard input.
type Launch struct {
	Home      Home     `json:"home"`
	Instance  Instance `json:"instance"`
	Kernel    string   `json:"kernel"`
	Initramfs string   `json:"initramfs"`
	Cold      bool     `json:"cold,omitempty"`  // its machine is booted, not restored
	Spare     bool     `json:"spare,omitempty"` // its machine waits for another Launch
	// Retire, told to a spare, ends it; nothing else is in such a Launch.
	Retire bool `json:"retire,omitempty"`
	// Hold is the container that a spare holds for whoever wants it; nil: none.
	Hold *Launch `json:"hold,omitempty"`
	// Prepare: its machine is saved, and that is all.
	Prepare bool `json:"prepare,omitempty"`
	// Switch is the command that becomes the switch of a stack.
	Switch []string `json:"switch,omitempty"`
	// Attended: its process waits until somebody is attached to it.
	Attended bool `json:"attended,omitempty"`
	// Env are the variables that the instance's files come from, by name. They are
	// passed on, and never written down.
	Env map[string]string `json:"env,omitempty"`
	// Filter is the program for system calls of the container (agentproto.Filter),
	// with its flags; none: nothing is refused.
	Filter      []byte `json:"filter,omitempty"`
	FilterFlags uint32 `json:"filter_flags,omitempty"`
	// Templates is the folder of what machines are restored from, and
	// TemplatesLimit its bound in bytes.
	Templates      string `json:"templates"`
	TemplatesLimit uint64 `json:"templates_limit"`
}

// State is what an instance is: state.json. Its shim alone writes it.
type State struct {
	Version  int             `json:"version"`
	State    lifecycle.State `json:"state"`
	Cause    string          `json:"cause,omitempty"`
	Exit     *state.Exit     `json:"exit,omitempty"`
	Started  time.Time       `json:"started,omitzero"`
	Finished time.Time       `json:"finished,omitzero"`
	Health   string          `json:"health,omitempty"`
	Restarts int             `json:"restarts,omitempty"` // by the restart policy, since it was started last
	Boots    int             `json:"boots"`
	PID      int             `json:"pid"`             // of the shim; for people
	Ports    []state.Port    `json:"ports,omitempty"` // that are open
	// Origin is how the machine of the last start came to be: "booted",
	// "restored" or "pooled"; "" where its driver does not tell.
	Origin string  `json:"origin,omitempty"`
	Phases []Phase `json:"phases,omitempty"`
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
	if err := os.MkdirAll(h.Stack(s.Name), 0o700); err != nil {
		return err
	}
	return writeJSON(filepath.Join(h.Stack(s.Name), "stack.json"), s)
}

// ReadStack reads the record of a stack.
func (h Home) ReadStack(name string) (s Stack, err error) {
	err = readJSON(filepath.Join(h.Stack(name), "stack.json"), &s)
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
	return writeJSON(filepath.Join(h.Instance(stack, name), "state.json"), s)
}

// ReadState reads it. Where there is none the instance never had a shim: it is
// Initialized.
func (h Home) ReadState(stack, name string) (s State, err error) {
	err = readJSON(filepath.Join(h.Instance(stack, name), "state.json"), &s)
	if errs.Is(err, errs.NotFound) {
		return State{Version: Version, State: lifecycle.Initialized}, nil
	}
	return s, err
}

// ListStacks answers the names of the stacks that have a folder, sorted.
func (h Home) ListStacks() ([]string, error) { return folders(h.Stacks()) }

// ListInstances answers the names of a stack's instances that have a folder,
// half-made ones too, sorted.
func (h Home) ListInstances(stack string) ([]string, error) { return folders(h.Stack(stack)) }

func folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// LockInstance takes the lock that a live shim holds, and leaves the number of
// this process in its file.
func (h Home) LockInstance(stack, name string) (*filelock.Lock, error) {
	l, err := filelock.Try(filepath.Join(h.Instance(stack, name), "lock"))
	if err != nil {
		return nil, err
	}
	if err := l.Sign(); err != nil {
		l.Release()
		return nil, err
	}
	return l, nil
}

// Owner answers the process that holds an instance's lock. It means something
// only while Alive is true.
func (h Home) Owner(stack, name string) (pid int, err error) {
	return filelock.Signed(filepath.Join(h.Instance(stack, name), "lock"))
}

// Alive reports whether an instance has a shim.
func (h Home) Alive(stack, name string) (bool, error) {
	return filelock.Held(filepath.Join(h.Instance(stack, name), "lock"))
}

// RemoveInstance deletes an instance's folder, its record first, so that what
// is left by an interruption is seen as half-made.
func (h Home) RemoveInstance(stack, name string) error {
	dir := h.Instance(stack, name)
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.RemoveAll(dir)
}

// RemoveStack deletes a stack's folder where no instance is left in it.
func (h Home) RemoveStack(name string) error {
	left, err := h.ListInstances(name)
	if err != nil || len(left) > 0 {
		return err
	}
	return os.RemoveAll(h.Stack(name))
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return errs.New(errs.Internal, "encode %s: %w", filepath.Base(path), err)
	}
	return WriteFile(path, append(b, '\n'))
}

// WriteFile puts b at path, whole or not at all, with mode 0600.
func WriteFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the write's error is the one to tell
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return errs.New(errs.DataLoss, "%s is larger than %d bytes", path, maxRecord)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&head); err != nil {
		return errs.New(errs.DataLoss, "%s cannot be read: %w", path, err)
	}
	if head.Version != Version {
		return errs.New(errs.Unsupported, "%s has version %d, this program reads %d", path, head.Version, Version)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errs.New(errs.DataLoss, "%s cannot be read: %w", path, err)
	}
	return nil
}

// LockStack takes the lock under which a stack is changed, and waits for whom
// has it until ctx ends; waiting (may be nil) is told once. The stack's folder
// is made.
func (h Home) LockStack(ctx context.Context, name string, waiting func()) (*filelock.Lock, error) {
	if err := os.MkdirAll(h.Stack(name), 0o700); err != nil {
		return nil, err
	}
	l, err := filelock.Try(h.stackLock(name))
	if !errs.Is(err, errs.FailedPrecondition) {
		return l, err
	}
	if waiting != nil {
		waiting()
	}
	return filelock.Wait(ctx, h.stackLock(name))
}

// ConsoleOf is the file that has the console of an instance's machines.
func (h Home) ConsoleOf(i Instance) string {
	if i.BootLog != "" {
		return i.BootLog
	}
	return h.Console(i.Stack, i.Name)
}
