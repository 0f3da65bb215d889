package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// changes is a model of changes that one asks for and another approves.
const changes = `model
  schema 1.1

type user

type team
  relations
    define lead: [user]
    define member: [user, user:*, team#member] or lead

type folder
  relations
    define parent: [folder]
    define requester: [user, team#member] or requester from parent
    define approver: [user, user:*, user with office, team#member] or approver from parent

type change
  relations
    define folder: [folder]
    define banned: [user, user:*]
    define trained: [user, team#member]
    define viewer: [user, user:*, team#member] or requester or approver
    define requester: [user, user:*, team#member, team#lead] or requester from folder
    define approver: ([user, user with office, team#member] or approver from folder) but not banned
    define auditor: [user, team#member] and trained

condition office(day: string) {
  day == "monday"
}
`

var fourEyes = Roles{
	Roles: []Role{
		{Name: "writer", Type: "change", Relations: []string{"requester", "viewer"}, Description: "asks"},
		{Name: "judge", Type: "change", Relations: []string{"approver"}},
		{Name: "judge", Type: "folder", Relations: []string{"approver"}},
	},
	Exclusive: []Exclusive{{Name: "four-eyes", Type: "change", Relations: []string{"requester", "approver", "auditor"}}},
	Custom:    map[string][]string{"change": {"viewer", "requester", "approver"}},
}

// apartWorld has the model of changes with its exclusive roles, and tuples that
// came before them.
func apartWorld(t testing.TB, tuples ...string) *world {
	t.Helper()
	w := newWorld(t, "", tuples...)
	if _, err := w.enforce(Draft{Model: changes, Roles: fourEyes}); err != nil {
		t.Fatal(err)
	}
	return w
}

// Roles that do not fit are refused in words that say what to change.
func TestRolesThatDoNotFit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, changes)
	role := func(r Role) Roles { return Roles{Roles: []Role{r}} }
	apart := func(x Exclusive) Roles { return Roles{Exclusive: []Exclusive{x}} }
	for _, c := range []struct {
		roles Roles
		says  string
	}{
		{role(Role{Name: "r", Type: "chnge", Relations: []string{"viewer"}}), "the type chnge, which the model does not have"},
		{role(Role{Name: "r", Type: "change", Relations: []string{"writer"}}), "the relation writer, which the type change does not have"},
		{role(Role{Name: "r", Type: "change"}), "has no relations"},
		{role(Role{Name: "a b", Type: "change", Relations: []string{"viewer"}}), "needs a name"},
		{role(Role{Name: "r", Type: "change", Relations: []string{"viewer", "viewer"}}), "viewer twice"},
		{role(Role{Name: "r", Type: "change", Relations: slices.Repeat([]string{"viewer"}, 51)}), "more than 50 relations"},
		{role(Role{Name: "r", Type: "change", Relations: []string{"viewer"}, Description: strings.Repeat("x", 501)}), "more than 500 bytes"},
		{Roles{Roles: []Role{fourEyes.Roles[0], fourEyes.Roles[0]}}, "the role writer of change is there twice"},
		{Roles{Roles: []Role{{Name: "all", Type: "change", Relations: []string{"approver", "requester"}}}, Exclusive: fourEyes.Exclusive}, "approver and requester, which nobody may hold together (four-eyes)"},
		{apart(Exclusive{Name: "x", Type: "change", Relations: []string{"approver"}}), "needs 2 to 50 relations"},
		{apart(Exclusive{Name: "x", Type: "change", Relations: []string{"approver", "approver"}}), "approver twice"},
		{apart(Exclusive{Name: "x", Type: "change", Relations: []string{"approver", "writer"}}), "the relation writer, which"},
		{apart(Exclusive{Name: "x", Type: "chnge", Relations: []string{"approver", "requester"}}), "the type chnge, which"},
		{apart(Exclusive{Type: "change", Relations: []string{"approver", "requester"}}), "needs a name"},
		{apart(Exclusive{Name: "x", Type: "change", Relations: []string{"viewer", "requester"}}), "by the model, whoever holds requester of change holds viewer and requester"},
		{Roles{Exclusive: []Exclusive{fourEyes.Exclusive[0], fourEyes.Exclusive[0]}}, "the exclusive set four-eyes is there twice"},
		{Roles{Exclusive: slices.Repeat(fourEyes.Exclusive, 101)}, "100 exclusive sets"},
		{Roles{Custom: map[string][]string{"chnge": {"viewer"}}}, "the type chnge, which"},
		{Roles{Custom: map[string][]string{"change": {"viewer", "viewer"}}}, "viewer twice"},
	} {
		_, err := w.enforce(Draft{Model: changes, Roles: c.roles})
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), c.says) {
			t.Errorf("%+v: %v; want %q", c.roles, err, c.says)
		}
	}
	computed := strings.Replace(docs, "can_edit: editor", "can_edit: editor\n    define x: [user]", 1)
	_, err := w.enforce(Draft{Model: computed, Roles: role(Role{Name: "r", Type: "document", Relations: []string{"can_edit"}})})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), "can_edit of document, which cannot be assigned") {
		t.Errorf("a relation without [types]: %v", err)
	}
	if _, err := w.enforce(Draft{Model: docs, Roles: fourEyes}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("roles of another model: %v", err)
	}
	a, b := fourEyes, fourEyes
	if !a.same(b) {
		t.Error("roles differ from themselves")
	}
	raw, err := json.Marshal(a)
	if err != nil || json.Unmarshal(raw, &b) != nil || !a.same(b) {
		t.Errorf("roles changed on the way: %s, %v", raw, err)
	}
	b.Custom = map[string][]string{"change": {"viewer"}}
	if a.same(b) || a.same(Roles{}) {
		t.Error("other roles are the same")
	}
}

