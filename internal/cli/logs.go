package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/ui"
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

func readLogOptions(c *cli.Context) (o stack.LogOptions, err error) {
	o = stack.LogOptions{Names: c.Args().Slice(), Index: c.Int("index"), Follow: c.Bool("follow"), Tail: logs.All, Boot: c.Int("boot")}
	if t := c.String("tail"); t != "all" {
		if o.Tail, err = strconv.Atoi(t); err != nil || o.Tail < 0 {
			return o, usage("--tail %s: it is a number of lines, or all", t)
		}
	}
	switch s := c.String("stream"); s {
	case "":
	case "stdout", "stderr":
		o.Streams = []string{s}
	default:
		return o, usage("--stream %s: it is stdout or stderr", s)
	}
	if o.Since, err = moment(c.String("since")); err != nil {
		return o, err
	}
	o.Until, err = moment(c.String("until"))
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
	return a.change(c, func() (*stack.Stack, error) { return a.withName(c) }, func(s *stack.Stack, control stack.Control) error {
		return s.Logs(c.Context, control, o, a.lines(c))
	})
}

// lines returns where output goes, as the flags want it shown.
func (a *app) lines(c *cli.Context) stack.Lines {
	return func(names []string) stack.LineWriter {
		return a.view.Logs(ui.LogOptions{Names: names, Timestamps: c.Bool("timestamps"), NoPrefix: c.Bool("no-log-prefix"), JSON: c.Bool("json")})
	}
}

// shortID is what people need of a digest.
func shortID(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok {
		hex = digest
	}
	return hex[:min(12, len(hex))]
}
