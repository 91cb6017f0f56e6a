package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/vmm"
)

func (a *app) doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "what this host can run, and what mends each lack",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "as JSON"}},
		Action: a.doctor,
	}
}

// check is one thing the doctor looked at.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

func (a *app) doctor(c *cli.Context) error {
	checks := a.examine(c)
	healthy := true
	for _, ch := range checks {
		healthy = healthy && ch.OK
	}
	if c.Bool("json") {
		b, err := json.MarshalIndent(checks, "", "  ")
		if err != nil {
			return err
		}
		if err := a.view.JSON(append(b, '\n')); err != nil {
			return err
		}
	} else {
		var b strings.Builder
		for _, ch := range checks {
			mark := "ok  "
			if !ch.OK {
				mark = "LACK"
			}
			fmt.Fprintf(&b, "%s  %-13s %s\n", mark, ch.Name, ch.Found)
			if ch.Remedy != "" {
				fmt.Fprintf(&b, "      %-13s %s\n", "", ch.Remedy)
			}
		}
		if err := a.view.Text(b.String()); err != nil {
			return err
		}
	}
	if !healthy {
		return status(exitFailed)
	}
	return nil
}

func (a *app) examine(c *cli.Context) []check {
	var all []check
	add := func(name, found string, err error) {
		ch := check{Name: name, OK: err == nil, Found: found}
		if err != nil {
			ch.Found, ch.Remedy = err.Error(), errs.HintOf(err)
		}
		all = append(all, ch)
	}
	add("host", fmt.Sprintf("%s/%s, %d processors, %s of memory free", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		humanize.IBytes(engine.HostMemory())), nil)
	all = append(all, a.examineDriver(c)...)
	_, err := agents.Binary(runtime.GOARCH)
	add("agent", "embedded", err)
	h, err := a.open()
	if err != nil {
		add("home", "", err)
		return all
	}
	add("home", h.Folder.Dir, h.Folder.CheckWritable())
	add("runtime", h.Folder.Runtime, h.Folder.MakeRuntime())
	h.Folder.RemoveRuntime()
	k, err := h.Kernels.Default(c.Context, runtime.GOARCH)
	add("kernel", fmt.Sprintf("%s from %s", k.Version, k.Origin), err)
	all = append(all, a.examineTemplates(h), examinePorts(h.Engine))
	return all
}

// examinePorts says which ports of the host the user may publish. That some are not
// theirs is usual, and no lack.
func examinePorts(e *engine.Engine) check {
	lowest := engine.LowestPort()
	ch := check{Name: "ports", OK: true, Found: fmt.Sprintf("those from %d on can be published", lowest)}
	if lowest > 1 {
		ch.Remedy = "for 80: " + e.LowPortsHint(80, 80)
	}
	return ch
}

func (a *app) examineDriver(c *cli.Context) []check {
	driver, err := a.deps.Driver(a.deps.LookupEnv, process.DriverOptions{})
	if err != nil {
		return []check{{Name: "machines", Found: err.Error(), Remedy: errs.HintOf(err)}}
	}
	d, ok := driver.(vmm.Describer)
	if !ok {
		return nil
	}
	r := d.Describe(c.Context)
	ch := check{Name: "machines", OK: len(r.Problems) == 0, Found: strings.Join(r.Problems, "; ")}
	if ch.OK {
		ch.Found = r.Version
	} else {
		ch.Remedy = r.Remedy
	}
	return []check{ch, {Name: "acceleration", OK: r.Acceleration != "", Found: fmt.Sprintf("%s: %s", r.Acceleration, r.Reason)}}
}
