//go:build linux

package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/relay"
)

// Bounds of relays.
const (
	maxRelays   = 128
	maxAccepted = 128 // connections of one relay that wait for the host; more wait in the backlog
	claimLimit  = 30 * time.Second
)

// relays are the container's sockets, by ID. They go with its process.
type relays struct {
	mu   sync.Mutex // guards byID
	byID map[string]*relaySocket
}

// relaySocket is one of them. Ending ctx ends it, and what it carries.
type relaySocket struct {
	agentproto.Relay
	ctx  context.Context
	end  context.CancelFunc
	root *os.File // of the container
}

// Relay opens a socket in the container.
func (a *agent) Relay(_ context.Context, r agentproto.Relay) (agentproto.Empty, error) {
	if err := checkID(r.ID); err != nil {
		return agentproto.Empty{}, err
	}
	if !absolute(r.Path) || r.Mode > 0o777 || r.Direction != agentproto.OutOf && r.Direction != agentproto.Into {
		return agentproto.Empty{}, errs.New(errs.InvalidArgument, "relay %.16q of %.200q with mode %o", r.Direction, r.Path, r.Mode)
	}
	c, err := a.running()
	if err != nil {
		return agentproto.Empty{}, err
	}
	root, err := c.openRoot()
	if err != nil {
		return agentproto.Empty{}, err
	}
	one := &relaySocket{Relay: r, root: root}
	one.ctx, one.end = context.WithCancel(context.Background())
	if err := a.relays.add(one); err != nil {
		one.end()
		_ = root.Close()
		return agentproto.Empty{}, err
	}
	context.AfterFunc(one.ctx, func() { _ = root.Close() })
	if r.Direction == agentproto.OutOf {
		err = a.streams.bind(agentproto.RelayToken(r.ID), dialled{one, a})
	} else {
		err = a.listenFor(one)
	}
	if err == nil && c.process.ended() { // whoever ends the others may have missed this one
		err = errs.New(errs.FailedPrecondition, "the container has ended")
	}
	if err != nil {
		a.endRelay(r.ID)
		return agentproto.Empty{}, err
	}
	return agentproto.Empty{}, nil
}

// Unrelay ends a relay and what it carries.
func (a *agent) Unrelay(_ context.Context, u agentproto.Unrelay) (agentproto.Empty, error) {
	a.endRelay(u.ID)
	return agentproto.Empty{}, nil
}

func (t *relays) add(r *relaySocket) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.byID[r.ID] != nil:
		return errs.New(errs.AlreadyExists, "relay %q is there already", r.ID)
	case len(t.byID) >= maxRelays:
		return errs.New(errs.ResourceExhausted, "more than %d relays", maxRelays)
	}
	if t.byID == nil {
		t.byID = map[string]*relaySocket{}
	}
	t.byID[r.ID] = r
	return nil
}

// endRelay ends one; none is fine.
func (a *agent) endRelay(id string) {
	a.relays.mu.Lock()
	r := a.relays.byID[id]
	delete(a.relays.byID, id)
	a.relays.mu.Unlock()
	if r != nil {
		a.streams.unbind(agentproto.RelayToken(id))
		r.end()
	}
}

// endRelays ends all: the container's process has ended.
func (a *agent) endRelays() {
	a.relays.mu.Lock()
	var ids []string
	for id := range a.relays.byID {
		ids = append(ids, id)
	}
	a.relays.mu.Unlock()
	for _, id := range ids {
		a.endRelay(id)
	}
}

// openRoot answers the root that the container's first process sees, its mounts
// included.
func (c *container) openRoot() (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", c.process.child.pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil && c.process.ended() { // the number may be another's by now
		_ = unix.Close(fd)
		err = unix.ESRCH
	}
	if err != nil {
		return nil, errs.New(errs.FailedPrecondition, "open the container's root: %w", err)
	}
	return os.NewFile(uintptr(fd), "root"), nil
}

// dialled is the end of the streams to a server in the container.
type dialled struct {
	r *relaySocket
	a *agent
}

func (dialled) exited()  {}
func (dialled) release() {}

// attach connects one more stream with the server.
func (d dialled) attach(s *wire.Stream) {
	go func() {
		c, err := d.r.dial()
		if err != nil {
			_ = s.Conn().SetWriteDeadline(time.Now().Add(time.Second))
			_ = s.Abort(err)
			_ = s.Close()
			return
		}
		_, _ = relay.Pair(d.r.ctx, wire.AsConn(s), c) // its ends see how it ended
	}()
}

