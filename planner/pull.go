package planner

import (
	"fmt"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/spec"
)

// PullAll answers how to have the images of a stack as their registries have
// them now: of all containers, or of those that only names. A container whose
// pull is "never" is left alone. Policy, where it is not empty, is in place of
// "always".
func PullAll(desired *spec.Stack, only []string, policy string) (*Plan, error) {
	var fs diag.Findings
	for _, name := range only {
		if _, ok := desired.Containers[name]; !ok {
			fs = append(fs, diag.Finding{Position: diag.Position{File: "pull"}, Message: fmt.Sprintf("no container %q", name),
				Hint: "the stack has " + list(sortedKeys(desired.Containers))})
		}
	}
	if err := fs.Err(); err != nil {
		return nil, err
	}
	if len(only) == 0 {
		only = sortedKeys(desired.Containers)
	}
	if policy == "" {
		policy = "always"
	}
	users := make(map[string][]string)
	for _, name := range only {
		if c := desired.Containers[name]; c.Image != "" && c.Pull != "never" {
			users[c.Image] = append(users[c.Image], name)
		}
	}
	p := &Plan{Stack: desired.Name}
	for _, ref := range sortedKeys(users) {
		p.add(Step{Op: Pull{Ref: ref, Policy: policy}, Cause: list(users[ref]) + " is made from it"})
	}
	return p, nil
}
