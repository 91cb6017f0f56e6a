package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// countBoots puts a counter before QEMU, which notes each start in a file.
func countBoots(cache, boots string) error {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		if qemu, err = exec.LookPath("qemu-system-aarch64"); err != nil {
			return err
		}
	}
	counter := filepath.Join(cache, "qemu-counted")
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] || echo x >>%q\nexec %q \"$@\"\n", boots, qemu)
	if err := os.WriteFile(counter, []byte(script), 0o755); err != nil {
		return err
	}
	return os.Setenv("VZCOMPOSE_QEMU", counter)
}

// leftovers fails if anything is left of a home folder's stacks.
func leftovers(home string) error {
	out, err := exec.Command("../leftovers.sh", home).CombinedOutput()
	fmt.Print(string(out))
	return err
}
