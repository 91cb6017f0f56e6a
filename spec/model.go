// Package spec reads stack files: YAML in, a validated, resolved and normalised
// Stack out, or findings that say where and what to do. Its I/O is reading the
// files it is given and checking that named sources exist.
//
// It is a part of vzcompose, with types of internal packages in its signatures: other
// modules use package vzcompose.
package spec

import (
	"time"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// Stack is a stack file after everything in it was resolved: defaults are
// applied, paths are absolute, strings are split, names are checked.
type Stack struct {
	Name       string               `json:"name"`
	Dir        string               `json:"dir"` // absolute folder of the first file; relative paths start there
	Containers map[string]Container `json:"containers"`
	Inactive   []string             `json:"-"` // containers of the file whose profiles are not asked for; sorted
	Volumes    map[string]Volume    `json:"volumes,omitempty"`
	Secrets    map[string]Origin    `json:"secrets,omitempty"`
	Configs    map[string]Origin    `json:"configs,omitempty"`
	Networks   map[string]Network   `json:"networks,omitempty"` // those that containers are on
}

// Container is one declared container. Its JSON form is what is stored with an
// instance and diffed field by field: a field's JSON name is its key in the
// language, and every field is normal (sorted, absolute, defaulted), so that
// equal meaning is equal bytes.
type Container struct {
	Image  string  `json:"image,omitempty"`
	RootFS *RootFS `json:"rootfs,omitempty"`
	// Pull is "missing", "always" or "never"; "" for a rootfs.
	Pull string `json:"pull,omitempty"`

	// Command and Entrypoint: nil means what the image says, empty means none.
	Command     []string          `json:"command"`
	Entrypoint  []string          `json:"entrypoint"`
	Environment map[string]string `json:"environment,omitempty"`
	WorkingDir  string            `json:"working_dir,omitempty"`
	User        string            `json:"user,omitempty"`        // uid, uid:gid, name or name:group
	StopSignal  string            `json:"stop_signal,omitempty"` // "SIGTERM", "SIGRTMIN+3" or a number; "": what the image says
	// StopGracePeriod is how long the process may take between the stop signal
	// and SIGKILL. Default 10 s.
	StopGracePeriod time.Duration `json:"stop_grace_period"`

	TTY       bool `json:"tty,omitempty"`        // the process has a terminal
	StdinOpen bool `json:"stdin_open,omitempty"` // the process reads what is attached; otherwise nothing
	// Privileged gives every capability, masks no path and makes none read-only.
	Privileged      bool              `json:"privileged,omitempty"`
	CapAdd          []string          `json:"cap_add,omitempty"`  // "CAP_NET_ADMIN", or "ALL"; sorted
	CapDrop         []string          `json:"cap_drop,omitempty"` // likewise
	NoNewPrivileges bool              `json:"no_new_privileges,omitempty"`
	Seccomp         Seccomp           `json:"seccomp,omitzero"`
	OOMScoreAdj     int               `json:"oom_score_adj,omitempty"` // -1000 to 1000
	ReadOnly        bool              `json:"read_only,omitempty"`     // the root filesystem cannot be written to
	Sysctls         map[string]string `json:"sysctls,omitempty"`

	Init     bool              `json:"init,omitempty"`      // a small init stands before the process
	GroupAdd []string          `json:"group_add,omitempty"` // names of the image, or numbers
	Devices  []string          `json:"devices,omitempty"`   // "/dev/fuse", or source:destination
	Ulimits  map[string]Ulimit `json:"ulimits,omitempty"`   // by name: "nofile"
	// MaskedPaths and ReadonlyPaths: nil means the usual ones, empty means none.
	MaskedPaths   []string       `json:"masked_paths,omitzero"`
	ReadonlyPaths []string       `json:"readonly_paths,omitzero"`
	ShmSize       uint64         `json:"shm_size,omitempty"` // bytes; 0: 64 MiB
	WritableLayer *WritableLayer `json:"writable_layer,omitempty"`
	Overhead      *Overhead      `json:"overhead,omitempty"`
	Kernel        *Kernel        `json:"kernel,omitempty"`
	// Virtualization lets machines be run in the machine.
	Virtualization bool `json:"virtualization,omitempty"`
	// Vsock gives the machine virtual sockets for the container.
	Vsock bool `json:"vsock,omitempty"`
	// OCIRuntime is the path in the container's root of the OCI runtime that runs
	// it; "": the agent does.
	OCIRuntime string `json:"oci_runtime,omitempty"`

	Sockets []Socket            `json:"sockets,omitempty"`
	Secrets []Given             `json:"secrets,omitempty"`
	Configs []Given             `json:"configs,omitempty"`
	Hosts   map[string][]string `json:"hosts,omitempty"` // names by address
	DNS     *DNS                `json:"dns,omitempty"`

	// Interfaces: empty means none but lo. It is never nil: a container that says
	// nothing is on the network DefaultNetwork.
	Interfaces []Interface `json:"interfaces,omitzero"`
	Ports      []Port      `json:"ports,omitempty"`
	Expose     []string    `json:"expose,omitempty"` // "80", "3000-3005", "53/udp"; for people
	// HostPorts are ports of the host's loopback that the container reaches, in
	// the form of Expose. Nothing else of the host can be reached.
	HostPorts []string `json:"host_ports,omitempty"`

	HealthCheck *HealthCheck `json:"healthcheck,omitempty"`
	Hooks       *Hooks       `json:"hooks,omitempty"`
	Logging     *Logging     `json:"logging,omitempty"`
	BootLog     string       `json:"boot_log,omitempty"` // absolute path of the host

	// CPUs is the limit of the container in CPUs, at least 0.01; the machine has
	// that many processors, rounded up, at most what the host has.
	CPUs float64 `json:"cpus"`
	// Memory is the limit of the container in bytes. The machine gets more.
	Memory uint64 `json:"memory"`

	// ContainerName names the one instance; "": InstanceName does.
	ContainerName string `json:"container_name,omitempty"`

	Hostname  string                `json:"hostname,omitempty"` // "": the instance's name
	Mounts    []Mount               `json:"mounts,omitempty"`
	DependsOn map[string]Dependency `json:"depends_on,omitempty"`
	Restart   Restart               `json:"restart"`
	Replicas  int                   `json:"replicas"`
	Labels    map[string]string     `json:"labels,omitempty"`
}

// RootFS names a root filesystem that is not an image: exactly one field is set.
type RootFS struct {
	Tar       string `json:"tar,omitempty"`       // absolute path of a (compressed) tar
	Directory string `json:"directory,omitempty"` // absolute path of a folder
	Block     string `json:"block,omitempty"`     // absolute path of a raw ext4 or erofs image
}

// Mount is one entry of mounts, in the order of the file.
type Mount struct {
	// Type is "bind", "volume", "tmpfs", "block", or a filesystem type of the guest's kernel as
	// in the OCI runtime-spec ("proc", "sysfs", ...).
	Type        string   `json:"type"`
	Source      string   `json:"source,omitempty"` // a volume's name, "": each instance has its own; absolute for "bind" and "block"
	Destination string   `json:"destination"`      // absolute, clean
	Options     []string `json:"options,omitempty"`
	// CreateHostPath is false where the source of a bind must be there; nil: it is
	// made as a folder where it is missing.
	CreateHostPath *bool `json:"create_host_path,omitempty"`
	// External: the volume is one that no stack owns.
	External bool `json:"external,omitempty"`
}

// CreatesHostPath reports whether the mount's source is made where it is missing.
func (m Mount) CreatesHostPath() bool { return m.Type == "bind" && m.CreateHostPath == nil }

// Dependency says when a dependent may start.
type Dependency struct {
	Condition Condition `json:"condition"`
	Required  bool      `json:"required"` // false: go on without it where it is not there or fails
	Restart   bool      `json:"restart"`  // restart the dependent when the dependency is replaced
}

// Condition is what a dependent waits for.
type Condition string

// The conditions. Compose's "service_" names mean the same and are normalised.
const (
	ConditionStarted   Condition = "started"
	ConditionHealthy   Condition = "healthy"
	ConditionCompleted Condition = "completed"
)

// Restart is the restart policy: "no", "always", "on-failure", "unless-stopped".
type Restart struct {
	Policy string `json:"policy"`
	Max    int    `json:"max,omitempty"` // attempts of on-failure; 0: no limit
}

// Ulimit is a limit of setrlimit(2); the highest number is none.
type Ulimit struct {
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Seccomp says which system calls the container may make; zero: those of the
// default profile, or all where it is privileged.
type Seccomp struct {
	// Profile is the absolute path of a profile, or SeccompUnconfined.
	Profile string `json:"profile,omitempty"`
	// Digest is the SHA-256 of the profile's file, in hexadecimal: a profile that
	// was edited is another one.
	Digest string `json:"digest,omitempty"`
}

// SeccompUnconfined is no profile at all.
const SeccompUnconfined = "unconfined"

// WritableLayer is what the container writes beside its mounts.
type WritableLayer struct {
	Size uint64 `json:"size,omitempty"` // bytes; 0: 16 GiB
}

// Overhead is what the machine has beside what the container may use. Zero is
// the usual.
type Overhead struct {
	CPUs   int    `json:"cpus,omitempty"`
	Memory uint64 `json:"memory,omitempty"` // bytes
}

// Socket is a unix socket that stands for a server on the other side. The
// container's end may be a port of virtual sockets instead: "vsock:5000".
type Socket struct {
	Direction   string `json:"direction"` // "out_of": the server is in the container; "into": it is on the host
	Source      string `json:"source"`    // absolute, of the server's side
	Destination string `json:"destination"`
	Mode        uint32 `json:"mode,omitempty"` // of the socket at the destination; 0: 0600
}

// Given is a secret or a config as a container has it: a file in memory.
type Given struct {
	Source string `json:"source"`
	Target string `json:"target"` // absolute, in the container
	UID    uint32 `json:"uid,omitempty"`
	GID    uint32 `json:"gid,omitempty"`
	Mode   uint32 `json:"mode"`
	Origin Origin `json:"origin"`
}

// Origin is where the text of a secret or a config comes from: exactly one field
// is set. The text itself is read at each start.
type Origin struct {
	File        string `json:"file,omitempty"`        // absolute path of the host
	Environment string `json:"environment,omitempty"` // variable of who starts the instance
	Content     string `json:"content,omitempty"`     // of a config only
}

// DNS is what /etc/resolv.conf says.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// HealthCheck says whether an instance is healthy. What is zero is what the image
// says, or else the default.
type HealthCheck struct {
	// Test is "CMD" and a command, "CMD-SHELL" and a script, or "NONE": there is
	// no check, whatever the image says.
	Test          []string      `json:"test"`
	Interval      time.Duration `json:"interval"`
	Timeout       time.Duration `json:"timeout"`
	Retries       int           `json:"retries"`
	StartPeriod   time.Duration `json:"start_period,omitempty"`
	StartInterval time.Duration `json:"start_interval,omitempty"` // 0: Interval
}

// noCheck is the test of a health check that is none.
const noCheck = "NONE"

// None reports whether there is to be no check.
func (h *HealthCheck) None() bool { return h != nil && len(h.Test) > 0 && h.Test[0] == noCheck }

// Checked reports whether instances of the container have a health check, where
// image says whether its image has one.
func (c Container) Checked(image bool) bool {
	h := c.HealthCheck
	return !h.None() && (h != nil && len(h.Test) > 0 || image)
}

// Hooks are processes in the container at a turn of its life.
type Hooks struct {
	PostStart []Hook `json:"post_start,omitempty"` // after its process was started
	PreStop   []Hook `json:"pre_stop,omitempty"`   // before the stop signal
}

// Hook is one of them.
type Hook struct {
	Command     []string          `json:"command"`
	User        string            `json:"user,omitempty"`
	WorkingDir  string            `json:"working_dir,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
}

// Logging bounds what is kept of what a container says. Zero is the usual.
type Logging struct {
	MaxSize  uint64 `json:"max_size,omitempty"` // bytes of one file
	MaxFiles int    `json:"max_files,omitempty"`
}

// Volume is a declared named volume. In a Stack it stands under its own name, which
// may be another than that in the file.
type Volume struct {
	Size uint64 `json:"size,omitempty"` // bytes the guest sees, a multiple of 4096; 0: it is external
	// External volumes are no stack's: "vzcompose volume create" makes them, and
	// they stay when the stack goes.
	External bool `json:"external,omitempty"`

	name string // in a file: what it is called outside of it; "": its key
}

// Network is a declared network of the stack. Of Subnet and Gateway there is at
// most one of IPv4, which comes first, and one of IPv6.
type Network struct {
	Subnet   []string `json:"subnet,omitempty"`  // prefixes; none: one of IPv4 is chosen
	Gateway  []string `json:"gateway,omitempty"` // addresses; none: the first of each subnet
	Internal bool     `json:"internal,omitempty"`
	MTU      int      `json:"mtu,omitempty"` // bytes; 0: 1280
}

// Interface is a container's place on a network: eth0 is the first.
type Interface struct {
	Network string   `json:"network"`
	Address []string `json:"address,omitempty"` // with the length of the subnet's prefix; one of each kind, none: chosen
	Gateway string   `json:"gateway,omitempty"` // an address or "none"; "": the network's
	MAC     string   `json:"mac,omitempty"`     // "": follows from the address
	MTU     int      `json:"mtu,omitempty"`     // bytes; 0: the network's
	Aliases []string `json:"aliases,omitempty"` // sorted
}

// Port is a port of the host that leads to one of the container.
type Port struct {
	Target int `json:"target"`
	// Published is the port of the host: one, a range of which one is taken, or
	// zeros for any that is free.
	Published [2]int `json:"published,omitzero"`
	HostIP    string `json:"host_ip"`
	Protocol  string `json:"protocol"` // "tcp" or "udp"
}

// Options say where a stack comes from.
type Options struct {
	// Files are the stack files in order; "-" is Stdin. Empty: the first of the
	// known names in Dir or a folder above it.
	Files []string
	// Name overrides the stack's name.
	Name string
	// Dir is where the search for a file starts; with Files it is what relative
	// paths of the stack start at, in place of the folder of the first file.
	Dir string
	// Stdin is read for the file "-".
	Stdin []byte
	// Over is one more stack file, which is laid over the others: what the command
	// line says. Findings call it OverName.
	Over     []byte
	OverName string
	// Platform is what machines of the host run: "linux/amd64". "": it is not
	// known, and no container is refused for its own.
	Platform string
	// Profiles have the containers that name one of them in the stack; "*": all.
	// Empty: those of VZCOMPOSE_PROFILES.
	Profiles []string
	// Named containers are in the stack whatever their profiles, with what they
	// cannot be without. One that there is not is ignored.
	Named []string
	// EnvFiles are read in place of .env; a later one goes before an earlier one.
	// Empty: those that COMPOSE_ENV_FILES lists.
	EnvFiles []string
	// PublishOffset is added to each port of the host that the files fix.
	PublishOffset int
	// PublishAddress is where a port is opened that a file in Compose's dialect
	// gives no address: an address of the host; "": AllAddresses.
	PublishAddress string
	// LookupEnv answers variables for ${VAR} and for names of environment that
	// have no value; .env beside the first file is consulted after it. Nil: none.
	LookupEnv func(string) (string, bool)
}

// Loaded is a stack and what was noticed on the way (warnings).
type Loaded struct {
	Stack    *Stack
	Files    []string // absolute paths read, in order; "-" is Stdin
	Profiles []string // all that the files name; sorted
	Findings diag.Findings
	// Ports are the places of Container.Ports, by container.
	Ports map[string][]Place
}
