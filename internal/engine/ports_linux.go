package engine

import "fmt"

// LowPortsHint is what opens the ports from lowest on to the user, and what is done
// without for port.
func (e *Engine) LowPortsHint(lowest, port int) string {
	return fmt.Sprintf(`one of three: "sysctl net.ipv4.ip_unprivileged_port_start=%d" as root opens it to every user; `+
		`"setcap cap_net_bind_service=+ep %s" as root opens it to this program; or publish another port, as %d or with --publish-offset 8000`,
		lowest, e.o.Shim[0], port+8000)
}
