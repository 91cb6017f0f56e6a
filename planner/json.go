package planner

import (
	"encoding/json"
	"fmt"

	"github.com/vzcompose/vzcompose/spec"
)

// Version is that of the JSON form of a plan. It grows when a reader of the
// one before would misread it; a new optional field does not count.
const Version = 1

// planJSON, stepJSON and opJSON are the JSON form, built field by field so that
// a change of the Go types does not change it unnoticed.
type planJSON struct {
	Version  int        `json:"version"`
	Stack    string     `json:"stack"`
	Steps    []stepJSON `json:"steps"`
	Warnings []string   `json:"warnings,omitempty"`
}

type stepJSON struct {
	ID       int    `json:"id"`
	Op       opJSON `json:"op"`
	After    []int  `json:"after,omitempty"`
	AfterEnd []int  `json:"after_end,omitempty"`
	Optional bool   `json:"optional,omitempty"`
	Cause    string `json:"cause"`
}

type opJSON struct {
	Type      string          `json:"type"`
	Image     string          `json:"image,omitempty"`
	Policy    string          `json:"policy,omitempty"`
	Volume    string          `json:"volume,omitempty"`
	Size      uint64          `json:"size,omitempty"` // bytes
	Shared    bool            `json:"shared,omitempty"`
	Name      string          `json:"name,omitempty"` // of a network
	Network   *spec.Network   `json:"network,omitempty"`
	Container string          `json:"container,omitempty"`
	Instance  string          `json:"instance,omitempty"`
	Index     int             `json:"index,omitempty"`
	Condition spec.Condition  `json:"condition,omitempty"`
	CPUs      float64         `json:"cpus,omitempty"`
	Memory    uint64          `json:"memory,omitempty"` // bytes
	Spec      *spec.Container `json:"spec,omitempty"`
	Live      bool            `json:"live,omitempty"`
	Discard   bool            `json:"discard,omitempty"`
}

// JSON is the plan for programs, versioned, each operation with its type.
func (p *Plan) JSON() ([]byte, error) {
	out := planJSON{Version: Version, Stack: p.Stack, Warnings: p.Warnings, Steps: make([]stepJSON, len(p.Steps))}
	for i, s := range p.Steps {
		op, err := encodeOp(s.Op)
		if err != nil {
			return nil, fmt.Errorf("encode step %d: %w", s.ID, err)
		}
		out.Steps[i] = stepJSON{s.ID, op, s.After, s.AfterEnd, s.Optional, s.Cause}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	return append(b, '\n'), nil
}

func encodeOp(op Op) (opJSON, error) {
	on := func(kind string, t Target) opJSON {
		return opJSON{Type: kind, Container: t.Container, Instance: t.Instance, Index: t.Index}
	}
	switch op := op.(type) {
	case Pull:
		return opJSON{Type: "pull", Image: op.Ref, Policy: op.Policy}, nil
	case CreateVolume:
		return opJSON{Type: "create_volume", Volume: op.Name, Size: op.Size, Shared: op.Shared}, nil
	case RemoveVolume:
		return opJSON{Type: "remove_volume", Volume: op.Name}, nil
	case CreateNetwork:
		return opJSON{Type: "create_network", Name: op.Name, Network: &op.Spec}, nil
	case UpdateNetwork:
		return opJSON{Type: "update_network", Name: op.Name, Network: &op.Spec}, nil
	case RemoveNetwork:
		return opJSON{Type: "remove_network", Name: op.Name}, nil
	case Create:
		j := on("create", op.Target)
		j.Spec = &op.Spec
		return j, nil
	case Update:
		j := on("update", op.Target)
		j.Spec, j.Live = &op.Spec, op.Live
		return j, nil
	case Start:
		j := on("start", op.Target)
		j.CPUs, j.Memory = op.CPUs, op.Memory
		return j, nil
	case Await:
		j := on("await", op.Target)
		j.Condition = op.Condition
		return j, nil
	case Stop:
		j := on("stop", op.Target)
		j.Discard = op.Discard
		return j, nil
	case Remove:
		return on("remove", op.Target), nil
	}
	return opJSON{}, fmt.Errorf("operation %T has no JSON form", op)
}
