package cli

import (
	"strings"
	"testing"
)

func TestFlagsMayStandBehindArguments(t *testing.T) {
	app := (&app{}).command()
	for in, want := range map[string]string{
		"logs web -f --tail 2":              "logs -f --tail 2 web",
		"-f a.yaml logs web db --tail=2 -t": "-f a.yaml logs --tail=2 -t web db",
		"exec -e A=1 web ls -l --all":       "exec -e A=1 web ls -l --all",
		"exec web -- ls -f":                 "exec web -- ls -f",
		"down web -vt 3":                    "down -vt 3 web",
		"image import a.tar name --cmd sh":  "image import --cmd sh a.tar name",
		"down -t":                           "down -t",
		"no-such thing -x":                  "no-such thing -x",
		"ps -- -q":                          "ps -- -q",
		"logs -":                            "logs -",
	} {
		got := strings.Join(permute(app, append([]string{"vzcompose"}, strings.Fields(in)...)), " ")
		if got != "vzcompose "+want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
