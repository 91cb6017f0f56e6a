package spec

import (
	"math"
	"strconv"
	"strings"
)

// vsockScheme begins an end of a socket that is a port of virtual sockets.
const vsockScheme = "vsock:"

// agentPort is vmm.AgentPort, which a container cannot have on every system.
const agentPort = 1024

// vsockPort returns the port of an end of a socket; ok is false where that is a
// path.
func vsockPort(end string) (port uint32, ok bool) {
	text, ok := strings.CutPrefix(end, vsockScheme)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil
}

// vsockEnd puts the end of a socket in the container into its one form.
func vsockEnd(end string) (string, error) {
	switch port, ok := vsockPort(end); {
	case !ok || port == 0 || port == math.MaxUint32:
		return "", wrong{quote(end) + " is not a port of virtual sockets", "write vsock:PORT, a number from 1 to 4294967294"}
	case port == agentPort:
		return "", wrong{"port 1024 of virtual sockets is the agent's", "take another port"}
	default:
		return vsockScheme + strconv.FormatUint(uint64(port), 10), nil
	}
}

// onVsock reports whether the container's end of the socket is a port.
func (s *Socket) onVsock() bool {
	end := s.Destination
	if s.Direction == "out_of" {
		end = s.Source
	}
	_, ok := vsockPort(end)
	return ok
}

// vsock reports whether a container has virtual sockets: it asks for them, or a
// socket of it ends at a port.
func (c *checker) vsock(name string, d Container) bool {
	for i := range d.Sockets {
		if !d.Sockets[i].onVsock() {
			continue
		}
		if n := c.node(name).child("vsock"); n != nil && !n.null() && !d.Vsock {
			c.w.error(n, c.at(name).key("vsock"), "take it away", "sockets[%d] is a port of virtual sockets", i)
		}
		return true
	}
	return d.Vsock
}
