//go:build linux

package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/warm"
)

// isTemplate says whether this machine is to be saved, and restored as others.
func isTemplate() bool {
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(line)), warm.Param)
}

// hibernate does ahead what every machine needs, says that this one may be
// saved, and returns in the machine that was restored from it, with its devices
// found. Whatever goes wrong is said on the console; the machine is of use all
// the same, since what was not done ahead is done later.
func (a *agent) hibernate(ctx context.Context) error {
	console, err := openConsole()
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	for _, name := range setupModules {
		if err := a.modules.need(name); err != nil {
			a.log.printf("%v", err) // as at Setup, which will say so
		}
	}
	rehearse()
	a.trim(ctx)
	if err := say(console, warm.Ready); err != nil {
		return err
	}
	return nil
}

// openConsole opens the machine's console so that lines can be read from it.
func openConsole() (*os.File, error) {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the console: %w", err)
	}
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		t.Lflag &^= unix.ECHO // the host need not hear itself
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	return os.NewFile(uintptr(fd), "/dev/console"), nil
}

func say(console io.Writer, word string) error {
	if _, err := io.WriteString(console, word+"\n"); err != nil {
		return fmt.Errorf("write to the console: %w", err)
	}
	return nil
}

// maxWord bounds a line from the host, in bytes.
const maxWord = 64

// awaitWord reads lines until word comes.
func awaitWord(console io.Reader, word string) error {
	sc := bufio.NewScanner(console)
	sc.Buffer(make([]byte, 0, maxWord), maxWord)
	for sc.Scan() {
		if strings.TrimSpace(sc.Text()) == word {
			return nil
		}
	}
	err := sc.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("await the host's word on the console: %w", err)
}

// rehearse touches the code and builds the caches that the first calls use.
func rehearse() {
	b, err := json.Marshal(agentproto.Setup{Time: time.Now()})
	if err == nil {
		err = json.Unmarshal(b, new(agentproto.Setup))
	}
	if err == nil {
		b = []byte(`{"spec":{"process":{"capabilities":{}},"linux":{"resources":{"memory":{},"cpu":{}}},"mounts":[{}]}}`)
		err = json.Unmarshal(b, new(agentproto.Start))
	}
	_ = err // only the doing counts
}

// scrubLimit is how much free memory is overwritten with zeros, in bytes. Pages
// that were used once come first; those never touched are zero anyway.
const scrubLimit = 192 << 20

// trim makes the machine's memory small to save: caches are given up, and free
// pages are zero.
func (a *agent) trim(context.Context) {
	debug.FreeOSMemory()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		a.log.printf("drop caches: %v", err)
	}
	if err := scrub(scrubLimit); err != nil {
		a.log.printf("scrub free memory: %v", err)
	}
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
	const populateWrite = 23 // MADV_POPULATE_WRITE, Linux 5.14
	if err == nil {
		err = unix.Madvise(b, populateWrite)
	}
	return errors.Join(err, unix.Munmap(b))
}

// wake makes the times that are told count from here.
func (a *agent) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.born = time.Now()
}

// age is the time since the machine began to be this one.
func (a *agent) age(at time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return at.Sub(a.born)
}

// rescan finds the devices that were not there when the machine was saved
// (Documentation/ABI/testing/sysfs-bus-pci). Their drivers have bound them when
// it returns.
func rescan(bus string) error {
	err := os.WriteFile(filepath.Join(bus, "rescan"), []byte(strconv.Itoa(1)), 0o200)
	if err != nil {
		return fmt.Errorf("look for new devices: %w", err)
	}
	return nil
}
