package shim

import (
	"fmt"
	"time"

	"github.com/vzcompose/vzcompose/internal/journal"
)

// What a shim writes may find no room on the host, as what its machine writes may.
// Nothing ends for that: commands are answered from memory, and the record, the
// journal and the log are brought up to date when they can be written again.

// Bounds of that.
const (
	saveRetry  = 2 * time.Second // until it is tried again
	maxEntries = 256             // of the journal that wait; the oldest go
)

// unsaved is what could not be written yet.
type unsaved struct {
	state   error           // why the record is not what is true; nil: it is
	entries []journal.Entry // that are not in the journal
	dropped int             // entries that were too many
	lossy   chan struct{}   // the log has lost something
	timer   *time.Timer     // of the next try; nil: none is planned
}

// save writes the record, or later. The loop's.
func (s *shim) save() {
	if s.unsaved.state = s.launch.Home.WriteState(s.inst.Stack, s.inst.Name, s.st); s.unsaved.state != nil {
		s.saveLater()
	}
}

// nudge has the loop see to it that the log has a record of what it lost. It may
// be called by anybody.
func (s *shim) nudge() {
	select {
	case s.unsaved.lossy <- struct{}{}:
	default: // it has been told
	}
}

// saveLater plans another try. The loop's.
func (s *shim) saveLater() {
	if s.unsaved.timer == nil {
		s.unsaved.timer = time.AfterFunc(saveRetry, func() { s.send(s.saveAgain) })
	}
}

// saveAgain writes what is left to write. The loop's.
func (s *shim) saveAgain() {
	if s.unsaved.timer != nil {
		s.unsaved.timer.Stop()
		s.unsaved.timer = nil
	}
	if s.unsaved.state != nil {
		s.save()
	}
	s.saveJournal()
	if s.logs.Settle() != nil {
		s.saveLater() // it says itself what is missing
	}
}

// saveJournal writes the entries that wait. The loop's.
func (s *shim) saveJournal() {
	u := &s.unsaved
	for len(u.entries) > 0 {
		if err := journal.Append(s.launch.Home.Journal(s.inst.Stack), u.entries[0]); err != nil {
			if n := len(u.entries) - maxEntries; n > 0 {
				u.entries, u.dropped = u.entries[n:], u.dropped+n
			}
			s.saveLater()
			return
		}
		u.entries = u.entries[1:]
	}
}

// saveLast is the last try. What the journal lacks the record says: nothing is
// decided by it. The error says why there is no record of the end. The loop's.
func (s *shim) saveLast() error {
	s.saveAgain()
	if n := len(s.unsaved.entries) + s.unsaved.dropped; n > 0 {
		s.note(fmt.Sprintf("%d entries are not in the journal: it could not be written", n))
		s.save()
		s.tell("")
	}
	if s.unsaved.timer != nil {
		s.unsaved.timer.Stop()
	}
	if err := s.unsaved.state; err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}
