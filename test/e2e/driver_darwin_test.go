package e2e

import (
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm/vz"
)

// driversUnderTest is the framework's, whose machines are in this process: the
// test's binary has to be signed as the program is (docs/macos.md).
func driversUnderTest(store.Home) []underTest {
	return []underTest{{name: "booted", driver: vz.New()}}
}
