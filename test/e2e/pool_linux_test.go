package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/store"
)

// A machine that waits becomes the next instance's, and works like any other.
func TestPool(t *testing.T) {
	s := scenario(t, `
name: pool
containers:
  a:
    image: busybox
    command: [sh, -c, "echo hello from $$(hostname); touch /written; exec sleep 1000"]
    stop_signal: KILL
`)
	home := store.Home{Dir: shared.home}
	h := must(store.Locate(os.LookupEnv))
	e := engine.New(engine.Options{Home: h, Images: must(image.Open(home.Images())), Kernels: must(kernel.Open(home.Kernels())),
		Shim: []string{shared.program, "shim"}, CPUs: runtime.NumCPU()})
	t.Cleanup(func() {
		if err := e.EmptyPool(t.Context()); err != nil {
			t.Error(err)
		}
	})
	s.vz("up", "-d").dump(t)
	b := must(os.ReadFile(filepath.Join(h.Instance(s.name, "a-1"), "config.json")))
	var rec store.Instance
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	s.vz("down")
	begin := time.Now()
	if err := e.FillPool(t.Context(), []engine.Make{{CPUs: rec.CPUs, Memory: rec.Memory}}, 3, 8<<30); err != nil {
		t.Fatal(err)
	}
	t.Logf("filled after %s", time.Since(begin))
	t.Log(e.Spares())
	for range 3 {
		begin = time.Now()
		s.vz("up", "-d").dump(t)
		t.Logf("up after %s", time.Since(begin))
		st := must(h.ReadState(s.name, "a-1"))
		for _, p := range st.Phases {
			t.Logf("%s %s %s", p.Name, p.Start, p.Duration)
		}
		s.vz("logs").dump(t)
		s.vz("down").dump(t)
	}
	t.Log(e.Spares())
}
