// Command pump is the guest's side of the benchmark of what connects a machine
// with its host: it serves one address, and does what each request asks.
//
//	pump unix:/run/pump.sock | tcp:5000 | udp:5000 | dev:/dev/vport1p1
//	pump call HOST:PORT BYTES TURNS
//
// Datagrams are sent back as they are. On the others a request is a letter and a
// number of bytes, u64, little-endian: S sends them, R receives them and answers
// one byte, E echoes them one at a time. The second form is a client over TCP: it
// prints how many nanoseconds it took to send BYTES, to receive them, and to have
// TURNS bytes echoed.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const block = 64 << 10 // bytes of one write

func main() {
	var err error
	switch {
	case len(os.Args) == 5 && os.Args[1] == "call":
		err = call(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 2:
		err = run(os.Args[1])
	default:
		fmt.Fprintln(os.Stderr, "usage: pump unix:PATH | tcp:PORT | udp:PORT | dev:PATH, or pump call HOST:PORT BYTES TURNS")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pump:", err)
		os.Exit(1)
	}
}

func run(address string) error {
	kind, at, _ := strings.Cut(address, ":")
	switch kind {
	case "dev":
		f, err := os.OpenFile(at, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		tick := time.NewTicker(10 * time.Millisecond) // a port whose host is away is at its end
		defer tick.Stop()
		for {
			if err := serve(f); err != nil {
				return err
			}
			<-tick.C
		}
	case "udp":
		return echo(":" + at)
	case "tcp":
		at = ":" + at
	}
	l, err := net.Listen(kind, at)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := serve(c); err != nil {
				fmt.Fprintln(os.Stderr, "pump:", err)
			}
		}()
	}
}

// call measures a server.
func call(address, size, turns string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	m, err := strconv.ParseInt(turns, 10, 64)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, block)
	for _, one := range []struct {
		what byte
		n    int64
	}{{'R', n}, {'S', n}, {'E', m}} {
		began := time.Now()
		if err := ask(c, one.what, one.n, buf); err != nil {
			return err
		}
		fmt.Println(time.Since(began).Nanoseconds())
	}
	return nil
}

// ask is the client's side of a request.
func ask(c net.Conn, what byte, n int64, buf []byte) error {
	if _, err := c.Write(binary.LittleEndian.AppendUint64([]byte{what}, uint64(n))); err != nil {
		return err
	}
	switch what {
	case 'R':
		if err := do(c, 'S', n, buf); err != nil {
			return err
		}
		_, err := io.ReadFull(c, buf[:1])
		return err
	case 'S':
		_, err := io.CopyN(io.Discard, c, n)
		return err
	}
	for ; n > 0; n-- {
		if _, err := c.Write(buf[:1]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf[:1]); err != nil {
			return err
		}
	}
	return nil
}

// echo sends datagrams back.
func echo(address string) error {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, block)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(buf[:n], from); err != nil {
			return err
		}
	}
}

// serve does what is asked, until the end.
func serve(c io.ReadWriter) error {
	buf := make([]byte, block)
	var ask [9]byte
	for {
		if _, err := io.ReadFull(c, ask[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := do(c, ask[0], int64(binary.LittleEndian.Uint64(ask[1:])), buf); err != nil {
			return err
		}
	}
}

func do(c io.ReadWriter, what byte, n int64, buf []byte) error {
	switch what {
	case 'S':
		for n > 0 {
			part := buf[:min(n, block)]
			if _, err := c.Write(part); err != nil {
				return err
			}
			n -= int64(len(part))
		}
		return nil
	case 'R':
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(c, n)}, buf); err != nil {
			return err
		}
		_, err := c.Write(buf[:1])
		return err
	case 'E':
		for ; n > 0; n-- {
			if _, err := io.ReadFull(c, buf[:1]); err != nil {
				return err
			}
			if _, err := c.Write(buf[:1]); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("no request %q", what)
}
