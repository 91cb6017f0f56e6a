// Package agentproto is the wire between host and guest: what the host says to
// the agent, PID 1 in the machine, and what the agent answers. It carries no
// policy and no path, secret or name of the host that the guest does not need.
//
// The host dials for everything, on AgentPort: one control connection with
// calls and notices, and one connection a stream, opened by an opaque token of
// the host's choosing, before or after the call that uses it. The messages are
// JSON in the frames of internal/wire; docs/agent-protocol.md is the page for
// readers.
package agentproto

import (
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Protocol and Version are said in the greeting. A change that an older side
// would misread is a new Version.
const (
	Protocol = "vzcompose-agent"
	Version  = 1
)

// Methods of the control connection.
const (
	MethodSetup    = "setup"    // Setup → SetupResult; once in a machine's life
	MethodStart    = "start"    // Start → Started
	MethodSignal   = "signal"   // Signal → Empty
	MethodWait     = "wait"     // Wait → Exit; answers when the process has ended
	MethodRelease  = "release"  // Release → Empty; forgets an ended process
	MethodReset    = "reset"    // Reset → Empty: the machine may be set up anew
	MethodPowerOff = "poweroff" // PowerOff → Empty, then the machine ends
	MethodLog      = "log"      // Empty → Log; the kernel's ring and the agent's own
)

// Notices of the control connection.
const (
	NoticeExit = "exit" // Exit, for each process, in order of their ends
)

// Empty is no parameters, or no result.
type Empty struct{}

// Setup makes a generic machine the machine of one instance. It is declarative:
// the agent finds the order.
type Setup struct {
	// Hostname of the machine, and of the container unless its spec says other.
	Hostname string `json:"hostname"`
	// Time is the host's clock, set before anything runs. Client.Setup sets it
	// where it is zero.
	Time time.Time `json:"time"`
	// Clock is what the machine's monotonic clock showed at Time; 0: Time is now.
	Clock time.Duration `json:"clock,omitempty"`
	// Entropy is mixed into the kernel's pool and credited, before anything
	// runs: at least 32 bytes.
	Entropy []byte `json:"entropy"`
	// Root is the container's root filesystem.
	Root Root `json:"root"`
	// Volumes are disks that are mounted before the container's own mounts and
	// that these refer to as "volume:ID".
	Volumes []Volume `json:"volumes,omitempty"`
}

// Root says how the root filesystem is put together, at RootPath.
type Root struct {
	// Lower is the ID of the read-only disk with the image.
	Lower string `json:"lower"`
	// Upper is the ID of the writable ext4 disk with the instance's changes; ""
	// puts them into memory, where they are lost with the machine.
	Upper string `json:"upper,omitempty"`
}

// RootPath is where the container's root is in the machine: root.path of the
// runtime-spec.
const RootPath = "/run/vz/root"

// VolumeScheme precedes a volume's ID in a mount's source.
const VolumeScheme = "volume:"

// Volume is a disk that holds a named volume.
type Volume struct {
	ID       string `json:"id"` // of the disk
	ReadOnly bool   `json:"read_only,omitempty"`
}

// SetupResult says what the set-up cost.
type SetupResult struct {
	// Kernel is what uname says.
	Kernel string `json:"kernel"`
	// Phases in the order in which they ended.
	Phases []Phase `json:"phases"`
}

// Phase is a span of the agent's work. Start counts from the agent's first
// instruction.
type Phase struct {
	Name     string        `json:"name"`
	Start    time.Duration `json:"start"`
	Duration time.Duration `json:"duration"`
}

// Start starts a process: the container itself (Spec is set) or another in it
// (Process is set). Just one of them is.
type Start struct {
	// ID names the process from now on: 1 to 64 of [a-z0-9-]. The container's
	// own process is InitID.
	ID string `json:"id"`
	// Spec is an OCI runtime-spec. root.path is RootPath; mounts may use
	// VolumeScheme.
	Spec *specs.Spec `json:"spec,omitempty"`
	// Process is the process of the runtime-spec.
	Process *specs.Process `json:"process,omitempty"`
	// User, where set, is looked up in the container's /etc/passwd and
	// /etc/group and replaces process.user: "name", "uid", "name:group",
	// "uid:gid".
	User string `json:"user,omitempty"`
	// The tokens of the streams. "" is /dev/null.
	Stdin  string `json:"stdin,omitempty"`
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
}

// InitID is the ID of the container's own process.
const InitID = "init"

// Started answers Start.
type Started struct {
	PID int `json:"pid"` // in the machine
	// Elapsed is the time from the agent's first instruction to the exec.
	Elapsed time.Duration `json:"elapsed"`
}

// Signal sends a signal to a process.
type Signal struct {
	ID     string `json:"id"`
	Signal int    `json:"signal"`        // Linux number
	All    bool   `json:"all,omitempty"` // to every process of its cgroup
}

// Wait names the process to wait for.
type Wait struct {
	ID string `json:"id"`
}

// Release names the process to forget.
type Release struct {
	ID string `json:"id"`
}

// Exit is how a process ended.
type Exit struct {
	ID     string    `json:"id"`
	Code   int       `json:"code"`             // status, or 128+n for signal n
	Signal int       `json:"signal,omitempty"` // Linux number, where one ended it
	OOM    bool      `json:"oom,omitempty"`    // the memory limit of its cgroup was hit
	At     time.Time `json:"at"`
}

// Reset undoes Setup: what it mounted is unmounted. Every process has ended and
// been released, or it is errs.FailedPrecondition. A machine that waits for an
// instance has been through a container's life once, so that all it needs for
// that is at hand.
type Reset struct{}

// PowerOff ends the machine in order: processes get SIGKILL, filesystems are
// synced and unmounted, the power goes off.
type PowerOff struct{}

// Log is what the machine can say of itself, for an error report.
type Log struct {
	Kernel []byte `json:"kernel"` // the tail of the kernel's ring
	Agent  []byte `json:"agent"`
}