// What a tenant may make a role of is the operator's to say.
func TestOwnRoles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		role Role
		kind fault.Kind
	}{
		{Role{Name: "reader", Type: "change", Relations: []string{"viewer"}}, 0},
		{Role{Name: "writer", Type: "change", Relations: []string{"viewer"}}, fault.Conflict},
		{Role{Name: "reader", Type: "change", Relations: []string{"viewer", "banned"}}, fault.Denied},
		{Role{Name: "reader", Type: "folder", Relations: []string{"requester"}}, fault.Denied},
		{Role{Name: "reader", Type: "change", Relations: []string{"requester", "approver"}}, fault.Invalid},
		{Role{Name: "reader", Type: "change"}, fault.Invalid},
	} {
		if err := fourEyes.Allow(c.role); err != nil && fault.KindOf(err) != c.kind || err == nil && c.kind != 0 {
			t.Errorf("%+v: %v, want %v", c.role, err, c.kind)
		}
	}
}

// Whoever holds two exclusive roles of an object is denied everything there,
// however each is held: the same in every kind of question.
func TestExclusiveRolesAtUse(t *testing.T) {
	t.Parallel()
	w := apartWorld(t,
		"change:named#requester@user:a", "change:named#approver@user:a", "change:named#requester@user:b",
		"change:group#requester@team:x#member", "change:group#approver@team:y#member", "team:x#member@team:z#member",
		"team:z#member@user:a", "team:y#lead@user:a", "team:y#member@user:b",
		"change:under#folder@folder:low", "folder:low#parent@folder:top", "folder:top#approver@user:*", "folder:low#requester@user:a",
		"change:banned#requester@user:a", "change:banned#approver@user:a", "change:banned#banned@user:a",
		"change:both#requester@team:x#member", "change:both#approver@team:x#member",
		"change:third#auditor@user:a", "change:third#trained@user:a", "change:third#requester@user:a",
		"change:loose#viewer@user:a",
	)
	conditional := tuple("change:office#approver@user:a")
	conditional.Condition = "office"
	w.db.tuples[w.store][conditional.Key()] = conditional
	w.db.seed(w.store, "change:office#requester@user:a")
	for _, c := range []struct {
		q, with, day, want string
	}{
		{"change:named#requester@user:a", "", "", "exclusive_roles"},
		{"change:named#viewer@user:a", "", "", "exclusive_roles"},
		{"change:named#approver@user:a", "", "", "exclusive_roles"},
		{"change:named#trained@user:a", "", "", "no_relation"},
		{"change:named#viewer@user:b", "", "", "relation"},
		{"change:named#viewer@user:b", "change:named#approver@user:b", "", "exclusive_roles"},
		{"change:group#viewer@user:a", "", "", "exclusive_roles"},
		{"change:group#viewer@user:b", "", "", "relation"},
		{"change:group#viewer@team:z#member", "", "", "relation"},
		{"change:under#viewer@user:a", "", "", "exclusive_roles"},
		{"change:under#viewer@user:b", "", "", "relation"},
		{"change:under#approver@user:*", "", "", "relation"},
		{"change:banned#viewer@user:a", "", "", "relation"}, // who is banned is no approver
		{"change:both#viewer@team:z#member", "", "", "exclusive_roles"},
		{"change:both#viewer@user:a", "", "", "exclusive_roles"},
		{"change:third#auditor@user:a", "", "", "exclusive_roles"},
		{"change:loose#viewer@user:a", "", "", "relation"},
		{"change:office#viewer@user:a", "", "monday", "exclusive_roles"},
		{"change:office#viewer@user:a", "", "sunday", "relation"},
		{"change:office#viewer@user:a", "", "", "unknown"}, // and so an error
		{"change:absent#requester@change:absent#requester", "", "", "invalid"},
		{"folder:low#requester@user:a", "", "", "relation"}, // of another type
	} {
		x := tuple(c.q)
		asked := Asked{}
		if c.with != "" {
			asked.Contextual = tuples(c.with)
		}
		if c.day != "" {
			asked.Context = map[string]any{"day": c.day}
		}
		got := func(d Decision, err error) string {
			switch {
			case errors.Is(err, ErrCondition):
				return "unknown"
			case fault.KindOf(err) == fault.Invalid && err != nil:
				return "invalid"
			case err != nil:
				return err.Error()
			case d.Allowed != (d.Reason == "relation"):
				return fmt.Sprintf("%+v", d)
			}
			return d.Reason
		}
		if c.want == "invalid" {
			x.Subject = "chnge:absent#requester"
		}
		q := Query{Store: w.store, Object: x.Object, Relation: x.Relation, Subject: x.Subject, Asked: asked}
		if d, err := w.Check(context.Background(), q); got(d, err) != c.want {
			t.Errorf("%s: %s, want %s", c.q, got(d, err), c.want)
		}
		_, _, err := w.CheckBatch(context.Background(), w.store, "", []Query{q}, func(_ int, d Decision, err error) {
			if got(d, err) != c.want {
				t.Errorf("%s in a batch: %s, want %s", c.q, got(d, err), c.want)
			}
		})
		if err != nil {
			t.Error(err)
		}
		if c.want == "invalid" {
			continue
		}
		typ, _, _ := relation.SplitObject(x.Object)
		l, err := w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: typ, Relation: x.Relation, Subject: x.Subject, Asked: asked})
		if c.day != "" && (err != nil || slices.Contains(l.Names, x.Object) != (c.want == "relation")) {
			t.Errorf("objects of %s: %v, %v", c.q, l.Names, err)
		}
		object, userset := relation.SplitSubject(x.Subject)
		styp, _, _ := relation.SplitObject(object)
		l, err = w.ListUsers(context.Background(), UsersQuery{Store: w.store, Object: x.Object, Relation: x.Relation, Type: styp, Userset: userset, Asked: asked})
		everyone := slices.Contains(l.Names, styp+":*") && x.Subject != styp+":*"
		if c.want != "unknown" && (err != nil || slices.Contains(l.Names, x.Subject) != (c.want == "relation") && !everyone) {
			t.Errorf("users of %s: %v, %v", c.q, l.Names, err)
		}
	}
}

