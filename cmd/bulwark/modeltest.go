package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// modelTests is what model test prints.
type modelTests struct {
	Passed int          `json:"passed"` // assertions
	Failed int          `json:"failed"`
	Files  []testedFile `json:"files"`
}

type testedFile struct {
	File  string      `json:"file"`
	Name  string      `json:"name,omitempty"`
	Tests []testedOne `json:"tests"`
}

type testedOne struct {
	Name       string      `json:"name"`
	Assertions int         `json:"assertions"`
	Failures   []failedOne `json:"failures,omitempty"`
}

// failedOne is an assertion that does not hold. Error is set where the question
// has no answer.
type failedOne struct {
	Question   string   `json:"question"` // as it was put, in one line
	Want       *bool    `json:"want,omitempty"`
	Got        *bool    `json:"got,omitempty"`
	Missing    []string `json:"missing,omitempty"`
	Unexpected []string `json:"unexpected,omitempty"`
	Error      string   `json:"error,omitempty"`
	Why        []string `json:"why,omitempty"` // for each answer that is wrong, drawn
}

// runModelTest answers offline, with the engine that answers online.
func runModelTest(ctx context.Context, c *call) error {
	paths, err := c.parse(c.flags(), 1, -1)
	if err != nil {
		return err
	}
	all := modelTests{Files: []testedFile{}}
	for _, path := range paths {
		f, err := readStoreFile(path)
		if err != nil {
			return err
		}
		done, err := f.run(ctx, path)
		if err != nil {
			return err
		}
		total, failed := done.count()
		if total == 0 {
			return fault.New(fault.Invalid, path+": the file asserts nothing")
		}
		all.Passed, all.Failed = all.Passed+total-failed, all.Failed+failed
		all.Files = append(all.Files, done)
	}
	if err := c.show(all, func(w io.Writer) { printModelTests(w, all) }); err != nil {
		return err
	}
	if all.Failed > 0 {
		return errNo
	}
	return nil
}

func (f testedFile) count() (total, failed int) {
	for _, t := range f.Tests {
		total, failed = total+t.Assertions, failed+len(t.Failures)
	}
	return total, failed
}

func printModelTests(w io.Writer, all modelTests) {
	for _, f := range all.Files {
		total, failed := f.count()
		if failed == 0 {
			fmt.Fprintf(w, "ok    %s: %d assertions in %d tests\n", f.File, total, len(f.Tests))
			continue
		}
		fmt.Fprintf(w, "FAIL  %s: %d of %d assertions in %d tests\n", f.File, failed, total, len(f.Tests))
		for _, t := range f.Tests {
			for _, x := range t.Failures {
				x.print(w, t.Name)
			}
		}
	}
}

