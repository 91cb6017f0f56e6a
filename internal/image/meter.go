package image

import "sync"

// meter adds up bytes for one caller's progress function, which it calls from
// one goroutine at a time and, after stop, never again.
type meter struct {
	mu sync.Mutex
	// mu guards the following.
	fn func(Progress)
	p  Progress
}

// tell reports how the work goes in words, until it goes on.
func (m *meter) tell(words string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fn != nil {
		p := m.p
		p.Phase += " " + words
		m.fn(p)
	}
}

func newMeter(fn func(Progress), phase string, total int64) *meter {
	return &meter{fn: fn, p: Progress{Phase: phase, Total: total}}
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fn == nil {
		return
	}
	m.p.Current += n
	m.fn(m.p)
}

func (m *meter) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fn = nil
}

func (m *meter) setTotal(n int64) {
	m.mu.Lock()
	m.p.Total = n
	m.mu.Unlock()
	m.add(0)
}
