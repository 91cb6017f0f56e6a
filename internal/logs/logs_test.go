package logs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// ticking answers a clock that goes on by a second at each look.
func ticking() func() time.Time {
	now := noon
	return func() time.Time {
		now = now.Add(time.Second)
		return now
	}
}

func openWriter(t testing.TB, dir string, o Options) *Writer {
	t.Helper()
	if o.Clock == nil {
		o.Clock = ticking()
	}
	w, err := OpenWriter(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func openReader(t testing.TB, dir string, o ReadOptions) *Reader {
	t.Helper()
	r, err := OpenReader(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func write(t testing.TB, w io.Writer, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if n, err := io.WriteString(w, text); err != nil || n != len(text) {
			t.Error(n, err)
		}
	}
}

// line shows a record in one word: "stdout/1:text", with "…" where partial.
func line(r Record) string {
	mark := ""
	if r.Lost > 0 {
		mark = fmt.Sprintf("lost %d", r.Lost)
	}
	if r.Partial {
		mark = "…"
	}
	return fmt.Sprintf("%s/%d:%s%s", r.Stream, r.Boot, r.Text, mark)
}

// drain reads to the end, and shows records and what is missing.
func drain(t testing.TB, r *Reader) []string {
	t.Helper()
	var got []string
	for {
		rec, err := r.Next(t.Context())
		switch {
		case err == io.EOF:
			return got
		case passing(err):
			got = append(got, "! "+err.Error())
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, line(rec))
		}
	}
}

func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestLinesAreSplitAndTheRestIsFlushedAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{})
	out, errOut := w.Stream("stdout", 1), w.Stream("stderr", 1)
	write(t, out, "one\ntw")
	write(t, errOut, "warn\n")
	write(t, out, "o\n\nthree", "\r\n", "last")
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All})), "stdout/1:one", "stderr/1:warn", "stdout/1:two", "stdout/1:", "stdout/1:three\r")
	out.Close()
	out.Close()
	errOut.Close()
	write(t, w.Stream("stdout", 2), "again\n")
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: 2})), "stdout/1:last…", "stdout/2:again")
	if _, err := out.Write([]byte("x")); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("write after close: %v", err)
	}
	if _, err := w.Stream("std\"out", 1).Write([]byte("x\n")); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("bad name: %v", err)
	}
	w.Close()
	if n, err := w.Stream("stdout", 3).Write([]byte("x\n")); n != 0 || !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("write to a closed log: %d, %v", n, err)
	}
}

func TestLongLinesAreCutExactly(t *testing.T) {
	for _, n := range []int{maxText - 1, maxText, maxText + 1, 3 * maxText, 3*maxText + 7, batch + maxText} {
		for _, end := range []string{"", "\n"} {
			dir := t.TempDir()
			w := openWriter(t, dir, Options{})
			s := w.Stream("stdout", 1)
			text := strings.Repeat("x", n) + end
			for from := 0; from < len(text); from += 5000 {
				write(t, s, text[from:min(from+5000, len(text))])
			}
			s.Close()
			r := openReader(t, dir, ReadOptions{Tail: All})
			var got bytes.Buffer
			records := 0
			for rec, err := r.Next(t.Context()); err == nil; rec, err = r.Next(t.Context()) {
				records++
				got.Write(rec.Text)
				if !rec.Partial {
					got.WriteByte('\n')
				}
				if len(rec.Text) > maxText {
					t.Errorf("record of %d bytes", len(rec.Text))
				}
			}
			if got.String() != text || records != (n+maxText-1)/maxText {
				t.Errorf("%d%q: %d bytes in %d records", n, end, got.Len(), records)
			}
		}
	}
}

func TestATornLastLineIsCutOffAndNumberingGoesOn(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{MaxSize: 1})
	s := w.Stream("stdout", 1)
	write(t, s, "one\n", "two\n")
	w.Close()
	torn := `{"t":"2026-03-01T12:00:00.0` + strings.Repeat("\x00", 100_000)
	f, err := os.OpenFile(segmentPath(dir, 2), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, torn)
	f.Close()
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All})), "stdout/1:one", "stdout/1:two")
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: 1})), "stdout/1:two")

	follower := openReader(t, dir, ReadOptions{Tail: 0, Follow: true})
	w = openWriter(t, dir, Options{MaxSize: 1})
	write(t, w.Stream("stdout", 2), "three\n")
	if rec, err := follower.Next(t.Context()); err != nil || line(rec) != "stdout/2:three" {
		t.Errorf("got %v, %v", line(rec), err)
	}
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All})), "stdout/1:one", "stdout/1:two", "stdout/2:three")
	if ns, _ := segments(dir); !slices.Equal(ns, []int{1, 2, 3}) {
		t.Errorf("files %v", ns)
	}
}