// A trace names the set, the two relations, and how each is held.
func TestExclusiveRolesExplained(t *testing.T) {
	t.Parallel()
	w := apartWorld(t, "change:1#requester@team:x#member", "team:x#member@user:a", "change:1#folder@folder:f", "folder:f#approver@user:a")
	d, err := w.ask(t, "change:1#viewer@user:a")
	if err != nil || d.Allowed || d.Trace.Allowed || d.Trace.Overlap == nil {
		t.Fatalf("%+v, %v", d, err)
	}
	want := &Overlap{Set: "four-eyes", Object: "change:1", Subject: "user:a", Relations: []string{"requester", "approver"}, Paths: [][]Grant{
		{
			{Object: "change:1", Relation: "requester", Reason: reasonUserset, Tuple: tracedTuple{tuple("change:1#requester@team:x#member")}},
			{Object: "team:x", Relation: "member", Reason: reasonTuple, Tuple: tracedTuple{tuple("team:x#member@user:a")}},
		},
		d.Trace.Overlap.Paths[1],
	}}
	if diff := gocmp.Diff(want, d.Trace.Overlap); diff != "" {
		t.Error(diff)
	}
	for _, s := range []string{"deny  user:a", "roles exclude each other (four-eyes): user:a holds requester and approver", "team:x#member@user:a"} {
		if !strings.Contains(d.Trace.String(), s) {
			t.Errorf("the drawing does not say %q:\n%s", s, d.Trace)
		}
	}
}

