//go:build linux

// Command sockets uses virtual sockets in a container, for tests:
//
//	sockets echo PORT       answers on a port what it is told, each connection to
//	                        its end, until standard input ends; prints "listening"
//	sockets serve AT        likewise, until it is killed
//	sockets sink AT         takes what it is told, and says a byte at its end;
//	                        prints how many bytes there were, and what failed
//	sockets source AT BYTES says so many bytes to each connection
//	sockets dial PORT TEXT  tells a port of the host the text, and prints as many
//	                        bytes of the answer
//	sockets id              prints the context ID of the machine
//
// AT is a port, or the path of a unix socket.
package main

import (
	"fmt"
	"io"
	"net"
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
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch {
	case verb == "id" && len(args) == 1:
		id, err := vsock.ContextID()
		if err == nil {
			fmt.Println(id)
		}
		return err
	case verb == "echo" && len(args) == 2:
		return serve(args[1], os.Stdin, echo)
	case verb == "serve" && len(args) == 2:
		return serve(args[1], forever{}, echo)
	case verb == "sink" && len(args) == 2:
		return serve(args[1], forever{}, sink)
	case verb == "source" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return serve(args[1], forever{}, func(c net.Conn) { source(c, n) })
	case verb == "dial" && len(args) == 3:
		return dial(args[1], args[2])
	}
	return fmt.Errorf("arguments %q", args)
}

// forever is what does not end.
type forever struct{}

func (forever) Read([]byte) (int, error) { select {} }

func serve(at string, until io.Reader, one func(net.Conn)) error {
	l, err := listen(at)
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
				one(c)
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, until)
	return l.Close()
}

func listen(at string) (net.Listener, error) {
	if port, err := strconv.ParseUint(at, 10, 32); err == nil {
		return vsock.ListenContextID(unix.VMADDR_CID_ANY, uint32(port), nil) // which needs no /dev/vsock
	}
	return net.Listen("unix", at)
}

func echo(c net.Conn) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 64<<10))
}

func sink(c net.Conn) {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10))
	if err == nil {
		_, err = c.Write([]byte{1})
	}
	fmt.Println(n, err)
}

func source(c net.Conn, n int) {
	b := make([]byte, 64<<10)
	for n > 0 {
		k, err := c.Write(b[:min(n, len(b))])
		if err != nil {
			return
		}
		n -= k
	}
}

func dial(port, text string) error {
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		return err
	}
	c, err := vsock.Dial(vsock.Host, uint32(n), nil)
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
