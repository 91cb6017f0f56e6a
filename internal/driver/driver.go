// Package driver chooses the driver of machines of this operating system.
package driver

import "github.com/vzcompose/vzcompose/internal/process"

var _ process.NewDriver = New
