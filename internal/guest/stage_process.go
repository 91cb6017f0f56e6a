//go:build linux

package guest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/users"
)

// beforeRoot does what needs the machine's /proc.
func (p *processOrders) beforeRoot() error {
	if p.Init {
		if err := os.WriteFile("/proc/self/comm", []byte(stageName), 0); err != nil { // for people who read ps
			return fmt.Errorf("name the init: %w", err)
		}
	}
	if p.OOMScoreAdj == nil {
		return nil
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*p.OOMScoreAdj)), 0); err != nil {
		return fmt.Errorf("adjust the oom score: %w", err)
	}
	return nil
}

// become makes this process the one that is ordered; the container's root is
// ours; first says that it is the container's first process. It returns only
// with an error.
func (p *processOrders) become(h *handed, late string, first bool) error {
	if err := p.resolveUser(readDatabase); err != nil {
		return err
	}
	if p.Terminal != nil {
		if err := p.Terminal.take(p.Identity.UID, first); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
	}
	if err := p.enterCwd(); err != nil {
		return err
	}
	if p.Hold { // ahead of limits, within which it might not hear of its last orders
		if err := p.awaitLast(h); err != nil {
			return err
		}
	}
	if err := p.setLimits(); err != nil {
		return err
	}
	// While all our threads have equal rights: the kernel wants the right to
	// schedule each of them (kernel/cgroup/cpuset.c, cpuset_can_attach).
	if late != "" {
		if _, err := unix.Write(h[slotLate], []byte(late)); err != nil {
			return fmt.Errorf("enter the container's limits: %w", err)
		}
	}
	if err := p.changeUser(); err != nil {
		return err
	}
	if _, err := unix.Write(h[slotReport], []byte{stageReady}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if p.Init {
		return p.supervise(h)
	}
	if p.starves() || p.Filter != nil {
		if err := p.executeBare(); err != nil {
			return err
		}
	}
	return p.execute()
}

// starves says whether there is a limit that our own runtime may not live with.
func (p *processOrders) starves() bool {
	return slices.ContainsFunc(p.Rlimits, func(r rlimit) bool { return ofMemory(r.Resource) })
}

func ofMemory(resource int) bool { return resource == unix.RLIMIT_AS || resource == unix.RLIMIT_DATA }

// executeBare limits the memory, which needs no right, loads the filter, and
// executes. Between these our runtime must neither ask for memory nor make calls
// that the filter may refuse: all that is needed is made before, and nothing but
// raw system calls follow. It returns nil where nothing could be executed; then
// there may be memory, and calls, to say why, or not. So what usually is wrong is
// looked for first.
func (p *processOrders) executeBare() error {
	if err := p.try(executable); err != nil {
		return err
	}
	filter := p.Filter.ready()
	var files []*byte
	for _, f := range p.candidates() {
		b, err := unix.BytePtrFromString(f)
		if err != nil {
			return errs.New(errs.InvalidArgument, "%q: a zero byte in its name", f)
		}
		files = append(files, b)
	}
	args, err := syscall.SlicePtrFromStrings(p.Args)
	if err != nil {
		return errs.New(errs.InvalidArgument, "an argument with a zero byte")
	}
	env, err := syscall.SlicePtrFromStrings(p.Env)
	if err != nil {
		return errs.New(errs.InvalidArgument, "a variable with a zero byte")
	}
	limits := make([]unix.Rlimit, len(p.Rlimits))
	for i, r := range p.Rlimits {
		limits[i] = unix.Rlimit{Cur: r.Soft, Max: r.Hard}
	}
	debug.SetGCPercent(-1)
	for i, r := range p.Rlimits {
		if !ofMemory(r.Resource) {
			continue
		}
		if _, _, e := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(r.Resource), uintptr(unsafe.Pointer(&limits[i])), 0, 0, 0); e != 0 {
			return errs.New(errs.InvalidArgument, "set limit %d to %d:%d: %w", r.Resource, r.Soft, r.Hard, e)
		}
	}
	if e := filter.load(false); e != 0 {
		return loadError(e)
	}
	for _, f := range files {
		_, _, e := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(f)), uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&env[0])))
		if e != unix.ENOENT && e != unix.ENOTDIR && e != unix.EACCES {
			break
		}
	}
	return nil
}

// executable answers the error that execve would have for most of what is wrong
// with a file.
func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EACCES
	}
	return unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}

// resolveUser looks up who the process runs as, and where that one is at home.
func (p *processOrders) resolveUser(read func() (users.Database, error)) error {
	homeless := !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
	if p.User == "" && !homeless && len(p.Groups) == 0 {
		return nil
	}
	db, err := read()
	if err != nil && (p.User != "" || len(p.Groups) > 0) {
		return err
	}
	home := ""
	if p.User != "" {
		if p.Identity, err = db.Resolve(p.User); err != nil {
			return err
		}
		home = p.Identity.Home
	} else {
		home = db.Home(p.Identity.UID)
	}
	for _, g := range p.Groups {
		gid, err := db.GroupID(g)
		if err != nil {
			return err
		}
		if gid != p.Identity.GID && !slices.Contains(p.Identity.Groups, gid) {
			p.Identity.Groups = append(p.Identity.Groups, gid)
		}
	}
	if homeless {
		if home == "" {
			home = "/"
		}
		p.Env = append(p.Env, "HOME="+home)
	}
	return nil
}