// assigning writes a change of tuples, written as +tuple or -tuple with spaces
// between. After a ~ comes the context of the condition office.
func (w *world) assigning(change string) error {
	var in Write
	for _, s := range strings.Fields(change) {
		t := tuple(s[1:])
		if t.Subject, t.Context, _ = strings.Cut(t.Subject, "~"); t.Context != "" {
			t.Condition = "office"
		}
		if s[0] == '-' {
			in.Deletes = append(in.Deletes, t)
		} else {
			in.Writes = append(in.Writes, t)
		}
	}
	_, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", in)
	return err
}

// An assignment after which somebody could hold two exclusive roles is refused
// and changes nothing, whatever it is that leads to the second one.
func TestAssignments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, change, says string }{
		"by name":                     {"+change:1#requester@user:a", "+change:1#approver@user:a", "user:a would hold both approver and requester of change:1, which exclude each other (four-eyes)"},
		"another object":              {"+change:1#requester@user:a", "+change:2#approver@user:a", ""},
		"another person":              {"+change:1#requester@user:a", "+change:1#approver@user:b", ""},
		"another role":                {"+change:1#requester@user:a", "+change:1#viewer@user:a", ""},
		"both at once":                {"+change:9#viewer@user:a", "+change:1#requester@user:a +change:1#approver@user:a", "user:a would hold both requester and approver"},
		"one for the other":           {"+change:1#requester@user:a", "-change:1#requester@user:a +change:1#approver@user:a", ""},
		"a group":                     {"+change:1#requester@user:a +team:x#member@user:a", "+change:1#approver@team:x#member", "user:a would hold both"},
		"a group of others":           {"+change:1#requester@user:a +team:x#member@user:b", "+change:1#approver@team:x#member", ""},
		"a group that holds it":       {"+change:1#requester@team:x#member", "+change:1#approver@team:x#member", "team:x#member would hold both"},
		"a member":                    {"+change:1#requester@user:a +change:1#approver@team:x#member", "+team:x#member@user:a", "user:a would hold both"},
		"a lead, who is a member":     {"+change:1#requester@user:a +change:1#approver@team:x#member", "+team:x#lead@user:a", "user:a would hold both"},
		"the leads":                   {"+change:1#approver@team:x#member", "+change:1#requester@team:x#lead", "team:x#lead would hold both"},
		"a nested group":              {"+change:1#requester@user:a +change:1#approver@team:x#member +team:y#member@user:a +team:x#member@team:z#member", "+team:z#member@team:y#member", "user:a would hold both"},
		"through a folder":            {"+change:1#folder@folder:f +change:1#requester@user:a", "+folder:f#approver@user:a", "user:a would hold both"},
		"into a folder":               {"+folder:f#approver@user:a +change:1#requester@user:a", "+change:1#folder@folder:f", "user:a would hold both"},
		"a folder that moves":         {"+folder:top#approver@team:x#member +team:x#member@user:a +change:1#folder@folder:f +change:1#requester@user:a", "+folder:f#parent@folder:top", "user:a would hold both"},
		"a folder's own two":          {"+folder:f#requester@user:a", "+folder:f#approver@user:a", ""}, // excluded on changes alone, and there is none
		"a change in such a folder":   {"+folder:f#requester@user:a +folder:f#approver@user:a", "+change:1#folder@folder:f", "user:a would hold both"},
		"everyone":                    {"+change:1#approver@user:a", "+change:1#requester@user:*", "user:a would hold both"},
		"beside everyone":             {"+change:1#requester@user:*", "+change:1#approver@user:a", "user:a would hold both"},
		"everyone in a group":         {"+change:1#approver@user:a +change:1#requester@team:x#member", "+team:x#member@user:*", "user:a would hold both"},
		"everyone through a folder":   {"+change:1#folder@folder:f +change:1#requester@user:*", "+folder:f#approver@user:*", "user:* would hold both"},
		"under a condition":           {"+change:1#requester@user:a", "+change:1#approver@user:a~{}", "user:a would hold both"},
		"beside a condition":          {`+change:1#approver@user:a~{"day":"sunday"}`, "+change:1#requester@user:a", "user:a would hold both"},
		"one who is banned":           {"+change:1#requester@user:a +change:1#banned@user:a", "+change:1#approver@user:a", "user:a would hold both"},
		"half an auditor":             {"+change:1#requester@user:a", "+change:1#auditor@user:a", ""},
		"the other half":              {"+change:1#requester@user:a +change:1#auditor@user:a", "+change:1#trained@user:a", "user:a would hold both auditor and requester"},
		"the other half, by a group":  {"+change:1#requester@user:a +change:1#auditor@user:a +team:x#member@user:a", "+change:1#trained@team:x#member", "user:a would hold both auditor and requester"},
		"the other half of another":   {"+change:1#requester@user:a +change:1#auditor@user:b", "+change:1#trained@user:a", ""},
		"what has nothing to do with": {"+change:1#requester@user:a", "+folder:g#parent@folder:h +team:q#member@user:a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, many := range []int{0, manyGains} {
				w := apartWorld(t)
				w.application("docs").standing.Load().current.own.roles.many = many
				if err := w.assigning(c.before); err != nil {
					t.Fatal(err)
				}
				before := w.db.revs[w.store]
				err := w.assigning(c.change)
				if c.says == "" && err != nil || c.says != "" && (fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Public(err), c.says)) {
					t.Errorf("%v, want %q", err, c.says)
				}
				var o *Overlap
				if c.says != "" && (!errors.As(err, &o) || o.Set != "four-eyes" || w.db.revs[w.store] != before) {
					t.Errorf("%+v, revision %d after %d", o, w.db.revs[w.store], before)
				}
			}
		})
	}
}

