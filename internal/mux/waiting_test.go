package mux

import (
	"testing"
)

// A host dials long before its guest is up: whatever comes first, the listener
// is there when the dial is read.
func TestADialThatWaitedFindsTheListener(t *testing.T) {
	for range 200 {
		a, b := sockets(t)
		host := New(unixConn(t, a), Host, Options{})
		dialled := make(chan error, 1)
		go func() {
			_, err := host.Dial(t.Context(), port)
			dialled <- err
		}()
		guest, l, err := NewListener(unixConn(t, b), Guest, Options{}, port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); err != nil {
			t.Error(err)
		}
		if err := <-dialled; err != nil {
			t.Error(err)
		}
		_ = host.Close()
		_ = guest.Close()
	}
}
