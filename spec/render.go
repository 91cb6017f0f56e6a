package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// YAML answers the resolved stack as a stack file: every default is written
// out, paths are absolute, and loading it gives the same stack.
func (s *Stack) YAML() ([]byte, error) {
	node, err := s.document().yaml()
	if err != nil {
		return nil, fmt.Errorf("write the stack as YAML: %w", err)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return nil, fmt.Errorf("write the stack as YAML: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// JSON is YAML in JSON's clothes: the same keys and values, and it loads too.
func (s *Stack) JSON() ([]byte, error) {
	var compact, b bytes.Buffer
	if err := writeJSON(&compact, s.document()); err != nil {
		return nil, fmt.Errorf("write the stack as JSON: %w", err)
	}
	if err := json.Indent(&b, compact.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("write the stack as JSON: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// document is the stack as the language writes it.
func (s *Stack) document() document {
	f := file{name: s.Name, containers: map[string]declared{}, volumes: s.Volumes, secrets: s.Secrets, configs: s.Configs,
		networks: maps.Clone(s.Networks)}
	if reflect.ValueOf(f.networks[DefaultNetwork]).IsZero() {
		delete(f.networks, DefaultNetwork) // it is so without the key
	}
	for name, c := range s.Containers {
		f.containers[name] = declared{Container: c}
	}
	doc := document{{"name", s.Name}}
	all, _ := stackKeys().encode(f).(document)
	for _, p := range all {
		switch p.key {
		case "containers", "volumes", "secrets", "configs", "networks":
			doc = append(doc, p)
		}
	}
	return doc
}

// escape keeps a dollar sign from being read as a variable again.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }

func (d document) yaml() (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range d {
		key, err := yamlText(p.key)
		if err != nil {
			return nil, err
		}
		value, err := yamlValue(p.value)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, key, value)
	}
	if len(d) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n, nil
}

func yamlValue(value any) (*yaml.Node, error) {
	switch v := value.(type) {
	case document:
		return v.yaml()
	case string:
		return yamlText(escape(v))
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if len(v) == 0 {
			n.Style = yaml.FlowStyle
		}
		for _, item := range v {
			c, err := yamlValue(item)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		return n, nil
	}
	n := new(yaml.Node)
	return n, n.Encode(value)
}

// oldText is what readers of YAML 1.1 take for a boolean, or for a number of base 60,
// and the encoder does not quote.
var oldText = regexp.MustCompile(`^(?:[yYnN]|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$`)

// yamlText quotes whatever a parser could take for something else, and all that
// has line breaks: blocks do not carry every text through.
func yamlText(s string) (*yaml.Node, error) {
	n := new(yaml.Node)
	n.SetString(s) // Encode writes and parses a document: 50 µs a text
	if oldText.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	if _, width := lineBreak(s); width > 0 || s == "<<" || strings.ContainsFunc(s, unprintable) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n, nil
}

func writeJSON(b *bytes.Buffer, value any) error {
	switch v := value.(type) {
	case document:
		b.WriteByte('{')
		for i, p := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeText(b, p.key); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := writeJSON(b, p.value); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeJSON(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case string:
		return writeText(b, escape(v))
	}
	return writeText(b, value)
}

// writeText writes a scalar without the escapes that are for HTML.
func writeText(b *bytes.Buffer, value any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // Encode's newline
	return nil
}
