//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/undo"
)

// endLimit is how long putting everything away may take.
const endLimit = 5 * time.Minute

func main() {
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = bench(ctx, o, os.Stdout, os.Stderr)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	program, cache string
	rounds         int
	sizes          []int
	only           []string // names of contenders; none: all
	density, crowd int      // machines; 0: not measured
}

func parseOptions(args []string, help io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.SetOutput(help)
	flags.StringVar(&o.program, "vzcompose", "bin/vzcompose", "the `PROGRAM`")
	flags.StringVar(&o.cache, "cache", ".cache", "the `FOLDER` that make deps and bench/compare/deps.sh fill")
	flags.IntVar(&o.rounds, "rounds", 5, fmt.Sprintf("how often each is measured; stacks of %d and more %d times at most", largeStack, largeRounds))
	sizes := flags.String("sizes", "1,10,30", "how many containers, `N,N…`")
	only := flags.String("only", "", "`NAME,NAME…` of those that take part: vzcompose warm, vzcompose cold, bare QEMU, docker, podman, or words of these")
	flags.IntVar(&o.density, "density", 0, "instead: what `N` idle machines of vzcompose take (30 is a good number)")
	flags.IntVar(&o.crowd, "hundred", 0, "instead: `N` machines of vzcompose (100, say) up at once, all answering exec")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("what is %q?", flags.Arg(0))
	}
	if o.rounds < 1 {
		return options{}, errors.New("-rounds: at least one")
	}
	if o.density < 0 || o.crowd < 0 {
		return options{}, errors.New("-density, -hundred: not less than none")
	}
	o.only = list(*only)
	var err error
	o.sizes, err = parseSizes(*sizes)
	return o, err
}

func parseSizes(text string) ([]int, error) {
	var sizes []int
	for _, word := range list(text) {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-sizes: %q is no number of containers", word)
		}
		sizes = append(sizes, n)
	}
	if len(sizes) == 0 {
		return nil, errors.New("-sizes: none")
	}
	return sizes, nil
}

// list splits at commas and leaves out what is empty.
func list(text string) []string {
	var words []string
	for word := range strings.SplitSeq(text, ",") {
		if word = strings.TrimSpace(word); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// wants says whether a contender was asked for: by its name or a word of it.
func (o options) wants(name string) bool {
	return len(o.only) == 0 || slices.ContainsFunc(o.only, func(w string) bool {
		return w == name || slices.Contains(strings.Fields(name), w)
	})
}

// bench measures what o asks for and prints it; what it does meanwhile goes to
// progress. Whatever it made is gone when it returns.
func bench(ctx context.Context, o options, out, progress io.Writer) (err error) {
	p, err := o.places()
	if err != nil {
		return err
	}
	var made undo.Stack
	made.Push("remove "+p.work, func(context.Context) error { return os.RemoveAll(p.work) })
	defer func() { err = errors.Join(err, made.Run(ctx, endLimit)) }()
	v, err := openVzcompose(ctx, p, &made)
	if err != nil {
		return err
	}
	acceleration, err := v.acceleration(ctx)
	if err != nil {
		return err
	}
	vs, err := v.entrants(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, hostLine(acceleration))
	if o.density > 0 || o.crowd > 0 {
		return weigh(ctx, o, choose(o, vs), out)
	}
	all := vs
	if o.wants("bare QEMU") {
		all = append(all, enterBare(ctx, v, acceleration))
	}
	for _, k := range []kind{docker(), podman()} {
		if o.wants(k.name) {
			all = append(all, enterEngine(ctx, k, p, &made))
		}
	}
	return compare(ctx, o, choose(o, all), &made, out, progress)
}

// places finds the files, and makes a folder for the run.
func (o options) places() (p places, err error) {
	if p.program, err = filepath.Abs(o.program); err != nil {
		return p, err
	}
	if p.cache, err = filepath.Abs(o.cache); err != nil {
		return p, err
	}
	for _, f := range []string{p.program, p.kernel(), p.image()} {
		if _, err := os.Stat(f); err != nil {
			return p, fmt.Errorf("%w (make deps build)", err)
		}
	}
	p.work, err = os.MkdirTemp("", "vzcompose-compare-")
	return p, err
}

// choose leaves out who was not asked for.
func choose(o options, all []entrant) []entrant {
	return slices.DeleteFunc(all, func(e entrant) bool { return !o.wants(e.name) })
}

// compare measures the entrants and prints the table.
func compare(ctx context.Context, o options, all []entrant, made *undo.Stack, out, progress io.Writer) error {
	if len(all) == 0 {
		return fmt.Errorf("-only: nobody is called %s", strings.Join(o.only, " or "))
	}
	fmt.Fprintln(out)
	for _, e := range all {
		if e.missing != "" {
			fmt.Fprintf(out, "- %s: not there: %s\n", e.name, e.missing)
			continue
		}
		fmt.Fprintf(out, "- %s: %s\n", e.name, e.version)
		made.Push("take "+e.name+" down", e.down)
	}
	c := comparison{entrants: all, rounds: o.rounds, progress: progress}
	measured, err := c.run(ctx, o.sizes)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nIn turns, rounds: %d; of %d and more containers: %d. Medians (least–most).\n\n%s", o.rounds, largeStack,
		min(o.rounds, largeRounds), compareTable(measured))
	for _, n := range c.notes {
		fmt.Fprintf(out, "\nLeft out from where it failed: %s\n", n)
	}
	return nil
}

// weigh measures density and crowds of vzcompose's entrants.
func weigh(ctx context.Context, o options, all []entrant, out io.Writer) error {
	var densities []density
	var crowds []crowd
	for _, e := range all {
		v, ok := e.contender.(*vzcompose)
		if !ok {
			if e.missing != "" {
				fmt.Fprintf(out, "- %s: not there: %s\n", e.name, e.missing)
			}
			continue
		}
		if o.density > 0 {
			d, err := measureDensity(ctx, e.name, v, o.density)
			if err != nil {
				return fmt.Errorf("%s: density: %w", e.name, err)
			}
			densities = append(densities, d)
		}
		if o.crowd > 0 {
			c, err := measureCrowd(ctx, e.name, v, o.crowd)
			if err != nil {
				return fmt.Errorf("%s: %d at once: %w", e.name, o.crowd, err)
			}
			crowds = append(crowds, c)
		}
	}
	if len(densities) > 0 {
		fmt.Fprintf(out, "\n%s", densityTable(densities))
	}
	if len(crowds) > 0 {
		fmt.Fprintf(out, "\n%s", crowdTable(crowds))
	}
	return nil
}
