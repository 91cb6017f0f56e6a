package vmmfake_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
	"github.com/vzcompose/vzcompose/vmm/vmmtest"
)

// place answers a path with something in it.
func place(t *testing.T, name string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func config(t *testing.T) vmm.Config {
	t.Helper()
	return vmm.Config{Name: "m", CPUs: 1, Memory: 64 << 20, Kernel: place(t, "kernel"), Initramfs: place(t, "initramfs"),
		Disks: []vmm.Disk{{ID: "root", Path: place(t, "root"), ReadOnly: true}}}
}

// The suite, on machines that boot and on such that are restored.
func TestSuite(t *testing.T) {
	blank := place(t, "blank")
	head := make([]byte, 4096)
	binary.LittleEndian.PutUint16(head[1024+0x38:], 0xEF53) // as much of ext4 as is looked at
	if err := os.WriteFile(blank, head, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range []vmm.Origin{vmm.Booted, vmm.Restored} {
		o := vmmfake.Options{Programs: map[string]vmmfake.Program{"sockets": sockets}}
		if how == vmm.Restored {
			o.Templates = filepath.Join(t.TempDir(), "templates")
		}
		d := vmmfake.New(o)
		t.Run(string(how), func(t *testing.T) {
			vmmtest.Run(t, vmmtest.Harness{
				Origin: how, Driver: d, Config: config(t), Root: place(t, "root"), Blank: blank, Console: true,
				Leftovers: func() (left []string) {
					for _, m := range d.Machines() {
						left = append(left, m.Config().Name)
					}
					return left
				},
				Sockets:   "sockets",
				GuestDial: func(m vmm.Machine, port uint32) (net.Conn, error) { return m.(*vmmfake.Machine).GuestDial(port) },
			})
		})
	}
}

// sockets is the program of vmmtest.Harness.Sockets.
func sockets(_ context.Context, p *vmmfake.Process) int {
	port, err := strconv.ParseUint(p.Args[2], 10, 32)
	if err != nil {
		return 2
	}
	if p.Args[1] == "dial" {
		c, err := p.Machine.GuestDial(uint32(port))
		if err != nil {
			return 1
		}
		defer c.Close()
		_, _ = io.WriteString(c, p.Args[3])
		if _, err := io.CopyN(p.Stdout, c, int64(len(p.Args[3]))); err != nil {
			return 1
		}
		return 0
	}
	l, err := p.Machine.GuestListen(uint32(port))
	if err != nil {
		return 1
	}
	defer l.Close()
	_, _ = fmt.Fprintln(p.Stdout, "listening")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, p.Stdin)
	return 0
}
