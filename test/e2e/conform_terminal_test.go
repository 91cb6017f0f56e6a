package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// person is somebody at a terminal, in front of a command.
type person struct {
	t             *testing.T
	master, slave *os.File
	cmd           *exec.Cmd
	ended         chan struct{}
	cooked        term.State // of the terminal, before the command

	mu   sync.Mutex // guards the following
	seen bytes.Buffer
	news chan struct{} // closed and replaced with what is seen
}

// sit opens a terminal of 24 by 80 and runs a command on it.
func (s *stack) sit(t *testing.T, args ...string) *person {
	t.Helper()
	master, slave, err := openPTY()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("no way to open a terminal on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, master: master, slave: slave, news: make(chan struct{}), ended: make(chan struct{})}
	p.size(24, 80)
	p.cooked = p.mode()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.cmd = s.command(ctx, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	go p.look()
	t.Cleanup(func() {
		cancel()
		<-p.ended
		_ = slave.Close()
		_ = master.Close()
		if t.Failed() {
			t.Logf("on the terminal: %q", p.text())
		}
	})
	return p
}

func (p *person) look() {
	b := make([]byte, 4096)
	for {
		n, err := p.master.Read(b)
		p.mu.Lock()
		p.seen.Write(b[:n])
		close(p.news)
		p.news = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// sees waits until the screen has shown text since it was last wiped.
func (p *person) sees(text string) {
	p.t.Helper()
	limit := time.After(time.Minute)
	for {
		p.mu.Lock()
		there, news := strings.Contains(p.seen.String(), text), p.news
		p.mu.Unlock()
		if there {
			return
		}
		select {
		case <-news:
		case <-limit:
			p.t.Fatalf("never saw %q", text)
		}
	}
}

// types forgets what was seen, and types.
func (p *person) types(text string) {
	p.t.Helper()
	p.mu.Lock()
	p.seen.Reset()
	p.mu.Unlock()
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) size(rows, cols uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		p.t.Fatal(err)
	}
}

// status is that of the command, once it has ended.
func (p *person) status() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// mode is that of the terminal.
func (p *person) mode() term.State {
	p.t.Helper()
	m, err := term.GetState(int(p.slave.Fd()))
	if err != nil {
		p.t.Fatal(err)
	}
	return *m
}

// A terminal in a container, with somebody at it: lines 5 and 14.
func TestConformTerminal(t *testing.T) {
	s := scenario(t, sleeper)
	s.must("up", "-d")
	behave(t, 14, "a terminal: its size, and what becomes of it", func(t *testing.T) {
		p := s.sit(t, "exec", "box", "sh")
		p.sees("# ")
		p.types("tty; stty size; echo $TERM-$((40+2))\n")
		p.sees("/dev/pts/0\r\n24 80\r\n")
		p.sees("-42\r\n")
		p.size(50, 132)
		if err := p.cmd.Process.Signal(syscall.SIGWINCH); err != nil { // the kernel's own may still be on its way
			t.Fatal(err)
		}
		p.types("while [ \"$(stty size)\" != '50 132' ]; do :; done; echo grown\n")
		p.sees("\ngrown")
		p.types("exit 7\n")
		if got := p.status(); got != 7 {
			t.Errorf("status %d", got)
		}
	})
	t.Run("ctrl-c reaches the process", func(t *testing.T) {
		p := s.sit(t, "exec", "box", "sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done")
		p.sees("ready")
		p.types("\x03")
		p.sees("caught")
		if got := p.status(); got != 9 {
			t.Errorf("status %d", got)
		}
	})
	t.Run("vi", func(t *testing.T) {
		p := s.sit(t, "exec", "box", "vi", "/poem")
		p.sees("/poem")
		p.types("iRoses are red\x1b")
		p.sees("Roses are red")
		p.types(":wq\r")
		if got := p.status(); got != 0 {
			t.Errorf("status %d", got)
		}
		if got := s.says(t, "box", "cat /poem"); got != "Roses are red" {
			t.Errorf("the file has %q", got)
		}
	})
	t.Run("the detach keys leave it running", func(t *testing.T) {
		p := s.sit(t, "exec", "box", "sh", "-c", "echo $$ >/pid; echo ready; read x; rm /pid")
		p.sees("ready")
		p.types("\x10\x11")
		if got := p.status(); got != 0 {
			t.Errorf("status %d", got)
		}
		s.sh("box", "kill -0 $(cat /pid)").want(t, 0, "")
	})
	t.Run("forced, without one here", func(t *testing.T) {
		s.vz("exec", "-t", "box", "sh", "-c", "tty; stty size").want(t, 0, "/dev/pts/1\r\n24 80\r\n")
	})
	t.Run("restored after a kill of the shim", func(t *testing.T) {
		p := s.sit(t, "exec", "box", "sh")
		p.sees("# ")
		if raw := p.mode(); raw == p.cooked {
			t.Error("the terminal is not raw meanwhile")
		}
		kill9(t, s.instances()["box-1"].PID)
		if got := p.status(); got != 125 {
			t.Errorf("status %d", got)
		}
		p.sees("connection to the instance is lost")
		if now := p.mode(); now != p.cooked {
			t.Errorf("the terminal was %+v, is %+v", p.cooked, now)
		}
	})
}
