package main

import (
	"context"
	"flag"
	"io"
	"time"

	"bulwark.example/internal/api/admin"
)

// verb is a command that is one call of the admin API.
type verb[T any] struct {
	as          string // in dev: who asks when --as is not given
	least, most int    // number of arguments
	flags       func(*flag.FlagSet)
	do          func(context.Context, *admin.Client, []string) (T, error)
	// of is do of a command about one application: the one that --application
	// names, else the only one that there is.
	of    func(ctx context.Context, c *admin.Client, application string, args []string) (T, error)
	human func(io.Writer, T)
	no    func(T) bool // reports whether the answer is no: exit code 1
}

func (v verb[T]) run(ctx context.Context, c *call) error {
	if v.of != nil {
		v = v.about()
	}
	client, args, err := c.client(v.as, v.least, v.most, v.flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // a command that hangs helps nobody
	defer cancel()
	out, err := v.do(ctx, client, args)
	if err != nil && v.no != nil {
		return unanswered{err}
	}
	if err != nil {
		return err
	}
	if err := c.show(out, func(w io.Writer) { v.human(w, out) }); err != nil {
		return err
	}
	if v.no != nil && v.no(out) {
		return errNo
	}
	return nil
}

// about makes do of of.
func (v verb[T]) about() verb[T] {
	var app string
	more := v.flags
	v.flags = func(f *flag.FlagSet) {
		application(f, &app)
		if more != nil {
			more(f)
		}
	}
	v.do = func(ctx context.Context, c *admin.Client, args []string) (T, error) {
		picked, err := pick(ctx, c, app)
		if err != nil {
			var none T
			return none, err
		}
		return v.of(ctx, c, picked, args)
	}
	return v
}

// client reads the flags of a command that asks the admin API, and opens its
// client.
func (c *call) client(as string, least, most int, more func(*flag.FlagSet)) (*admin.Client, []string, error) {
	r, args, err := c.remote(&session{}, as, least, most, more)
	if err != nil {
		return nil, nil, err
	}
	return r.admin(), args, nil
}

// remote reads the flags of a command that asks a server, and finds it.
func (c *call) remote(s *session, as string, least, most int, more func(*flag.FlagSet)) (*remote, []string, error) {
	f := c.flags()
	s.flags(f, as)
	if more != nil {
		more(f)
	}
	args, err := c.parse(f, least, most)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.open()
	return r, args, err
}

// admin returns a client of the server's admin API.
func (r *remote) admin() *admin.Client {
	return admin.NewClient(admin.ClientConfig{
		URL: r.api, HTTP: r.http,
		Token: func(ctx context.Context) (string, error) { return r.token(ctx, "admin") },
	})
}

// done is what commands print that change something and get nothing back.
type done struct {
	Done string `json:"done"`
}

func said(text string, err error) (done, error) { return done{text}, err }

func printDone(w io.Writer, d done) { _, _ = io.WriteString(w, d.Done+"\n") } // the terminal may be gone
