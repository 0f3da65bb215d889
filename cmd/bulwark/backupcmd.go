package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/archive"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

func transferCommands() []command {
	return []command{
		{"backup store", "STORE > FILE", "an archive of one store, named by its id, or a default store by its application", runBackup},
		{"restore store", "[--name NAME | --application A] < FILE", "make a new store from an archive, or fill the empty default store of an application", runRestore},
		{"import openfga", "--url URL --store ID [--into NAME] [--follow]", "bring a store over from a live OpenFGA, and follow its changes; exit 1: something was skipped", runImportOpenFGA},
		{"import spicedb", "--schema FILE [--relationships FILE] [--into NAME]", "make a store of a SpiceDB schema and its relationships, or of a validation file", runImportSpiceDB},
		{"diff openfga", "--url URL --store ID --ours STORE [--questions FILE]", "put the same questions to an OpenFGA and to us: exit 0 all answers alike, 1 not", runDiffOpenFGA},
	}
}

// transferPatience is how long a server may work on an archive before it answers.
const transferPatience = 30 * time.Minute

// progress tells how far something is, at most once a second, and once at the
// end.
type progress struct {
	w    io.Writer
	what string // "%d of 100 tuples"
	next time.Time
}

func (p *progress) at(n int64) {
	if now := time.Now(); now.After(p.next) {
		if !p.next.IsZero() { // what takes no time needs no progress
			fmt.Fprintf(p.w, p.what+"\n", n)
		}
		p.next = now.Add(time.Second)
	}
}

// saved is what a backup says of itself.
type saved struct {
	Store    string `json:"store"`
	Revision uint64 `json:"revision"`
	Models   int    `json:"models"`
	Tuples   int    `json:"tuples"`
	Digest   string `json:"digest"`
}

func runBackup(ctx context.Context, c *call) error {
	var file string
	r, args, err := c.remote(&session{patience: transferPatience}, "admin@acme", 1, 1, func(f *flag.FlagSet) {
		f.StringVar(&file, "file", "", "where to write the archive, a file that is not there yet; without it standard output")
	})
	if err != nil {
		return err
	}
	client := r.admin()
	store, err := storeID(ctx, client, args[0])
	if err != nil {
		return err
	}
	out, human := c.stdout, c.stderr // the archive is what goes to standard output
	if file != "" {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fault.Wrap(fault.Conflict, "the file is there already: "+file, err)
		}
		if err != nil {
			return fault.Wrap(fault.Invalid, "the file cannot be made: "+file, err)
		}
		done, err := save(ctx, client, store, f, c.stderr)
		if err == nil {
			err = cmp.Or(f.Sync(), f.Close())
		}
		if err != nil {
			_ = f.Close() // it is removed
			_ = os.Remove(file)
			return err
		}
		return c.show(done, func(w io.Writer) { printSaved(w, done) })
	}
	if f, ok := c.stdout.(*os.File); ok && terminal(f) {
		return usageError("an archive is not for a terminal: send standard output into a file, or name one with --file")
	}
	done, err := save(ctx, client, store, out, c.stderr)
	if err != nil {
		return err
	}
	c.stdout = human
	return c.show(done, func(w io.Writer) { printSaved(w, done) })
}

func terminal(f *os.File) bool {
	at, err := f.Stat()
	return err == nil && at.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

func printSaved(w io.Writer, s saved) {
	fmt.Fprintf(w, "saved store %s at revision %d: %d models, %d tuples\nsha256 %s\n", s.Store, s.Revision, s.Models, s.Tuples, s.Digest)
}

// storeID takes an id, or the application whose default store is meant.
func storeID(ctx context.Context, client *admin.Client, name string) (string, error) {
	if tenant.ValidID(name) {
		return name, nil
	}
	self, err := client.Self(ctx)
	if err != nil {
		return "", err
	}
	for _, g := range self.Tenant.Stores {
		if g.Application == name {
			return g.ID, nil
		}
	}
	return "", fault.New(fault.NotFound, "there is no store with the id "+name+", and no application of that name")
}

// save writes the archive of a store, and reads it on the way: an archive that
// did not arrive whole is an error now and not on the day when it is needed.
func save(ctx context.Context, client *admin.Client, store string, w io.Writer, say io.Writer) (saved, error) {
	body, err := client.Backup(ctx, store)
	if err != nil {
		return saved{}, err
	}
	defer func() { _ = body.Close() }()
	a, err := archive.NewReader(io.TeeReader(body, w))
	var p progress
	n := int64(0)
	if err == nil {
		p = progress{w: say, what: fmt.Sprintf("%%d of %d tuples", a.Header.Tuples)}
	}
	for ; err == nil; n++ {
		p.at(n)
		_, err = a.Next()
	}
	if err != io.EOF {
		return saved{}, fault.Wrap(fault.KindOf(err), "what was written is no whole archive: "+fault.Public(err), err)
	}
	h := a.Header
	return saved{Store: string(h.Store), Revision: h.Revision, Models: h.Models, Tuples: h.Tuples, Digest: a.Digest()}, nil
}

func runRestore(ctx context.Context, c *call) error {
	var into admin.RestoreInto
	var file string
	r, _, err := c.remote(&session{patience: transferPatience}, "admin@acme", 0, 0, func(f *flag.FlagSet) {
		f.StringVar(&into.Name, "name", "", "of the new store; without it the archive's")
		f.StringVar(&into.Application, "application", "", "fill the empty default store of this application instead")
		f.StringVar(&file, "file", "", "the archive; without it standard input")
	})
	if err != nil {
		return err
	}
	in := c.stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return fault.Wrap(fault.Invalid, "the archive cannot be read: "+file, err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	out, err := r.admin().Restore(ctx, &counted{r: in, p: progress{w: c.stderr, what: "%d bytes sent"}}, into)
	if err != nil {
		return err
	}
	return c.show(out, func(w io.Writer) {
		fmt.Fprintf(w, "store %s (%s) has %d models, %d tuples\n", out.Store, out.Name, out.Models, out.Tuples)
		if out.LeftOut > 0 {
			fmt.Fprintf(w, "left out: %d tuples that the model in force does not take, among them %s\n", out.LeftOut, out.First)
		}
		if out.AssertionsLeftOut > 0 {
			fmt.Fprintf(w, "left out: assertions of %d models that the application does not have\n", out.AssertionsLeftOut)
		}
		for _, who := range out.Exclusive {
			fmt.Fprintln(w, "exclusive roles, denied until one is taken away: "+who)
		}
		if out.ExclusiveUnclear {
			fmt.Fprintln(w, "note: perhaps others hold exclusive roles, too; decisions deny them")
		}
		if out.Roles+out.Policies > 0 {
			fmt.Fprintf(w, "with %d roles and %d files of policies of the tenant's own\n", out.Roles, out.Policies)
		}
		if out.Unguarded {
			fmt.Fprintln(w, "note: policies or exclusive roles decide in the archive's store, and none do in a store of your own: its answers may allow more")
		}
		fmt.Fprintln(w, strings.TrimSpace("consistency token "+out.Revision))
	})
}

// counted tells how much of a stream was read. It hides what else the reader can:
// a client must not take the file's length for the archive's.
type counted struct {
	r io.Reader
	n int64
	p progress
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.p.at(c.n)
	return n, err
}
