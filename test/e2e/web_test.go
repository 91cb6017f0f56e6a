package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/store"
)

// page asks for a page over a connection of its own.
func page(url string) (string, error) {
	c := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = errors.New(r.Status)
	}
	return strings.TrimSpace(string(b)), err
}

// hey loads a page for a while, and answers how many requests it was. None may
// fail.
func hey(t *testing.T, url string, clients int, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(shared.cache, "bin", "hey"), "-z", d.String(), "-t", "120", "-c", fmt.Sprint(clients), url).CombinedOutput()
	all := regexp.MustCompile(`\[(\d+)\]\s+(\d+) responses`).FindAllStringSubmatch(string(out), -1)
	if err != nil || strings.Contains(string(out), "Error distribution") || len(all) != 1 || all[0][1] != "200" {
		t.Errorf("%v\n%s", err, out)
		return
	}
	t.Logf("%s in %s at %d connections, none failed", all[0][2], d, clients)
}

// The example of a web server, an application and redis, reached from the host:
// under load, over many connections, and while the switch is killed.
func TestWeb(t *testing.T) {
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	port := freePort(t)
	t.Setenv("WEB_PORT", fmt.Sprint(port))
	for image, from := range map[string]string{"nginx:1.27": "nginx.tar", "redis:7": "redis.tar"} {
		if err := simple("image", "import", filepath.Join(shared.cache, "images", from), image); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile("../../examples/web/vzcompose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := scenario(t, string(file))
	s.must("up", "-d")
	root := fmt.Sprintf("http://127.0.0.1:%d/", port)
	s.eventually("the page is there", func() bool { got, err := page(root); return err == nil && strings.Contains(got, "kernel") })
	s.eventually("the application answers", func() bool { got, err := page(root + "hits"); return err == nil && got == "1" })
	if got, err := page(root + "hits"); err != nil || got != "2" {
		t.Errorf("redis counted %q, %v", got, err)
	}
	hey(t, root, 64, 8*time.Second)
	shim := s.instances()["web-1"].PID
	before := descriptors(t, shim)
	for i := range 1000 {
		if _, err := page(root); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	s.eventually("no descriptor is left", func() bool { return descriptors(t, shim) <= before })
	s.killSwitch(t, root)
}

// killSwitch kills the switch while the page is loaded. The published port does
// not go through it; what does comes to itself.
func (s *stack) killSwitch(t *testing.T, root string) {
	lock := must(store.Locate(os.LookupEnv)).SwitchLock(s.name)
	pid, err := filelock.Signed(lock)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		hey(t, root, 16, 6*time.Second)
	}()
	kill9(t, pid)
	killed := time.Now()
	s.eventually("another switch is there", func() bool {
		now, err := filelock.Signed(lock)
		held, herr := filelock.Held(lock)
		return err == nil && herr == nil && held && now != pid
	})
	restarted := time.Now()
	s.eventually("the application answers again", func() bool { _, err := page(root + "hits"); return err == nil })
	t.Logf("another switch after %s, through it after %s more", restarted.Sub(killed).Round(time.Millisecond), time.Since(restarted).Round(time.Millisecond))
	<-done
}

// Two stacks with one subnet do not see each other.
func TestTwoStacksWithOneSubnet(t *testing.T) {
	const file = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
networks: {front: {subnet: 10.85.0.0/24}}
containers:
  said: {command: [nc, -ll, -p, "80", -e, "/bin/hostname"], hostname: %s, interfaces: [{network: front, address: 10.85.0.10}]}
  asks: {command: [sleep, "36000"], networks: [front]}
  only-%s: {command: [sleep, "36000"], networks: [front]}
`
	one := scenario(t, fmt.Sprintf(file, "one", "one"))
	two := scenario(t, fmt.Sprintf(file, "two", "two"))
	two.name += "-2"
	one.must("up", "-d")
	two.must("up", "-d")
	for _, of := range []struct {
		s             *stack
		is, other     string
		unseen, there string
	}{{one, "one", "two", "only-two", "only-one"}, {two, "two", "one", "only-one", "only-two"}} {
		for _, at := range []string{"said", "10.85.0.10"} {
			if got := of.s.says(t, "asks", "nc -w 10 "+at+" 80 </dev/null"); got != of.is {
				t.Errorf("in %s, %s answers as %q", of.is, at, got)
			}
		}
		of.s.says(t, "asks", "nslookup "+of.there+" && ! nslookup "+of.unseen)
	}
}
