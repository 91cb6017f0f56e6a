//go:build linux

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// maxQMPLine bounds one line from QEMU, in bytes.
const maxQMPLine = 1 << 20

// qmpEvent is unasked news from QEMU.
type qmpEvent struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// qmpMessage is any line that QEMU sends (docs/interop/qmp-spec.txt).
type qmpMessage struct {
	qmpEvent
	Greeting json.RawMessage `json:"QMP"`
	ID       uint64          `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// qmp is a client of QEMU's monitor: calls by id from any goroutine, events to
// one function.
type qmp struct {
	c       *net.UnixConn
	onEvent func(qmpEvent)

	write sync.Mutex // serialises lines

	mu      sync.Mutex // guards the following
	next    uint64
	waiting map[uint64]chan qmpMessage
	err     error

	done chan struct{} // closed when the reader has ended
}

// dialQMP takes the greeting and enters command mode. It owns c, also on error.
// onEvent is called on the reading goroutine and must not block or call back.
func dialQMP(ctx context.Context, c *net.UnixConn, onEvent func(qmpEvent)) (*qmp, error) {
	q := &qmp{c: c, onEvent: onEvent, waiting: map[uint64]chan qmpMessage{}, done: make(chan struct{})}
	greeted := make(chan struct{})
	go q.read(greeted)
	select {
	case <-greeted:
	case <-q.done:
		return nil, fmt.Errorf("await qmp greeting: %w", q.ended())
	case <-ctx.Done():
		q.close()
		return nil, fmt.Errorf("await qmp greeting: %w", context.Cause(ctx))
	}
	if err := q.call(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) read(greeted chan<- struct{}) {
	defer close(q.done)
	sc := bufio.NewScanner(q.c)
	sc.Buffer(make([]byte, 0, 4<<10), maxQMPLine)
	for sc.Scan() {
		var m qmpMessage
		if err := json.Unmarshal(sc.Bytes(), &m); err != nil {
			q.end(errs.New(errs.DataLoss, "decode qmp line: %w", err))
			return
		}
		switch {
		case m.Greeting != nil:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.Name != "":
			q.onEvent(m.qmpEvent)
		default:
			q.mu.Lock()
			ch := q.waiting[m.ID]
			delete(q.waiting, m.ID)
			q.mu.Unlock()
			if ch != nil {
				ch <- m
			}
		}
	}
	err := errs.New(errs.Unavailable, "qemu closed its monitor")
	if cause := sc.Err(); cause != nil { // a reset, where it ended before it read all
		err = errs.New(errs.Unavailable, "qemu's monitor broke: %w", cause)
	}
	q.end(err)
}

func (q *qmp) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	for id, ch := range q.waiting {
		delete(q.waiting, id)
		close(ch)
	}
}

func (q *qmp) ended() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// close ends the connection and waits for the reader.
func (q *qmp) close() {
	q.end(errs.New(errs.Canceled, "the monitor was closed"))
	_ = q.c.Close() // nothing is lost with it
	<-q.done
}

// call runs a command; fds (may be none) travel with it. result may be nil.
func (q *qmp) call(ctx context.Context, command string, args, result any, fds ...int) error {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return fmt.Errorf("qmp %s: %w", command, q.err)
	}
	q.next++
	id, ch := q.next, make(chan qmpMessage, 1)
	q.waiting[id] = ch
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return errs.New(errs.Internal, "encode qmp %s: %w", command, err)
	}
	if err := q.send(append(line, '\n'), fds); err != nil {
		return errs.New(errs.Unavailable, "qmp %s: %w", command, err)
	}
	select {
	case m, ok := <-ch:
		switch {
		case !ok:
			return fmt.Errorf("qmp %s: %w", command, q.ended())
		case m.Error != nil:
			return errs.New(errs.FailedPrecondition, "qmp %s: %s", command, m.Error.Desc)
		case result != nil:
			return json.Unmarshal(m.Return, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, context.Cause(ctx))
	}
}

func (q *qmp) send(line []byte, fds []int) error {
	q.write.Lock()
	defer q.write.Unlock()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := q.c.WriteMsgUnix(line, oob, nil)
	return err
}
