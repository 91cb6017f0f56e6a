package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

// transcribe copies into the record what a container says and a shim needs as it
// is.
func transcribe(rec *store.Instance, c spec.Container) {
	rec.Init, rec.Groups, rec.BootLog, rec.Nested = c.Init, c.GroupAdd, c.BootLog, c.Virtualization
	rec.OCIRuntime = c.OCIRuntime
	rec.Devices, rec.Vsock = devicesOf(c), c.Vsock
	for _, s := range c.Sockets {
		rec.Relays = append(rec.Relays, state.Relay{Direction: s.Direction, Source: s.Source, Destination: s.Destination, Mode: s.Mode})
	}
	for _, p := range c.Ports {
		rec.Ports = append(rec.Ports, state.Port{Target: p.Target, Published: p.Published, HostIP: p.HostIP, Protocol: p.Protocol})
	}
	for _, text := range c.HostPorts {
		p, err := spec.ParseHostPort(text)
		if err != nil { // spec has checked it
			continue
		}
		rec.HostPorts = append(rec.HostPorts, state.HostPort(p))
	}
	if c.Hooks != nil {
		rec.PostStart, rec.PreStop = hooksOf(c.Hooks.PostStart), hooksOf(c.Hooks.PreStop)
	}
	if l := c.Logging; l != nil {
		rec.LogSize, rec.LogFiles = int64(l.MaxSize), l.MaxFiles
	}
	if l := c.WritableLayer; l != nil {
		rec.Writable = l.Size
	}
}

// vsockDevice is where programs ask for the machine's context ID.
const vsockDevice = "/dev/vsock"

// devicesOf are the devices of the machine that the container has.
func devicesOf(c spec.Container) (all []store.Device) {
	for _, d := range c.Devices {
		source, path := spec.SplitDevice(d)
		all = append(all, store.Device{Source: source, Path: path})
	}
	there := func(d store.Device) bool { return d.Path == vsockDevice }
	if c.Vsock && !slices.ContainsFunc(all, there) {
		all = append(all, store.Device{Source: vsockDevice, Path: vsockDevice})
	}
	return all
}

func hooksOf(all []spec.Hook) []store.Hook {
	var out []store.Hook
	for _, h := range all {
		one := store.Hook{Args: h.Command, Cwd: h.WorkingDir, User: h.User}
		for _, name := range slices.Sorted(maps.Keys(h.Environment)) {
			one.Env = append(one.Env, name+"="+h.Environment[name])
		}
		out = append(out, one)
	}
	return out
}

// files answers the files that the machine holds in memory for the container,
// and their mounts. A file of the same place goes before its folder's mount
// only where it is deeper: mounts are sorted later.
func files(c spec.Container, on []store.Interface, hostname string) (all []store.File, mounts []specs.Mount) {
	add := func(id, at string, f store.File, options ...string) {
		f.ID = id
		all = append(all, f)
		mounts = append(mounts, specs.Mount{Type: "bind", Source: agentproto.FileScheme + id, Destination: at,
			Options: append([]string{"bind"}, options...)})
	}
	for _, of := range []struct {
		what string
		all  []spec.Given
	}{{"secret", c.Secrets}, {"config", c.Configs}} {
		for i, g := range of.all {
			f := store.File{Path: g.Origin.File, Env: g.Origin.Environment, Text: g.Origin.Content, Mode: g.Mode, UID: g.UID, GID: g.GID, What: of.what + " " + g.Source}
			options := []string{"ro", "nosuid", "nodev"}
			if of.what == "secret" || g.Mode&0o111 == 0 { // a config may be a script
				options = append(options, "noexec")
			}
			add(of.what+"-"+strconv.Itoa(i), g.Target, f, options...)
		}
	}
	if len(c.Hosts) > 0 || len(on) > 0 {
		add("hosts", "/etc/hosts", store.File{Text: hostsFile(c.Hosts, on, hostname), Mode: 0o644})
	}
	if c.DNS != nil || len(on) > 0 {
		add("resolv-conf", "/etc/resolv.conf", store.File{Text: resolvConf(c.DNS, on), Mode: 0o644})
	}
	return all, mounts
}

// hostsFile is hosts(5): localhost, the container's own name, then the entries by
// address.
func hostsFile(entries map[string][]string, on []store.Interface, hostname string) string {
	entries = withGateway(entries, on)
	addresses := slices.SortedFunc(maps.Keys(entries), func(a, b string) int {
		x, _ := netip.ParseAddr(a) // spec has checked them
		y, _ := netip.ParseAddr(b)
		return x.Compare(y)
	})
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n")
	for _, i := range on {
		for _, a := range i.Addresses {
			fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), hostname)
		}
	}
	for _, a := range addresses {
		fmt.Fprintf(&b, "%s\t%s\n", a, strings.Join(entries[a], " "))
	}
	return b.String()
}

// withGateway is entries with the addresses of the host in the place of
// spec.HostGateway: those of the gateway of the first network with a way out.
func withGateway(entries map[string][]string, on []store.Interface) map[string][]string {
	names, asked := entries[spec.HostGateway]
	if !asked {
		return entries
	}
	entries = maps.Clone(entries)
	delete(entries, spec.HostGateway)
	i := slices.IndexFunc(on, func(i store.Interface) bool { return !i.On.Internal })
	if i < 0 { // spec has refused it
		return entries
	}
	for _, p := range []netip.Prefix{on[i].On.Gateway, on[i].On.Gateway6} {
		if p.IsValid() {
			at := p.Addr().String()
			entries[at] = slices.Concat(entries[at], names)
		}
	}
	return entries
}

// resolvConf is resolv.conf(5). Where no server of names is declared they are
// the gateways of the container's networks.
func resolvConf(d *spec.DNS, on []store.Interface) string {
	if d == nil {
		d = &spec.DNS{}
	}
	var b strings.Builder
	if len(d.Nameservers) == 0 {
		for _, i := range on[:min(len(on), maxNameservers)] {
			fmt.Fprintf(&b, "nameserver %s\n", i.On.Gateway.Addr())
		}
	}
	for _, n := range d.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", n)
	}
	if d.Domain != "" {
		fmt.Fprintf(&b, "domain %s\n", d.Domain)
	}
	for _, l := range []struct {
		key string
		all []string
	}{{"search", d.Search}, {"options", d.Options}} {
		if len(l.all) > 0 {
			fmt.Fprintf(&b, "%s %s\n", l.key, strings.Join(l.all, " "))
		}
	}
	return b.String()
}

// maxNameservers is how many a resolver looks at (MAXNS of resolv.conf(5)).
const maxNameservers = 3

// rlimits are the declared limits over the usual one of open files.
func rlimits(declared map[string]spec.Ulimit) []specs.POSIXRlimit {
	all := []specs.POSIXRlimit{}
	if _, ok := declared["nofile"]; !ok {
		all = append(all, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: openFiles, Soft: openFiles})
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		u := declared[name]
		all = append(all, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Hard: u.Hard, Soft: u.Soft})
	}
	return all
}

// variables answers those of the caller that an instance's files come from, as
// far as they are set: the shim says which are missing.
func (e *Engine) variables(rec store.Instance) map[string]string {
	look := e.o.LookupEnv
	if look == nil {
		look = os.LookupEnv
	}
	var all map[string]string
	for _, f := range rec.Files {
		if f.Env == "" {
			continue
		}
		if v, ok := look(f.Env); ok {
			if all == nil {
				all = map[string]string{}
			}
			all[f.Env] = v
		}
	}
	return all
}
