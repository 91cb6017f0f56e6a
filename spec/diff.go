package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Change is one field that differs between two containers, in words for people:
// memory 512MiB → 1GiB.
type Change struct {
	// Field is a path in the language: "memory", "environment.MODE",
	// "depends_on.db.condition", "mounts[/data].options".
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

func (c Change) String() string { return c.Field + " " + c.Old + " → " + c.New }

// absent stands for what is not there.
const absent = "none"

// Diff answers what differs between two containers, field by field, in the order
// of the language. It is empty just when they mean the same.
func Diff(old, new Container) []Change {
	return containerKeys().diff("", declared{Container: old}, declared{Container: new})
}

// diffMaps compares key by key; at names the field of a key.
func diffMaps[V any](k kind[V], at func(name string) string, old, new map[string]V) []Change {
	names := map[string]bool{}
	for name := range old {
		names[name] = true
	}
	for name := range new {
		names[name] = true
	}
	var all []Change
	for _, name := range sortedKeys(names) {
		before, had := old[name]
		after, has := new[name]
		switch {
		case had && has:
			all = append(all, k.changes(at(name), before, after)...)
		case had:
			all = append(all, Change{at(name), words(k.encode(before)), absent})
		default:
			all = append(all, Change{at(name), absent, words(k.encode(after))})
		}
	}
	return all
}

// diffMounts compares by destination, and where nothing else differs, the order,
// in which they are made.
func diffMounts(k kind[Mount], field string, old, new []Mount) []Change {
	before, oldOrder := byDestination(old)
	after, newOrder := byDestination(new)
	all := diffMaps(k, func(name string) string { return field + "[" + name + "]" }, before, after)
	if len(all) == 0 && !slices.Equal(oldOrder, newOrder) {
		return []Change{{field, strings.Join(oldOrder, ", "), strings.Join(newOrder, ", ")}}
	}
	return all
}

func byDestination(mounts []Mount) (map[string]Mount, []string) {
	all := make(map[string]Mount, len(mounts))
	order := make([]string, len(mounts))
	for i, m := range mounts {
		all[m.Destination], order[i] = m, m.Destination
	}
	return all, order
}

// words says a value, as encode answers it, in words.
func words(value any) string {
	switch v := value.(type) {
	case nil:
		return absent
	case string:
		return plain(v)
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = fmt.Sprint(item)
			if strings.ContainsFunc(items[i], unprintable) {
				items[i] = strconv.Quote(items[i])
			}
		}
		if len(items) == 0 {
			return "[]"
		}
		return join(items)
	case document:
		parts := make([]string, len(v))
		for i, p := range v {
			parts[i] = p.key + " " + words(p.value)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return fmt.Sprint(value)
}

// plain answers a text as it is where that cannot be mistaken.
func plain(s string) string {
	odd := func(r rune) bool { return r == ' ' || unprintable(r) || r == '"' || r == '→' }
	if s == "" || s == absent || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
