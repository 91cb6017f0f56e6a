package spec

import "strings"

// platform is linux/ARCH, or ARCH, as image indexes and people write them, in the
// words of the image-spec (GOOS and GOARCH).
func platform() kind[string] {
	return text(nil, func(text string) (string, error) {
		p, ok := normalPlatform(text)
		if !ok {
			return "", wrong{quote(text) + " is not a platform of machines", "write linux/amd64 or linux/arm64"}
		}
		return p, nil
	})
}

func normalPlatform(s string) (string, bool) {
	arch := strings.TrimPrefix(s, "linux/")
	switch arch {
	case "amd64", "x86_64", "x86-64", "amd64/v1":
		return "linux/amd64", true
	case "arm64", "aarch64", "arm64/v8":
		return "linux/arm64", true
	}
	return "", false
}

// platformOf: it is one that machines of this host run. There is no other use for
// the key yet: whatever is asked for is what machines are anyway.
func (c *checker) platformOf(e entry, host string) {
	asked := c.file.containers[e.key.text].platform
	if asked == "" || host == "" || asked == host || !c.active[e.key.text] {
		return
	}
	c.w.error(e.value.child("platform"), c.at(e.key.text).key("platform"), "leave it out to have the image of "+host,
		"machines of this host run %s, and not %s", host, asked)
}
