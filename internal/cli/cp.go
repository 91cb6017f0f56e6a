package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/archive"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
)

func (a *app) cpCommand() *cli.Command {
	return &cli.Command{
		Name: "cp", Usage: "copy files out of a running instance, or into one: its side is NAME:PATH", ArgsUsage: "FROM TO",
		Description: "As cp -r: into TO where it is a directory, else to that name. FROM/. is what is in FROM.\n" +
			"- is a tar on standard output or input.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "archive", Aliases: []string{"a"}, Usage: "keep the owners of what is copied into an instance"},
			&cli.BoolFlag{Name: "follow-link", Aliases: []string{"L"}, Usage: "copy what FROM links to"},
			&cli.IntFlag{Name: "index", Usage: "of the `N`th replica; the first by default"},
			&cli.BoolFlag{Name: "all", Usage: "into every replica"},
		},
		Action: a.cp,
	}
}

// far is a path in an instance; Container is "" for a path of the host.
type far struct{ container, path string }

// parseFar reads NAME:PATH. A path that begins with "." or "/", and "-", is the
// host's.
func parseFar(arg string) far {
	name, p, ok := strings.Cut(arg, ":")
	if !ok || name == "" || strings.ContainsAny(name[:1], "./~") || strings.ContainsRune(name, '/') {
		return far{path: arg}
	}
	return far{name, p}
}

func (a *app) cp(c *cli.Context) error {
	args := c.Args().Slice()
	from, to := parseFar(args[0]), parseFar(args[1])
	switch {
	case (from.container == "") == (to.container == ""):
		return usage("cp copies between the host and an instance: one of the two is NAME:PATH")
	case from.path == "" || to.path == "":
		return usage("the path in %q is missing", args[0]+" "+args[1])
	case c.Bool("all") && from.container != "":
		return usage("--all is for copying into instances")
	}
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	var into []state.Instance
	if c.Bool("all") {
		_, into, err = w.Select(c.Context, []string{to.container})
	} else {
		var i state.Instance
		i, err = w.Find(c.Context, from.container+to.container, c.Int("index"))
		into = []state.Instance{i}
	}
	if err != nil {
		return err
	}
	for _, i := range into {
		if err := a.copyWith(c, w, i, from, to); err != nil {
			return fmt.Errorf("cp %s %s: %w", args[0], args[1], err)
		}
	}
	return nil
}

func (a *app) copyWith(c *cli.Context, w *stack.Stack, i state.Instance, from, to far) error {
	shim, err := w.Dial(c.Context, i.Name)
	if errs.Is(err, errs.NotFound) {
		return errs.WithHint(errs.New(errs.FailedPrecondition, "%s does not run", i.Name), "its files can be reached while it does: vzcompose start %s", i.Container)
	}
	if err != nil {
		return err
	}
	defer shim.Close()
	if from.container != "" {
		return a.copyFrom(c.Context, shim, from.path, to.path, c.Bool("follow-link"))
	}
	return a.copyTo(c.Context, shim, from.path, to.path, c.Bool("follow-link"), c.Bool("archive"))
}

// place is where a copy goes: below Dir, under the name As; "." is what is in
// the source into Dir itself.
type place struct{ dir, as string }

// aim follows the rules of cp(1) and docker cp: source is a directory or not,
// contents says that it was written FROM/., there and dir what the destination
// is.
func aim(source string, isDir, contents bool, to string, slash, there, dir bool) (place, error) {
	clean := path.Clean(to)
	switch {
	case !there && slash && !isDir:
		return place{}, errs.New(errs.NotFound, "no directory %s", to)
	case !there, there && !dir && !isDir:
		return place{path.Dir(clean), path.Base(clean)}, nil
	case !dir:
		return place{}, errs.New(errs.FailedPrecondition, "%s is a file, and a directory cannot be copied over it", to)
	case contents && isDir:
		return place{clean, "."}, nil
	}
	return place{clean, source}, nil
}

func endsInDot(p string) bool { return p == "." || strings.HasSuffix(p, "/.") }

// absoluteIn is a path in a container: relative ones start at its root.
func absoluteIn(p string) string { return path.Join("/", p) }

