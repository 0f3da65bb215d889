package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

func auditCommands() []command {
	return []command{
		{"audit tail", "[-n N] [--follow]", "the newest events, oldest first", tailEvents()},
		{"audit query", "[--class C] [--subject S] [--limit N]", "find events, the newest first", queryEvents()},
		{"audit export", "[--follow]", "all events of the tenant as NDJSON, in the order of the log", runExport},
		{"audit prove", "EVENT", "the proof that an event is in the log, as JSON", proveEvent()},
		{"audit checkpoint", "", "the log's newest signed head: keep it elsewhere", checkpoint()},
		{"audit verify", "[--since CHECKPOINT] [--key VKEY]", "check the whole log on disk; exit 1 names each defect", runVerify},
		{"audit verify-proof", "FILE", "check a proof with the log's public key alone", runVerifyProof},
	}
}

func filterFlags(f *flag.FlagSet, e *admin.EventFilter) {
	f.StringVar(&e.Class, "class", "", "mutation, key-use, admin-read, deny, check, allow, reject or system")
	f.StringVar(&e.Action, "action", "", "noun.verb, e.g. tuple.write")
	f.StringVar(&e.Subject, "subject", "", "user:<id> or service:<id>")
	f.StringVar(&e.Resource, "resource", "", "what it was about")
	f.StringVar(&e.Decision, "decision", "", "allow or deny")
	f.StringVar(&e.Reason, "reason", "", "code of the reason")
	f.StringVar(&e.Request, "request", "", "id of a request or of a decision")
	moment := func(t *time.Time) func(string) error {
		return func(s string) (err error) {
			if *t, err = time.Parse(time.RFC3339, s); err != nil {
				return errors.New("not a time like 2026-01-31T12:00:00Z")
			}
			return nil
		}
	}
	f.Func("since", "not before this time (RFC 3339)", moment(&e.Since))
	f.Func("until", "before this time (RFC 3339)", moment(&e.Until))
}

func queryEvents() func(context.Context, *call) error {
	var filter admin.EventFilter
	limit := 50
	return verb[[]admin.Event]{
		as: "admin@acme",
		flags: func(f *flag.FlagSet) {
			filterFlags(f, &filter)
			f.IntVar(&limit, "limit", limit, "at most so many, 1 to 1000")
		},
		do: func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Event, error) {
			page, err := c.Events(ctx, filter, admin.Paging{Limit: limit})
			return page.Items, err
		},
		human: printEvents,
	}.run
}

func printEvents(w io.Writer, events []admin.Event) {
	table(w, "TIME CLASS ACTION DECISION REASON SUBJECT RESOURCE ID", events, func(e admin.Event) []string {
		return []string{e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), e.Class, e.Action, e.Decision, e.Reason, e.Subject, e.Resource, e.ID}
	})
}

// tailEvents prints the newest events and, with --follow, what comes after.
func tailEvents() func(context.Context, *call) error {
	return func(ctx context.Context, c *call) error {
		var filter admin.EventFilter
		var n int
		var follow bool
		client, _, err := c.client("admin@acme", 0, 0, func(f *flag.FlagSet) {
			filterFlags(f, &filter)
			f.IntVar(&n, "n", 20, "how many, 1 to 1000")
			f.BoolVar(&follow, "follow", false, "go on as the log grows")
		})
		if err != nil {
			return err
		}
		page, err := client.Events(ctx, filter, admin.Paging{Limit: n})
		if err != nil {
			return err
		}
		slices.Reverse(page.Items)
		out := &lineWriter{json: c.json, w: c.stdout}
		for _, e := range page.Items {
			if err := out.print(e); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		if len(page.Items) > 0 {
			filter.Since = page.Items[len(page.Items)-1].Time
			out.seen = page.Items[len(page.Items)-1].ID
		}
		return client.Export(ctx, filter, true, out)
	}
}

// lineWriter prints NDJSON events as they come, each once.
type lineWriter struct {
	json bool
	w    io.Writer
	seen string // the id of the last event of the list before
	buf  []byte
}

// Write takes parts of lines.
func (l *lineWriter) Write(b []byte) (int, error) {
	l.buf = append(l.buf, b...)
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 {
			return len(b), nil
		}
		var e admin.Event
		if err := json.Unmarshal(l.buf[:i], &e); err != nil {
			return 0, fault.Wrap(fault.Unavailable, "the answer is not one of this API", err)
		}
		l.buf = l.buf[i+1:]
		if e.ID == l.seen {
			continue
		}
		if err := l.print(e); err != nil {
			return 0, err
		}
	}
}

