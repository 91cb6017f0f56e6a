package cli

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
)

// ctrlC is what a terminal sends for it: its driver makes it SIGINT.
const ctrlC = "\x03"

// terminal is a command in a pseudo-terminal of 80 by 24, and its screen.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	screen vt10x.Terminal
	read   sync.WaitGroup
}

// onTerminal starts vzcompose, up if there are no arguments, in a pseudo-terminal,
// on a home of its own, beside a stack file. The machine of holds, if any, waits where it boots (see
// newFake).
func onTerminal(t *testing.T, stack, holds string, args ...string) *terminal {
	t.Helper()
	home, err := prepareHome(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vzcompose.yaml"), []byte(stack), 0o600); err != nil {
		t.Fatal(err)
	}
	if holds != "" {
		path := filepath.Join(home, "fake", "hold", "boot-"+holds)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "VZCOMPOSE_HOME="+home, "TERM=xterm", "NO_COLOR=1")
	x := &terminal{t: t, screen: vt10x.New(vt10x.WithSize(80, 24))}
	if len(args) == 0 {
		args = []string{"up"}
	}
	x.cmd = exec.Command("vzcompose", args...)
	x.cmd.Dir, x.cmd.Env = dir, env
	if x.master, err = pty.StartWithSize(x.cmd, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	x.read.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := x.master.Read(b)
			_, _ = x.screen.Write(b[:n])
			if err != nil {
				return // the terminal's other end is closed
			}
		}
	})
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill() // it has ended, or the test has failed
		down := exec.Command("vzcompose", "down", "-t", "0")
		down.Dir, down.Env = dir, env
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		_ = x.master.Close()
		x.read.Wait()
	})
	return x
}

// shows waits until the screen matches.
func (x *terminal) shows(re string) {
	x.t.Helper()
	want := regexp.MustCompile("(?m)" + re)
	if poll(deadline(x.t), func() bool { return want.MatchString(x.screen.String()) }) != nil {
		x.t.Fatalf("the screen does not show %s:\n%s", re, x.screen.String())
	}
}

func (x *terminal) types(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// ends waits for the end with a status, and compares what is left on the screen.
// Times and ports are T and P there, and columns are two spaces apart.
func (x *terminal) ends(status int, want string) {
	x.t.Helper()
	late := time.AfterFunc(patience, func() { _ = x.cmd.Process.Kill() })
	err := x.cmd.Wait()
	if !late.Stop() {
		x.t.Fatalf("it did not end:\n%s", x.screen.String())
	}
	x.read.Wait()
	var exit *exec.ExitError
	if code := x.cmd.ProcessState.ExitCode(); code != status || err != nil && !errors.As(err, &exit) {
		x.t.Errorf("it ended with %d, want %d (%v)", code, status, err)
	}
	var lines []string
	for _, line := range strings.Split(x.screen.String(), "\n") {
		line = regexp.MustCompile(`\b\d+\.\ds`).ReplaceAllString(line, "T")
		line = regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(line, "127.0.0.1:P")
		line = regexp.MustCompile(` {2,}`).ReplaceAllString(line, "  ")
		lines = append(lines, strings.TrimRight(line, " "))
	}
	if got := strings.TrimRight(strings.Join(lines, "\n"), "\n"); got != strings.Trim(want, "\n") {
		x.t.Errorf("the screen shows\n%s\nwant\n%s", got, want)
	}
}

const twoContainers = `
name: shop
defaults: {image: base, pull: never, interfaces: []}
containers:
  db: {command: [print, ready, never]}
  web: {command: [print, ready, never], depends_on: [db]}
`

func TestScreenInterruptedWhileFollowing(t *testing.T) {
	x := onTerminal(t, twoContainers, "")
	x.shows(`^web-1 +\| ready`)
	x.types(ctrlC)
	x.ends(130, `
shop: 4 steps
db
  + create  db-1  does not exist
  + start  db-1  new
web
  + create  web-1  does not exist
  + start  web-1  new
db-1  started  T
web-1  started  T
db-1  | ready
web-1  | ready
^Cstopping; once more to kill
web-1  stopped  T
db-1  stopped  T
`)
}

func TestScreenInterruptedWhileStarting(t *testing.T) {
	x := onTerminal(t, twoContainers, "web-1")
	x.shows(`^web-1 +starting machine`)
	x.types(ctrlC)
	x.ends(130, `
shop: 4 steps
db
  + create  db-1  does not exist
  + start  db-1  new
web
  + create  web-1  does not exist
  + start  web-1  new
db-1  started  T
web-1  interrupted  T
1 started, 1 interrupted
stopping; once more to kill
db-1  stopped  T
`)
}

func TestScreenInterruptedTwice(t *testing.T) {
	x := onTerminal(t, strings.ReplaceAll(twoContainers, "db: {command: [print, ready, never]}", "db: {command: [stubborn], stop_grace_period: 60s}"), "")
	x.shows(`^web-1 +\| ready`)
	x.types(ctrlC)
	x.shows(`^web-1 +stopped`)
	x.types(ctrlC)
	x.ends(130, `
shop: 4 steps
db
  + create  db-1  does not exist
  + start  db-1  new
web
  + create  web-1  does not exist
  + start  web-1  new
db-1  started  T
web-1  started  T
db-1  | ready
web-1  | ready
^Cstopping; once more to kill
web-1  stopped  T
killing
db-1  stopped  T
`)
}

// stalledImage is an image in a registry that answers nothing about it.
func stalledImage(t *testing.T) string {
	stalled := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return // it needs no authentication
		}
		select {
		case <-stalled:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(stalled) })
	return strings.TrimPrefix(server.URL, "http://") + "/far:1"
}

func TestScreenInterruptedPull(t *testing.T) {
	ref := stalledImage(t)
	x := onTerminal(t, strings.ReplaceAll(twoContainers, "web: {", "web: {image: "+ref+", pull: missing, "), "")
	x.shows(`(?s)db-1 +started.*^image .*/far:1 +pulling`)
	began := time.Now()
	x.types(ctrlC)
	x.ends(130, `
shop: 5 steps
images
  + pull  127.0.0.1:P/far:1  image 127.0.0.1:P/far:1 is not here
db
  + create  db-1  does not exist
  + start  db-1  new
web
  + create  web-1  does not exist
  + start  web-1  new
db-1  started  T
image 127.0.0.1:P/far:1  interrupted  T
1 started, 1 not begun
stopping; once more to kill
db-1  stopped  T
`)
	t.Logf("it ended after %s", time.Since(began))
}

// deadline is a context of a test that ends when patience does.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Ctrl-C of what belongs to no stack ends it too.
func TestScreenInterruptedImagePull(t *testing.T) {
	x := onTerminal(t, twoContainers, "", "image", "pull", stalledImage(t))
	x.shows(`/far:1 +pulling`)
	x.types(ctrlC)
	x.ends(130, "")
}
