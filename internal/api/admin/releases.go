package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/trial"
)

// platformChange is a change of an application: of the platform's shard.
func (s *server) platformChange(c *call, resource string) (ledger.Change, error) {
	system, err := s.Directory.SystemGraph(tenant.Platform)
	return s.change(c, system, resource), err
}

func getApplication(s *server, c *call) (answer, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	c.about("application:" + app)
	now, found := s.Authz.Rollout(app)
	if !found {
		return answer{}, fault.New(fault.NotFound, "nothing is in force in this application")
	}
	current, err := s.draftOf(app, now.Current)
	if err != nil {
		return answer{}, err
	}
	out := Application{Name: app, Serial: now.Serial, Current: current, CanRollBack: now.Previous != nil || now.Next != nil}
	switch {
	case c.tenant != tenant.Platform: // routes lead to the operator's upstreams, tests may name its people, and waves are among tenants
		out.Current.Routes, out.Current.Tests = nil, nil
	case now.Next != nil:
		out.Next, out.Tenants = now.Next.Release, s.tenantsOf(app, now.Stores)
	}
	return ok(out), nil
}

// draftOf spells a version out.
func (s *server) draftOf(app string, v authz.Version) (ReleaseDraft, error) {
	if v.Model == "" {
		return ReleaseDraft{Policies: []authz.PolicyFile{}}, nil
	}
	d, err := s.Authz.Draft(app, v)
	return spelt(v, d, s.Releases.Tests(app, v)), err
}

// spelt words a version that is this draft.
func spelt(v authz.Version, d authz.Draft, tests []trial.File) ReleaseDraft {
	out := ReleaseDraft{
		Release: v.Release, ModelID: v.Model, PoliciesID: v.Policies, Model: d.Model,
		Policies: d.Policies, Claims: d.Claims, Roles: d.Roles, Routes: d.Routes, Tests: tests,
	}
	if out.Policies == nil {
		out.Policies = []authz.PolicyFile{}
	}
	return out
}

// tenantsOf names the tenants that own the stores.
func (s *server) tenantsOf(app string, stores []relation.StoreID) []string {
	var out []string
	for _, t := range s.Directory.Tenants() {
		if id, err := s.Directory.DefaultGraph(t.Tenant, app); err == nil && slices.Contains(stores, id) {
			out = append(out, t.Name)
		}
	}
	return out
}

