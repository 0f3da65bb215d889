// Package release governs how an application's decisions may change.
//
// A release names everything that decides: a model, guard policies and roles, with
// the tests that prove them. It is proposed by one person and approved by
// another, who signs the digest of the exact change: what is in force, and what
// is to be. Then it is activated, at once or in waves over tenants, and can be
// rolled back at once. What is in force at a time is authz's rollout; this
// package says which rollouts may be.
package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/trial"
)

// KindRelease is the changelog's kind of releases: the key is
// "<application>/<id>", the payload the JSON of a [Release].
const KindRelease = "release"

// Release is one change of an application, from what was in force when it was
// proposed to its version. Its JSON form is what a store's changelog carries.
type Release struct {
	Application string `json:"application"`
	// ID is the digest of the exact change, which an approval signs: the SHA-256 of
	// the JSON of all that decides, before and after (see digest), in hex.
	ID      string        `json:"id"`
	Base    authz.Version `json:"base"` // what was in force; zero if nothing was
	Version authz.Version `json:"version"`
	// ModelSum is the SHA-256 of the model's text, in hex: the model's id is a shorter
	// hash, on which nobody should have to sign.
	ModelSum string       `json:"model_sha256"`
	Tests    []trial.File `json:"tests"`
	Note     string       `json:"note,omitempty"` // why, in the proposer's words
	Proposed Mark         `json:"proposed"`
	Approved Mark         `json:"approved,omitzero"`
	Refused  Mark         `json:"refused,omitzero"` // a second person said no, or the proposer withdrew it
}

// Mark says who did something, and when.
type Mark struct {
	By string    `json:"by"` // "user:<id>" or "service:<id>"
	At time.Time `json:"at"`
}

// digest is what an approval signs. Its fields are never reordered: the digest
// of a stored release must stay what it is.
type digest struct {
	Format      int           `json:"format"` // 1
	Application string        `json:"application"`
	Base        authz.Version `json:"base"`
	Version     authz.Version `json:"version"`
	ModelSum    string        `json:"model_sha256"`
	Tests       []trial.File  `json:"tests"`
}

