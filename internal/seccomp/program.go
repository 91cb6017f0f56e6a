package seccomp

import (
	"math"

	"golang.org/x/net/bpf"
)

// Where things are in what a program looks at (struct seccomp_data).
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // eight bytes each, the low half first
)

const word = 4 // bytes

// section is what is decided about the calls of one architecture.
type section struct {
	arch  arch
	spans []span
}

// programOf puts sections together. A call from an architecture that has none
// ends the process: the numbers mean something else there.
func programOf(all []section) []bpf.Instruction {
	program := []bpf.Instruction{load(offArch)}
	for _, s := range all {
		body := append([]bpf.Instruction{load(offNumber)}, search(s.spans)...)
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: s.arch.audit, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(body))})
		program = append(program, body...)
	}
	return append(program, ret(killProcess))
}

func load(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: word} }
func ret(a Action) bpf.Instruction       { return bpf.RetConstant{Val: uint32(a)} }
func half(v uint64) (high, low uint32)   { return uint32(v >> 32), uint32(v) }
func jump(cond bpf.JumpTest, val uint32, yes, no int) bpf.Instruction {
	return bpf.JumpIf{Cond: cond, Val: val, SkipTrue: uint8(yes), SkipFalse: uint8(no)}
}

// search finds the span of the number that is loaded, by halves: a call costs a
// dozen steps, not one for each call that there is. The kernel takes the same
// steps for each call once more when it loads the filter, to remember which are
// always allowed.
func search(spans []span) []bpf.Instruction {
	if len(spans) == 1 {
		return decision(spans[0].clauses)
	}
	mid := len(spans) / 2
	below, above := search(spans[:mid]), search(spans[mid:])
	var program []bpf.Instruction
	if len(below) <= math.MaxUint8 {
		program = append(program, jump(bpf.JumpGreaterOrEqual, spans[mid].first, len(below), 0))
	} else { // further than a condition can jump
		program = append(program, jump(bpf.JumpGreaterOrEqual, spans[mid].first, 0, 1), bpf.Jump{Skip: uint32(len(below))})
	}
	return append(append(program, below...), above...)
}

// decision is a span's program.
func decision(clauses []clause) (program []bpf.Instruction) {
	for _, c := range clauses {
		program = append(program, c.program()...)
	}
	return program
}

// program returns the action where all comparisons fit, and goes on behind itself
// where one does not.
func (c *clause) program() []bpf.Instruction {
	program := []bpf.Instruction{ret(c.action)}
	for i := len(c.args) - 1; i >= 0; i-- {
		// At most seven instructions for each of six arguments: a condition can jump
		// over all of it.
		program = append(c.args[i].program(len(program)), program...)
	}
	return program
}

// program goes on behind itself where the comparison fits, and jumps over so many
// more instructions where it does not. Both halves of the argument count.
func (c comparison) program(over int) []bpf.Instruction {
	offset := offArgs + 2*word*uint32(c.index)
	low, high := load(offset), load(offset+word)
	vh, vl := half(c.value)
	switch c.op {
	case notEqual:
		return []bpf.Instruction{high, jump(bpf.JumpEqual, vh, 0, 2), low, jump(bpf.JumpEqual, vl, over, 0)}
	case greater:
		return []bpf.Instruction{high, jump(bpf.JumpGreaterThan, vh, 3, 0), jump(bpf.JumpEqual, vh, 0, over+2),
			low, jump(bpf.JumpGreaterThan, vl, 0, over)}
	case greaterEqual:
		return []bpf.Instruction{high, jump(bpf.JumpGreaterThan, vh, 3, 0), jump(bpf.JumpEqual, vh, 0, over+2),
			low, jump(bpf.JumpGreaterOrEqual, vl, 0, over)}
	case less:
		return []bpf.Instruction{high, jump(bpf.JumpGreaterThan, vh, over+3, 0), jump(bpf.JumpEqual, vh, 0, 2),
			low, jump(bpf.JumpGreaterOrEqual, vl, over, 0)}
	case lessEqual:
		return []bpf.Instruction{high, jump(bpf.JumpGreaterThan, vh, over+3, 0), jump(bpf.JumpEqual, vh, 0, 2),
			low, jump(bpf.JumpGreaterThan, vl, over, 0)}
	case maskedEqual:
		th, tl := half(c.two)
		return []bpf.Instruction{high, and(vh), jump(bpf.JumpEqual, th, 0, over+3), low, and(vl), jump(bpf.JumpEqual, tl, 0, over)}
	default: // equal
		return []bpf.Instruction{high, jump(bpf.JumpEqual, vh, 0, over+2), low, jump(bpf.JumpEqual, vl, 0, over)}
	}
}

func and(mask uint32) bpf.Instruction { return bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask} }
