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
	human       func(io.Writer, T)
	no          func(T) bool // reports whether the answer is no: exit code 1
}

func (v verb[T]) run(ctx context.Context, c *call) error {
	var s session
	f := c.flags()
	s.flags(f, v.as)
	if v.flags != nil {
		v.flags(f)
	}
	args, err := c.parse(f, v.least, v.most)
	if err != nil {
		return err
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // a command that hangs helps nobody
	defer cancel()
	out, err := v.do(ctx, client, args)
	if err != nil {
		return err
	}
	if err := s.show(c.stdout, out, func(w io.Writer) { v.human(w, out) }); err != nil {
		return err
	}
	if v.no != nil && v.no(out) {
		return errNo
	}
	return nil
}

// done is what commands print that change something and get nothing back.
type done struct {
	Done string `json:"done"`
}

func said(text string, err error) (done, error) { return done{text}, err }

func printDone(w io.Writer, d done) { _, _ = io.WriteString(w, d.Done+"\n") } // the terminal may be gone
