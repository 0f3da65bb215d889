package admin_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/release"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/trial"
)

// releases walks a change from its proposal to its end, and tries every short cut.
func releases(ctx context.Context, t *testing.T, w *world) {
	author, approver := w.as("policy_author@platform"), w.as("approver@platform")
	before := got[admin.Application](t)(author.Application(ctx, "docs"))
	source := before.Current.Model + "type memo\n"
	in := admin.NewRelease{Model: &source, Tests: holds, Note: "memos come next"}
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", in))
	want := admin.Release{
		ID: r.ID, Application: "docs", State: "proposed", Note: in.Note, Base: before.Current.Release, Model: r.Model,
		Proposed: release.Mark{By: w.Subject("policy_author@platform"), At: r.Proposed.At},
		Outcomes: []trial.Outcome{{Name: "holds", Tests: []trial.Tested{{Name: "nobody", Assertions: 1}}}},
	}
	if diff := cmp.Diff(want, r); diff != "" || len(r.ID) != 64 {
		t.Errorf("proposed (-want +got):\n%s", diff)
	}
	_, err := author.ProposeRelease(ctx, "docs", in)
	wantKind(t, err, fault.Conflict)
	_, err = w.as("policy_author@acme").ProposeRelease(ctx, "docs", in)
	wantKind(t, err, fault.Denied)
	_, err = author.ProposeRelease(ctx, "other", in)
	wantKind(t, err, fault.NotFound)
	bad := "type ?"
	_, err = author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &bad})
	wantKind(t, err, fault.Invalid)

	full := got[admin.Release](t)(approver.Release(ctx, "docs", r.ID[:8]))
	if full.Before.Model != before.Current.Model || full.After.Model != source || full.After.Release != r.ID || !cmp.Equal(full.After.Tests, holds) || !cmp.Equal(full.Before.Tests, before.Current.Tests) || full.ID != r.ID {
		t.Errorf("shown %+v", full)
	}
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{})
	wantKind(t, err, fault.Denied) // nobody approved it
	_, err = approver.ApproveRelease(ctx, "docs", r.ID[:12])
	wantKind(t, err, fault.Invalid) // the whole digest, or nothing was signed
	approved := got[admin.Release](t)(approver.ApproveRelease(ctx, "docs", r.ID))
	if approved.State != "approved" || approved.Approved.By != w.Subject("approver@platform") {
		t.Errorf("approved %+v", approved)
	}
	_, err = approver.ApproveRelease(ctx, "docs", r.ID)
	wantKind(t, err, fault.Conflict)

	wave := got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{Tenants: []string{"globex"}}))
	now := got[admin.Application](t)(author.Application(ctx, "docs"))
	if wave.State != "wave" || now.Next != r.ID || now.Current.Model != before.Current.Model || !cmp.Equal(now.Tenants, []string{"globex"}) {
		t.Errorf("in the wave: %s, %+v", wave.State, now)
	}
	if theirs := got[admin.Application](t)(w.as("access_manager@acme").Application(ctx, "docs")); theirs.Tenants != nil {
		t.Errorf("a tenant sees the others of a wave: %v", theirs.Tenants)
	}
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{Tenants: []string{"absent"}})
	wantKind(t, err, fault.NotFound)
	other := source + "type card\n"
	_, err = author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &other, Tests: holds})
	wantKind(t, err, fault.Conflict) // a wave is under way
	back := got[admin.Application](t)(approver.RollBack(ctx, "docs"))
	if back.Next != "" || back.Current.Model != before.Current.Model {
		t.Errorf("after the wave %+v", back)
	}
	all4 := got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{}))
	if all4.State != "active" {
		t.Errorf("activated %+v", all4)
	}
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{})
	wantKind(t, err, fault.Conflict)
	if back = got[admin.Application](t)(author.RollBack(ctx, "docs")); back.Current.Model != before.Current.Model {
		t.Errorf("rolled back to %+v", back)
	}

	withdrawn := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &other, Tests: holds}))
	if r := got[admin.Release](t)(author.RefuseRelease(ctx, "docs", withdrawn.ID)); r.State != "refused" {
		t.Errorf("withdrawn %+v", r)
	}
	_, err = approver.ApproveRelease(ctx, "docs", withdrawn.ID)
	wantKind(t, err, fault.Conflict)
	list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Release], error) { return author.Releases(ctx, "docs", p) })
	if len(list) < 2 || list[0].ID != withdrawn.ID || list[1].ID != r.ID || list[0].After != nil {
		t.Errorf("listed %+v", list)
	}
	for _, ev := range w.Events(audit.Filter{Action: "release.approve", Class: ledger.Mutation}, func(all []ledger.Event) bool { return len(all) > 0 }) {
		if ev.Tenant != tenant.Platform || ev.Revision.Store != w.Platform.System || !strings.HasPrefix(ev.Resource, "release:") {
			t.Errorf("recorded as %+v", ev)
		}
	}

	var lines []string
	must(t, author.Rehearse(ctx, "docs", admin.NewRehearsal{Release: r.ID, Tenants: []string{"acme"}}, func(f admin.Finding) error {
		switch {
		case f.Plan != nil:
			lines = append(lines, "plan "+f.Plan.Release[:4])
			if f.Plan.Before.Model != before.Current.Model || f.Plan.After.Model != source || f.Plan.After.Release != r.ID {
				t.Errorf("planned %+v", f.Plan)
			}
		case f.Sum != nil:
			lines = append(lines, "sum")
		}
		return nil
	}))
	if diff := cmp.Diff([]string{"plan " + r.ID[:4], "sum"}, lines); diff != "" {
		t.Errorf("rehearsed (-want +got):\n%s", diff)
	}
	w.Events(audit.Filter{Action: "release.rehearse", Tenant: w.Acme.Tenant.String()}, func(all []ledger.Event) bool { return len(all) == 1 })
}

