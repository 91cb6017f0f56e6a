package spec

import (
	"reflect"
	"time"
)

// What a health check does where neither it nor the image says: as Compose.
const (
	DefaultCheckInterval = 30 * time.Second // and timeout
	DefaultCheckRetries  = 3
	MaxCheckRetries      = 1000
	MinCheckInterval     = 10 * time.Millisecond // and timeout
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
		fields: []field[checked]{
			key("test", "What to run: a string for the shell, or [CMD, ...], [CMD-SHELL, ...] or [NONE].", checkTest(),
				func(h *checked) *[]string { return &h.Test }),
			key("interval", "Between two checks. Default: 30s.", checkTime(), func(h *checked) *time.Duration { return &h.Interval }),
			key("timeout", "How long a check may take. Default: 30s.", checkTime(), func(h *checked) *time.Duration { return &h.Timeout }),
			key("retries", "Failures in a row that make it unhealthy. Default: 3.", orDefault(integer(1, MaxCheckRetries), DefaultCheckRetries), func(h *checked) *int { return &h.Retries }),
			key("start_period", "How long failures do not count. Default: 0s.", unlessZero(duration()), func(h *checked) *time.Duration { return &h.StartPeriod }),
			key("start_interval", "Between two checks in the start period. Default: interval.", unlessZero(duration()),
				func(h *checked) *time.Duration { return &h.StartInterval }),
			key("disable", "true: there is none.", unlessZero(boolean()), func(h *checked) *bool { return &h.disable }),
		},
		finish: func(w *walker, n *node, at *trail, h *checked) bool {
			if h.disable || h.None() {
				*h = checked{HealthCheck: HealthCheck{Test: []string{noCheck}}}
				return true
			}
			return len(h.Test) > 0 || !n.said("test") // the image may have one
		},
	}
	k := o.kind()
	return kind[*HealthCheck]{
		schema: k.schema, merge: k.merge,
		decode: func(w *walker, n *node, at *trail) (*HealthCheck, bool) {
			h, ok := k.decode(w, n, at)
			if !ok {
				return nil, false
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

// checkTime is a duration that a machine can keep to.
func checkTime() kind[time.Duration] {
	k := duration()
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) (time.Duration, bool) {
		d, ok := decode(w, n, at)
		if ok && d < MinCheckInterval {
			w.error(n, at, "", "%s is below %s", formatDuration(d), formatDuration(MinCheckInterval))
		}
		return d, ok && d >= MinCheckInterval
	}
	return orDefault(k, DefaultCheckInterval)
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
			case len(all) == 1 && all[0] == noCheck, len(all) >= 2 && all[0] == "CMD" && all[1] != "", len(all) == 2 && all[0] == "CMD-SHELL":
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
			key("environment", "Beside the container's.", textMap(callerValue),
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
