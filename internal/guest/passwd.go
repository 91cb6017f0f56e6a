//go:build linux

package guest

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// identity is who a process runs as.
type identity struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // supplementary
	Home   string   `json:"-"`                // from passwd; "" where it has no entry
}

// Bounds of what is read of a container's user database.
const (
	maxDatabase = 4 << 20 // bytes of /etc/passwd, /etc/group
	maxGroups   = 4096    // supplementary groups of a user
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

// database is what a container's /etc/passwd and /etc/group hold.
type database struct{ passwd, group []byte }

// readDatabase reads the files below the present root. An image may lack them.
func readDatabase() (database, error) {
	var d database
	var err1, err2 error
	d.passwd, err1 = readBounded("/etc/passwd", maxDatabase)
	d.group, err2 = readBounded("/etc/group", maxDatabase)
	for _, err := range []error{err1, err2} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return d, errs.New(errs.InvalidArgument, "read the container's users: %w", err)
		}
	}
	return d, nil
}

// readDatabaseIn reads the files of another root, whatever links it has.
func readDatabaseIn(root inRoot) (d database, err error) {
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{"/etc/passwd", &d.passwd}, {"/etc/group", &d.group}} {
		if *f.to, err = root.readFile(f.name, maxDatabase); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return d, errs.New(errs.InvalidArgument, "read the container's users: %w", err)
		}
	}
	return d, nil
}

// resolve finds who "name", "uid", "name:group" or "uid:gid" is. A name must be
// in the database, a number need not be: its group is 0 then. Supplementary
// groups are those that list the user, unless a group is named.
func (d database) resolve(user string) (identity, error) {
	who, group, grouped := strings.Cut(user, ":")
	id, name, err := d.user(who)
	if err != nil {
		return identity{}, err
	}
	if grouped {
		id.GID, err = d.groupID(group)
		return id, err
	}
	if name != "" {
		seen := map[uint32]bool{id.GID: true}
		parseGroup(d.group, func(g groupEntry) bool {
			if !seen[g.gid] && slices.Contains(strings.Split(g.members, ","), name) {
				seen[g.gid] = true
				id.Groups = append(id.Groups, g.gid)
			}
			return len(id.Groups) < maxGroups
		})
	}
	return id, nil
}

// user finds who, and the name it has in the database.
func (d database) user(who string) (id identity, name string, err error) {
	if who == "" {
		who = "0"
	}
	uid, notNumber := parseID(who)
	found := false
	parsePasswd(d.passwd, func(e passwdEntry) bool {
		if e.name == who || notNumber == nil && e.uid == uid {
			id, name, found = identity{UID: e.uid, GID: e.gid, Home: e.home}, e.name, true
			return e.name != who // an entry with just this name goes before one with this number
		}
		return true
	})
	switch {
	case found:
		return id, name, nil
	case notNumber == nil:
		return identity{UID: uid}, "", nil
	}
	return identity{}, "", errs.New(errs.InvalidArgument, "no user %q in the container's /etc/passwd", cutName(who))
}

func (d database) groupID(group string) (uint32, error) {
	gid, notNumber := parseID(group)
	found := false
	parseGroup(d.group, func(g groupEntry) bool {
		if g.name == group {
			gid, found = g.gid, true
		}
		return !found
	})
	if !found && notNumber != nil {
		return 0, errs.New(errs.InvalidArgument, "no group %q in the container's /etc/group", cutName(group))
	}
	return gid, nil
}

// home answers uid's home directory, or "".
func (d database) home(uid uint32) (home string) {
	parsePasswd(d.passwd, func(e passwdEntry) bool {
		if e.uid == uid {
			home = e.home
		}
		return e.uid != uid
	})
	return home
}

func cutName(s string) string { return s[:min(len(s), 128)] }