func (x failedOne) print(w io.Writer, test string) {
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

// memory is a store of the engine that lives as long as one file's tests. What
// else a store can do is never asked of it.
type memory struct {
	authz.Store
	authz.Archive
	tuples map[relation.StoreID][]relation.Tuple
}

func (m *memory) LoadModels(context.Context) ([]authz.ModelRecord, error)    { return nil, nil }
func (m *memory) LoadPolicies(context.Context) ([]authz.PolicyRecord, error) { return nil, nil }

func (m *memory) PutModel(context.Context, ledger.Change, authz.ModelRecord) (relation.Revision, error) {
	return relation.Revision{Rev: 1}, nil // the engine keeps what is not delivered to it
}

func (m *memory) WriteTuples(_ context.Context, c ledger.Change, w authz.Write) (relation.Revision, error) {
	m.tuples[c.Store] = append(m.tuples[c.Store], w.Writes...)
	return relation.Revision{Store: c.Store, Rev: 1}, nil
}

func (m *memory) LoadGraph(_ context.Context, id relation.StoreID, each func(relation.Tuple) error) (authz.Loaded, error) {
	for _, t := range m.tuples[id] {
		if err := each(t); err != nil {
			return authz.Loaded{}, err
		}
	}
	return authz.Loaded{Revision: relation.Revision{Store: id, Rev: 1}}, nil
}

// bench is an engine with one model and a store of tuples for each test.
type bench struct {
	engine *authz.Engine
	model  string // its id
}

const benchApplication = "model"

func newBench(ctx context.Context, source string) (*bench, error) {
	m := &memory{tuples: map[relation.StoreID][]relation.Tuple{}}
	engine, err := authz.New(ctx, authz.Config{
		Store: m, Archive: m, Now: time.Now,
		Application: func(relation.StoreID) (string, bool) { return benchApplication, true },
	})
	if err != nil {
		return nil, err
	}
	id, _, err := engine.PublishModel(ctx, ledger.Change{}, benchApplication, source, true)
	if err != nil {
		return nil, err
	}
	return &bench{engine, id}, nil
}

// store makes a store of the tuples. One of the test's own takes the place of the
// file's with the same key.
func (b *bench) store(ctx context.Context, file, own []fileTuple) (relation.StoreID, error) {
	id := relation.StoreID(tenant.RandomID())
	set := map[relation.Tuple]relation.Tuple{}
	for _, list := range [][]fileTuple{file, own} {
		seen := map[relation.Tuple]bool{}
		for _, f := range list {
			t, err := f.tuple()
			if err != nil {
				return "", err
			}
			if seen[t.Key()] {
				return "", fault.New(fault.Invalid, "the tuple "+t.String()+" is there twice")
			}
			seen[t.Key()], set[t.Key()] = true, t
		}
	}
	for _, t := range set {
		if _, err := b.engine.Write(ctx, ledger.Change{Store: id}, "", authz.Write{Writes: []relation.Tuple{t}}); err != nil {
			return "", fault.Wrap(fault.KindOf(err), "the tuple "+t.String()+": "+fault.Public(err), err)
		}
	}
	return id, nil
}

// run runs the tests of the file. An error is about the file, not about an answer.
func (f *storeFile) run(ctx context.Context, path string) (testedFile, error) {
	out := testedFile{File: path, Name: f.Name, Tests: []testedOne{}}
	about := func(where string, err error) error {
		return fault.Wrap(fault.KindOf(err), where+": "+fault.Public(err), err)
	}
	b, err := newBench(ctx, f.Model)
	if err != nil {
		return out, about(path+": the model", err)
	}
	for _, t := range f.Tests {
		where := path + ": test " + t.Name
		store, err := b.store(ctx, f.Tuples, t.Tuples)
		if err != nil {
			return out, about(where, err)
		}
		r := &runner{ctx: ctx, engine: b.engine, store: store, out: testedOne{Name: t.Name}}
		if err := r.run(&t); err != nil {
			return out, about(where, err)
		}
		out.Tests = append(out.Tests, r.out)
	}
	return out, nil
}

// runner puts the questions of one test.
type runner struct {
	ctx     context.Context
	engine  *authz.Engine
	store   relation.StoreID
	claimed map[string]any // the context of the question
	out     testedOne
}

func (r *runner) run(t *fileTest) (err error) {
	for _, q := range t.Check {
		if r.claimed, err = asJSON(q.Context); err != nil {
			return err
		}
		users, objects := append(one(q.User), q.Users...), append(one(q.Object), q.Objects...)
		if len(users) == 0 || len(objects) == 0 || q.User != "" && q.Users != nil || q.Object != "" && q.Objects != nil {
			return fault.New(fault.Invalid, "a check needs user or users, and object or objects")
		}
		for _, user := range users {
			for _, object := range objects {
				for _, rel := range slices.Sorted(maps.Keys(q.Assertions)) {
					r.check(user, rel, object, q.Assertions[rel])
				}
			}
		}
	}
	for _, q := range t.ListObjects {
		if r.claimed, err = asJSON(q.Context); err != nil {
			return err
		}
		for _, rel := range slices.Sorted(maps.Keys(q.Assertions)) {
			r.objects(q.User, rel, q.Type, q.Assertions[rel])
		}
	}
	for _, q := range t.ListUsers {
		if r.claimed, err = asJSON(q.Context); err != nil {
			return err
		}
		if len(q.UserFilter) == 0 {
			return fault.New(fault.Invalid, "list_users needs a user_filter")
		}
		for _, rel := range slices.Sorted(maps.Keys(q.Assertions)) {
			r.users(q.Object, rel, q.UserFilter, q.Assertions[rel].Users)
		}
	}
	return nil
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (r *runner) fail(x failedOne) { r.out.Failures = append(r.out.Failures, x) }

func (r *runner) ask(user, rel, object string) (authz.Decision, error) {
	return r.engine.Check(r.ctx, authz.Query{
		Store: r.store, Object: object, Relation: rel, Subject: user, Asked: authz.Asked{Context: r.claimed}, Explain: true,
	})
}

func (r *runner) check(user, rel, object string, want bool) {
	r.out.Assertions++
	x := failedOne{Question: "check " + user + " " + rel + " " + object}
	d, err := r.ask(user, rel, object)
	switch {
	case err != nil:
		x.Error = fault.Public(err)
	case d.Allowed != want:
		x.Want, x.Got, x.Why = &want, &d.Allowed, []string{drawn(d)}
	default:
		return
	}
	r.fail(x)
}

// drawn is the reason without its head, which says what the question says.
func drawn(d authz.Decision) string {
	_, drawing, _ := strings.Cut(d.Trace.String(), "\n\n")
	return drawing
}

func (r *runner) objects(user, rel, typ string, want []string) {
	x := failedOne{Question: "list_objects " + user + " " + rel + " " + typ}
	list, err := r.engine.ListObjects(r.ctx, authz.ObjectsQuery{
		Store: r.store, Type: typ, Relation: rel, Subject: user, Asked: authz.Asked{Context: r.claimed},
	})
	r.compare(x, want, list.Names, list.Truncated, err, func(object string) (authz.Decision, error) { return r.ask(user, rel, object) })
}

func (r *runner) users(object, rel string, filters []userFilter, want []string) {
	var names, forms []string
	var cut bool
	var err error
	for _, f := range filters {
		form := f.Type
		if f.Relation != "" {
			form += "#" + f.Relation
		}
		forms = append(forms, form)
		if err != nil {
			continue
		}
		var list authz.List
		list, err = r.engine.ListUsers(r.ctx, authz.UsersQuery{
			Store: r.store, Object: object, Relation: rel, Type: f.Type, Userset: f.Relation, Asked: authz.Asked{Context: r.claimed},
		})
		names, cut = append(names, list.Names...), cut || list.Truncated
	}
	x := failedOne{Question: "list_users " + object + " " + rel + " " + strings.Join(forms, " ")}
	r.compare(x, want, names, cut, err, func(user string) (authz.Decision, error) { return r.ask(user, rel, object) })
}

// maxDrawn is how many wrong answers of one list are drawn.
const maxDrawn = 5

// compare holds a list to what it must be, in any order.
func (r *runner) compare(x failedOne, want, got []string, cut bool, err error, ask func(string) (authz.Decision, error)) {
	r.out.Assertions++
	switch {
	case err != nil:
		x.Error = fault.Public(err)
	case cut:
		x.Error = "the list is too long to be answered whole"
	default:
		less := func(a, b []string) (out []string) {
			for _, name := range slices.Compact(slices.Sorted(slices.Values(a))) {
				if !slices.Contains(b, name) {
					out = append(out, name)
				}
			}
			return out
		}
		x.Missing, x.Unexpected = less(want, got), less(got, want)
		if len(x.Missing)+len(x.Unexpected) == 0 {
			return
		}
		for i, name := range slices.Concat(x.Missing, x.Unexpected) {
			if d, err := ask(name); i < maxDrawn && err == nil {
				x.Why = append(x.Why, drawn(d))
			} else if i < maxDrawn {
				x.Why = append(x.Why, name+": "+fault.Public(err))
			}
		}
	}
	r.fail(x)
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
	source, err := readModel(args[0])
	var b *bench
	if err == nil {
		b, err = newBench(ctx, source)
	}
	if err == nil {
		m, _ := b.engine.ActiveModel(benchApplication)
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
