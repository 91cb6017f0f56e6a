package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const patience = 10 * time.Second

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func on(network, v4, v6 string, aliases ...string) Interface {
	return Interface{Network: network, V4: addr(v4), V6: addr(v6), Aliases: aliases}
}

func machine(instance string, ready bool, interfaces ...Interface) Machine {
	container, _, _ := strings.Cut(instance, "-")
	return Machine{Instance: instance, Container: container, Ready: ready, Interfaces: interfaces}
}

// shop is front (with IPv6), back (internal) and away, which nobody shares.
func shop() *Table {
	t := new(Table)
	t.SetNetwork(Network{Name: "front", V4: netip.MustParsePrefix("10.40.0.1/24"), V6: netip.MustParsePrefix("fd00::1/64")})
	t.SetNetwork(Network{Name: "back", V4: netip.MustParsePrefix("10.41.0.1/24"), Internal: true})
	t.SetNetwork(Network{Name: "away", V4: netip.MustParsePrefix("10.42.0.1/24")})
	t.Set(machine("web-1", true, on("front", "10.40.0.10", "fd00::a", "www"), on("back", "10.41.0.10", "")))
	t.Set(machine("web-2", true, on("front", "10.40.0.11", "fd00::b", "www")))
	t.Set(machine("web-3", false, on("front", "10.40.0.12", "fd00::c", "www")))
	t.Set(machine("db-1", true, on("back", "10.41.0.20", "", "store")))
	t.Set(machine("new-1", false, on("front", "10.40.0.13", "")))
	t.Set(machine("far-1", true, on("away", "10.42.0.10", "")))
	t.Set(machine("My.App_x-1", true, on("front", "10.40.0.14", "")))
	return t
}

// local asks without a network and prints the answer: its code, then what was
// found, sorted.
func local(r *Resolver, network, from, name string, kind uint16) string {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	reply, beyond := r.local(asker{network, addr(from)}, q)
	if beyond {
		return "beyond"
	}
	var got []string
	for _, rr := range reply.Answer {
		got = append(got, strings.Fields(rr.String())[4])
	}
	slices.Sort(got)
	return strings.TrimSpace(dns.RcodeToString[reply.Rcode] + " " + strings.Join(got, " "))
}

