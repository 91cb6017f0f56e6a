//go:build linux

package qemu

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// A machine with a device of this process's has its RAM where this process can map
// it, however it comes to be, and is neither prepared nor adopted.
func TestServedDevicesShareRAM(t *testing.T) {
	for name, add := range map[string]func(*vmm.Config){
		"none":            func(*vmm.Config) {},
		"a share":         func(c *vmm.Config) { c.Shares = []vmm.Share{{ID: "s", Path: "/s"}} },
		"virtual sockets": func(c *vmm.Config) { c.Vsock = true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := instanceConfig(1)
			add(cfg)
			for _, b := range []birth{asBooted, asRestored} {
				_, flags := argsOf(t, cfg, hosts[0], b)
				ram := decode(t, flags["-object"])[0]
				if shared := ram["share"] == true; shared != servesDevices(cfg) {
					t.Errorf("birth %d: %v", b, ram)
				}
			}
			if err := preparable(cfg); errs.Is(err, errs.Unsupported) != servesDevices(cfg) {
				t.Errorf("preparable: %v", err)
			}
		})
	}
}

func TestNoVsock(t *testing.T) {
	m := &machine{name: "m"}
	if _, err := m.Vsock(); !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
}
