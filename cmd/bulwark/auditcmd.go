package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

func auditCommands() []command {
	return []command{
		{"audit verify", "[--since CHECKPOINT] [--key VKEY]", "check the whole log on disk; exit 1 names each defect", runVerify},
		{"audit verify-proof", "FILE", "check a proof with the log's public key alone", runVerifyProof},
	}
}

// runVerify reads the segments themselves, offline or beside a running server,
// and needs nothing of ours but the log's public key.
func runVerify(ctx context.Context, c *call) error {
	var s session
	var since, vkey string
	f := c.flags()
	f.StringVar(&s.data, "data", defaultData, "data folder; the log is in its audit folder")
	f.StringVar(&since, "since", "", "file with a checkpoint that you kept elsewhere")
	f.StringVar(&vkey, "key", "", "the log's public key, kept elsewhere; empty: the one beside the log")
	f.BoolVar(&s.json, "json", false, "print JSON")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	dir := auditPath(s.data)
	verifier, err := logVerifier(dir, vkey)
	if err != nil {
		return err
	}
	opts := audit.VerifyOptions{Verifier: verifier}
	if since != "" {
		if opts.Since, err = os.ReadFile(since); err != nil {
			return fault.Wrap(fault.Invalid, "the checkpoint cannot be read: "+since, err)
		}
	}
	report, err := audit.Verify(ctx, dir, opts)
	if err != nil {
		return err
	}
	err = s.show(c.stdout, report, func(w io.Writer) {
		for _, d := range report.Defects {
			fmt.Fprintf(w, "%s: %s\n", d.Kind, d.Text)
		}
		for _, n := range report.Notes {
			fmt.Fprintln(w, "note:", n)
		}
		fmt.Fprintln(w, report.Summary())
	})
	if err == nil && !report.OK() {
		return errNo
	}
	return err
}

func logVerifier(dir, vkey string) (note.Verifier, error) {
	if vkey == "" {
		b, err := os.ReadFile(filepath.Join(dir, audit.VerifierFile))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.Invalid, "there is no audit log in "+dir+"; name the data folder with --data")
		}
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, "the log's public key cannot be read", err)
		}
		vkey = strings.TrimSpace(string(b))
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the log's public key is not one (C2SP signed-note)", err)
	}
	return v, nil
}

// runVerifyProof checks a proof with the log's public key and nothing else.
func runVerifyProof(_ context.Context, c *call) error {
	var s session
	var vkey string
	f := c.flags()
	f.StringVar(&s.data, "data", defaultData, "data folder, for the log's public key")
	f.StringVar(&vkey, "key", "", "the log's public key, kept elsewhere")
	f.BoolVar(&s.json, "json", false, "print JSON")
	args, err := c.parse(f, 1, 1)
	if err != nil {
		return err
	}
	verifier, err := logVerifier(auditPath(s.data), vkey)
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
	return s.show(c.stdout, event, func(w io.Writer) {
		fmt.Fprintf(w, "proven: event %s is in the log of %d blocks\n", event.Event.ID, checkpoint.Size)
	})
}
