package spec

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// Import reads the stack that opts names and returns it as a stack file of the
// language for its folder: paths below the folder are relative, and comments say what
// was read otherwise or could not be taken over. Variables have today's values. The
// error is diag.Findings: what has to be right before anything can be taken over.
func Import(opts Options) ([]byte, diag.Findings, error) {
	l := newLoader(opts)
	stack := l.load()
	findings := l.report.done()
	wrong := slices.DeleteFunc(slices.Clone(findings), func(f diag.Finding) bool { return f.Unsupported })
	if err := wrong.Err(); err != nil || stack == nil {
		return nil, nil, findings
	}
	root, err := stack.document().yaml()
	if err != nil {
		return nil, nil, fmt.Errorf("write the stack as YAML: %w", err)
	}
	relativePaths(root, stack.Dir)
	comment(root, l.read, findings)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, nil, fmt.Errorf("write the stack as YAML: %w", err)
	}
	return b.Bytes(), findings, enc.Close()
}

// pathKeys are the keys of the language that hold paths of the host.
var pathKeys = []string{"source", "file", "tar", "directory", "block", "path", "modules", "seccomp", "boot_log"}

// relativePaths makes the paths below dir relative to it.
func relativePaths(n *yaml.Node, dir string) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && c.Kind == yaml.ScalarNode && slices.Contains(pathKeys, n.Content[i-1].Value) {
			text := strings.ReplaceAll(c.Value, "$$", "$")
			if rel, err := filepath.Rel(dir, text); err == nil && filepath.IsAbs(text) && filepath.IsLocal(rel) {
				c.Value = escape("./" + filepath.ToSlash(rel))
			}
		}
		relativePaths(c, dir)
	}
}

// comment writes what was found above the container that it is about, or at the top.
func comment(root *yaml.Node, files []string, findings diag.Findings) {
	top := []string{"From " + strings.Join(baseNames(files), ", ") + "; variables have the values that they had."}
	about := map[string][]string{}
	for _, f := range findings {
		word := "read otherwise: "
		if f.Unsupported {
			word = "not taken over: "
		}
		f.Position = diag.Position{}
		f.Severity = diag.Error
		text := word + f.String()
		parts := strings.Split(f.Path, ".")
		if len(parts) > 1 && (parts[0] == "services" || parts[0] == "containers") {
			about[parts[1]] = append(about[parts[1]], text)
		} else {
			top = append(top, text)
		}
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != "containers" {
			continue
		}
		containers := root.Content[i+1]
		for j := 0; j+1 < len(containers.Content); j += 2 {
			key := containers.Content[j]
			key.HeadComment = strings.Join(about[key.Value], "\n")
			delete(about, key.Value)
		}
	}
	for _, name := range sortedKeys(about) {
		top = append(top, about[name]...)
	}
	root.HeadComment = strings.Join(top, "\n")
}

func baseNames(files []string) []string {
	var names []string
	for _, f := range files {
		if f == stdinFile {
			f = "standard input"
		}
		names = append(names, filepath.Base(f))
	}
	return names
}
