package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
)

const processStack = `
containers:
  box: {image: busybox, cpus: 0.95, memory: 192MiB, command: [sleep, "36000"], stop_grace_period: 0s,
        mounts: [{type: tmpfs, destination: /scratch, options: [size=64m, mode=1700]}]}
`

// The processes of a container: lines 1 to 12, 16, 18, 19, 28, 29, 32, 51.
func TestConformProcess(t *testing.T) {
	s := scenario(t, processStack)
	s.must("up", "-d")
	behave(t, 1, "exit statuses, and 128+n for a signal", func(t *testing.T) {
		for script, code := range map[string]int{"true": 0, "false": 1, "exit 42": 42, "kill -TERM $$": 143, "kill -9 $$": 137} {
			s.sh("box", script).want(t, code, "")
		}
	})
	behave(t, 2, "output is exact, and stderr apart", func(t *testing.T) {
		r := s.vz("exec", "box", "echo", "hi")
		r.want(t, 0, "hi\n")
		if r.err != "" {
			t.Errorf("stderr has %q", r.err)
		}
	})
	behave(t, 4, "users by id and name; an unknown name fails, an unknown id works", func(t *testing.T) {
		id := []string{"box", "sh", "-c", "id -u; id -g"}
		for user, want := range map[string]string{"nobody": "65534\n65534\n", "4711": "4711\n0\n", "4711:12": "4711\n12\n", "nobody:daemon": "65534\n1\n"} {
			s.vz(append([]string{"exec", "-u", user}, id...)...).want(t, 0, want)
		}
		r := s.vz("exec", "-u", "mallory", "box", "true")
		if r.code == 0 || !strings.Contains(r.err, "mallory") {
			t.Errorf("an unknown name: %s", r)
		}
	})
	behave(t, 5, "HOME from the passwd entry, unless given; PATH finds a bare command", func(t *testing.T) {
		s.vz("exec", "-u", "nobody", "box", "sh", "-c", "echo $HOME").want(t, 0, "/home\n")
		s.vz("exec", "-e", "HOME=/x", "-u", "nobody", "box", "sh", "-c", "echo $HOME").want(t, 0, "/x\n")
		s.must("exec", "box", "sh", "-c", "mkdir /own; cp /bin/busybox /own/hostname; ln -s /bin/busybox /own/mine; printf '#!/bin/sh\necho mine' >/own/hello; chmod +x /own/hello")
		s.vz("exec", "-e", "PATH=/own:/bin", "box", "hello").want(t, 0, "mine\n")
	})
	behave(t, 6, "a missing working directory of a container is made; for a further process it is an error", func(t *testing.T) {
		s.vz("run", "--rm", "-w", "/made/up", "box", "pwd").want(t, 0, "/made/up\n")
		r := s.vz("exec", "-w", "/made/up", "box", "pwd")
		if r.code != 125 || !strings.Contains(r.err, "no directory /made/up in the container") {
			t.Errorf("exec in a directory that is not there: %s", r)
		}
		s.vz("exec", "box", "ls", "-d", "/made").want(t, 1, "")
	})
	behave(t, 7, "standard input: sizes, pauses, its end, a reader that stops early", func(t *testing.T) {
		for _, n := range []int{0, 1, 128 << 10, 10 << 20} {
			b := make([]byte, n)
			_, _ = rand.Read(b)
			s.feed(string(b), "exec", "box", "sha256sum").want(t, 0, fmt.Sprintf("%x  -\n", sha256.Sum256(b)))
		}
		s.feed(strings.Repeat("x", 1<<20), "exec", "box", "head", "-c", "1").want(t, 0, "x")
		s.chunks(t)
	})
	behave(t, 9, "what is said right before the end is not cut, however slow the reader", s.lateReader)
	behave(t, 10, "80 processes at once, and 80 of 20 MiB each", s.eighty)
	behave(t, 16, "cpu.max and memory.max are exact, and for a further process too", func(t *testing.T) {
		for _, of := range []string{"1", "self"} {
			got := s.says(t, "box", "cat /sys/fs/cgroup$(cut -d: -f3 /proc/"+of+"/cgroup)/cpu.max /sys/fs/cgroup$(cut -d: -f3 /proc/"+of+"/cgroup)/memory.max")
			if got != "95000 100000\n201326592" {
				t.Errorf("of %s: %q", of, got)
			}
		}
	})
	behave(t, 18, "the default capabilities: no mount and no link changes, but chown", func(t *testing.T) {
		for _, forbidden := range []string{"mount -t tmpfs none /tmp", "ip link set lo down", "hostname evil"} {
			if r := s.sh("box", forbidden); r.code == 0 {
				t.Errorf("allowed: %s", r)
			}
		}
		if got := s.says(t, "box", "touch /f && chown 12:34 /f && stat -c %u:%g /f"); got != "12:34" {
			t.Errorf("chown: %q", got)
		}
	})
	behave(t, 19, "masked and read-only paths are in force", func(t *testing.T) {
		if got := s.says(t, "box", "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l"); got != "0\n0" {
			t.Errorf("masked paths show %q", got)
		}
		for _, path := range []string{"/proc/sys/kernel/domainname", "/proc/sysrq-trigger"} {
			if r := s.sh("box", "echo h >"+path); r.code == 0 || !strings.Contains(r.err, "Read-only") {
				t.Errorf("write to %s: %s", path, r)
			}
		}
	})
	behave(t, 28, "tmpfs with size and mode", func(t *testing.T) {
		if got := s.says(t, "box", "stat -f -c %T /scratch; stat -c %a /scratch; df -m /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2"); got != "tmpfs\n1700\n64" {
			t.Errorf("it is %q", got)
		}
		if r := s.sh("box", "dd if=/dev/zero of=/scratch/f bs=1M count=65"); r.code == 0 || !strings.Contains(r.err, "No space") {
			t.Errorf("more than its size: %s", r)
		}
		s.must("exec", "box", "rm", "-f", "/scratch/f")
	})
	behave(t, 29, "the default mounts, with their options", func(t *testing.T) {
		mounts := s.says(t, "box", "cat /proc/mounts")
		for _, m := range []string{"proc /proc proc rw", "sysfs /sys sysfs rw,nosuid,nodev,noexec", "none /dev devtmpfs rw,nosuid",
			"mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec", "tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec",
			"none /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec", "devpts /dev/pts devpts rw,nosuid,noexec"} {
			if !strings.Contains(mounts, m) {
				t.Errorf("no %q in\n%s", m, mounts)
			}
		}
	})
	behave(t, 32, "the host name is the instance's, unless given", func(t *testing.T) {
		if got := s.says(t, "box", "hostname"); got != "box-1" {
			t.Errorf("it is %q", got)
		}
	})
	behave(t, 51, "the clock is right at boot", func(t *testing.T) {
		before := time.Now().Unix()
		got, err := strconv.ParseInt(s.says(t, "box", "date +%s"), 10, 64)
		if after := time.Now().Unix(); err != nil || got < before || got > after {
			t.Errorf("the machine says %d, between %d and %d of the host (%v)", got, before, after, err)
		}
	})
	behave(t, 12, "a process that has ended may be waited for and forgotten twice", s.forgetTwice)
	behave(t, 11, "processes that nobody waits for, then a stop", func(t *testing.T) {
		for range 3 {
			s.must("exec", "-d", "box", "sleep", "36000")
			s.must("exec", "-d", "box", "true")
		}
		s.must("stop")
		if got := s.states(); got != "box-1=exited" {
			t.Errorf("after it: %s", got)
		}
	})
}

