package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

const sleeper = `
containers:
  box: {image: busybox, cpus: 1, memory: 128MiB, command: [sleep, "3600"], stop_grace_period: 0s}
`

// Processes in a container: status, streams, users, limits, mounts.
func TestExec(t *testing.T) {
	s := scenario(t, sleeper)
	s.must("up", "-d")
	for _, c := range []struct {
		name, stdin, out, err string
		code                  int
		args                  []string
	}{
		{name: "true", args: []string{"box", "true"}},
		{name: "false", args: []string{"box", "false"}, code: 1},
		{name: "exit 42", args: []string{"box", "sh", "-c", "exit 42"}, code: 42},
		{name: "signal", args: []string{"box", "sh", "-c", "kill -TERM $$"}, code: 143},
		{name: "echo", args: []string{"box", "echo", "hi"}, out: "hi\n"},
		{name: "stderr apart", args: []string{"box", "sh", "-c", "echo out; echo err >&2"}, out: "out\n", err: "err\n"},
		{name: "stdin to its end", args: []string{"box", "cat"}, stdin: strings.Repeat("0123456789abcdef", 8<<10), out: strings.Repeat("0123456789abcdef", 8<<10)},
		{name: "a reader that stops early", args: []string{"box", "head", "-c", "1"}, stdin: strings.Repeat("x", 1<<20), out: "x"},
		{name: "user by name", args: []string{"-u", "nobody", "box", "id", "-u"}, out: "65534\n"},
		{name: "unknown uid", args: []string{"-u", "4711:12", "box", "sh", "-c", "id -u; id -g"}, out: "4711\n12\n"},
		{name: "environment", args: []string{"-e", "A=b c", "box", "sh", "-c", "echo $A $HOME"}, out: "b c /root\n"},
		{name: "a directory", args: []string{"-w", "/var/www", "box", "pwd"}, out: "/var/www\n"},
		{name: "cgroup", args: []string{"box", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"}, out: "134217728\n100000 100000\n"},
		{name: "namespaces", args: []string{"box", "sh", "-c", "hostname; cat /proc/1/comm"}, out: "box-1\nsleep\n"},
		{name: "no right to mount", args: []string{"box", "sh", "-c", "mount -t tmpfs none /tmp 2>/dev/null || echo denied"}, out: "denied\n"},
		{name: "a background child does not hold it up", args: []string{"box", "sh", "-c", "sleep 600 & echo done"}, out: "done\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.feed(c.stdin, append([]string{"exec"}, c.args...)...)
			if r.code != c.code || r.out != c.out || r.err != c.err {
				t.Errorf("status %d, want %d\nout %q\nerr %q", r.code, c.code, cut(r.out), cut(r.err))
			}
		})
	}
	for _, c := range []struct {
		code int
		word string
		args []string
	}{
		{127, "no-such-program", []string{"box", "no-such-program"}},
		{126, "/etc/passwd", []string{"box", "/etc/passwd"}},
		{125, "mallory", []string{"-u", "mallory", "box", "true"}},
		{125, "nobody-1", []string{"nobody-1", "true"}},
	} {
		if r := s.vz(append([]string{"exec"}, c.args...)...); r.code != c.code || !strings.Contains(r.err, c.word) {
			t.Errorf("want status %d: %s", c.code, r)
		}
	}
	t.Run("a variable of the caller's", func(t *testing.T) {
		t.Setenv("VZ_OF_THE_CALLER", "x y")
		s.vz("exec", "-e", "VZ_OF_THE_CALLER", "-e", "VZ_NOWHERE", "box", "sh", "-c", "echo $VZ_OF_THE_CALLER ${VZ_NOWHERE-unset}").want(t, 0, "x y unset\n")
	})
	t.Run("a reader that goes away", func(t *testing.T) { readerGone(t, s) })
	t.Run("a command that is killed", func(t *testing.T) { commandGone(t, s) })
	t.Run("many at once", func(t *testing.T) {
		const n = 20
		done := make(chan result, n)
		for i := range n {
			go func() { done <- s.vz("exec", "box", "sh", "-c", fmt.Sprintf("exit %d", i)) }()
		}
		seen := map[int]bool{}
		for range n {
			seen[(<-done).code] = true
		}
		if len(seen) != n {
			t.Errorf("statuses %v", seen)
		}
	})
}

// readerGone reads a line of what never ends, as head -n 1 does.
func readerGone(t *testing.T, s *stack) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := s.command(ctx, "exec", "box", "yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "y\n" {
		t.Errorf("%q, %v", line, err)
	}
	_ = out.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+13 || said.Len() > 0 {
		t.Errorf("status %d, and it says %q", code, &said)
	}
	if r := s.vz("exec", "box", "pidof", "yes"); r.code != 1 || r.out != "" {
		t.Errorf("it is left: %s", r)
	}
}

