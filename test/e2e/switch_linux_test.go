package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/store"
)

const twoOnNetwork = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  db: {command: [sh, -c, "mkdir /w; echo from db >/w/index.html; exec httpd -f -p 80 -h /w"]}
  web: {command: [sleep, "3600"]}
`

// kill -9 of the switch: another is there within 2 s, without a word, and the
// machines find and reach each other; it is gone with the stack.
func TestSwitchIsKilled(t *testing.T) {
	s := scenario(t, twoOnNetwork)
	s.must("up", "-d")
	fetch := `gw=$(ip route | awk '/default/{print $3}'); a=$(nslookup db $gw | tail -n +3 | awk '/^Address/{print $2; exit}')
printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 $a 80`
	reaches := func() bool { return strings.Contains(s.vz("exec", "web-1", "sh", "-c", fetch).out, "from db") }
	s.eventually("web finds and reaches db", reaches)
	lock := store.Home{Dir: shared.home}.SwitchLock(s.name)
	pid := must(filelock.Signed(lock))
	kill9(t, pid)
	killed := time.Now()
	s.eventually("there is another switch", func() bool {
		now, err := filelock.Signed(lock)
		held, herr := filelock.Held(lock)
		return err == nil && herr == nil && held && now != pid
	})
	back := time.Since(killed)
	t.Logf("another switch after %s", back.Round(time.Millisecond))
	if back > 2*time.Second {
		t.Errorf("another switch took %s", back)
	}
	s.eventually("web reaches db over it", reaches)
	s.must("down")
	if held, err := filelock.Held(lock); err != nil || held {
		t.Errorf("the switch outlives its stack: %v, %v", held, err)
	}
}
