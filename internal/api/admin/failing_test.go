package admin_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// A change and its event stand or fall together. The cases follow a request
// from the guard to the answer and stop one part at each step.

// TestNothingWithoutTheLog closes the log: no route does or tells anything.
func TestNothingWithoutTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ours := w.stock(w.acme)
	bodies := w.bodies()
	tokens := map[string]string{}
	for _, rt := range admin.Table() {
		who := holder(rt, "acme")
		tokens[who] = w.token(who, "admin")
	}
	must(t, w.log.Close(context.Background()))
	before := w.changes()
	for _, rt := range admin.Table() {
		if rt.Effect == "opens" {
			continue // its event is a row of the change's own transaction
		}
		who := holder(rt, "acme")
		r := w.send(rt.Method, ours.path(rt), bodies[rt.Action], bearer(tokens[who]))
		problem(t, r, http.StatusServiceUnavailable, "unavailable")
		if w.changes() != before {
			t.Errorf("%s changed something that no event tells of", rt.Action)
		}
	}
}

// TestNoEventOfWhatDidNotHappen closes the store after the guard's part: the
// change fails, and what is recorded is a refusal, never the change.
func TestNoEventOfWhatDidNotHappen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stock(w.acme)
	boss := bearer(w.token("administrator@acme", "admin"))
	w.events(audit.Filter{Action: "connection.create"}, func(all []ledger.Event) bool { return len(all) == 1 })
	must(t, w.store.Close())
	for path, body := range map[string]string{"/services": `{"name":"fresh"}`, "/services/prop/suspend": "", "/invites": `{"role":"auditor"}`} {
		r := w.send("POST", admin.Base+path, body, boss)
		problem(t, r, http.StatusServiceUnavailable, "unavailable")
		if ev := w.one(r.header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != "unavailable" || ev.Decision != "deny" {
			t.Errorf("%s is recorded as %+v", path, ev)
		}
	}
}

// TestRefusedByTheRules lets a change fail in its own transaction: the event
// that would have committed with it is not there, the refusal is.
func TestRefusedByTheRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stock(w.acme)
	boss := bearer(w.token("administrator@acme", "admin"))
	before := w.changes()
	r := w.send("POST", admin.Base+"/users/prop/roles", `{"role":"approver"}`, boss)
	problem(t, r, http.StatusForbidden, "denied") // a second role, refused inside the transaction
	if ev := w.one(r.header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Action != "role.assign" || w.changes() != before {
		t.Errorf("recorded as %+v", ev)
	}
	// What did happen has one event, with the revision that it made.
	r = w.send("DELETE", admin.Base+"/users/prop/roles/approver", "", boss)
	if r.status != http.StatusNoContent || r.body != "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	ev := w.one(r.header.Get(web.RequestIDHeader))
	head, err := w.store.Head(context.Background(), w.acme.System)
	must(t, err)
	if ev.Class != ledger.Mutation || ev.Decision != "allow" || ev.Revision != head || ev.Subject != "user:"+w.id("administrator@acme") {
		t.Errorf("recorded as %+v at head %+v", ev, head)
	}
}

// TestPanicIsRecorded lets a handler panic after the guard let it in.
func TestPanicIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(admin.NewHooked(w.cfg, "changes", func() { panic("on purpose") }))
	r := w.send("POST", admin.Base+"/hook", "", bearer(w.token("administrator@acme", "admin")))
	problem(t, r, http.StatusInternalServerError, "internal")
	if strings.Contains(r.body, "on purpose") {
		t.Error("the panic's value is shown")
	}
	if ev := w.one(r.header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != "internal" {
		t.Errorf("recorded as %+v", ev)
	}
}

// TestNothingIsReadUnrecorded closes the log between the reading and its event:
// what was read is not told.
func TestNothingIsReadUnrecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(admin.NewHooked(w.cfg, "reads", func() { must(t, w.log.Close(context.Background())) }))
	r := w.send("POST", admin.Base+"/hook", "", bearer(w.token("administrator@acme", "admin")))
	problem(t, r, http.StatusServiceUnavailable, "unavailable")
	if strings.Contains(r.body, "the answer") {
		t.Error("the answer is told")
	}
}

// brittle makes keys unless it is broken.
type brittle struct {
	admin.Keys
	broken atomic.Bool
}

func (b *brittle) CreateKEK(ctx context.Context, t tenant.ID, system relation.StoreID) error {
	if b.broken.Load() {
		return fault.Wrap(fault.Unavailable, "the root key cannot be reached", errors.New("unplugged"))
	}
	return b.Keys.CreateKEK(ctx, t, system)
}

// TestTenantWithoutItsKey stops between a tenant and its key: the tenant is
// there, once, and resuming it makes the key.
func TestTenantWithoutItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.cfg
	keys := &brittle{Keys: cfg.Keys}
	keys.broken.Store(true)
	cfg.Keys = keys
	w.serve(admin.New(cfg))
	operator := bearer(w.token("operator@platform", "admin"))
	r := w.send("POST", admin.Base+"/tenants", `{"name":"late"}`, operator)
	problem(t, r, http.StatusServiceUnavailable, "unavailable")
	if ev := w.one(r.header.Get(web.RequestIDHeader)); ev.Class != ledger.Mutation || ev.Action != "tenant.create" {
		t.Errorf("recorded as %+v", ev)
	}
	r = w.send("POST", admin.Base+"/tenants", `{"name":"late"}`, operator)
	problem(t, r, http.StatusConflict, "conflict")
	keys.broken.Store(false)
	if r = w.send("POST", admin.Base+"/tenants/late/resume", "", operator); r.status != http.StatusNoContent {
		t.Errorf("%d %s", r.status, r.body)
	}
	w.events(audit.Filter{Action: "kek.create"}, func(all []ledger.Event) bool { return len(all) == 2 }) // the platform's and this
}
