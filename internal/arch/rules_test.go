package arch

// row is one room: which rooms its code may import, paths relative to the
// module. What is not listed is forbidden; tests may import what they need.
type row struct {
	imports []string
	// pure: data and functions only, so that the same inputs always give the
	// same result and a test needs nothing but values.
	pure bool
	// prints: may write to the process's stdout and stderr.
	prints bool
}

// rooms is the table of the design. A package that is not here may not exist.
func rooms() map[string]row {
	return map[string]row{
		// vocabulary
		"schema":             {},
		"relay":              {imports: []string{"internal/accept"}},
		"internal/accept":    {},
		"internal/errs":      {},
		"internal/diag":      {pure: true},
		"internal/event":     {},
		"internal/lifecycle": {pure: true},
		"internal/undo":      {},
		"internal/state":     {pure: true, imports: []string{"internal/lifecycle"}},
		"internal/arch":      {},
		"internal/boot":      {pure: true},
		"internal/seccomp":   {pure: true},
		"internal/filelock":  {imports: []string{"internal/errs"}},
		"internal/durable":   {},
		"internal/users":     {imports: []string{"internal/errs"}},
		"internal/docs":      {},
		"internal/regular":   {imports: []string{"internal/errs"}},
		"internal/childenv":  {},

		// the wire
		"internal/wire":        {imports: []string{"internal/errs"}},
		"internal/mux":         {imports: []string{"internal/errs"}},
		"internal/shimproto":   {imports: []string{"agentproto", "internal/errs", "internal/lifecycle", "internal/state", "internal/store", "internal/wire"}},
		"internal/switchproto": {imports: []string{"internal/accept", "internal/errs", "internal/network", "internal/network/segment"}},
		"agentproto":           {imports: []string{"internal/errs", "internal/wire"}},

		// what is wanted, and what is to be done for it
		"spec":    {imports: []string{"schema", "internal/diag", "internal/seccomp"}},
		"planner": {pure: true, imports: []string{"spec", "internal/state", "internal/diag", "internal/lifecycle"}},

		// machines
		"vmm":                {imports: []string{"internal/errs"}},
		"vmm/vmmfake":        {imports: []string{"vmm", "agentproto", "internal/durable", "internal/errs", "internal/network/frame", "internal/network/networktest", "internal/wire", "relay"}},
		"vmm/vmmtest":        {imports: []string{"vmm", "agentproto", "internal/errs", "internal/network/frame", "internal/network/networktest", "internal/wire"}},
		"vmm/vz":             {imports: []string{"vmm", "internal/errs", "internal/undo"}},
		"vmm/qemu":           {imports: []string{"vmm", "vmm/qemu/share", "internal/errs", "internal/boot", "internal/filelock", "internal/mux", "internal/undo", "internal/durable", "internal/childenv", "vmm/qemu/vsock"}},
		"vmm/qemu/share":     {imports: []string{"internal/errs", "internal/durable", "vmm/qemu/vhostuser"}},
		"vmm/qemu/vsock":     {imports: []string{"internal/errs", "vmm/qemu/vhostuser"}},
		"vmm/qemu/vhostuser": {imports: []string{"internal/errs"}},
		// A driver of such devices, as a guest has one: for tests of them.
		"vmm/qemu/vhostuser/vhostusertest": {imports: []string{"vmm/qemu/vhostuser", "internal/errs"}},

		// mechanism: one resource each
		"internal/store":             {imports: []string{"internal/errs", "internal/filelock", "internal/lifecycle", "internal/state", "internal/undo", "internal/durable"}},
		"internal/image":             {imports: []string{"internal/errs", "internal/regular", "internal/image/erofs", "internal/state", "internal/undo", "internal/durable", "internal/filelock"}},
		"internal/image/erofs":       {imports: []string{"internal/errs"}},
		"internal/kernel":            {imports: []string{"internal/errs", "internal/regular", "internal/state", "internal/undo", "internal/durable", "internal/filelock"}},
		"internal/kernel/kerneltest": {},
		// What a stack's switch is made of, from the bottom up.
		"internal/network/frame":   {pure: true},
		"internal/network/segment": {imports: []string{"internal/errs", "internal/network/frame"}},
		"internal/network/gateway": {imports: []string{"relay", "internal/errs", "internal/network/frame", "internal/network/segment"}},
		"internal/network/names":   {imports: []string{"internal/errs"}},
		"internal/network/lease":   {imports: []string{"internal/errs", "internal/network/frame", "internal/durable"}},
		"internal/network": {imports: []string{"internal/errs", "internal/network/frame", "internal/network/gateway",
			"internal/network/names", "internal/network/segment"}},
		"internal/switchproc": {imports: []string{"internal/errs", "internal/filelock", "internal/network", "internal/switchproto", "internal/childenv"}},
		// The machines' side of it, for tests.
		"internal/network/networktest": {imports: []string{"internal/network/frame"}},
		"internal/volume":              {imports: []string{"internal/errs", "internal/state", "internal/undo", "internal/durable"}},
		"internal/logs":                {imports: []string{"internal/errs", "internal/state", "internal/undo"}},
		"internal/agents":              {imports: []string{"internal/errs"}},
		"internal/archive":             {imports: []string{"internal/errs"}},
		"internal/journal":             {imports: []string{"internal/errs", "internal/filelock"}},

		// what runs: in the machine, beside it, and for a command
		// It is the machine's main program: its stderr is the console.
		"internal/guest": {prints: true, imports: []string{"agentproto", "relay", "internal/accept", "internal/archive", "internal/boot", "internal/errs", "internal/mux", "internal/users", "internal/wire"}},
		"internal/shim": {imports: []string{"vmm", "internal/regular", "agentproto", "relay", "internal/accept", "internal/errs", "internal/journal", "internal/lifecycle",
			"internal/logs", "internal/network", "internal/network/frame", "internal/shimproto", "internal/state", "internal/store", "internal/switchproc", "internal/switchproto", "internal/undo", "internal/volume", "internal/wire", "internal/durable", "internal/childenv"}},
		"executor":          {imports: []string{"planner", "internal/errs", "internal/event"}},
		"internal/settings": {imports: []string{"spec", "internal/regular", "internal/errs"}},
		"internal/engine": {imports: []string{"executor", "internal/regular", "planner", "spec", "vmm", "agentproto", "internal/agents",
			"internal/diag", "internal/errs", "internal/event", "internal/filelock", "internal/image", "internal/journal", "internal/kernel", "internal/lifecycle",
			"internal/logs", "internal/network", "internal/network/frame", "internal/network/lease", "internal/shimproto", "internal/state", "internal/store", "internal/switchproto",
			"internal/seccomp", "internal/undo", "internal/users", "internal/image/erofs", "internal/volume", "internal/childenv"}},

		// what a command does; the driver of machines is the shim's
		"internal/stack": {imports: []string{"executor", "planner", "spec", "internal/childenv", "internal/engine", "internal/errs", "internal/event",
			"internal/filelock", "internal/image", "internal/kernel", "internal/journal", "internal/lifecycle", "internal/logs", "internal/settings", "internal/shim",
			"internal/shimproto", "internal/state", "internal/store", "internal/wire"}},

		// what a command leaves behind, and which machines it has
		"internal/process": {imports: []string{"vmm", "internal/shim", "internal/shimproto", "internal/stack", "internal/switchproc"}},
		"internal/driver":  {imports: []string{"internal/process", "vmm", "vmm/qemu", "vmm/vz"}},

		"internal/stack/stacktest": {imports: []string{"internal/image", "internal/kernel", "internal/kernel/kerneltest", "internal/process", "vmm", "vmm/vmmfake"}},

		// Go programs. A helper process of theirs has standard error as its log.
		".": {prints: true, imports: []string{"planner", "spec", "internal/diag", "internal/driver", "internal/engine", "internal/errs", "internal/event", "internal/journal",
			"internal/lifecycle", "internal/logs", "internal/process", "internal/shimproto", "internal/stack", "internal/state"}},
		"vztest":               {imports: []string{"."}},
		"examples/gotest/hits": {prints: true, imports: []string{"."}},

		// the user
		"internal/ui": {prints: true, imports: []string{"planner", "internal/diag", "internal/errs", "internal/event",
			"internal/lifecycle", "internal/logs", "internal/state"}},
		// schema is what it prints, agents what doctor asks for, shimproto what
		// exec speaks.
		"internal/cli": {imports: []string{"agentproto", "planner", "schema", "spec", "vmm", "internal/agents", "internal/archive", "internal/diag",
			"internal/engine", "internal/errs", "internal/event", "internal/image", "internal/journal", "internal/kernel", "internal/lifecycle",
			"internal/logs", "internal/shimproto", "internal/stack", "internal/state", "internal/store", "internal/process",
			"internal/ui", "internal/wire", "internal/settings"}},
		"cmd/vzcompose":   {prints: true, imports: []string{"internal/cli", "internal/driver"}},
		"cmd/vzagent":     {prints: true, imports: []string{"internal/guest"}},
		"test/e2e":        {},
		"test/e2e/calls":  {prints: true},
		"test/e2e/rights": {prints: true},

		"test/e2e/locks":   {prints: true},
		"test/e2e/sockets": {prints: true},
		// The kernel and the agent are what it boots by hand.
		"bench/pump":    {prints: true},
		"bench/compare": {prints: true, imports: []string{"internal/agents", "internal/kernel", "internal/store", "internal/undo"}},
	}
}

