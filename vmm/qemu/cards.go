//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
)

// Every machine has one network card, so that one that is restored or waits has
// it without being plugged in; more are plugged into root ports. Its frames go to
// a datagram socket, of which this process keeps the other end. A guest that has
// no use for it does not load its driver.

func cardName(i int) string   { return fmt.Sprintf("card%d", i) }
func netdevName(i int) string { return fmt.Sprintf("net%d", i) }

// netdev is the host's side of card i, on a descriptor: its number, or a name
// that the monitor was told.
func netdev(i int, fd string) map[string]any {
	return map[string]any{"type": "dgram", "id": netdevName(i), "local": map[string]any{"type": "fd", "str": fd}}
}

// cardDevice is card i. There is nothing to boot from it.
func cardDevice(i int, bus string, more map[string]any) map[string]any {
	d := map[string]any{"driver": "virtio-net-pci", "id": cardName(i), "netdev": netdevName(i), "bus": bus,
		"mac": vmm.CardMAC(i).String(), "romfile": ""}
	for k, v := range more {
		d[k] = v
	}
	return d
}

// Frames answers the host's end of card i.
func (m *machine) Frames(i int) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i < 0 || i >= len(m.cards) {
		return nil, errs.New(errs.NotFound, "machine %s has %d network cards, none is number %d", m.name, len(m.cards), i)
	}
	return m.cards[i], nil
}

func (m *machine) closeCards() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.cards {
		_ = f.Close() // a socket; its reader has seen the end of the frames
	}
}

// addCards plugs in cards until there are n.
func (m *machine) addCards(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		i := len(m.cards)
		m.mu.Unlock()
		if i >= n {
			return nil
		}
		if err := m.addCard(ctx, i); err != nil {
			return fmt.Errorf("plug in network card %d: %w", i, err)
		}
	}
}

func (m *machine) addCard(ctx context.Context, i int) (err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	port, err := m.takePort(cardName(i))
	if err != nil {
		return err
	}
	un.PushFunc("take a port", func() { m.freePort(cardName(i)) })
	ours, theirs, err := framePair()
	if err != nil {
		return err
	}
	un.PushFunc("make a frame socket", func() { _ = ours.Close() })
	defer func() { _ = theirs.Close() }() // QEMU has its own
	if err := m.qmp.call(ctx, "getfd", map[string]any{"fdname": netdevName(i)}, nil, int(theirs.Fd())); err != nil {
		return err
	}
	if err := m.qmp.call(ctx, "netdev_add", netdev(i, netdevName(i)), nil); err != nil {
		return err
	}
	un.Push("add the host's side", func(ctx context.Context) error {
		return m.qmp.call(ctx, "netdev_del", map[string]any{"id": netdevName(i)}, nil)
	})
	if err := m.qmp.call(ctx, "device_add", cardDevice(i, port, nil), nil); err != nil {
		return err
	}
	un.Release()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cards = append(m.cards, ours)
	return nil
}

// framePair answers the two ends of a frame socket.
func framePair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a frame socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "frames"), os.NewFile(uintptr(fds[1]), "frames"), nil
}
