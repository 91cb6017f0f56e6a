//go:build linux

// Command sockets uses virtual sockets in a container, for tests:
//
//	sockets echo PORT       answers on a port what it is told, each connection to
//	                        its end, until standard input ends; prints "listening"
//	sockets serve PORT      likewise, until it is killed
//	sockets dial PORT TEXT  tells a port of the host the text, and prints as many
//	                        bytes of the answer
//	sockets id              prints the context ID of the machine
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sockets:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "id" {
		id, err := vsock.ContextID()
		if err == nil {
			fmt.Println(id)
		}
		return err
	}
	if len(args) < 2 {
		return fmt.Errorf("arguments %q", args)
	}
	port, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return err
	}
	switch {
	case args[0] == "echo" && len(args) == 2:
		return echo(uint32(port), os.Stdin)
	case args[0] == "serve" && len(args) == 2:
		return echo(uint32(port), forever{})
	case args[0] == "dial" && len(args) == 3:
		return dial(uint32(port), args[2])
	}
	return fmt.Errorf("arguments %q", args)
}

// forever is what does not end.
type forever struct{}

func (forever) Read([]byte) (int, error) { select {} }

func echo(port uint32, until io.Reader) error {
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, port, nil) // which needs no /dev/vsock
	if err != nil {
		return err
	}
	fmt.Println("listening")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, until)
	return l.Close()
}

func dial(port uint32, text string) error {
	c, err := vsock.Dial(vsock.Host, port, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	_, err = io.CopyN(os.Stdout, c, int64(len(text)))
	return err
}
