//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// vzcompose is the program with a home folder of its own.
type vzcompose struct {
	commands
	home store.Home
}

// openVzcompose makes a home folder with the kernel and the image. undo gets what
// ends and removes all of it.
func openVzcompose(ctx context.Context, p places, undo *undo.Stack) (*vzcompose, error) {
	dir := filepath.Join(p.work, "vzcompose")
	env := append(os.Environ(), "VZCOMPOSE_HOME="+dir)
	home, err := store.Locate(func(name string) (string, bool) {
		if name == "VZCOMPOSE_HOME" {
			return dir, true
		}
		return os.LookupEnv(name)
	})
	if err != nil {
		return nil, err
	}
	undo.Push("remove "+dir, func(context.Context) error { home.RemoveRuntime(); return os.RemoveAll(dir) })
	file := filepath.Join(dir, "vzcompose.yaml")
	v := &vzcompose{home: home, commands: commands{
		program: []string{p.program, "-n", stackName, "-f", file}, env: env, write: writer(file, vzcomposeFile),
	}}
	if err := v.prepare(1); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("pool: {memory: 16GiB}\n"), 0o600); err != nil {
		return nil, err
	}
	for _, words := range [][]string{
		{p.program, "kernel", "import", p.kernel()},
		{p.program, "image", "import", "--cmd", "sh", p.image(), "busybox"},
	} {
		if _, err := run(ctx, env, words...); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// with answers the same program with more flags of up.
func (v *vzcompose) with(flags ...string) *vzcompose {
	w := *v
	w.flags = flags
	return &w
}

// entrants are vzcompose warm, prepared, from the pool and cold; cold alone where this version knows no
// other way. Nothing but up's flag tells the two apart.
func (v *vzcompose) entrants(ctx context.Context) ([]entrant, error) {
	version, err := run(ctx, v.env, v.program[0], "version")
	if err != nil {
		return nil, err
	}
	help, err := run(ctx, v.env, v.program[0], "up", "--help")
	if err != nil {
		return nil, err
	}
	version = strings.TrimSpace(version)
	if !strings.Contains(help, "--cold") {
		return []entrant{
			{name: "vzcompose warm", missing: "up of this version has no flag --cold: it knows cold machines only"},
			{name: "vzcompose cold", version: version, contender: v},
		}, nil
	}
	return []entrant{
		{name: "vzcompose warm", version: version, contender: v},
		{name: "vzcompose prepared", version: version, contender: &prepared{v}},
		{name: "vzcompose pool", version: version, contender: &pooled{v, nil}},
		{name: "vzcompose pool prepared", version: version, contender: &pooled{v, []string{"--prepared"}}},
		{name: "vzcompose cold", version: version, contender: v.with("--cold")},
	}, nil
}

// prepare is the file of n containers, and no prepared machine from a turn before.
func (v *vzcompose) prepare(n int) error {
	if err := v.commands.prepare(n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := v.run(ctx, "template", "ls", "--format", "json")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		var t struct{ ID, Root string }
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			return fmt.Errorf("template ls: %w: %s", err, line)
		}
		if t.Root == "" {
			continue
		}
		if _, err := v.run(ctx, "template", "rm", t.ID); err != nil {
			return err
		}
	}
	return nil
}

// prepared has templates of machines with the image mounted.
type prepared struct{ *vzcompose }

func (p *prepared) prepare(n int) error {
	if err := p.vzcompose.prepare(n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := p.run(ctx, "template", "prewarm", "--prepared")
	return err
}

// pooled has a machine wait for each container before its up, with more flags of
// prewarm. The last down empties the pool.
type pooled struct {
	*vzcompose
	more []string
}

func (p *pooled) prepare(n int) error {
	if err := p.vzcompose.prepare(n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := p.run(ctx, slices.Concat([]string{"template", "prewarm"}, p.more, []string{strconv.Itoa(n)})...)
	return err
}

// acceleration is how machines run the guest's instructions here, in doctor's
// words: "kvm: …" or "tcg: …".
func (v *vzcompose) acceleration(ctx context.Context) (string, error) {
	out, err := run(ctx, v.env, v.program[0], "doctor", "--json")
	var rows []struct{ Name, Found string }
	if jsonErr := json.Unmarshal([]byte(out), &rows); jsonErr != nil {
		return "", fmt.Errorf("doctor: %w (%v)", jsonErr, err)
	}
	for _, r := range rows { // a lack elsewhere, an error of doctor's, does not matter
		if r.Name == "acceleration" {
			return r.Found, nil
		}
	}
	return "", fmt.Errorf("doctor says nothing of acceleration")
}

// shims are the processes that own the machines.
func (v *vzcompose) shims(ctx context.Context) ([]int, error) {
	out, err := v.run(ctx, "ps", "--status", "running", "--format", "json")
	if err != nil {
		return nil, err
	}
	return parseShims(out)
}

// parseShims reads what ps prints as JSON, an instance a line.
func parseShims(out string) ([]int, error) {
	var pids []int
	for line := range strings.Lines(out) {
		var i struct{ PID int }
		if err := json.Unmarshal([]byte(line), &i); err != nil {
			return nil, fmt.Errorf("ps: %w: %s", err, line)
		}
		if i.PID <= 0 {
			return nil, fmt.Errorf("ps: no pid: %s", line)
		}
		pids = append(pids, i.PID)
	}
	return pids, nil
}