func (l *lineWriter) print(e admin.Event) error {
	if l.json {
		return json.NewEncoder(l.w).Encode(e)
	}
	_, err := fmt.Fprintf(l.w, "%s  %-10s %-16s %-5s %-14s %s %s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), e.Class, e.Action, e.Decision, e.Reason, e.Subject, e.Resource)
	return err
}

// runExport writes NDJSON whether or not --json is given: it is made for
// machines.
func runExport(ctx context.Context, c *call) error {
	var filter admin.EventFilter
	var follow bool
	client, _, err := c.client("admin@acme", 0, 0, func(f *flag.FlagSet) {
		filterFlags(f, &filter)
		f.BoolVar(&follow, "follow", false, "go on as the log grows")
	})
	if err != nil {
		return err
	}
	return client.Export(ctx, filter, follow, c.stdout)
}

func proveEvent() func(context.Context, *call) error {
	return verb[json.RawMessage]{
		as: "admin@acme", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (json.RawMessage, error) {
			return c.Prove(ctx, args[0])
		},
		human: func(w io.Writer, p json.RawMessage) { fmt.Fprintln(w, string(p)) },
	}.run
}

func checkpoint() func(context.Context, *call) error {
	return verb[admin.Checkpoint]{
		as: "admin@acme",
		do: func(ctx context.Context, c *admin.Client, _ []string) (admin.Checkpoint, error) {
			return c.Checkpoint(ctx)
		},
		human: func(w io.Writer, p admin.Checkpoint) { fmt.Fprint(w, p.Checkpoint) },
	}.run
}

// runVerify reads the segments themselves, offline or beside a running server,
// and needs nothing of ours but the log's public key.
func runVerify(ctx context.Context, c *call) error {
	var log logFlags
	var since string
	f := c.flags()
	log.flags(f)
	f.StringVar(&since, "since", "", "file with a checkpoint that you kept elsewhere")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	verifier, err := log.verifier()
	if err != nil {
		return err
	}
	opts := audit.VerifyOptions{Verifier: verifier}
	if since != "" {
		if opts.Since, err = os.ReadFile(since); err != nil {
			return fault.Wrap(fault.Invalid, "the checkpoint cannot be read: "+since, err)
		}
	}
	report, err := audit.Verify(ctx, auditPath(log.data), opts)
	if err != nil {
		return err
	}
	err = c.show(report, func(w io.Writer) {
		for _, d := range report.Defects {
			fmt.Fprintf(w, "%s: %s\n", d.Kind, d.Text)
		}
		for _, n := range report.Notes {
			fmt.Fprintln(w, "note:", n)
		}
		if since == "" && report.OK() {
			fmt.Fprintln(w, "      keep what `bulwark audit checkpoint` prints on another machine, and give it with --since FILE")
		}
		fmt.Fprintln(w, report.Summary())
	})
	if err == nil && !report.OK() {
		return errNo
	}
	return err
}

// logFlags say where a log is, and whose it is.
type logFlags struct{ data, key string }

func (l *logFlags) flags(f *flag.FlagSet) {
	f.StringVar(&l.data, "data", defaultData, "data folder; the log is in its audit folder")
	f.StringVar(&l.key, "key", "", "the log's public key, kept elsewhere; without it, the one beside the log")
}

// verifier returns the log's public key as it was given, else as it stands
// beside the log.
func (l *logFlags) verifier() (note.Verifier, error) {
	if l.key == "" {
		dir := auditPath(l.data)
		b, err := os.ReadFile(filepath.Join(dir, audit.VerifierFile))
		if errors.Is(err, fs.ErrNotExist) {
			hint := "name the data folder with --data"
			if _, err := os.Stat(auditPath(filepath.Join(l.data, "data"))); err == nil {
				hint = "try --data " + quote(filepath.Join(l.data, "data"))
			}
			return nil, fault.New(fault.Invalid, "there is no audit log in "+dir+"; "+hint)
		}
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, "the log's public key cannot be read: "+filepath.Join(dir, audit.VerifierFile), err)
		}
		l.key = strings.TrimSpace(string(b))
	}
	v, err := note.NewVerifier(l.key)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the log's public key is not one (C2SP signed-note)", err)
	}
	return v, nil
}

// runVerifyProof checks a proof with the log's public key and nothing else.
func runVerifyProof(_ context.Context, c *call) error {
	var log logFlags
	f := c.flags()
	log.flags(f)
	args, err := c.parse(f, 1, 1)
	if err != nil {
		return err
	}
	verifier, err := log.verifier()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return fault.Wrap(fault.Invalid, "the proof cannot be read: "+args[0], err)
	}
	var p ledger.Proof
	if err := json.Unmarshal(b, &p); err != nil {
		return fault.Wrap(fault.Invalid, "the proof is not JSON", err)
	}
	event, checkpoint, err := p.Verify(verifier)
	if err != nil {
		return err
	}
	return c.show(event, func(w io.Writer) {
		fmt.Fprintf(w, "proven: event %s is in the log of %d blocks\n", event.Event.ID, checkpoint.Size)
	})
}
