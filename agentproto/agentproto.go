// Package agentproto is the wire between host and guest: what the host says to
// the agent, PID 1 in the machine, and what the agent answers. It carries no
// policy and no path, secret or name of the host that the guest does not need.
//
// The host dials for everything, on AgentPort: one control connection with
// calls and notices, and one connection a stream, opened by an opaque token of
// the host's choosing, before or after the call that uses it. The messages are
// JSON in the frames of internal/wire; docs/agent-protocol.md is the page for
// readers.
//
// It is a part of vzcompose, with types of internal packages in its signatures: other
// modules use package vzcompose.
package agentproto

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Protocol and Version are said in the greeting. A change that an older side
// would misread is a new Version.
const (
	Protocol = "vzcompose-agent"
	Version  = 2
)

// Methods of the control connection.
const (
	MethodSetup    = "setup"    // Setup → SetupResult; once in a machine's life
	MethodStart    = "start"    // Start → Started
	MethodGo       = "go"       // Go → Started; of a container that was started held
	MethodSignal   = "signal"   // Signal → Empty
	MethodWait     = "wait"     // Wait → Exit; answers when the process has ended
	MethodRelease  = "release"  // Release → Empty; forgets an ended process
	MethodReset    = "reset"    // Reset → Empty: the machine may be set up anew
	MethodPowerOff = "poweroff" // PowerOff → Empty, then the machine ends
	MethodLog      = "log"      // Empty → Log; the kernel's ring and the agent's own
	MethodResize   = "resize"   // Resize → Empty; the size of a process's terminal
	MethodClock    = "clock"    // Clock → Empty; after the machine was held
	MethodStats    = "stats"    // Empty → Stats
	MethodTop      = "top"      // Empty → Top; the container's processes
	MethodStat     = "stat"     // Stat → FileInfo; of a file in the container
	MethodRead     = "read"     // Read → Empty; a tar of what is at a path, on a stream
	MethodWrite    = "write"    // Write → Empty; unpacks a tar from a stream
	MethodRelay    = "relay"    // Relay → Empty; a socket in the container, from now on
	MethodUnrelay  = "unrelay"  // Unrelay → Empty; no longer
)

