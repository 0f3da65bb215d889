package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// aNode is a node with dev's data. It ends with the test.
func aNode(t *testing.T, now func() time.Time) (*node, *devState) {
	t.Helper()
	return limitedNode(t, now, config.Limits{})
}

func limitedNode(t *testing.T, now func() time.Time, limits config.Limits) (*node, *devState) {
	t.Helper()
	ctx := context.Background()
	data := t.TempDir()
	root, err := local.Create(filepath.Join(data, "root.sealed"), secret.New([]byte("passphrase")), local.Config{Env: "dev", Dev: true, WorkFactor: 1})
	must(t, err)
	p := plan{
		env: "dev", issuer: "https://issuer.test", data: filepath.Join(data, "d"), dev: true, application: devApplication,
		root: root, limits: limits, now: now, log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	must(t, os.MkdirAll(filepath.Join(p.data, "dev"), 0o700))
	must(t, ensureInstance(ctx, p))
	n, err := openNode(ctx, p)
	must(t, err)
	t.Cleanup(func() { n.close(ctx) })
	state, err := seed(ctx, n)
	must(t, err)
	return n, state
}

// nodeAhead is a node whose clock the test sets, and the store of dev's acme.
type nodeAhead struct {
	*node
	ahead *atomic.Int64 // nanoseconds
	acme  relation.StoreID
	owner tenant.ID // of acme
}

func aNodeAhead(t *testing.T) nodeAhead {
	t.Helper()
	ahead := new(atomic.Int64)
	n, state := aNode(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	owner, err := n.directory.ResolveTenant("acme")
	must(t, err)
	return nodeAhead{n, ahead, relation.StoreID(state.Tenants["acme"].Store), owner.Tenant}
}

// change is one of the system's own.
func (n *node) change(store relation.StoreID, of tenant.ID, action string) ledger.Change {
	return ledger.Change{Store: store, Event: ledger.Event{
		ID: tenant.RandomID(), Time: n.plan.now(), Class: ledger.Mutation, Action: action, Tenant: of, Subject: "system",
	}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until asks again and again whether it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	end := time.After(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("half a minute has passed: %s", what)
		}
	}
}

// Grants go when their time has come, in changes of a hundred at most, of whose
// events each grant is in one. Those of another end, and of none, stay.
func TestExpiredGrantsAreCollected(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	n := aNodeAhead(t)
	write := func(w ...relation.Tuple) {
		t.Helper()
		_, err := n.authz.Write(ctx, n.change(n.acme, n.owner, "tuple.write"), "", authz.Write{Writes: w})
		must(t, err)
	}
	grants := func() (list []relation.Tuple) {
		t.Helper()
		page, err := n.authz.Read(ctx, n.acme, authz.Filter{Object: "folder:", Relation: "viewer"}, 1000, "")
		must(t, err)
		for _, s := range page.Tuples {
			if strings.HasPrefix(s.Object, "folder:short") || strings.HasPrefix(s.Object, "folder:long") {
				list = append(list, s.Tuple)
			}
		}
		return list
	}
	viewer := func(object string, end time.Time) relation.Tuple {
		x := relation.Tuple{Object: object, Relation: "viewer", Subject: "user:x"}
		if !end.IsZero() {
			x.Expires = end.UnixNano()
		}
		return x
	}
	soon, late := n.plan.now().Add(time.Hour), n.plan.now().Add(3*time.Hour)
	long := []relation.Tuple{viewer("folder:long", time.Time{}), viewer("folder:long1", late)}
	write(long[0])
	want := map[string]bool{}
	for part := range 3 {
		var some []relation.Tuple
		for i := range 50 {
			x := viewer(fmt.Sprintf("folder:short%d-%d", part, i), soon)
			want[x.String()] = true
			some = append(some, x)
		}
		write(some...)
	}
	d, err := n.authz.Check(ctx, authz.Query{Store: n.acme, Object: "folder:short0-0", Relation: "viewer", Subject: "user:x"})
	if err != nil || !d.Allowed || len(grants()) != 151 {
		t.Fatalf("before the end: %+v, %v", d, err)
	}
	n.ahead.Store(int64(2 * time.Hour))
	write(long[1]) // no timer follows a clock that is set; a write that ends wakes
	until(t, "grants are there still", func() bool { return len(grants()) <= 2 })
	if got := grants(); len(got) != 2 || got[0] != long[0] || got[1] != long[1] {
		t.Errorf("left are %v", got)
	}
	var events []ledger.Event
	until(t, "the events are not in the log", func() bool {
		events = nil
		named := 0
		must(t, audit.Query(ctx, auditPath(n.plan.data), audit.QueryOptions{Filter: audit.Filter{Action: "tuple.expire"}}, func(s ledger.Stored) bool {
			events = append(events, s.Event)
			named += len(strings.Fields(s.Event.Detail["deletes"]))
			return true
		}))
		return named >= 150
	})
	for _, ev := range events {
		names := strings.Fields(ev.Detail["deletes"])
		if ev.Class != ledger.Mutation || ev.Subject != "system" || ev.Tenant != n.owner || ev.Resource != "store:"+string(n.acme) || len(names) > 100 {
			t.Errorf("the event is %+v", ev)
		}
		for _, name := range names {
			if !want[name] {
				t.Errorf("%s expired, again or without an end", name)
			}
			delete(want, name)
		}
	}
	// What was granted anew stays, whatever was read before.
	stale := long[1]
	stale.Expires--
	for _, x := range []relation.Tuple{stale, long[0]} {
		if _, err := n.authz.Expire(ctx, n.change(n.acme, n.owner, "tuple.write"), []relation.Tuple{x}); err == nil || len(grants()) != 2 {
			t.Errorf("%v expired: %v", x, err)
		}
	}
	if _, err := n.authz.Expire(ctx, n.change(n.acme, n.owner, "tuple.write"), []relation.Tuple{stale}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a tuple with another end: %v", err)
	}
}

// A grant of editor for one hour works at once, is denied from the moment of its
// end, and is gone within 1 s of it. The hour passes by setting the node's clock,
// the last part of it in real time.
func TestGrantOfAnHour(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	n := aNodeAhead(t)
	platform, err := n.directory.SystemGraph(tenant.Platform)
	must(t, err)
	was, _ := n.authz.Rollout(devApplication)
	draft, err := n.authz.Draft(devApplication, was.Current)
	must(t, err)
	draft.Roles = authz.Roles{Roles: []authz.Role{{Name: "writer", Type: "document", Relations: []string{"editor"}}}}
	_, err = n.authz.Enforce(ctx, n.change(platform, tenant.Platform, "release.activate"), devApplication, draft)
	must(t, err)

	fastest := time.Hour
	for try := 0; try < 3 && fastest > time.Second; try++ { // a machine that is busy with other tests may be late once
		a := authz.Assignment{Role: "writer", Object: fmt.Sprintf("document:hour%d", try), Subject: "user:x", Expires: n.plan.now().Add(time.Hour).UnixNano()}
		_, err = n.authz.Assign(ctx, n.change(n.acme, n.owner, "assignment.create"), a)
		must(t, err)
		end := time.Unix(0, a.Expires)
		allowed := func() bool {
			t.Helper()
			before := n.plan.now()
			d, err := n.authz.Check(ctx, authz.Query{Store: n.acme, Object: a.Object, Relation: "can_edit", Subject: a.Subject})
			must(t, err)
			if d.Allowed && !before.Before(end) {
				t.Fatalf("allowed %v after the end", before.Sub(end))
			}
			return d.Allowed
		}
		if !allowed() {
			t.Fatal("the grant does not work at once")
		}
		n.ahead.Add(int64(end.Sub(n.plan.now()) - 700*time.Millisecond))
		if !allowed() && n.plan.now().Before(end) {
			t.Fatal("the grant has ended before its hour")
		}
		// No timer follows a clock that is set; a write that ends wakes.
		wake := relation.Tuple{Object: "folder:wake", Relation: "viewer", Subject: fmt.Sprintf("user:%d", try), Expires: end.Add(time.Hour).UnixNano()}
		_, err = n.authz.Write(ctx, n.change(n.acme, n.owner, "tuple.write"), "", authz.Write{Writes: []relation.Tuple{wake}})
		must(t, err)
		until(t, "the grant works still", func() bool { return !allowed() })
		if at := n.plan.now(); at.Before(end) {
			t.Errorf("denied %v before the end", end.Sub(at))
		}
		until(t, "the grant is there still", func() bool {
			page, err := n.authz.Read(ctx, n.acme, authz.Filter{Object: a.Object}, 10, "")
			must(t, err)
			return len(page.Tuples) == 0
		})
		fastest = min(fastest, n.plan.now().Sub(end))
	}
	if fastest > time.Second {
		t.Errorf("grants are gone %v after their end", fastest)
	}
}
