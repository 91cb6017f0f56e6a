package gotest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/vztest"
)

func TestMain(m *testing.M) { vztest.Main(m) }

func TestPage(t *testing.T) {
	stack := vztest.Up(t, "vzcompose.yaml")
	answer, err := http.Get("http://" + stack.Port("web", 80) + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil || string(page) != "hello from a machine\n" {
		t.Errorf("got %q, %v", page, err)
	}
	if system := stack.Exec("web", "uname", "-s"); strings.TrimSpace(system) != "Linux" {
		t.Errorf("it runs on %q", system)
	}
}
