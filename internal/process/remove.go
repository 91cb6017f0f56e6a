package process

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/stack"
)

// beRemove removes an instance that was made for a command that is gone.
func beRemove(d Deps) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	h, err := stack.Open(stack.Options{LookupEnv: d.LookupEnv})
	if err != nil {
		return err
	}
	return h.RemoveEnded(context.Background(), d.Stdin)
}