// commandGone kills a command without a word: what it has started, with all that
// that has started, ends too; what was detached goes on.
func commandGone(t *testing.T, s *stack) {
	s.must("exec", "-d", "box", "sleep", "4001")
	cmd := s.command(t.Context(), "exec", "box", "sh", "-c", "sleep 4002 & echo ready; exec sleep 4003")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("%q, %v", line, err)
	}
	kill9(t, cmd.Process.Pid)
	_ = cmd.Wait()
	s.eventually("what the killed command has started is gone", func() bool {
		left := s.must("top", "box").out
		return !strings.Contains(left, "sleep 4002") && !strings.Contains(left, "sleep 4003")
	})
	contains(t, "top", s.must("top", "box").out, "sleep 4001")
}

func cut(s string) string { return s[:min(len(s), 400)] }

// 100 MB on stdout arrive in the log to the byte while it is followed, and so
// does what was written right before the end.
func TestLogsAreExact(t *testing.T) {
	const size = 1526 << 16 // bytes: a little over 100 MB, in whole blocks of dd
	s := scenario(t, fmt.Sprintf(`
containers:
  loud:
    image: busybox
    cpus: 1
    memory: 128MiB
    command: [sh, -c, "echo begin >&2; yes 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789 | dd bs=64k iflag=fullblock count=%d 2>/dev/null; echo -n the very last words"]
`, size>>16))
	s.must("up", "-d")
	want := sha256.New()
	line := []byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789\n")
	all := bytes.Repeat(line, size/len(line)+1)[:size]
	want.Write(all)
	want.Write([]byte("the very last words"))

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	follow := s.command(ctx, "logs", "-f", "--no-log-prefix", "--stream", "stdout")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	n, err := io.Copy(got, out)
	if err != nil {
		t.Error(err)
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("logs -f: %v", err)
	}
	if n != int64(len(all))+19 || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("followed %d bytes, digest %x, want %x", n, got.Sum(nil), want.Sum(nil))
	}
	again := sha256.New()
	r := s.must("logs", "--no-log-prefix", "--stream", "stdout")
	again.Write([]byte(r.out))
	if !bytes.Equal(again.Sum(nil), want.Sum(nil)) {
		t.Errorf("afterwards %d bytes", len(r.out))
	}
	contains(t, "stderr", s.must("logs", "--stream", "stderr", "--no-log-prefix").out, "begin\n")
}

// An attached up shows the output; Ctrl-C stops what it started, in order.
func TestAttachedUpAndCtrlC(t *testing.T) {
	s := scenario(t, `
containers:
  polite: {image: busybox, cpus: 1, memory: 64MiB, command: [sh, -c, "trap 'echo goodbye; exit 0' TERM; echo hello; while true; do sleep 3600 & wait $$!; done"]}
`)
	cmd := s.command(context.Background(), "up")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("polite-1  | hello\n"))
	if _, err := io.ReadFull(out, line); err != nil || !strings.Contains(string(line), "hello") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // to its end
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("status %d, %v", cmd.ProcessState.ExitCode(), err)
	}
	if got := s.states(); got != "polite-1=exited" {
		t.Errorf("states %s", got)
	}
	contains(t, "log", s.must("logs").out, "goodbye")
	if e := s.instances()["polite-1"].Exit; e == nil || e.Code != 0 || !e.Requested {
		t.Errorf("exit %+v", e)
	}
}
