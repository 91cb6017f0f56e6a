package kernel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// initramfsFormat is the version of the layout below.
const initramfsFormat = 1

// Initramfs answers the path of the initramfs that boots k with agent as PID 1.
// It is built once for the same agent and modules, and belongs to the store:
// Remove of the kernel removes it. In it are:
//
//	/init                the agent
//	/modules/NAME.ko     each module once, not compressed
//	/modules/boot.list   file names in /modules, in load order, one a line
//	/modules/lazy.json   {"virtiofs": ["fuse.ko", "virtiofs.ko"], ...}: what to
//	                     load for a module after all of boot.list; an empty list
//	                     if there is nothing to do, as for what is built in
//	/dev /proc /sys /run /tmp, and /dev/console, /dev/null, /dev/kmsg
func (s *Store) Initramfs(ctx context.Context, k Kernel, agent []byte) (string, error) {
	if len(agent) == 0 || len(agent) > maxAgent {
		return "", errs.New(errs.InvalidArgument, "build initramfs: an agent of %d bytes", len(agent))
	}
	r, err := s.record(k.ID)
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	dir := filepath.Join(s.dir, r.ID)
	path := filepath.Join(dir, "initramfs-"+initramfsDigest(r, agent)+".cpio")
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	unlock, err := lock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	defer unlock()
	if _, err := os.Lstat(path); err == nil {
		return path, nil // another built it while this one waited
	}
	if err := sweep(dir); err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	err = durable.CreateFrom(filepath.Join(dir, tempPrefix), path, func(f *os.File) error {
		buf := bufio.NewWriterSize(f, 1<<20)
		if err := writeInitramfs(ctx, buf, r, filepath.Join(dir, "modules"), agent); err != nil {
			return err
		}
		return buf.Flush()
	})
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	return path, nil
}

// initramfsDigest names the content: the layout, the kernel (whose id is the
// digest of its modules and their order) and the agent.
func initramfsDigest(r *record, agent []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "vzcompose initramfs %d\n%s\n", initramfsFormat, r.contentID())
	h.Write(agent)
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func writeInitramfs(ctx context.Context, w io.Writer, r *record, modules string, agent []byte) error {
	c := &cpioWriter{w: w}
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "modules"} {
		if err := c.dir(d); err != nil {
			return err
		}
	}
	// Documentation/admin-guide/devices.txt
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"dev/console", 5, 1}, {"dev/null", 1, 3}, {"dev/kmsg", 1, 11}} {
		if err := c.char(d.name, d.major, d.minor); err != nil {
			return err
		}
	}
	if err := c.file("init", modeExec, int64(len(agent)), bytes.NewReader(agent)); err != nil {
		return err
	}
	if err := writeLists(c, r); err != nil {
		return err
	}
	for _, name := range r.modules() {
		if err := writeModule(ctx, c, modules, name, r.Modules[name]); err != nil {
			return err
		}
	}
	return c.close()
}

func writeLists(c *cpioWriter, r *record) error {
	var boot strings.Builder
	for _, f := range fileNames(r.Boot) {
		boot.WriteString(f + "\n")
	}
	if err := c.file("modules/boot.list", modeFile, int64(boot.Len()), strings.NewReader(boot.String())); err != nil {
		return err
	}
	files := map[string][]string{}
	for want, names := range r.Lazy {
		files[want] = fileNames(names)
	}
	lazy, err := json.Marshal(files) // sorts the keys
	if err != nil {
		return err
	}
	return c.file("modules/lazy.json", modeFile, int64(len(lazy)), bytes.NewReader(lazy))
}

// writeModule adds a module and checks that it still is what was imported.
func writeModule(ctx context.Context, c *cpioWriter, dir, name string, want fileRecord) error {
	f, err := os.Open(filepath.Join(dir, name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	in := io.TeeReader(&ctxReader{ctx: ctx, r: f}, sum)
	if err := c.file("modules/"+name+".ko", modeFile, want.Size, in); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.SHA256 {
		return errs.New(errs.DataLoss, "module %s is not what was imported", name)
	}
	return nil
}
