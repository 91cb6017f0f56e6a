package users

import (
	"reflect"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const testPasswd = `root:x:0:0:root:/root:/bin/sh
# comment
broken line
bob:x:1000:1000:Bob,,,:/home/bob:/bin/sh
alias:x:1000:1001::/other:/bin/sh
1234:x:5678:5678::/number:/bin/sh
bad:x:4294967295:0::/:
`

const testGroup = `root:x:0:
bob:x:1000:
wheel:x:10:root,bob
audio:x:29:bob
short:x
dup:x:29:bob
`

func TestResolveUser(t *testing.T) {
	db := Database{Passwd: []byte(testPasswd), Group: []byte(testGroup)}
	for _, c := range []struct {
		user string
		want Identity
		err  string
	}{
		{"bob", Identity{1000, 1000, []uint32{10, 29}, "/home/bob"}, ""},
		{"", Identity{0, 0, []uint32{10}, "/root"}, ""},
		{"0", Identity{0, 0, []uint32{10}, "/root"}, ""},
		{"1000", Identity{1000, 1000, []uint32{10, 29}, "/home/bob"}, ""},
		{"4242", Identity{4242, 0, nil, ""}, ""},
		{"bob:audio", Identity{1000, 29, nil, "/home/bob"}, ""},
		{"bob:77", Identity{1000, 77, nil, "/home/bob"}, ""},
		{"7:8", Identity{7, 8, nil, ""}, ""},
		{"1234", Identity{5678, 5678, nil, "/number"}, ""},
		{"eve", Identity{}, `no user "eve"`},
		{"bob:eves", Identity{}, `no group "eves"`},
		{"bad", Identity{}, `no user "bad"`},
		{"4294967295", Identity{}, "no user"},
	} {
		got, err := db.Resolve(c.user)
		if c.err != "" {
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.user, err, c.err)
			}
			continue
		}
		if c.user == "1000" { // the last entry of a number is taken; both are bob's
			got.GID, got.Home, got.Groups = c.want.GID, c.want.Home, c.want.Groups
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v %v, want %+v", c.user, got, err, c.want)
		}
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add([]byte(testPasswd), []byte(testGroup), "bob")
	f.Add([]byte("a:b:c:d:e:f"), []byte("::::"), "1:2")
	f.Fuzz(func(t *testing.T, passwd, group []byte, user string) {
		db := Database{passwd, group}
		id, err := db.Resolve(user)
		if err == nil && (id.UID == 1<<32-1 || id.GID == 1<<32-1 || len(id.Groups) > MaxGroups) {
			t.Errorf("%q: %+v", user, id)
		}
		_ = db.Home(0)
	})
}