func TestNames(t *testing.T) {
	r := New(shop(), "")
	for _, c := range []struct {
		network, from, name string
		kind                uint16
		want                string
	}{
		{"front", "10.40.0.11", "web", dns.TypeA, "NOERROR 10.40.0.10 10.40.0.11"},
		{"front", "10.40.0.11", "WeB.", dns.TypeA, "NOERROR 10.40.0.10 10.40.0.11"},
		{"front", "10.40.0.11", "www", dns.TypeAAAA, "NOERROR fd00::a fd00::b"},
		{"front", "10.40.0.11", "web-1", dns.TypeA, "NOERROR 10.40.0.10"},
		{"front", "10.40.0.11", "web-1." + Zone, dns.TypeA, "NOERROR 10.40.0.10"},
		{"front", "10.40.0.11", "web-3", dns.TypeA, "NOERROR"}, // not ready
		{"front", "10.40.0.11", "new", dns.TypeA, "NOERROR"},
		{"front", "10.40.0.11", "web", dns.TypeMX, "NOERROR"},
		{"front", "10.40.0.11", "my.app_x", dns.TypeA, "NOERROR 10.40.0.14"},
		{"front", "10.40.0.11", "My.App_x-1." + Zone, dns.TypeA, "NOERROR 10.40.0.14"},
		{"front", "10.40.0.11", "db", dns.TypeA, "NXDOMAIN"}, // shares no network
		{"front", "10.40.0.11", "far", dns.TypeA, "NXDOMAIN"},
		{"front", "10.40.0.11", "nobody." + Zone, dns.TypeA, "NXDOMAIN"},
		{"front", "10.40.0.11", "example.org", dns.TypeA, "beyond"},
		{"front", "10.40.0.11", "host." + Zone, dns.TypeA, "NOERROR 10.40.0.1"},
		{"front", "10.40.0.11", "host." + Zone, dns.TypeAAAA, "NOERROR fd00::1"},
		{"front", "10.40.0.11", "host.docker.internal", dns.TypeA, "NOERROR 10.40.0.1"},
		// web-1 is on both networks, whichever gateway it asks.
		{"front", "10.40.0.10", "db", dns.TypeA, "NOERROR 10.41.0.20"},
		{"front", "10.40.0.10", "web-1", dns.TypeA, "NOERROR 10.40.0.10 10.41.0.10"},
		{"back", "10.41.0.10", "www", dns.TypeA, "NOERROR 10.40.0.10 10.40.0.11"},
		{"back", "10.41.0.10", "example.org", dns.TypeA, "beyond"},
		// db-1 is on the internal one only.
		{"back", "10.41.0.20", "web", dns.TypeA, "NOERROR 10.41.0.10"},
		{"back", "10.41.0.20", "web", dns.TypeAAAA, "NOERROR"},
		{"back", "10.41.0.20", "store", dns.TypeA, "NOERROR 10.41.0.20"},
		{"back", "10.41.0.20", "host." + Zone, dns.TypeA, "NXDOMAIN"},
		{"back", "10.41.0.20", "host.docker.internal", dns.TypeA, "NXDOMAIN"},
		{"back", "10.41.0.20", "example.org", dns.TypeA, "NXDOMAIN"},
		{"back", "10.41.0.20", "1.2.0.192.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
		// Somebody unknown sees the network on which it asks.
		{"front", "10.40.0.77", "web-1", dns.TypeA, "NOERROR 10.40.0.10"},
		{"front", "10.40.0.11", "10.0.40.10.in-addr.arpa", dns.TypePTR, "NOERROR web-1."},
		{"front", "10.40.0.11", "1.0.40.10.in-addr.arpa", dns.TypePTR, "NOERROR host." + Zone + "."},
		{"front", "10.40.0.11", "99.0.40.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
		{"front", "10.40.0.11", "20.0.41.10.in-addr.arpa", dns.TypePTR, "beyond"},
		{"front", "10.40.0.11", "b." + strings.Repeat("0.", 29) + "d.f.ip6.arpa", dns.TypePTR, "NOERROR web-2."},
		{"front", "10.40.0.11", "b.0.d.f.ip6.arpa", dns.TypePTR, "beyond"},
	} {
		if got := local(r, c.network, c.from, c.name, c.kind); got != c.want {
			t.Errorf("%s on %s asks for %s %s: %s, want %s", c.from, c.network, c.name, dns.TypeToString[c.kind], got, c.want)
		}
	}
}

func TestMachinesComeAndGo(t *testing.T) {
	table := shop()
	r := New(table, "")
	ask := func() string { return local(r, "front", "10.40.0.11", "new", dns.TypeA) }
	table.Set(machine("new-1", true, on("front", "10.40.0.13", "")))
	if got := ask(); got != "NOERROR 10.40.0.13" {
		t.Errorf("ready: %s", got)
	}
	table.Remove("new-1")
	if got := ask(); got != "NXDOMAIN" {
		t.Errorf("gone: %s", got)
	}
}

// Over many answers each replica comes first.
func TestOrderChanges(t *testing.T) {
	r := New(shop(), "")
	first := map[string]bool{}
	for range 100 {
		q := new(dns.Msg)
		q.SetQuestion("web.", dns.TypeA)
		reply, _ := r.local(asker{"front", addr("10.40.0.11")}, q)
		first[reply.Answer[0].(*dns.A).A.String()] = true
	}
	if len(first) != 2 {
		t.Errorf("first came %v", first)
	}
}

func TestRefusesWhatIsNoQuestion(t *testing.T) {
	r := New(shop(), "")
	ask := func(change func(*dns.Msg)) *dns.Msg {
		q := new(dns.Msg)
		q.SetQuestion("web.", dns.TypeA)
		change(q)
		reply, beyond := r.local(asker{"front", addr("10.40.0.11")}, q)
		if beyond {
			t.Error("would ask beyond")
		}
		return reply
	}
	if got := ask(func(q *dns.Msg) { q.Response = true }); got != nil {
		t.Errorf("an answer was answered: %v", got)
	}
	for want, change := range map[int]func(*dns.Msg){
		dns.RcodeNotImplemented: func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate },
		dns.RcodeFormatError:    func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) },
		dns.RcodeRefused:        func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS },
		dns.RcodeBadVers:        func(q *dns.Msg) { q.SetEdns0(4096, false); q.IsEdns0().SetVersion(1) },
	} {
		got := ask(change)
		if got.Rcode != want {
			t.Errorf("%s, want %s", dns.RcodeToString[got.Rcode], dns.RcodeToString[want])
		}
		if _, err := got.Pack(); err != nil {
			t.Errorf("%s: %v", dns.RcodeToString[want], err)
		}
	}
	if got := ask(func(q *dns.Msg) { q.Question = nil }); got.Rcode != dns.RcodeFormatError {
		t.Errorf("no question: %v", got)
	}
}

// hostResolver is a resolver of the host, which knows the address of
// example.org and has much text for long.example.org.
func hostResolver(t *testing.T) (resolvConf string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Name == "long.example.org." {
			for i := range 30 {
				rr, err := dns.NewRR(fmt.Sprintf("long.example.org. 60 TXT %q", strings.Repeat(fmt.Sprint(i%10), 100)))
				if err != nil {
					t.Error(err)
				}
				m.Answer = append(m.Answer, rr)
			}
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				m.Truncate(udpSize)
			}
		} else {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
			m.SetEdns0(1400, false)
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		served := make(chan error, 1)
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() { served <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() { _ = s.Shutdown(); <-served })
	}
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("# "+port+"\nnameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// portOf is the port that hostResolver left in its file.
func portOf(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))[1]
}

