//go:build linux

package guest

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/users"
)

// orders are what the agent tells the stage. They are built new from an
// allow-list of what the host sent, validated.
type orders struct {
	Container *containerOrders `json:"container,omitempty"` // nil: join the container
	Process   processOrders    `json:"process"`
	// Late is written shortly before the execve, to the descriptor for it: what
	// must hold for the process and not for the stage. "" is nothing.
	Late string `json:"late,omitempty"`
}

// containerOrders are how the container is set up around its first process.
type containerOrders struct {
	Root          string                `json:"root"` // in the machine
	ReadOnly      bool                  `json:"read_only,omitempty"`
	Propagation   uintptr               `json:"propagation,omitempty"` // of "/", MS_REC included
	Namespaces    uintptr               `json:"namespaces"`            // clone(2) flags; that of pids is made at the fork
	Hostname      string                `json:"hostname,omitempty"`
	Domainname    string                `json:"domainname,omitempty"`
	Mounts        []mountOrder          `json:"mounts,omitempty"`
	Devices       []deviceOrder         `json:"devices,omitempty"`
	wanted        []agentproto.Device   // of the machine's; added to Devices before the stage has its orders
	Masked        []string              `json:"masked,omitempty"`
	ReadOnlyPaths []string              `json:"read_only_paths,omitempty"`
	Sysctls       []sysctl              `json:"sysctls,omitempty"`
	resources     *specs.LinuxResources // the agent's business
	// Of a container that an OCI runtime runs; the agent's business, too.
	runtimePath string
	asked       *specs.Spec
	runtime     *ociRuntime
}

type deviceOrder struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"` // of mknod(2), type included
	Dev  uint64 `json:"dev"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
}

type sysctl struct {
	Path  string `json:"path"` // below /proc/sys
	Value string `json:"value"`
}

// processOrders are how one process is made.
type processOrders struct {
	Args            []string       `json:"args"`
	Env             []string       `json:"env,omitempty"`
	Cwd             string         `json:"cwd"`
	User            string         `json:"user,omitempty"`   // to look up; "": Identity is it
	Groups          []string       `json:"groups,omitempty"` // to look up, beside those of User
	Identity        users.Identity `json:"identity"`
	Umask           int            `json:"umask"`
	Caps            capSets        `json:"caps"`
	NoNewPrivileges bool           `json:"no_new_privileges,omitempty"`
	Filter          *filter        `json:"filter,omitempty"` // nil: every system call
	Rlimits         []rlimit       `json:"rlimits,omitempty"`
	OOMScoreAdj     *int           `json:"oom_score_adj,omitempty"`
	// Init has this process stay as the parent of the one that is ordered.
	Init bool `json:"init,omitempty"`
	// Hold has this process wait for the last of its orders before it gives up
	// rights.
	Hold bool `json:"hold,omitempty"`
	// Terminal, where set, is a terminal of the container for its streams.
	Terminal *terminalOrder `json:"terminal,omitempty"`
}

type rlimit struct {
	Resource int    `json:"resource"`
	Soft     uint64 `json:"soft"`
	Hard     uint64 `json:"hard"`
}
