package vmmtest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

const socketsPort = 5001 // of the guest

// vsock has what needs no program in the machine.
func (b *box) vsock(t *testing.T) {
	v := b.sockets(t)
	ctx := b.s.limit(t)
	if err := v.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("the guest's context ID is %d", v.CID())
	if _, err := v.Dial(ctx, deadPort); !errs.Is(err, errs.Unavailable) || ctx.Err() != nil {
		t.Errorf("a port on which nobody listens: got %v, want class unavailable", err)
	}
	for _, port := range []uint32{0, vmm.AgentPort, 1<<32 - 1} {
		if c, err := v.Dial(ctx, port); !errs.Is(err, errs.InvalidArgument) {
			if err == nil {
				_ = c.Close()
			}
			t.Errorf("dial port %d: got %v, want class invalid argument", port, err)
		}
		if l, err := v.Listen(port); !errs.Is(err, errs.InvalidArgument) {
			if err == nil {
				_ = l.Close()
			}
			t.Errorf("listen on port %d: got %v, want class invalid argument", port, err)
		}
	}
}

// sockets are the machine's virtual sockets; every driver has them.
func (b *box) sockets(t *testing.T) vmm.Vsock {
	t.Helper()
	m, ok := vmm.As[vmm.Vsocker](b.m)
	if !ok {
		t.Fatal("the driver's machines have no virtual sockets")
	}
	v, err := m.Vsock()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (b *box) noVsock(t *testing.T) {
	m, ok := vmm.As[vmm.Vsocker](b.m)
	if !ok {
		t.Fatal("the driver's machines have no virtual sockets")
	}
	if _, err := m.Vsock(); !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v, want class not found", err)
	}
}

// vsockBothWays talks to a program in the machine, and has it talk to the host.
func (b *box) vsockBothWays(t *testing.T) {
	if b.s.Sockets == "" {
		t.Skip("the harness has no program for it")
	}
	b.install(t)
	v := b.sockets(t)
	t.Run("dial", func(t *testing.T) {
		ctx := b.s.limit(t)
		in, stop := io.Pipe()
		said, out := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			r, err := b.run(t, in, out, b.s.Sockets, "echo", strconv.Itoa(socketsPort))
			if err == nil && r.exit.Code != 0 {
				err = fmt.Errorf("the program ended with %+v", r)
			}
			_ = out.CloseWithError(errors.Join(err, io.EOF))
			ended <- err
		}()
		if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || line != "listening\n" {
			t.Fatalf("the program says %q, %v", line, err)
		}
		for range 3 {
			c, err := v.Dial(ctx, socketsPort)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.echoed(c, 300<<10); err != nil {
				t.Error(err)
			}
		}
		_ = stop.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		<-b.exits
		if _, err := v.Dial(ctx, socketsPort); !errs.Is(err, errs.Unavailable) {
			t.Errorf("after its end: got %v, want class unavailable", err)
		}
	})
	t.Run("listen", func(t *testing.T) { b.guestCalls(t, v) })
}

// echoed sends n bytes, and wants them back.
func (b *box) echoed(c net.Conn, n int) error {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(b.s.Limit))
	sent := make([]byte, n)
	_, _ = rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return errs.New(errs.DataLoss, "other bytes came back")
	}
	return <-wrote
}

// guestCalls has the program connect to the host, on a port with and without a
// listener.
func (b *box) guestCalls(t *testing.T, v vmm.Vsock) {
	dial := func() result {
		r, err := b.run(t, nil, nil, b.s.Sockets, "dial", strconv.Itoa(hostPort+1), "hello")
		if err != nil {
			t.Error(err)
		}
		<-b.exits
		return r
	}
	if r := dial(); r.exit.Code == 0 {
		t.Errorf("nobody listens: %+v", r)
	}
	l, err := v.Listen(hostPort + 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Listen(hostPort + 1); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("a second listener: got %v, want class already exists", err)
	}
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(c, c, int64(len("hello")))
			err = errors.Join(err, c.Close())
		}
		served <- err
	}()
	if r := dial(); r.exit.Code != 0 || strings.TrimSpace(r.stdout) != "hello" {
		t.Errorf("got %+v", r)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if r := dial(); r.exit.Code == 0 {
		t.Errorf("after Close: %+v", r)
	}
}

// install copies the program into the container, where it is not there already.
func (b *box) install(t *testing.T) {
	t.Helper()
	if b.s.SocketsFile == "" {
		return
	}
	text, err := os.ReadFile(b.s.SocketsFile)
	if err != nil {
		t.Fatal(err)
	}
	ctx := b.s.limit(t)
	token := rand.Text()
	s, err := b.open(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	wrote := make(chan error, 1)
	go func() {
		w := tar.NewWriter(s)
		err := w.WriteHeader(&tar.Header{Name: path.Base(b.s.Sockets), Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg})
		_, werr := w.Write(text)
		wrote <- errors.Join(err, werr, w.Close(), s.CloseWrite())
	}()
	if err := errors.Join(b.agent.Write(ctx, agentproto.Write{Path: path.Dir(b.s.Sockets), Stream: token}), <-wrote); err != nil {
		t.Fatal(err)
	}
}
