package authz

import (
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// Copies is what an archive of one store needs of a database. It is safe for
// concurrent use.
type Copies interface {
	// CopyGraph reads a store from one consistent view: begin gets all but the
	// tuples, then each tuple goes to each, in the order of their keys. An error
	// of theirs ends the reading. Kind [fault.NotFound] for an unknown store.
	CopyGraph(_ context.Context, _ relation.StoreID, begin func(Contents) error, each func(relation.Tuple) error) error
	// FillGraph puts all of it into the change's store, in one revision: assertions,
	// in the place of any of the same models, roles, policies and the tuples. The
	// records reach [Engine.ApplyEntry], then the tuples [Engine.Apply], before it
	// returns. Kind [fault.Conflict] if the store holds tuples, roles or policies of
	// the tenant's own.
	FillGraph(context.Context, ledger.Change, Contents, []relation.Tuple) (relation.Revision, error)
}

// Contents is what a store holds, but its tuples.
type Contents struct {
	Revision   relation.Revision
	Models     []ModelRecord     // of a free store, oldest first
	Assertions map[string][]byte // by model, as [Archive] keeps them
	Roles      []Role            // the tenant's own, of a default store
	Own        *OwnPolicies      // of a default store; nil for none
	Tuples     int               // how many there are
}

// RestoreBatch is how many tuples of a restore share a revision: all other
// writers wait while one commits.
const RestoreBatch = 1000

// MaxRestoreWhole is how many tuples [Engine.RestoreWhole] takes: nobody else
// writes while it commits.
const MaxRestoreWhole = 100_000

// Restored is what comes into a free store that was just made. Its models come
// last, the one in force at the end: until then the store answers nothing, and a
// process that stops in between leaves one that never does.
type Restored struct {
	Models     []ModelRecord
	Assertions map[string][]byte
	Next       func() (relation.Tuple, error) // [io.EOF] at the end
}

// Restore fills an empty free store, revision by revision. Each has an event
// like change's, with the number of its part; the last one has change's own id,
// and stands for the whole. It says how many tuples there were. After an error
// the store holds a part, and is to be deleted. Kinds: [fault.Invalid] for
// what [Restored.Check] refuses, the stores and next's.
func (e *Engine) Restore(ctx context.Context, change ledger.Change, r Restored) (relation.Revision, int, error) {
	var none relation.Revision
	if named, ok := e.cfg.Application(change.Store); !ok || named != FreeApplication(change.Store) {
		return none, 0, fault.New(fault.Denied, "only a free store can be filled from an archive")
	}
	records, err := r.ordered(ctx, FreeApplication(change.Store))
	if err != nil {
		return none, 0, err
	}
	change.Event.Detail = detailed(change.Event.Detail)
	part := 0
	next := func(last bool) ledger.Change {
		c := change
		part++
		if !last {
			c.Event.ID = "" // the store gives it one of its own
			c.Event.Detail = map[string]string{"part": strconv.Itoa(part)}
		}
		return c
	}
	total := 0
	batch := make([]relation.Tuple, 0, RestoreBatch)
	for end := false; !end; {
		t, err := r.Next()
		if end = err == io.EOF; err != nil && !end {
			return none, 0, err
		}
		if !end {
			batch = append(batch, t)
		}
		if len(batch) < RestoreBatch && !end || len(batch) == 0 {
			continue
		}
		if _, err := e.cfg.Store.WriteTuples(ctx, next(false), Write{Writes: batch}); err != nil {
			return none, 0, err
		}
		total += len(batch)
		batch = make([]relation.Tuple, 0, RestoreBatch) // the last one's receivers may keep it
	}
	for model, payload := range r.Assertions {
		if _, err := e.cfg.Archive.PutAssertions(ctx, next(false), model, payload); err != nil {
			return none, 0, err
		}
	}
	rev := none
	change.Event.Detail["parts"] = strconv.Itoa(part + len(records))
	change.Event.Detail["tuples"] = strconv.Itoa(total)
	for i, rec := range records {
		if rev, err = e.cfg.Store.PutModel(ctx, next(i == len(records)-1), rec); err != nil {
			return none, 0, err
		}
	}
	return rev, total, nil
}

// detailed copies an event's detail, which the caller may share.
func detailed(d map[string]string) map[string]string {
	if d = maps.Clone(d); d == nil {
		d = map[string]string{}
	}
	return d
}

// Check reports what is wrong with all but the tuples, before anything is stored:
// models that are not what their ids say or do not compile, none in force or two,
// assertions of no model. The error has kind [fault.Invalid], or is ctx's: ten
// thousand models take their time to compile.
func (r Restored) Check(ctx context.Context) error {
	_, err := r.ordered(ctx, FreeApplication(""))
	return err
}

// ordered returns the models in the order in which they are to be stored.
func (r Restored) ordered(ctx context.Context, application string) ([]ModelRecord, error) {
	if len(r.Models) == 0 {
		return nil, fault.New(fault.Invalid, "the archive holds no model: nothing could answer about the store")
	}
	probe := newApplication(application)
	var out []ModelRecord
	var active *ModelRecord
	for _, rec := range r.Models {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rec.Application = application
		if schema.ID(rec.Source) != rec.ID {
			return nil, fault.New(fault.Invalid, "a model of the archive is not the one that its id names: "+clipID(rec.ID))
		}
		if y := rec.Created.UTC().Year(); !rec.Created.IsZero() && (y < 1970 || y > 2261) { // which no store keeps
			return nil, fault.New(fault.Invalid, "the model "+rec.ID+" of the archive was made at no time that can be")
		}
		if _, err := probe.compile(rec.Source); err != nil {
			return nil, fault.Wrap(fault.Invalid, "the model "+rec.ID+" of the archive cannot be used: "+fault.Public(err), err)
		}
		if slices.ContainsFunc(out, func(o ModelRecord) bool { return o.ID == rec.ID }) || rec.Active && active != nil {
			return nil, fault.New(fault.Invalid, "the archive holds a model twice, or two that are in force")
		}
		if rec.Active {
			active = &rec
			continue
		}
		out = append(out, rec)
	}
	if active == nil {
		return nil, fault.New(fault.Invalid, "no model of the archive is in force: nothing could answer about the store")
	}
	for model := range r.Assertions {
		if !slices.ContainsFunc(r.Models, func(m ModelRecord) bool { return m.ID == model }) {
			return nil, fault.New(fault.Invalid, "the archive holds assertions of a model that it does not hold: "+clipID(model))
		}
	}
	return append(out, *active), nil
}

func clipID(id string) string { return strings.ToValidUTF8(id[:min(len(id), 26)], "") }

// ModelInForce returns the version by which a default store answers. Kinds:
// [fault.NotFound] for an unknown store or an application without a model,
// [fault.Denied] for another kind of store.
func (e *Engine) ModelInForce(store relation.StoreID) (ModelRecord, error) {
	if err := e.protected(store); err != nil {
		return ModelRecord{}, err
	}
	named, _ := e.cfg.Application(store)
	by, err := e.application(named).answers(store, "")
	if err != nil {
		return ModelRecord{}, err
	}
	m := by.model.model
	out := ModelRecord{Application: named, ID: m.ID(), Source: m.Source(), Active: true}
	for _, known := range e.Models(named) {
		if known.ID == out.ID {
			out.Created = known.Created
		}
	}
	return out, nil
}

// Whole is what comes into a default store.
type Whole struct {
	Roles      []Role
	Policies   []PolicyFile
	Assertions map[string][]byte              // by model
	Next       func() (relation.Tuple, error) // [io.EOF] at the end
}

// Filled says what came into a default store.
type Filled struct {
	Revision   relation.Revision
	Tuples     int
	LeftOut    []relation.Tuple // that the model in force does not take
	Assertions int              // for how many models
	Unknown    []string         // models of assertions that were left out: the application does not have them

	// Overlaps names, as far as it is short, who could hold two exclusive roles by
	// the tuples; Unclear: perhaps others, too.
	Overlaps []*Overlap
	Unclear  bool
}

// RestoreWhole fills a default store that is empty, in one revision: its models
// are its application's, and it answers while it is filled. The tenant's own
// policies come with the tuples that they guard; what the operator does not
// delegate any more permits nothing. Tuples that the model in force does not take
// would grant nothing today and something one day: they are left out. Whoever
// holds two exclusive roles by what is restored is denied when asked about, as
// ever, and named: another model or other roles may have been in force when the
// tuples were written. Kinds: [fault.Conflict] for a store that is not empty,
// [fault.TooLarge] beyond [MaxRestoreWhole], [fault.Invalid] for roles, policies
// and assertions that do not fit the application, the stores and next's.
func (e *Engine) RestoreWhole(ctx context.Context, into Copies, change ledger.Change, w Whole) (Filled, error) {
	named, _ := e.cfg.Application(change.Store)
	var out Filled
	in, err := e.wholeContents(ctx, change.Store, w)
	if err != nil {
		return out, err
	}
	for model := range w.Assertions {
		if !slices.ContainsFunc(e.Models(named), func(m ModelRecord) bool { return m.ID == model }) {
			out.Unknown = append(out.Unknown, clipID(model))
			delete(in.Assertions, model)
		}
	}
	slices.Sort(out.Unknown)
	by, err := e.application(named).answers(change.Store, "")
	if err != nil {
		return out, err
	}
	var all []relation.Tuple
	for {
		t, err := w.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return out, err
		}
		if by.model.accepts(t) != nil {
			out.LeftOut = append(out.LeftOut, t)
		} else {
			all = append(all, t)
		}
		if len(all)+len(out.LeftOut) > MaxRestoreWhole { // both are in memory
			return out, fault.New(fault.TooLarge, "a store with more than "+strconv.Itoa(MaxRestoreWhole)+" tuples can be restored into a new store only")
		}
	}
	out.Tuples, out.Assertions = len(all), len(in.Assertions)
	ent, _, _, err := e.view(ctx, change.Store, "")
	if err != nil {
		return out, err
	}
	leave, err := ent.alone(ctx) // an assignment beside it would not know of these tuples, nor these of it
	if err != nil {
		return out, err
	}
	defer leave()
	if out.Overlaps, out.Unclear, err = e.overlaps(ctx, change.Store, all); err != nil {
		return out, err
	}
	change.Event.Detail = detailed(change.Event.Detail)
	for name, n := range map[string]int{
		"tuples": out.Tuples, "left_out": len(out.LeftOut), "roles": len(in.Roles), "policies": len(w.Policies), "assertions": out.Assertions,
	} {
		change.Event.Detail[name] = strconv.Itoa(n)
	}
	if len(out.Overlaps) > 0 {
		change.Event.Detail["overlaps"] = strconv.Itoa(len(out.Overlaps))
		out.Overlaps[0].mark(&change.Event)
	}
	out.Revision, err = into.FillGraph(ctx, change, in, all)
	return out, err
}

