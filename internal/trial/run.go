package trial

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
)

// Outcome is how the tests of a file went.
type Outcome struct {
	Name  string   `json:"name,omitempty"`
	Tests []Tested `json:"tests"`
}

// Tested is how one test went.
type Tested struct {
	Name       string    `json:"name"`
	Assertions int       `json:"assertions"`
	Failures   []Failure `json:"failures,omitempty"`
}

// Failure is an assertion that does not hold. Error is set where the question has
// no answer.
type Failure struct {
	Question   string   `json:"question"` // as it was put, in one line
	Want       *bool    `json:"want,omitempty"`
	Got        *bool    `json:"got,omitempty"`
	Missing    []string `json:"missing,omitempty"`
	Unexpected []string `json:"unexpected,omitempty"`
	Error      string   `json:"error,omitempty"`
	Why        []string `json:"why,omitempty"` // for each answer that is wrong, drawn
}

// Count returns how many assertions there are, and how many do not hold.
func (o Outcome) Count() (total, failed int) {
	for _, t := range o.Tests {
		total, failed = total+t.Assertions, failed+len(t.Failures)
	}
	return total, failed
}

// memory is a store of the engine that lives as long as one file's tests. What
// else a store can do is never asked of it.
type memory struct {
	authz.Store
	authz.Archive
	engine *authz.Engine
	tuples map[relation.StoreID][]relation.Tuple
}

func (m *memory) LoadModels(context.Context) ([]authz.ModelRecord, error)    { return nil, nil }
func (m *memory) LoadPolicies(context.Context) ([]authz.PolicyRecord, error) { return nil, nil }

func (m *memory) LoadRollouts(context.Context) ([]authz.Rollout, error) { return nil, nil }

func (m *memory) PutRollout(context.Context, ledger.Change, authz.Rollout, authz.Content) (relation.Revision, error) {
	return relation.Revision{Rev: 1}, nil // the engine keeps what is not delivered to it
}

func (m *memory) WriteTuples(_ context.Context, c ledger.Change, w authz.Write) (relation.Revision, error) {
	m.tuples[c.Store] = append(m.tuples[c.Store], w.Writes...)
	rev := uint64(len(m.tuples[c.Store]))
	m.engine.Apply(c.Store, rev, w.Writes, w.Deletes)
	return relation.Revision{Store: c.Store, Rev: rev}, nil
}

func (m *memory) LoadGraph(_ context.Context, id relation.StoreID, each func(relation.Tuple) error) (authz.Loaded, error) {
	for _, t := range m.tuples[id] {
		if err := each(t); err != nil {
			return authz.Loaded{}, err
		}
	}
	return authz.Loaded{Revision: relation.Revision{Store: id, Rev: uint64(len(m.tuples[id]))}}, nil
}

// bench is an engine with one version and stores of tuples.
type bench struct {
	engine *authz.Engine
}

const application = "trial"

func newBench(ctx context.Context, d authz.Draft) (*bench, error) {
	m := &memory{tuples: map[relation.StoreID][]relation.Tuple{}}
	engine, err := authz.New(ctx, authz.Config{
		Store: m, Archive: m, Now: time.Now,
		Application: func(relation.StoreID) (string, bool) { return application, true },
	})
	if err != nil {
		return nil, err
	}
	m.engine = engine
	if _, err := engine.Enforce(ctx, ledger.Change{}, application, d); err != nil {
		return nil, err
	}
	return &bench{engine}, nil
}

// Model compiles a model as the engine would, conditions and all. Errors are
// those of [authz.Engine.Compile].
func Model(ctx context.Context, source string) (*schema.Model, error) {
	b, err := newBench(ctx, authz.Draft{Model: source})
	if err != nil {
		return nil, err
	}
	m, _ := b.engine.ActiveModel(application)
	return m, nil
}

// store makes a store of the tuples. One of the test's own takes the place of the
// file's with the same key.
func (b *bench) store(ctx context.Context, file, own []Tuple) (relation.StoreID, error) {
	id := relation.StoreID(tenant.RandomID())
	set := map[relation.Tuple]relation.Tuple{}
	for _, list := range [][]Tuple{file, own} {
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
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := b.engine.Write(ctx, ledger.Change{Store: id}, "", authz.Write{Writes: []relation.Tuple{t}}); err != nil {
			return "", fault.Wrap(fault.KindOf(err), "the tuple "+t.String()+": "+fault.Public(err), err)
		}
	}
	return id, nil
}

// Run runs the tests of the file against its own model alone. An error is about
// the file, not about an answer.
func (f *File) Run(ctx context.Context) (Outcome, error) {
	return f.RunWith(ctx, authz.Draft{Model: f.Model})
}