// A plan spells out what a proposal comes to, what it leaves as it is in force
// among it: nobody who reads it has to know how a proposal is filled in.
func TestPlanSaysBeforeAndAfter(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	forbid := []authz.PolicyFile{{Name: "a.cedar", Text: `forbid (principal, action == Action::"viewer", resource is document);`}}
	claims := authz.Claims{Context: map[string]string{"device": "string"}}
	w.inForce(t, admin.NewRelease{Policies: &forbid, Claims: &claims, Tests: holds})
	source := guardtest.Docs + "type memo\n"
	for what, c := range map[string]struct {
		in   admin.NewRelease
		want func(*admin.ReleaseDraft)
	}{
		"the model alone": {admin.NewRelease{Model: &source}, func(d *admin.ReleaseDraft) { d.Model = source }},
		"policies take their claims with them": {admin.NewRelease{Policies: &[]authz.PolicyFile{}}, func(d *admin.ReleaseDraft) {
			d.Policies, d.Claims = []authz.PolicyFile{}, authz.Claims{}
		}},
	} {
		var plan *admin.Planned
		must(t, w.as("policy_author@platform").Rehearse(ctx, "docs", admin.NewRehearsal{Proposal: &c.in}, func(f admin.Finding) error {
			if f.Plan != nil {
				plan = f.Plan
			}
			return nil
		}))
		want := plan.Before
		c.want(&want)
		want.Release, want.ModelID, want.PoliciesID = plan.Release, plan.After.ModelID, plan.After.PoliciesID
		if diff := cmp.Diff(want, plan.After); diff != "" || plan.Before.Model != guardtest.Docs || !plan.Changes {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// Nobody who may do both approves an own change: it needs a second person, and a
// person, and is audited as a denial.
func TestSelfApproval(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	w.Give("policy_author@platform", "approver") // as dev alone allows it
	author := w.as("policy_author@platform")
	source := guardtest.Docs + "type memo\n"
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source, Tests: holds}))
	before := w.Changes()
	_, err := author.ApproveRelease(ctx, "docs", r.ID)
	wantKind(t, err, fault.Denied)
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{})
	wantKind(t, err, fault.Denied)
	w.Give("caller@platform", "approver")
	_, err = w.as("caller@platform").ApproveRelease(ctx, "docs", r.ID)
	wantKind(t, err, fault.Denied)
	if n := w.Changes() - before; n != 1 { // the tuple that Give wrote
		t.Errorf("%d changes", n)
	}
	denied := w.Events(audit.Filter{Action: "release.approve", Class: ledger.Deny}, func(all []ledger.Event) bool { return len(all) == 2 })
	for _, ev := range denied {
		if ev.Decision != "deny" || ev.Reason != "denied" || ev.Tenant != tenant.Platform {
			t.Errorf("recorded as %+v", ev)
		}
	}
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", r.ID))
	got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{}))
}

