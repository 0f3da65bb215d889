package guardtest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// Token mints a token of the person for the audience's alias or URN.
func (w *World) Token(who, audience string) string {
	w.T.Helper()
	return w.Mint(who, audience).Value
}

// Mint is Token with what the issuer knows of it.
func (w *World) Mint(who, audience string) sts.Token {
	w.T.Helper()
	p := w.person(who)
	t, err := w.Issuer.Mint(context.Background(), sts.MintRequest{Tenant: p.tenant, Subject: p.who, Audience: audience})
	w.Must(err)
	return t
}

// Subject returns the person's subject, as "user:<id>".
func (w *World) Subject(who string) string { w.T.Helper(); return w.person(who).who.String() }

// ID returns the person's id.
func (w *World) ID(who string) string { w.T.Helper(); return w.person(who).who.ID }

func (w *World) person(who string) person {
	w.T.Helper()
	p, ok := w.people[who]
	if !ok {
		w.T.Fatalf("nobody is called %s", who)
	}
	return p
}

// Write adds tuples to acme's default store.
func (w *World) Write(tuples ...relation.Tuple) relation.Revision {
	w.T.Helper()
	graph, err := w.Directory.DefaultGraph(w.Acme.Tenant, "docs")
	w.Must(err)
	rev, err := w.Authz.Write(context.Background(), w.change(graph, "tuple.write", w.Acme.Tenant), "", authz.Write{Writes: tuples})
	w.Must(err)
	return rev
}

// Give writes an admin right as no interface would: one person gets a second, or
// a service gets one.
func (w *World) Give(who, role string) {
	w.T.Helper()
	p := w.person(who)
	system, err := w.Directory.SystemGraph(p.tenant)
	w.Must(err)
	_, err = w.Store.Tuples().WriteTuples(context.Background(), w.change(system, "test.give", p.tenant), authz.Write{Writes: []relation.Tuple{
		{Object: directory.SystemObject(p.tenant), Relation: role, Subject: p.who.String()},
	}})
	w.Must(err)
}

// Changes counts the revisions of all stores: no difference is no change.
func (w *World) Changes() uint64 { return w.Store.Counters().Mutations }

// Events waits until what the log holds and fits is enough, and returns it.
func (w *World) Events(f audit.Filter, enough func([]ledger.Event) bool) []ledger.Event {
	w.T.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		var found []ledger.Event
		w.Must(audit.Query(context.Background(), w.AuditDir, audit.QueryOptions{Filter: f}, func(ev ledger.Stored) bool {
			found = append(found, ev.Event)
			return true
		}))
		if enough(found) {
			return found
		}
		if time.Now().After(end) {
			w.T.Fatalf("the log never held what was waited for; %d events fit %+v", len(found), f)
		}
	}
}

// One waits for the single event of a request.
func (w *World) One(request string) ledger.Event {
	w.T.Helper()
	return w.Events(audit.Filter{RequestID: request}, func(all []ledger.Event) bool { return len(all) == 1 })[0]
}

// Door is a handler behind real TLS.
type Door struct {
	*httptest.Server
	w *World
}

// Serve opens a door for the handler.
func (w *World) Serve(h http.Handler) Door {
	s := httptest.NewTLSServer(h)
	w.T.Cleanup(s.Close)
	return Door{s, w}
}

// Reply is an answer as it came.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// Send makes a request; a body is JSON unless the header says otherwise.
func (d Door) Send(method, path, body string, header http.Header) Reply {
	d.w.T.Helper()
	r, err := http.NewRequest(method, d.URL+path, nil)
	d.w.Must(err)
	if body != "" {
		r.Body = io.NopCloser(strings.NewReader(body))
		r.ContentLength = int64(len(body))
		r.Header.Set("Content-Type", "application/json")
	}
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := d.Client().Do(r)
	d.w.Must(err)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	d.w.Must(err)
	return Reply{resp.StatusCode, resp.Header, string(raw)}
}

// Bearer is the header that carries the token.
func Bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// Person returns the person's subject, not spelled.
func (w *World) Person(who string) principal.Subject { w.T.Helper(); return w.person(who).who }

// TenantOf returns the person's tenant.
func (w *World) TenantOf(who string) tenant.ID { w.T.Helper(); return w.person(who).tenant }
