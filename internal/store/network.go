package store

import (
	"net/netip"
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Interface is a place on a network that an instance has been given: all that
// its machine and the switch are told of it.
type Interface struct {
	Network   string         `json:"network"`
	MAC       string         `json:"mac"`
	Addresses []netip.Prefix `json:"addresses"`          // with the length of the subnet's prefix; that of IPv4 first
	Gateways  []netip.Addr   `json:"gateways,omitempty"` // of its default routes; none: it has none
	MTU       int            `json:"mtu"`                // bytes
	Aliases   []string       `json:"aliases,omitempty"`
	// On is the network itself.
	On Network `json:"on"`
}

// Network is what a network has been given.
type Network struct {
	Gateway  netip.Prefix `json:"gateway"` // of IPv4
	Gateway6 netip.Prefix `json:"gateway6,omitzero"`
	MAC      string       `json:"mac"` // of the gateway
	MTU      int          `json:"mtu"` // bytes
	Internal bool         `json:"internal,omitempty"`
}

// networks is the record of the networks of a stack as they are declared.
type networks struct {
	Version  int             `json:"version"`
	Networks []state.Network `json:"networks"`
}

// Places of what belongs to a stack's networks.
func (h Home) Leases(stack string) string     { return filepath.Join(h.Stack(stack), "leases.json") }
func (h Home) SwitchLock(stack string) string { return filepath.Join(h.Stack(stack), "switch.lock") }
func (h Home) SwitchLog(stack string) string  { return filepath.Join(h.Stack(stack), "switch.log") }

// SwitchSocket is where the switch of a stack is found. No instance is called
// so.
func (h Home) SwitchSocket(stack string) string { return h.Socket(stack, ".switch") }

func (h Home) NetworkRecord(stack string) string {
	return filepath.Join(h.Stack(stack), "networks.json")
}

// WriteNetworks records the networks of a stack, as they are declared.
func (h Home) WriteNetworks(stack string, all []state.Network) error {
	return writeJSON(h.NetworkRecord(stack), networks{Version, all})
}

// ReadNetworks reads them. Where there is no record there are none.
func (h Home) ReadNetworks(stack string) ([]state.Network, error) {
	var n networks
	err := readJSON(h.NetworkRecord(stack), &n)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	return n.Networks, err
}