// storesOf resolves tenants to their default stores; none named means all.
func (s *server) storesOf(app string, names []string) ([]relation.StoreID, error) {
	var out []relation.StoreID
	if len(names) == 0 {
		for _, t := range s.Directory.Tenants() {
			if id, err := s.Directory.DefaultGraph(t.Tenant, app); err == nil {
				out = append(out, id)
			}
		}
		return out, nil
	}
	for _, name := range names {
		t, err := s.Directory.ResolveTenant(name)
		if err != nil {
			return nil, err
		}
		id, err := s.Directory.DefaultGraph(t.Tenant, app)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// proposal fills in what the request leaves as it is in force.
func (s *server) proposal(app string, in *NewRelease) (release.Proposal, error) {
	p := release.Proposal{Tests: in.Tests, Note: in.Note}
	if err := oneLine(in.Note); err != nil || len(in.Note) > 500 {
		return p, fault.New(fault.Invalid, "a note is one line of at most 500 bytes")
	}
	if now, ok := s.Authz.Rollout(app); ok {
		var err error
		if p.Draft, err = s.Authz.Draft(app, now.Current); err != nil {
			return p, err
		}
	}
	d := &p.Draft
	if in.Model != nil {
		d.Model = *in.Model
	}
	if in.Policies != nil {
		d.Policies, d.Claims = *in.Policies, authz.Claims{}
		if in.Claims != nil {
			d.Claims = *in.Claims
		}
	} else if in.Claims != nil {
		d.Claims = *in.Claims
	}
	if in.Roles != nil {
		d.Roles = *in.Roles
	}
	if in.Routes != nil {
		d.Routes = *in.Routes
	}
	return p, nil
}

func proposeRelease(s *server, c *call) (answer, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	req, err := in[NewRelease](c)
	if err != nil {
		return answer{}, err
	}
	p, err := s.proposal(app, &req)
	if err != nil {
		return answer{}, err
	}
	change, err := s.platformChange(c, "application:"+app)
	if err != nil {
		return answer{}, err
	}
	plan, err := s.Releases.Propose(c.r.Context(), change, app, p, c.who.Subject.String())
	if err != nil {
		return answer{}, err
	}
	out := s.release(app, plan.Release)
	out.Outcomes = plan.Outcomes
	return created(out), nil
}

// release words a release, without what it changes.
func (s *server) release(app string, r release.Release) Release {
	return Release{
		ID: r.ID, Application: app, Note: r.Note, Base: r.Base.Release, Model: r.Version.Model, Policies: r.Version.Policies,
		Proposed: r.Proposed, Approved: r.Approved, Refused: r.Refused, State: s.stateOf(app, &r),
	}
}

// wholeRelease words a release with what it changes.
func (s *server) wholeRelease(app string, r release.Release) (Release, error) {
	out := s.release(app, r)
	before, err := s.draftOf(app, r.Base)
	if err != nil {
		return out, err
	}
	after, err := s.draftOf(app, r.Version)
	if err != nil {
		return out, err
	}
	out.Before, out.After = &before, &after
	return out, nil
}

func (s *server) stateOf(app string, r *release.Release) string {
	now, _ := s.Authz.Rollout(app)
	switch {
	case now.Current.Release == r.ID:
		return "active"
	case now.Next != nil && now.Next.Release == r.ID:
		return "wave"
	case r.Refused.By != "":
		return "refused"
	case now.Current.Release != r.Base.Release || !now.Current.Same(&r.Base):
		return "superseded"
	case r.Approved.By != "":
		return "approved"
	}
	return "proposed"
}

func listReleases(s *server, c *call) (answer, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	c.about("application:" + app)
	all := s.Releases.List(app)
	// The newest first, with a key that grows along the list.
	key := func(r release.Release) string {
		return time.Unix(1<<34, 0).Add(-r.Proposed.At.Sub(time.Unix(0, 0))).UTC().Format(time.RFC3339Nano) + r.ID
	}
	slices.SortFunc(all, func(a, b release.Release) int { return strings.Compare(key(a), key(b)) })
	return list(c, all, key, func(r release.Release) Release { return s.release(app, r) })
}

// named finds the release of the path.
func (s *server) named(c *call) (string, release.Release, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return "", release.Release{}, err
	}
	r, err := s.Releases.Get(app, c.r.PathValue("release"))
	return app, r, err
}

func getRelease(s *server, c *call) (answer, error) {
	app, r, err := s.named(c)
	if err != nil {
		return answer{}, err
	}
	c.about("release:" + r.ID)
	out, err := s.wholeRelease(app, r)
	if err != nil {
		return answer{}, err
	}
	out.Outcomes, err = s.Releases.Prove(c.r.Context(), r)
	return ok(out), err
}

// word serves approvals and refusals. Both are a person's own: no service says
// them, and none says them for a person.
func word(say func(*release.Registry, context.Context, ledger.Change, string, string, string) (release.Release, error)) func(*server, *call) (answer, error) {
	return func(s *server, c *call) (answer, error) {
		app, r, err := s.named(c)
		if err != nil {
			return answer{}, err
		}
		c.about("release:" + r.ID)
		if c.who.Subject.Kind != principal.User || len(c.who.Actors) > 0 {
			return answer{}, fault.New(fault.Denied, "only a person, with a token of their own, can say this")
		}
		change, err := s.platformChange(c, "release:"+r.ID)
		if err != nil {
			return answer{}, err
		}
		r, err = say(s.Releases, c.r.Context(), change, app, c.r.PathValue("release"), c.who.Subject.String())
		if err != nil {
			return answer{}, err
		}
		return ok(s.release(app, r)), nil
	}
}

func activateRelease(s *server, c *call) (answer, error) {
	app, r, err := s.named(c)
	if err != nil {
		return answer{}, err
	}
	req, err := in[Activation](c)
	if err != nil {
		return answer{}, err
	}
	c.about("release:" + r.ID)
	change, err := s.platformChange(c, "release:"+r.ID)
	if err != nil {
		return answer{}, err
	}
	var stores []relation.StoreID
	if len(req.Tenants) > 0 {
		if stores, err = s.storesOf(app, req.Tenants); err != nil {
			return answer{}, err
		}
		change.Event.Detail = map[string]string{"stores": joined(stores)}
	}
	if _, err := s.Releases.Activate(c.r.Context(), change, app, r.ID, stores); err != nil {
		return answer{}, err
	}
	return ok(s.release(app, r)), nil
}

// joined names stores in an event, as many as fit.
func joined(stores []relation.StoreID) string {
	var b strings.Builder
	for i, id := range stores {
		if b.Len() > 4096 {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(id))
	}
	return b.String()
}

func rollBack(s *server, c *call) (answer, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	change, err := s.platformChange(c, "application:"+app)
	if err != nil {
		return answer{}, err
	}
	if _, err := s.Releases.RollBack(c.r.Context(), change, app); err != nil {
		return answer{}, err
	}
	return getApplication(s, c)
}

// releasePaths begin the paths of applications and their releases.
const releasePaths = "/applications/"

const (
	rehearsalTime = 10 * time.Minute // of one rehearsal
	maxRelease    = 8 << 20          // bytes: a model, policies and tests at their limits
)

// maxRecorded bounds the recorded decisions that one rehearsal asks again.
const maxRecorded = 1_000_000

// rehearse streams what a release, or what a proposal would make, changes for
// the tenants: as NDJSON, each line as it is found, and the sum as the last. A
// rehearsal reads tenants' decisions, so each one's log says who did.
func rehearse(s *server, c *call) (answer, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	c.about("application:" + app)
	req, err := in[NewRehearsal](c)
	if err != nil {
		return answer{}, err
	}
	if req.Decisions == 0 {
		req.Decisions = 100_000
	}
	if req.Decisions < 0 || req.Decisions > maxRecorded || (req.Release == "") == (req.Proposal == nil) {
		return answer{}, fault.New(fault.Invalid, "give either release or proposal, and at most 1,000,000 decisions")
	}
	stores, err := s.storesOf(app, req.Tenants)
	if err != nil {
		return answer{}, err
	}
	plan, err := s.planned(c.r.Context(), app, &req)
	if err != nil {
		return answer{}, err
	}
	if err := s.tellTenants(c, app, stores); err != nil {
		return answer{}, err
	}
	leave, err := s.readers.enter(c.tenant)
	if err != nil {
		return answer{}, err
	}
	return answer{stream: func(ctx context.Context, w http.ResponseWriter) error {
		defer leave()
		ctx, cancel := context.WithTimeout(ctx, rehearsalTime)
		defer cancel()
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		out := json.NewEncoder(flusher{w, http.NewResponseController(w)})
		err := s.findings(ctx, app, plan, stores, req.Decisions, func(f Finding) error { return out.Encode(f) })
		if err != nil { // the status is out: the last line says it
			_ = out.Encode(Finding{Error: fault.Public(err)})
		}
		return nil
	}}, nil
}

// planned is what the request rehearses: a release that is stored, or what a
// proposal would become.
func (s *server) planned(ctx context.Context, app string, req *NewRehearsal) (release.Plan, error) {
	if req.Proposal != nil {
		p, err := s.proposal(app, req.Proposal)
		if err != nil {
			return release.Plan{}, err
		}
		return s.Releases.Plan(ctx, app, p)
	}
	r, err := s.Releases.Get(app, req.Release)
	if err != nil {
		return release.Plan{}, err
	}
	plan := release.Plan{Release: r, Changes: true}
	if plan.Draft, err = s.Authz.Draft(app, r.Version); err == nil {
		plan.Outcomes, err = s.Releases.Prove(ctx, r)
	}
	return plan, err
}

// tellTenants puts an event into the log of each tenant whose decisions are read.
func (s *server) tellTenants(c *call, app string, stores []relation.StoreID) error {
	for _, t := range s.Directory.Tenants() {
		id, err := s.Directory.DefaultGraph(t.Tenant, app)
		if err != nil || !slices.Contains(stores, id) {
			continue
		}
		ev := c.event()
		ev.ID, ev.Time, ev.Class, ev.Tenant, ev.Resource = tenant.RandomID(), s.Now(), ledger.AdminRead, t.Tenant, "application:"+app
		if err := s.Audit.Append(c.r.Context(), ev); err != nil {
			return fault.Wrap(fault.Unavailable, "the audit log cannot take the event; try again later", err)
		}
	}
	return nil
}

// findings writes what a plan changes.
func (s *server) findings(ctx context.Context, app string, plan release.Plan, stores []relation.StoreID, most int, write func(Finding) error) error {
	first := Planned{
		Release: plan.Release.ID, Changes: plan.Changes, Outcomes: plan.Outcomes,
		After: spelt(plan.Release.Version, plan.Draft, plan.Release.Tests),
	}
	var err error
	if first.Before, err = s.draftOf(app, plan.Release.Base); err != nil {
		return err
	}
	if err := write(Finding{Plan: &first}); err != nil {
		return err
	}
	decisions := func(yield func(release.Question)) error {
		left := most
		return audit.Query(ctx, s.AuditDir, audit.QueryOptions{NewestFirst: true}, func(ev ledger.Stored) bool {
			release.Recorded(&ev.Event, func(q release.Question) {
				if left > 0 && slices.Contains(stores, q.Store) {
					left--
					yield(q)
				}
			})
			return left > 0 && ctx.Err() == nil
		})
	}
	sum, err := s.Releases.Rehearse(ctx, app, plan.Release.Version, plan.Content, stores, decisions, func(o *release.Orphan, f *release.Flip) error {
		return write(Finding{Orphan: o, Flip: f})
	})
	if err != nil {
		return err
	}
	return write(Finding{Sum: &sum})
}
