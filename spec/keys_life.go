package spec

import (
	"reflect"
	"time"
)

// What a health check does where it does not say: as Compose.
const (
	defaultCheckInterval = 30 * time.Second
	defaultCheckRetries  = 3
	minCheckInterval     = 10 * time.Millisecond
)

func watchKeys() []field[declared] {
	return []field[declared]{
		key("healthcheck", "Says whether the container is healthy: a process in it that ends with 0.", healthCheck(),
			func(c *declared) **HealthCheck { return &c.HealthCheck }),
		key("hooks", "Processes in the container at a turn of its life.", absentWhenEmpty(pointer(hooksKeys().kind())),
			func(c *declared) **Hooks { return &c.Hooks }),
		key("logging", "How much of what it says is kept.", absentWhenEmpty(pointer(loggingKeys().kind())),
			func(c *declared) **Logging { return &c.Logging }),
		key("boot_log", "File of the host that gets the machine's console. Its folder must exist.", hostPath(),
			func(c *declared) *string { return &c.BootLog }),
	}
}

// absentWhenEmpty has a mapping that says nothing mean the same as none.
func absentWhenEmpty[V any](k kind[*V]) kind[*V] {
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) (*V, bool) {
		v, ok := decode(w, n, at)
		if ok && reflect.ValueOf(v).Elem().IsZero() {
			return nil, true
		}
		return v, ok
	}
	k.null = false
	return k
}

// healthCheck is Compose's: test is a string for a shell, or a list that begins
// with CMD, CMD-SHELL or NONE.
func healthCheck() kind[*HealthCheck] {
	o := &object[checked]{
		fresh: checked{HealthCheck: HealthCheck{Interval: defaultCheckInterval, Timeout: defaultCheckInterval, Retries: defaultCheckRetries}},
		fields: []field[checked]{
			key("test", "What to run: a string for the shell, or [CMD, ...], [CMD-SHELL, ...] or [NONE].", checkTest(),
				func(h *checked) *[]string { return &h.Test }),
			key("interval", "Between two checks. Default: 30s.", duration(), func(h *checked) *time.Duration { return &h.Interval }),
			key("timeout", "How long a check may take. Default: 30s.", duration(), func(h *checked) *time.Duration { return &h.Timeout }),
			key("retries", "Failures in a row that make it unhealthy. Default: 3.", integer(1, 1000), func(h *checked) *int { return &h.Retries }),
			key("start_period", "How long failures do not count. Default: 0s.", unlessZero(duration()), func(h *checked) *time.Duration { return &h.StartPeriod }),
			key("start_interval", "Between two checks in the start period. Default: interval.", unlessZero(duration()),
				func(h *checked) *time.Duration { return &h.StartInterval }),
			key("disable", "true: there is none.", unlessZero(boolean()), func(h *checked) *bool { return &h.disable }),
		},
		finish: func(w *walker, n *node, at *trail, h *checked) bool {
			if h.disable || len(h.Test) == 1 && h.Test[0] == "NONE" {
				*h = checked{disable: true}
				return true
			}
			if len(h.Test) == 0 {
				if !n.said("test") {
					w.error(n, at, `write test: ["CMD", "..."]`, `"test" is missing`)
				}
				return false
			}
			ok := true
			for _, d := range []struct {
				key   string
				value time.Duration
			}{{"interval", h.Interval}, {"timeout", h.Timeout}} {
				if d.value < minCheckInterval {
					w.error(n.child(d.key), at.key(d.key), "", "%s is below %s", formatDuration(d.value), formatDuration(minCheckInterval))
					ok = false
				}
			}
			return ok
		},
	}
	k := o.kind()
	return kind[*HealthCheck]{
		schema: k.schema, merge: k.merge,
		decode: func(w *walker, n *node, at *trail) (*HealthCheck, bool) {
			h, ok := k.decode(w, n, at)
			if !ok || h.disable {
				return nil, ok
			}
			return &h.HealthCheck, true
		},
		encode: func(h *HealthCheck) any {
			if h == nil {
				return nil
			}
			return k.encode(checked{HealthCheck: *h})
		},
	}
}

// checked is a health check as it is written.
type checked struct {
	HealthCheck
	disable bool
}

// checkTest answers the list form.
func checkTest() kind[[]string] {
	words := list(verbatim())
	return kind[[]string]{
		schema: schemaDoc{"anyOf": []any{schemaDoc{"type": "string"}, words.schema}},
		encode: words.encode,
		decode: func(w *walker, n *node, at *trail) ([]string, bool) {
			if n.kind != listNode {
				if !w.visit(n) || !w.resolve(n, at) {
					return nil, false
				}
				if n.kind != scalarNode || n.scalar() != stringScalar || n.text == "" {
					w.error(n, at, "", "expected a string or a list, found %s", n.describe())
					return nil, false
				}
				return []string{"CMD-SHELL", n.text}, true
			}
			all, ok := words.decode(w, n, at)
			switch {
			case !ok:
				return nil, false
			case len(all) == 1 && all[0] == "NONE", len(all) >= 2 && all[0] == "CMD" && all[1] != "", len(all) == 2 && all[0] == "CMD-SHELL":
				return all, true
			}
			w.error(n, at, `write ["CMD", "program", "argument"] or ["CMD-SHELL", "script"]`, "the list begins with CMD, CMD-SHELL or NONE, and says what to run")
			return nil, false
		},
	}
}

func hooksKeys() *object[Hooks] {
	one := hookKeys().kind()
	return &object[Hooks]{fields: []field[Hooks]{
		key("post_start", "After the process was started; up waits for them.", list(one), func(h *Hooks) *[]Hook { return &h.PostStart }),
		key("pre_stop", "Before the stop signal.", list(one), func(h *Hooks) *[]Hook { return &h.PreStop }),
	}}
}

func hookKeys() *object[Hook] {
	return &object[Hook]{
		required: []string{"command"},
		finish: func(w *walker, n *node, at *trail, h *Hook) bool {
			if len(h.Command) == 0 {
				w.error(n, at, "", "the command is empty")
			}
			return len(h.Command) > 0
		},
		fields: []field[Hook]{
			key("command", "What to run.", command(), func(h *Hook) *[]string { return &h.Command }),
			key("user", "Default: the container's.", user(), func(h *Hook) *string { return &h.User }),
			key("working_dir", "Default: the container's.", guestPath("working_dir", true), func(h *Hook) *string { return &h.WorkingDir }),
			key("environment", "Beside the container's.", textMap(func(w *walker, name string) (string, bool) { return w.lookup(name) }),
				func(h *Hook) *map[string]string { return &h.Environment }),
		},
	}
}

func loggingKeys() *object[Logging] {
	return &object[Logging]{fields: []field[Logging]{
		key("max_size", "Of one file. Default: 64MiB.", unlessZero(size(64<<10, 1, "the least that a log file has")),
			func(l *Logging) *uint64 { return &l.MaxSize }),
		key("max_files", "How many are kept. Default: 5.", unlessZero(integer(1, 1000)), func(l *Logging) *int { return &l.MaxFiles }),
		instead[Logging]("driver", "what a container says is kept by vzcompose: write max_size and max_files"),
		instead[Logging]("options", "write max_size and max_files"),
	}}
}
