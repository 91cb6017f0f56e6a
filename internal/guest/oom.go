//go:build linux

package guest

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
)

// watchOOM tells the host of every kill for memory in p's cgroup until p has
// ended. The kernel says when memory.events changes (cgroup-v2.rst).
func (a *agent) watchOOM(p *process) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		a.log.printf("watch the memory limit: %v", err)
		return
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(p.cgroup.dir, "memory.events"), unix.IN_MODIFY); err != nil {
		a.log.printf("watch the memory limit: %v", err)
		_ = f.Close()
		return
	}
	go func() { // ends the read below
		<-p.done
		_ = f.Close()
	}()
	go func() {
		known := p.cgroup.oomKills()
		b := make([]byte, 4096)
		for {
			if _, err := f.Read(b); err != nil {
				return
			}
			if n := p.cgroup.oomKills(); n > known {
				known = n
				a.notices.publish(agentproto.NoticeOOM, agentproto.OOM{Kills: n, At: time.Now()})
			}
		}
	}()
}
