package cli

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/spec"
)

func (a *app) scaleCommand() *cli.Command {
	return &cli.Command{
		Name: "scale", Usage: "have another number of replicas of containers, until the next up", ArgsUsage: "NAME=N…",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-deps", Usage: "leave what the named containers depend on alone"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
			publishOffsetFlag(),
		},
		Action: a.scale,
	}
}

func (a *app) scale(c *cli.Context) error {
	wanted, err := replicas(c.Args().Slice())
	if err != nil {
		return err
	}
	if len(wanted) == 0 {
		return usage("scale wants NAME=N")
	}
	open := func() (*stack.Stack, error) { return a.withFile(c, slices.Sorted(maps.Keys(wanted))...) }
	return a.change(c, open, func(s *stack.Stack, control stack.Control) error {
		return s.Scale(c.Context, control, wanted, c.Bool("no-deps"))
	})
}

// replicas reads words such as web=3.
func replicas(words []string) (map[string]int, error) {
	var all map[string]int
	for _, s := range words {
		name, count, ok := strings.Cut(s, "=")
		n, err := strconv.Atoi(count)
		if !ok || err != nil || n < 0 {
			return nil, usage("scale %s: it is NAME=N", s)
		}
		if all == nil {
			all = map[string]int{}
		}
		all[name] = n
	}
	return all, nil
}

func (a *app) pullCommand() *cli.Command {
	return &cli.Command{
		Name: "pull", Usage: "fetch the images of the stack from their registries", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "policy", Value: "always", Usage: "always, or missing: what is here already is left"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		},
		Action: a.pull,
	}
}

func (a *app) pull(c *cli.Context) error {
	policy := c.String("policy")
	if policy != "always" && policy != "missing" {
		return usage("--policy %s: it is always or missing", policy)
	}
	return a.change(c, func() (*stack.Stack, error) { return a.withFile(c, c.Args().Slice()...) }, func(s *stack.Stack, control stack.Control) error {
		return s.Pull(c.Context, control, c.Args().Slice(), policy)
	})
}

// instanceImage is what images shows of an instance.
type instanceImage struct {
	Instance  string       `json:"instance"`
	Container string       `json:"container"`
	Ref       string       `json:"ref,omitempty"` // as it is declared
	Digest    string       `json:"digest"`
	Image     *image.Image `json:"image,omitempty"` // nil: it is not here any more
}

func (a *app) imagesCommand() *cli.Command {
	return &cli.Command{
		Name: "images", Usage: "the images that the instances of the stack were made from", ArgsUsage: "[NAME…]",
		Flags:  []cli.Flag{quietFlag(), formatFlag()},
		Action: a.stackImages,
	}
}

func (a *app) stackImages(c *cli.Context) error {
	w, _, picked, err := a.selected(c)
	if err != nil {
		return err
	}
	here, err := w.Images.List(c.Context)
	if err != nil {
		return err
	}
	t := table{header: []string{"INSTANCE", "REF", "DIGEST", "PLATFORM", "SIZE", "CREATED"}}
	for _, i := range picked {
		if i.Image == "" {
			continue // of a folder
		}
		v := instanceImage{Instance: i.Name, Container: i.Container, Digest: i.Image}
		if ct, err := spec.DecodeContainer(i.Spec); err == nil { // else it is of another version: the digest tells
			v.Ref = ct.Image
		}
		platform, size, created := "", "", ""
		if n := slices.IndexFunc(here, func(h image.Image) bool { return h.Digest == i.Image }); n >= 0 {
			v.Image = &here[n]
			platform, size = v.Image.Platform, humanize.IBytes(uint64(v.Image.Size))
			if v.Image.Created.Unix() > 0 {
				created = v.Image.Created.Local().Format(time.DateOnly)
			}
		}
		t.add(v, shortID(i.Image), i.Name, v.Ref, shortID(i.Image), platform, size, created)
	}
	return a.show(c, t)
}
