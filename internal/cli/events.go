package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/journal"
)

func (a *app) eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "what happens to the stack, as it happens", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "also what happened since `TIME`: 2026-01-02T15:04:05Z, or 10m ago"},
			&cli.StringFlag{Name: "until", Usage: "until `TIME`; one that has passed ends at once"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line"},
		},
		Action: a.events,
	}
}

func (a *app) events(c *cli.Context) error {
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	o := journal.ReadOptions{Follow: true, Since: time.Now()}
	if c.IsSet("since") {
		if o.Since, err = moment(c.String("since")); err != nil {
			return err
		}
	}
	if o.Until, err = moment(c.String("until")); err != nil {
		return err
	}
	stop := newInterrupt(c.Context)
	defer stop.release()
	names := c.Args().Slice()
	err = w.History(stop.drain, o, func(e journal.Entry) error {
		if len(names) > 0 && !slices.Contains(names, e.Name) && !slices.Contains(names, e.Container) {
			return nil
		}
		return a.showEvent(e, c.Bool("json"))
	}, func(err error) { a.view.Warnf("%v", err) })
	if stop.asked() {
		return status(exitInterrupted)
	}
	return err
}

func (a *app) showEvent(e journal.Entry, asJSON bool) error {
	if !asJSON {
		return a.view.Text(eventLine(e))
	}
	b, err := json.Marshal(e)
	if err != nil {
		return errs.New(errs.Internal, "encode an event: %w", err)
	}
	return a.view.JSON(append(b, '\n'))
}

// eventLine is an entry as people read it:
// "2026-01-02T15:04:05.123456Z container die web-1 (exit_code=137, cause=out of memory)".
func eventLine(e journal.Entry) string {
	var more []string
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		more = append(more, k+"="+strings.ReplaceAll(e.Attributes[k], "\n", " "))
	}
	line := fmt.Sprintf("%s %s %s %s", e.Time.Local().Format("2006-01-02T15:04:05.000000Z07:00"), e.Type, e.Action, e.Name)
	if len(more) > 0 {
		line += " (" + strings.Join(more, ", ") + ")"
	}
	return line + "\n"
}
