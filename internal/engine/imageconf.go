package engine

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// What an image says is laid under the declaration when an instance is made, for
// the image may come with the same plan. The record keeps the declaration as it is
// written, and the image's digest, which stands for all that it says: an image of
// another digest is another instance.

// maxImageVolumes is how many volumes an image may ask for.
const maxImageVolumes = 16

// health is the check of an instance's health: what the file says, then what the
// image does, then the defaults; nil for none. Without a test there is none, whatever
// else the file says of it: Compose files say "disable: false", or how often the check
// is made, of images that may have none.
func health(c spec.Container, img image.Config) *store.Health {
	file, of := c.HealthCheck, img.Health
	if file == nil {
		file = &spec.HealthCheck{}
	}
	if of == nil {
		of = &image.Health{}
	}
	test := file.Test
	if len(test) == 0 && img.Checked() {
		test = of.Test
	}
	if file.None() || len(test) == 0 {
		return nil
	}
	often := func(file, image time.Duration) time.Duration {
		if file == 0 && image > 0 {
			file = max(image, spec.MinCheckInterval) // of the image's author
		}
		return cmp.Or(file, spec.DefaultCheckInterval)
	}
	return &store.Health{
		Args:          checkCommand(test, img.Shell),
		Interval:      often(file.Interval, of.Interval),
		Timeout:       often(file.Timeout, of.Timeout),
		StartPeriod:   cmp.Or(file.StartPeriod, max(0, of.StartPeriod)),
		StartInterval: cmp.Or(file.StartInterval, max(0, of.StartInterval)),
		Retries:       cmp.Or(file.Retries, min(max(0, of.Retries), spec.MaxCheckRetries), spec.DefaultCheckRetries),
	}
}

// checkCommand is what a check of Compose's form executes.
func checkCommand(test, shell []string) []string {
	if test[0] != "CMD-SHELL" {
		return test[1:]
	}
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), test[1])
}

// withVolumes is c with a volume of the instance's own for each that the file does
// not name, and wherever its image asks for one and nothing is mounted: kept as long
// as a named one, and found again by the instance that is made anew. own are their
// names.
func withVolumes(c spec.Container, img image.Config, instance string) (_ spec.Container, own []string, err error) {
	if len(img.Volumes) > maxImageVolumes {
		return c, nil, errs.New(errs.ResourceExhausted, "the image asks for %d volumes, more than %d", len(img.Volumes), maxImageVolumes)
	}
	taken := map[string]bool{"/": true}
	for _, m := range c.Mounts {
		taken[m.Destination] = true
	}
	c.Mounts = slices.Clone(c.Mounts)
	for _, at := range img.Volumes {
		if at = path.Clean("/" + at); !taken[at] {
			taken[at] = true
			c.Mounts = append(c.Mounts, spec.Mount{Type: "volume", Destination: at})
		}
	}
	for i, m := range c.Mounts {
		if m.Type == "volume" && m.Source == "" {
			c.Mounts[i].Source = volume.Anonymous(instance, m.Destination)
			own = append(own, c.Mounts[i].Source)
		}
	}
	return c, own, nil
}

// makeVolumes makes the volumes that only the instance of a record has, where they
// are not there. un takes them away again.
func (s *Stack) makeVolumes(rec store.Instance, un *undo.Stack, report func(event.Progress)) error {
	for _, name := range rec.Anonymous {
		if _, err := os.Stat(s.volumes().Path(name)); err == nil {
			continue
		}
		if err := s.volumes().Create(name, spec.DefaultVolumeSize); err != nil {
			return err
		}
		un.Push("make volume "+name, func(context.Context) error { return s.volumes().Remove(name) })
		s.enter(planner.CreateVolume{Name: name, Size: spec.DefaultVolumeSize}, report)
	}
	return nil
}

// removeVolumes removes the volumes that only an instance has.
func (s *Stack) removeVolumes(instance string, report func(event.Progress)) error {
	all, err := s.volumes().List()
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.Instance != instance {
			continue
		}
		if err := s.volumes().Remove(v.Name); err != nil {
			return fmt.Errorf("of %s: %w", instance, err)
		}
		s.enter(planner.RemoveVolume{Name: v.Name}, report)
	}
	return nil
}
