package spec

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file is the language: every key, what it holds and what it means. Loading,
// suggestions, merging, printing, comparing and the JSON schema follow from it.

// What holds where a container does not say.
const (
	DefaultCPUs       = 4
	DefaultMemory     = 1 << 30 // bytes
	DefaultGrace      = 10 * time.Second
	DefaultVolumeSize = 8 << 30 // bytes
	minMemory         = 32 << 20
	minVolume         = 16 << 20
	maxReplicas       = 100
	maxCPUs           = 1024
)

// file is what one stack file says, or several together.
type file struct {
	name       string
	defaults   declared
	containers map[string]declared
	volumes    map[string]Volume
	secrets    map[string]Origin
	configs    map[string]Origin
	networks   map[string]Network
}

// declared is a container as it is written.
type declared struct {
	Container
	envFiles []envFile
	networks []Interface // Compose's shorthand for the interfaces
	links    []link
	platform string
	profiles []string // of a container that is in the stack only where one of them is asked for
}

func stackKeys() *object[file] {
	container := containerKeys().kind()
	container.schema = schemaDoc{"$ref": "#/$defs/container"}
	defaults := container
	defaults.schema = with(container.schema, nil)
	defaults.decode = func(w *walker, n *node, at *trail) (declared, bool) {
		defer func(parts bool) { w.parts = parts }(w.parts)
		w.parts = true // of the containers that it is merged under
		return container.decode(w, n, at)
	}
	return &object[file]{
		extensions: true,
		fields: []field[file]{
			key("name", "Name of the stack. Default: the name of its folder.", stackName(),
				func(f *file) *string { return &f.name }),
			key("defaults", "Merged under every container.", defaults,
				func(f *file) *declared { return &f.defaults }),
			key("containers", "The containers of the stack, by name.", named("container", container),
				func(f *file) *map[string]declared { return &f.containers }),
			key("volumes", "The volumes of the stack, by name. A volume is a disk of its own.", volumes(),
				func(f *file) *map[string]Volume { return &f.volumes }),
			key("networks", "The networks of the stack, by name.", named("network", networkKeys().kind()),
				func(f *file) *map[string]Network { return &f.networks }),
			key("secrets", "The secrets of the stack, by name. Their text is read at each start, and never stored.",
				named("secret", originKeys(false).kind()), func(f *file) *map[string]Origin { return &f.secrets }),
			key("configs", "The configs of the stack, by name.", named("config", originKeys(true).kind()),
				func(f *file) *map[string]Origin { return &f.configs }),
			included(),
			instead[file]("services", `Compose's "services" are "containers" here`),
			instead[file]("version", "leave it out"),
		},
	}
}

func stackName() kind[string] {
	return word(schemaDoc{"pattern": stackPattern + `|\$`}, func(text string) (string, error) {
		if stackText.MatchString(text) {
			return text, nil
		}
		return "", wrong{quote(text) + " is not a name for a stack",
			"names have lower-case letters, digits, _ and -, begin with a letter or digit, and are at most 63 long"}
	})
}

func containerKeys() *object[declared] {
	o := &object[declared]{
		extensions:   true,
		alternatives: []string{"image", "rootfs"},
		extra:        schemaDoc{"not": schemaDoc{"required": []any{"image", "rootfs"}}},
		fresh: declared{Container: Container{
			CPUs: DefaultCPUs, Memory: DefaultMemory, StopGracePeriod: DefaultGrace,
			Restart: Restart{Policy: "no"}, Replicas: 1,
		}},
	}
	o.fields = append(o.fields, rootKeys()...)
	o.fields = append(o.fields, processKeys()...)
	o.fields = append(o.fields, limitKeys()...)
	o.fields = append(o.fields, givenKeys()...)
	o.fields = append(o.fields, lifeKeys()...)
	o.fields = append(o.fields, watchKeys()...)
	o.fields = append(o.fields, reachKeys()...)
	o.fields = append(o.fields, composeKeys()...)
	return o
}

