package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/state"
)

func (a *app) logsCommand() *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "what the containers wrote", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what is written"},
			&cli.StringFlag{Name: "tail", Aliases: []string{"n"}, Value: "all", Usage: "begin with the last `N` lines of each"},
			&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Usage: "show the time of each line"},
			&cli.StringFlag{Name: "stream", Usage: "stdout or stderr only"},
			&cli.StringFlag{Name: "since", Usage: "lines since `TIME`: 2026-01-02T15:04:05Z, or 10m ago"},
			&cli.StringFlag{Name: "until", Usage: "lines until `TIME`"},
			&cli.IntFlag{Name: "boot", Usage: "lines of the `N`th boot only"},
			&cli.IntFlag{Name: "index", Usage: "of the `N`th replica only"},
			&cli.BoolFlag{Name: "no-log-prefix", Usage: "show lines without the instance's name"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line"},
		},
		Action: a.logs,
	}
}

// logOptions select and dress lines.
type logOptions struct {
	follow, timestamps, noPrefix, json bool
	tail, boot                         int
	streams                            []string
	since, until                       time.Time
}

func readLogOptions(c *cli.Context) (o logOptions, err error) {
	o = logOptions{follow: c.Bool("follow"), timestamps: c.Bool("timestamps"), noPrefix: c.Bool("no-log-prefix"),
		json: c.Bool("json"), tail: logs.All, boot: c.Int("boot")}
	if t := c.String("tail"); t != "all" {
		if o.tail, err = strconv.Atoi(t); err != nil || o.tail < 0 {
			return o, usage("--tail %s: it is a number of lines, or all", t)
		}
	}
	switch s := c.String("stream"); s {
	case "":
	case "stdout", "stderr":
		o.streams = []string{s}
	default:
		return o, usage("--stream %s: it is stdout or stderr", s)
	}
	if o.since, err = moment(c.String("since")); err != nil {
		return o, err
	}
	o.until, err = moment(c.String("until"))
	return o, err
}

// moment reads a time, or how long ago it was.
func moment(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("%q is neither a time (2026-01-02T15:04:05Z) nor a duration (10m)", s)
}

func (a *app) logs(c *cli.Context) error {
	o, err := readLogOptions(c)
	if err != nil {
		return err
	}
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	stop := newInterrupt(c.Context)
	defer stop.release()
	world, err := w.Observe(stop.kill, nil)
	if err != nil {
		return err
	}
	picked, err := pick(world, c.Args().Slice())
	if err != nil {
		return err
	}
	if n := c.Int("index"); n != 0 {
		var only []state.Instance
		for _, i := range picked {
			if i.Index == n {
				only = append(only, i)
			}
		}
		picked = only
	}
	if o.follow {
		f := following{a: a, w: w, o: o, shows: meantBy(c), counts: meantBy(c)}
		err = f.begin(stop.drain)
		if err == nil {
			<-f.done
			err = f.err
		}
	} else {
		err = a.showLogs(stop.drain, w, picked, o)
	}
	if stop.asked() {
		return status(exitInterrupted)
	}
	return err
}

// meantBy reports whether the arguments and --index mean an instance, also one
// that comes later.
func meantBy(c *cli.Context) func(state.Instance) bool {
	names, index := c.Args().Slice(), c.Int("index")
	return func(i state.Instance) bool {
		return (len(names) == 0 || slices.Contains(names, i.Container) || slices.Contains(names, i.Name)) && (index == 0 || i.Index == index)
	}
}

// showLogs shows what the logs of instances have, merged by time.
func (a *app) showLogs(ctx context.Context, w *work, picked []state.Instance, o logOptions) error {
	var sources []logs.Source
	var names []string
	for _, i := range picked {
		r, err := w.openLog(i.Name, o, nil)
		if errs.Is(err, errs.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			_ = logs.Merge(sources...).Close() // what was opened before
			return err
		}
		sources = append(sources, logs.Source{Name: i.Name, Reader: r})
		names = append(names, i.Name)
	}
	merged := logs.Merge(sources...)
	defer merged.Close()
	return a.printLogs(ctx, merged, names, o)
}

// openLog opens one instance's log. With follow, watch tells of what is written.
func (w *work) openLog(name string, o logOptions, watch *logs.Watch) (*logs.Reader, error) {
	dir, err := w.logDir(name)
	if err != nil {
		return nil, err
	}
	return logs.OpenReader(dir, logs.ReadOptions{Since: o.since, Until: o.until, Tail: o.tail, Streams: o.streams, Boot: o.boot,
		Follow: o.follow, Watch: watch})
}

// shortID is what people need of a digest.
func shortID(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok {
		hex = digest
	}
	return hex[:min(12, len(hex))]
}
