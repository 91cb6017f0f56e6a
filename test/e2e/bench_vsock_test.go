package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/wire"
)

// Bytes that one measurement carries, and how many there are of each.
const (
	carried       = 32 << 20
	carriedRounds = 5
	latencyRounds = 200
)

// route leads from the host to a server in the container.
type route struct {
	name string
	dial func(server string) (net.Conn, error) // "echo", "sink", "source"
}

// What connections to a container cost: virtual sockets beside the relay over the
// agent, in turns. It reports; it gates nothing.
func TestBenchSockets(t *testing.T) {
	if os.Getenv("VZCOMPOSE_BENCH") == "" {
		t.Skip("VZCOMPOSE_BENCH is not set")
	}
	dir, err := os.MkdirTemp("", "vz-e2e") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	servers := []string{"echo", "sink", "source"}
	ports := map[string]uint32{}
	var sockets strings.Builder
	for i, name := range servers {
		ports[name] = uint32(5000 + i)
		fmt.Fprintf(&sockets, "      - {direction: out_of, source: \"vsock:%d\", destination: %s/v-%s}\n", ports[name], dir, name)
		fmt.Fprintf(&sockets, "      - {direction: out_of, source: /run/%s, destination: %s/a-%s}\n", name, dir, name)
	}
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 128MiB, stop_grace_period: 0s, command: [sleep, "36000"], interfaces: []}
containers:
  box:
    sockets:
`+sockets.String())
	s.must("up", "-d")
	s.must("cp", buildProgram(t, "sockets"), "box:/sockets")
	for _, name := range servers {
		for _, at := range []string{fmt.Sprint(ports[name]), "/run/" + name} {
			verb, more := name, []string{}
			switch name {
			case "echo":
				verb = "serve"
			case "source":
				more = append(more, fmt.Sprint(carried))
			}
			s.must(append([]string{"exec", "-d", "box", "/sockets", verb, at}, more...)...)
		}
	}
	c := s.shim(t, "box-1")
	unix := func(kind string) func(string) (net.Conn, error) {
		return func(server string) (net.Conn, error) { return net.Dial("unix", filepath.Join(dir, kind+server)) }
	}
	routes := []route{
		{"virtual sockets, the shim's call", func(server string) (net.Conn, error) {
			st, err := c.DialVsock(t.Context(), ports[server])
			if err != nil {
				return nil, err
			}
			return wire.AsConn(st), nil
		}},
		{"virtual sockets, relayed to a socket", unix("v-")},
		{"the relay over the agent", unix("a-")},
	}
	for _, r := range routes {
		s.eventually(r.name+" serves", func() bool {
			_, err := r.first()
			return err == nil
		})
	}
	var first, turn, in, out [3][]time.Duration
	add := func(to *[]time.Duration, measure func() (time.Duration, error)) {
		d, err := measure()
		if err != nil {
			t.Fatal(err)
		}
		*to = append(*to, d)
	}
	for range latencyRounds {
		for i, r := range routes {
			add(&first[i], r.first)
		}
	}
	for i, r := range routes {
		add(&turn[i], r.turns)
	}
	for range carriedRounds {
		for i, r := range routes {
			add(&in[i], r.toContainer)
			add(&out[i], r.fromContainer)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-38s %22s %12s %16s %16s\n", "", "connect, first answer", "round trip", "to container", "from container")
	for i, r := range routes {
		rate := func(d time.Duration) string { return fmt.Sprintf("%.0f MB/s", carried/d.Seconds()/1e6) }
		fmt.Fprintf(&b, "%-38s %22s %12s %16s %16s\n", r.name, median(first[i]).Round(10*time.Microsecond), median(turn[i]).Round(10*time.Microsecond),
			rate(median(in[i])), rate(median(out[i])))
	}
	t.Logf("\n%s", b.String())
}

// first is the time from the dial to the first answer.
func (r route) first() (time.Duration, error) {
	began := time.Now()
	c, err := r.dial("echo")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_, err = roundTrip(c)
	return time.Since(began), err
}

// turns is the median time of a byte there and back.
func (r route) turns() (time.Duration, error) {
	c, err := r.dial("echo")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var all []time.Duration
	for range latencyRounds {
		d, err := roundTrip(c)
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	return median(all), nil
}

func roundTrip(c net.Conn) (time.Duration, error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	began := time.Now()
	b := []byte{0}
	if _, err := c.Write(b); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, b)
	return time.Since(began), err
}

// toContainer is the time until the container has read carried bytes.
func (r route) toContainer() (time.Duration, error) {
	c, err := r.dial("sink")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	began := time.Now()
	b := make([]byte, 64<<10)
	for range carried / len(b) {
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(c, b[:1])
	return time.Since(began), err
}

// fromContainer is the time until the host has read carried bytes.
func (r route) fromContainer() (time.Duration, error) {
	began := time.Now()
	c, err := r.dial("source")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10))
	if err == nil && n != carried {
		err = errors.New("the stream is short")
	}
	return time.Since(began), err
}
