//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/store"
)

// greeting is the agent's first word on the console.
const greeting = "vzcompose-agent: up"

// bareMemory is what a machine for boxMemory has, in MiB: the container's, and
// what the kernel and the agent take beside it.
const bareMemory = 194

// bare starts machines by hand: QEMU with vzcompose's kernel, initramfs and
// kernel command line, and nothing else. They are up when each agent has said
// its first word, which is before anything of a container happens.
type bare struct {
	words    []string // QEMU's command line
	n        int
	machines []*bareMachine // since up
}

// bareMachine is one QEMU. A goroutine of its own reads its console and waits for
// it.
type bareMachine struct {
	process *os.Process
	heard   chan error    // whether the agent spoke, once
	ended   chan struct{} // closed when the process is gone, however it ended
}

// openBare finds what the machines of home boot.
func openBare(ctx context.Context, home store.Home, acceleration string) (*bare, error) {
	if runtime.GOARCH != "amd64" {
		return nil, errors.New("its command line is written for amd64")
	}
	kernels, err := kernel.Open(home.Kernels())
	if err != nil {
		return nil, err
	}
	k, err := kernels.Default(ctx, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	agent, err := agents.Binary(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	initramfs, err := kernels.Initramfs(ctx, k, agent)
	if err != nil {
		return nil, err
	}
	accel, cpu := "tcg,thread=multi", "max,erms=off"
	if strings.HasPrefix(acceleration, "kvm") {
		accel, cpu = "kvm", "host"
	}
	return &bare{words: []string{"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35,usb=off,vmport=off,smbus=off,sata=off", "-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(boxCPUs), "-m", fmt.Sprintf("%dM", bareMemory),
		"-kernel", k.Image, "-initrd", initramfs, "-serial", "file:/dev/stdout", "-append",
		"quiet panic=-1 audit=0 lsm= cryptomgr.notests rcupdate.rcu_expedited=1 random.trust_cpu=on console=ttyS0 reboot=t noreplace-smp 8250.nr_uarts=1 tsc=reliable no_timer_check"}}, nil
}

func (b *bare) version(ctx context.Context) (string, error) {
	out, err := run(ctx, nil, b.words[0], "--version")
	line, _, _ := strings.Cut(out, "\n")
	return line, err
}

func (b *bare) prepare(n int) error {
	b.n = n
	return nil
}

func (b *bare) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range b.n {
		m, err := boot(b.words)
		if err != nil {
			return err
		}
		b.machines = append(b.machines, m)
	}
	for i, m := range b.machines {
		select {
		case err := <-m.heard:
			if err != nil {
				return fmt.Errorf("machine %d: %w", i+1, err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// boot starts one machine.
func boot(words []string) (*bareMachine, error) {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m := &bareMachine{process: cmd.Process, heard: make(chan error, 1), ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		m.heard <- hear(console, greeting)
		_, _ = io.Copy(io.Discard, console) // a full pipe would stop the machine
		_ = cmd.Wait()                      // killed, or its console says why
	}()
	return m, nil
}

// hear reads until word was read.
func hear(r io.Reader, word string) error {
	var heard []byte
	for buf := make([]byte, 4096); ; {
		n, err := r.Read(buf)
		heard = append(heard, buf[:n]...)
		if bytes.Contains(heard, []byte(word)) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("its console ended before %q: %w: %s", word, err, tail(string(heard), 200))
		}
		if len(heard) > 1<<20 {
			return fmt.Errorf("a MiB of console without %q", word)
		}
	}
}

func (b *bare) running(context.Context) (int, error) {
	n := 0
	for _, m := range b.machines {
		select {
		case <-m.ended:
		default:
			n++
		}
	}
	return n, nil
}

func (b *bare) down(context.Context) error {
	var errs []error
	for _, m := range b.machines {
		if err := m.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	for _, m := range b.machines {
		<-m.ended // nothing survives that
	}
	b.machines = nil
	return errors.Join(errs...)
}

// enterBare answers bare machines as an entrant.
func enterBare(ctx context.Context, v *vzcompose, acceleration string) entrant {
	out := entrant{name: "bare QEMU"}
	b, err := openBare(ctx, v.home, acceleration)
	if err != nil {
		out.missing = err.Error()
		return out
	}
	if out.version, err = b.version(ctx); err != nil {
		out.missing = err.Error()
		return out
	}
	out.contender = b
	return out
}
