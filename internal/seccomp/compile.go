package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/net/bpf"
)

// Target is what a filter is for.
type Target struct {
	// Arch is the machine's, as Go has it.
	Arch string
	// Kernel is the machine's, as uname says it. One that is not known is taken
	// for a new one.
	Kernel string
	// Caps are the container's capabilities: "CAP_CHOWN".
	Caps []string
	// Vsock: the machine has virtual sockets for the container.
	Vsock bool
}

// Filter is a profile as the kernel takes it.
type Filter struct {
	// Program is an array of struct sock_filter in the machine's byte order, which
	// is little-endian on all that there are.
	Program []byte
	// Flags are for seccomp(2): FlagLog, FlagSpecAllow.
	Flags uint32
}

// MaxInstructions is how long a program may be (BPF_MAXINSNS).
const MaxInstructions = 4096

// instructionSize is that of a struct sock_filter, in bytes.
const instructionSize = 8

// errExecve says that nothing could be executed.
var errExecve = errors.New("it refuses execve: nothing could be started")

// Compile makes the filter of a profile. It fails where the profile has execve
// refused, for then the container's own process cannot be executed, and where
// the program is longer than the kernel takes.
func Compile(p *Profile, t Target) (*Filter, error) {
	program, err := p.assemble(t)
	if err != nil {
		return nil, err
	}
	f := &Filter{Flags: p.flags}
	for _, i := range program {
		f.Program = binary.LittleEndian.AppendUint16(f.Program, i.Op)
		f.Program = append(f.Program, i.Jt, i.Jf)
		f.Program = binary.LittleEndian.AppendUint32(f.Program, i.K)
	}
	return f, nil
}

func (p *Profile) assemble(t Target) ([]bpf.RawInstruction, error) {
	own, ok := archOf(t.Arch)
	if !ok || own.compat == "" {
		return nil, fmt.Errorf("no machine has the architecture %s", quoted(t.Arch))
	}
	rules := p.rulesFor(t)
	table := own.table()
	all := []section{{own, own.spans(table, p, rules)}}
	if !all[0].lets(table["execve"]) {
		return nil, errExecve
	}
	if compat, ok := archOf(own.compat); ok && slices.Contains(p.arches, compat.name) {
		all = append(all, section{compat, compat.spans(compat.table(), p, rules)})
	}
	program := programOf(all)
	if len(program) > MaxInstructions {
		return nil, fmt.Errorf("its program has %d instructions; the kernel takes at most %d", len(program), MaxInstructions)
	}
	return bpf.Assemble(program)
}

// rulesFor answers the rules that hold for t.
func (p *Profile) rulesFor(t Target) (all []rule) {
	kernel, err := parseVersion(t.Kernel)
	if err != nil { // who builds a kernel may call it anything
		kernel = version{math.MaxInt, 0}
	}
	for _, r := range p.rules {
		// What is refused anyway has nothing to say: a rule that lets it through may
		// still come.
		if len(r.args) == 0 && r.action == p.otherwise {
			continue
		}
		if r.includes.all(t, kernel) && !r.excludes.any(t, kernel) {
			all = append(all, r)
		}
	}
	return all
}

// all reports whether everything in the condition is so. Of architectures one is
// enough.
func (c *condition) all(t Target, kernel version) bool {
	for _, n := range c.caps {
		if !slices.Contains(t.Caps, n) {
			return false
		}
	}
	return (len(c.arches) == 0 || slices.Contains(c.arches, t.Arch)) && !kernel.before(c.kernel)
}

// any reports whether something in the condition is so.
func (c *condition) any(t Target, kernel version) bool {
	for _, n := range c.caps {
		if slices.Contains(t.Caps, n) {
			return true
		}
	}
	return c.vsock && t.Vsock || slices.Contains(c.arches, t.Arch) || c.kernel != version{} && !kernel.before(c.kernel)
}

// clause is one line of what is decided about a call: where all comparisons fit,
// the action.
type clause struct {
	args   []comparison // of different arguments
	action Action
}

// span is a row of calls about which the same is decided, up to the next span's
// first. The last clause has no comparison.
type span struct {
	first   uint32
	clauses []clause
}

// spans answers what is decided about every number, in their order.
func (a arch) spans(table map[string]uint32, p *Profile, rules []rule) []span {
	newest := uint32(0) // of those that the profile knows
	for _, r := range p.rules {
		for _, name := range r.calls {
			if n := table[name]; n < privateCalls {
				newest = max(newest, n)
			}
		}
	}
	decided := map[uint32][]clause{}
	for _, r := range rules {
		for _, name := range r.calls {
			if n, ok := table[name]; ok {
				decided[n] = r.decide(decided[n])
			}
		}
	}
	otherwise := clause{action: p.otherwise}
	of := func(n uint32) []clause {
		switch own := decided[n]; {
		case a.name == "amd64" && n >= x32Bit:
			return []clause{{action: refuse | enosys}}
		case n > newest && own == nil && !p.otherwise.lets():
			// What the profile's author did not know of. Libraries try what is new and
			// take ENOSYS for "do it the old way", where EPERM would be an error.
			return []clause{{action: refuse | enosys}}
		case len(own) > 0 && len(own[len(own)-1].args) == 0:
			return own
		default:
			return append(slices.Clip(own), otherwise)
		}
	}
	edges := []uint32{0, newest + 1, x32Bit}
	for n := range decided {
		edges = append(edges, n, n+1)
	}
	slices.Sort(edges)
	var all []span
	for _, n := range slices.Compact(edges) {
		if s := of(n); len(all) == 0 || !slices.EqualFunc(all[len(all)-1].clauses, s, clause.same) {
			all = append(all, span{n, s})
		}
	}
	return all
}

// decide adds what the rule says about a call behind what others said.
func (r *rule) decide(before []clause) []clause {
	if n := len(before); n > 0 && len(before[n-1].args) == 0 {
		return before // nothing is left to decide
	}
	var seen [arguments]bool
	for _, c := range r.args {
		if seen[c.index] {
			// One argument twice means either, as libseccomp's users have it.
			for _, c := range r.args {
				before = append(before, clause{[]comparison{c}, r.action})
			}
			return before
		}
		seen[c.index] = true
	}
	return append(before, clause{r.args, r.action})
}

func (c clause) same(o clause) bool { return c.action == o.action && slices.Equal(c.args, o.args) }

// lets reports whether there is a way for the call of a number to be carried out.
func (s *section) lets(number uint32) bool {
	for i := len(s.spans) - 1; i >= 0; i-- {
		if s.spans[i].first <= number {
			return slices.ContainsFunc(s.spans[i].clauses, func(c clause) bool { return c.action.lets() })
		}
	}
	return false
}
