package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

func TestHealthOfTheImage(t *testing.T) {
	of := &image.Health{Test: []string{"CMD-SHELL", "probe"}, Interval: 5 * time.Second, Timeout: 2 * time.Second, Retries: 7, StartPeriod: time.Minute, StartInterval: time.Second}
	const usual = 30 * time.Second
	for _, c := range []struct {
		name string
		file *spec.HealthCheck
		img  image.Config
		want *store.Health
	}{
		{name: "none"},
		{name: "the image's", img: image.Config{Health: of},
			want: &store.Health{Args: []string{"/bin/sh", "-c", "probe"}, Interval: 5 * time.Second, Timeout: 2 * time.Second, Retries: 7, StartPeriod: time.Minute, StartInterval: time.Second}},
		{name: "in the image's shell", img: image.Config{Health: &image.Health{Test: of.Test}, Shell: []string{"bash", "-ec"}},
			want: &store.Health{Args: []string{"bash", "-ec", "probe"}, Interval: usual, Timeout: usual, Retries: 3}},
		{name: "the file's test, the image's times", file: &spec.HealthCheck{Test: []string{"CMD", "a", "b"}, Retries: 1}, img: image.Config{Health: of},
			want: &store.Health{Args: []string{"a", "b"}, Interval: 5 * time.Second, Timeout: 2 * time.Second, Retries: 1, StartPeriod: time.Minute, StartInterval: time.Second}},
		{name: "the file's times", file: &spec.HealthCheck{Interval: time.Second}, img: image.Config{Health: &image.Health{Test: of.Test}},
			want: &store.Health{Args: []string{"/bin/sh", "-c", "probe"}, Interval: time.Second, Timeout: usual, Retries: 3}},
		{name: "none, by the file", file: &spec.HealthCheck{Test: []string{"NONE"}}, img: image.Config{Health: of}},
		{name: "none, by the image", img: image.Config{Health: &image.Health{Test: []string{"NONE"}}}},
		{name: "none, by the image, whatever the times", file: &spec.HealthCheck{Retries: 2}, img: image.Config{Health: &image.Health{Test: []string{"NONE"}}}},
		{name: "no test anywhere", file: &spec.HealthCheck{Retries: 2}},
		{name: "a hostile image", img: image.Config{Health: &image.Health{Test: []string{"CMD", "x"}, Interval: 1, Timeout: -1, StartPeriod: -1, StartInterval: -1, Retries: 1 << 40}},
			want: &store.Health{Args: []string{"x"}, Interval: spec.MinCheckInterval, Timeout: usual, Retries: spec.MaxCheckRetries}},
		{name: "a test that is none", img: image.Config{Health: &image.Health{Test: []string{"x"}}}},
	} {
		got := health(spec.Container{HealthCheck: c.file}, c.img)
		if (got == nil) != (c.want == nil) {
			t.Errorf("%s: %+v", c.name, got)
			continue
		}
		if got == nil {
			continue
		}
		args := slices.Equal(got.Args, c.want.Args)
		got.Args, c.want.Args = nil, nil
		if !args || got.Interval != c.want.Interval || got.Timeout != c.want.Timeout || got.Retries != c.want.Retries ||
			got.StartPeriod != c.want.StartPeriod || got.StartInterval != c.want.StartInterval {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestVolumesOfTheImage(t *testing.T) {
	file := spec.Container{Mounts: []spec.Mount{{Type: "tmpfs", Destination: "/tmp"}, {Type: "volume", Source: "data", Destination: "/data"},
		{Type: "volume", Destination: "/var/lib/x"}}}
	img := image.Config{Volumes: []string{"/", "/data", "/tmp/", "/var/lib/x", "cache", "/a/../cache", "/\x1b[2J/" + strings.Repeat("y", 300)}}
	c, own, err := withVolumes(file, img, "db-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Mounts) != 3 || file.Mounts[2].Source != "" || len(c.Mounts) != 5 || len(own) != 3 {
		t.Fatalf("%d mounts, %+v", len(file.Mounts), c.Mounts)
	}
	names := map[string]bool{}
	for i, at := range []string{"/var/lib/x", "/cache"} {
		m := c.Mounts[2+i]
		if m.Type != "volume" || m.Destination != at || !strings.HasPrefix(m.Source, "db-1@") {
			t.Errorf("%+v", m)
		}
	}
	for _, m := range c.Mounts[2:] {
		if names[m.Source] || len(m.Source) > 64 || strings.ContainsFunc(m.Source, func(r rune) bool { return r < '-' || r > 'z' || r == '/' }) {
			t.Errorf("a volume named %q", m.Source)
		}
		names[m.Source] = true
	}
	again, _, _ := withVolumes(file, img, "db-1")
	if !slices.EqualFunc(again.Mounts, c.Mounts, func(a, b spec.Mount) bool { return a.Source == b.Source }) {
		t.Error("made anew it has other volumes")
	}
	if _, _, err := withVolumes(file, image.Config{Volumes: make([]string, maxImageVolumes+1)}, "db-1"); err == nil {
		t.Error("as many volumes as it likes")
	}
}

func TestEnvironmentOfTheImage(t *testing.T) {
	got := environment(spec.Container{Environment: map[string]string{"B": "file"}}, image.Config{Env: []string{"A=1", "B=1", "C=1", "A", "=x", "", "C=2=3"}})
	if want := []string{defaultPath, "C=2=3", "B=file"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
