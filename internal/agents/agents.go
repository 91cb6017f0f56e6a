// Package agents holds the agent's binaries, one for each architecture, which
// `make` builds before vzcompose itself.
package agents

import (
	"embed"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// The folder has a file of its own, so that the package also compiles where
// the agents have not been built.
//
//go:embed bin
var binaries embed.FS

// Binary answers the agent for a Linux machine of architecture arch (GOARCH).
func Binary(arch string) ([]byte, error) {
	b, err := binaries.ReadFile("bin/vzagent-linux-" + arch)
	if err != nil {
		return nil, errs.WithHint(errs.New(errs.Unavailable, "this vzcompose was built without the agent for %s", arch),
			"build it with make")
	}
	return b, nil
}
