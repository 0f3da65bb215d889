package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/archive"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/spicedb"
	"bulwark.example/internal/transfer"
)

// spiceFile is what was read: a schema with relationships, and what must hold.
type spiceFile struct {
	schema   *spicedb.Schema
	tuples   []relation.Tuple
	expected []spiceAssertion
	ignored  []string // parts of a validation file that say nothing to us
}

// spiceAssertion is one of a validation file's: a question with its answer.
type spiceAssertion struct {
	question transfer.Question
	text     string
	want     string // "yes", "no", or "caveated": there is no answer without more context
}

// spiceReport is what an import of SpiceDB's did.
type spiceReport struct {
	Store      string   `json:"store"`
	Name       string   `json:"name"`
	Model      string   `json:"model"`
	Tuples     int      `json:"tuples"`
	Assertions int      `json:"assertions"` // of the validation file, that were asked
	Failed     []string `json:"failed,omitempty"`
	Ignored    []string `json:"ignored,omitempty"`
}

func runImportSpiceDB(ctx context.Context, c *call) error {
	var schemaPath, tuplesPath, into string
	var show bool
	var s session
	f := c.flags()
	s.patience = transferPatience
	s.flags(f, "admin@acme")
	f.StringVar(&schemaPath, "schema", "", "the schema; a validation file (.yaml) holds relationships and assertions as well")
	f.StringVar(&tuplesPath, "relationships", "", "the relationships, one a line")
	f.StringVar(&into, "into", "", "name of the new store; without it that of the file")
	f.BoolVar(&show, "print", false, "print the model that the schema becomes, and do nothing")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	if schemaPath == "" {
		return usageError("name the schema with --schema")
	}
	in, err := readSpice(schemaPath, tuplesPath)
	if err != nil {
		return err
	}
	for _, kind := range in.schema.MustEnd() {
		in.ignored = append(in.ignored, "that relationships must end: "+kind+"; tuples here can, none has to")
	}
	if show {
		return c.show(map[string]string{"model": in.schema.Model.ID(), "dsl": in.schema.Source}, func(w io.Writer) { fmt.Fprint(w, in.schema.Source) })
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(schemaPath), filepath.Ext(schemaPath))
	out, err := restoreSpice(ctx, r.admin(), in, cmp.Or(into, name))
	if err != nil {
		return err
	}
	report := spiceReport{Store: out.Store, Name: out.Name, Model: in.schema.Model.ID(), Tuples: out.Tuples, Assertions: len(in.expected), Ignored: in.ignored}
	if report.Failed, err = askSpice(ctx, r.here(out.Store), in.expected); err != nil {
		return fault.Wrap(fault.KindOf(err), "the store "+out.Store+" is made, and its assertions could not be asked: "+fault.Public(err), err)
	}
	if err := c.show(report, func(w io.Writer) { printSpice(w, report) }); err != nil {
		return err
	}
	if len(report.Failed) > 0 {
		return errNo
	}
	return nil
}

func printSpice(w io.Writer, r spiceReport) {
	fmt.Fprintf(w, "store %s (%s) has the model %s and %d tuples; %d of %d assertions hold\n", r.Store, r.Name, r.Model, r.Tuples, r.Assertions-len(r.Failed), r.Assertions)
	for _, f := range r.Failed {
		fmt.Fprintln(w, "  does not hold:", f)
	}
	for _, i := range r.Ignored {
		fmt.Fprintln(w, "  not looked at:", i)
	}
}

// restoreSpice makes the store from an archive: whole or not at all, and with
// relationships that end, which OpenFGA's API cannot write.
func restoreSpice(ctx context.Context, client *admin.Client, in spiceFile, name string) (admin.Restored, error) {
	read, write := io.Pipe()
	go func() {
		now := time.Now().UTC()
		a, err := archive.NewWriter(write, archive.Header{Kind: "free", Name: name, Made: now, Models: 1, Tuples: len(in.tuples)})
		if err == nil {
			err = a.Model(archive.Model{ID: in.schema.Model.ID(), Active: true, Created: now, Source: in.schema.Source})
		}
		for _, t := range in.tuples {
			if err == nil {
				err = a.Tuple(t)
			}
		}
		if err == nil {
			_, err = a.Close()
		}
		write.CloseWithError(err)
	}()
	defer func() { _ = read.Close() }() // ends the writer where the server did not read on
	return client.Restore(ctx, read, admin.RestoreInto{Name: name})
}

