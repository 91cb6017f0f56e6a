package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestDatagramsAreFramed(t *testing.T) {
	var b bytes.Buffer
	for _, d := range [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("x"), MaxDatagram)} {
		if err := WriteDatagram(&b, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteDatagram(&b, make([]byte, MaxDatagram+1)); err == nil {
		t.Error("one that is too long was sent")
	}
	buf := make([]byte, MaxDatagram)
	for _, want := range []int{3, 0, MaxDatagram} {
		if got, err := ReadDatagram(&b, buf); err != nil || len(got) != want {
			t.Errorf("%d, %v; want %d", len(got), err, want)
		}
	}
	if _, err := ReadDatagram(&b, buf); err != io.EOF {
		t.Error(err)
	}
	if _, err := ReadDatagram(bytes.NewReader([]byte{0, 5, 'x'}), buf); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, err := ReadDatagram(bytes.NewReader([]byte{0xff, 0xff}), buf); err == nil || errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// udpPair answers two sockets that are connected with each other.
func udpPair(t *testing.T) (near, far *net.UDPConn) {
	t.Helper()
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	far = listen()
	c, err := net.DialUDP("udp4", nil, far.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, far
}

func TestDatagramsPass(t *testing.T) {
	inner, outer := unixPair(t)
	near, far := udpPair(t)
	done := make(chan struct{})
	go func() { Datagrams(t.Context(), inner, near, time.Minute); close(done) }()
	buf := make([]byte, MaxDatagram)
	for _, text := range []string{"there", "", "again"} {
		if err := WriteDatagram(outer, []byte(text)); err != nil {
			t.Fatal(err)
		}
		n, from, err := far.ReadFromUDP(buf)
		if err != nil || string(buf[:n]) != text {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if _, err := far.WriteToUDP([]byte(text+" back"), from); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadDatagram(outer, buf); err != nil || string(got) != text+" back" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	outer.Close()
	<-done
}

// Nobody answers at first: that is no end.
func TestDatagramsSurviveARefusal(t *testing.T) {
	inner, outer := unixPair(t)
	near, far := udpPair(t)
	at := far.LocalAddr().(*net.UDPAddr)
	far.Close()
	done := make(chan struct{})
	go func() { Datagrams(t.Context(), inner, near, time.Minute); close(done) }()
	if err := WriteDatagram(outer, []byte("lost")); err != nil {
		t.Fatal(err)
	}
	back, err := net.ListenUDP("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	buf := make([]byte, MaxDatagram)
	got := make(chan string, 1)
	go func() {
		n, _, _ := back.ReadFromUDP(buf)
		got <- string(buf[:n])
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for text := ""; text == ""; {
		if err := WriteDatagram(outer, []byte("found")); err != nil {
			t.Fatal(err)
		}
		select {
		case text = <-got:
			if text != "found" && text != "lost" {
				t.Errorf("%q", text)
			}
		case <-tick.C:
		}
	}
	outer.Close()
	<-done
}

func TestDatagramsEnd(t *testing.T) {
	for name, how := range map[string]func(context.CancelFunc){"idle": func(context.CancelFunc) {}, "ctx": func(cancel context.CancelFunc) { cancel() }} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			inner, _ := unixPair(t)
			near, _ := udpPair(t)
			idle := time.Minute
			if name == "idle" {
				idle = time.Millisecond
			}
			done := make(chan struct{})
			go func() { Datagrams(ctx, inner, near, idle); close(done) }()
			how(cancel)
			<-done
		})
	}
}

func FuzzReadDatagram(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0, 0xff, 0xff})
	buf := make([]byte, MaxDatagram)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for range len(b) + 1 {
			if d, err := ReadDatagram(r, buf); err != nil {
				return
			} else if len(d) > len(b) {
				t.Fatal("more than there is")
			}
		}
		t.Fatal("it does not end")
	})
}
