//go:build linux

// Command locks takes locks in a container, for tests:
//
//	locks append KIND FILE NAME COUNT EACH  appends so many lines "NAME NUMBER",
//	                                        EACH of them under one lock
//	locks hold KIND FILE                    takes the lock, prints "held", and sleeps
//	locks take KIND FILE                    waits for the lock, and prints "taken"
//	locks try KIND FILE                     prints "taken", or why not
//	locks map FILE                          maps the file to be written, and prints
//	                                        what comes of it
//
// KIND is flock or fcntl.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "locks:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 6 && args[0] == "append":
		n, err := strconv.Atoi(args[4])
		each, eerr := strconv.Atoi(args[5])
		if err != nil || eerr != nil || each < 1 {
			return fmt.Errorf("%s lines, %s each", args[4], args[5])
		}
		return appendLines(args[1], args[2], args[3], n, each)
	case len(args) == 3 && (args[0] == "hold" || args[0] == "take" || args[0] == "try"):
		f, err := os.OpenFile(args[2], os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return err
		}
		err = lock(args[1], f, true, args[0] != "try")
		switch {
		case err != nil && args[0] == "try":
			fmt.Println(err)
			return f.Close()
		case err != nil:
			return err
		case args[0] != "hold":
			fmt.Println("taken")
			return f.Close()
		}
		fmt.Println("held")
		for {
			if err := unix.Pause(); err != nil && err != unix.EINTR {
				return err
			}
		}
	case len(args) == 2 && args[0] == "map":
		f, err := os.OpenFile(args[1], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		fmt.Println(err)
		return nil
	}
	return fmt.Errorf("no such use: %q", args)
}

func lock(kind string, f *os.File, take, wait bool) error {
	if kind == "flock" {
		how := unix.LOCK_UN
		if take {
			how = unix.LOCK_EX
		}
		if !wait {
			how |= unix.LOCK_NB
		}
		return unix.Flock(int(f.Fd()), how)
	}
	lk := unix.Flock_t{Type: unix.F_UNLCK}
	if take {
		lk.Type = unix.F_WRLCK
	}
	how := unix.F_SETLKW
	if !wait {
		how = unix.F_SETLK
	}
	return unix.FcntlFlock(f.Fd(), how, &lk)
}

// appendLines writes what it appends in two pieces, at the end that the file has, as
// a program does that relies on the lock alone.
func appendLines(kind, path, name string, n, each int) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	for i := 0; i < n; i += each {
		var text []byte
		for k := i; k < min(i+each, n); k++ {
			text = fmt.Appendf(text, "%s %d\n", name, k)
		}
		if err := lock(kind, f, true, true); err != nil {
			return err
		}
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		half := len(text)/2 + 1
		if _, err := f.WriteAt(text[:half], end); err != nil {
			return err
		}
		if _, err := f.WriteAt(text[half:], end+int64(half)); err != nil {
			return err
		}
		if err := lock(kind, f, false, true); err != nil {
			return err
		}
	}
	return f.Close()
}
