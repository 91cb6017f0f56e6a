package composetest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/spec"
)

// everywhere stands for all addresses of the host.
const everywhere = "*"

func ourFacts(loaded *spec.Loaded, theirs lines) lines {
	l := lines{}
	for name, c := range loaded.Stack.Containers {
		at := name + "."
		fact := func(key, format string, args ...any) { l.add(at+key+" "+format, args...) }
		fact("image", "%s", c.Image)
		fact("command", "%s", list(c.Command))
		fact("entrypoint", "%s", list(c.Entrypoint))
		for k, v := range c.Environment {
			fact("environment", "%s=%q", k, v)
		}
		for k, v := range c.Labels {
			fact("labels", "%s=%q", k, v)
		}
		for _, p := range c.Ports {
			fact("ports", "%s:%s:%d/%s", p.HostIP, published(p.Published), p.Target, p.Protocol)
		}
		for _, m := range c.Mounts {
			l.add("%s", strings.TrimRight(at+"mounts "+m.Type+" "+m.Source+" "+m.Destination+" "+sortedWords(strings.Join(inBytes(m.Options), ",")), " "))
		}
		for _, i := range c.Interfaces {
			fact("networks", "%s", i.Network)
			for _, a := range i.Aliases {
				fact("networks", "%s alias %s", i.Network, a)
			}
			for _, a := range i.Address {
				a, _, _ = strings.Cut(a, "/")
				fact("networks", "%s address %s", i.Network, a)
			}
			if i.MAC != "" {
				fact("networks", "%s mac %s", i.Network, i.MAC)
			}
		}
		if h := c.HealthCheck; h != nil {
			fact("healthcheck.test", "%s", list(h.Test))
			for key, d := range map[string]fmt.Stringer{"interval": h.Interval, "timeout": h.Timeout,
				"start_period": h.StartPeriod, "start_interval": h.StartInterval} {
				if d.String() != "0s" && !h.None() {
					fact("healthcheck."+key, "%s", d)
				}
			}
			if h.Retries > 0 && !h.None() {
				fact("healthcheck.retries", "%d", h.Retries)
			}
		}
		for on, d := range c.DependsOn {
			fact("depends_on", "%s %s required=%t restart=%t", on, d.Condition, d.Required, d.Restart)
		}
		if c.ContainerName != "" {
			fact("container_name", "%s", c.ContainerName)
		}
		fact("user", "%s", c.User)
		fact("working_dir", "%s", c.WorkingDir)
		restart := c.Restart.Policy
		if c.Restart.Max > 0 {
			restart += ":" + strconv.Itoa(c.Restart.Max)
		}
		fact("restart", "%s", restart)
		fact("replicas", "%d", c.Replicas)
		fact("hostname", "%s", c.Hostname)
		for _, g := range c.Secrets {
			fact("secrets", "%s %s %d:%d %o", g.Source, g.Target, g.UID, g.GID, g.Mode)
		}
		for _, g := range c.Configs {
			fact("configs", "%s %s %d:%d %o", g.Source, g.Target, g.UID, g.GID, g.Mode)
		}
		fact("tty", "%t", c.TTY)
		fact("stdin_open", "%t", c.StdinOpen)
		fact("privileged", "%t", c.Privileged)
		fact("read_only", "%t", c.ReadOnly)
		fact("init", "%t", c.Init)
		fact("stop_signal", "%s", signal(c.StopSignal))
		if c.StopGracePeriod != spec.DefaultGrace {
			fact("stop_grace_period", "%s", c.StopGracePeriod)
		}
		for _, x := range c.CapAdd {
			fact("cap_add", "%s", capability(x))
		}
		for _, x := range c.CapDrop {
			fact("cap_drop", "%s", capability(x))
		}
		for k, v := range c.Sysctls {
			fact("sysctls", "%s=%s", k, v)
		}
		for k, u := range c.Ulimits {
			fact("ulimits", "%s %d:%d", k, int64(u.Soft), int64(u.Hard))
		}
		for _, g := range c.GroupAdd {
			fact("group_add", "%s", g)
		}
		if c.ShmSize > 0 {
			fact("shm_size", "%d", c.ShmSize)
		}
		for address, hosts := range c.Hosts {
			for _, h := range hosts {
				fact("hosts", "%s %s", h, address)
			}
		}
		if c.DNS != nil {
			for _, d := range c.DNS.Nameservers {
				fact("dns", "%s", d)
			}
			for _, d := range c.DNS.Search {
				fact("dns_search", "%s", d)
			}
			for _, d := range c.DNS.Options {
				fact("dns_opt", "%s", d)
			}
		}
		for _, e := range c.Expose {
			fact("expose", "%s", e)
		}
		// What the file does not say has a default here, and none there.
		if line := fmt.Sprintf("%smemory %d", at, c.Memory); theirs[line] || says(theirs, at+"memory ") {
			l[line] = true
		}
		if line := fmt.Sprintf("%scpus %g", at, float32(c.CPUs)); theirs[line] || says(theirs, at+"cpus ") {
			l[line] = true
		}
	}
	for _, p := range loaded.Profiles {
		l.add("profile %s", p)
	}
	for _, name := range loaded.Stack.Inactive {
		l.add("inactive %s", name)
	}
	return l
}

// says reports whether a line begins so.
func says(l lines, beginning string) bool {
	for line := range l {
		if strings.HasPrefix(line, beginning) {
			return true
		}
	}
	return false
}

// published is the port of the host as Compose writes it.
func published(p [2]int) string {
	switch {
	case p[1] == 0:
		return ""
	case p[0] == p[1]:
		return strconv.Itoa(p[0])
	}
	return fmt.Sprintf("%d-%d", p[0], p[1])
}

// list tells nothing from a list that is empty.
func list(words []string) string {
	if words == nil {
		return "-"
	}
	return fmt.Sprintf("%q", words)
}

// inBytes are options of a mount, whose size is a number.
func inBytes(options []string) []string {
	options = slices.Clone(options)
	for i, o := range options {
		if text, ok := strings.CutPrefix(o, "size="); ok {
			if n, err := spec.ParseSize(text); err == nil {
				options[i] = fmt.Sprintf("size=%d", n)
			}
		}
	}
	return options
}

// sortedWords are options without those that say what holds anyhow.
func sortedWords(options string) string {
	var words []string
	for w := range strings.SplitSeq(options, ",") {
		if w != "" && w != "rw" {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func capability(name string) string {
	return strings.TrimPrefix(strings.ToUpper(name), "CAP_")
}

func signal(name string) string {
	return strings.TrimPrefix(strings.ToUpper(name), "SIG")
}
