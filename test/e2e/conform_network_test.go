package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Networks, names and ports: lines 34 to 37.
func TestConformNetwork(t *testing.T) {
	tcp, udp, taken := freePort(t), freePort(t), freePort(t)
	web := serve(t, "the host")
	s := scenario(t, fmt.Sprintf(`
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
networks:
  front: {subnet: [10.83.0.0/24, "fd83::/64"], mtu: 1400}
  back: {subnet: 10.84.0.0/24, internal: true}
containers:
  placed:
    interfaces:
      - {network: front, address: 10.83.0.10/24, mac: "02:00:00:00:00:10", mtu: 1280, aliases: [shop, www]}
      - {network: back, address: 10.84.0.10}
    ports: ["%d:5000", "%d:5001/udp", "6000", "*::7000", "*::7001/udp"]
  near: {networks: [front], host_ports: [%s]}
  far: {networks: [back]}
  alone: {interfaces: []}
  two: {networks: [front], replicas: 2}
`, tcp, udp, web))
	s.must("up", "-d", "near", "far", "alone")
	s.must("up", "-d")
	behave(t, 34, "lo and eth0: addresses, routes, MTU and MAC as declared; interfaces: [] is lo only", func(t *testing.T) {
		// Not operstate: the kernel brings that up to date later, up to a second
		// (net/core/link_watch.c).
		if got := s.says(t, "placed", "cat /sys/class/net/*/carrier | uniq -c | tr -s ' '; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu"); got != " 3 1\n02:00:00:00:00:10\n1280\n1280" {
			t.Errorf("%q", got)
		}
		if got := s.says(t, "placed", "ip -o -4 addr show dev eth0 | awk '{print $4}'; ip -o -4 addr show dev eth1 | awk '{print $4}'; ip -o -6 addr show dev eth0 scope global | awk '{print $4}'"); got != "10.83.0.10/24\n10.84.0.10/24\nfd83::a53:a/64" {
			t.Errorf("%q", got)
		}
		if got := s.says(t, "placed", "ip route | grep default"); strings.TrimSpace(got) != "default via 10.83.0.1 dev eth0" {
			t.Errorf("%q", got)
		}
		if got := s.says(t, "far", "ip route | grep -c default || true"); got != "0" {
			t.Errorf("an internal network has a way out: %s", s.says(t, "far", "ip route"))
		}
		s.sh("alone", "ls /sys/class/net; cat /sys/class/net/lo/operstate").want(t, 0, "lo\nunknown\n")
	})
	behave(t, 33, "hosts and resolv.conf of a container on networks", func(t *testing.T) {
		s.sh("placed", "cat /etc/hosts /etc/resolv.conf").want(t, 0, "127.0.0.1\tlocalhost\n10.83.0.10\tplaced-1\nfd83::a53:a\tplaced-1\n10.84.0.10\tplaced-1\nnameserver 10.83.0.1\nnameserver 10.84.0.1\n")
	})
	behave(t, 35, "by name: container, alias, instance, replicas; from a container that was started earlier", func(t *testing.T) {
		for _, name := range []string{"placed", "placed-1", "shop", "www", "WWW"} {
			if got := s.says(t, "near", "nslookup "+name+" 10.83.0.1 | grep -A1 Name: | grep Address: | head -n 1"); got != "Address: 10.83.0.10" {
				t.Errorf("%s is %q", name, got)
			}
			s.says(t, "near", "ping -c 1 -W 10 "+name)
		}
		if got := s.says(t, "near", "nslookup -type=aaaa placed | grep Address: | tail -n 1"); got != "Address: fd83::a53:a" {
			t.Errorf("by IPv6 it is %q", got)
		}
		if got := s.says(t, "near", "nslookup two | grep -c 'Address: 10.83'"); got != "2" {
			t.Errorf("%s replicas", got)
		}
		s.must("stop", "two-1")
		if got := s.says(t, "near", "nslookup two | grep -c 'Address: 10.83'"); got != "1" {
			t.Errorf("%s replicas when one is stopped", got)
		}
		s.says(t, "near", "! nslookup nobody.invalid")
	})
	behave(t, 36, "two networks do not see each other, and an internal one has no way out", func(t *testing.T) {
		s.says(t, "far", "! nslookup near && ! ping -c 1 -W 1 10.83.0.1 && ping -c 1 -W 10 placed && ! nslookup host.vzcompose.internal")
		s.says(t, "near", "! ping -c 1 -W 1 10.84.0.10")
		get := func(from, to string) string { // busybox's wget, static as it is, falls over names with two addresses
			return s.says(t, from, "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 10 "+to+" "+web+" | tail -n 1")
		}
		for _, name := range []string{"host.vzcompose.internal", "host.docker.internal"} {
			if got := get("near", name); got != "the host" {
				t.Errorf("the way to %s: %q", name, got)
			}
		}
		// The host has nothing else for it, and nothing for others: the port of
		// another stack or of a sibling is a port of the host.
		if got := s.says(t, "near", fmt.Sprintf("nc -w 5 host.vzcompose.internal %d </dev/null 2>&1 || echo refused", tcp)); !strings.Contains(got, "refused") {
			t.Errorf("a published port that is not among its host_ports: %q", got)
		}
		own := serveAt(t, "0.0.0.0:0", "the host")
		for _, to := range append(hostAddresses(t), "10.83.0.1", "127.0.0.1") {
			for from, port := range map[string]string{"placed": web, "near": own} {
				if got := s.says(t, from, "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 "+to+" "+port+" 2>/dev/null | tail -n 1"); got != "" {
					t.Errorf("%s reaches the host at %s: %q", from, to, got)
				}
			}
		}
		for _, to := range []string{"10.84.0.1", "10.83.0.1"} {
			if got := get("far", to); got != "" {
				t.Errorf("from the internal network to %s: %q", to, got)
			}
		}
	})
	behave(t, 46, "what goes over networks is counted", func(t *testing.T) {
		contains(t, "network ls", s.must("network", "ls").out, "back", "10.84.0.0/24", "front", "10.83.0.0/24, fd83::/64")
		contains(t, "network inspect", s.must("network", "inspect", "front").out, `"instance": "placed-1"`, `"address": "10.83.0.10"`, `"sent_frames"`)
		if got := s.must("stats", "--no-stream", "--format", "{{range .Networks}}{{if .Received}}{{.Name}} {{end}}{{end}}", "placed").out; !strings.Contains(got, "eth0 ") {
			t.Errorf("stats: %q", got)
		}
	})
	behave(t, 37, "published ports answer when up returns; one that is taken fails before anything starts, naming both", func(t *testing.T) {
		s.ports(t, tcp, udp, taken)
	})
}

