package store

import "github.com/vzcompose/vzcompose/internal/filelock"

// StackBusy reports whether a command holds the lock of a stack: it is at work
// on it.
func (h Home) StackBusy(name string) (bool, error) { return filelock.Held(h.stackLock(name)) }
