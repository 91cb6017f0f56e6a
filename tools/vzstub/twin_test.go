package main

import (
	"testing"
)

func TestWithoutC(t *testing.T) {
	const in = `//go:build darwin

package vz

// int start();
import "C"
import (
	"fmt"
	"runtime/cgo"
	"unsafe"
)

// Handle is kept.
type Handle struct {
	n   int
	cgo cgo.Handle
	ptr *C.int
}

type flat C.int

const Size = C.sizeof_int

//export callback
func callback(n C.int) {}

// Start starts.
func (h *Handle) Start(p unsafe.Pointer) error {
	return fmt.Errorf("%d", C.start())
}
`
	const want = `//go:build darwin

package vz

import (
	"unsafe"
)

type Handle struct {
	n   int
	cgo uintptr
}

type flat int8

const Size = 0

func (h *Handle) Start(p unsafe.Pointer) error {
	panic("vzstub: this is a twin to build with, not to run")
}
`
	got, err := withoutC("x.go", []byte(in))
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	plain := "package vz\n\n// kept\nfunc f() { panic(1) }\n"
	if got, err := withoutC("x.go", []byte(plain)); err != nil || string(got) != plain {
		t.Errorf("got %s, %v", got, err)
	}
}
