//go:build linux

package vhostuser

import "github.com/vzcompose/vzcompose/internal/errs"

// Ring says where a virtqueue lies in offline memory, in bytes from its start.
type Ring struct {
	Size              uint16
	Desc, Avail, Used uint64
}

// StartOffline makes the server's first queues run on ram, which is the memory
// at guest physical address gpa, without a front end: what Serve does after
// many messages, for fuzz targets and benchmarks of devices. Kicks are calls of
// KickOffline.
func (s *Server) StartOffline(ram []byte, gpa uint64, rings []Ring) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != fresh || len(rings) > len(s.queues) {
		return errs.New(errs.FailedPrecondition, "server is in use")
	}
	s.phase = ended
	size := uint64(len(ram))
	s.mem = &memory{refs: 1, regions: []region{{gpa: gpa, uva: gpa, size: size, ram: ram[:size:size]}}}
	var err error
	s.Guard(func() {
		for i, r := range rings {
			q := s.queues[i]
			q.size, q.descUVA, q.availUVA, q.usedUVA = r.Size, gpa+r.Desc, gpa+r.Avail, gpa+r.Used
			if err = q.start(s.mem, true); err != nil {
				return
			}
			q.enabled = true
			s.announce(q)
		}
	})
	return err
}

// KickOffline does what one kick of queue i does, up to the device's budget.
func (s *Server) KickOffline(i int) (more bool) {
	return s.kicked(s.queues[i], nil)
}
