package shimproto

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/store"
)

// LaunchVersion is the version of Launch. Every change that a shim of the version
// before would misread makes a new one. A new field with omitempty does not: a shim
// that does not know the field refuses the launches that have it. The launches of the
// last release have no version, which reads as 0.
const LaunchVersion = 1

// maxLaunch bounds a launch, in bytes: a record has 8 MiB at most, and variables
// come with it.
const maxLaunch = 16 << 20

// Launch is the order to a shim: on its standard input, or on the socket of a spare.
type Launch struct {
	Version   int            `json:"version"` // LaunchVersion
	Home      store.Home     `json:"home"`
	Instance  store.Instance `json:"instance"`
	Kernel    string         `json:"kernel"`
	Initramfs string         `json:"initramfs"`
	Cold      bool           `json:"cold,omitempty"`  // its machine is booted, not restored
	Spare     bool           `json:"spare,omitempty"` // its machine waits for another Launch
	// Retire, told to a spare, ends it; nothing else is in such a Launch. It is the
	// same in every version.
	Retire bool `json:"retire,omitempty"`
	// Hold is the container that a spare holds for whoever wants it; nil: none.
	Hold *Launch `json:"hold,omitempty"`
	// Prepare: its machine is saved, and that is all.
	Prepare bool `json:"prepare,omitempty"`
	// Switch is the command that becomes the switch of a stack.
	Switch []string `json:"switch,omitempty"`
	// Attended: its process waits until somebody is attached to it.
	Attended bool `json:"attended,omitempty"`
	// Remove is the command that removes the instance once it has ended and the
	// command that it was made for is gone; nil: the instance stays.
	Remove []string `json:"remove,omitempty"`
	// Env are the variables that the instance's files come from, by name. They are
	// passed on, and never written down.
	Env map[string]string `json:"env,omitempty"`
	// Filter is the program for system calls of the container (agentproto.Filter),
	// with its flags; none: nothing is refused.
	Filter      []byte `json:"filter,omitempty"`
	FilterFlags uint32 `json:"filter_flags,omitempty"`
	// Templates is the folder of what machines are restored from, and
	// TemplatesLimit its bound in bytes.
	Templates      string `json:"templates"`
	TemplatesLimit uint64 `json:"templates_limit"`
}

// Encode returns l as ReadLaunch reads it.
func (l Launch) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a record that is within its bound is within ours
	if err := e.Encode(l); err != nil {
		return nil, errs.New(errs.Internal, "encode launch: %w", err)
	}
	if b.Len() > maxLaunch {
		return nil, errs.New(errs.InvalidArgument, "the launch of %s would have %d bytes, and one has at most %d", l.Instance.Name, b.Len(), maxLaunch)
	}
	return b.Bytes(), nil
}

// ReadLaunch reads one launch from r. It refuses a launch with an unknown field, since
// the instance would lack what the field asks for.
func ReadLaunch(r io.Reader) (l Launch, err error) {
	var raw json.RawMessage
	var head struct {
		Version int  `json:"version"`
		Retire  bool `json:"retire"`
	}
	err = json.NewDecoder(io.LimitReader(r, maxLaunch)).Decode(&raw)
	if err == nil {
		err = json.Unmarshal(raw, &head)
	}
	switch {
	case err != nil:
		return Launch{}, errs.New(errs.InvalidArgument, "read launch: %w", err)
	case head.Retire:
		return Launch{Retire: true}, nil
	case head.Version != LaunchVersion:
		return Launch{}, otherVersion(head.Version)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return Launch{}, errs.New(errs.InvalidArgument, "read launch: %w", err)
	}
	if l.Hold != nil && l.Hold.Version != LaunchVersion {
		return Launch{}, otherVersion(l.Hold.Version)
	}
	if l.Instance.Name == "" || l.Home.Dir == "" {
		return Launch{}, errs.New(errs.InvalidArgument, "a launch without an instance")
	}
	return l, nil
}

func otherVersion(v int) error {
	return errs.New(errs.Unsupported, "the launch is of version %d, and this program reads version %d: "+
		"vzcompose was replaced while a command ran; run the command again", v, LaunchVersion)
}

// RemoveOrder names the instance that the command of Launch.Remove removes, on its
// standard input. That command may be of a later version than the shim.
type RemoveOrder struct {
	Stack    string `json:"stack"`
	Instance string `json:"instance"`
}
