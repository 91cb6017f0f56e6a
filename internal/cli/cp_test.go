package cli

import "testing"

func TestParseFar(t *testing.T) {
	for arg, want := range map[string]far{
		"web:/etc": {"web", "/etc"}, "web-1:x": {"web-1", "x"}, "web:": {"web", ""}, "./web:/x": {"", "./web:/x"},
		"/a:b": {"", "/a:b"}, "-": {"", "-"}, "plain": {"", "plain"}, "a/b:c": {"", "a/b:c"}, "~/x:y": {"", "~/x:y"}, ":x": {"", ":x"},
	} {
		if got := parseFar(arg); got != want {
			t.Errorf("%s: %+v", arg, got)
		}
	}
}

func TestAim(t *testing.T) {
	for _, c := range []struct {
		name            string
		isDir, contents bool
		to              string
		there, dir      bool
		want            place
		fails           bool
	}{
		{"file to nothing", false, false, "/d/new", false, false, place{"/d", "new"}, false},
		{"file to a missing directory", false, false, "/d/new/", false, false, place{}, true},
		{"file over a file", false, false, "/d/old", true, false, place{"/d", "old"}, false},
		{"file into a directory", false, false, "/d", true, true, place{"/d", "src"}, false},
		{"directory to nothing", true, false, "/d/new", false, false, place{"/d", "new"}, false},
		{"directory to nothing, with a slash", true, false, "/d/new/", false, false, place{"/d", "new"}, false},
		{"directory over a file", true, false, "/d/old", true, false, place{}, true},
		{"directory into one", true, false, "/d", true, true, place{"/d", "src"}, false},
		{"contents into one", true, true, "/d/", true, true, place{"/d", "."}, false},
		{"contents to nothing", true, true, "/d/new", false, false, place{"/d", "new"}, false},
	} {
		got, err := aim("src", c.isDir, c.contents, c.to, c.to[len(c.to)-1] == '/', c.there, c.dir)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %+v %v", c.name, got, err)
		}
	}
}
