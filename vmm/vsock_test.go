package vmm

import (
	"math"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestCheckVsockPort(t *testing.T) {
	for _, port := range []uint32{0, AgentPort, math.MaxUint32} {
		if err := CheckVsockPort(port); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%d: %v", port, err)
		}
	}
	for _, port := range []uint32{1, AgentPort - 1, AgentPort + 1, math.MaxUint32 - 1} {
		if err := CheckVsockPort(port); err != nil {
			t.Errorf("%d: %v", port, err)
		}
	}
}
