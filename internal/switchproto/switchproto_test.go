package switchproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/frame"
)

const patience = 10 * time.Second

// serve starts a switch in this process.
func serve(t *testing.T, idle time.Duration) (path string, ended <-chan error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vz") // short: it is a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "switch")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := network.New(network.Options{ResolvConf: filepath.Join(dir, "resolv.conf")})
	ctx, cancel := context.WithCancelCause(context.Background())
	done, told := make(chan struct{}), make(chan error, 1)
	go func() {
		told <- Serve(ctx, l, s, idle)
		close(done)
	}()
	t.Cleanup(func() {
		cancel(errs.New(errs.Canceled, "the test is over"))
		<-done
		s.Close()
	})
	return path, told
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// pair is a frame socket as a shim has it.
func pair(t *testing.T) *os.File {
	t.Helper()
	ours, theirs := socketpair(t)
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours
}

func web() Join {
	return Join{
		Networks: []network.Network{{Name: "front", V4: netip.MustParsePrefix("10.40.0.1/24"), MAC: frame.MAC{2, 1}, MTU: 1280}},
		Machine: network.Machine{Instance: "web-1", Container: "web", Ready: true,
			Interfaces: []network.Interface{{Network: "front", MAC: frame.MAC{2, 2}, V4: netip.MustParseAddr("10.40.0.10"), Aliases: []string{"www"}}}},
	}
}

func members(t *testing.T, c *Client) int {
	t.Helper()
	got, err := c.Inspect(context.Background())
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	return len(got[0].Members)
}

func TestMembershipIsTheConnection(t *testing.T) {
	path, _ := serve(t, time.Hour)
	look, c := dial(t, path), dial(t, path)
	if err := c.Join(context.Background(), web(), []*os.File{pair(t)}); err != nil {
		t.Fatal(err)
	}
	if n := members(t, look); n != 1 {
		t.Errorf("%d members", n)
	}
	if err := c.SetReady(context.Background(), false); err != nil {
		t.Error(err)
	}
	if err := c.Join(context.Background(), web(), []*os.File{pair(t)}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("joined twice: %v", err)
	}
	// Who joins as the same machine takes its place, and the other notices.
	again := dial(t, path)
	if err := again.Join(context.Background(), web(), []*os.File{pair(t)}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("the one before does not notice")
	}
	again.Close()
	for end := time.Now().Add(patience); members(t, look) > 0; {
		if time.Now().After(end) {
			t.Fatal("the member is still there")
		}
		<-time.After(time.Millisecond)
	}
}

func TestRefuses(t *testing.T) {
	path, _ := serve(t, time.Hour)
	c := dial(t, path)
	ctx := context.Background()
	if err := c.SetReady(ctx, true); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("ready without a machine: %v", err)
	}
	if err := c.Join(ctx, web(), nil); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no frame socket: %v", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := c.Join(ctx, web(), []*os.File{null}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no socket: %v", err)
	}
	if err := c.Join(ctx, web(), make([]*os.File, maxFiles+1)); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("many sockets: %v", err)
	}
	if err := c.Join(ctx, web(), []*os.File{pair(t)}); err != nil {
		t.Fatal(err)
	}
	raw, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := send(raw, request{Version: 99, Inspect: true}, nil); err != nil {
		t.Fatal(err)
	}
	var r reply
	if _, err := receive(raw, &r); err != nil || !errs.Is(r.Error.Err(), errs.Unsupported) {
		t.Errorf("version 99: %+v, %v", r, err)
	}
	// It still serves.
	if _, err := c.Inspect(ctx); err != nil {
		t.Error(err)
	}
}

// A switch on which nobody is makes way for one of another version.
func TestEndsForAnotherVersion(t *testing.T) {
	path, ended := serve(t, time.Hour)
	raw, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := send(raw, request{Version: 99, Inspect: true}, nil); err != nil {
		t.Fatal(err)
	}
	var r reply
	if _, err := receive(raw, &r); err == nil && !errs.Is(r.Error.Err(), errs.Unavailable) { // or it is gone already
		t.Errorf("it says %+v", r)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What to do about a switch of another version is said: it is tried once.
func TestSwitchOfAnotherVersion(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.AcceptUnix()
		if err == nil {
			var files []*os.File
			files, err = receive(c, new(request))
			closeAll(files)
			err = errors.Join(err, send(c, reply{Error: errs.ToWire(errs.New(errs.Unsupported, "version 2 of the wire, this switch speaks 1"))}, nil))
		}
		served <- err
	}()
	_, err = Become(t.Context(), MemberOptions{Path: l.Addr().String(), Join: web(), Frames: []*os.File{pair(t)},
		Start: func(context.Context) error { return errors.New("there is one") }})
	if !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "down and up again") || !strings.Contains(err.Error(), "speaks 1") {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestEndsWhereNobodyIs(t *testing.T) {
	path, ended := serve(t, 50*time.Millisecond)
	c := dial(t, path)
	if err := c.Join(context.Background(), web(), []*os.File{pair(t)}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended with a member: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	c.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("does not end")
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	ours, theirs := streampair(t)
	defer theirs.Close()
	c := &Client{c: ours, replies: make(chan reply), done: make(chan struct{}), calling: make(chan struct{}, 1)}
	c.calling <- struct{}{}
	go c.read()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Inspect(ctx); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("a switch that does not answer: %v", err)
	}
	if _, err := c.Inspect(context.Background()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("after it: %v", err)
	}
}

func TestReceiveIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want func(error) bool
	}{
		"long":      {binary.BigEndian.AppendUint32(nil, maxMessage+1), func(err error) bool { return errs.Is(err, errs.DataLoss) }},
		"no JSON":   {[]byte{0, 0, 0, 1, '{'}, func(err error) bool { return errs.Is(err, errs.DataLoss) }},
		"cut":       {[]byte{0, 0, 0, 9, '{'}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"cut early": {[]byte{0, 0}, func(err error) bool { return errors.Is(err, io.EOF) }},
	} {
		ours, theirs := streampair(t)
		if _, err := theirs.Write(c.b); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		var r request
		if _, err := receive(ours, &r); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
		ours.Close()
	}
}

func TestFilesTravel(t *testing.T) {
	ours, theirs := streampair(t)
	defer ours.Close()
	defer theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := send(ours, request{Version: Version, Inspect: true}, []*os.File{w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var q request
	files, err := receive(theirs, &q)
	if err != nil || len(files) != 1 || !q.Inspect {
		t.Fatalf("%+v, %v: %v", q, files, err)
	}
	if _, err := files[0].Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	closeAll(files)
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, []byte("hello")) {
		t.Errorf("%q, %v", b, err)
	}
}
