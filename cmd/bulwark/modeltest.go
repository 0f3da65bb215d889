package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/trial"
)

// modelTests is what model test prints.
type modelTests struct {
	Passed int          `json:"passed"` // assertions
	Failed int          `json:"failed"`
	Files  []testedFile `json:"files"`
}

type testedFile struct {
	File string `json:"file"`
	trial.Outcome
}

// runModelTest answers offline, with the engine that answers online.
func runModelTest(ctx context.Context, c *call) error {
	paths, err := c.parse(c.flags(), 1, -1)
	if err != nil {
		return err
	}
	all := modelTests{Files: []testedFile{}}
	for _, path := range paths {
		f, err := trial.Read(path)
		if err != nil {
			return err
		}
		done, err := f.Run(ctx)
		if err != nil {
			return fault.Wrap(fault.KindOf(err), path+": "+fault.Public(err), err)
		}
		total, failed := done.Count()
		if total == 0 {
			return fault.New(fault.Invalid, path+": the file asserts nothing")
		}
		all.Passed, all.Failed = all.Passed+total-failed, all.Failed+failed
		all.Files = append(all.Files, testedFile{path, done})
	}
	if err := c.show(all, func(w io.Writer) { printModelTests(w, all) }); err != nil {
		return err
	}
	if all.Failed > 0 {
		return errNo
	}
	return nil
}

func printModelTests(w io.Writer, all modelTests) {
	for _, f := range all.Files {
		printOutcome(w, f.File, f.Outcome)
	}
}

func printOutcome(w io.Writer, name string, o trial.Outcome) {
	total, failed := o.Count()
	if failed == 0 {
		fmt.Fprintf(w, "ok    %s: %d assertions in %d tests\n", name, total, len(o.Tests))
		return
	}
	fmt.Fprintf(w, "FAIL  %s: %d of %d assertions in %d tests\n", name, failed, total, len(o.Tests))
	for _, t := range o.Tests {
		for _, x := range t.Failures {
			printFailure(w, t.Name, x)
		}
	}
}

func printFailure(w io.Writer, test string, x trial.Failure) {
	yes := map[bool]string{true: "yes", false: "no"}
	fmt.Fprintf(w, "\n  %s: %s", test, x.Question)
	switch {
	case x.Error != "":
		fmt.Fprintf(w, ": no answer: %s", x.Error)
	case x.Want != nil:
		fmt.Fprintf(w, ": want %s, got %s", yes[*x.Want], yes[*x.Got])
	}
	fmt.Fprintln(w)
	for _, name := range x.Missing {
		fmt.Fprintln(w, "    missing    ", name)
	}
	for _, name := range x.Unexpected {
		fmt.Fprintln(w, "    unexpected ", name)
	}
	for _, why := range x.Why {
		fmt.Fprintf(w, "      %s\n", strings.ReplaceAll(strings.TrimRight(why, "\n"), "\n", "\n      "))
	}
}

// modelResult is what model validate prints.
type modelResult struct {
	OK      bool     `json:"ok"`
	ID      string   `json:"id,omitempty"`
	Types   []string `json:"types,omitempty"`
	Problem string   `json:"problem,omitempty"`
}

// runModelValidate looks at a model as publishing it would, without a server.
func runModelValidate(ctx context.Context, c *call) error {
	args, err := c.parse(c.flags(), 1, 1)
	if err != nil {
		return err
	}
	if _, err := os.Stat(args[0]); err != nil {
		return fault.Wrap(fault.Invalid, "the model cannot be read: "+args[0], err)
	}
	var r modelResult
	source, err := trial.ReadModel(args[0])
	var m *schema.Model
	if err == nil {
		m, err = trial.Model(ctx, source)
	}
	if err == nil {
		r = modelResult{OK: true, ID: m.ID(), Types: m.Types()}
	} else {
		r.Problem = fault.Public(err)
	}
	err = c.show(r, func(w io.Writer) {
		if r.OK {
			fmt.Fprintf(w, "ok: %d types, model %s\n", len(r.Types), r.ID)
		} else {
			fmt.Fprintf(w, "%s: %s\n", args[0], r.Problem)
		}
	})
	if err == nil && !r.OK {
		return errNo
	}
	return err
}