// drivers belong to one operating system each: importing one is a matter of a
// file for that system.
func drivers() map[string]string {
	return map[string]string{"vmm/qemu": "linux", "vmm/vz": "darwin"}
}

// roomOf answers the row of pkg. The programs under tools check this module and
// import nothing of it.
func roomOf(pkg string) (row, bool) {
	if r, ok := rooms()[pkg]; ok {
		return r, true
	}
	if under(pkg, "tools") {
		return row{prints: true}, true
	}
	return row{}, false
}

// impure are the imports that a pure room may not have, with what they bring.
// net/netip is data and is fine.
func impure() map[string]string {
	return map[string]string{
		"os": "the operating system", "net": "the network", "context": "waiting", "syscall": "the operating system",
		"log": "output", "io/ioutil": "files", "math/rand": "chance", "crypto/rand": "chance", "sync": "concurrency",
		"runtime": "the host", "embed": "files", "golang.org/x/sys": "the operating system",
	}
}

// clock are the names of package time that read or follow a clock.
func clock() []string {
	return []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
}

// renames are the files that may rename files themselves, each with its reason.
// What must survive a loss of power goes through internal/durable.
func renames() map[string]string {
	return map[string]string{
		"internal/durable/durable.go":  "it is the way to do it",
		"internal/guest/fillshared.go": "a guest has no internal/durable: what is copied is synced before, and the directory after",
		"internal/journal/journal.go":  "a journal is for people; a loss of power may cost its last lines",
		"internal/store/folder.go":     "a removal that a loss of power undoes is done again",
		"internal/kernel/import.go":    "a broken kernel goes into the workspace, which is deleted",
		"vmm/qemu/template.go":         "a template that a loss of power leaves torn fails its checksums and is made anew",
		"vmm/qemu/console.go":          "a console is for people",
		"vmm/vmmtest/machine.go":       "it is a test",
	}
}

// sleeps are the files that may call time.Sleep, each with its reason. Tests
// that import testing/synctest may anyway: their clock is not the wall's.
func sleeps() map[string]string {
	return map[string]string{
		"internal/guest/poweroff.go": "the machine's last two seconds: nothing is left that could cancel them",
	}
}
