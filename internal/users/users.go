// Package users finds who a container's user is in its /etc/passwd and /etc/group.
package users

import (
	"bufio"
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Identity is who a process runs as.
type Identity struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // supplementary
	Home   string   `json:"-"`                // from passwd; "" where it has no entry
}

// Bounds of what is read of a container's user database.
const (
	MaxFile   = 4 << 20 // bytes of /etc/passwd, /etc/group
	MaxGroups = 4096    // supplementary groups of a user
)

type passwdEntry struct {
	name string
	uid  uint32
	gid  uint32
	home string
}

type groupEntry struct {
	name    string
	gid     uint32
	members string // comma-separated
}

// parsePasswd calls visit for each well-formed line of passwd(5) until it
// answers false. Other lines are skipped, as the C library does.
func parsePasswd(b []byte, visit func(passwdEntry) bool) {
	lines(b, func(line string) bool {
		f := strings.SplitN(line, ":", 7)
		if len(f) < 6 || f[0] == "" {
			return true
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if err1 != nil || err2 != nil {
			return true
		}
		return visit(passwdEntry{name: f[0], uid: uid, gid: gid, home: f[5]})
	})
}

// parseGroup is parsePasswd for group(5).
func parseGroup(b []byte, visit func(groupEntry) bool) {
	lines(b, func(line string) bool {
		f := strings.SplitN(line, ":", 4)
		if len(f) < 3 || f[0] == "" {
			return true
		}
		gid, err := parseID(f[2])
		if err != nil {
			return true
		}
		g := groupEntry{name: f[0], gid: gid}
		if len(f) == 4 {
			g.members = f[3]
		}
		return visit(g)
	})
}

func lines(b []byte, visit func(string) bool) {
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, 64<<10) // a longer line ends the scan
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if !visit(line) {
			return
		}
	}
}

// parseID reads a uid or gid. The highest number means "no change" to the
// kernel and is nobody's.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, errs.New(errs.InvalidArgument, "%.64q is not a user or group number", s)
	}
	return uint32(n), nil
}

// Database is what a container's /etc/passwd and /etc/group hold.
type Database struct{ Passwd, Group []byte }

// Resolve finds who "name", "uid", "name:group" or "uid:gid" is. A name must be
// in the database, a number need not be: its group is 0 then. Supplementary
// groups are those that list the user, unless a group is named.
func (d Database) Resolve(user string) (Identity, error) {
	who, group, grouped := strings.Cut(user, ":")
	id, name, err := d.user(who)
	if err != nil {
		return Identity{}, err
	}
	if grouped {
		id.GID, err = d.GroupID(group)
		return id, err
	}
	if name != "" {
		seen := map[uint32]bool{id.GID: true}
		parseGroup(d.Group, func(g groupEntry) bool {
			if !seen[g.gid] && slices.Contains(strings.Split(g.members, ","), name) {
				seen[g.gid] = true
				id.Groups = append(id.Groups, g.gid)
			}
			return len(id.Groups) < MaxGroups
		})
	}
	return id, nil
}

// user finds who, and the name it has in the database.
func (d Database) user(who string) (id Identity, name string, err error) {
	if who == "" {
		who = "0"
	}
	uid, notNumber := parseID(who)
	found := false
	parsePasswd(d.Passwd, func(e passwdEntry) bool {
		if e.name == who || notNumber == nil && e.uid == uid {
			id, name, found = Identity{UID: e.uid, GID: e.gid, Home: e.home}, e.name, true
			return e.name != who // an entry with just this name goes before one with this number
		}
		return true
	})
	switch {
	case found:
		return id, name, nil
	case notNumber == nil:
		return Identity{UID: uid}, "", nil
	}
	return Identity{}, "", errs.New(errs.InvalidArgument, "no user %q in the container's /etc/passwd", cut(who))
}

// GroupID finds a group by its name or number.
func (d Database) GroupID(group string) (uint32, error) {
	gid, notNumber := parseID(group)
	found := false
	parseGroup(d.Group, func(g groupEntry) bool {
		if g.name == group {
			gid, found = g.gid, true
		}
		return !found
	})
	if !found && notNumber != nil {
		return 0, errs.New(errs.InvalidArgument, "no group %q in the container's /etc/group", cut(group))
	}
	return gid, nil
}

// Home returns the home directory of uid, or "".
func (d Database) Home(uid uint32) (home string) {
	parsePasswd(d.Passwd, func(e passwdEntry) bool {
		if e.uid == uid {
			home = e.home
		}
		return e.uid != uid
	})
	return home
}

func cut(s string) string { return s[:min(len(s), 128)] }
