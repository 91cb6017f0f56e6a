package composetest

import (
	"cmp"
	"context"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"
)

// docker compose itself knows a further format of env files.
var rawFormat = sync.OnceFunc(func() {
	dotenv.RegisterFormat("raw", func(r io.Reader, _ string, vars map[string]string, lookup func(string) (string, bool)) error {
		text, err := io.ReadAll(r)
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
				vars[name] = value
			}
		}
		return err
	})
})

// theirs loads the project with compose-go, by the steps of docker compose.
func (p project) theirs() (*types.Project, error) {
	logrus.SetOutput(io.Discard) // what is deprecated, or not set
	rawFormat()
	var env []string
	for k, v := range p.env {
		env = append(env, k+"="+v)
	}
	options, err := cli.NewProjectOptions(p.files,
		cli.WithWorkingDirectory(p.workingDir()),
		cli.WithEnv(env),
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithDefaultProfiles(p.profiles...),
	)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

// workingDir is the folder of the first -f, or the one in which files are found.
func (p project) workingDir() string {
	if len(p.files) > 0 {
		return filepath.Dir(p.files[0])
	}
	return p.dir
}

func theirFacts(p *types.Project) lines {
	l := lines{}
	for name, s := range p.Services {
		at := name + "."
		fact := func(key, format string, args ...any) { l.add(at+key+" "+format, args...) }
		fact("image", "%s", s.Image)
		fact("command", "%s", list(s.Command))
		fact("entrypoint", "%s", list(s.Entrypoint))
		for k, v := range s.Environment {
			if v != nil {
				fact("environment", "%s=%q", k, *v)
			}
		}
		for k, v := range s.Labels {
			fact("labels", "%s=%q", k, v)
		}
		for _, port := range s.Ports {
			host := cmp.Or(port.HostIP, everywhere)
			published := port.Published
			if published == "0" {
				published = ""
			}
			fact("ports", "%s:%s:%d/%s", host, published, port.Target, port.Protocol)
		}
		for _, m := range s.Volumes {
			options := ""
			if m.ReadOnly {
				options = "ro"
			}
			if m.Type == "tmpfs" && m.Tmpfs != nil {
				if m.Tmpfs.Size > 0 {
					options += ",size=" + strconv.FormatInt(int64(m.Tmpfs.Size), 10)
				}
				if m.Tmpfs.Mode > 0 {
					options += ",mode=" + strconv.FormatUint(uint64(m.Tmpfs.Mode), 8)
				}
			}
			if m.Volume != nil && m.Volume.NoCopy {
				options += ",nocopy"
			}
			source := m.Source
			if v, ok := p.Volumes[source]; ok && v.Name != p.Name+"_"+source {
				source = v.Name // the file names it
			}
			l.add("%s", strings.TrimRight(at+"mounts "+m.Type+" "+source+" "+path.Clean(m.Target)+" "+sortedWords(options), " "))
		}
		for _, m := range s.Tmpfs {
			target, options, _ := strings.Cut(m, ":")
			l.add("%s", strings.TrimRight(at+"mounts tmpfs  "+target+" "+sortedWords(strings.Join(inBytes(strings.Split(options, ",")), ",")), " "))
		}
		for network, n := range s.Networks {
			fact("networks", "%s", network)
			if n == nil {
				continue
			}
			for _, a := range n.Aliases {
				fact("networks", "%s alias %s", network, a)
			}
			for _, a := range []string{n.Ipv4Address, n.Ipv6Address} {
				if a != "" {
					fact("networks", "%s address %s", network, a)
				}
			}
			if n.MacAddress != "" {
				fact("networks", "%s mac %s", network, n.MacAddress)
			}
		}
		if s.MacAddress != "" {
			fact("networks", "default mac %s", s.MacAddress)
		}
		for _, link := range s.Links {
			on, alias, _ := strings.Cut(link, ":")
			for network := range p.Services[on].Networks {
				if _, shared := s.Networks[network]; shared && alias != "" {
					l.add("%s.networks %s alias %s", on, network, alias)
				}
			}
		}
		if s.ContainerName != "" {
			fact("container_name", "%s", s.ContainerName)
		}
		if h := s.HealthCheck; h != nil {
			test := []string(h.Test)
			if h.Disable {
				test = []string{"NONE"}
			}
			fact("healthcheck.test", "%s", list(test))
			duration := func(key string, d *types.Duration) {
				if d != nil && *d != 0 {
					fact("healthcheck."+key, "%s", d.String())
				}
			}
			if !h.Disable {
				duration("interval", h.Interval)
				duration("timeout", h.Timeout)
				duration("start_period", h.StartPeriod)
				duration("start_interval", h.StartInterval)
				if h.Retries != nil && *h.Retries > 0 {
					fact("healthcheck.retries", "%d", *h.Retries)
				}
			}
		}
		for on, d := range s.DependsOn {
			if _, out := p.DisabledServices[on]; out && !d.Required {
				continue // nothing is waited for
			}
			fact("depends_on", "%s %s required=%t restart=%t", on, strings.TrimPrefix(strings.TrimSuffix(d.Condition, "_successfully"), "service_"), d.Required, d.Restart)
		}
		fact("user", "%s", s.User)
		fact("working_dir", "%s", s.WorkingDir)
		fact("restart", "%s", theirRestart(s))
		fact("replicas", "%d", s.GetScale())
		fact("hostname", "%s", s.Hostname)
		for _, g := range s.Secrets {
			given(fact, "secrets", "/run/secrets/", types.FileReferenceConfig(g))
		}
		for _, g := range s.Configs {
			given(fact, "configs", "/", types.FileReferenceConfig(g))
		}
		fact("tty", "%t", s.Tty)
		fact("stdin_open", "%t", s.StdinOpen)
		fact("privileged", "%t", s.Privileged)
		fact("read_only", "%t", s.ReadOnly)
		fact("init", "%t", s.Init != nil && *s.Init)
		fact("stop_signal", "%s", signal(s.StopSignal))
		if s.StopGracePeriod != nil {
			fact("stop_grace_period", "%s", s.StopGracePeriod.String())
		}
		for _, c := range s.CapAdd {
			fact("cap_add", "%s", capability(c))
		}
		for _, c := range s.CapDrop {
			fact("cap_drop", "%s", capability(c))
		}
		for k, v := range s.Sysctls {
			fact("sysctls", "%s=%s", k, v)
		}
		for k, u := range s.Ulimits {
			if u.Single != 0 {
				fact("ulimits", "%s %d:%d", k, u.Single, u.Single)
			} else {
				fact("ulimits", "%s %d:%d", k, u.Soft, u.Hard)
			}
		}
		for _, g := range s.GroupAdd {
			fact("group_add", "%s", g)
		}
		if s.ShmSize > 0 {
			fact("shm_size", "%d", s.ShmSize)
		}
		for host, addresses := range s.ExtraHosts {
			for _, a := range addresses {
				fact("hosts", "%s %s", host, a)
			}
		}
		for _, d := range s.DNS {
			fact("dns", "%s", d)
		}
		for _, d := range s.DNSSearch {
			fact("dns_search", "%s", d)
		}
		for _, d := range s.DNSOpts {
			fact("dns_opt", "%s", d)
		}
		for _, e := range s.Expose {
			fact("expose", "%s", strings.TrimSuffix(e, "/tcp"))
		}
		if memory := theirMemory(s); memory > 0 {
			fact("memory", "%d", memory)
		}
		if cpus := theirCPUs(s); cpus > 0 {
			fact("cpus", "%g", cpus)
		}
	}
	for _, profile := range theirProfiles(p) {
		l.add("profile %s", profile)
	}
	for name := range p.DisabledServices {
		l.add("inactive %s", name)
	}
	return l
}

// theirRestart is the policy that docker compose gives a container.
func theirRestart(s types.ServiceConfig) string {
	policy := s.Restart
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		p := s.Deploy.RestartPolicy
		switch p.Condition {
		case "none", "":
			policy = "no"
		case "any":
			policy = "always"
		default:
			policy = p.Condition
		}
		if p.MaxAttempts != nil && *p.MaxAttempts > 0 && policy == "on-failure" {
			policy += ":" + strconv.FormatUint(*p.MaxAttempts, 10)
		}
	}
	if policy == "" {
		policy = "no"
	}
	return policy
}

