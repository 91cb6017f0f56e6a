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

// What a relay carries, beside QEMU's own ways into the same machine, in one
// run: a virtio serial port, and its user network with a forwarded port.
func TestBenchRelay(t *testing.T) {
	if os.Getenv("VZCOMPOSE_BENCH") == "" {
		t.Skip("VZCOMPOSE_BENCH is not set")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the devices beside ours are written for amd64")
	}
	port := freePort(t)
	t.Setenv("VZCOMPOSE_QEMU", besides(t, port))
	s := scenario(t, `
containers:
  box:
    image: busybox
    cpus: 1
    memory: 128MiB
    privileged: true
    command: [sleep, "36000"]
    stop_grace_period: 0s
    sockets: [{direction: out_of, source: /run/pump.sock, destination: ./pump.sock}]
`)
	s.must("up", "-d", "--cold")
	s.must("cp", buildPump(t), "box:/pump")
	s.must("cp", netModules(t), "box:/ko")
	s.says(t, "box", "for m in failover net_failover virtio_net; do insmod /ko/$m.ko || exit 1; done")
	s.says(t, "box", "ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up")
	s.says(t, "box", "p=$(grep -l bench /sys/class/virtio-ports/*/name); mknod /vport c $(tr : ' ' <${p%name}dev)")
	ways := []struct{ name, at, network, host string }{
		{"relay of a socket", "unix:/run/pump.sock", "unix", filepath.Join(s.dir, "pump.sock")},
		{"virtio serial port", "dev:/vport", "unix", benchPort},
		{"user network, hostfwd", "tcp:5000", "tcp", fmt.Sprint("127.0.0.1:", port)},
	}
	for _, w := range ways {
		s.must("exec", "-d", "box", "/pump", w.at)
	}
	s.eventually("all of them serve", func() bool { return s.sh("box", "test $(pidof pump | wc -w) = 3").code == 0 })
	took := map[string]*[3][]time.Duration{}
	for range 5 {
		for _, w := range ways {
			if took[w.name] == nil {
				took[w.name] = &[3][]time.Duration{}
			}
			c := await(t, w.network, w.host)
			for i, ask := range []byte("RSE") {
				took[w.name][i] = append(took[w.name][i], timed(func() { request(t, c, ask) }))
			}
			_ = c.Close()
		}
	}
	var b strings.Builder
	speed := func(d time.Duration) string { return fmt.Sprintf("%5.0f MB/s", pumpSize/1e6/d.Seconds()) }
	for _, w := range ways {
		m := took[w.name]
		fmt.Fprintf(&b, "%-24s host to guest %s, guest to host %s, one byte and back %s\n", w.name,
			speed(median(m[0])), speed(median(m[1])), (median(m[2]) / pumpTurns).Round(10*time.Microsecond))
	}
	t.Logf("medians of 5 rounds\n%s", b.String())
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

// netModules are the drivers of the network card, from the kernel's package.
func netModules(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --wildcards '*/net/virtio_net.ko' '*/net/net_failover.ko' '*/core/failover.ko' && find "$1" -name '*.ko' -exec mv {} "$1" \;`,
		filepath.Join(shared.cache, "kernel.deb"), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, e := range must(os.ReadDir(dir)) {
		if e.IsDir() {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	return dir
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
