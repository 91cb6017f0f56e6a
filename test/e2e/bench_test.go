package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/store"
)

const oneBox = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "3600"]}
containers:
  box: {replicas: %d}
`

// What an up costs: medians and ratios of one run, its parts interleaved. It
// reports; it gates nothing.
func TestBench(t *testing.T) {
	if os.Getenv("VZCOMPOSE_BENCH") == "" {
		t.Skip("VZCOMPOSE_BENCH is not set")
	}
	s := scenario(t, fmt.Sprintf(oneBox, 1))
	s.must("up", "-d") // whatever is made once
	s.must("down")
	s.must("template", "prewarm")
	const rounds = 5
	var stock, bare, cold, up, prepared, pool, held, noop, down []time.Duration
	phases := map[string][]time.Duration{}
	var order []string
	var rss int
	for range rounds {
		stock = append(stock, stockBoot(t))
		bare = append(bare, bareBoot(t))
		cold = append(cold, timed(func() { s.must("up", "-d", "--cold") }))
		s.must("down")
		s.must("template", "prewarm", "1")
		pool = append(pool, timed(func() { s.must("up", "-d") }))
		s.must("down")
		s.must("template", "prewarm", "--prepared", "1")
		held = append(held, timed(func() { s.must("up", "-d") }))
		s.must("down")
		s.must("template", "prewarm", "--prepared")
		prepared = append(prepared, timed(func() { s.must("up", "-d") }))
		s.must("down")
		for _, id := range s.preparedIDs() {
			s.must("template", "rm", id)
		}
		up = append(up, timed(func() { s.must("up", "-d") }))
		st := must(store.Home{Dir: shared.home}.ReadState(s.name, "box-1"))
		for _, p := range st.Phases {
			if phases[p.Name] == nil {
				order = append(order, p.Name)
			}
			phases[p.Name] = append(phases[p.Name], p.Duration)
		}
		rss = max(rss, rssOf(t, st.PID))
		noop = append(noop, timed(func() { s.must("up", "-d") }))
		down = append(down, timed(func() { s.must("down") }))
	}
	s.write(fmt.Sprintf(oneBox, 10))
	s.must("template", "prewarm", "--prepared")
	tenPrepared := timed(func() { s.must("up", "-d") })
	s.must("down")
	for _, id := range s.preparedIDs() {
		s.must("template", "rm", id)
	}
	ten := timed(func() { s.must("up", "-d") })
	tenDown := timed(func() { s.must("down") })

	var b strings.Builder
	line := func(name string, format string, args ...any) {
		fmt.Fprintf(&b, "%-52s %s\n", name, fmt.Sprintf(format, args...))
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
	line("bare QEMU, stock kernel, to the agent's first word", "%s", spread(stock))
	line("bare QEMU, as the driver boots, likewise", "%s", spread(bare))
	for _, r := range []struct {
		name string
		took []time.Duration
	}{{"up -d of one container, booted", cold}, {"  restored", up}, {"  restored, prepared", prepared}, {"  from the pool", pool}, {"  from the pool, prepared", held}} {
		line(r.name, "%s: %.3f × stock, %.3f × bare", spread(r.took), ratio(median(r.took), median(stock)), ratio(median(r.took), median(bare)))
	}
	for _, p := range order {
		line("  "+p, "%s", spread(phases[p]))
	}
	line("up -d of 10", "%s, %.1f × one", ms(ten), ratio(ten, median(up)))
	line("  prepared", "%s, %.1f × one", ms(tenPrepared), ratio(tenPrepared, median(prepared)))
	line("up -d of nothing to do", "%s", spread(noop))
	line("down of one", "%s", spread(down))
	line("down of 10", "%s", ms(tenDown))
	line("resident memory of a shim", "%.1f MiB", float64(rss)/1024)
	for _, arch := range []string{"amd64", "arm64"} {
		line("agent for "+arch, "%d bytes", len(must(agents.Binary(arch))))
	}
	t.Logf("%d rounds on %d processors, %s/%s\n%s", rounds, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, b.String())
}

func timed(fn func()) time.Duration {
	began := time.Now()
	fn()
	return time.Since(began)
}

func median(ds []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(ds))
	return s[len(s)/2]
}

func spread(ds []time.Duration) string {
	return fmt.Sprintf("%d ms (%d–%d)", median(ds).Milliseconds(), slices.Min(ds).Milliseconds(), slices.Max(ds).Milliseconds())
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func rssOf(t *testing.T, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	for l := range strings.Lines(string(b)) {
		if n, _ := fmt.Sscanf(l, "VmRSS: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// bareBoot starts QEMU with the kernel, the initramfs and the command line that
// the driver uses, and nothing else, and answers the time from exec to the
// agent's first word on the console.
func bareBoot(t *testing.T) time.Duration {
	t.Helper()
	return bootBare(t, must(must(kernel.Open(store.Home{Dir: shared.home}.Kernels())).Default(t.Context(), runtime.GOARCH)).Image, "max,erms=off",
		"quiet panic=-1 audit=0 lsm= cryptomgr.notests rcupdate.rcu_expedited=1 random.trust_cpu=on console=ttyS0 reboot=t noreplace-smp 8250.nr_uarts=1 tsc=reliable no_timer_check")
}

// stockBoot is bareBoot with the kernel as its package has it, and nothing on its
// command line but where the console is.
func stockBoot(t *testing.T) time.Duration {
	t.Helper()
	image := filepath.Join(t.TempDir(), "vmlinuz")
	out := must(exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './boot/vmlinuz*'`, "sh",
		filepath.Join(shared.cache, "kernel.deb")).Output())
	if err := os.WriteFile(image, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return bootBare(t, image, "max", "console=ttyS0")
}

func bootBare(t *testing.T, image, cpu, words string) time.Duration {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the bare boot is written for amd64")
	}
	kernels := must(kernel.Open(store.Home{Dir: shared.home}.Kernels()))
	k := must(kernels.Default(context.Background(), runtime.GOARCH))
	initramfs := must(kernels.Initramfs(context.Background(), k, must(agents.Binary(runtime.GOARCH))))
	console := filepath.Join(t.TempDir(), "console")
	cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", "1", "-m", "196M",
		"-kernel", image, "-initrd", initramfs, "-serial", "file:"+console, "-append", words)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); ; {
		if b, _ := os.ReadFile(console); bytes.Contains(b, []byte("vzcompose-agent: up")) {
			return time.Since(began)
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the bare machine did not boot")
		}
	}
}
