package engine

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

// Virtual sockets come with the device by which programs ask for their address,
// once, and with a filter that lets their family through.
func TestVsockOfARecord(t *testing.T) {
	device := store.Device{Source: vsockDevice, Path: vsockDevice}
	fuse := store.Device{Source: "/dev/fuse", Path: "/dev/fuse"}
	for name, x := range map[string]struct {
		c    spec.Container
		want []store.Device
	}{
		"none":        {spec.Container{Devices: []string{"/dev/fuse"}}, []store.Device{fuse}},
		"asked":       {spec.Container{Vsock: true, Devices: []string{"/dev/fuse"}}, []store.Device{fuse, device}},
		"asked twice": {spec.Container{Vsock: true, Devices: []string{vsockDevice}}, []store.Device{device}},
	} {
		var rec store.Instance
		transcribe(&rec, x.c)
		if !reflect.DeepEqual(rec.Devices, x.want) || rec.Vsock != x.c.Vsock {
			t.Errorf("%s: %+v", name, rec)
		}
		if err := preparable(x.c); errs.Is(err, errs.Unsupported) != x.c.Vsock {
			t.Errorf("%s: prepared: %v", name, err)
		}
	}
	from := &bootFiles{version: "6.1.0"}
	plain, err := filterOf(store.Instance{}, from)
	if err != nil {
		t.Fatal(err)
	}
	with, err := filterOf(store.Instance{Vsock: true}, from)
	if err != nil || bytes.Equal(plain.Program, with.Program) {
		t.Errorf("the filters are the same (%v)", err)
	}
}

// A port at the container's end of a socket is read as one, whichever end that is.
func TestVsockPortOfARelay(t *testing.T) {
	c := spec.Container{Vsock: true, Sockets: []spec.Socket{
		{Direction: "out_of", Source: "vsock:5000", Destination: "/s"}, {Direction: "into", Source: "/s", Destination: "vsock:7000"},
		{Direction: "into", Source: "/s", Destination: "/run/s"}}}
	var rec store.Instance
	transcribe(&rec, c)
	for i, want := range []uint32{5000, 7000, 0} {
		if port, ok := rec.Relays[i].VsockPort(); port != want || ok != (want != 0) {
			t.Errorf("relay %d: %d, %v", i, port, ok)
		}
	}
	if port, ok := (state.Relay{Direction: "into", Destination: "vsock:seven"}).VsockPort(); !ok || port != 0 {
		t.Errorf("what is no port: %d, %v", port, ok)
	}
}
