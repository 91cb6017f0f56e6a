package segment

import "testing"

func TestQueueSharesItsRoom(t *testing.T) {
	q := newQueue(60)
	fill := func(from string) (n int) {
		for q.put(from, &buffer{}) {
			n++
		}
		return n
	}
	if n := fill("first"); n != 30 {
		t.Errorf("one sender has %d of 60", n)
	}
	if n := fill("second"); n != 15 {
		t.Errorf("a second sender finds %d", n)
	}
	if n := fill("third"); n == 0 {
		t.Error("a third sender finds nothing")
	}
}

func TestQueueKeepsOrder(t *testing.T) {
	q := newQueue(8)
	var held [3]*buffer
	for round := range 20 {
		sent := [3]*buffer{{n: round}, {n: round + 1}, {n: round + 2}}
		for _, b := range sent {
			if !q.put("one", b) {
				t.Fatal("no room")
			}
		}
		if n := q.take(held[:]); n != 3 || held != sent {
			t.Fatalf("round %d: took %d", round, n)
		}
	}
	if len(q.lanes) != 0 || len(q.turns) != 0 {
		t.Errorf("senders are left: %v", q.lanes)
	}
	q.close()
	if q.put("one", &buffer{}) || q.take(held[:]) != 0 {
		t.Error("a closed queue holds frames")
	}
}

func TestQueueTakesTurns(t *testing.T) {
	q := newQueue(64)
	for i := range 20 {
		q.put("flood", &buffer{n: i})
	}
	for i := range 2 {
		q.put("other", &buffer{n: 100 + i})
	}
	var held [6]*buffer
	q.take(held[:])
	for i, want := range []int{0, 100, 1, 101, 2, 3} {
		if held[i].n != want {
			t.Errorf("frame %d is %d, want %d", i, held[i].n, want)
		}
	}
}