// serve starts a resolver on sockets of the host; the asker is unknown to it and
// on network.
func serve(t *testing.T, r *Resolver, network string) (udp, tcp string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- r.ServePacket(ctx, network, c) }()
	go func() { ended <- r.Serve(ctx, network, l) }()
	t.Cleanup(func() {
		cancel(errs.New(errs.Canceled, "the test is over"))
		for range 2 {
			if err := <-ended; !errs.Is(err, errs.Canceled) {
				t.Errorf("served with %v", err)
			}
		}
	})
	return c.LocalAddr().String(), l.Addr().String()
}

func TestServes(t *testing.T) {
	conf := hostResolver(t)
	r := New(shop(), conf)
	r.up.port = portOf(t, conf)
	udp, tcp := serve(t, r, "front")
	for net, at := range map[string]string{"udp": udp, "tcp": tcp} {
		c := dns.Client{Net: net, Timeout: patience}
		ask := func(name string, kind uint16, size uint16) *dns.Msg {
			q := new(dns.Msg)
			q.SetQuestion(name, kind)
			if size > 0 {
				q.SetEdns0(size, true)
			}
			m, _, err := c.Exchange(q, at)
			if err != nil {
				t.Fatalf("%s %s: %v", net, name, err)
			}
			return m
		}
		if m := ask("web.", dns.TypeA, 0); len(m.Answer) != 2 || !m.RecursionAvailable || m.IsEdns0() != nil {
			t.Errorf("%s: %v", net, m)
		}
		if m := ask("example.org.", dns.TypeA, 4096); len(m.Answer) != 1 || m.IsEdns0() == nil || m.IsEdns0().UDPSize() != udpSize {
			t.Errorf("%s: %v", net, m)
		}
		m := ask("long.example.org.", dns.TypeTXT, 4096)
		if net == "udp" && !m.Truncated || net == "tcp" && len(m.Answer) != 30 {
			t.Errorf("%s: truncated %v, %d answers", net, m.Truncated, len(m.Answer))
		}
	}
}

func TestWithoutResolvers(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, empty + "-not-there"} {
		udp, _ := serve(t, New(shop(), path), "front")
		q := new(dns.Msg)
		q.SetQuestion("example.org.", dns.TypeA)
		m, _, err := (&dns.Client{Timeout: patience}).Exchange(q, udp)
		if err != nil || m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%v: %v", m, err)
		}
	}
}

func TestReadsTheHostsResolversAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	u := &upstream{path: path}
	for _, text := range []string{"nameserver 192.0.2.1\n", "nameserver 192.0.2.2\nnameserver 2001:db8::2\n", "nameserver 1.1.1.1\n#\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := u.list()
		if err != nil || len(got) != strings.Count(text, "nameserver") || !strings.HasPrefix(got[0], strings.Fields(text)[1]) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// One that asks without end has a bounded number of questions under way, and
// others are answered meanwhile.
func TestAskersAreBounded(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := New(shop(), path)
	_, r.up.port, _ = net.SplitHostPort(silent.LocalAddr().String())
	udp, _ := serve(t, r, "front")
	c, err := net.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(name string) *dns.Msg {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		return q
	}
	for range perAsker {
		ask("example.org.")
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"example.org.": dns.RcodeServerFailure, "web.": dns.RcodeSuccess} {
		q := ask(name)
		b, m := make([]byte, udpSize), new(dns.Msg)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Unpack(b[:n]); err != nil || m.Id != q.Id || m.Rcode != want {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// FuzzQuestion: nothing that is asked panics, and what is answered can be packed.
func FuzzQuestion(f *testing.F) {
	r := New(shop(), "")
	for _, name := range []string{"web.", "host." + Zone + ".", "10.0.40.10.in-addr.arpa.", "a\\.b\\000.ip6.arpa."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		q.SetEdns0(512, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	from := &net.UDPAddr{IP: net.IPv4(10, 40, 0, 11), Port: 5}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, q, ok := question("front", from, b)
		if !ok {
			return
		}
		reply, beyond := r.local(a, q)
		if beyond {
			reply = refusal(q, dns.RcodeServerFailure)
		}
		if reply == nil {
			return
		}
		reply.Truncate(dns.MinMsgSize)
		if _, err := reply.Pack(); err != nil {
			t.Errorf("cannot pack %v: %v", reply, err)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	table := shop()
	for i := range 1000 {
		table.Set(machine(fmt.Sprintf("load-%d", i), true, on("front", fmt.Sprintf("10.40.%d.%d", 1+i/200, 1+i%200), "")))
	}
	for b.Loop() {
		if f, _ := table.lookup(asker{"front", addr("10.40.0.11")}, "web"); len(f.addrs) != 4 {
			b.Fatal(f)
		}
	}
}
