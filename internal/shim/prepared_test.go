package shim

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
)

func preparedInstance() store.Instance {
	return store.Instance{Stack: "s", Name: "web-1", Root: "/r", Stdin: true, User: "nobody",
		Files:      []store.File{{ID: "secret-0", Text: "hidden", Mode: 0o400}},
		Interfaces: []store.Interface{{MAC: "02:00:00:00:00:01", MTU: 1280, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}},
		Runtime: &specs.Spec{Hostname: "web-1", Annotations: map[string]string{"a": "b"}, Root: &specs.Root{},
			Process: &specs.Process{Args: []string{"serve", "--password=hidden"}, Env: []string{"PATH=/bin", "TOKEN=hidden"}, Cwd: "/"}}}
}

// What only one instance has, or may be secret, is neither in the key nor in what
// a machine is told before it is saved; what the machine is made by is in it.
func TestPreparationKey(t *testing.T) {
	base := prepare(preparedInstance(), nil)
	if base.err != nil || base.key == "" {
		t.Fatal(base.err)
	}
	said, err := json.Marshal([]any{base.setup, base.start})
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"hidden", "aGlkZGVu", "TOKEN", "web-1", "10.0.0.2", "02:00:00"} {
		if strings.Contains(string(said), no) {
			t.Errorf("the machine that is saved is told %q: %s", no, said)
		}
	}
	for name, x := range map[string]struct {
		change func(*store.Instance)
		same   bool
	}{
		"name":      {func(i *store.Instance) { i.Name, i.Runtime.Hostname = "web-2", "web-2" }, true},
		"stack":     {func(i *store.Instance) { i.Stack = "t" }, true},
		"address":   {func(i *store.Instance) { i.Interfaces[0].Addresses = nil; i.Interfaces[0].MAC = "02:00:00:00:00:02" }, true},
		"secret":    {func(i *store.Instance) { i.Files[0].Text = "other" }, true},
		"variables": {func(i *store.Instance) { i.Runtime.Process.Env = []string{"PATH=/bin"} }, true},
		"arguments": {func(i *store.Instance) { i.Runtime.Process.Args = []string{"serve"} }, true},
		"label":     {func(i *store.Instance) { i.Runtime.Annotations = nil }, true},
		"program":   {func(i *store.Instance) { i.Runtime.Process.Args = []string{"other"} }, false},
		"path":      {func(i *store.Instance) { i.Runtime.Process.Env = []string{"PATH=/sbin"} }, false},
		"user":      {func(i *store.Instance) { i.User = "root" }, false},
		"stdin":     {func(i *store.Instance) { i.Stdin = false }, false},
		"mode":      {func(i *store.Instance) { i.Files[0].Mode = 0o444 }, false},
		"no files":  {func(i *store.Instance) { i.Files = nil }, false},
		"mtu":       {func(i *store.Instance) { i.Interfaces[0].MTU = 1500 }, false},
		"no card":   {func(i *store.Instance) { i.Interfaces = nil }, false},
		"read-only": {func(i *store.Instance) { i.Runtime.Root.Readonly = true }, false},
		"init":      {func(i *store.Instance) { i.Init = true }, false},
		"mount":     {func(i *store.Instance) { i.Runtime.Mounts = []specs.Mount{{Destination: "/x", Type: "tmpfs"}} }, false},
	} {
		i := preparedInstance()
		x.change(&i)
		if p := prepare(i, nil); p.err != nil || (p.key == base.key) != x.same {
			t.Errorf("%s: the same key: %v, %v", name, p.key == base.key, p.err)
		}
	}
	if i := preparedInstance(); i.Runtime.Process.Env[1] != "TOKEN=hidden" || i.Runtime.Hostname != "web-1" {
		t.Error("the instance was changed")
	}
}

// What a machine holds before it has an instance is the same for all that have
// its key, and nothing of theirs that others have not is in it.
func TestHeld(t *testing.T) {
	l := shimproto.Launch{Instance: preparedInstance(), Kernel: "/k", Filter: []byte{1}, Env: map[string]string{"A": "hidden"}}
	common, key, err := Held(l)
	if err != nil || key != prepare(l.Instance, filterOf(l)).key {
		t.Fatalf("key %q, %v", key, err)
	}
	again, same, err := Held(common)
	if err != nil || same != key {
		t.Errorf("what is common has the key %q, %v", same, err)
	}
	b, err := json.Marshal([]any{common, again})
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"hidden", "TOKEN", "web-1", "10.0.0.2", "02:00:00"} {
		if strings.Contains(string(b), no) {
			t.Errorf("%q is in it: %s", no, b)
		}
	}
	if common.Kernel != "/k" || len(common.Filter) != 1 || len(common.Instance.Files) != 1 || l.Env["A"] != "hidden" {
		t.Errorf("common: %+v", common)
	}
	l.Instance.Nested = true
	if _, _, err := Held(l); !errs.Is(err, errs.Unsupported) {
		t.Errorf("nested: %v", err)
	}
}

func TestPreparableRefuses(t *testing.T) {
	for name, change := range map[string]func(*store.Instance){
		"volume":     func(i *store.Instance) { i.Volumes = []store.Disk{{ID: "vol0"}} },
		"vsock":      func(i *store.Instance) { i.Vsock = true },
		"share":      func(i *store.Instance) { i.Shares = []store.Share{{ID: "share0"}} },
		"terminal":   func(i *store.Instance) { i.Runtime.Process.Terminal = true },
		"nested":     func(i *store.Instance) { i.Nested = true },
		"runtime":    func(i *store.Instance) { i.OCIRuntime = "/runc" },
		"interfaces": func(i *store.Instance) { i.Interfaces = append(i.Interfaces, i.Interfaces[0]) },
		"IPv6": func(i *store.Instance) {
			i.Interfaces[0].Addresses = []netip.Prefix{netip.MustParsePrefix("fd00::2/64")}
		},
		"no process":  func(i *store.Instance) { i.Runtime.Process = nil },
		"no spec yet": func(i *store.Instance) { i.Runtime = nil },
	} {
		i := preparedInstance()
		change(&i)
		if p := prepare(i, nil); !errs.Is(p.err, errs.Unsupported) || p.key != "" {
			t.Errorf("%s: %v, key %q", name, p.err, p.key)
		}
	}
}

// Another filter of system calls is another machine.
func TestPreparationHasFilter(t *testing.T) {
	one := prepare(preparedInstance(), &agentproto.Filter{Program: []byte{1}})
	if other := prepare(preparedInstance(), nil); one.key == other.key || one.start.Filter == nil {
		t.Error("the filter is not in the key")
	}
}
