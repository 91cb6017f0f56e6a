package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/lease"
	"github.com/vzcompose/vzcompose/internal/network/segment"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
)

// plugged is a machine on a switch of the test's.
type plugged struct {
	machine vmm.Machine
	agent   *agentproto.Client
	member  *network.Member
}

// front is the network of these tests.
func front(mtu int) network.Network {
	gateway := netip.MustParsePrefix("10.40.0.1/24")
	return network.Network{Name: "front", V4: gateway, V6: netip.MustParsePrefix("fd40::1/64"), MAC: lease.MAC(gateway.Addr()), MTU: mtu}
}

// plug restores a machine with a card and puts it on the switch: at 10.40.0.n.
func (m mill) plug(t *testing.T, s *network.Switch, name string, n byte, mtu int) *plugged {
	t.Helper()
	m.cfg.Cards = 1
	machine, notes := m.boot(t, vmm.Restored)
	if len(notes) > 0 {
		t.Errorf("notes: %q", notes)
	}
	networker, ok := vmm.As[vmm.Networker](machine)
	if !ok {
		t.Fatal("the machine has no network cards")
	}
	frames, err := net.FileConn(must(networker.Frames(0)))
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := netip.AddrFrom4([4]byte{10, 40, 0, n}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x40, 15: n})
	i := network.Interface{Network: "front", MAC: lease.MAC(v4), V4: v4, V6: v6}
	container, _, _ := strings.Cut(name, "-")
	member, err := s.Join(network.Machine{Instance: name, Container: container, Ready: true, Interfaces: []network.Interface{i},
		HostPorts: []network.HostPorts{{Low: 1024, High: 65535, Protocol: "tcp"}}}, []segment.Conn{frames})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Leave)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	agent := must(agentproto.NewClient(ctx, must(machine.Dial(ctx, vmm.AgentPort)), agentproto.Notices{}))
	set := agentproto.Setup{Hostname: name, Entropy: make([]byte, 64), Root: agentproto.Root{Lower: "root"},
		Interfaces: []agentproto.Interface{{Device: vmm.CardMAC(0).String(), Name: "eth0", MAC: i.MAC.String(), MTU: mtu,
			Addresses: []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)},
			Gateways:  []netip.Addr{netip.MustParseAddr("10.40.0.1"), netip.MustParseAddr("fd40::1")}}}}
	must(rand.Read(set.Entropy))
	done := must(agent.Setup(ctx, set))
	for _, p := range done.Phases {
		t.Logf("%s: %s took %s", name, p.Name, p.Duration.Round(time.Millisecond))
	}
	return &plugged{machine, agent, member}
}

// sh runs script as the container and answers its output when it has ended; with
// lines, when it has said so many.
func (p *plugged) sh(t *testing.T, script string, lines int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	if lines > 0 { // it lives on, as long as the machine
		t.Cleanup(cancel)
	} else {
		defer cancel()
	}
	start := agentproto.Start{ID: agentproto.InitID, Stdout: rand.Text(), Stderr: rand.Text(), Spec: &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: agentproto.RootPath},
		Process: &specs.Process{Args: []string{"sh", "-c", "exec 2>&1;" + script}, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin:/sbin:/usr/sbin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_RAW"}, Effective: []string{"CAP_NET_RAW"}, Permitted: []string{"CAP_NET_RAW"}}},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
			{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace}}},
	}}
	out := must(agentproto.OpenStream(ctx, must(p.machine.Dial(ctx, vmm.AgentPort)), start.Stdout))
	errOut := must(agentproto.OpenStream(ctx, must(p.machine.Dial(ctx, vmm.AgentPort)), start.Stderr))
	context.AfterFunc(ctx, func() { _, _ = out.Close(), errOut.Close() })
	must(p.agent.Start(ctx, start))
	if lines == 0 {
		b, err := io.ReadAll(out)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("after %q: %v", b, err)
		}
		return string(b)
	}
	var said []string
	for r := bufio.NewReader(out); len(said) < lines; {
		said = append(said, line(t, r))
	}
	return strings.Join(said, "\n")
}

// Real machines on a switch: what they were told is what they have, and they
// find and reach each other, by IPv4 and IPv6, the gateway and the host.
func TestMachinesOnASwitch(t *testing.T) {
	m := newMill(t, store.Home{Dir: shared.home}.Templates())
	s := network.New(network.Options{ResolvConf: os.DevNull})
	defer s.Close()
	if err := s.Define(front(1280)); err != nil {
		t.Fatal(err)
	}
	host := must(net.Listen("tcp", "127.0.0.1:0"))
	defer host.Close()
	go func() {
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "from the host\n")
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(host.Addr().String())
	db := m.plug(t, s, "db-1", 20, 1280)
	db.sh(t, "echo from db >/tmp/index.html; echo serving; exec httpd -f -p 8080 -h /tmp", 1)
	web := m.plug(t, s, "web-1", 10, 1280)
	got := web.sh(t, `
cd /sys/class/net; echo has $(ls)
echo is $(cat eth0/address) $(cat eth0/mtu)
ip -o link show up | awk '{print "up", $2}'
ip -o addr show eth0 | awk '{print "address", $4}'
ip route | awk '{print "route", $1, $3}'
for a in 10.40.0.20 fd40::14; do printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 10 $a 8080 | tail -n 1; done
nslookup db 10.40.0.1 | tail -n +3
nc -w 10 10.40.0.1 `+port+`
ping -c 1 -W 5 10.40.0.1 | grep -o '1 packets received'
`, 0)
	for _, want := range []string{"has eth0 lo\n", "is 02:56:0a:28:00:0a 1280\n", "up lo:\nup eth0:\n", "address 10.40.0.10/24\n", "address fd40::a/64\n",
		"route default 10.40.0.1\n", "from db\nfrom db\n", "10.40.0.20", "from the host\n", "1 packets received"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
	t.Logf("it says:\n%s", got)
	for _, n := range s.Networks() {
		for _, p := range n.Members {
			t.Logf("%s: %+v", p.Instance, p.Port)
			if p.Port.Spoofed+p.Port.Garbled+p.Port.Short+p.Port.Long > 0 {
				t.Errorf("frames of %s were refused", p.Instance)
			}
		}
	}
}

// A machine without interfaces has lo alone, although it has a card.
func TestMachineWithoutInterfaces(t *testing.T) {
	m := newMill(t, store.Home{Dir: shared.home}.Templates())
	for _, cold := range []bool{false, true} {
		m.cfg.Cold = cold
		want := map[bool]vmm.Origin{false: vmm.Restored, true: vmm.Booted}[cold]
		machine, _ := m.boot(t, want)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		agent := must(agentproto.NewClient(ctx, must(machine.Dial(ctx, vmm.AgentPort)), agentproto.Notices{}))
		set := agentproto.Setup{Entropy: make([]byte, 64), Root: agentproto.Root{Lower: "root"}}
		must(rand.Read(set.Entropy))
		for _, p := range must(agent.Setup(ctx, set)).Phases {
			t.Logf("%s: %s took %s", want, p.Name, p.Duration.Round(time.Millisecond))
		}
		p := &plugged{machine: machine, agent: agent}
		if got := p.sh(t, "ls /sys/class/net; ip -o link show up | wc -l", 0); got != "lo\n1\n" {
			t.Errorf("%s: it has %q", want, got)
		}
		stop(t, machine)
	}
}