func theirMemory(s types.ServiceConfig) int64 {
	if d := s.Deploy; d != nil && d.Resources.Limits != nil && d.Resources.Limits.MemoryBytes > 0 {
		return int64(d.Resources.Limits.MemoryBytes)
	}
	return int64(s.MemLimit)
}

func theirCPUs(s types.ServiceConfig) float32 {
	if d := s.Deploy; d != nil && d.Resources.Limits != nil && d.Resources.Limits.NanoCPUs > 0 {
		return d.Resources.Limits.NanoCPUs.Value()
	}
	return s.CPUS
}

func theirProfiles(p *types.Project) []string {
	var all []string
	for _, group := range []types.Services{p.Services, p.DisabledServices} {
		for _, s := range group {
			all = append(all, s.Profiles...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// given is a secret or a config of a service: a target without a folder is in
// the usual one.
func given(fact func(key, format string, args ...any), key, folder string, g types.FileReferenceConfig) {
	target := g.Target
	if target == "" {
		target = g.Source
	}
	if !path.IsAbs(target) {
		target = folder + target
	}
	mode := uint32(0o444)
	if g.Mode != nil {
		mode = uint32(*g.Mode)
	}
	number := func(text string) string {
		if text == "" {
			return "0"
		}
		return text
	}
	fact(key, "%s %s %s:%s %o", g.Source, target, number(g.UID), number(g.GID), mode)
}
