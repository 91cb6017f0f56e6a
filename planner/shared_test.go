package planner

import (
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

func reads(volume string) func(*spec.Container) {
	return func(c *spec.Container) {
		c.Mounts = append(c.Mounts, spec.Mount{Type: "volume", Source: volume, Destination: "/ro-" + volume, Options: []string{"ro"}})
	}
}

// Which volumes are directories, and what becomes of one that is there as a disk.
func TestSharedVolumes(t *testing.T) {
	disk, directory := []state.Volume{{Name: "v", Kind: state.Disk}}, []state.Volume{{Name: "v", Kind: state.Directory}}
	for name, c := range map[string]struct {
		stack  *spec.Stack
		there  []state.Volume
		o      Options
		want   string // of the plan
		refuse bool
	}{
		"one writer":             {stack: stack("a", container(mounts("v"))), want: "create volume/v (not found)"},
		"readers":                {stack: stack("a", container(reads("v")), "b", container(reads("v"), replicas(3))), want: "create volume/v (not found)"},
		"mounted twice":          {stack: stack("a", container(mounts("v"), reads("v"))), want: "create volume/v (not found)"},
		"nobody else runs":       {stack: stack("a", container(mounts("v")), "b", container(mounts("v"), replicas(0))), want: "create volume/v (not found)"},
		"two writers":            {stack: stack("a", container(mounts("v")), "b", container(mounts("v"))), want: "a directory for several instances of a, b"},
		"a writer and a reader":  {stack: stack("a", container(mounts("v")), "b", container(reads("v"))), want: "a directory for several instances of a, b"},
		"replicas":               {stack: stack("a", container(mounts("v"), replicas(2))), want: "a directory for several instances of a"},
		"scale":                  {stack: stack("a", container(mounts("v"))), o: Options{Scale: map[string]int{"a": 2}}, want: "a directory for several instances of a"},
		"only one is brought up": {stack: stack("a", container(mounts("v")), "b", container(mounts("v"))), o: Options{Only: []string{"a"}}, want: "a directory for several instances of a, b"},
		"a disk":                 {stack: stack("a", container(mounts("v"), replicas(2))), there: disk, refuse: true},
		"a disk with one writer": {stack: stack("a", container(mounts("v"))), there: disk},
		"a disk for a one-off":   {stack: stack("a", container(mounts("v")), "b", container(mounts("v"))), there: disk, o: Options{Only: []string{"b"}, OneOff: "b-run"}},
		"a directory":            {stack: stack("a", container(mounts("v"), replicas(2))), there: directory},
		"a directory with one":   {stack: stack("a", container(mounts("v"))), there: directory},
	} {
		p, err := Up(c.stack, state.World{Volumes: c.there}, c.o)
		switch {
		case c.refuse:
			if err == nil || !strings.Contains(err.Error(), "was made as a disk") || !strings.Contains(err.Error(), "vzcompose volume rm test/v") {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !strings.Contains(p.String(), c.want) || c.there != nil && strings.Contains(p.String(), "volume/v"):
			t.Errorf("%s:\n%s", name, p)
		}
	}
}