// Other tests are a change by themselves; the same ones are none, and nor is what
// brings none.
func TestOtherTestsAreAChange(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	author := w.as("policy_author@platform")
	source := guardtest.Docs + "type memo\n"
	was := w.inForce(t, admin.NewRelease{Model: &source, Tests: holds})
	_, err := author.ProposeRelease(ctx, "docs", admin.NewRelease{Tests: holds})
	wantKind(t, err, fault.Conflict)
	_, err = author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source})
	wantKind(t, err, fault.Conflict)
	more := append(slices.Clone(holds), trial.File{Name: "more", Tests: []trial.Test{{
		Name: "x", Check: []trial.Check{{User: "user:y", Object: "document:x", Assertions: map[string]bool{"viewer": false}}},
	}}})
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Tests: more}))
	full := got[admin.Release](t)(author.Release(ctx, "docs", r.ID))
	if r.Base != was.ID || len(r.Outcomes) != 2 || !cmp.Equal(full.Before.Tests, holds) || !cmp.Equal(full.After.Tests, more) {
		t.Errorf("proposed %+v", full)
	}
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", r.ID))
	got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{}))
	if now := got[admin.Application](t)(author.Application(ctx, "docs")); now.Current.Release != r.ID || !cmp.Equal(now.Current.Tests, more) || now.Current.Model != source {
		t.Errorf("in force %+v", now)
	}
}

// Tests decide: without one nothing is proposed, and with one that fails nothing
// is activated.
func TestReleaseNeedsTests(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	author := w.as("policy_author@platform")
	source := guardtest.Docs + "type memo\n"
	_, err := author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source})
	wantKind(t, err, fault.Invalid)
	many := make([]trial.File, release.MaxTestFiles+1)
	many[0] = holds[0]
	_, err = author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source, Tests: many})
	wantKind(t, err, fault.TooLarge)
	_, err = author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source, Tests: many[1:]}) // as many as may be, and they assert nothing
	wantKind(t, err, fault.Invalid)
	wrong := []trial.File{{Name: "wrong", Tests: []trial.Test{{
		Name: "x", Tuples: []trial.Tuple{{User: "user:x", Relation: "viewer", Object: "document:x"}},
		Check: []trial.Check{{User: "user:x", Object: "document:x", Assertions: map[string]bool{"viewer": false}}},
	}}}}
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source, Tests: wrong}))
	if f := r.Outcomes[0].Tests[0].Failures; len(f) != 1 || len(f[0].Why) != 1 {
		t.Errorf("failures %+v", f)
	}
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", r.ID))
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{})
	wantKind(t, err, fault.Invalid)
	// A policy counts in tests as it does in force.
	forbid := []authz.PolicyFile{{Name: "a.cedar", Text: `forbid (principal, action == Action::"viewer", resource is document);`}}
	r = got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source, Policies: &forbid, Tests: wrong}))
	if f := r.Outcomes[0].Tests[0].Failures; len(f) != 0 {
		t.Errorf("failures %+v", f)
	}
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", r.ID))
	got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{}))
	// The next release keeps them, unless it brings its own.
	none := []authz.PolicyFile{}
	r = got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Policies: &none}))
	if f := r.Outcomes[0].Tests[0].Failures; len(f) != 1 {
		t.Errorf("failures %+v", f)
	}
}

// An approval ends when somebody says so: a release that was rolled back must not
// wait for whoever activates it again.
func TestApprovalEnds(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	author, approver := w.as("policy_author@platform"), w.as("approver@platform")
	source := guardtest.Docs + "type memo\n"
	in := admin.NewRelease{Model: &source, Tests: holds}
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", in))
	got[admin.Release](t)(approver.ApproveRelease(ctx, "docs", r.ID))
	got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{Tenants: []string{"acme"}}))
	_, err := approver.RefuseRelease(ctx, "docs", r.ID)
	wantKind(t, err, fault.Conflict) // it is in force for somebody
	got[admin.Application](t)(approver.RollBack(ctx, "docs"))
	if r := got[admin.Release](t)(approver.RefuseRelease(ctx, "docs", r.ID)); r.State != "refused" {
		t.Errorf("refused: %+v", r)
	}
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{})
	wantKind(t, err, fault.Denied)
	_, err = approver.RefuseRelease(ctx, "docs", r.ID)
	wantKind(t, err, fault.Conflict)
	if again := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", in)); again.ID != r.ID || again.State != "proposed" {
		t.Errorf("proposed anew: %+v", again)
	}
	_, err = author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{})
	wantKind(t, err, fault.Denied) // the old approval is not the new one's
}

