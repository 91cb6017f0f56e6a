package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/spec"
)

// Volume is a volume of the home folder.
type Volume struct {
	state.Volume
	Stack string `json:"stack,omitempty"` // whose it is; "": it is external
	Path  string `json:"path"`
	Why   string `json:"why"`             // it is of its kind
	Users []User `json:"users,omitempty"` // instances that mount it, or may: their record cannot be read
}

// User is an instance of a stack.
type User struct {
	Stack    string `json:"stack"`
	Instance string `json:"instance"`
}

func (u User) String() string { return u.Stack + "/" + u.Instance }

// Ref is how commands name the volume: STACK/NAME, or the name of an external one.
func (v Volume) Ref() string {
	if v.Stack == "" {
		return v.Name
	}
	return v.Stack + "/" + v.Name
}

// volumesOf returns the volumes of a stack, or the external ones.
func (e *Engine) volumesOf(stack string) *volume.Store {
	if stack == "" {
		return volume.New(e.o.Home.External())
	}
	return volume.New(e.o.Home.Volumes(stack))
}

// Volumes returns every volume of the home folder, sorted by stack and name; those
// that are external come first.
func (e *Engine) Volumes() ([]Volume, error) {
	stacks, err := e.o.Home.ListVolumeFolders()
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	slices.Sort(stacks)
	users, mayUse, err := e.volumeUsers()
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var all []Volume
	for _, stack := range stacks {
		of := e.volumesOf(stack)
		volumes, err := of.List()
		if err != nil {
			return nil, err
		}
		for _, v := range volumes {
			v := Volume{Volume: v, Stack: stack, Path: of.Path(v.Name), Why: "one machine at a time writes to it, or any number read it"}
			if v.Kind == state.Directory {
				v.Path, v.Why = of.Directory(v.Name), "several instances mounted it when it was made, and one of them or more may write to it"
				if stack == "" {
					v.Why = "volume create was told that several instances write to it"
				}
			}
			v.Users = users[v.Path]
			for _, u := range mayUse {
				if stack == "" || stack == u.Stack {
					v.Users = append(v.Users, u)
				}
			}
			all = append(all, v)
		}
	}
	return all, nil
}

// volumeUsers returns the instances of all stacks by the disks that they have, and
// those that may have any, since their record cannot be read.
func (e *Engine) volumeUsers() (users map[string][]User, mayUse []User, err error) {
	stacks, err := e.o.Home.ListStacks()
	if err != nil {
		return nil, nil, err
	}
	users = map[string][]User{}
	for _, stack := range stacks {
		names, err := e.o.Home.ListInstances(stack)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range names {
			u := User{stack, name}
			rec, err := e.o.Home.ReadInstance(stack, name)
			switch {
			case errs.Is(err, errs.NotFound) && !e.o.Home.Began(stack, name): // it was never finished
			case err != nil:
				mayUse = append(mayUse, u)
			}
			for _, d := range rec.Volumes {
				users[d.Path] = append(users[d.Path], u)
			}
			for _, h := range rec.Shares {
				if h.Volume {
					users[h.Path] = append(users[h.Path], u)
				}
			}
		}
	}
	return users, mayUse, nil
}

// CreateVolume makes an external volume: a disk, of the usual size where size is 0, or
// a directory where it is shared. One that is there is left as it is, and has to be
// what is asked for.
func (e *Engine) CreateVolume(name string, size uint64, shared bool) error {
	all, err := e.external().List()
	if err != nil {
		return err
	}
	asked := size
	if asked == 0 {
		asked = spec.DefaultVolumeSize
	}
	rounded, err := volume.RoundUp(asked)
	if err != nil {
		return err
	}
	for _, v := range all {
		switch {
		case v.Name != name && strings.EqualFold(v.Name, name):
			return errs.New(errs.AlreadyExists, "there is a volume %s, whose name differs only in the case of letters", v.Name)
		case v.Name == name && shared != (v.Kind == state.Directory):
			return errs.New(errs.AlreadyExists, "there is a volume %s, which is a %s", name, v.Kind)
		case v.Name == name && size != 0 && int64(rounded) != v.Size:
			return errs.New(errs.AlreadyExists, "there is a volume %s, of %s", name, humanize.IBytes(uint64(v.Size)))
		}
	}
	if shared {
		return e.external().CreateDirectory(name)
	}
	return e.external().Create(name, rounded)
}

// RemoveVolume destroys a volume that no instance mounts. The lock of its stack is
// held.
func (e *Engine) RemoveVolume(ref string) error {
	v, err := e.FindVolume(ref)
	if err != nil {
		return err
	}
	if len(v.Users) > 0 {
		var names []string
		for _, u := range v.Users {
			names = append(names, u.String())
		}
		u := v.Users[0]
		return errs.WithHint(errs.New(errs.FailedPrecondition, "volume %s is in use by %s", ref, strings.Join(names, ", ")),
			"vzcompose -n %s rm --stop %s removes the instance", u.Stack, u.Instance)
	}
	return e.volumesOf(v.Stack).Remove(v.Name)
}

// FindVolume returns the volume that ref names.
func (e *Engine) FindVolume(ref string) (Volume, error) {
	all, err := e.Volumes()
	if err != nil {
		return Volume{}, err
	}
	if i := slices.IndexFunc(all, func(v Volume) bool { return v.Ref() == ref }); i >= 0 {
		return all[i], nil
	}
	hint := "vzcompose volume ls lists them"
	if i := slices.IndexFunc(all, func(v Volume) bool { return v.Name == ref }); i >= 0 {
		hint = "there is " + all[i].Ref() + ", of stack " + all[i].Stack
	}
	return Volume{}, errs.WithHint(errs.New(errs.NotFound, "no volume %q", ref), "%s", hint)
}
