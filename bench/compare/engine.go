//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/undo"
)

//go:embed engine.sh
var engineScript string

// cgroupRoot is where the host's control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// Limits of ending an engine: when asked, and with all that it made.
const (
	stopLimit  = 20 * time.Second
	closeLimit = time.Minute
)

// kind is a container engine that serves docker's API on a socket.
type kind struct {
	name     string
	programs []string // what it takes; the first is the engine
	words    func(dir string) []string
	env      func(dir string) []string
	files    map[string]string // in dir, before it starts
}

// docker is docker's engine with all that it keeps in dir. The containers have
// no network, so it needs neither bridge nor iptables.
func docker() kind {
	return kind{
		name:     "docker",
		programs: []string{"dockerd", "docker", "runc", "tini"},
		words: func(dir string) []string {
			return []string{"dockerd", "--host", "unix://" + socket(dir), "--data-root", filepath.Join(dir, "data"),
				"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
				"--exec-opt", "native.cgroupdriver=cgroupfs",
				"--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"}
		},
	}
}

// podman is podman's service with all that it keeps in dir. It runs containers
// with runc, as docker does; crun would not on a host with both kinds of control
// groups.
func podman() kind {
	return kind{
		name:     "podman",
		programs: []string{"podman", "docker", "runc", "tini"},
		words: func(dir string) []string {
			return []string{"podman", "--root", filepath.Join(dir, "data"), "--runroot", filepath.Join(dir, "run"),
				"system", "service", "--time", "0", "unix://" + socket(dir)}
		},
		env: func(dir string) []string {
			return []string{"CONTAINERS_CONF=" + filepath.Join(dir, "containers.conf")}
		},
		files: map[string]string{
			"containers.conf": "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n",
		},
	}
}

func socket(dir string) string { return filepath.Join(dir, "sock") }

// lacks says what keeps an engine from being started here; "" if nothing does.
func (k kind) lacks(p places) string {
	if os.Geteuid() != 0 {
		return "an engine in namespaces of its own takes root"
	}
	for _, program := range append(k.programs[:len(k.programs):len(k.programs)], p.compose()) {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%s is not installed (bench/compare/deps.sh)", filepath.Base(program))
		}
	}
	for _, hidden := range []string{"/run/", "/var/run/"} {
		if strings.HasPrefix(p.work, hidden) {
			return fmt.Sprintf("%s is hidden from engines: set TMPDIR to another folder", p.work)
		}
	}
	return ""
}

// engine is one that runs. Its process is PID 1 of a namespace: everything that
// it started ends with it.
type engine struct {
	kind
	dir     string
	process *os.Process
	ended   chan error // how its process ended, once
}

// startEngine starts an engine in dir, waits until it answers and gives it the
// image. undo gets what ends it and removes what it made.
func startEngine(ctx context.Context, k kind, dir, cgroup, image string, undo *undo.Stack) (*engine, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	undo.Push("remove "+dir, func(context.Context) error { return os.RemoveAll(dir) })
	undo.Push("remove control groups", func(context.Context) error { return removeCgroups(cgroupRoot, cgroup) })
	if err := makeMountpoint(podmanState, undo); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, standIn), 0o700); err != nil {
		return nil, err
	}
	for name, text := range k.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	e := &engine{kind: k, dir: dir, ended: make(chan error, 1)}
	if err := e.start(); err != nil {
		return nil, err
	}
	undo.Push("end "+k.name, e.stop)
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	_, err := e.client(ctx, "import", image, "busybox")
	return e, err
}

// podmanState is where podman keeps a cache whatever it is told, and standIn the
// folder that an engine sees in its place. The rest of /var/lib stays as it is:
// podman asks dpkg who it is.
const (
	podmanState = "/var/lib/containers"
	standIn     = "containers"
)

