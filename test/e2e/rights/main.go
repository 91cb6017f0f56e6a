//go:build linux

// Command rights tries who may do what with files of each owner and mode in a folder,
// and prints a line for each. It is root when it starts. TestRightsInShares runs it in
// a container, in a shared folder and beside it.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// who is somebody who tries, or owns.
type who struct {
	uid, gid int
	groups   []int
}

var (
	owners = [...]who{{uid: 0, gid: 0}, {uid: 1000, gid: 2000}}
	actors = [...]who{{}, {uid: 1000, gid: 1000, groups: []int{2000}}, {uid: 3000, gid: 2000}, {uid: 4000, gid: 4000, groups: []int{2000}}, {uid: 4000, gid: 4000}}
	modes  = [...]uint32{0, 0o600, 0o070, 0o007, 0o755, 0o1777, 0o2775, 0o6777}
)

func main() {
	runtime.LockOSThread() // whoever this is, is the thread's
	if err := os.Chdir(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "rights:", err)
		os.Exit(1)
	}
	unix.Umask(0o022)
	for _, kind := range []string{"file", "folder"} {
		for _, owner := range owners {
			for _, mode := range modes {
				for _, actor := range actors {
					fmt.Printf("%s %d:%d %04o by %v: %s\n", kind, owner.uid, owner.gid, mode, actor, try(kind, owner, mode, actor))
				}
			}
		}
	}
}

// try has actor try everything with a new file.
func try(kind string, owner who, mode uint32, actor who) string {
	deeds := ofFile
	if kind == "folder" {
		deeds = ofFolder
	}
	var said []string
	fresh := false
	for _, d := range deeds {
		if !fresh {
			place(kind, owner, mode)
		}
		actor.become()
		err := d.do(actor)
		who{}.become()
		said = append(said, d.name+"="+name(err)+left("it")+left("it/new"))
		fresh = err != nil
	}
	return strings.Join(said, " ")
}

// place puts a new file there.
func place(kind string, owner who, mode uint32) {
	must(os.RemoveAll("it"))
	if kind == "folder" {
		must(unix.Mkdir("it", 0o700))
		must(unix.Mknod("it/child", unix.S_IFREG|0o644, 0))
		must(unix.Chown("it/child", 1000, 1000))
	} else {
		must(os.WriteFile("it", []byte("text"), 0o600))
	}
	must(unix.Chown("it", owner.uid, owner.gid))
	must(unix.Chmod("it", mode))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func name(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := err.(unix.Errno); ok {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// left is what became of a file.
func left(path string) string {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("(%o %d:%d)", st.Mode, st.Uid, st.Gid)
}

// become changes who this thread is. It is root afterwards if it was.
func (w who) become() {
	const keep = ^uintptr(0)
	groups := make([]uint32, len(w.groups)+1)
	for i, g := range w.groups {
		groups[i] = uint32(g)
	}
	raw := func(call, a, b, c uintptr) {
		if _, _, e := unix.RawSyscall(call, a, b, c); e != 0 {
			panic(e)
		}
	}
	raw(unix.SYS_SETRESUID, keep, 0, keep)
	raw(unix.SYS_SETGROUPS, uintptr(len(w.groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	raw(unix.SYS_SETRESGID, keep, uintptr(w.gid), keep)
	raw(unix.SYS_SETRESUID, keep, uintptr(w.uid), keep)
}

type deed struct {
	name string
	do   func(actor who) error
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o666)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

func write(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Write(fd, []byte("x"))
	return err
}

func access(path string, mode uint32) error {
	return unix.Faccessat2(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)
}

var (
	ofFile = []deed{
		{"read", func(who) error { return open("it", unix.O_RDONLY) }},
		{"write", func(who) error { return write("it") }},
		{"both", func(who) error { return open("it", unix.O_RDWR) }},
		{"cut", func(who) error { return unix.Truncate("it", 1) }},
		{"run", func(who) error { return access("it", unix.X_OK) }},
		{"chmod", func(who) error { return unix.Chmod("it", 0o6751) }},
		{"take", func(a who) error { return unix.Chown("it", a.uid, -1) }},
		{"group", func(a who) error { return unix.Chown("it", -1, 2000) }},
		{"touch", func(who) error { return unix.UtimesNanoAt(unix.AT_FDCWD, "it", nil, 0) }},
		{"date", func(who) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, "it", []unix.Timespec{{Sec: 9}, {Sec: 9}}, 0)
		}},
	}
	ofFolder = []deed{
		{"list", func(who) error { return open("it", unix.O_RDONLY|unix.O_DIRECTORY) }},
		{"enter", func(who) error { return access("it/child", unix.F_OK) }},
		{"file", func(who) error { return open("it/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY) }},
		{"folder", func(who) error { return unix.Mkdir("it/new", 0o777) }},
		{"link", func(who) error { return unix.Symlink("child", "it/new") }},
		{"pipe", func(who) error { return unix.Mkfifo("it/new", 0o666) }},
		{"remove", func(who) error { return unix.Unlink("it/child") }},
		{"rename", func(who) error { return unix.Rename("it/child", "it/new") }},
		{"chmod", func(who) error { return unix.Chmod("it", 0o2751) }},
	}
)
