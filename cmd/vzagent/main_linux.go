// Vzagent is PID 1 in a machine of vzcompose; internal/guest says what it does.
package main

import "github.com/vzcompose/vzcompose/internal/guest"

// build is set by the linker.
var build = "dev"

func main() { guest.Main(build) }
