// Package lease gives the networks of a stack their subnets and the interfaces
// of its instances their addresses, and remembers both, so that an instance has
// the same ones after every restart. What the stack file says comes first, and
// else the same names lead to the same addresses as far as they can.
//
// The book is a file that one command at a time may change: who holds the
// stack's lock.
package lease

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// Version of the record. A reader refuses any other.
const Version = 1

// maxRecord bounds it, in bytes.
const maxRecord = 16 << 20

// Network is what a network has been given.
type Network struct {
	Subnet   netip.Prefix `json:"subnet"` // of IPv4
	Gateway  netip.Addr   `json:"gateway"`
	Subnet6  netip.Prefix `json:"subnet6,omitzero"` // where it has IPv6
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
}

// Lease is what an interface of an instance has been given.
type Lease struct {
	Network  string     `json:"network"`
	Instance string     `json:"instance"`
	Address  netip.Addr `json:"address"`
	Address6 netip.Addr `json:"address6,omitzero"`
	MAC      frame.MAC  `json:"mac"`
	Static   bool       `json:"static,omitempty"` // the stack file says so
}

// Wish is what the stack file says of a network. Zeroes leave it open.
type Wish struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	IPv6    bool
	Subnet6 netip.Prefix
}

// Book is what has been given in one stack. Make it with Open.
type Book struct {
	path     string
	stack    string
	networks map[string]Network
	leases   []Lease
}

// record is the book's file.
type record struct {
	Version  int                `json:"version"`
	Networks map[string]Network `json:"networks"`
	Leases   []Lease            `json:"leases"`
}

// New returns an empty book of a stack, which Save writes to path.
func New(path, stack string) *Book {
	return &Book{path: path, stack: stack, networks: map[string]Network{}}
}

// Open reads the book of a stack at path. One that is not there is empty.
func Open(path, stack string) (*Book, error) {
	b := New(path, stack)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, nil
	case err != nil:
		return nil, fmt.Errorf("read leases: %w", err)
	case len(text) > maxRecord:
		return nil, errs.New(errs.DataLoss, "%s has more than %d bytes", path, maxRecord)
	}
	var r record
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, errs.New(errs.DataLoss, "read leases %s: %w", path, err)
	}
	if r.Version != Version {
		return nil, errs.New(errs.Unsupported, "%s has version %d, this vzcompose knows %d", path, r.Version, Version)
	}
	if r.Networks != nil {
		b.networks = r.Networks
	}
	b.leases = r.Leases
	if err := b.check(); err != nil {
		return nil, errs.New(errs.DataLoss, "read leases %s: %w", path, err)
	}
	return b, nil
}

// check finds what no book can say.
func (b *Book) check() error {
	for name, n := range b.networks {
		if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() || !n.Subnet.Contains(n.Gateway) {
			return fmt.Errorf("network %q has the subnet %v and the gateway %v", name, n.Subnet, n.Gateway)
		}
	}
	for i, l := range b.leases {
		n, ok := b.networks[l.Network]
		if !ok || !n.Subnet.Contains(l.Address) {
			return fmt.Errorf("%s has %v, which network %q has not", l.Instance, l.Address, l.Network)
		}
		for _, o := range b.leases[:i] {
			if o.Network == l.Network && o.Address == l.Address {
				return fmt.Errorf("%s and %s both have %v", o.Instance, l.Instance, l.Address)
			}
		}
	}
	return nil
}

// Save writes the book whole or not at all.
func (b *Book) Save() error {
	text, err := json.MarshalIndent(record{Version, b.networks, b.leases}, "", "  ")
	if err != nil {
		return errs.New(errs.Internal, "encode leases: %w", err)
	}
	if len(text) >= maxRecord { // it could not be read again
		return errs.New(errs.ResourceExhausted, "save leases: %s would have %d bytes, and has at most %d", b.path, len(text), maxRecord)
	}
	if err := durable.WriteFile(b.path, append(text, '\n')); err != nil {
		return fmt.Errorf("save leases: %w", err)
	}
	return nil
}

// Networks answers the names of the networks there are, sorted.
func (b *Book) Networks() []string { return slices.Sorted(maps.Keys(b.networks)) }

// Network answers what a network has been given.
func (b *Book) Network(name string) (Network, bool) {
	n, ok := b.networks[name]
	return n, ok
}

// Leases answers what has been given on a network, or on all for "", in the
// order of addresses.
func (b *Book) Leases(network string) []Lease {
	var found []Lease
	for _, l := range b.leases {
		if network == "" || l.Network == network {
			found = append(found, l)
		}
	}
	slices.SortFunc(found, func(x, y Lease) int { return x.Address.Compare(y.Address) })
	return found
}