// askSpice returns the assertions that do not hold.
func askSpice(ctx context.Context, store transfer.Store, all []spiceAssertion) (failed []string, err error) {
	for _, a := range all {
		got, err := store.Check(ctx, a.question)
		if err != nil {
			return nil, err
		}
		answer := map[bool]string{true: "yes", false: "no"}[got.Allowed]
		if got.Error != "" {
			answer = "caveated"
		}
		if answer != a.want {
			failed = append(failed, fmt.Sprintf("%s: %s, not %s", a.text, got, a.want))
		}
	}
	return failed, nil
}

func readSpice(schemaPath, tuplesPath string) (in spiceFile, err error) {
	text, err := os.ReadFile(schemaPath)
	if err != nil {
		return in, fault.Wrap(fault.Invalid, "the schema cannot be read: "+schemaPath, err)
	}
	if ext := filepath.Ext(schemaPath); ext == ".yaml" || ext == ".yml" {
		if tuplesPath != "" {
			return in, usageError("a validation file brings its relationships along")
		}
		return in.validation(schemaPath, text)
	}
	if in.schema, err = spicedb.Parse(string(text), 1); err != nil {
		return in, inFile(schemaPath, err)
	}
	if tuplesPath == "" {
		return in, nil
	}
	f, err := os.Open(tuplesPath)
	if err != nil {
		return in, fault.Wrap(fault.Invalid, "the relationships cannot be read: "+tuplesPath, err)
	}
	defer func() { _ = f.Close() }()
	if in.tuples, err = in.schema.Relationships(f, 1); err != nil {
		return in, inFile(tuplesPath, err)
	}
	return in, nil
}

func inFile(path string, err error) error {
	return fault.Wrap(fault.KindOf(err), path+": "+fault.Public(err), err)
}

// validation reads a file as SpiceDB's playground and `zed validate` have it.
func (in spiceFile) validation(path string, text []byte) (spiceFile, error) {
	var file struct {
		Schema        yaml.Node            `yaml:"schema"`
		Relationships yaml.Node            `yaml:"relationships"`
		Assertions    map[string][]string  `yaml:"assertions"`
		Validation    map[string]yaml.Node `yaml:"validation"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		return in, fault.Wrap(fault.Invalid, path+" is no validation file: "+strings.Join(strings.Fields(err.Error()), " "), err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return in, fault.Wrap(fault.Invalid, path+" holds more than one document", err)
	}
	if file.Schema.Kind != yaml.ScalarNode {
		return in, fault.New(fault.Invalid, path+" has no schema in it")
	}
	if k := file.Relationships.Kind; k != 0 && k != yaml.ScalarNode {
		return in, fault.New(fault.Invalid, path+": its relationships must be a text, one a line")
	}
	var err error
	if in.schema, err = spicedb.Parse(file.Schema.Value, firstLine(&file.Schema)); err != nil {
		return in, inFile(path, err)
	}
	if in.tuples, err = in.schema.Relationships(strings.NewReader(file.Relationships.Value), firstLine(&file.Relationships)); err != nil {
		return in, inFile(path, err)
	}
	for _, kind := range []struct{ name, want string }{{"assertTrue", "yes"}, {"assertFalse", "no"}, {"assertCaveated", "caveated"}} {
		for _, text := range file.Assertions[kind.name] {
			q, err := assertion(text)
			if err == nil {
				err = in.schema.Askable(q.Object, q.Relation, q.User)
			}
			if err != nil {
				return in, inFile(path+": the assertion "+text, err)
			}
			in.expected = append(in.expected, spiceAssertion{q, text, kind.want})
		}
		delete(file.Assertions, kind.name)
	}
	for _, name := range slices.Sorted(maps.Keys(file.Assertions)) {
		return in, fault.New(fault.Unsupported, path+": assertions of the kind "+name+" are not known here")
	}
	if len(file.Validation) > 0 {
		in.ignored = append(in.ignored, "the validation of who has what, and how")
	}
	return in, nil
}

// firstLine is the number of the first line of a block of text.
func firstLine(n *yaml.Node) int {
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return n.Line + 1
	}
	return max(n.Line, 1)
}

// assertion reads "resource:id#permission@subject:id with {...}".
func assertion(text string) (q transfer.Question, err error) {
	wrong := fault.New(fault.Invalid, "an assertion is resource:id#permission@subject:id, and with {...} behind it if there is a context")
	head, context, has := strings.Cut(text, " with ")
	object, rest, ok := strings.Cut(strings.TrimSpace(head), "#")
	rel, user, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 {
		return q, wrong
	}
	q.Object, q.Relation, q.User = object, rel, strings.TrimSuffix(user, "#...")
	if has {
		var values map[string]any
		if err := json.Unmarshal([]byte(context), &values); err != nil {
			return q, errors.Join(wrong, err)
		}
		q.Context = json.RawMessage(context)
	}
	return q, nil
}