// hostAddresses are those of the host's interfaces, of IPv4.
func hostAddresses(t *testing.T) (all []string) {
	t.Helper()
	for _, a := range must(net.InterfaceAddrs()) {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			all = append(all, n.IP.String())
		}
	}
	return all
}

// serve serves a text on the host's loopback, and answers the port.
func serve(t *testing.T, text string) string { t.Helper(); return serveAt(t, "127.0.0.1:0", text) }

func serveAt(t *testing.T, at, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// published is the port of the host that leads to one of placed.
func (s *stack) published(target string) string {
	at := strings.TrimSpace(s.must("port", "placed", target).out)
	return at[strings.LastIndexByte(at, ':')+1:]
}

func (s *stack) ports(t *testing.T, tcp, udp, taken int) {
	s.must("cp", buildPump(t), "placed:/pump")
	for _, at := range []string{"tcp:5000", "udp:5001", "tcp:6000", "tcp:7000", "udp:7001"} {
		s.must("exec", "-d", "placed", "/pump", at)
	}
	for _, at := range []string{fmt.Sprint("127.0.0.1:", tcp), strings.TrimSpace(s.must("port", "placed", "6000").out)} {
		c := await(t, "tcp", at)
		if err := echo(c, 20); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		_ = c.Close()
	}
	if err := echoDatagrams(fmt.Sprint("127.0.0.1:", udp)); err != nil {
		t.Errorf("udp: %v", err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} { // at all addresses, of both families
		if l, err := net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			t.Logf("this host has no %s: %v", host, err)
			continue
		} else {
			_ = l.Close()
		}
		c := await(t, "tcp", net.JoinHostPort(host, s.published("7000")))
		if err := echo(c, 20); err != nil {
			t.Errorf("by %s: %v", host, err)
		}
		_ = c.Close()
		if err := echoDatagrams(net.JoinHostPort(host, s.published("7001/udp"))); err != nil {
			t.Errorf("udp by %s: %v", host, err)
		}
	}
	// It is there as soon as `up` comes back.
	s.must("restart", "placed")
	s.must("exec", "-d", "placed", "/pump", "tcp:5000")
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", tcp))
	if err != nil {
		t.Errorf("after a restart: %v", err)
	} else {
		_ = c.Close()
	}
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", taken))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other := &stack{t: s.t, name: s.name + "-other", dir: filepath.Join(s.dir, "other")}
	if err := os.Mkdir(other.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	other.write(fmt.Sprintf("containers: {web: {image: busybox, cpus: 1, memory: 64MiB, ports: [\"%d:80\", \"%d:81\"]}, db: {image: busybox, cpus: 1, memory: 64MiB}}\n", tcp, taken))
	defer other.vz("down", "-t", "0")
	r := other.vz("up", "-d")
	contains(t, "up with ports that are taken", r.err, fmt.Sprintf("port %d/tcp of 127.0.0.1, which web-1 asks for, is taken by placed-1 of stack %s", tcp, s.name),
		fmt.Sprintf("port %d/tcp of 127.0.0.1, which web-1 asks for, is taken by another program", taken))
	if r.code != 1 || other.states() != "" {
		t.Errorf("something was begun: %s\n%s", r, other.states())
	}
}

// echoDatagrams talks to an echo server until an answer comes: datagrams may be
// lost.
func echoDatagrams(address string) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 64)
	for i := range 60 {
		text := fmt.Sprint("datagram ", i)
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if n, err := c.Read(buf); err == nil && string(buf[:n]) == text {
			return nil
		}
	}
	return fmt.Errorf("no answer from %s", address)
}
