package filelock

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestALockOnARemovedFileIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // as Try has it while it waits
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ok, err := Current(f, path); !ok || err != nil {
		t.Errorf("of the file that is there: %v, %v", ok, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if ok, err := Current(f, path); ok || err != nil {
		t.Errorf("of a removed file: %v, %v", ok, err)
	}
	second, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := Current(f, path); ok || err != nil {
		t.Errorf("of a replaced file: %v, %v", ok, err)
	}
	first.Release()
	if held, err := Held(path); !held || err != nil {
		t.Errorf("the second lock is held: %v, %v", held, err)
	}
	second.Release()
}

// Each holder removes the directory of the lock before it releases it, as down
// does. Without the check of the file two of them hold it at once.
func TestExclusionSurvivesRemoval(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stack")
	path := filepath.Join(dir, "lock")
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				l, err := take(t.Context(), dir, path)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				if err := os.RemoveAll(dir + ".gone"); err != nil {
					t.Error(err)
				}
				inside.Add(-1)
				if err := os.Rename(dir, dir+".gone"); err != nil {
					t.Error(err)
				}
				l.Release()
			}
		})
	}
	all.Wait()
}

func take(ctx context.Context, dir, path string) (*Lock, error) {
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
			return nil, err
		}
		l, err := Try(path)
		if err == nil || ctx.Err() != nil || !os.IsNotExist(err) && !errs.Is(err, errs.FailedPrecondition) {
			return l, err
		}
	}
}