// Who activates goes by what stood when they looked: of two who do at once the one
// that comes last loses, and so does who comes after a roll-back.
func TestActivatesWhatItSaw(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	source := guardtest.Docs + "type memo\n"
	author := w.as("policy_author@platform")
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source, Tests: holds}))
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", r.ID))
	wave := func(tenant string) {
		t.Helper()
		got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{Tenants: []string{tenant}}))
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	slow, err := release.Open(ctx, release.Config{Store: w.Store.Releases(), Engine: w.Authz, Now: w.Now, Fits: func(authz.Draft) error {
		entered <- struct{}{}
		<-leave
		return nil
	}})
	must(t, err)
	change := w.changeOf(w.Platform.System)
	change.Event.Tenant = tenant.Platform
	for what, meanwhile := range map[string]func(){
		"another's activation": func() { wave("globex") },
		"a roll-back":          func() { wave("globex"); got[admin.Application](t)(author.RollBack(ctx, "docs")) },
	} {
		activated := make(chan error)
		go func() {
			_, err := slow.Activate(ctx, change, "docs", r.ID, nil)
			activated <- err
		}()
		<-entered // it has looked
		meanwhile()
		stood, _ := w.Authz.Rollout("docs")
		leave <- struct{}{}
		wantKind(t, <-activated, fault.Conflict)
		if now, _ := w.Authz.Rollout("docs"); !cmp.Equal(now, stood) {
			t.Errorf("after %s, what stands changed:\n%s", what, cmp.Diff(stood, now))
		}
		if stood.Next != nil {
			got[admin.Application](t)(author.RollBack(ctx, "docs"))
		}
	}
}

// The text of a model is what was signed: its id, a shorter hash, is not enough.
func TestActivatesWhatWasSigned(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	change := w.changeOf(w.Platform.System)
	change.Event.Tenant = tenant.Platform
	plan, err := w.Releases.Plan(ctx, "docs", release.Proposal{Draft: authz.Draft{Model: guardtest.Docs + "type memo\n"}, Tests: holds})
	must(t, err)
	signed := func(sum string) error {
		t.Helper()
		r := plan.Release
		r.ModelSum = sum
		r.ID, err = r.Digest()
		must(t, err)
		r.Version.Release = r.ID
		r.Proposed, r.Approved = release.Mark{By: "user:a", At: w.Now().UTC()}, release.Mark{By: "user:b", At: w.Now().UTC()}
		must(t, w.Store.Releases().PutRelease(ctx, change, r, plan.Content))
		_, err := w.Releases.Activate(ctx, change, "docs", r.ID, nil)
		return err
	}
	before, _ := w.Authz.Rollout("docs")
	wantKind(t, signed(strings.Repeat("0", 64)), fault.Integrity)
	if now, _ := w.Authz.Rollout("docs"); !cmp.Equal(now, before) {
		t.Errorf("in force is %+v", now)
	}
	must(t, signed(plan.Release.ModelSum))
}

// A tenant may read what decides for it, and not where the operator's routes lead,
// what its tests say, nor who else is in a wave.
func TestTenantsSeeNoRoutes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	routes := json.RawMessage(`[{"id":"hidden","upstream":"backstage"}]`)
	w.inForce(t, admin.NewRelease{Routes: &routes, Tests: holds})
	source := guardtest.Docs + "type memo\n"
	next := got[admin.Release](t)(w.as("policy_author@platform").ProposeRelease(ctx, "docs", admin.NewRelease{Model: &source}))
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", next.ID))
	got[admin.Release](t)(w.as("policy_author@platform").ActivateRelease(ctx, "docs", next.ID, admin.Activation{Tenants: []string{"globex"}}))
	ours := got[admin.Application](t)(w.as("policy_author@platform").Application(ctx, "docs"))
	if string(ours.Current.Routes) != string(routes) || !cmp.Equal(ours.Current.Tests, holds) || ours.Next != next.ID || !cmp.Equal(ours.Tenants, []string{"globex"}) {
		t.Errorf("the operator sees %+v", ours)
	}
	for _, who := range []string{"access_manager@acme", "access_manager@globex"} {
		theirs := got[admin.Application](t)(w.as(who).Application(ctx, "docs"))
		if theirs.Current.Model != guardtest.Docs || theirs.Next != "" || theirs.Tenants != nil || theirs.Current.Tests != nil {
			t.Errorf("%s sees %+v", who, theirs)
		}
		if raw, err := json.Marshal(theirs); err != nil || strings.Contains(string(raw), "backstage") {
			t.Errorf("%s sees %s, %v", who, raw, err)
		}
		_, err := w.as(who).Releases(ctx, "docs", admin.Paging{})
		wantKind(t, err, fault.Denied)
		_, err = w.as(who).Release(ctx, "docs", next.ID)
		wantKind(t, err, fault.Denied)
		err = w.as(who).Rehearse(ctx, "docs", admin.NewRehearsal{Release: next.ID}, func(admin.Finding) error { return nil })
		wantKind(t, err, fault.Denied)
	}
}

