//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	maxShares = 64
	sharesDir = runDir + "/shares"
)

var errSharesMissing = errors.New("no such share in time")

func checkShares(all []agentproto.Share) error {
	if len(all) > maxShares {
		return errs.New(errs.InvalidArgument, "%d shares", len(all))
	}
	seen := map[string]bool{}
	for _, h := range all {
		switch {
		case checkID(h.ID) != nil || len(h.ID) > maxSerial || seen[h.ID]:
			return errs.New(errs.InvalidArgument, "share %q is no ID or there twice", cutName(h.ID))
		case len(h.File) > 255 || h.File == "." || h.File == ".." || strings.ContainsAny(h.File, "/\x00"):
			return errs.New(errs.InvalidArgument, "share %q of the file %q", h.ID, cutName(h.File))
		case h.Volume && h.File != "" || h.CopyUp != "" && (!h.Volume || h.ReadOnly || !absolute(h.CopyUp)):
			return errs.New(errs.InvalidArgument, "share %q as a volume with the files of %.200q", h.ID, h.CopyUp)
		}
		seen[h.ID] = true
	}
	return nil
}

// mountShares mounts the shares, each as soon as it is there.
func (m *setup) mountShares(ctx context.Context) error {
	if err := m.agent.modules.need("virtiofs"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, diskLimit, errSharesMissing)
	defer cancel()
	left := append([]agentproto.Share(nil), m.want.Shares...)
	scan := m.agent.restored
	var failed error
	err := watchDevices(ctx, listenUevents, func() bool {
		for len(left) > 0 {
			err := m.mountShare(left[0])
			if errors.Is(err, unix.EINVAL) && scan { // it is not there, as far as the kernel was told
				scan, failed = false, rescan()
				continue
			}
			if errors.Is(err, unix.EINVAL) {
				return false
			}
			if err != nil {
				failed = err
				return true
			}
			left = left[1:]
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if len(left) > 0 && ctx.Err() != nil {
		return errs.New(errs.DeadlineExceeded, "find share %q within %s: %w", left[0].ID, diskLimit, context.Cause(ctx))
	}
	return err
}

// mountShare mounts one. unix.EINVAL: there is none of that tag
// (fs/fuse/virtio_fs.c, virtio_fs_get_tree).
func (m *setup) mountShare(h agentproto.Share) error {
	at := filepath.Join(sharesDir, h.ID)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if h.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(h.ID, at, "virtiofs", flags, ""); err != nil {
		return fmt.Errorf("mount share %q: %w", h.ID, err)
	}
	m.keep(at)
	shown := h.File
	if h.Volume {
		shown = volumeData
	}
	m.place(agentproto.ShareScheme+h.ID, filepath.Join(at, shown))
	return nil
}
