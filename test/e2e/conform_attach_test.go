package e2e

import (
	"bufio"
	"context"
	"io"
	"strconv"
	"strings"
	"testing"
)

// A container that never stops counting and answers what it is told.
func TestConformAttach(t *testing.T) {
	s := scenario(t, `
containers:
  box:
    image: busybox
    cpus: 1
    memory: 64MiB
    stdin_open: true
    stop_grace_period: 0s
    command: [sh, -c, "(i=0; while :; do i=$$((i+1)); echo $$i; sleep 0.02; done) & while read x; do echo heard $$x; done; echo closed"]
`)
	behave(t, 13, "attach, detach, attach again: nothing is lost meanwhile, and the input stays open", func(t *testing.T) {
		s.must("up", "-d")
		one := s.visit(t, "one")
		between := s.counted()
		s.eventually("it counts on while nobody is there", func() bool { return s.counted() > between+20 })
		two := s.visit(t, "two")
		s.eventually("the log has what both have seen", func() bool { // a visit may see a line before the log does
			all := s.logged()
			return strings.Contains(all, one) && strings.Contains(all, two)
		})
		all, next := s.logged(), 1
		for line := range strings.Lines(all) {
			if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
				if n != next {
					t.Fatalf("%d follows %d", n, next-1)
				}
				next++
			}
		}
		for _, words := range []string{"heard one\n", "heard two\n"} {
			if n := strings.Count(all, words); n != 1 {
				t.Errorf("%q is in the log %d times", words, n)
			}
		}
		if strings.Index(all, two) < strings.Index(all, one)+len(one) {
			t.Error("the second visit saw what the first had")
		}
		if strings.Contains(all, "closed") {
			t.Error("a detach has ended the input")
		}
	})
}

// visit attaches to box, tells it a word, waits for the answer and for more, and
// detaches. It answers all that was heard.
func (s *stack) visit(t *testing.T, word string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := s.command(ctx, "attach", "box")
	in, out := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, word+"\n"); err != nil {
		t.Fatal(err)
	}
	var heard strings.Builder
	answered := false
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadString('\n')
		heard.WriteString(line)
		if err != nil {
			break // it is detached
		}
		if answered {
			if _, err := io.WriteString(in, "\x10\x11"); err != nil {
				t.Fatal(err)
			}
			answered = false
		}
		answered = answered || line == "heard "+word+"\n"
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("attach: %v", err)
	}
	return heard.String()
}

func (s *stack) logged() string {
	s.t.Helper()
	return s.must("logs", "--no-log-prefix", "box").out
}

// counted is how far box has counted.
func (s *stack) counted() int {
	s.t.Helper()
	return strings.Count(s.logged(), "\n")
}