func TestOldFilesGo(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not ours"), 0o600)
	w := openWriter(t, dir, Options{MaxSize: 1, MaxFiles: 3})
	s := w.Stream("stdout", 1)
	for i := range 10 {
		write(t, s, fmt.Sprintln(i))
	}
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All})), "stdout/1:7", "stdout/1:8", "stdout/1:9")
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	expect(t, names, "000008.jsonl", "000009.jsonl", "000010.jsonl", "notes.txt")
}

func TestFiltersAndTail(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{MaxSize: 200, MaxFiles: 100})
	for boot := 1; boot <= 3; boot++ {
		out, errOut := w.Stream("stdout", boot), w.Stream("stderr", boot)
		for i := range 3 {
			write(t, out, fmt.Sprintln("o", i))
			write(t, errOut, fmt.Sprintln("e", i))
		}
	}
	all := drain(t, openReader(t, dir, ReadOptions{Tail: All}))
	for n := range len(all) + 3 {
		expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: n})), all[max(0, len(all)-n):]...)
	}
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All, Boot: 2, Streams: []string{"stderr"}})), "stderr/2:e 0", "stderr/2:e 1", "stderr/2:e 2")
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: 2, Boot: 1, Streams: []string{"stdout"}})), "stdout/1:o 1", "stdout/1:o 2")
	at := func(i int) time.Time { return noon.Add(time.Duration(i+1) * time.Second) }
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All, Since: at(4), Until: at(6)})), all[4:7]...)
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: 2, Until: at(6)})), all[5:7]...)
}

func TestSincePassesOverOldFiles(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{MaxSize: 1})
	s := w.Stream("stdout", 1)
	write(t, s, "one\n", "two\n", "three\n")
	for i := range 2 {
		// Dated before what is in it: it is passed over unread.
		if err := os.Chtimes(segmentPath(dir, i+1), noon, noon); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All, Since: noon.Add(time.Nanosecond)})), "stdout/1:three")
}

func TestTailCountsLinesNotPieces(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{})
	s := w.Stream("stdout", 1)
	write(t, s, "before\n", strings.Repeat("x", 2*maxText+1)+"\n", "after\n", "rest")
	s.Close()
	for tail, want := range map[int]int{1: 1, 2: 2, 3: 5, 4: 6, 9: 6} {
		if got := drain(t, openReader(t, dir, ReadOptions{Tail: tail})); len(got) != want {
			t.Errorf("tail %d: %d records", tail, len(got))
		}
	}
}

func TestWhatIsDamagedIsReportedAndPassed(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{})
	s := w.Stream("stdout", 1)
	put := func(n int, text string) {
		f, err := os.OpenFile(segmentPath(dir, n), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, text)
		f.Close()
	}
	write(t, s, "one\n")
	put(1, "garbage\n"+strings.Repeat("z", maxLine)+"\n")
	write(t, s, "two\n")
	put(1, strings.Repeat("z", 3*maxLine+5)+"\n")
	write(t, s, "three\n")
	put(1, "torn")
	put(2, "\n")
	r := openReader(t, dir, ReadOptions{Tail: All})
	var got []string
	for {
		rec, err := r.Next(t.Context())
		if err == io.EOF {
			break
		}
		var c *CorruptError
		switch {
		case errors.As(err, &c) && errs.Is(err, errs.DataLoss):
			got = append(got, fmt.Sprint("! ", filepath.Base(c.File), " ", c.Length))
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, line(rec))
		}
	}
	expect(t, got, "stdout/1:one", "! 000001.jsonl 8", "! 000001.jsonl 262145", "stdout/1:two",
		"! 000001.jsonl 786438", "stdout/1:three", "! 000001.jsonl 4", "! 000002.jsonl 1")
	// What is damaged is no line that the tail counts.
	if got := drain(t, openReader(t, dir, ReadOptions{Tail: 2})); len(got) != 7 || got[2] != "stdout/1:two" {
		t.Errorf("tail begins with %q", got)
	}
}

func TestAFollowerSeesWhatIsWrittenUntilItEnds(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{MaxSize: 300})
	s := w.Stream("stdout", 1)
	write(t, s, "past\n")
	ended := make(chan struct{})
	r := openReader(t, dir, ReadOptions{Tail: 1, Follow: true, Ended: ended})
	for i := -1; i < 20; i++ {
		want := "stdout/1:past"
		if i >= 0 {
			want = fmt.Sprint("stdout/1:line ", i)
			go write(t, s, fmt.Sprintln("line", i))
		}
		if rec, err := r.Next(t.Context()); err != nil || line(rec) != want {
			t.Fatalf("got %s, %v, want %s", line(rec), err, want)
		}
	}
	write(t, s, "rest")
	s.Close()
	go close(ended)
	expect(t, drain(t, r), "stdout/1:rest…")

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("told to")
	r = openReader(t, dir, ReadOptions{Follow: true})
	go cancel(why)
	if _, err := r.Next(ctx); err != why {
		t.Errorf("got %v", err)
	}
}

