package agentproto

import (
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// signals are Linux's names by number, the same on amd64 and arm64 (signal(7)).
// The host's own numbers may differ.
func signals() []string {
	return []string{
		1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1",
		11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT", 17: "CHLD", 18: "CONT", 19: "STOP",
		20: "TSTP", 21: "TTIN", 22: "TTOU", 23: "URG", 24: "XCPU", 25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH",
		29: "IO", 30: "PWR", 31: "SYS",
	}
}

// Real-time signals, as the C library numbers them.
const (
	sigRTMin   = 34
	sigMaximum = 64
)

// Signals that the host's side names.
const (
	SIGTERM = 15
	SIGHUP  = 1
	SIGKILL = 9
)

// ParseSignal reads "SIGTERM", "term", "15" or "RTMIN+3" as Linux does.
func ParseSignal(s string) (int, error) {
	name := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(s)), "SIG")
	if n, err := strconv.Atoi(name); err == nil && n >= 1 && n <= sigMaximum {
		return n, nil
	}
	for n, known := range signals() {
		if known != "" && known == name {
			return n, nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+")); err == nil && n <= sigMaximum-sigRTMin {
			return sigRTMin + n, nil
		}
	}
	return 0, errs.New(errs.InvalidArgument, "no signal %q", s)
}

// SignalName answers "SIGTERM" for 15.
func SignalName(n int) string {
	if all := signals(); n > 0 && n < len(all) {
		return "SIG" + all[n]
	}
	if n >= sigRTMin && n <= sigMaximum {
		return "SIGRTMIN+" + strconv.Itoa(n-sigRTMin)
	}
	return strconv.Itoa(n)
}