func (a *app) copyFrom(ctx context.Context, shim *shimproto.Client, from, to string, follow bool) error {
	follow = follow || strings.HasSuffix(from, "/") || endsInDot(from)
	read := agentproto.Read{Path: absoluteIn(from), Follow: follow}
	if to == "-" {
		return copying(ctx, shim, func(ctx context.Context, token string) error {
			read.Stream = token
			return shim.Read(ctx, read)
		}, func(s *watched) error {
			_, err := io.Copy(a.deps.Stdout, s)
			return err
		})
	}
	info, err := shim.Stat(ctx, read.Path)
	if err != nil {
		return err
	}
	st, err := os.Stat(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	isDir := info.IsDir && (follow || info.Link == "")
	t, err := aim(path.Base(read.Path), isDir, endsInDot(from), filepath.ToSlash(to), strings.HasSuffix(to, "/"), err == nil, err == nil && st.IsDir())
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return copying(ctx, shim, func(ctx context.Context, token string) error {
		read.Stream = token
		return shim.Read(ctx, read)
	}, func(s *watched) error {
		if t.as != "." && isDir { // of which the tar's first entry says no more than what it is
			if err := root.Mkdir(t.as, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		r := bufio.NewReaderSize(s, 64<<10)
		if err := archive.Unpack(ctx, r, root, archive.Options{As: t.as}); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, r) // what is behind the tar's end
		return err
	})
}

func (a *app) copyTo(ctx context.Context, shim *shimproto.Client, from, to string, follow, keepOwner bool) error {
	write := agentproto.Write{Path: absoluteIn(to), KeepOwner: keepOwner}
	if from == "-" {
		return copying(ctx, shim, func(ctx context.Context, token string) error {
			write.Stream = token
			return shim.Write(ctx, write)
		}, func(s *watched) error {
			return send(s, func(w io.Writer) error { _, err := io.Copy(w, a.deps.Stdin); return err })
		})
	}
	stat := os.Lstat
	if follow || strings.HasSuffix(from, "/") || endsInDot(from) {
		stat = os.Stat
	}
	st, err := stat(from)
	if err != nil {
		return err
	}
	real := from
	if st.IsDir() || follow {
		if real, err = filepath.EvalSymlinks(from); err != nil {
			return err
		}
	}
	if real, err = filepath.Abs(real); err != nil { // "." has a name then
		return err
	}
	info, err := shim.Stat(ctx, write.Path)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	base := filepath.Base(real)
	if !st.IsDir() {
		base = filepath.Base(from)
	}
	t, err := aim(base, st.IsDir(), endsInDot(from), to, strings.HasSuffix(to, "/"), err == nil, info.IsDir)
	if err != nil {
		return err
	}
	write.Path = absoluteIn(t.dir)
	root, err := os.OpenRoot(filepath.Dir(real))
	if err != nil {
		return err
	}
	defer root.Close()
	return copying(ctx, shim, func(ctx context.Context, token string) error {
		write.Stream = token
		return shim.Write(ctx, write)
	}, func(s *watched) error {
		return send(s, func(w io.Writer) error { return archive.Pack(ctx, w, root, filepath.Base(real), t.as, nil) })
	})
}

// send writes to a stream, buffered, and ends it.
func send(s *watched, do func(io.Writer) error) error {
	w := bufio.NewWriterSize(s, 64<<10)
	if err := do(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return s.s.CloseWrite()
}

// copying makes a call of the shim and does with its stream what is to be done.
// Of two errors the first is why there is a second.
func copying(ctx context.Context, shim *shimproto.Client, call func(ctx context.Context, token string) error, do func(*watched) error) error {
	token := rand.Text()
	s, err := shim.OpenStream(ctx, token)
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	called := make(chan error, 1)
	go func() {
		err := call(ctx, token)
		if err != nil {
			_ = s.Close() // nobody reads or writes it any more
		}
		called <- err
	}()
	w := &watched{s: s}
	if err := do(w); err != nil {
		if w.err == nil { // ours
			cancel()
			<-called
			return err
		}
		if cerr := <-called; cerr != nil {
			return cerr
		}
		return err
	}
	return <-called
}

// watched is a stream that knows whether it has failed.
type watched struct {
	s   *wire.Stream
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.s.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.s.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}
