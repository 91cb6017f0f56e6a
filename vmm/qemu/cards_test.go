//go:build linux

package qemu

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Every machine has the same card in the same place, whatever it asks for: it is
// in the template, and nothing of an instance is in the command line.
func TestCardIsInTheTemplate(t *testing.T) {
	for _, h := range hosts {
		for _, b := range []birth{asBooted, asTemplate, asRestored} {
			cfg := instanceConfig(2)
			cfg.Cards = 2
			_, flags := argsOf(t, cfg, h, b)
			if got := decode(t, flags["-netdev"]); len(got) != 1 || got[0]["id"] != "net0" {
				t.Errorf("%v: host's sides %v", b, got)
			}
			n := 0
			for _, d := range decode(t, flags["-device"]) {
				if d["driver"] == "virtio-net-pci" {
					n++
					if d["mac"] != vmm.CardMAC(0).String() || d["addr"] != "0xf" || d["bus"] != "pcie.0" {
						t.Errorf("%v: card %v", b, d)
					}
				}
			}
			if n != 1 {
				t.Errorf("%v: %d cards", b, n)
			}
		}
	}
}

func TestFrames(t *testing.T) {
	ours, theirs, err := framePair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	m := &machine{name: "m"}
	m.cards = append(m.cards, ours)
	f, err := m.Frames(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Write([]byte("a frame")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "a frame" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	for _, i := range []int{-1, 1} {
		if _, err := m.Frames(i); !errs.Is(err, errs.NotFound) {
			t.Errorf("card %d: %v", i, err)
		}
	}
	m.closeCards()
	if _, err := f.Read(b); err == nil {
		t.Error("the machine is gone and its card is open")
	}
}
