package spec

import (
	"fmt"
	"testing"
)

func TestPublishOffset(t *testing.T) {
	const file = `
name: s
containers:
  web:
    image: a
    ports: ["8080:80", "*:9000-9010:9", "53", {target: 1, published: 65000}]
`
	load := func(offset int) (*Loaded, error) {
		return Load(Options{Files: []string{"-"}, Stdin: []byte(file), PublishOffset: offset})
	}
	l, err := load(500)
	if err != nil {
		t.Fatal(err)
	}
	want := "[127.0.0.1:8580:80/tcp *:9500-9510:9/tcp 127.0.0.1::53/tcp 127.0.0.1:65500:1/tcp]"
	if got := fmt.Sprint(l.Stack.Containers["web"].Ports); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := fmt.Sprint(l.Ports["web"][3]); got != "<stdin>:6:70: containers.web.ports[3]" {
		t.Errorf("the place of a port: %s", got)
	}
	_, err = load(1000)
	if want := `<stdin>:6:70: containers.web.ports[3]: port 65000 moved by 1000 is not between 1 and 65535`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
