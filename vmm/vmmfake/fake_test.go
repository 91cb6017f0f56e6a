package vmmfake_test

import (
	"net"
	"os"
	"path/filepath"
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

func TestSuite(t *testing.T) {
	d := vmmfake.New(vmmfake.Options{})
	vmmtest.Run(t, vmmtest.Harness{
		Driver: d, Config: config(t), Root: place(t, "root"), Blank: place(t, "blank"), Console: true,
		Leftovers: func() (left []string) {
			for _, m := range d.Machines() {
				left = append(left, m.Config().Name)
			}
			return left
		},
		GuestDial: func(m vmm.Machine, port uint32) (net.Conn, error) { return m.(*vmmfake.Machine).GuestDial(port) },
	})
}