// Digest computes the release's ID from what it says. The error has kind
// [fault.Invalid].
func (r *Release) Digest() (string, error) {
	d := digest{1, r.Application, r.Base, r.Version, r.ModelSum, r.Tests}
	d.Version.Release = ""
	raw, err := json.Marshal(d)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "the tests hold what JSON cannot", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// Open reports whether the release waits for a word of a second person.
func (r *Release) Open() bool { return r.Approved.By == "" && r.Refused.By == "" }

// Store keeps releases. Every method is safe for concurrent use.
type Store interface {
	LoadReleases(context.Context) ([]Release, error)
	// PutRelease stores the content and the release, new or known, and forgets
	// others of its application by their ids, known or not, in one transaction; the
	// change must be the platform's. All of it is delivered before it returns.
	PutRelease(ctx context.Context, change ledger.Change, r Release, c authz.Content, forget ...string) error
}

// Config says what a [Registry] works with. All fields but Fits are required.
type Config struct {
	Store  Store
	Engine *authz.Engine
	Now    func() time.Time
	// Fits says whether those who work by a draft beside the engine can: the
	// gateway by its routes. Its error is the proposer's to read.
	Fits func(authz.Draft) error
}

// maxOpen bounds the releases of one application that wait for a word.
const maxOpen = 64

// maxRefused bounds the refused releases of one application that are kept, each
// with its tests. Who refused what stays in the audit log.
const maxRefused = 32

// MaxTestFiles bounds the test files of one proposal: each compiles the model anew
// for an engine of its own.
const MaxTestFiles = 100

// Registry knows the releases of all applications. It is safe for concurrent use.
type Registry struct {
	cfg Config

	changing sync.Mutex // one change at a time; held over the store's writes

	mu  sync.Mutex // guards all
	all map[string]map[string]Release
}

// Open loads the releases. Errors are the store's, and [fault.Integrity] for a
// release that is not what its id says.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	g := &Registry{cfg: cfg, all: map[string]map[string]Release{}}
	list, err := cfg.Store.LoadReleases(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if err := g.take(r); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Apply takes one committed change over, without a payload that a release is
// forgotten; other kinds do nothing. The error has kind [fault.Integrity].
func (g *Registry) Apply(kind, key string, payload []byte) error {
	if kind != KindRelease {
		return nil
	}
	if payload == nil {
		application, id, _ := strings.Cut(key, "/")
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.all[application], id)
		return nil
	}
	var r Release
	err := json.Unmarshal(payload, &r)
	if err == nil && key != r.Application+"/"+r.ID {
		err = fault.New(fault.Integrity, "a release has the key of another")
	}
	if err != nil {
		return fault.Wrap(fault.Integrity, "a release cannot be read", err)
	}
	return g.take(r)
}

func (g *Registry) take(r Release) error {
	if id, err := r.Digest(); err != nil || id != r.ID {
		return fault.Wrap(fault.Integrity, "a stored release is not what its digest says", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all[r.Application] == nil {
		g.all[r.Application] = map[string]Release{}
	}
	g.all[r.Application][r.ID] = r
	return nil
}

// List returns an application's releases, the newest first.
func (g *Registry) List(application string) []Release {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Release
	for _, r := range g.all[application] {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Release) int {
		if c := b.Proposed.At.Compare(a.Proposed.At); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// Get returns the release whose id is or begins with the text, of at least eight
// characters. Kind [fault.NotFound] if there is none or more than one.
func (g *Registry) Get(application, id string) (Release, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, ok := g.all[application][id]; ok {
		return r, nil
	}
	var found []Release
	for known, r := range g.all[application] {
		if len(id) >= 8 && strings.HasPrefix(known, id) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return Release{}, fault.New(fault.NotFound, "the application has no such release, or several; give more of its id")
	}
	return found[0], nil
}

// Proposal is what is to be in force, with its tests.
type Proposal struct {
	Draft authz.Draft
	Tests []trial.File // none: those of the release in force
	Note  string
}

// Plan is what a proposal comes to.
type Plan struct {
	Release Release
	Draft   authz.Draft // what its version is, spelt out
	Content authz.Content
	// Outcomes are those of the tests, in their order.
	Outcomes []trial.Outcome
	Changes  bool // false: this is in force already, proven by the same tests
}

// Plan compiles a proposal and runs its tests. Nothing is stored. Errors are
// about the proposal: those of [authz.Engine.Compile], of the tests' files, and
// [fault.Invalid] for a proposal without an assertion, and [fault.TooLarge] beyond
// [MaxTestFiles].
func (g *Registry) Plan(ctx context.Context, application string, p Proposal) (Plan, error) {
	if n := len(p.Tests); n > MaxTestFiles {
		return Plan{}, fault.New(fault.TooLarge, fmt.Sprintf("the proposal has %d test files; one may have %d", n, MaxTestFiles))
	}
	now, _ := g.cfg.Engine.Rollout(application)
	v, content, err := g.cfg.Engine.Compile(application, p.Draft)
	if err != nil {
		return Plan{}, err
	}
	if err := g.fits(p.Draft); err != nil {
		return Plan{}, err
	}
	proven := g.Tests(application, now.Current)
	tests := normal(p.Tests)
	if len(tests) == 0 {
		tests = proven
	}
	plan := Plan{Draft: p.Draft, Content: content, Changes: !v.Same(&now.Current) || !sameTests(tests, proven)}
	plan.Release = Release{Application: application, Base: now.Current, Version: v, ModelSum: sumOf(p.Draft.Model), Tests: tests, Note: p.Note}
	if plan.Release.ID, err = plan.Release.Digest(); err != nil {
		return Plan{}, err
	}
	plan.Release.Version.Release = plan.Release.ID
	if !plan.Changes && len(tests) == 0 {
		return plan, nil
	}
	plan.Outcomes, err = prove(ctx, plan.Release.Tests, p.Draft)
	return plan, err
}

// Tests returns the tests that came with a version: none with what an
// installation begins with.
func (g *Registry) Tests(application string, v authz.Version) []trial.File {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all[application][v.Release].Tests
}

// sameTests compares as digests do.
func sameTests(a, b []trial.File) bool {
	if len(a)+len(b) == 0 {
		return true
	}
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

func (g *Registry) fits(d authz.Draft) error {
	if g.cfg.Fits == nil {
		return nil
	}
	return g.cfg.Fits(d)
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// normal leaves out what does not count: the model that a file was written for.
func normal(tests []trial.File) []trial.File {
	out := slices.Clone(tests)
	for i := range out {
		out[i].Model = ""
	}
	return out
}

// prove runs the tests. The error is about them, not about how they went.
func prove(ctx context.Context, tests []trial.File, d authz.Draft) ([]trial.Outcome, error) {
	var all []trial.Outcome
	asserted := 0
	for i := range tests {
		o, err := tests[i].RunWith(ctx, d)
		if err != nil {
			return nil, fault.Wrap(fault.KindOf(err), fmt.Sprintf("test file %d (%s): %s", i+1, tests[i].Name, fault.Public(err)), err)
		}
		n, _ := o.Count()
		asserted += n
		all = append(all, o)
	}
	if asserted == 0 {
		return nil, fault.New(fault.Invalid, "a release needs tests that assert something; give at least one .fga.yaml file")
	}
	return all, nil
}

func failures(all []trial.Outcome) (n int) {
	for _, o := range all {
		_, failed := o.Count()
		n += failed
	}
	return n
}

// Propose stores a release that waits for a second person. Its tests may fail
// still; activation needs them to pass. Errors are those of [Registry.Plan],
// [fault.Conflict] for a change that changes nothing or was proposed already, and
// [fault.Exhausted] when too many wait.
func (g *Registry) Propose(ctx context.Context, change ledger.Change, application string, p Proposal, by string) (Plan, error) {
	plan, err := g.Plan(ctx, application, p) // its tests may take minutes, and nobody who rolls back waits for them
	if err != nil {
		return plan, err
	}
	g.changing.Lock()
	defer g.changing.Unlock()
	if now, _ := g.cfg.Engine.Rollout(application); !sameVersion(now.Current, plan.Release.Base) {
		return plan, fault.New(fault.Conflict, "something else has come into force meanwhile; propose it anew")
	}
	if !plan.Changes {
		return plan, fault.New(fault.Conflict, "this is in force already")
	}
	if r, err := g.Get(application, plan.Release.ID); err == nil && r.Refused.By == "" {
		return plan, fault.New(fault.Conflict, "this was proposed already, as the release "+short(r.ID))
	}
	if now, _ := g.cfg.Engine.Rollout(application); now.Next != nil {
		return plan, fault.New(fault.Conflict, "a wave of the release "+short(now.Next.Release)+" is under way; finish it or roll it back")
	}
	open := 0
	for _, r := range g.List(application) {
		if r.Open() {
			open++
		}
	}
	if open >= maxOpen {
		return plan, fault.New(fault.Exhausted, "too many releases wait for a second person; approve or refuse some")
	}
	plan.Release.Proposed = Mark{by, g.cfg.Now().UTC()}
	return plan, g.cfg.Store.PutRelease(ctx, change, plan.Release, plan.Content)
}

// Approve signs the digest of a proposed release for a second person; whether by
// is a person, the caller knows. Kinds: [fault.NotFound], [fault.Denied] for the
// proposer, [fault.Conflict] for a release that had its word.
func (g *Registry) Approve(ctx context.Context, change ledger.Change, application, digest, by string) (Release, error) {
	return g.word(ctx, change, application, digest, func(r *Release) error {
		switch {
		case !r.Open():
			return errSaid
		case r.Proposed.By == by:
			return fault.New(fault.Denied, "nobody approves an own proposal; a second person must")
		}
		r.Approved = Mark{by, g.cfg.Now().UTC()}
		return nil
	})
}

// Refuse ends a release that is not in force: a second person's no, the proposer's
// own withdrawal, or the end of an approval, which otherwise could be used as long
// as nothing else comes into force, and again after a roll-back. Kinds as
// [Registry.Approve]'s; [fault.Conflict] for what is in force, which is rolled back.
// Of those refused before, the oldest beyond a bound are forgotten.
func (g *Registry) Refuse(ctx context.Context, change ledger.Change, application, digest, by string) (Release, error) {
	return g.word(ctx, change, application, digest, func(r *Release) error {
		now, _ := g.cfg.Engine.Rollout(application)
		switch {
		case r.Refused.By != "":
			return errSaid
		case now.Current.Release == r.ID || now.Next != nil && now.Next.Release == r.ID:
			return fault.New(fault.Conflict, "the release is in force; roll it back first")
		}
		r.Refused = Mark{by, g.cfg.Now().UTC()}
		return nil
	})
}

// surplus returns the ids of the refused releases that another one has no room
// beside. One that a roll-back has brought back or can bring back stays: its tests
// hold the next release.
func (g *Registry) surplus(application string) (ids []string) {
	now, _ := g.cfg.Engine.Rollout(application)
	refused := slices.DeleteFunc(g.List(application), func(r Release) bool {
		return r.Refused.By == "" || r.ID == now.Current.Release || now.Previous != nil && r.ID == now.Previous.Release
	})
	slices.SortFunc(refused, func(a, b Release) int {
		if c := b.Refused.At.Compare(a.Refused.At); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for i := maxRefused - 1; i < len(refused); i++ {
		ids = append(ids, refused[i].ID)
	}
	return ids
}

var errSaid = fault.New(fault.Conflict, "the release was approved or refused already")

func (g *Registry) word(ctx context.Context, change ledger.Change, application, digest string, say func(*Release) error) (Release, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	r, err := g.Get(application, digest)
	if err != nil {
		return r, err
	}
	if digest != r.ID {
		return r, fault.New(fault.Invalid, "give the whole digest, as release show prints it: it is what you sign")
	}
	if err := say(&r); err != nil {
		return r, err
	}
	var forget []string
	if r.Refused.By != "" {
		forget = g.surplus(application)
	}
	return r, g.cfg.Store.PutRelease(ctx, change, r, authz.Content{}, forget...)
}

// Activate puts an approved release in force: for the stores, beside those that
// have it already, or for all of them if there are none. Its tests run again.
// Kinds: [fault.NotFound], [fault.Denied] without a second person's approval,
// [fault.Conflict] if something else came into force since it was proposed, and
// [fault.Invalid] while its tests fail.
func (g *Registry) Activate(ctx context.Context, change ledger.Change, application, id string, stores []relation.StoreID) (authz.Rollout, error) {
	r, now, err := g.ready(application, id)
	if err != nil {
		return now, err
	}
	// Tests may take minutes, and nobody who rolls back waits for them.
	d, err := g.cfg.Engine.Draft(application, r.Version)
	if err != nil {
		return now, err
	}
	if sumOf(d.Model) != r.ModelSum {
		return now, fault.New(fault.Integrity, "the stored model is not the one that was approved")
	}
	if err := g.fits(d); err != nil {
		return now, err
	}
	outcomes, err := prove(ctx, r.Tests, d)
	if err != nil {
		return now, err
	}
	if n := failures(outcomes); n > 0 {
		return now, fault.New(fault.Invalid, fmt.Sprintf("%d assertions of its tests do not hold; see release show", n))
	}
	g.changing.Lock()
	defer g.changing.Unlock()
	serial := now.Serial
	if r, now, err = g.ready(application, id); err != nil {
		return now, err
	}
	if now.Serial != serial { // a roll-back in between means what it says
		return now, fault.New(fault.Conflict, "the application's rollout has changed meanwhile; look at it again")
	}
	next := authz.Rollout{Application: application, Serial: now.Serial + 1, Current: r.Version}
	if now.Serial > 0 {
		next.Previous = &now.Current
	}
	if len(stores) > 0 {
		next.Current, next.Previous, next.Next = now.Current, now.Previous, &r.Version
		next.Stores = append(slices.Clone(now.Stores), stores...)
	}
	return g.roll(ctx, change, next)
}

// ready returns a release that may be activated now, and what is in force. Errors
// as [Registry.Activate]'s.
func (g *Registry) ready(application, id string) (Release, authz.Rollout, error) {
	r, err := g.Get(application, id)
	if err != nil {
		return r, authz.Rollout{}, err
	}
	now, _ := g.cfg.Engine.Rollout(application)
	switch {
	case r.Refused.By != "":
		err = fault.New(fault.Denied, "the release was refused; propose it anew")
	case r.Approved.By == "":
		err = fault.New(fault.Denied, "the release needs the approval of a second person: bulwark release approve "+r.ID)
	case now.Current.Release == r.ID:
		err = fault.New(fault.Conflict, "the release is in force already")
	case !sameVersion(now.Current, r.Base):
		err = fault.New(fault.Conflict, "something else has come into force since the release was proposed; propose it anew")
	case now.Next != nil && now.Next.Release != r.ID:
		err = fault.New(fault.Conflict, "a wave of the release "+short(now.Next.Release)+" is under way; finish it or roll it back")
	}
	return r, now, err
}

func sameVersion(a, b authz.Version) bool { return a.Release == b.Release && a.Same(&b) }

// RollBack ends a wave if there is one; else it brings back what was in force
// before. It needs nobody's approval: that had its own. Kind [fault.Conflict] if
// there is nothing to go back to.
func (g *Registry) RollBack(ctx context.Context, change ledger.Change, application string) (authz.Rollout, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	now, _ := g.cfg.Engine.Rollout(application)
	next := authz.Rollout{Application: application, Serial: now.Serial + 1, Current: now.Current, Previous: now.Previous}
	switch {
	case now.Next != nil: // the wave alone ends
	case now.Previous != nil:
		next.Current, next.Previous = *now.Previous, nil
	default:
		return now, fault.New(fault.Conflict, "nothing was in force before; there is nothing to go back to")
	}
	return g.roll(ctx, change, next)
}

func (g *Registry) roll(ctx context.Context, change ledger.Change, r authz.Rollout) (authz.Rollout, error) {
	if err := g.cfg.Engine.Roll(ctx, change, r, authz.Content{}); err != nil {
		return authz.Rollout{}, err
	}
	r, _ = g.cfg.Engine.Rollout(r.Application)
	return r, nil
}

func short(id string) string { return id[:min(12, len(id))] }

// Prove runs the tests of a release. Errors are about the tests, not about how
// they went.
func (g *Registry) Prove(ctx context.Context, r Release) ([]trial.Outcome, error) {
	d, err := g.cfg.Engine.Draft(r.Application, r.Version)
	if err != nil {
		return nil, err
	}
	return prove(ctx, r.Tests, d)
}
