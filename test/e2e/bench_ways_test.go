package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// pumpSize is what is sent each way, and pumpTurns how many bytes are echoed one
// at a time.
const (
	pumpSize  = 24 << 20
	pumpTurns = 300
)

// way is one of those by which a server in a machine is reached. network and host
// are where the host dials; "": another machine does, by name.
type way struct{ name, at, network, host string }

// What leads into a machine and between two, in one run: a relay of a socket, a
// published port, the network of the stack, and QEMU's own ways into the same
// machine, a virtio serial port and its user network with a forwarded port.
func TestBenchWays(t *testing.T) {
	if os.Getenv("VZCOMPOSE_BENCH") == "" {
		t.Skip("VZCOMPOSE_BENCH is not set")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the devices beside ours are written for amd64")
	}
	forwarded, published := freePort(t), freePort(t)
	t.Setenv("VZCOMPOSE_QEMU", besides(t, forwarded))
	s := scenario(t, fmt.Sprintf(`
defaults: {image: busybox, cpus: 1, memory: 128MiB, command: [sleep, "36000"], stop_grace_period: 0s}
networks: {small: {subnet: 10.86.0.0/24}, large: {subnet: 10.87.0.0/24, mtu: 65000}}
containers:
  box:
    privileged: true
    sockets: [{direction: out_of, source: /run/pump.sock, destination: ./pump.sock}]
    networks: [small]
    ports: ["%d:5000"]
  wide: {networks: [large]}
  peer: {networks: [small, large]}
`, published))
	s.must("up", "-d", "--cold", "box")
	t.Setenv("VZCOMPOSE_QEMU", filepath.Join(shared.cache, "qemu-counted"))
	s.must("up", "-d", "--cold")
	pump := buildPump(t)
	s.must("cp", pump, "box:/pump")
	for _, c := range []string{"peer", "wide"} {
		s.must("cp", pump, c+":/pump")
	}
	s.must("exec", "-d", "wide", "/pump", "tcp:5000")
	s.says(t, "box", "i=$(grep -l 52:54:00 /sys/class/net/*/address); i=${i%/address}; i=${i##*/}; ip addr add 10.0.2.15/24 dev $i && ip link set $i up")
	s.says(t, "box", "p=$(grep -l bench /sys/class/virtio-ports/*/name); mknod /vport c $(tr : ' ' <${p%name}dev)")
	for _, at := range []string{"unix:/run/pump.sock", "dev:/vport", "tcp:5000"} {
		s.must("exec", "-d", "box", "/pump", at)
	}
	s.eventually("all of them serve", func() bool { return s.sh("box", "test $(pidof pump | wc -w) = 3").code == 0 })
	s.benchWays(t, []way{
		{"relay of a socket", "", "unix", filepath.Join(s.dir, "pump.sock")},
		{"published port", "", "tcp", fmt.Sprint("127.0.0.1:", published)},
		{"virtio serial port", "", "unix", benchPort},
		{"user network, hostfwd", "", "tcp", fmt.Sprint("127.0.0.1:", forwarded)},
		{"machine to machine, MTU 1280", "box:5000", "", ""},
		{"machine to machine, MTU 65000", "wide:5000", "", ""},
	})
}

// benchWays measures each way in turns.
func (s *stack) benchWays(t *testing.T, ways []way) {
	took := map[string]*[3][]time.Duration{}
	for range 5 {
		for _, w := range ways {
			if took[w.name] == nil {
				took[w.name] = &[3][]time.Duration{}
			}
			for i, d := range s.once(t, w) {
				took[w.name][i] = append(took[w.name][i], d)
			}
		}
	}
	var b strings.Builder
	speed := func(d time.Duration) string { return fmt.Sprintf("%5.0f MB/s", pumpSize/1e6/d.Seconds()) }
	for _, w := range ways {
		m := took[w.name]
		fmt.Fprintf(&b, "%-30s in %s, out %s, one byte and back %s\n", w.name,
			speed(median(m[0])), speed(median(m[1])), (median(m[2]) / pumpTurns).Round(10*time.Microsecond))
	}
	t.Logf("medians of 5 rounds, %d MB each\n%s", pumpSize/1000000, b.String())
}

// once measures one way: in, out, and one byte and back.
func (s *stack) once(t *testing.T, w way) (took [3]time.Duration) {
	if w.network != "" {
		c := await(t, w.network, w.host)
		defer c.Close()
		for i, ask := range []byte("RSE") {
			took[i] = timed(func() { request(t, c, ask) })
		}
		return took
	}
	out := s.must("exec", "peer", "/pump", "call", w.at, fmt.Sprint(pumpSize), fmt.Sprint(pumpTurns)).out
	if _, err := fmt.Sscan(out, &took[0], &took[1], &took[2]); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return took
}

// buildPump builds bench/pump for the machines.
func buildPump(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pump")
	build := exec.Command("go", "build", "-o", path, "../../bench/pump")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// benchPort is the host's end of the virtio serial port, relative to the folder
// of QEMU.
const benchPort = "/tmp/vz-bench-port"

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// besides is a QEMU that gives its machines the other ways too.
func besides(t *testing.T, port int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	t.Cleanup(func() { _ = os.Remove(benchPort) })
	script := fmt.Sprintf(`#!/bin/sh
[ "$1" = --version ] && exec qemu-system-x86_64 --version
exec qemu-system-x86_64 "$@" -chardev socket,id=bench,path=%s,server=on,wait=off -device virtio-serial-pci,id=serial2,addr=0x1d \
  -device virtserialport,bus=serial2.0,chardev=bench,name=bench \
  -netdev user,id=user,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:5000 -device virtio-net-pci,netdev=user,addr=0x1e
`, benchPort, port)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// await dials until somebody answers an echo.
func await(t *testing.T, network, address string) net.Conn {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); ; {
		c, err := net.Dial(network, address)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(patience / 4))
			if err = echo(c, 1); err == nil {
				return c
			}
			_ = c.Close()
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: %v", address, err)
		}
	}
}

func ask(c net.Conn, what byte, n uint64) error {
	_, err := c.Write(binary.LittleEndian.AppendUint64([]byte{what}, n))
	return err
}

func echo(c net.Conn, turns uint64) error {
	if err := ask(c, 'E', turns); err != nil {
		return err
	}
	var b [1]byte
	for range turns {
		if _, err := c.Write(b[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return err
		}
	}
	return nil
}

// request has the guest do what, and returns when it was done.
func request(t *testing.T, c net.Conn, what byte) {
	t.Helper()
	var err error
	switch what {
	case 'E':
		err = echo(c, pumpTurns)
	case 'R':
		err = ask(c, what, pumpSize)
		b := make([]byte, 64<<10)
		for n := 0; n < pumpSize && err == nil; n += len(b) {
			_, err = c.Write(b)
		}
		if err == nil {
			_, err = io.ReadFull(c, b[:1])
		}
	case 'S':
		if err = ask(c, what, pumpSize); err == nil {
			_, err = io.CopyN(io.Discard, c, pumpSize)
		}
	}
	if err != nil {
		t.Fatalf("request %c: %v", what, err)
	}
}
