package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/store"
)

// preparedIDs are the templates that have a root.
func (s *stack) preparedIDs() (all []string) {
	s.t.Helper()
	for l := range strings.Lines(s.must("template", "ls").out) {
		if strings.Contains(l, "/rootfs/") {
			all = append(all, strings.Fields(l)[0])
		}
	}
	return all
}

// Instances whose machines were one with their image mounted have nothing in
// common that should be theirs, and what they write; nothing secret is in what
// was saved; and where it does not fit, all is as without it.
func TestPreparedMachines(t *testing.T) {
	s := scenario(t, `
name: prepared
defaults: {image: busybox, cpus: 1, memory: 96MiB, stop_signal: KILL}
containers:
  a:
    replicas: 2
    command: [sh, -c, "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | hexdump -v -e '1/1 \"%02x\"'; echo; sleep 1000 # argument-XYZZY"]
    environment: {MODE: variable-XYZZY}
    secrets: [word]
  tty: {tty: true, command: [sleep, "1000"]}
secrets:
  word: {file: ./word}
`)
	if err := os.WriteFile(filepath.Join(s.dir, "word"), []byte("secret-XYZZY"), 0o600); err != nil {
		t.Fatal(err)
	}
	warmOnly(t)
	h := must(store.Locate(os.LookupEnv))
	if r := s.must("template", "prewarm", "--prepared"); !strings.Contains(r.out, "terminal") {
		t.Errorf("of what cannot be prepared nothing is said: %s", r)
	}
	ids := s.preparedIDs()
	if len(ids) == 0 { // the one used last leads
		t.Fatal("there is no prepared template")
	}
	file := filepath.Join(h.Templates(), ids[0]+".template")
	if b := must(os.ReadFile(file)); bytes.Contains(b, []byte("-XYZZY")) {
		t.Error("what may be secret is in the template")
	}
	s.must("up", "-d")
	for instance, want := range map[string]string{"a-1": "prepared", "a-2": "prepared", "tty-1": "restored"} {
		if got := s.origin(h, instance); got != want {
			t.Errorf("%s: the machine was %s, want %s", instance, got, want)
		}
	}
	seen := map[string]string{}
	for _, i := range []string{"a-1", "a-2"} {
		said := s.must("exec", i, "sh", "-c", "cat /proc/sys/kernel/random/boot_id /run/secrets/word; echo; hostname; tr '\\0' '\\n' </proc/1/environ; ip -o -4 a show eth0; ip -o link show eth0; cat /etc/hosts; touch /"+i+"; ls /").out
		for _, want := range []string{"secret-XYZZY", "\n" + i + "\n", "MODE=variable-XYZZY", "\t" + i + "\n", "HOME=/root"} {
			if !strings.Contains(said, want) {
				t.Errorf("%s has no %q: %s", i, want, said)
			}
		}
		if other := map[string]string{"a-1": "a-2", "a-2": "a-1"}[i]; strings.Contains(said, "\n"+other+"\n") {
			t.Errorf("%s has what %s wrote: %s", i, other, said)
		}
		logs := strings.Fields(s.must("logs", "--no-log-prefix", i).out)
		for n, l := range append(logs[:min(2, len(logs))], addressOf(said), macOf(said)) {
			if seen[l] != "" || len(l) < 7 {
				t.Errorf("%s and %s both have %q (%d)", i, seen[l], l, n)
			}
			seen[l] = i
		}
	}
	s.must("restart", "a")
	if got := s.origin(h, "a-1"); got != "restored" {
		t.Errorf("started again: the machine was %s, want restored", got)
	}
	if ls := s.must("exec", "a-1", "ls", "/").out; !strings.Contains(ls, "a-1") {
		t.Errorf("what was written is gone: %s", ls)
	}
	s.must("down")

	// Damaged where its disk is: it goes, the reason is told, and all works.
	b := must(os.ReadFile(file))
	at := bytes.LastIndex(b, []byte("lost+found"))
	if at < 0 {
		t.Fatal("no disk in the template")
	}
	b[at] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("up", "-d", "a")
	st := must(h.ReadState(s.name, "a-1"))
	st2 := must(h.ReadState(s.name, "a-2"))
	if st.Origin != "restored" || len(st.Notes)+len(st2.Notes) == 0 {
		t.Errorf("of a damaged template: %s, notes %q", st.Origin, st.Notes)
	}
	if left := s.preparedIDs(); slices.Contains(left, ids[0]) {
		t.Errorf("still there: %q", left)
	}
}

func addressOf(said string) string { return after(said, "inet ") }
func macOf(said string) string     { return after(said, "link/ether ") }

// after is the word that comes after what.
func after(said, what string) string {
	_, rest, _ := strings.Cut(said, what)
	word, _, _ := strings.Cut(rest, " ")
	return word
}