// RunWith runs the tests of the file against a version of an application, and
// not against the file's own model. Errors are as [File.Run]'s.
func (f *File) RunWith(ctx context.Context, d authz.Draft) (Outcome, error) {
	out := Outcome{Name: f.Name, Tests: []Tested{}}
	about := func(where string, err error) error {
		return fault.Wrap(fault.KindOf(err), where+": "+fault.Public(err), err)
	}
	if n := f.questions(); n > MaxQuestions {
		return out, fault.New(fault.TooLarge, fmt.Sprintf("the tests ask %d questions; one file may ask %d", n, MaxQuestions))
	}
	if n := f.tuples(); n > MaxTuples {
		return out, fault.New(fault.TooLarge, fmt.Sprintf("the tests write %d tuples, the file's again for each test with some of its own; one file may have %d", n, MaxTuples))
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	b, err := newBench(ctx, d)
	if err != nil {
		return out, about("the model", err)
	}
	var shared relation.StoreID // of the tests without tuples of their own
	for _, t := range f.Tests {
		where := "test " + t.Name
		store := shared
		if store == "" || len(t.Tuples) > 0 {
			if store, err = b.store(ctx, f.Tuples, t.Tuples); err != nil {
				return out, about(where, err)
			}
		}
		if len(t.Tuples) == 0 {
			shared = store
		}
		r := &runner{ctx: ctx, engine: b.engine, store: store, out: Tested{Name: t.Name}}
		if err := r.run(&t); err != nil {
			return out, about(where, err)
		}
		out.Tests = append(out.Tests, r.out)
	}
	return out, nil
}

// MaxQuestions bounds what the tests of one file ask, and MaxTuples what is
// written for them.
const (
	MaxQuestions = 100_000
	MaxTuples    = 200_000
)

// tuples counts what is written. It fits, as questions does.
func (f *File) tuples() int {
	n := len(f.Tuples)
	for _, t := range f.Tests {
		if len(t.Tuples) > 0 {
			n += len(f.Tuples) + len(t.Tuples)
		}
	}
	return n
}

// questions counts what the file asks. Each count is of lists in the file, so that
// their product fits.
func (f *File) questions() int {
	n := 0
	for _, t := range f.Tests {
		for _, q := range t.Check {
			n += max(1, len(q.Users)) * max(1, len(q.Objects)) * len(q.Assertions)
		}
		for _, q := range t.ListObjects {
			n += len(q.Assertions)
		}
		for _, q := range t.ListUsers {
			n += len(q.Assertions) * len(q.UserFilter)
		}
	}
	return n
}

// runner puts the questions of one test.
type runner struct {
	ctx     context.Context
	engine  *authz.Engine
	store   relation.StoreID
	claimed map[string]any // the context of the question
	out     Tested
}

func (r *runner) run(t *Test) (err error) {
	for _, q := range t.Check {
		if r.claimed, err = asJSON(q.Context); err != nil {
			return err
		}
		if err := r.ctx.Err(); err != nil {
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

func (r *runner) fail(x Failure) { r.out.Failures = append(r.out.Failures, x) }

func (r *runner) ask(user, rel, object string) (authz.Decision, error) {
	return r.engine.Check(r.ctx, authz.Query{
		Store: r.store, Object: object, Relation: rel, Subject: user, Asked: authz.Asked{Context: r.claimed}, Explain: true,
	})
}

func (r *runner) check(user, rel, object string, want bool) {
	r.out.Assertions++
	x := Failure{Question: "check " + user + " " + rel + " " + object}
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
	x := Failure{Question: "list_objects " + user + " " + rel + " " + typ}
	list, err := r.engine.ListObjects(r.ctx, authz.ObjectsQuery{
		Store: r.store, Type: typ, Relation: rel, Subject: user, Asked: authz.Asked{Context: r.claimed},
	})
	r.compare(x, want, list.Names, list.Truncated, err, func(object string) (authz.Decision, error) { return r.ask(user, rel, object) })
}

func (r *runner) users(object, rel string, filters []UserFilter, want []string) {
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
	x := Failure{Question: "list_users " + object + " " + rel + " " + strings.Join(forms, " ")}
	r.compare(x, want, names, cut, err, func(user string) (authz.Decision, error) { return r.ask(user, rel, object) })
}

// maxDrawn is how many wrong answers of one list are drawn.
const maxDrawn = 5

// compare holds a list to what it must be, in any order.
func (r *runner) compare(x Failure, want, got []string, cut bool, err error, ask func(string) (authz.Decision, error)) {
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
