package vmmtest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/network/networktest"
	"github.com/vzcompose/vzcompose/vmm"
)

// Rows of optional abilities: network cards, pausing, saved machines.

// heldOut is the token of what a held process prints.
const heldOut = "held-out"

// cardMTU is that of the machine's interface, in bytes.
const cardMTU = 1280

// guestAddress is that of the machine's interface; hostAddress is that of what is
// at the other end of its frame socket.
func guestAddress() netip.Prefix { return netip.MustParsePrefix("10.83.0.2/24") }
func hostAddress() netip.Prefix  { return netip.MustParsePrefix("10.83.0.1/24") }

// cardInterface is the interface on the machine's first card.
func cardInterface() agentproto.Interface {
	return agentproto.Interface{Device: vmm.CardMAC(0).String(), Name: "eth0", MAC: "02:00:00:00:83:02", MTU: cardMTU,
		Addresses: []netip.Prefix{guestAddress()}}
}

// card talks TCP to the machine by its frames: a port on which nobody listens is
// refused by the guest's own stack.
func (b *box) card(t *testing.T) {
	n, ok := vmm.As[vmm.Networker](b.m)
	if !ok {
		t.Fatal("the driver's machines have no network cards")
	}
	for _, i := range []int{-1, vmm.MaxCards} {
		if _, err := n.Frames(i); !errs.Is(err, errs.NotFound) {
			t.Errorf("card %d: got %v, want class not found", i, err)
		}
	}
	f, err := n.Frames(0)
	if err != nil {
		t.Fatal(err)
	}
	frames, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	host := networktest.Start(t, frames, networktest.Config{MAC: frame.MAC{2, 0, 0, 0, 0x83, 1}, V4: hostAddress(), MTU: cardMTU})
	ctx := b.s.limit(t)
	c, err := host.Dial(ctx, netip.AddrPortFrom(guestAddress().Addr(), deadPort))
	if err == nil {
		_ = c.Close()
		t.Fatal("connected to a port on which nobody listens")
	}
	if ctx.Err() != nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// pause holds the machine: it does nothing until it goes on, and then what it was
// asked meanwhile.
func (b *box) pause(t *testing.T) {
	p, ok := vmm.As[vmm.Pauser](b.m)
	if !ok {
		t.Skip("the driver does not pause machines")
	}
	ctx := b.s.limit(t)
	for range 2 {
		if err := p.Pause(ctx); err != nil {
			t.Fatal(err)
		}
	}
	answered := make(chan error, 1)
	go func() {
		_, err := b.agent.Log(ctx)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("the agent of a paused machine answers: %v", err)
	case <-time.After(50 * time.Millisecond): // long enough for most that is wrong
	}
	for range 2 {
		if err := p.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-answered; err != nil {
		t.Errorf("what it was asked meanwhile: %v", err)
	}
	if err := b.agent.Clock(ctx); err != nil {
		t.Errorf("set the clock: %v", err)
	}
	b.echo(t)
}

// prepare saves a machine in which a container is held, and has two machines of it.
func (s *suite) prepare(t *testing.T) {
	d, ok := s.Driver.(vmm.Preparer)
	if !ok || s.Origin != vmm.Restored || s.Blank == "" {
		t.Skip("the driver saves no machines, or there is nothing to write to")
	}
	ctx := s.limit(t)
	saved := s.preparable(t, s.newBox(t, "saved"), "saved")
	if _, err := d.Prepare(ctx, saved, s.hold(t)); err != nil {
		t.Fatal(err)
	}
	again := func(context.Context, vmm.Machine) error { return errors.New("it is there already") }
	if _, err := d.Prepare(ctx, saved, again); err != nil {
		t.Errorf("a second time: %v", err)
	}
	var both []*box
	for _, word := range []string{"first", "second"} {
		b := s.newBox(t, word)
		cfg := s.preparable(t, b, word)
		cfg.Prepared = saved.Prepared
		b.bootAs(t, cfg, vmm.Prepared)
		if sum(t, cfg.Disks[1].Path) == sum(t, s.Blank) {
			t.Error("the writable disk is that of a machine that has mounted nothing")
		}
		both = append(both, b)
	}
	both[0].goAs(t, "first")
	both[1].goAs(t, "second")
	for range 2 { // what is not there is no error
		if err := d.Discard(ctx, saved); err != nil {
			t.Fatal(err)
		}
	}
	b := s.newBox(t, "after")
	b.bootAs(t, saved, vmm.Restored)
	b.greet(t)
	if _, err := b.agent.Go(ctx, goOf("x")); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a machine in which nothing is held: got %v, want class failed precondition", err)
	}
	b.agent.Close()
}

// preparable is a machine with disks of b and a card.
func (s *suite) preparable(t *testing.T, b *box, name string) *vmm.Config {
	cfg := s.config(t, name)
	cfg.Disks, cfg.Cards, cfg.Prepared = s.disks(t, b), 1, "suite-"+rand.Text()
	return cfg
}

// hold brings a machine to where it is to be saved. What only one machine has is
// not in it yet.
func (s *suite) hold(t *testing.T) func(context.Context, vmm.Machine) error {
	return func(ctx context.Context, m vmm.Machine) error {
		b := &box{s: s, m: m, exits: make(chan agentproto.Exit, 1)}
		b.greet(t)
		defer b.agent.Close()
		card := cardInterface()
		card.MAC, card.Addresses = card.Device, []netip.Prefix{}
		b.setUpRoot(t, []agentproto.Interface{card})
		_, err := b.agent.Start(ctx, agentproto.Start{ID: agentproto.InitID, Spec: runtimeSpec("echo"), Hold: true, Stdout: heldOut})
		return err
	}
}

// goAs lets the process of a restored machine go, with words of its own.
func (b *box) goAs(t *testing.T, word string) {
	b.greet(t)
	ctx := b.s.limit(t)
	out, err := b.open(ctx, heldOut)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := b.agent.Go(ctx, goOf(word)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.agent.Go(ctx, goOf(word)); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second go: got %v, want class failed precondition", err)
	}
	if text, err := io.ReadAll(out); err != nil || string(text) != word+"\n" {
		t.Errorf("it says %q, %v; want %q", text, err, word)
	}
	if e, err := b.agent.Wait(ctx, agentproto.InitID); err != nil || e.Code != 0 {
		t.Errorf("it ended with %+v, %v", e, err)
	}
	b.card(t)
	b.agent.Close()
}

func goOf(word string) agentproto.Go {
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy) // never fails
	return agentproto.Go{Hostname: word, Entropy: entropy, Args: []string{"echo", word},
		Env: []string{"PATH=/bin:/usr/bin:/sbin:/usr/sbin"}, Interfaces: []agentproto.Interface{cardInterface()}}
}
