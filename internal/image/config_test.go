package image

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	for in, want := range map[string]string{
		`{"Cmd":"run me","Entrypoint":"/init","Shell":"sh"}`: `{"entrypoint":["/init"],"cmd":["run me"],"shell":["sh"]}`,
		`{"Cmd":["a","b"],"Entrypoint":null}`:                `{"cmd":["a","b"]}`,
		`{"Cmd":[],"Env":["A"]}`:                             `{"env":["A"]}`,
		`{"Healthcheck":{"Test":["CMD","x"],"Interval":5000000000,"StartInterval":1000000000,"Retries":2},"Volumes":{"/b":{},"/a":{}}}`: `{"volumes":["/a","/b"],` +
			`"health":{"test":["CMD","x"],"interval":5000000000,"start_interval":1000000000,"retries":2}}`,
		`{"Healthcheck":{}}`: `{"health":{}}`,
		`{"User":"u","WorkingDir":"/w","StopSignal":"HUP","ExposedPorts":{"80/tcp":{}},"Labels":{"l":"v"}}`: `{"user":"u","working_dir":"/w","stop_signal":"HUP","exposed_ports":["80/tcp"],"labels":{"l":"v"}}`,
		`{"Cmd":7}`:        "",
		`{"Cmd":{"a":1}}`:  "",
		`{"Cmd":["a",[]]}`: "",
	} {
		c, err := parseConfig([]byte(`{"os":"linux","rootfs":{},"config":`+in+`}`), 0)
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "config") {
				t.Errorf("%s: %v", in, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, _ := json.Marshal(configOf(c)); string(got) != want || c.OS != "linux" {
			t.Errorf("%s: %s", in, got)
		}
	}
}
