package e2e

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmtest"
)

// The suite that every driver passes, on the one of this system.
func TestDriver(t *testing.T) {
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	warmOnly(t) // it has both
	ctx := context.Background()
	home := store.Home{Dir: shared.home}
	images := must(image.Open(home.Images()))
	kernels := must(kernel.Open(home.Kernels()))
	k := must(kernels.Default(ctx, runtime.GOARCH))
	initramfs := must(kernels.Initramfs(ctx, k, must(agents.Binary(runtime.GOARCH))))
	busybox := must(images.Find(ctx, "busybox", "linux/"+runtime.GOARCH))
	root := must(images.RootFS(ctx, busybox.Digest, func(image.Progress) {}))
	blank := filepath.Join(t.TempDir(), "blank.img")
	if err := volume.Create(blank, 64<<20); err != nil {
		t.Fatal(err)
	}
	program := buildProgram(t, "sockets")
	for _, d := range driversUnderTest(home) {
		t.Run(d.name, func(t *testing.T) {
			vmmtest.Run(t, vmmtest.Harness{
				Driver:    d.driver,
				Origin:    d.origin,
				Config:    vmm.Config{CPUs: 1, Memory: 256 << 20, Kernel: k.Image, Initramfs: initramfs},
				Root:      root,
				Blank:     blank,
				Shell:     true,
				Console:   true,
				Limit:     2 * time.Minute,
				Leftovers: d.leftovers,

				Sockets: "/sockets", SocketsFile: program,
			})
		})
	}
}

// underTest is a driver of this system as the suite takes it.
type underTest struct {
	name      string
	driver    vmm.Driver
	origin    vmm.Origin
	leftovers func() []string
}
