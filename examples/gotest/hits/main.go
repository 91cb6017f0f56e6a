// Command hits brings up examples/web, prints what /hits returns and takes it down.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/vzcompose/vzcompose"
)

func main() {
	vzcompose.RunHelper() // this program also looks after its machines
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	home, err := vzcompose.Open(vzcompose.Options{})
	if err != nil {
		return err
	}
	stack, err := home.Load(vzcompose.LoadOptions{Files: []string{"../web/vzcompose.yaml"}})
	if err != nil {
		return err
	}
	defer func() { _ = stack.Down(ctx, vzcompose.DownOptions{}) }()
	if err := stack.Up(ctx, vzcompose.UpOptions{Wait: true}); err != nil {
		return err
	}
	address, err := stack.Port(ctx, "web", 80)
	if err != nil {
		return err
	}
	answer, err := http.Get("http://" + address + "/hits")
	for began := time.Now(); err != nil && time.Since(began) < time.Minute; { // it has no health check
		answer, err = http.Get("http://" + address + "/hits")
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
