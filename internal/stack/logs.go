package stack

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/state"
)

// LogOptions select lines of output.
type LogOptions struct {
	Names   []string // containers or instances; all where there are none
	Index   int      // of the replica; 0: all
	Follow  bool     // go on with what is written, until all has ended
	Tail    int      // begin with so many lines of each; logs.All: with all
	Boot    int      // of one boot only; 0: of all
	Streams []string // "stdout" or "stderr" only; both where there are none

	Since, Until time.Time
}

// means reports whether the options mean an instance, also one that comes later.
func (o LogOptions) means(i state.Instance) bool {
	return (len(o.Names) == 0 || slices.Contains(o.Names, i.Container) || slices.Contains(o.Names, i.Name)) && (o.Index == 0 || i.Index == o.Index)
}

// LineWriter takes lines of output, one after the other.
type LineWriter interface {
	Write(logs.Entry) error
	Close() error
}

// Lines returns where the output of instances goes. More instances than those of names
// may come.
type Lines func(names []string) LineWriter

// Logs writes the output of instances to lines, until its end, or with Follow that of
// the instances, or until ctx ends.
func (s *Stack) Logs(ctx context.Context, c Control, o LogOptions, lines Lines) error {
	c = c.in(ctx, s)
	world, err := s.Recorded()
	if err != nil {
		return err
	}
	if _, err := pick(world, o.Names); err != nil {
		return err
	}
	if o.Follow {
		f := following{s: s, events: c.Events, lines: lines, o: o, shows: o.means, counts: o.means}
		if err := f.begin(c.Drain); err != nil {
			return c.ended(err)
		}
		<-f.done
		return c.ended(f.err)
	}
	var sources []logs.Source
	var names []string
	for _, i := range world.Instances {
		if !o.means(i) {
			continue
		}
		r, err := s.openLog(i.Name, o, nil)
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
	return c.ended(copyLines(c.Drain, merged, lines(names), c.Events))
}

// openLog opens one instance's log. With a watch, which tells what is written, it is
// followed.
func (s *Stack) openLog(name string, o LogOptions, watch *logs.Watch) (*logs.Reader, error) {
	dir := s.Folder.Log(s.Name, name)
	// A reader that comes before the first boot would miss the folder. Not MkdirAll:
	// an instance that is removed meanwhile stays removed.
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return nil, err
	}
	return logs.OpenReader(dir, logs.ReadOptions{Since: o.Since, Until: o.Until, Tail: o.Tail, Streams: o.Streams, Boot: o.Boot,
		Follow: watch != nil, Watch: watch})
}

// copyLines writes what merged has to out until it ends, or ctx does, and closes out.
func copyLines(ctx context.Context, merged *logs.Merged, out LineWriter, events Sink) (err error) {
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	for {
		e, err := merged.Next(ctx)
		var corrupt *logs.CorruptError
		var dropped *logs.DroppedError
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil
		case errors.As(err, &corrupt), errors.As(err, &dropped):
			events(LogProblem{Instance: e.Name, Err: err})
		case err != nil:
			return err
		default:
			if err := out.Write(e); err != nil {
				return err
			}
		}
	}
}
