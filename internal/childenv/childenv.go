// Package childenv is the environment of the processes that outlive a command:
// shims, switches, machines. The caller's environment may have secrets, which
// whoever can read /proc of such a process, or gets into it, would have for as
// long as it lives. They get what is named here and nothing else.
package childenv

import "os"

// names are the variables that are passed on, each because something needs it.
func names() []string {
	return []string{
		// Programs and their libraries: QEMU may be in a place of its own.
		"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "QEMU_MODULE_DIR",
		// Where the home folder, the sockets and temporary files are.
		"HOME", "TMPDIR", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "VZCOMPOSE_HOME",
		// How machines are run.
		"VZCOMPOSE_ACCEL", "VZCOMPOSE_QEMU", "VZCOMPOSE_COLD",
		// What times and messages look like.
		"TZ", "LANG", "LC_ALL", "LC_MESSAGES",
		// The Go runtime: for whoever looks for a fault.
		"GODEBUG", "GOTRACEBACK", "GOMEMLIMIT", "GOGC", "GOMAXPROCS", "GOCOVERDIR",
	}
}

// List returns the environment for os/exec: never nil, which would be all of it.
func List() []string {
	env := []string{}
	for _, name := range names() {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
