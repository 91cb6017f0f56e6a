package planner

import (
	"testing"

	"github.com/vzcompose/vzcompose/spec"
)

func netStack() *spec.Stack {
	return stack("db", container(nets("back")), "web", container(nets("front", "back"), needs("db")), "alone", container(nets()))
}

func subnet(s *spec.Stack, network string, n spec.Network) *spec.Stack {
	s.Networks[network] = n
	return s
}

func TestNetworks(t *testing.T) {
	front := spec.Network{Subnet: []string{"10.1.0.0/24"}}
	there := running(netStack())
	alone := there
	alone.Networks = alone.Networks[:0:0]
	for _, c := range []upCase{
		{name: "from nothing", stack: netStack(), want: `
#1 pull image/busybox (image busybox is not here)
#2 create network/back (not found)
#3 create network/front (not found)
#4 create container/alone-1 after [1] (does not exist)
#5 start container/alone-1 after [4] (new)
#6 create container/db-1 after [1 2] (does not exist)
#7 start container/db-1 after [6] (new)
#8 create container/web-1 after [1 2 3] (does not exist)
#9 start container/web-1 after [7 8] (new)
`},
		{name: "nothing to do", stack: netStack(), world: there, want: ``},
		{name: "another subnet: what is on it comes again", stack: subnet(netStack(), "front", front), world: there, want: `
#1 stop container/web-1 (network front: subnet none → 10.1.0.0/24)
#2 update network/front after [1] (subnet none → 10.1.0.0/24)
#3 update container/web-1 after [1 2] (network front: subnet none → 10.1.0.0/24)
#4 start container/web-1 after [3] (network front: subnet none → 10.1.0.0/24)
`},
		{name: "several differences", stack: subnet(netStack(), "front", spec.Network{Internal: true, MTU: 9000}), world: there, o: Options{NoStart: true}, want: `
#1 stop container/web-1 (network front: internal false → true, mtu default → 9000)
#2 update network/front after [1] (internal false → true, mtu default → 9000)
#3 update container/web-1 after [1 2] (network front: internal false → true, mtu default → 9000)
`},
		{name: "not while others are on it", stack: subnet(netStack(), "back", front), world: there, o: Options{Only: []string{"db"}}, want: `
warning: network back: subnet none → 10.1.0.0/24 is not applied while web-1, which this leaves alone, is on it
`},
		{name: "one that nobody is on is changed alone", stack: subnet(netStack(), "front", front), world: without(there, "web-1"), want: `
#1 update network/front (subnet none → 10.1.0.0/24)
#2 create container/web-1 after [1] (does not exist)
#3 start container/web-1 after [2] (new)
`},
	} {
		c.run(t)
	}
	check(t, Down(there, DownOptions{}), `
#1 stop container/web-1 (down)
#2 remove container/web-1 after [1] (down)
#3 stop container/db-1 after the end of [1] (down)
#4 remove container/db-1 after [3] (down)
#5 stop container/alone-1 (down)
#6 remove container/alone-1 after [5] (down)
#7 remove network/back after [2 4] (down)
#8 remove network/front after [2] (down)
`)
	check(t, Down(there, DownOptions{Only: []string{"web"}}), `
#1 stop container/web-1 (down)
#2 remove container/web-1 after [1] (down)
#3 remove network/front after [2] (down)
`)
}
