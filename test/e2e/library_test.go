package e2e

import (
	"context"
	"os/exec"
	"testing"
)

// A Go test of another module has a stack: the one in examples/gotest.
func TestGoTestOfAnotherModule(t *testing.T) {
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "./...")
	cmd.Dir = "../../examples/gotest"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		contains(t, "go test", string(out), "--- PASS: TestPage")
	}
}
