package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/spec"
)

func (a *app) importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "write a vzcompose.yaml that says what a Compose file says",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write, - for standard output; vzcompose.yaml in the stack's folder"},
			&cli.BoolFlag{Name: "force", Usage: "write over a file that is there"},
		},
		Action: a.importStack,
	}
}

func (a *app) importStack(c *cli.Context) error {
	o, err := a.loadOptions(c)
	if err != nil {
		return err
	}
	text, findings, err := spec.Import(o)
	if err != nil {
		return err
	}
	for i := range findings {
		findings[i].Severity = diag.Warning // they are comments of the file
	}
	a.view.Findings(findings)
	path := c.String("output")
	switch path {
	case "-":
		a.view.Printf("%s", text)
		return nil
	case "":
		path = filepath.Join(spec.Identify(o).Dir, "vzcompose.yaml")
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if c.Bool("force") {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return errs.WithHint(usage("%s is there", path), "name another file with -o, or write over it with --force")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	a.view.Notef("%s is written", path)
	return nil
}
