package vmmfake

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/network/networktest"
	"github.com/vzcompose/vzcompose/vmm"
)

var _ vmm.Networker = (*Machine)(nil)

// card is a network card: a frame socket, and an IP stack at the guest's end of
// it once the agent has brought the interface up.
type card struct {
	ours, guest *os.File
	station     *networktest.Station // nil: the interface is not up
}

// Frames implements vmm.Networker.
func (m *Machine) Frames(i int) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i < 0 || i >= len(m.cards) {
		return nil, errs.New(errs.NotFound, "machine %s has %d network cards, none is number %d", m.cfg.Name, len(m.cards), i)
	}
	return m.cards[i].ours, nil
}

// Station returns the IP stack behind card i, nil while its interface is not up.
func (m *Machine) Station(i int) *networktest.Station {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i >= len(m.cards) {
		return nil
	}
	return m.cards[i].station
}

// addCards plugs in cards until there are n.
func (m *Machine) addCards(n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.cards) < n {
		c, err := newCard()
		if err != nil {
			return fmt.Errorf("plug in network card %d: %w", len(m.cards), err)
		}
		m.cards = append(m.cards, c)
	}
	return nil
}

func newCard() (*card, error) {
	syscall.ForkLock.RLock() // no child gets them: macOS cannot make them close-on-exec
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, fmt.Errorf("make a frame socket: %w", err)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return &card{ours: os.NewFile(uintptr(fds[0]), "frames"), guest: os.NewFile(uintptr(fds[1]), "frames")}, nil
}

// configure brings the interfaces up, as the agent does. One that is up already
// is brought up anew.
func (m *Machine) configure(all []agentproto.Interface) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range all {
		c := m.cardLocked(i.Device)
		if c == nil {
			return errs.New(errs.NotFound, "no network card %s for %s", i.Device, i.Name)
		}
		if err := c.up(i); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	return nil
}

func (m *Machine) cardLocked(device string) *card {
	for n, c := range m.cards {
		if vmm.CardMAC(n).String() == device {
			return c
		}
	}
	return nil
}

func (c *card) up(i agentproto.Interface) error {
	c.down()
	o := networktest.Config{MTU: i.MTU, Gateways: i.Gateways}
	for _, a := range i.Addresses {
		if a.Addr().Is4() {
			o.V4 = a
		} else {
			o.V6 = a
		}
	}
	var err error
	if o.MAC, err = frame.ParseMAC(i.MAC); err != nil {
		return err
	}
	conn, err := net.FileConn(c.guest)
	if err != nil {
		return err
	}
	if c.station, err = networktest.New(conn, o); err != nil {
		_ = conn.Close() // nothing was sent on it
	}
	return err
}

func (c *card) down() {
	if c.station != nil {
		c.station.Close()
		c.station = nil
	}
}

// unconfigure takes the interfaces down.
func (m *Machine) unconfigure() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.cards {
		c.down()
	}
}

// closeCards ends the cards, for the end of the machine.
func (m *Machine) closeCards() {
	m.unconfigure()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.cards {
		_ = c.ours.Close() // sockets: their readers have seen the end of the frames
		_ = c.guest.Close()
	}
}
