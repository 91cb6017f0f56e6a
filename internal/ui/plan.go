package ui

import (
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// Plan shows a plan as a result: grouped by container, a line a step with what
// it does and why. world is what the plan was made from.
func (u *UI) Plan(p *planner.Plan, world state.World) { u.Printf("%s", u.plan(p, world, u.colorOut)) }

// maxPreview is how many steps are shown one by one before they are done.
const maxPreview = 30

// Preview shows on a terminal what is about to be done, beside the result: how much
// of what, where it has many steps. Elsewhere the progress has the causes.
func (u *UI) Preview(p *planner.Plan, world state.World) {
	switch {
	case u.mode != TTY:
	case len(p.Steps) <= maxPreview:
		u.errText(u.plan(p, world, u.colorErr))
	default:
		var verbs []string
		n := map[string]int{}
		for _, s := range p.Steps {
			v := s.Op.Verb()
			if n[v]++; n[v] == 1 {
				verbs = append(verbs, v)
			}
		}
		for i, v := range verbs {
			verbs[i] = fmt.Sprintf("%d %s", n[v], visible(v))
		}
		u.errText(fmt.Sprintf("%s: %s: %s\n", visible(p.Stack), count(len(p.Steps), "step"), strings.Join(verbs, ", ")))
	}
}

// group is the steps of one container, or of all images or volumes.
type group struct {
	title string
	steps []planner.Step
}

func (u *UI) plan(p *planner.Plan, world state.World, colors bool) string {
	if p.Empty() {
		switch n := len(world.Instances); n {
		case 0:
			return "nothing to do: there are no instances, and none is declared\n"
		case 1:
			return "nothing to do: 1 instance is as declared\n"
		default:
			return fmt.Sprintf("nothing to do: %d instances are as declared\n", n)
		}
	}
	groups := grouped(p)
	verbs, subjects := 0, 0
	for _, s := range p.Steps {
		verbs = max(verbs, width(visible(s.Op.Verb())))
		subjects = max(subjects, width(planName(s.Op)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", visible(p.Stack), count(len(p.Steps), "step"))
	for _, g := range groups {
		fmt.Fprintf(&b, "%s\n", paint(colors, sgrBold, visible(g.title)))
		for _, s := range g.steps {
			sign, sgr := signOf(s.Op)
			line := pad(visible(s.Op.Verb()), verbs) + "  " + pad(planName(s.Op), subjects)
			if s.Cause != "" {
				line += "  " + visible(s.Cause)
			}
			fmt.Fprintf(&b, "  %s %s\n", paint(colors, sgr, sign), strings.TrimRight(line, " "))
		}
	}
	return b.String()
}

// grouped keeps the order in which things first come.
func grouped(p *planner.Plan) []*group {
	var groups []*group
	by := map[string]*group{}
	for _, s := range p.Steps {
		title := groupOf(s.Op)
		g, ok := by[title]
		if !ok {
			g = &group{title: title}
			by[title] = g
			groups = append(groups, g)
		}
		g.steps = append(g.steps, s)
	}
	return groups
}

func groupOf(op planner.Op) string {
	if t, ok := targetOf(op); ok {
		return t.Container
	}
	kind, _, _ := strings.Cut(op.Subject(), "/")
	return kind + "s"
}

// targetOf answers the instance that an operation is about.
func targetOf(op planner.Op) (planner.Target, bool) {
	switch op := op.(type) {
	case planner.Create:
		return op.Target, true
	case planner.Update:
		return op.Target, true
	case planner.Start:
		return op.Target, true
	case planner.Await:
		return op.Target, true
	case planner.Stop:
		return op.Target, true
	case planner.Remove:
		return op.Target, true
	}
	return planner.Target{}, false
}

// planName is the subject without its kind, which the group says.
func planName(op planner.Op) string {
	_, name, _ := strings.Cut(op.Subject(), "/")
	return visible(name)
}

// signOf answers what an operation does to the host: more, other, less; blank
// for one that only waits.
func signOf(op planner.Op) (sign, sgr string) {
	switch op.(type) {
	case planner.Pull, planner.CreateVolume, planner.CreateNetwork, planner.Create, planner.Start:
		return "+", sgrGreen
	case planner.Update, planner.UpdateNetwork:
		return "~", sgrYellow
	case planner.Stop, planner.Remove, planner.RemoveVolume, planner.RemoveNetwork:
		return "-", sgrRed
	}
	return " ", ""
}
