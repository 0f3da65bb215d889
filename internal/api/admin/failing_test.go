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
	"bulwark.example/internal/guardtest"
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
	ours := w.stock(w.Acme)
	bodies := w.bodies()
	tokens := map[string]string{}
	for _, rt := range admin.Table() {
		who := holder(rt, "acme")
		tokens[who] = w.Token(who, "admin")
	}
	must(t, w.Audit.Close(context.Background()))
	before := w.Changes()
	for _, rt := range admin.Table() {
		if rt.Effect == "opens" {
			continue // its event is a row of the change's own transaction
		}
		who := holder(rt, "acme")
		r := w.Send(rt.Method, ours.path(rt), bodies[rt.Action], guardtest.Bearer(tokens[who]))
		problem(t, r, http.StatusServiceUnavailable, "unavailable")
		if w.Changes() != before {
			t.Errorf("%s changed something that no event tells of", rt.Action)
		}
	}
}

// TestNoEventOfWhatDidNotHappen closes the store after the guard's part: the
// change fails, and what is recorded is a refusal, never the change.
func TestNoEventOfWhatDidNotHappen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stock(w.Acme)
	boss := guardtest.Bearer(w.Token("administrator@acme", "admin"))
	w.Events(audit.Filter{Action: "connection.create"}, func(all []ledger.Event) bool { return len(all) == 1 })
	must(t, w.Store.Close())
	for path, body := range map[string]string{"/services": `{"name":"fresh"}`, "/services/prop/suspend": "", "/invites": `{"role":"auditor"}`} {
		r := w.Send("POST", admin.Base+path, body, boss)
		problem(t, r, http.StatusServiceUnavailable, "unavailable")
		if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != "unavailable" || ev.Decision != "deny" {
			t.Errorf("%s is recorded as %+v", path, ev)
		}
	}
}

// TestRefusedByTheRules lets a change fail in its own transaction: the event
// that would have committed with it is not there, the refusal is.
func TestRefusedByTheRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stock(w.Acme)
	boss := guardtest.Bearer(w.Token("administrator@acme", "admin"))
	before := w.Changes()
	r := w.Send("POST", admin.Base+"/users/prop/roles", `{"role":"approver"}`, boss)
	problem(t, r, http.StatusForbidden, "denied") // a second role, refused inside the transaction
	if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Action != "role.assign" || w.Changes() != before {
		t.Errorf("recorded as %+v", ev)
	}
	// What did happen has one event, with the revision that it made.
	r = w.Send("DELETE", admin.Base+"/users/prop/roles/approver", "", boss)
	if r.Status != http.StatusNoContent || r.Body != "" {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	ev := w.One(r.Header.Get(web.RequestIDHeader))
	head, err := w.Store.Head(context.Background(), w.Acme.System)
	must(t, err)
	if ev.Class != ledger.Mutation || ev.Decision != "allow" || ev.Revision != head || ev.Subject != "user:"+w.ID("administrator@acme") {
		t.Errorf("recorded as %+v at head %+v", ev, head)
	}
}

// TestPanicIsRecorded lets a handler panic after the guard let it in.
func TestPanicIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(admin.NewHooked(w.cfg, "changes", func() { panic("on purpose") }))
	r := w.Send("POST", admin.Base+"/hook", "", guardtest.Bearer(w.Token("administrator@acme", "admin")))
	problem(t, r, http.StatusInternalServerError, "internal")
	if strings.Contains(r.Body, "on purpose") {
		t.Error("the panic's value is shown")
	}
	if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != "internal" {
		t.Errorf("recorded as %+v", ev)
	}
}

// TestNothingIsReadUnrecorded closes the log between the reading and its event:
// what was read is not told.
func TestNothingIsReadUnrecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(admin.NewHooked(w.cfg, "reads", func() { must(t, w.Audit.Close(context.Background())) }))
	r := w.Send("POST", admin.Base+"/hook", "", guardtest.Bearer(w.Token("administrator@acme", "admin")))
	problem(t, r, http.StatusServiceUnavailable, "unavailable")
	if strings.Contains(r.Body, "the answer") {
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
	operator := guardtest.Bearer(w.Token("operator@platform", "admin"))
	r := w.Send("POST", admin.Base+"/tenants", `{"name":"late"}`, operator)
	problem(t, r, http.StatusServiceUnavailable, "unavailable")
	if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Mutation || ev.Action != "tenant.create" {
		t.Errorf("recorded as %+v", ev)
	}
	r = w.Send("POST", admin.Base+"/tenants", `{"name":"late"}`, operator)
	problem(t, r, http.StatusConflict, "conflict")
	keys.broken.Store(false)
	if r = w.Send("POST", admin.Base+"/tenants/late/resume", "", operator); r.Status != http.StatusNoContent {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	made := w.Events(audit.Filter{Action: "kek.create"}, func(all []ledger.Event) bool { return len(all) == 2 })
	by := map[bool]string{}
	for _, ev := range made {
		by[ev.Tenant == tenant.Platform] = ev.Subject
	}
	if by[true] != "system" || by[false] != w.Subject("operator@platform") {
		t.Errorf("the platform's key was made by %q, the tenant's by %q", by[true], by[false])
	}
}
