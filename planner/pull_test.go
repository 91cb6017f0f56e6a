package planner

import (
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/spec"
)

func TestPullAll(t *testing.T) {
	s := edited(shop(), "db", func(c *spec.Container) { c.Pull = "never" })
	for _, c := range []struct {
		only []string
		want string
	}{
		{nil, "#1 pull image/app (migrate, web is made from it)\n"},
		{[]string{"web"}, "#1 pull image/app (web is made from it)\n"},
		{[]string{"db"}, ""},
	} {
		p, err := PullAll(s, c.only, "")
		if err != nil || p.String() != c.want {
			t.Errorf("%v: %v\n%swant\n%s", c.only, err, p, c.want)
		}
	}
	if _, err := PullAll(s, []string{"wbe"}, ""); err == nil || !strings.Contains(err.Error(), `no container "wbe"`) {
		t.Errorf("of one that is not there: %v", err)
	}
}