func rootKeys() []field[declared] {
	return []field[declared]{
		key("image", "Image whose files the container sees.", image(),
			func(c *declared) *string { return &c.Image }),
		key("rootfs", "Root filesystem in place of an image.", rootFS(),
			func(c *declared) **RootFS { return &c.RootFS }),
		key("pull", "When to pull the image. Default: missing.",
			enum[string](choice{name: "missing"}, choice{name: "always"}, choice{name: "never"}),
			func(c *declared) *string { return &c.Pull }),
		key("platform", "What its machine is; the host must have such machines. Default: what they are.", platform(),
			func(c *declared) *string { return &c.platform }),
		key("cpus", "What the container may use. Default: 4.", number(0.01, maxCPUs),
			func(c *declared) *float64 { return &c.CPUs }),
		key("memory", "What the container may use. Default: 1GiB. The machine has more.",
			size(minMemory, 1, "the least that a container starts in"), func(c *declared) *uint64 { return &c.Memory }),
		key("hostname", "Default: the name of the instance.", hostname(),
			func(c *declared) *string { return &c.Hostname }),
		key("mounts", "Volumes and other filesystems.", mounts(),
			func(c *declared) *[]Mount { return &c.Mounts }),
	}
}

func processKeys() []field[declared] {
	environment := textMap(callerValue)
	return []field[declared]{
		key("command", "Replaces the command of the image.", command(),
			func(c *declared) *[]string { return &c.Command }),
		key("entrypoint", "Replaces the entrypoint of the image.", command(),
			func(c *declared) *[]string { return &c.Entrypoint }),
		key("environment", "A name without a value takes the one of the caller.", environment,
			func(c *declared) *map[string]string { return &c.Environment }),
		key("env_file", "Files with lines NAME=value; environment goes before them.", envFiles(),
			func(c *declared) *[]envFile { return &c.envFiles }),
		key("working_dir", "Where the process starts.", guestPath("working_dir", true),
			func(c *declared) *string { return &c.WorkingDir }),
		key("user", "uid, uid:gid, or names of the image.", user(),
			func(c *declared) *string { return &c.User }),
		key("tty", "The process has a terminal. Default: false.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.TTY }),
		key("stdin_open", "The process reads what is attached to it. Default: false.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.StdinOpen }),
		key("privileged", "Every capability, no path masked or read-only. Default: false.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.Privileged }),
		key("cap_add", "Capabilities beside the usual ones; ALL is all.", capabilities(),
			func(c *declared) *[]string { return &c.CapAdd }),
		key("cap_drop", "Capabilities to do without; ALL is all but those of cap_add.", capabilities(),
			func(c *declared) *[]string { return &c.CapDrop }),
		key("no_new_privileges", "Nothing that it executes gives more rights. Default: false.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.NoNewPrivileges }),
		key("seccomp", "Which system calls it may make: a profile of the form that Docker and Podman use, unconfined, or default.", seccompProfile(),
			func(c *declared) *Seccomp { return &c.Seccomp }),
		key("oom_score_adj", "How soon the kernel kills it for memory: -1000 to 1000.", unlessZero(integer(-1000, 1000)),
			func(c *declared) *int { return &c.OOMScoreAdj }),
		key("read_only", "The root filesystem cannot be written to. Default: false.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.ReadOnly }),
		key("sysctls", "Settings of the machine's kernel, by name.", textMap(func(*walker, *node) (string, bool) { return "", false }),
			func(c *declared) *map[string]string { return &c.Sysctls }),
		key("stop_signal", "Asks the process to end. Default: what the image says, or SIGTERM.", signal(),
			func(c *declared) *string { return &c.StopSignal }),
		key("stop_grace_period", "How long after that it is killed. Default: 10s.", duration(),
			func(c *declared) *time.Duration { return &c.StopGracePeriod }),
	}
}

func lifeKeys() []field[declared] {
	labels := textMap(func(*walker, *node) (string, bool) { return "", true })
	return []field[declared]{
		key("depends_on", "What must have come up before.", dependencies(),
			func(c *declared) *map[string]Dependency { return &c.DependsOn }),
		key("restart", "What to do when the process ends. Default: no.", restart(),
			func(c *declared) *Restart { return &c.Restart }),
		key("replicas", "How many instances. Default: 1.", integer(0, maxReplicas),
			func(c *declared) *int { return &c.Replicas }),
		key("container_name", "Name of its one instance. Default: its own name and a number.", instanceName(),
			func(c *declared) *string { return &c.ContainerName }),
		key("profiles", "The container is in the stack where one of them is asked for (--profile), or it is named.", profiles(),
			func(c *declared) *[]string { return &c.profiles }),
		key("labels", "For people and tools.", labels,
			func(c *declared) *map[string]string { return &c.Labels }),
	}
}

// composeKeys are words of Compose that fingers know, and what to write.
func composeKeys() []field[declared] {
	all := []field[declared]{instead[declared]("build", "images are built elsewhere; name one with image")}
	for _, k := range [][2]string{
		{"volumes", "mounts"}, {"mem_limit", "memory"}, {"pull_policy", "pull"}, {"scale", "replicas"},
		{"extra_hosts", "hosts"}, {"privilege", "privileged"},
	} {
		all = append(all, instead[declared](k[0], fmt.Sprintf("Compose's %q is %q here", k[0], k[1])))
	}
	return append(all,
		instead[declared]("tmpfs", "write mounts: [{type: tmpfs, destination: /tmp}]"),
		instead[declared]("deploy", "write cpus, memory, replicas and restart in the container"),
		instead[declared]("network_mode", "every container has a machine of its own"),
		instead[declared]("security_opt", "write seccomp: PROFILE, or no_new_privileges: true"),
		instead[declared]("extends", "use YAML anchors, or defaults"),
	)
}

func dependencyKeys() *object[Dependency] {
	condition := enum[Condition](
		choice{name: "started"}, choice{name: "completed"}, choice{name: "healthy"},
		choice{name: "service_started", means: "started"},
		choice{name: "service_completed_successfully", means: "completed"},
		choice{name: "service_healthy", means: "healthy"},
	)
	return &object[Dependency]{
		fresh: Dependency{Condition: ConditionStarted, Required: true},
		fields: []field[Dependency]{
			key("condition", "What to wait for. Default: started.", condition,
				func(d *Dependency) *Condition { return &d.Condition }),
			key("required", "false: go on without it. Default: true.", boolean(),
				func(d *Dependency) *bool { return &d.Required }),
			key("restart", "Restart this container when the other is replaced.", boolean(),
				func(d *Dependency) *bool { return &d.Restart }),
		},
	}
}

func mountKeys() *object[Mount] {
	return &object[Mount]{
		required: []string{"type", "destination"},
		finish:   finishMount,
		fields: []field[Mount]{
			key("type", "bind, volume, tmpfs, block, or a filesystem of the guest's kernel.", mountType(),
				func(m *Mount) *string { return &m.Type }),
			key("source", "Of a volume: its name; without one each instance has its own. Of a bind or a block: a path of the host.", text(nil, anyText),
				func(m *Mount) *string { return &m.Source }),
			key("destination", "Where the container sees it.", guestPath("destination", false),
				func(m *Mount) *string { return &m.Destination }),
			key("options", "As of mount(8): ro, size=64m, mode=1777.", list(verbatim()),
				func(m *Mount) *[]string { return &m.Options }),
			key("create_host_path", "Of a bind. true: its source is made as a folder where it is missing; false: it must be there. Default: true.",
				pointer(boolean()), func(m *Mount) **bool { return &m.CreateHostPath }),
			instead[Mount]("target", `Compose's "target" is "destination" here`),
			instead[Mount]("read_only", "write options: [ro]"),
			instead[Mount]("tmpfs", "write options: [size=64m, mode=1777]"),
		},
	}
}

func envFileKeys() *object[envFile] {
	return &object[envFile]{
		required: []string{"path"},
		fresh:    envFile{required: true},
		fields: []field[envFile]{
			key("path", "Of the file.", hostPath(), func(f *envFile) *string { return &f.path }),
			key("required", "false: it may be missing.", boolean(), func(f *envFile) *bool { return &f.required }),
			key("format", "raw: values are taken as they are, with their quotes and dollar signs.", envFormat(), func(f *envFile) *bool { return &f.raw }),
		},
	}
}

func rootFS() kind[*RootFS] {
	o := &object[RootFS]{
		alternatives: []string{"tar", "directory", "block"},
		extra:        schemaDoc{"minProperties": 1, "maxProperties": 1},
		fields: []field[RootFS]{
			key("tar", "A tar, which may be compressed.", hostPath(), func(r *RootFS) *string { return &r.Tar }),
			key("directory", "A folder.", hostPath(), func(r *RootFS) *string { return &r.Directory }),
			key("block", "A raw ext4 or erofs image.", hostPath(), func(r *RootFS) *string { return &r.Block }),
		},
		finish: func(w *walker, n *node, at *trail, r *RootFS) bool {
			said := 0
			for _, name := range []string{"tar", "directory", "block"} {
				if n.said(name) {
					said++
				}
			}
			if said != 1 {
				w.error(n, at, "", "give one of tar, directory and block")
			}
			return said == 1
		},
	}
	k := pointer(o.kind())
	k.null = false
	return k
}

// imageText is a reference after the grammar of the distribution project
// (github.com/distribution/reference).
var imageText = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*` +
	`(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(?:@sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128}))?$`)

func image() kind[string] {
	return word(nil, func(text string) (string, error) {
		switch {
		case text == "":
			return "", errors.New("the image has no name")
		case len(text) <= 1024 && imageText.MatchString(text):
			return text, nil
		case len(text) <= 1024 && imageText.MatchString(strings.ToLower(text)):
			return "", wrong{quote(text) + " is not an image", "names of images are in lower case"}
		}
		return "", wrong{quote(text) + " is not an image", "write name, name:tag or name@sha256:..."}
	})
}

var userText = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(?::[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?$`)

func user() kind[string] {
	return text(nil, func(text string) (string, error) {
		if !userText.MatchString(text) || len(text) > 128 {
			return "", wrong{quote(text) + " is not a user", "write uid, uid:gid, name or name:group"}
		}
		for _, part := range strings.Split(text, ":") {
			if n, err := strconv.ParseUint(part, 10, 64); err == nil && n >= 1<<32-1 || errors.Is(err, strconv.ErrRange) {
				return "", fmt.Errorf("%s is above %d", part, uint32(1<<32-2))
			}
		}
		return text, nil
	})
}

// hostText is RFC 1123, section 2.1, and _, which Docker takes too: it is in many
// names of services. The kernel takes 64 bytes (HOST_NAME_MAX).
var hostText = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*$`)

func hostname() kind[string] {
	return text(nil, func(text string) (string, error) {
		if len(text) > 64 || !hostText.MatchString(text) {
			return "", wrong{quote(text) + " is not a host name", "it has letters, digits, _, - and dots, and at most 64 of them"}
		}
		return text, nil
	})
}

// capabilityNames are those of capabilities(7), without "CAP_".
const capabilityNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT " +
	"SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE " +
	"MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// capabilities reads a list of names, with or without CAP_, in any case.
func capabilities() kind[[]string] {
	all := append(strings.Fields(capabilityNames), "ALL")
	one := text(nil, func(text string) (string, error) {
		name := strings.TrimPrefix(strings.ToUpper(text), "CAP_")
		switch {
		case name == "ALL":
			return name, nil
		case slices.Contains(all, name):
			return "CAP_" + name, nil
		}
		return "", wrong{quote(text) + " is not a capability", suggest(name, all)}
	})
	k := list(one)
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]string, bool) {
		names, ok := decode(w, n, at)
		slices.Sort(names)
		return slices.Compact(names), ok
	}
	return k
}

// signals are those of signal(7) that make sense to send.
var signals = []string{
	"SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV",
	"SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN",
	"SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
}

var realtimeText = regexp.MustCompile(`^SIGRT(?:MIN(?:\+[0-9]{1,2})?|MAX(?:-[0-9]{1,2})?)$`)

// signal is a name with or without "SIG", or a number; stored as "SIGTERM", or
// as the number where it has no name here.
func signal() kind[string] {
	return text(nil, func(text string) (string, error) {
		if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= 64 {
			if n <= len(signals) {
				return signals[n-1], nil // the list is in the order of the numbers
			}
			return strconv.Itoa(n), nil
		}
		name := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
		for _, known := range signals {
			if name == known {
				return name, nil
			}
		}
		if realtimeText.MatchString(name) {
			return name, nil
		}
		hint := ""
		if !intText.MatchString(text) {
			hint = suggest(name, signals)
		}
		return "", wrong{quote(text) + " is not a signal", hint}
	})
}