// makeMountpoint makes a folder, for the while, where there is none.
func makeMountpoint(path string, undo *undo.Stack) error {
	err := os.Mkdir(path, 0o755)
	if err == nil {
		undo.Push("remove "+path, func(context.Context) error { return os.Remove(path) })
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (e *engine) start() error {
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the engine has its own descriptor
	cmd := exec.Command("sh", append([]string{"-c", engineScript, "engine.sh", filepath.Join(e.dir, standIn)}, e.words(e.dir)...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = os.Environ()
	if e.env != nil {
		cmd.Env = append(cmd.Env, e.env(e.dir)...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Setpgid:    true,            // Ctrl-C is for the bench, which ends it
		Pdeathsig:  syscall.SIGKILL, // and it does not outlive the bench
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", e.name, err)
	}
	e.process = cmd.Process
	go func() { e.ended <- cmd.Wait() }() // stop takes it
	return nil
}

// await waits until the engine answers on its socket.
func (e *engine) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case end := <-e.ended:
			e.ended <- end
			return fmt.Errorf("%s ended (%v): %s", e.name, end, e.said())
		case <-ctx.Done():
			return fmt.Errorf("await %s: %w: %s", e.name, err, e.said())
		}
	}
}

func (e *engine) ping(ctx context.Context) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket(e.dir))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // only its status counts
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// said is the end of the engine's log.
func (e *engine) said() string {
	b, err := os.ReadFile(filepath.Join(e.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return tail(string(b), 400)
}

// stop asks the engine to end, and ends it where it does not.
func (e *engine) stop(ctx context.Context) error {
	if err := e.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-e.ended: // it was told to: any status will do
		return nil
	case <-limit.C:
	case <-ctx.Done():
	}
	if err := e.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-e.ended // nothing survives that
	return nil
}

// environment is what docker's programs need to find the engine, and no other.
func (e *engine) environment() []string {
	return append(os.Environ(), "DOCKER_HOST=unix://"+socket(e.dir), "DOCKER_CONFIG="+filepath.Join(e.dir, "config"), "DOCKER_CONTEXT=")
}

// client runs docker's client.
func (e *engine) client(ctx context.Context, words ...string) (string, error) {
	return run(ctx, e.environment(), append([]string{"docker"}, words...)...)
}

// describe says what runs the containers.
func (e *engine) describe(ctx context.Context, compose string) (string, error) {
	server, err := e.client(ctx, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return "", err
	}
	info, err := e.client(ctx, "info", "--format", "storage {{.Driver}}, cgroup v{{.CgroupVersion}} by {{.CgroupDriver}}")
	if err != nil {
		return "", err
	}
	client, err := run(ctx, nil, compose, "version", "--short")
	if err != nil {
		return "", err
	}
	runc, err := run(ctx, nil, "runc", "--version")
	if err != nil {
		return "", err
	}
	runc, _, _ = strings.Cut(runc, "\n")
	return fmt.Sprintf("docker compose %s on %s %s, %s, %s", strings.TrimSpace(client), e.words(e.dir)[0],
		strings.TrimSpace(server), strings.Replace(runc, "version ", "", 1), strings.TrimSpace(info)), nil
}

// enterEngine answers docker compose on an engine of kind k as an entrant. undo
// gets what ends the engine and removes what it made.
func enterEngine(ctx context.Context, k kind, p places, undo *undo.Stack) entrant {
	out := entrant{name: k.name}
	if out.missing = k.lacks(p); out.missing != "" {
		return out
	}
	c, version, err := composeOn(ctx, k, p, undo)
	if err != nil {
		out.missing = err.Error()
		return out
	}
	out.contender, out.version = c, version
	return out
}

// composeOn starts an engine and answers docker compose on it, with what the two
// are. After a failure nothing of the engine is left.
func composeOn(ctx context.Context, k kind, p places, out *undo.Stack) (c *commands, version string, err error) {
	var made undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, made.Run(ctx, closeLimit))
		}
	}()
	dir := filepath.Join(p.work, k.name)
	cgroup := fmt.Sprintf("vzcompose-compare-%d-%s", os.Getpid(), k.name)
	e, err := startEngine(ctx, k, dir, cgroup, p.image(), &made)
	if err != nil {
		return nil, "", err
	}
	if version, err = e.describe(ctx, p.compose()); err != nil {
		return nil, "", err
	}
	out.Push("close "+k.name, func(ctx context.Context) error { return made.Run(ctx, closeLimit) })
	file := filepath.Join(dir, "compose.yaml")
	return &commands{
		program: []string{p.compose(), "-p", stackName, "-f", file}, env: e.environment(),
		write: writer(file, func(n int) string { return composeFile(n, cgroup) }),
	}, version, nil
}
