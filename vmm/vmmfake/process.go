package vmmfake

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
)

// Program is what a process does; it answers the exit status, 0 to 255. It must
// return when ctx ends: a signal or the machine's end is the cause, and the
// status is then of no account.
type Program func(ctx context.Context, p *Process) int

// Process is a process in a machine, for its program.
type Process struct {
	ID             string
	Args, Env      []string
	Dir, User      string
	PID            int
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Machine        *Machine

	cancel context.CancelFunc
	in     *input
	outs   []*output
	tokens []string
	done   chan struct{} // closed once exit is set
	exit   agentproto.Exit

	mu    sync.Mutex // guards the following
	traps map[int]chan<- int
	fatal int // the signal that ends it
	oom   bool
}

// attached reports whether every stream that has a token has come.
func (p *Process) attached() bool {
	for i, e := range []interface{ waits() bool }{p.in, p.outs[0], p.outs[1]} {
		if p.tokens[i] != "" && e.waits() {
			return false
		}
	}
	return true
}

// Trap answers a channel that gets these signals from now on instead of their
// ending the process. SIGKILL cannot be trapped. A signal that finds 16 waiting
// is lost.
func (p *Process) Trap(signals ...int) <-chan int {
	ch := make(chan int, 16)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range signals {
		if s != sigKill {
			p.traps[s] = ch
		}
	}
	return ch
}

// OutOfMemory ends the process as the kernel does when the limit of its cgroup
// is hit.
func (p *Process) OutOfMemory() {
	p.mu.Lock()
	p.oom = true
	p.mu.Unlock()
	p.deliver(sigKill)
}

// harmless are the signals whose default is to do nothing, or to stop a process
// or let it go on, which is not modelled: CHLD, CONT, STOP, TSTP, TTIN, TTOU,
// URG, WINCH (signal(7)).
func harmless(sig int) bool { return slices.Contains([]int{17, 18, 19, 20, 21, 22, 23, 28}, sig) }

func (p *Process) deliver(sig int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.traps[sig]; ch != nil {
		select {
		case ch <- sig:
		default:
		}
		return
	}
	if harmless(sig) || stopped(p.done) {
		return
	}
	if p.fatal == 0 {
		p.fatal = sig
	}
	p.cancel()
	// What it waits for fails; what it has written still goes out.
	p.in.exited()
	for _, o := range p.outs {
		o.exited()
	}
}

// verdict says how the process ended.
func (p *Process) verdict(code int) agentproto.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := agentproto.Exit{ID: p.ID, Code: code & 0xff, OOM: p.oom, At: time.Now()}
	if p.fatal != 0 {
		e.Code, e.Signal = 128+p.fatal, p.fatal
	}
	return e
}

// signalling is a stream of p, which gets SIGPIPE where nobody reads it any more.
type signalling struct {
	io.Writer
	p *Process
}

func (w signalling) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		w.p.deliver(sigPipe)
	}
	return n, err
}

// Builtin answers the program of that name, or nil: rehearse, of a machine that
// is to wait, true, false, echo, yes, cat,
// sleep SECONDS or "infinity", env, exit STATUS, and stubborn, which only
// SIGKILL ends.
func Builtin(name string) Program {
	switch name {
	case "true", "rehearse":
		return func(context.Context, *Process) int { return 0 }
	case "false":
		return func(context.Context, *Process) int { return 1 }
	case "echo":
		return echo
	case "yes":
		return yes
	case "cat":
		return cat
	case "sleep":
		return sleep
	case "env":
		return env
	case "exit":
		return exit
	case "stubborn":
		return stubborn
	}
	return nil
}

func say(p *Process, text string) int {
	if _, err := io.WriteString(p.Stdout, text); err != nil {
		return 1
	}
	return 0
}

func echo(_ context.Context, p *Process) int { return say(p, strings.Join(p.Args[1:], " ")+"\n") }

func yes(_ context.Context, p *Process) int {
	for say(p, "y\n") == 0 {
	}
	return 1
}

func env(_ context.Context, p *Process) int { return say(p, strings.Join(p.Env, "\n")+"\n") }

func cat(_ context.Context, p *Process) int {
	if _, err := io.Copy(p.Stdout, p.Stdin); err != nil {
		return 1
	}
	return 0
}

func exit(_ context.Context, p *Process) int {
	if len(p.Args) < 2 {
		return 0
	}
	n, err := strconv.Atoi(p.Args[1])
	if err != nil {
		return usage(p)
	}
	return n
}

func sleep(ctx context.Context, p *Process) int {
	if len(p.Args) < 2 {
		return usage(p)
	}
	if p.Args[1] == "infinity" {
		<-ctx.Done()
		return 0
	}
	s, err := strconv.ParseFloat(p.Args[1], 64)
	if err != nil {
		return usage(p)
	}
	t := time.NewTimer(time.Duration(s * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return 0
}

func stubborn(ctx context.Context, p *Process) int {
	all := make([]int, 64)
	for i := range all {
		all[i] = i + 1
	}
	heard := p.Trap(all...)
	if say(p, "ready\n") != 0 {
		return 1
	}
	for {
		select {
		case <-heard:
		case <-ctx.Done():
			return 0
		}
	}
}

func usage(p *Process) int {
	_, _ = io.WriteString(p.Stderr, "usage: "+p.Args[0]+" NUMBER\n")
	return 2
}
