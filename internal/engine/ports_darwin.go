package engine

import "fmt"

// LowPortsHint is what opens the ports from lowest on to the user, and what is done
// without for port.
func (e *Engine) LowPortsHint(_, port int) string {
	return fmt.Sprintf(`publish it at all addresses ("*:%d:…"), which macOS refuses nobody; or publish another port, as %d or with --publish-offset 8000`, port, port+8000)
}