// maxAssertions bounds the assertions of one model, in bytes. OpenFGA's bound for
// what is written, 64,000 bytes, is before they are spelt as JSON.
const maxAssertions = 1 << 20

// wholeContents is what is no tuple, if it fits the store.
func (e *Engine) wholeContents(ctx context.Context, store relation.StoreID, w Whole) (in Contents, err error) {
	of, _, err := e.Roles(ctx, store)
	if err != nil {
		return in, err
	}
	if len(w.Roles) > MaxRoles {
		return in, fault.New(fault.Exhausted, "a store may have "+strconv.Itoa(MaxRoles)+" roles of its own")
	}
	for _, r := range w.Roles {
		if err := of.Allow(r); err != nil {
			return in, err
		}
	}
	named, _ := e.cfg.Application(store)
	by, err := e.application(named).answers(store, "")
	if err != nil {
		return in, err
	}
	in = Contents{Roles: w.Roles, Assertions: maps.Clone(w.Assertions)}
	for model, payload := range w.Assertions {
		if len(payload) > maxAssertions {
			return in, fault.New(fault.Invalid, "the archive holds more than 1 MiB of assertions of the model "+clipID(model))
		}
	}
	if len(w.Policies) > 0 {
		set, err := by.ownPolicies(w.Policies, true)
		if err != nil {
			return in, err
		}
		in.Own = &OwnPolicies{Store: store, ID: set.ID(), Files: w.Policies, Created: e.cfg.Now().UTC()}
	}
	return in, nil
}