// Notices of the control connection.
const (
	NoticeExit     = "exit"     // Exit, for each process, in order of their ends
	NoticeOOM      = "oom"      // OOM, for each time that the kernel killed for memory
	NoticeAccepted = "accepted" // Accepted, for each connection to a relay's socket
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
	// Shares are folders or files of the host that are mounted like volumes and
	// that mounts refer to as "share:ID".
	Shares []Share `json:"shares,omitempty"`
	// Files are put on a tmpfs of the machine; mounts refer to them as "file:ID".
	Files []File `json:"files,omitempty"`
	// Interfaces are up, with their addresses and routes, before anything runs.
	// Beside them there is lo.
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// Interface is a network interface of the machine.
type Interface struct {
	// Device is the MAC by which the machine's network card is found.
	Device string `json:"device"`
	// Name it gets: eth0.
	Name string `json:"name"`
	// MAC it gets.
	MAC string `json:"mac"`
	// MTU in bytes.
	MTU int `json:"mtu"`
	// Addresses with the length of their subnets' prefixes. An interface without
	// one of IPv6 has no IPv6 at all.
	Addresses []netip.Prefix `json:"addresses"`
	// Gateways of default routes, each within the subnet of an address.
	Gateways []netip.Addr `json:"gateways,omitempty"`
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

// These precede the ID of a volume, a share or a file in a mount's source. Such
// a mount is a bind.
const (
	VolumeScheme = "volume:"
	ShareScheme  = "share:"
	FileScheme   = "file:"
)

// Volume is a disk that holds a named volume.
type Volume struct {
	ID       string `json:"id"` // of the disk
	ReadOnly bool   `json:"read_only,omitempty"`
	// CopyUp, where set, is the path in the root whose files the volume gets if
	// it is empty: they are copied with owners, modes and times.
	CopyUp string `json:"copy_up,omitempty"`
	// Type of the filesystem of a disk that is no volume of ours: all of it is
	// mounted. "auto": ext4 or erofs, as the disk tells. "": one of ours.
	Type string `json:"type,omitempty"`
}

// Share is a virtio-fs of the machine.
type Share struct {
	ID       string `json:"id"` // its tag
	ReadOnly bool   `json:"read_only,omitempty"`
	// File is the name of the only file in a share of a single file, and then
	// what a mount binds; "" binds the share's folder.
	File string `json:"file,omitempty"`
	// Volume: it holds a volume that other machines may have too. What a mount binds
	// is its directory "data".
	Volume bool `json:"volume,omitempty"`
	// CopyUp means the same as that of a Volume. Only the first machine copies.
	CopyUp string `json:"copy_up,omitempty"`
}

// File is a secret, a config, or another small file that the host gives. All of
// a set-up's files are at most MaxFiles bytes.
type File struct {
	ID   string `json:"id"` // 1 to 64 of [a-z0-9-]
	Data []byte `json:"data"`
	Mode uint32 `json:"mode"` // permission bits
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// MaxFiles is what the files of a set-up come to at most, in bytes.
const MaxFiles = 512 << 10

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
	// Groups are looked up likewise, and are supplementary groups beside those
	// that the user has: names or numbers.
	Groups []string `json:"groups,omitempty"`
	// Devices are devices of the machine that the container has too. Init only.
	Devices []Device `json:"devices,omitempty"`
	// Filter is what holds for system calls of the container's processes; nil is
	// nothing. Init only: further processes have it too.
	Filter *Filter `json:"filter,omitempty"`
	// Unfiltered has it not hold for this further process.
	Unfiltered bool `json:"unfiltered,omitempty"`
	// Init puts a small init of ours before the container's process: it is its
	// parent, passes signals on and reaps orphans.
	Init bool `json:"init,omitempty"`
	// Runtime, where set, is the path in the container's root of an OCI runtime
	// that runs the container in the agent's place. Init only.
	Runtime string `json:"runtime,omitempty"`
	// Hold makes the container, and its process up to where it gives up rights and
	// is executed, which Go has it do. Its arguments and variables are told then.
	Hold bool `json:"hold,omitempty"`
	// The tokens of the streams. "" is /dev/null. With process.terminal Stdin is
	// what is typed, Stdout what is shown, and Stderr is "".
	Stdin  string `json:"stdin,omitempty"`
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
}

// Device is a device of the machine, beneath its /dev, that is to be at Path in
// the container. Everybody may open it who can reach it.
type Device struct {
	Source string `json:"source"`
	Path   string `json:"path"`
}

// Filter is a program for seccomp(2).
type Filter struct {
	// Program is an array of struct sock_filter in the machine's byte order, at
	// most MaxFilter bytes.
	Program []byte `json:"program"`
	// Flags are SECCOMP_FILTER_FLAG_LOG and SPEC_ALLOW.
	Flags uint32 `json:"flags,omitempty"`
}

// MaxFilter is what the kernel takes (BPF_MAXINSNS), in bytes.
const MaxFilter = 4096 * 8

// Go makes the machine, in which a container is held, that of one instance, and
// lets the container's process go. It says what Setup and Start could not, since
// the machine was saved after them and is more than one by now.
type Go struct {
	// Hostname, Time, Clock and Entropy are those of Setup.
	Hostname string        `json:"hostname"`
	Time     time.Time     `json:"time"`
	Clock    time.Duration `json:"clock,omitempty"`
	Entropy  []byte        `json:"entropy"`
	// Files take the place of what those of Setup hold, by ID; IDs, modes and
	// owners are as they were.
	Files []File `json:"files,omitempty"`
	// Interfaces give those of Setup, by name, their MACs, addresses and gateways.
	Interfaces []Interface `json:"interfaces,omitempty"`
	// Args and Env of the process.
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
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
	// Group sends it to the process's group too. Every process that Start starts
	// leads one.
	Group bool `json:"group,omitempty"`
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
	Full   bool      `json:"full,omitempty"`   // of the container's own: its writable layer had no space left
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

// Resize sets the size of a process's terminal, in characters.
type Resize struct {
	ID   string `json:"id"`
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Clock sets the machine's wall clock.
type Clock struct {
	Time time.Time `json:"time"`
}

// Stats is what the container uses. Counters are since the container's start.
type Stats struct {
	Processes      int           `json:"processes"`
	ProcessesLimit uint64        `json:"processes_limit"` // 0: none
	Memory         uint64        `json:"memory"`          // bytes, without inactive page cache
	MemoryCache    uint64        `json:"memory_cache"`    // bytes of page cache
	MemoryPeak     uint64        `json:"memory_peak"`     // bytes; 0: the kernel does not tell
	MemoryLimit    uint64        `json:"memory_limit"`    // bytes; 0: none
	CPU            time.Duration `json:"cpu"`             // time on CPUs
	CPUUser        time.Duration `json:"cpu_user"`
	CPUSystem      time.Duration `json:"cpu_system"`
	CPUThrottled   time.Duration `json:"cpu_throttled"`
	OOMKills       uint64        `json:"oom_kills"`
	BlockRead      uint64        `json:"block_read"`    // bytes
	BlockWritten   uint64        `json:"block_written"` // bytes
	WritableUsed   uint64        `json:"writable_used"` // bytes of the writable layer
	WritableSize   uint64        `json:"writable_size"` // bytes
	Networks       []NetStats    `json:"networks,omitempty"`
	At             time.Time     `json:"at"` // of the machine's clock
}

// NetStats is what went through an interface of the machine, lo excepted.
type NetStats struct {
	Name            string `json:"name"`
	Received        uint64 `json:"received"` // bytes
	ReceivedPackets uint64 `json:"received_packets"`
	Sent            uint64 `json:"sent"` // bytes
	SentPackets     uint64 `json:"sent_packets"`
}

// Top lists the container's processes.
type Top struct {
	Processes []TopProcess `json:"processes"`
}

// TopProcess is one of them. IDs are those that the container sees; 0 where it
// sees none.
type TopProcess struct {
	PID     int           `json:"pid"`
	PPID    int           `json:"ppid"`
	UID     uint32        `json:"uid"`
	State   string        `json:"state"` // the letter of proc(5)
	Started time.Time     `json:"started"`
	CPU     time.Duration `json:"cpu"`
	RSS     uint64        `json:"rss"` // bytes
	Command string        `json:"command"`
}

// Stat asks for a file of the container, as its own process would see it.
type Stat struct {
	Path string `json:"path"` // absolute
}

// FileInfo describes a file.
type FileInfo struct {
	Name  string `json:"name"`   // its last element
	Mode  uint32 `json:"mode"`   // of io/fs: type and permission bits; a link is not followed
	Size  int64  `json:"size"`   // bytes
	Link  string `json:"link"`   // what a symbolic link says
	IsDir bool   `json:"is_dir"` // it is a directory, or a link to one
}

// Read sends a tar of a file or a tree. The answer comes when all of it was
// written to the stream.
type Read struct {
	Path   string `json:"path"`
	Stream string `json:"stream"` // token
	// Follow has a symbolic link at Path itself followed; within a tree none is.
	Follow bool `json:"follow,omitempty"`
}

// Write unpacks a tar below a directory that exists. Nothing is written outside
// of it, whatever the tar and links in the container say.
type Write struct {
	Path   string `json:"path"`
	Stream string `json:"stream"` // token
	// KeepOwner keeps the owners of the tar; otherwise all is the container's
	// root's.
	KeepOwner bool `json:"keep_owner,omitempty"`
}

// Direction of a relay.
type Direction string

const (
	OutOf Direction = "out_of" // the server is in the container: host streams are connected to it
	Into  Direction = "into"   // the server is on the host: the container connects, the host takes it
)

// Relay is a unix socket in the container. It goes with the container's process.
//
// OutOf: each stream that the host opens with the token RelayToken(ID) is
// connected to Path, or aborted with why not. Into: the agent listens at Path,
// says NoticeAccepted for each connection, and the host opens a stream with the
// token in it.
type Relay struct {
	ID        string    `json:"id"` // 1 to 64 of [a-z0-9-]
	Direction Direction `json:"direction"`
	Path      string    `json:"path"`           // absolute, of any length
	Mode      uint32    `json:"mode,omitempty"` // permission bits of an Into socket; 0: 0600
	UID       uint32    `json:"uid,omitempty"`  // its owner
	GID       uint32    `json:"gid,omitempty"`
}

// RelayToken is the token of a stream to an OutOf relay.
func RelayToken(id string) string { return "relay:" + id }

// PortToken is the token of a stream to a port of the container: protocol is
// "tcp", or "udp", whose datagrams are framed as package relay does.
func PortToken(protocol string, port int) string { return protocol + ":" + strconv.Itoa(port) }

// ParsePortToken is the inverse of PortToken; ok is false where it is another
// token.
func ParsePortToken(token string) (protocol string, port int, ok bool) {
	protocol, text, ok := strings.Cut(token, ":")
	if !ok || protocol != "tcp" && protocol != "udp" {
		return "", 0, false
	}
	port, err := strconv.Atoi(text)
	return protocol, port, err == nil && port >= 1 && port <= 65535
}

// Unrelay ends a relay, and the connections that it carries. Twice is fine.
type Unrelay struct {
	ID string `json:"id"`
}

// Accepted is a connection to an Into relay that waits for the host.
type Accepted struct {
	Relay string `json:"relay"`
	Token string `json:"token"`
}

// OOM says that the kernel has killed in a container's cgroup for its limit.
type OOM struct {
	Kills uint64    `json:"kills"` // since the container's start
	At    time.Time `json:"at"`
}