func TestAFollowerEndsWithItsTimeAndWithItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	openWriter(t, dir, Options{})
	r := openReader(t, dir, ReadOptions{Follow: true, Until: time.Now().Add(20 * time.Millisecond)})
	expect(t, drain(t, r))
	r = openReader(t, dir, ReadOptions{Follow: true})
	go os.RemoveAll(dir)
	expect(t, drain(t, r))
	if _, err := OpenReader(dir, ReadOptions{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := OpenReader(dir, ReadOptions{Follow: true}); !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestASlowFollowerIsToldWhatItLost(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{MaxSize: 1, MaxFiles: 2})
	s := w.Stream("stdout", 1)
	write(t, s, "0\n")
	ended := make(chan struct{})
	r := openReader(t, dir, ReadOptions{Tail: All, Follow: true, Ended: ended})
	if rec, err := r.Next(t.Context()); err != nil || line(rec) != "stdout/1:0" {
		t.Fatal(rec, err)
	}
	for i := range 9 {
		write(t, s, fmt.Sprintln(i+1))
	}
	close(ended)
	expect(t, drain(t, r), "! 7 log files were removed before they were read", "stdout/1:8", "stdout/1:9")
}

func TestMergeIsByTimeAndFollows(t *testing.T) {
	clock := ticking()
	watch, err := NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	ended := make(chan struct{})
	var sources []Source
	var streams []io.Writer
	for i := range 3 {
		dir := t.TempDir()
		w := openWriter(t, dir, Options{Clock: clock})
		streams = append(streams, w.Stream("stdout", 1))
		sources = append(sources, Source{fmt.Sprint("web-", i+1), openReader(t, dir, ReadOptions{Tail: All, Follow: true, Ended: ended, Watch: watch})})
	}
	for i := range 6 {
		write(t, streams[(i*2)%3], fmt.Sprintln(i))
	}
	m := Merge(sources...)
	next := func(want string) {
		t.Helper()
		e, err := m.Next(t.Context())
		if got := e.Name + " " + string(e.Text); err != nil || got != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	for i := range 6 {
		next(fmt.Sprintf("web-%d %d", (i*2)%3+1, i))
	}
	for i := range 6 {
		go write(t, streams[i%3], fmt.Sprintln("later", i))
		next(fmt.Sprintf("web-%d later %d", i%3+1, i))
	}
	go close(ended)
	if _, err := m.Next(t.Context()); err != io.EOF {
		t.Errorf("got %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadersLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	openWriter(t, dir, Options{})
	before := runtime.NumGoroutine()
	for range 200 { // more than a user has inotify instances
		r, err := OpenReader(dir, ReadOptions{Follow: true, Ended: make(chan struct{})})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(end) {
			t.Fatalf("goroutines %d → %d", before, runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}

// fullDisk has the writer's file refuse everything until room is called.
func fullDisk(t *testing.T, w *Writer) (room func()) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full here")
	}
	t.Cleanup(func() { full.Close() })
	good := w.f
	w.f = full
	return func() { w.f = good }
}

// A disk that is full for a while costs what was written meanwhile, and the log
// says how much: the stream goes on.
func TestALogGoesOnAfterTheDiskWasFull(t *testing.T) {
	dir := t.TempDir()
	losses := 0
	w := openWriter(t, dir, Options{OnLoss: func() { losses++ }})
	s, other := w.Stream("stdout", 1), w.Stream("stderr", 1)
	write(t, s, "one\nbeg")
	room := fullDisk(t, w)
	write(t, s, "in\nmore")
	write(t, s, "and more\n")
	if err := w.Settle(); !errors.Is(err, syscall.ENOSPC) || losses != 2 {
		t.Errorf("settled without room: %v, %d losses", err, losses)
	}
	room()
	write(t, other, "beside\n")
	write(t, s, "two\nthr")
	room = fullDisk(t, w)
	write(t, other, "gone\n")
	room()
	if err := w.Settle(); err != nil {
		t.Error(err)
	}
	write(t, s, "ee\n")
	s.Close()
	other.Close()
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All})),
		"stdout/1:one", "stderr/1:beside", "stdout/1:lost 19", "stdout/1:two", "stderr/1:lost 5", "stdout/1:three")
}

func TestALogThatEndsOnAFullDiskSaysWhatIsLost(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{})
	s := w.Stream("stdout", 1)
	write(t, s, "beg")
	room := fullDisk(t, w)
	write(t, s, "in\nre")
	if err := s.Close(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "8 bytes of stdout are lost") {
		t.Errorf("got %v", err)
	}
	room()
	if err := w.Settle(); err != nil { // there is room after all
		t.Error(err)
	}
	expect(t, drain(t, openReader(t, dir, ReadOptions{Tail: All})), "stdout/1:lost 8")
}

