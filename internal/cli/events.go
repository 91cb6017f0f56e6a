package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
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
	if err == nil {
		err = w.CheckOwner()
	}
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
	home := w.house.home
	if err := os.MkdirAll(home.Stacks(), 0o700); err != nil {
		return err
	}
	r, err := journal.Open(home.Journal(w.Name), o)
	if err != nil {
		return err
	}
	defer r.Close()
	stop := newInterrupt(c.Context)
	defer stop.release()
	err = a.showEvents(stop.drain, r, c.Args().Slice(), c.Bool("json"))
	if stop.asked() {
		return status(exitInterrupted)
	}
	return err
}

// showEvents shows entries that the names mean, containers or instances, until
// there are no more or ctx ends.
func (a *app) showEvents(ctx context.Context, r *journal.Reader, names []string, asJSON bool) error {
	for {
		e, err := r.Next(ctx)
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil
		case errs.Is(err, errs.DataLoss):
			a.view.Warnf("%v", err)
			continue
		case err != nil:
			return err
		case len(names) > 0 && !slices.Contains(names, e.Name) && !slices.Contains(names, e.Container):
			continue
		case asJSON:
			b, err := json.Marshal(e)
			if err != nil {
				return errs.New(errs.Internal, "encode an event: %w", err)
			}
			if err := a.view.JSON(append(b, '\n')); err != nil {
				return err
			}
		default:
			if err := a.view.Text(eventLine(e)); err != nil {
				return err
			}
		}
	}
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
