package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/transfer"
)

// peer is a live OpenFGA as a person names it.
type peer struct{ url, store, tokenFile, ca string }

func (p *peer) flags(f *flag.FlagSet) {
	f.StringVar(&p.url, "url", "", "of the OpenFGA server: https://host[:port], or http:// to this machine alone")
	f.StringVar(&p.store, "store", "", "id of the store there")
	f.StringVar(&p.tokenFile, "api-token-file", "", "file with the API token for it, if it wants one")
	f.StringVar(&p.ca, "ca", "", "PEM file with the CA of its certificate; without it the system's")
}

// open makes the store from what was named. Only that server is ever reached.
func (p *peer) open() (transfer.Store, error) {
	var none transfer.Store
	u, err := url.Parse(p.url)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return none, usageError("name the OpenFGA server with --url https://host[:port]")
	}
	if p.store == "" {
		return none, usageError("name the store there with --store")
	}
	cfg := outgoing.Config{Allow: []string{u.Hostname()}, Timeout: patience, PlainLoopback: true}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		cfg.Allow = []string{netip.PrefixFrom(a, a.BitLen()).String()}
	}
	if p.ca != "" {
		pem, err := os.ReadFile(p.ca)
		if err != nil {
			return none, fault.Wrap(fault.Invalid, "the CA cannot be read: "+p.ca, err)
		}
		if cfg.RootCAs, err = parsePool(pem, "the CA for "+u.Host); err != nil {
			return none, err
		}
	}
	s := transfer.Store{URL: p.url, ID: p.store}
	if s.HTTP, err = outgoing.Operator(cfg); err != nil {
		return none, err
	}
	if p.tokenFile == "" {
		return s, nil
	}
	token, err := os.ReadFile(p.tokenFile)
	if err != nil || strings.TrimSpace(string(token)) == "" {
		return none, fault.Wrap(fault.Invalid, "there is no API token in "+p.tokenFile, err)
	}
	s.Token = func(context.Context) (string, error) { return strings.TrimSpace(string(token)), nil }
	return s, nil
}

// here is a store of ours, as the same API shows it.
func (r *remote) here(id string) transfer.Store {
	return transfer.Store{URL: r.api, ID: id, HTTP: r.http, Token: keep(func(ctx context.Context) (string, error) { return r.token(ctx, "authz") })}
}

// keep asks for a new token every two minutes: they live for five.
func keep(get func(context.Context) (string, error)) func(context.Context) (string, error) {
	var mu sync.Mutex
	var token string
	var until time.Time
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(until) {
			return token, nil
		}
		var err error
		if token, err = get(ctx); err == nil {
			until = time.Now().Add(2 * time.Minute)
		}
		return token, err
	}
}

// followPause is how long an import waits for more changes.
const followPause = time.Second

func runImportOpenFGA(ctx context.Context, c *call) error {
	var from peer
	var into, id, state string
	var follow bool
	r, _, err := c.remote(&session{}, "admin@acme", 0, 0, func(f *flag.FlagSet) {
		from.flags(f)
		f.StringVar(&into, "into", "", "name of the new store here; without it that of the store there")
		f.StringVar(&id, "store-id", "", "an own store here to go into, instead of a new one")
		f.StringVar(&state, "state", "", "file that says how far the import came: named again, it goes on from there")
		f.BoolVar(&follow, "follow", false, "go on with the changes until interrupted; without it until there are no more")
	})
	if err != nil {
		return err
	}
	if into != "" && id != "" {
		return usageError("name a new store with --into or one that is here with --store-id, not both")
	}
	m := transfer.Import{Now: time.Now}
	if m.From, err = from.open(); err != nil {
		return err
	}
	if err := resume(&m, state, id); err != nil {
		return err
	}
	m.To = r.here(m.State.Into)
	given := m.To.ID != ""
	if err := target(ctx, r, &m, into); err != nil {
		return err
	}
	p := progress{w: c.stderr, what: "%d tuples"}
	m.Say = func(n int) { p.at(int64(n)) }
	m.Trouble = func(err error) { fmt.Fprintln(c.stderr, "waiting: "+fault.Public(err)) }
	kept := false
	if state != "" {
		m.Save = func(s transfer.State) error {
			err := writeState(state, s)
			kept = kept || err == nil
			return err
		}
	}
	err = m.Copy(ctx)
	if err != nil && !given && !kept { // nobody could go on with it
		if end := m.To.Delete(context.WithoutCancel(ctx)); end != nil {
			fmt.Fprintf(c.stderr, "the store %s is left in part: %s\n", m.To.ID, fault.Public(end))
		}
	}
	if err == nil && follow {
		fmt.Fprintf(c.stderr, "%d tuples and %d changes are here; following\n", m.Report.Tuples, m.Report.Changes)
		err = m.Follow(ctx, followPause)
	}
	if err != nil {
		return err
	}
	if err := c.show(m.Report, func(w io.Writer) { printImport(w, m.Report) }); err != nil {
		return err
	}
	if m.Report.Skipped > 0 {
		return errNo // not everything is here
	}
	return nil
}

