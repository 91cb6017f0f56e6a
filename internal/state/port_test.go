package state

import "testing"

func TestPortAddresses(t *testing.T) {
	for _, c := range []struct{ host, network, address, reached string }{
		{"127.0.0.1", "tcp4", "127.0.0.1:80", "127.0.0.1:80"},
		{"0.0.0.0", "tcp4", "0.0.0.0:80", "0.0.0.0:80"},
		{"::", "tcp6", "[::]:80", "[::]:80"},
		{"::1", "tcp6", "[::1]:80", "[::1]:80"},
		{AllAddresses, "tcp", ":80", "0.0.0.0:80"},
	} {
		p := Port{Published: [2]int{80, 80}, HostIP: c.host, Protocol: "tcp"}
		if network, address := p.Listen(80); network != c.network || address != c.address || p.Reached() != c.reached {
			t.Errorf("%s: %s %s, reached at %s", c.host, network, address, p.Reached())
		}
	}
}

func TestPortsOverlap(t *testing.T) {
	hosts := []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "*"}
	overlaps := []string{ // by hosts in both directions
		"x.x..x",
		".xx..x",
		"xxx..x",
		"...xxx",
		"...xxx",
		"xxxxxx",
	}
	for i, a := range hosts {
		for j, b := range hosts {
			one, other := Port{Published: [2]int{80, 80}, HostIP: a, Protocol: "tcp"}, Port{Published: [2]int{80, 80}, HostIP: b, Protocol: "tcp"}
			if want := overlaps[i][j] == 'x'; one.Overlaps(other) != want {
				t.Errorf("%s and %s: want %v", a, b, want)
			}
			if other.Protocol = "udp"; one.Overlaps(other) {
				t.Error("tcp and udp overlap")
			}
		}
	}
}
