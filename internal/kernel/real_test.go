package kernel

import (
	"os"
	"testing"
	"time"
)

// The order and the closure of a distribution's kernel, if one is at hand.
func TestRealPackage(t *testing.T) {
	path := os.Getenv("VZCOMPOSE_TEST_KERNEL_DEB")
	if path == "" {
		t.Skip("VZCOMPOSE_TEST_KERNEL_DEB does not name a linux-image .deb")
	}
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	phases := map[string]time.Time{}
	start := time.Now()
	k, err := s.Import(t.Context(), path, func(phase string, current, total int64) {
		if current > total {
			t.Errorf("%s: %d of %d", phase, current, total)
		}
		if phases[phase].IsZero() {
			phases[phase] = time.Now()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("imported in %v (%v after unpacking)", time.Since(start), time.Since(phases["decompress"]))
	t.Log(k)
	checkOrder(t, k)
	start = time.Now()
	p, err := s.Initramfs(t.Context(), k, []byte("agent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("initramfs in %v", time.Since(start))
	st, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", st.Size())
	if d, err := s.Default(t.Context(), k.Arch); err != nil || d.ID != k.ID {
		t.Errorf("default is %v, %v", d, err)
	}
}