// A part of a record that cannot be cut off costs that record only.
func TestATornRecordIsCutOffFromTheNext(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, Options{})
	s := w.Stream("stdout", 1)
	write(t, s, "one\n")
	if _, err := w.f.WriteString(`{"t":"2026`); err != nil {
		t.Fatal(err)
	}
	w.torn = true
	write(t, s, "two\n")
	room := fullDisk(t, w)
	write(t, s, "gone\n")
	room()
	write(t, s, "three\n")
	s.Close()
	r := openReader(t, dir, ReadOptions{Tail: All})
	var got []string
	for {
		rec, err := r.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			got = append(got, "damaged")
			continue
		}
		got = append(got, string(rec.Text))
	}
	if want := []string{"one", "damaged", "two", "", "three"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAHundredMegabytesArriveToTheByte writes two streams at once, binary and
// text, in writes of any size, while a follower reads.
func TestAHundredMegabytesArriveToTheByte(t *testing.T) {
	total := 100 << 20
	if testing.Short() {
		total = 8 << 20
	}
	dir := t.TempDir()
	w := openWriter(t, dir, Options{MaxSize: 4 << 20, MaxFiles: 1000, Clock: time.Now})
	ended := make(chan struct{})
	r := openReader(t, dir, ReadOptions{Tail: All, Follow: true, Ended: ended})
	want := make([][sha256.Size]byte, 2)
	var writers sync.WaitGroup
	for i, name := range []string{"stdout", "stderr"} {
		writers.Go(func() { want[i] = produce(t, w.Stream(name, 1), uint64(i), total/2) })
	}
	go func() { writers.Wait(); close(ended) }()

	got := map[string]interface {
		io.Writer
		Sum([]byte) []byte
	}{"stdout": sha256.New(), "stderr": sha256.New()}
	for {
		rec, err := r.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[rec.Stream].Write(rec.Text)
		if !rec.Partial {
			got[rec.Stream].Write([]byte("\n"))
		}
	}
	for i, name := range []string{"stdout", "stderr"} {
		if !bytes.Equal(got[name].Sum(nil), want[i][:]) {
			t.Errorf("%s changed on its way", name)
		}
	}
}

// produce writes about total bytes, of which a half is text, and answers their
// sum.
func produce(t *testing.T, s io.WriteCloser, seed uint64, total int) (sum [sha256.Size]byte) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	pool := hundred(3000)
	for i := 100_000; i < 200_000; i++ {
		pool[i] = byte(rnd.Uint32())
	}
	copy(pool[200_000:250_000], bytes.Repeat([]byte("endless"), 8000))
	h := sha256.New()
	for total > 0 {
		from := rnd.IntN(len(pool) - 1)
		part := pool[from:min(len(pool), from+1+rnd.IntN(100_000))]
		h.Write(part)
		if n, err := s.Write(part); err != nil || n != len(part) {
			t.Error(n, err)
			return sum
		}
		total -= len(part)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	h.Sum(sum[:0])
	return sum
}

// What is asked of an open merge is done after what was written before; a source
// takes the place of one whose folder was made anew.
func TestAnOpenMergeTakesWhatComes(t *testing.T) {
	dir := t.TempDir()
	watch, err := NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	m := MergeOpen()
	defer m.Close()
	var got []string
	done := make(chan error, 1)
	go func() {
		for {
			e, err := m.Next(t.Context())
			if err != nil {
				done <- err
				return
			}
			got = append(got, e.Name+" "+string(e.Text))
		}
	}()
	did := func(fn func()) {
		over := make(chan struct{})
		m.Do(func() { fn(); close(over) })
		<-over
	}
	add := func(name, log string) func() {
		return func() { m.Add(Source{name, openReader(t, log, ReadOptions{Tail: All, Follow: true, Watch: watch})}) }
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, d := range []string{a, b} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w := openWriter(t, a, Options{})
	write(t, w.Stream("stdout", 1), "one\n")
	did(add("a", a))
	did(func() { got = append(got, "after one") })
	write(t, w.Stream("stdout", 1), "two\n")
	did(func() { got = append(got, "after two") })
	other := openWriter(t, b, Options{})
	write(t, other.Stream("stdout", 1), "anew\n")
	did(add("a", b))
	did(m.Finish)
	if err := <-done; err != io.EOF {
		t.Errorf("it ended with %v", err)
	}
	expect(t, got, "a one", "after one", "a two", "after two", "a anew")
}