// A grant that has ended is none; one that ends later is one.
func TestAssignmentsAndEnds(t *testing.T) {
	t.Parallel()
	w := apartWorld(t)
	now := w.cfg.Now().UnixNano()
	ended, ends := tuple("change:1#requester@user:a"), tuple("change:1#requester@user:b")
	ended.Expires, ends.Expires = now, now+1
	for _, x := range []relation.Tuple{ended, ends} {
		w.db.seed(w.store)
		w.db.tuples[w.store][x.Key()] = x
	}
	if err := w.assigning("+change:1#approver@user:a"); err != nil {
		t.Error(err)
	}
	if err := w.assigning("+change:1#approver@user:b"); fault.KindOf(err) != fault.Denied {
		t.Error(err)
	}
}

// A folder of many moves under another parent in reasonable work, and is refused
// where one of them would overlap.
func TestManyObjectsMove(t *testing.T) {
	t.Parallel()
	w := apartWorld(t, "folder:top#approver@user:a", "folder:top#requester@team:x#member", "team:x#member@user:b")
	set := w.db.tuples[w.store]
	for i := range 100_000 {
		for _, s := range []string{"change:%d#folder@folder:f", "change:%d#requester@user:%[1]d"} {
			x := tuple(fmt.Sprintf(s, i))
			set[x] = x
		}
	}
	if err := w.assigning("+folder:f#parent@folder:top"); err != nil {
		t.Fatal(err)
	}
	if err := w.assigning("-folder:f#parent@folder:top"); err != nil {
		t.Fatal(err)
	}
	if err := w.assigning("+change:70000#requester@user:a"); err != nil {
		t.Fatal(err)
	}
	if err := w.assigning("+folder:f#parent@folder:top"); fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Public(err), "change:70000") {
		t.Errorf("one of 100,000: %v", err)
	}
}

