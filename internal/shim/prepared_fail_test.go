package shim

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// forgetful says that its machines are prepared, and they are not: their agents
// know of no container that is held.
type forgetful struct {
	vmm.Driver
	booted, discarded []string // what was asked for
}

func (d *forgetful) Boot(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	d.booted = append(d.booted, cfg.Prepared)
	m, err := d.Driver.Boot(ctx, cfg)
	if err != nil || cfg.Prepared == "" {
		return m, err
	}
	return prepared{m}, nil
}

func (d *forgetful) Prepare(context.Context, *vmm.Config, func(context.Context, vmm.Machine) error) (vmm.Template, error) {
	panic("nobody asks")
}

func (d *forgetful) Discard(_ context.Context, cfg *vmm.Config) error {
	d.discarded = append(d.discarded, cfg.Prepared)
	return nil
}

type prepared struct{ vmm.Machine }

func (m prepared) Unwrap() vmm.Machine { return m.Machine }
func (m prepared) Trace() vmm.Trace    { return vmm.Trace{Origin: vmm.Prepared} }

// A prepared machine that turns out to be of no use costs its template, and the
// instance runs all the same, in another.
func TestPreparedMachineOfNoUse(t *testing.T) {
	noneLeft(t)
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	path := r.launch.Home.Writable("shop", "web-1")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := volume.Create(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	d := &forgetful{Driver: r.driver}
	r.over = d
	r.run()
	c, news := r.client()
	r.until(c, news, lifecycle.Started)
	if len(d.booted) != 2 || d.booted[0] == "" || d.booted[1] != "" || !slices.Equal(d.discarded, d.booted[:1]) {
		t.Errorf("booted for %q, discarded %q", d.booted, d.discarded)
	}
	if st := r.record(); !strings.Contains(strings.Join(st.Notes, "\n"), "the prepared machine was of no use") {
		t.Errorf("notes %q", st.Notes)
	}
	r.stop()
	r.end()
}
