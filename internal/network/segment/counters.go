package segment

import (
	"sync/atomic"

	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// Counters of one port, from its machine's side.
type Counters struct {
	SentFrames  uint64 `json:"sent_frames"` // by the machine, also what was then lost
	SentBytes   uint64 `json:"sent_bytes"`
	TakenFrames uint64 `json:"taken_frames"` // by the machine
	TakenBytes  uint64 `json:"taken_bytes"`
	Full        uint64 `json:"full"`    // lost: the machine did not take them in time
	Long        uint64 `json:"long"`    // refused: longer than the MTU
	Short       uint64 `json:"short"`   // refused: shorter than their headers
	Kind        uint64 `json:"kind"`    // refused: what only routers send, or unknown
	Garbled     uint64 `json:"garbled"` // refused: headers that contradict each other
	Spoofed     uint64 `json:"spoofed"` // refused: in another's name
	Storm       uint64 `json:"storm"`   // lost: too many broadcasts
	Nobody      uint64 `json:"nobody"`  // lost: to an address that nobody has
}

type counts struct {
	sentFrames, sentBytes, takenFrames, takenBytes atomic.Uint64
	full, long, storm, nobody                      atomic.Uint64
	faults                                         [frame.Spoofed + 1]atomic.Uint64
}

// Counters answers what the port has counted so far.
func (p *Port) Counters() Counters {
	c := &p.counts
	return Counters{
		SentFrames: c.sentFrames.Load(), SentBytes: c.sentBytes.Load(),
		TakenFrames: c.takenFrames.Load(), TakenBytes: c.takenBytes.Load(),
		Full: c.full.Load(), Long: c.long.Load(), Storm: c.storm.Load(), Nobody: c.nobody.Load(),
		Short: c.faults[frame.Short].Load(), Kind: c.faults[frame.Kind].Load(),
		Garbled: c.faults[frame.Garbled].Load(), Spoofed: c.faults[frame.Spoofed].Load(),
	}
}
