package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// providerCommand is what Docker Compose calls for a service whose provider is
// vzcompose (docs/extension.md of docker/compose): such a service is a stack of its
// own, which a stack file of ours declares.
func (a *app) providerCommand() *cli.Command {
	project := &cli.StringFlag{Name: "project-name", Usage: "`NAME` of Compose's project"}
	file := &cli.StringSliceFlag{Name: "file", Usage: "stack `FILE` that declares the service; repeatable"}
	volumes := &cli.BoolFlag{Name: "volumes", Usage: "remove the volumes too"}
	return &cli.Command{
		Name: "compose", Usage: "what Docker Compose calls for a service whose provider is vzcompose", Hidden: true,
		Flags: []cli.Flag{project},
		Subcommands: []*cli.Command{
			{Name: "up", Usage: "bring the service's stack up", ArgsUsage: "SERVICE", Action: a.provide(a.providerUp), Flags: []cli.Flag{project, file,
				&cli.StringFlag{Name: "container", Usage: "`NAME` of the container whose ports are handed on; the service's name, or the only one"},
				&cli.StringFlag{Name: "host", Value: "host.docker.internal", Usage: "`NAME` by which Compose's services reach the host"}, volumes}},
			{Name: "down", Usage: "take the service's stack down", ArgsUsage: "SERVICE", Flags: []cli.Flag{project, file, volumes, &cli.StringFlag{Name: "container"}, &cli.StringFlag{Name: "host"}},
				Action: a.provide(func(c *cli.Context, s *stack.Stack, control stack.Control) error {
					return s.Down(c.Context, control, stack.DownOptions{Volumes: c.Bool("volumes")})
				})},
			{Name: "stop", Usage: "stop the service's stack", ArgsUsage: "SERVICE", Flags: []cli.Flag{project, file, volumes, &cli.StringFlag{Name: "container"}, &cli.StringFlag{Name: "host"}},
				Action: a.provide(func(c *cli.Context, s *stack.Stack, control stack.Control) error {
					return s.StopInstances(c.Context, control, nil)
				})},
			{Name: "metadata", Usage: "the options, as JSON", Action: a.providerMetadata},
		},
	}
}

// provide opens the stack of a service of Compose, and says what happens to it and
// what goes wrong in Compose's words: a line of JSON each.
func (a *app) provide(do func(*cli.Context, *stack.Stack, stack.Control) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		stop := newInterrupt(c.Context)
		defer stop.release()
		s, err := a.providedStack(c)
		if err == nil {
			control := a.control(c, stop)
			control.Events = func(e stack.Event) {
				if step, ok := e.(stack.Step); ok && (step.Phase != "" || step.Status.Final()) {
					words := []string{step.Subject, step.Operation, string(step.Status)}
					if step.Phase != "" && !step.Status.Final() {
						words = []string{step.Subject, step.Phase}
					}
					a.tell("info", strings.Join(words, " "))
				}
			}
			err = do(c, s, control)
		}
		if err != nil {
			a.tell("error", err.Error())
			return status(classStatus(err))
		}
		return nil
	}
}

// tell says something to Compose.
func (a *app) tell(kind, message string) {
	line, err := json.Marshal(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{kind, message})
	if err == nil {
		_ = a.view.JSON(append(line, '\n')) // the work goes on where nobody reads it any more
	}
}

// providedStack is the stack of a service: it is named after the project and the
// service.
func (a *app) providedStack(c *cli.Context) (*stack.Stack, error) {
	project := ""
	for _, of := range c.Lineage() {
		if p := of.String("project-name"); project == "" && p != "" {
			project = p
		}
	}
	if project == "" {
		return nil, usage("--project-name is missing")
	}
	name := providedName(project + "-" + c.Args().First())
	o := spec.Options{Files: c.StringSlice("file"), Name: name, LookupEnv: a.deps.LookupEnv}
	if c.Command.Name == "up" {
		if len(o.Files) == 0 {
			return nil, usage("options of the provider name no file: the stack file that declares the service")
		}
		return a.withOptions(o)
	}
	h, err := a.open()
	if err != nil {
		return nil, err
	}
	return h.Named(spec.Options{Name: name, LookupEnv: a.deps.LookupEnv})
}

// providedName makes a name of a stack of a text.
func providedName(text string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
	return strings.TrimLeft(name[:min(len(name), 63)], "-_")
}

// providerUp brings the stack up, and hands its ports on: HOST, PORT (the first) and
// PORT_80. Compose puts the service's name before each.
func (a *app) providerUp(c *cli.Context, s *stack.Stack, control stack.Control) error {
	of := c.String("container")
	if _, ok := s.Declared.Containers[c.Args().First()]; of == "" && ok {
		of = c.Args().First()
	}
	if of == "" && len(s.Declared.Containers) == 1 {
		for name := range s.Declared.Containers {
			of = name
		}
	}
	if _, ok := s.Declared.Containers[of]; of != "" && !ok {
		return usage("no container %q in the stack file", of)
	}
	if _, err := s.Up(c.Context, control, stack.UpOptions{Wait: true}); err != nil {
		return err
	}
	if of == "" {
		return nil
	}
	i, err := s.Find(c.Context, of, 1)
	if err != nil {
		return err
	}
	a.tell("setenv", "HOST="+c.String("host"))
	ports := slices.SortedFunc(slices.Values(i.Ports), func(a, b state.Port) int { return a.Target - b.Target })
	for n, p := range ports {
		if n == 0 {
			a.tell("setenv", fmt.Sprintf("PORT=%d", p.Published[0]))
		}
		a.tell("setenv", fmt.Sprintf("PORT_%d=%d", p.Target, p.Published[0]))
	}
	return nil
}

// providerMetadata says which options there are.
func (a *app) providerMetadata(*cli.Context) error {
	type parameter struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Required    bool   `json:"required"`
		Type        string `json:"type"`
		Default     string `json:"default,omitempty"`
	}
	type parameters struct {
		Parameters []parameter `json:"parameters"`
	}
	all := []parameter{
		{"file", "Stack file that declares the service", true, "string", ""},
		{"container", "Container whose ports are handed on", false, "string", ""},
		{"host", "Name by which services reach the host", false, "string", "host.docker.internal"},
		{"volumes", "Remove the volumes with down", false, "boolean", "false"},
	}
	text, err := json.MarshalIndent(struct {
		Description string     `json:"description"`
		Up          parameters `json:"up"`
		Down        parameters `json:"down"`
		Stop        parameters `json:"stop"`
	}{"Run a service in a virtual machine of its own", parameters{all}, parameters{all[3:]}, parameters{[]parameter{}}}, "", "  ")
	if err != nil {
		return err
	}
	return a.view.JSON(append(text, '\n'))
}
