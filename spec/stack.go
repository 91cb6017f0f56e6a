package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Instance is one replica of a container.
type Instance struct {
	Container string `json:"container"`
	Name      string `json:"name"`  // "web-1"
	Index     int    `json:"index"` // from 1
}

// InstanceName names the replica of a container that says nothing else of it; index
// counts from 1.
func InstanceName(container string, index int) string {
	return container + "-" + strconv.Itoa(index)
}

// InstanceName names the replica of c, which is called container in its stack.
func (c Container) InstanceName(container string, index int) string {
	if c.ContainerName != "" {
		return c.ContainerName
	}
	return InstanceName(container, index)
}

// Instances answers every instance of the stack, sorted by container and index.
func (s *Stack) Instances() []Instance {
	var all []Instance
	for _, name := range sortedKeys(s.Containers) {
		for i := 1; i <= s.Containers[name].Replicas; i++ {
			all = append(all, Instance{Container: name, Name: s.Containers[name].InstanceName(name, i), Index: i})
		}
	}
	return all
}

// Order answers the containers in levels: those of a level depend only on those
// of the levels before. Each level is sorted. Load refuses cycles; in a stack
// that has one all the same, what is part of it or waits for it is left out.
func (s *Stack) Order() [][]string {
	var levels [][]string
	placed := map[string]bool{}
	for {
		var level []string
		for _, name := range sortedKeys(s.Containers) {
			if !placed[name] && s.ready(name, placed) {
				level = append(level, name)
			}
		}
		if len(level) == 0 {
			return levels
		}
		for _, name := range level {
			placed[name] = true
		}
		levels = append(levels, level)
	}
}

func (s *Stack) ready(name string, placed map[string]bool) bool {
	for on := range s.Containers[name].DependsOn {
		if _, there := s.Containers[on]; there && !placed[on] {
			return false
		}
	}
	return true
}

// storedVersion is the version of the form in which containers are stored.
const storedVersion = 1

type stored struct {
	Version   int             `json:"version"`
	Container json.RawMessage `json:"container"`
}

// EncodeContainer answers the form in which a container is stored:
// {"version":1,"container":{...}}. Equal containers are equal bytes.
func EncodeContainer(c Container) (json.RawMessage, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode container: %w", err)
	}
	return json.Marshal(stored{storedVersion, raw})
}

// DecodeContainer reads what EncodeContainer wrote. A version or a field that is
// not known is an error: acting on half of a container would be worse.
func DecodeContainer(raw json.RawMessage) (Container, error) {
	var s stored
	if err := strictly(raw, &s); err != nil {
		return Container{}, fmt.Errorf("decode stored container: %w", err)
	}
	if s.Version != storedVersion {
		return Container{}, fmt.Errorf("decode stored container: version %d is not known, only %d", s.Version, storedVersion)
	}
	if len(s.Container) == 0 || string(s.Container) == "null" {
		return Container{}, fmt.Errorf("decode stored container: nothing is stored")
	}
	var c Container
	if err := strictly(s.Container, &c); err != nil {
		return Container{}, fmt.Errorf("decode stored container: %w", err)
	}
	return c, nil
}

func strictly(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if dec.More() {
		return fmt.Errorf("more than one value")
	}
	return nil
}
