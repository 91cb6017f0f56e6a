//go:build linux

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/boot"
)

// hibernate does ahead what every machine needs and says that this one may be
// saved. It returns here or in a machine that was restored, and cannot tell
// which. What goes wrong is logged; the machines are of use all the same, since
// what was not done ahead is done later.
func (a *agent) hibernate(ctx context.Context) {
	for _, name := range append([]string{cardModule}, setupModules...) {
		if err := a.modules.need(name); err != nil {
			a.log.printf("%v", err) // as at Setup, which will say so
		}
	}
	if err := a.ahead.loopback(); err != nil {
		a.log.printf("bring lo up: %v", err) // likewise
	}
	if err := a.ahead.makeCgroup(ctx, a.cgroups); err != nil {
		a.log.printf("%v", err)
	}
	rehearse()
	a.trim()
	a.mu.Lock()
	a.born = time.Now() // of those that are restored from here
	a.mu.Unlock()
	_, _ = unix.Write(1, []byte(boot.Ready+"\n")) // a host that does not hear it has a limit
}

// ahead is what every machine needs and has nothing of an instance in it. The
// zero value has nothing done.
type ahead struct {
	mu     sync.Mutex // guards the following
	lo     bool       // is up
	cgroup *cgroup    // for the first container, empty; nil: there is none
}

// loopback brings lo up, once.
func (d *ahead) loopback() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lo {
		return nil
	}
	err := loopbackUp()
	d.lo = err == nil
	return err
}

func (d *ahead) makeCgroup(ctx context.Context, root string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	d.cgroup, err = makeCgroup(ctx, root, containerCgroup)
	return err
}

// takeCgroup answers the cgroup that was made ahead, nil if it is taken or there
// was none.
func (d *ahead) takeCgroup() *cgroup {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.cgroup
	d.cgroup = nil
	return g
}

// rehearse touches the code and builds the caches that Setup uses; the spare
// stage's drill does it for Start.
func rehearse() {
	b, err := json.Marshal(agentproto.Setup{Time: time.Now()})
	if err == nil {
		err = json.Unmarshal(b, new(agentproto.Setup))
	}
	_ = err // only the doing counts
}

// scrubLimit is how much free memory is overwritten with zeros, in bytes. Pages
// that were used once come first; those never touched are zero anyway.
const scrubLimit = 192 << 20

// trim makes the machine's memory small to save: caches are given up, and free
// pages are zero. What was read of the drives is forgotten, since there will be
// other disks in them.
func (a *agent) trim() {
	debug.FreeOSMemory()
	unix.Sync()
	if err := forgetDisks(); err != nil {
		a.log.printf("forget what was read of disks: %v", err)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		a.log.printf("drop caches: %v", err)
	}
	if err := scrub(scrubLimit); err != nil {
		a.log.printf("scrub free memory: %v", err)
	}
}

// forgetDisks drops what is cached of every block device.
func forgetDisks() error {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil // no block layer, no disks
	}
	var failed error
	for _, e := range entries {
		f, err := os.Open("/dev/" + e.Name())
		if err == nil {
			err = errors.Join(unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0), f.Close())
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// scrub takes free memory, up to limit bytes, which makes the kernel clear it,
// and gives it back.
func scrub(limit int) error {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return err
	}
	const spare = 12 << 20 // nothing may run out meanwhile
	size := min(int(si.Freeram)*int(si.Unit)-spare, limit) &^ (os.Getpagesize() - 1)
	if size <= 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	// One page at a time: large ones would be cut from blocks never touched.
	err = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	if errors.Is(err, unix.EINVAL) { // a kernel without them
		err = nil
	}
	if err == nil {
		err = unix.Madvise(b, unix.MADV_POPULATE_WRITE) // from Linux 5.14
	}
	return errors.Join(err, unix.Munmap(b))
}

// age is the time from the machine's birth to at.
func (a *agent) age(at time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return at.Sub(a.born)
}

const pciRescan = "/sys/bus/pci/rescan"

// rescan finds the devices that were not there when the machine was saved
// (Documentation/ABI/testing/sysfs-bus-pci). Their drivers have bound them when
// it returns.
func rescan() error {
	if err := os.WriteFile(pciRescan, []byte("1"), 0o200); err != nil {
		return fmt.Errorf("look for new devices: %w", err)
	}
	return nil
}