// dial connects to the socket, whose path is resolved in the container's root
// and may have any length: the socket itself is named by descriptor.
func (r *relaySocket) dial() (net.Conn, error) {
	fd, err := inRoot{int(r.root.Fd())}.open(r.Path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errs.New(errs.FailedPrecondition, "%s is no socket", r.Path)
	}
	ctx, cancel := context.WithTimeout(r.ctx, claimLimit)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", fdPath(fd))
	if err != nil {
		return nil, errs.New(errs.Unavailable, "connect to %s: %w", r.Path, errors.Unwrap(err))
	}
	return c, nil
}

// listenFor opens the socket that stands for a server of the host.
func (a *agent) listenFor(r *relaySocket) error {
	root := inRoot{int(r.root.Fd())}
	return root.at(r.Path, func(dir int, name string) error {
		l, err := r.listen(dir, name)
		if err != nil {
			return fmt.Errorf("listen at %s: %w", r.Path, err)
		}
		keep, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			_ = l.Close()
			return fmt.Errorf("listen at %s: %w", r.Path, err)
		}
		l = a.accepting(l)
		context.AfterFunc(r.ctx, func() {
			_ = l.Close()
			removeSocket(keep, name)
			_ = unix.Close(keep)
		})
		go a.accept(r, l)
		return nil
	})
}

// listen makes the socket under another name first: a name of any length can be
// had then, and a socket that is left from before is replaced at once.
func (r *relaySocket) listen(dir int, name string) (net.Listener, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errs.New(errs.AlreadyExists, "something that is no socket is there")
	}
	temporary := ".vz-" + rand.Text()[:12]
	lc := net.ListenConfig{}
	l, err := lc.Listen(r.ctx, "unix", fdPath(dir)+"/"+temporary)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	mode := r.Mode
	if mode == 0 {
		mode = 0o600
	}
	// Nobody in the container can have it open yet; a link that was put in its
	// place is not followed.
	err = unix.Fchownat(dir, temporary, int(r.UID), int(r.GID), unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = chmodSocket(dir, temporary, mode)
	}
	if err == nil {
		err = unix.Renameat(dir, temporary, dir, name)
	}
	if err != nil {
		_ = l.Close()
		_ = unix.Unlinkat(dir, temporary, 0)
		return nil, err
	}
	return l, nil
}

func chmodSocket(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errs.New(errs.FailedPrecondition, "something else is in its place")
	}
	return unix.Chmod(fdPath(fd), mode)
}

// removeSocket removes name from a directory if it still is a socket.
func removeSocket(dir int, name string) {
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		_ = unix.Unlinkat(dir, name, 0) // the container may have been quicker
	}
}

// accept tells the host of each connection until the relay ends.
func (a *agent) accept(r *relaySocket, l net.Listener) {
	slots := make(chan struct{}, maxAccepted)
	for {
		select {
		case slots <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		a.announce(r, c, func() { <-slots })
	}
}

// announce has c wait for the host's stream.
func (a *agent) announce(r *relaySocket, c net.Conn, free func()) {
	token := rand.Text()
	e := &claimed{r: r, conn: c, free: sync.OnceFunc(func() {
		a.streams.unbind(token)
		free()
	})}
	if err := a.streams.bind(token, e); err != nil { // one in 2^128
		_ = c.Close()
		free()
		return
	}
	e.timer = time.AfterFunc(claimLimit, e.drop)
	a.notices.publish(agentproto.NoticeAccepted, agentproto.Accepted{Relay: r.ID, Token: token})
}

// claimed is a connection that waits for the host.
type claimed struct {
	r     *relaySocket
	conn  net.Conn
	free  func()
	timer *time.Timer

	mu   sync.Mutex // guards gone
	gone bool       // it was given away, or dropped
}

func (*claimed) exited()  {}
func (*claimed) release() {}

func (c *claimed) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.gone
	c.gone = true
	return !was
}

func (c *claimed) drop() {
	if c.leave() {
		c.free()
		_ = c.conn.Close()
	}
}

// attach pairs the connection with the host's stream.
func (c *claimed) attach(s *wire.Stream) {
	if !c.leave() {
		_ = s.Close()
		return
	}
	go func() { // the streams are locked
		if c.timer != nil {
			c.timer.Stop()
		}
		c.free()
		_, _ = relay.Pair(c.r.ctx, wire.AsConn(s), c.conn) // its ends see how it ended
	}()
}

// openStream takes a stream that the host has opened.
func (a *agent) openStream(token string, s *wire.Stream) error {
	if protocol, port, ok := agentproto.ParsePortToken(token); ok {
		return a.openPort(protocol, port, s)
	}
	if id, ok := strings.CutPrefix(token, agentproto.RelayToken("")); ok {
		a.relays.mu.Lock()
		r := a.relays.byID[id]
		a.relays.mu.Unlock()
		if r == nil || r.Direction != agentproto.OutOf {
			return errs.New(errs.NotFound, "no relay %q", cutName(path.Base(id)))
		}
	}
	return a.streams.open(token, s)
}
