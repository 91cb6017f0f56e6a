package agentproto

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestEverySignalHasANameThatIsReadBack(t *testing.T) {
	for n := 1; n <= sigMaximum; n++ {
		name := SignalName(n)
		if got, err := ParseSignal(name); err != nil || got != n {
			t.Errorf("%d is %s, which is %d, %v", n, name, got, err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]int{
		"SIGTERM": 15, "term": 15, " SigKill ": 9, "9": 9, "SIG9": 9, "RTMIN": 34, "RTMIN+3": 37, "SIGRTMIN+30": 64, "64": 64,
		"": 0, "SIG": 0, "0": 0, "65": 0, "-1": 0, "RTMIN+31": 0, "RTMIN-1": 0, "RTMIN++1": 0, "RTMIN+-1": 0, "TERMINATE": 0,
		"RTMIN+99999999999999999999": 0, "RTMIN+9223372036854775807": 0, "RTMINX": 0,
	} {
		got, err := ParseSignal(s)
		if got != want || (err == nil) != (want != 0) || err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: got %d, %v; want %d", s, got, err, want)
		}
	}
	for n, want := range map[int]string{15: "SIGTERM", 0: "0", -3: "-3", 32: "32", 33: "33", 34: "SIGRTMIN+0", 65: "65"} {
		if got := SignalName(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// messages has one of each, every field set.
func messages() []any {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return []any{
		&Empty{},
		&Setup{Hostname: "h", Time: at, Clock: 1, Entropy: []byte{1, 2}, Root: Root{Lower: "l", Upper: "u"}, Volumes: []Volume{{ID: "v", ReadOnly: true, CopyUp: "/c", Type: "t"}},
			Shares: []Share{{ID: "s", ReadOnly: true, File: "f"}}, Files: []File{{ID: "f", Data: []byte{1}, Mode: 2, UID: 3, GID: 4}},
			Interfaces: []Interface{{Device: "d", Name: "n", MAC: "m", MTU: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/8")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}},
		&SetupResult{Kernel: "k", Phases: []Phase{{Name: "p", Start: 1, Duration: 2}}},
		&Start{ID: "i", Spec: &specs.Spec{Version: "1"}, Process: &specs.Process{Args: []string{"a"}}, User: "u", Groups: []string{"g"}, Devices: []Device{{"s", "p"}}, Filter: &Filter{Program: []byte{1}, Flags: 2}, Unfiltered: true, Init: true, Runtime: "r", Hold: true, Stdin: "1", Stdout: "2", Stderr: "3"},
		&Go{Hostname: "h", Time: at, Clock: 1, Entropy: []byte("e"), Files: []File{{ID: "i", Data: []byte("d"), Mode: 1, UID: 2, GID: 3}},
			Interfaces: []Interface{{Device: "d", Name: "n", MAC: "m", MTU: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/8")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
			Args:       []string{"a"}, Env: []string{"A=b"}},
		&Started{PID: 1, Elapsed: 2},
		&Signal{ID: "i", Signal: 9, All: true, Group: true},
		&Wait{ID: "i"},
		&Release{ID: "i"},
		&Exit{ID: "i", Code: 137, Signal: 9, OOM: true, Full: true, At: at},
		&Reset{},
		&PowerOff{},
		&Log{Kernel: []byte("k"), Agent: []byte("a")},
		&Resize{ID: "i", Rows: 1, Cols: 2},
		&Clock{Time: at},
		&Stats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, []NetStats{{"n", 1, 2, 3, 4}}, at},
		&Top{Processes: []TopProcess{{1, 2, 3, "R", at, 4, 5, "c"}}},
		&Stat{Path: "p"},
		&FileInfo{Name: "n", Mode: 1, Size: 2, Link: "l", IsDir: true},
		&Read{Path: "p", Stream: "s", Follow: true},
		&Write{Path: "p", Stream: "s", KeepOwner: true},
		&Relay{ID: "i", Direction: Into, Path: "p", Mode: 1, UID: 2, GID: 3},
		&Unrelay{ID: "i"},
		&Accepted{Relay: "r", Token: "t"},
		&OOM{Kills: 1, At: at},
	}
}

func TestMessagesAreReadAsTheyWereWritten(t *testing.T) {
	for _, m := range messages() {
		v := reflect.ValueOf(m).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%T: this test leaves %s out", m, v.Type().Field(i).Name)
			}
		}
		b, err := json.Marshal(m)
		back := reflect.New(v.Type()).Interface()
		if err != nil || json.Unmarshal(b, back) != nil || !reflect.DeepEqual(m, back) {
			t.Errorf("%T: %s became %+v (%v)", m, b, back, err)
		}
	}
}

// FuzzMessages reads hostile JSON as each message. What is accepted is stable:
// written and read again it is the same.
func FuzzMessages(f *testing.F) {
	for i, m := range messages() {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
		f.Add(uint8(i), b[:len(b)/2])
	}
	f.Add(uint8(1), []byte(`{"entropy":"!","volumes":[null,{}],"time":"9999-99-99T99:99:99Z"}`))
	f.Add(uint8(3), []byte(`{"spec":{"mounts":[{}],"linux":{"resources":{"pids":{"limit":1e99}}}},"process":null}`))
	f.Add(uint8(8), []byte(`{"code":99999999999999999999,"at":0}`))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		all := messages()
		typ := reflect.TypeOf(all[int(which)%len(all)]).Elem()
		m := reflect.New(typ).Interface()
		if json.Unmarshal(b, m) != nil {
			return
		}
		once, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("%T cannot be written: %v", m, err)
		}
		back := reflect.New(typ).Interface()
		if err := json.Unmarshal(once, back); err != nil {
			t.Fatalf("%s cannot be read again: %v", once, err)
		}
		if twice, err := json.Marshal(back); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s (%v)", once, twice, err)
		}
	})
}