// chunks writes ten pieces, each after the answer to the one before.
func (s *stack) chunks(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := s.command(ctx, "exec", "box", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		text := fmt.Sprintf("chunk %d\x00\xff\n", i)
		if _, err := io.WriteString(in, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != text {
			t.Fatalf("got %q, %v; want %q", got, err, text)
		}
	}
	_ = in.Close()
	rest, err := io.ReadAll(out)
	if err != nil || len(rest) > 0 {
		t.Errorf("then %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// lateReader reads what a process has said only after its end.
func (s *stack) lateReader(t *testing.T) {
	const size = 512 << 10
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := s.command(ctx, "exec", "box", "sh", "-c", fmt.Sprintf("dd if=/dev/zero bs=4k count=%d 2>/dev/null; echo the end; touch /scratch/said", size>>12))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	s.eventually("the process has said all", func() bool { return s.sh("box", "test -e /scratch/said").code == 0 })
	b, err := io.ReadAll(r)
	if err != nil || len(b) != size+len("the end\n") || !bytes.HasSuffix(b, []byte("\x00the end\n")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// eighty runs 80 processes at once, twice: with a status, and with 20 MiB.
func (s *stack) eighty(t *testing.T) {
	const n, size = 80, 20 << 20
	// Its bytes are of no pattern, so that a frame lost, doubled or swapped is seen.
	sum := strings.Fields(s.says(t, "box", fmt.Sprintf("head -c %d /dev/urandom >/scratch/blob && sha256sum /scratch/blob", size)))[0]
	var mu sync.Mutex // guards bad
	var bad []string
	var all sync.WaitGroup
	shim := s.instances()["box-1"].PID
	rss := residentOf(t, shim)
	guest := s.number(t, "grep AnonPages /proc/meminfo | tr -dc 0-9")
	for i := range n {
		all.Go(func() {
			var problem string
			if r := s.sh("box", fmt.Sprintf("exit %d", i)); r.code != i {
				problem = r.String()
			}
			h := sha256.New()
			cmd := s.command(t.Context(), "exec", "box", "cat", "/scratch/blob")
			cmd.Stdout = h
			if err := cmd.Run(); err != nil || fmt.Sprintf("%x", h.Sum(nil)) != sum {
				problem += fmt.Sprintf("the blob: %x, %v", h.Sum(nil), err)
			}
			if problem != "" {
				mu.Lock()
				defer mu.Unlock()
				bad = append(bad, problem)
			}
		})
	}
	all.Wait()
	if len(bad) > 0 {
		t.Errorf("%d of %d went wrong: %s", len(bad), n, strings.Join(bad[:min(3, len(bad))], "\n"))
	}
	t.Logf("the shim had %d MiB and at most %d", rss>>20, residentPeak(t, shim)>>20)
	if grown := residentPeak(t, shim) - rss; grown > 64<<20 {
		t.Errorf("the shim grew by %d MiB", grown>>20)
	}
	if grown := s.number(t, "grep AnonPages /proc/meminfo | tr -dc 0-9") - guest; grown > 64<<10 {
		t.Errorf("the machine grew by %d KiB", grown)
	}
	s.must("exec", "box", "rm", "/scratch/blob")
}

// number is what a script prints.
func (s *stack) number(t *testing.T, script string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s.says(t, "box", script), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// residentOf is what a process has now, from which its peak counts anew: 5 in
// proc(5)'s clear_refs.
func residentOf(t *testing.T, pid int) int64 {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return statusBytes(t, pid, "VmRSS:")
}

func residentPeak(t *testing.T, pid int) int64 { return statusBytes(t, pid, "VmHWM:") }

// statusBytes reads a size of proc(5)'s status.
func statusBytes(t *testing.T, pid int, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(b))
	i := slices.Index(words, field)
	if i < 0 || i+1 >= len(words) {
		t.Fatalf("no %s of %d", field, pid)
	}
	kib, err := strconv.ParseInt(words[i+1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// counter counts, and checks that each MiB begins with its number.
type counter struct {
	n    int64
	bad  error
	head []byte
}

func (c *counter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		in := int(c.n % (1 << 20))
		k := min(len(rest), 1<<20-in)
		if in < 8 {
			k = min(k, 8-in)
			c.head = append(c.head, rest[:k]...)
			if len(c.head) == 8 {
				if want := fmt.Sprintf("%08d", c.n>>20); string(c.head) != want && c.bad == nil {
					c.bad = fmt.Errorf("MiB %s begins with %q", want, c.head)
				}
				c.head = nil
			}
		}
		c.n += int64(k)
		rest = rest[k:]
	}
	return len(p), nil
}

// 250 MiB on stdout and on stderr at once: line 8.
func TestConformMuchOutput(t *testing.T) {
	s := scenario(t, processStack)
	s.must("up", "-d")
	behave(t, 8, "250 MiB on stdout and on stderr at once: exact, in order", func(t *testing.T) {
		const mib = 250
		script := fmt.Sprintf(`half() { i=0; while [ $i -lt %d ]; do printf %%08d $i; cat /scratch/rest; i=$((i+1)); done; }
head -c %d /dev/zero >/scratch/rest; half >&2 & half; wait`, mib, 1<<20-8)
		shim := s.instances()["box-1"].PID
		rss := residentOf(t, shim)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := s.command(ctx, "exec", "box", "sh", "-c", script)
		var out, errOut counter
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]*counter{"stdout": &out, "stderr": &errOut} {
			if c.n != mib<<20 || c.bad != nil {
				t.Errorf("%s: %d bytes, %v", name, c.n, c.bad)
			}
		}
		if grown := residentPeak(t, shim) - rss; grown > 64<<20 {
			t.Errorf("the shim grew by %d MiB", grown>>20)
		}
	})
}

// forgetTwice waits for a process several times at once, each of which forgets
// it, and for one that is forgotten.
func (s *stack) forgetTwice(t *testing.T) {
	c := s.shim(t, "box-1")
	e, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"sh", "-c", "while ! test -e /go; do sleep 0.05; done; exit 7"}})
	if err != nil {
		t.Fatal(err)
	}
	const n = 8
	codes := make(chan int, n)
	for range n {
		go func() {
			exit, err := c.Wait(t.Context(), e.ID)
			if errs.Is(err, errs.NotFound) { // forgotten before this one asked
				exit.Code = -1
			} else if err != nil {
				t.Error(err)
			}
			codes <- exit.Code
		}()
	}
	s.sh("box", "touch /go").want(t, 0, "")
	told := 0
	for range n {
		if code := <-codes; code == 7 {
			told++
		} else if code != -1 {
			t.Errorf("status %d", code)
		}
	}
	if told == 0 {
		t.Error("nobody was told how it ended")
	}
	for range 2 {
		if _, err := c.Wait(t.Context(), e.ID); !errs.Is(err, errs.NotFound) {
			t.Errorf("of one that is forgotten: %v", err)
		}
	}
	s.sh("box", "echo on").want(t, 0, "on\n")
}