// Of refused releases the newest 32 stay, here and in a new process; what is in
// force, or can be brought back, stays whatever became of its record.
func TestRefusedAreBounded(t *testing.T) {
	t.Parallel()
	const most = 32
	ctx := context.Background()
	w := newWorld(t)
	change := w.changeOf(w.Platform.System)
	change.Event.Tenant = tenant.Platform
	propose := func(name string) string {
		t.Helper()
		tests := slices.Clone(holds)
		tests[0].Name = name
		plan, err := w.Releases.Propose(ctx, change, "docs", release.Proposal{Draft: authz.Draft{Model: guardtest.Docs}, Tests: tests}, "user:a")
		must(t, err)
		return plan.Release.ID
	}
	refuse := func(id string) {
		t.Helper()
		_, err := w.Releases.Refuse(ctx, change, "docs", id, "user:b")
		must(t, err)
	}
	var force [2]string
	for i, name := range []string{"before", "now"} {
		force[i] = propose(name)
		_, err := w.Releases.Approve(ctx, change, "docs", force[i], "user:b")
		must(t, err)
		_, err = w.Releases.Activate(ctx, change, "docs", force[i], nil)
		must(t, err)
	}
	refuse(force[0]) // nobody activates it again; a roll-back still brings it back
	var refused []string
	for i := range most + 2 {
		refused = append(refused, propose(strconv.Itoa(i)))
		refuse(refused[i])
	}
	open := propose("open")
	again, err := release.Open(ctx, release.Config{Store: w.Store.Releases(), Engine: w.Authz, Now: w.Now})
	must(t, err)
	want := append([]string{force[0], force[1], open}, refused[2:]...)
	slices.Sort(want)
	for what, g := range map[string]*release.Registry{"here": w.Releases, "a new process": again} {
		var got []string
		for _, r := range g.List("docs") {
			got = append(got, r.ID)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s knows (-want +got):\n%s", what, diff)
		}
	}
	_, err = w.Releases.RollBack(ctx, change, "docs")
	must(t, err)
	refuse(propose("after"))
	if tests := w.Releases.Tests("docs", authz.Version{Release: force[0]}); len(tests) != 1 || tests[0].Name != "before" {
		t.Errorf("the tests in force are %+v", tests)
	}
}

// Nobody who goes back waits for the tests of another's proposal, and what is
// activated meanwhile does not undo it.
func TestRollBackWaitsForNoTests(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	source := guardtest.Docs + "type memo\n"
	w.inForce(t, admin.NewRelease{Model: &source, Tests: holds})
	entered, leave := make(chan struct{}), make(chan struct{})
	g, err := release.Open(ctx, release.Config{Store: w.Store.Releases(), Engine: w.Authz, Now: w.Now, Fits: func(authz.Draft) error {
		entered <- struct{}{}
		<-leave
		return nil
	}})
	must(t, err)
	change := w.changeOf(w.Platform.System)
	change.Event.Tenant = tenant.Platform
	proposed := make(chan error)
	go func() {
		_, err := g.Propose(ctx, change, "docs", release.Proposal{Draft: authz.Draft{Model: source + "type card\n"}, Tests: holds}, "user:a")
		proposed <- err
	}()
	<-entered
	back := make(chan error, 1)
	go func() {
		_, err := g.RollBack(ctx, change, "docs")
		back <- err
	}()
	select {
	case err := <-back:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the roll-back waits for a proposal")
	}
	close(leave)
	wantKind(t, <-proposed, fault.Conflict)
}
