package e2e

import (
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu"
)

// driversUnderTest are QEMU's machines, booted and restored.
func driversUnderTest(home store.Home) []underTest {
	var all []underTest
	for _, how := range []vmm.Origin{vmm.Booted, vmm.Restored} {
		o := qemu.Options{Program: os.Getenv("VZCOMPOSE_QEMU")}
		if how == vmm.Restored {
			o.Templates = home.Templates()
		}
		all = append(all, underTest{string(how), qemu.New(o), how, func() []string {
			out, _ := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-f", "qemu-system").Output() // none is an error of pgrep's
			return strings.Fields(string(out))
		}})
	}
	return all
}