func (p *processOrders) enterCwd() error {
	if err := unix.Chdir(p.Cwd); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return errs.New(errs.InvalidArgument, "no directory %s in the container", p.Cwd)
		}
		return errs.New(errs.InvalidArgument, "working directory %s: %w", p.Cwd, err)
	}
	// A symlink into /proc may lead out of the container's mounts. The kernel
	// says so: "(unreachable)".
	if wd, err := unix.Getwd(); err != nil || !strings.HasPrefix(wd, "/") {
		return errs.New(errs.InvalidArgument, "working directory %s is not in the container", p.Cwd)
	}
	unix.Umask(p.Umask)
	return nil
}

// What a process may open where nothing is said: systemd's default.
const (
	softFiles = 1024
	hardFiles = 512 << 10
)

// setLimits sets the limits but those of memory.
func (p *processOrders) setLimits() error {
	all := p.Rlimits
	if !slices.ContainsFunc(all, func(r rlimit) bool { return r.Resource == unix.RLIMIT_NOFILE }) {
		var have unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
			return fmt.Errorf("look at the limit of open files: %w", err)
		}
		hard := min(have.Max, hardFiles)
		all = append(slices.Clone(all), rlimit{unix.RLIMIT_NOFILE, min(softFiles, hard), hard})
	}
	for _, r := range all {
		if ofMemory(r.Resource) {
			continue
		}
		if err := unix.Setrlimit(r.Resource, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}); err != nil {
			return errs.New(errs.InvalidArgument, "set limit %d to %d:%d: %w", r.Resource, r.Soft, r.Hard, err)
		}
	}
	return nil
}

// changeUser gives up what the process must not have, in the one order in which
// each step still has the right to do so.
func (p *processOrders) changeUser() error {
	id := p.Identity
	// A process that opens /dev/stdout anew needs the right to.
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			if err := unix.Fchown(fd, int(id.UID), int(id.GID)); err != nil {
				return fmt.Errorf("own the streams: %w", err)
			}
		}
	}
	if err := p.Caps.limitBounding(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := setUser(id, p.Init); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := p.rights().apply(); err != nil {
		return err
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no new privileges: %w", err)
		}
	}
	return nil
}

// setUser changes this thread only, which is the one that executes. Package
// syscall's functions would change every thread, for nothing, unless this
// process stays.
func setUser(id users.Identity, every bool) error {
	if every {
		return setUserOfAll(id)
	}
	groups := append([]uint32{}, id.Groups...)
	if err := rawSetgroups(groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(id.GID), uintptr(id.GID), uintptr(id.GID)); e != 0 {
		return fmt.Errorf("set group %d: %w", id.GID, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(id.UID), uintptr(id.UID), uintptr(id.UID)); e != 0 {
		return fmt.Errorf("set user %d: %w", id.UID, e)
	}
	return nil
}

// defaultPath is where a bare command is looked for when PATH is not set.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// candidates are the files that the command may mean, in order.
func (p *processOrders) candidates() []string {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	search := defaultPath
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var files []string
	for dir := range strings.SplitSeq(search, ":") {
		file := path.Join("/", p.Cwd, name)
		if path.IsAbs(dir) {
			file = path.Join(dir, name)
		} else if dir != "" {
			file = path.Join(p.Cwd, dir, name)
		}
		files = append(files, file)
	}
	return files
}

// execute makes this process the command's.
func (p *processOrders) execute() error {
	return p.try(func(file string) error { return syscall.Exec(file, p.Args, p.Env) })
}

// try tries the candidates for the command in order, as execvp(3) does, until
// exec has no error.
func (p *processOrders) try(exec func(file string) error) error {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		if err := exec(name); err != nil {
			return execError(name, name, err)
		}
		return nil
	}
	var denied error
	for _, file := range p.candidates() {
		err := exec(file)
		var st unix.Stat_t
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENOENT) && unix.Stat(file, &st) != nil:
		case errors.Is(err, syscall.EACCES):
			if denied == nil {
				denied = execError(name, file, err)
			}
		default:
			return execError(name, file, err)
		}
	}
	if denied != nil {
		return denied
	}
	return errs.New(errs.NotFound, "%q: executable file not found in PATH", name)
}

// execError says why file, which is what name meant, could not be executed.
func execError(name, file string, err error) error {
	var st unix.Stat_t
	there := unix.Stat(file, &st) == nil
	switch {
	case errors.Is(err, syscall.ENOENT) && there:
		return errs.New(errs.NotFound, "%q: the interpreter that %s names is not in the container", name, file)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return errs.New(errs.NotFound, "%q: no such file", name)
	case errors.Is(err, syscall.EACCES) && there && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errs.New(errs.PermissionDenied, "%q: is a directory", name)
	case errors.Is(err, syscall.EACCES):
		return errs.New(errs.PermissionDenied, "%q: permission denied", name)
	case errors.Is(err, syscall.ENOEXEC):
		return errs.New(errs.InvalidArgument, "%q: not an executable for this machine", name)
	case errors.Is(err, syscall.E2BIG):
		return errs.New(errs.InvalidArgument, "%q: arguments and environment are too long", name)
	}
	return fmt.Errorf("%q: %w", name, err)
}
