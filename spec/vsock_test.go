package spec

import (
	"fmt"
	"math"
	"testing"

	"github.com/vzcompose/vzcompose/vmm"
)

// What a stack file may name is what drivers take.
func TestVsockEndsAreThoseOfDrivers(t *testing.T) {
	for _, port := range []uint32{0, 1, 7, vmm.AgentPort - 1, vmm.AgentPort, vmm.AgentPort + 1, 1 << 31, math.MaxUint32 - 1, math.MaxUint32} {
		_, err := vsockEnd(fmt.Sprint(vsockScheme, port))
		if (err == nil) != (vmm.CheckVsockPort(port) == nil) {
			t.Errorf("port %d: %v here, %v there", port, err, vmm.CheckVsockPort(port))
		}
	}
}