// target finds or makes the store that the import goes into.
func target(ctx context.Context, r *remote, m *transfer.Import, name string) error {
	if m.To.ID != "" {
		self, err := r.admin().Self(ctx)
		if err != nil {
			return err
		}
		for _, g := range self.Tenant.Stores {
			if g.ID == m.To.ID {
				return fault.New(fault.Denied, "this is the store of the application "+g.Application+", whose models are the operator's; name one of your own, or none for a new one")
			}
		}
		return nil
	}
	theirs, _, err := m.From.Info(ctx)
	if err != nil {
		return err
	}
	if err := m.To.Create(ctx, cmp.Or(name, theirs)); err != nil {
		return err
	}
	m.State.Into = m.To.ID
	return nil
}

// resume reads the state of an earlier run, if there was one.
func resume(m *transfer.Import, path, id string) error {
	m.State = transfer.State{URL: m.From.URL, From: m.From.ID, Into: id}
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s transfer.State
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	switch {
	case err != nil || s.Version != 1 || s.Into == "":
		return fault.Wrap(fault.Invalid, "this is no state of an import: "+path, err)
	case s.URL != m.From.URL || s.From != m.From.ID || id != "" && id != s.Into:
		return fault.New(fault.Conflict, "the state in "+path+" is of another import: from "+s.From+" at "+s.URL+" into "+s.Into)
	}
	m.State = s
	return nil
}

func writeState(path string, s transfer.State) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, "the state does not encode", err)
	}
	return writeDurable(path, append(raw, '\n'))
}

func printImport(w io.Writer, r transfer.Report) {
	fmt.Fprintf(w, "store %s: %d models, %d tuples read, %d changes followed, %d skipped\n", r.Store, len(r.Models), r.Tuples, r.Changes, r.Skipped)
	for _, s := range r.Skips {
		fmt.Fprintf(w, "  skipped %s: %s\n", s.What, s.Reason)
	}
	if more := r.Skipped - len(r.Skips); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

func runDiffOpenFGA(ctx context.Context, c *call) error {
	var from peer
	var ours, file string
	var sample int
	var seed uint64
	r, _, err := c.remote(&session{}, "admin@acme", 0, 0, func(f *flag.FlagSet) {
		from.flags(f)
		f.StringVar(&ours, "ours", "", "the store here: its id, or an application for its default store")
		f.StringVar(&file, "questions", "", "file of questions, one a line: object relation user, or JSON; without it they are drawn from the tuples there")
		f.IntVar(&sample, "sample", 1000, "how many questions to draw")
		f.Uint64Var(&seed, "seed", 1, "another one draws other questions")
	})
	if err != nil {
		return err
	}
	if ours == "" || sample < 1 || sample > 1_000_000 {
		return usageError("name the store here with --ours, and up to a million questions with --sample")
	}
	theirs, err := from.open()
	if err != nil {
		return err
	}
	id, err := storeID(ctx, r.admin(), ours)
	if err != nil {
		return err
	}
	var questions []transfer.Question
	if file == "" {
		questions, err = transfer.Draw(ctx, theirs, sample, rand.New(rand.NewPCG(seed, 0)))
	} else {
		questions, err = readQuestions(file)
	}
	if err != nil {
		return err
	}
	if len(questions) == 0 {
		return fault.New(fault.Invalid, "there is no question to ask")
	}
	out, err := transfer.Compare(ctx, theirs, r.here(id), questions)
	if err != nil {
		return unanswered{err}
	}
	if err := c.show(out, func(w io.Writer) { printComparison(w, out) }); err != nil {
		return err
	}
	if out.Differ > 0 {
		return errNo
	}
	return nil
}

func readQuestions(path string) ([]transfer.Question, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the questions cannot be read: "+path, err)
	}
	defer func() { _ = f.Close() }()
	return transfer.Questions(f)
}

func printComparison(w io.Writer, r transfer.Comparison) {
	for _, d := range r.Differences {
		fmt.Fprintf(w, "%s %s\n  theirs: %s\n  ours:   %s\n", d.Question.Key, d.Question.Context, d.Theirs, d.Ours)
		var why authz.Trace
		if len(d.Why) > 0 && json.Unmarshal(d.Why, &why) == nil {
			fmt.Fprintln(w, "    "+strings.ReplaceAll(strings.TrimSpace(why.String()), "\n", "\n    "))
		}
	}
	if more := r.Differ - len(r.Differences); more > 0 {
		fmt.Fprintf(w, "and %d more differences\n", more)
	}
	fmt.Fprintf(w, "%d questions: %d differ; alike: %d allowed, %d denied, %d without an answer\n", r.Asked, r.Differ, r.Allowed, r.Denied, r.Unanswered)
}