// What cannot be shown within the bound is refused, in words that help.
func TestAssignmentTooLarge(t *testing.T) {
	t.Parallel()
	w := apartWorld(t)
	set := w.db.tuples[w.store]
	if set == nil {
		w.db.seed(w.store)
		set = w.db.tuples[w.store]
	}
	put := func(s string) { set[tuple(s)] = tuple(s) }
	for i := range 1500 {
		put(fmt.Sprintf("team:x#member@user:%d", i))
		put(fmt.Sprintf("change:%d#folder@folder:f", i))
	}
	err := w.assigning("+folder:f#approver@team:x#member")
	if fault.KindOf(err) != fault.Exhausted || !strings.Contains(fault.Public(err), "nothing is written") {
		t.Errorf("1500 people for 1500 changes: %v", err)
	}
	if err := w.assigning("+folder:f#approver@user:7"); err != nil {
		t.Errorf("one of them: %v", err)
	}
	if err := w.assigning("+change:3#approver@team:x#member"); err != nil {
		t.Errorf("one change: %v", err)
	}
}

// Writers that only together would give somebody both: one of them is refused.
func TestAssignmentsTogether(t *testing.T) {
	t.Parallel()
	w := apartWorld(t)
	const pairs = 50
	errs := make([]error, 2*pairs)
	var wait sync.WaitGroup
	for i := range pairs {
		for j, rel := range []string{"requester", "approver"} {
			wait.Go(func() { errs[2*i+j] = w.assigning(fmt.Sprintf("+change:%d#%s@user:a", i, rel)) })
		}
	}
	wait.Wait()
	for i := range pairs {
		a, b := errs[2*i], errs[2*i+1]
		if (a == nil) == (b == nil) || fault.KindOf(errors.Join(a, b)) != fault.Denied {
			t.Errorf("pair %d: %v, %v", i, a, b)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ent := w.stores.get(w.store)
	ent.assigning <- struct{}{} // somebody else is at it, and this one has gone
	if _, err := w.Write(ctx, ledger.Change{Store: w.store}, "", Write{Writes: tuples("change:x#approver@user:a")}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: %v", err)
	}
}

// Exclusive roles of one type cost the questions about others nothing.
func TestExclusiveRolesCostNothingElsewhere(t *testing.T) {
	w := apartWorld(t, "folder:f#approver@user:a") // not parallel: it counts the allocations of the whole process
	q := Query{Store: w.store, Object: "folder:f", Relation: "approver", Subject: "user:a"}
	if n := testing.AllocsPerRun(200, func() { _, _ = w.Check(context.Background(), q) }); n >= 1 && !raced {
		t.Errorf("%v allocations", n)
	}
}

// Questions that depend on themselves leave nothing behind that a later question
// of the same decision, of a policy or of exclusive roles, could take for its own.
func TestCircleLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	const model = `model
  schema 1.1
type user
type room
  relations
    define barred: [user]
    define locked: [user]
    define guest: [user]
    define keyholder: guest but not locked
    define owner: [user] but not locked
    define list: [user, room#list] but not circle
    define circle: [user, room#list] but not barred
`
	w := newWorld(t, model, "room:a#list@user:u", "room:a#circle@room:b#list", "room:b#list@room:a#list", "room:a#barred@user:u")
	if d, err := w.ask(t, "room:a#list@user:u"); err != nil || !d.Allowed {
		t.Errorf("without roles: %+v, %v", d, err)
	}
	w.write(t, tuples("room:a#guest@user:u", "room:a#owner@user:u"), nil)
	roles := Roles{Exclusive: []Exclusive{{Name: "one", Type: "room", Relations: []string{"keyholder", "owner"}}}}
	if _, err := w.enforce(Draft{Model: model, Roles: roles}); err != nil {
		t.Fatal(err)
	}
	for _, rel := range []string{"list", "owner", "keyholder"} {
		d, err := w.ask(t, "room:a#"+rel+"@user:u")
		if err != nil || d.Reason != "exclusive_roles" {
			t.Errorf("%s: %+v, %v", rel, d, err)
		}
	}
	policies := []PolicyFile{{Name: "p.cedar", Text: `forbid (principal, action == Action::"list", resource) when { context.verified.relations.contains("keyholder") };`}}
	if _, err := w.enforce(Draft{Model: model, Policies: policies}); err != nil {
		t.Fatal(err)
	}
	if d, err := w.ask(t, "room:a#list@user:u"); err != nil || d.Reason != "forbidden" {
		t.Errorf("a policy about keyholders: %+v, %v", d, err)
	}
}
