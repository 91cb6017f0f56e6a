// Package settings is what a user has set for all stacks: config.yaml in the home
// folder (docs/configuration.md). A file that is not there sets nothing.
package settings

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"gopkg.in/yaml.v3"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/regular"
	"github.com/vzcompose/vzcompose/spec"
)

// Settings with nothing set are those of Default.
type Settings struct {
	Templates Templates
	Pool      Pool
	// PublishAddress is where ports of files in Compose's dialect are opened that
	// give no address.
	PublishAddress string
}

// Templates of machines.
type Templates struct {
	Use   bool   // false: every machine boots
	Limit uint64 // of disk that they take together, in bytes
}

// Pool of machines that wait.
type Pool struct {
	Machines int    // of each make that a stack needs; 0: there is none
	Memory   uint64 // of all together, in bytes
	Prepared bool   // they hold the containers of the stack, where that can be
}

// MaxMachines bounds Pool.Machines.
const MaxMachines = 64

// Default is what holds where nothing is set.
func Default() Settings {
	return Settings{Templates{Use: true, Limit: 2 << 30}, Pool{Memory: 4 << 30}, spec.AllAddresses}
}

// maxFile bounds the file, in bytes.
const maxFile = 64 << 10

// Read reads the file at path; errs.InvalidArgument says where it is wrong.
func Read(path string) (Settings, error) {
	s := Default()
	text, err := regular.Read(path, maxFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return s, nil
	case errs.Is(err, errs.ResourceExhausted):
		return s, errs.As(errs.InvalidArgument, err)
	case err != nil:
		return s, errs.As(errs.FailedPrecondition, err)
	}
	return s, decode(path, text, &s)
}

// decode reads text over what is in s.
func decode(path string, text []byte, s *Settings) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return errs.New(errs.InvalidArgument, "%s: %w", path, err)
	}
	if doc.Kind == 0 { // nothing in it
		return nil
	}
	err := keys(doc.Content[0], map[string]reader{
		"templates": func(n *yaml.Node) error {
			return keys(n, map[string]reader{"use": truth(&s.Templates.Use), "limit": size(&s.Templates.Limit)})
		},
		"pool": func(n *yaml.Node) error {
			return keys(n, map[string]reader{"machines": count(&s.Pool.Machines, MaxMachines), "memory": size(&s.Pool.Memory),
				"prepared": truth(&s.Pool.Prepared)})
		},
		"publish_address": address(&s.PublishAddress),
	})
	var at wrong
	if errors.As(err, &at) {
		return errs.WithHint(errs.New(errs.InvalidArgument, "%s:%d:%d: %s", path, at.line, at.column, at.text),
			"the keys are templates.use, templates.limit, pool.machines, pool.memory, pool.prepared and publish_address")
	}
	return err
}

// reader reads a value into its place.
type reader func(*yaml.Node) error

// wrong is what is wrong at a place.
type wrong struct {
	line, column int
	text         string
}

func (w wrong) Error() string { return w.text }

func wrongAt(n *yaml.Node, format string, args ...any) error {
	return wrong{n.Line, n.Column, fmt.Sprintf(format, args...)}
}

// keys reads a mapping. A value that is null sets nothing.
func keys(n *yaml.Node, known map[string]reader) error {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil
	case n.Kind != yaml.MappingNode:
		return wrongAt(n, "keys with values are wanted here")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		read := known[k.Value]
		switch {
		case read == nil || k.Kind != yaml.ScalarNode:
			return wrongAt(k, "there is no key %.64q", k.Value)
		case seen[k.Value]:
			return wrongAt(k, "key %q is there twice", k.Value)
		}
		seen[k.Value] = true
		if err := read(n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func truth(to *bool) reader {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			return wrongAt(n, "true or false is wanted")
		}
		return n.Decode(to)
	}
}

func count(to *int, most int) reader {
	return func(n *yaml.Node) error {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < 0 || v > most {
			return wrongAt(n, "a number of 0 to %d is wanted", most)
		}
		*to = v
		return nil
	}
}

func address(to *string) reader {
	return func(n *yaml.Node) error {
		v, err := spec.ParseHostIP(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			return wrongAt(n, "an address of the host is wanted, or %q", spec.AllAddresses)
		}
		*to = v
		return nil
	}
}

func size(to *uint64) reader {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode {
			return wrongAt(n, "a size is wanted: 512MiB, 2GiB")
		}
		v, err := spec.ParseSize(n.Value)
		if err != nil {
			return wrongAt(n, "%v: write 512MiB or 2GiB", err)
		}
		*to = v
		return nil
	}
}
