package openfga_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// page is an answer of GET /stores. Unknown members are errors: a client in
// OpenFGA's strict languages would stumble over them.
type page struct {
	Stores []listed `json:"stores"`
	Token  string   `json:"continuation_token"`
}

type listed struct {
	ID      relation.StoreID `json:"id"`
	Name    string           `json:"name"`
	Created time.Time        `json:"created_at"`
	Updated time.Time        `json:"updated_at"`
	Deleted *time.Time       `json:"deleted_at"`
}

func read[T any](w *world, r guardtest.Reply) T {
	w.T.Helper()
	var out T
	d := json.NewDecoder(strings.NewReader(r.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil || r.Status != 200 {
		w.T.Fatalf("answered %d %s: %v", r.Status, r.Body, err)
	}
	return out
}

// Everybody who may check finds the default store of the own tenant, and
// nothing else: not the system store, which comes first in the directory, nor
// anything of another tenant.
func TestStores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"acme", "globex", "platform"} {
		of, err := w.Directory.ResolveTenant(name)
		w.Must(err)
		want := listed{ID: w.graph(name), Name: "docs", Created: of.Created, Updated: of.Created}
		for _, who := range []string{"caller@" + name, "auditor@" + name, "access_manager@" + name} {
			r := w.get(who, "/stores")
			if diff := cmp.Diff(page{Stores: []listed{want}}, read[page](w, r)); diff != "" {
				t.Errorf("%s lists %s", who, diff)
			}
			ev := w.One(r.Header.Get(web.RequestIDHeader))
			if ev.Class != ledger.AdminRead || ev.Action != "store.list" || ev.Decision != "allow" || ev.Tenant != of.Tenant || ev.Subject != w.Subject(who) {
				t.Errorf("recorded as %+v", ev)
			}
			r = w.get(who, "/stores/"+string(want.ID))
			if diff := cmp.Diff(want, read[listed](w, r)); diff != "" {
				t.Errorf("%s gets %s", who, diff)
			}
			ev = w.One(r.Header.Get(web.RequestIDHeader))
			if ev.Class != ledger.AdminRead || ev.Action != "store.get" || ev.Resource != "store:"+string(want.ID) || ev.Tenant != of.Tenant {
				t.Errorf("recorded as %+v", ev)
			}
		}
	}
	// A platform's service in a tenant: the token's tenant counts, whoever owns the service.
	svc, err := w.Directory.ServiceByName(tenant.Platform, "caller")
	w.Must(err)
	_, err = w.Directory.Install(context.Background(), ledger.Event{Subject: "system"}, w.Acme.Tenant, svc.ID, nil, time.Time{})
	w.Must(err)
	token, err := w.Issuer.Mint(context.Background(), sts.MintRequest{Tenant: w.Acme.Tenant, Subject: principal.Subject{Kind: principal.Service, ID: svc.ID}, Audience: "authz"})
	w.Must(err)
	got := read[page](w, w.send("GET", "/stores", "", guardtest.Bearer(token.Value)))
	if len(got.Stores) != 1 || got.Stores[0].ID != w.graph("acme") {
		t.Errorf("an installed service lists %+v", got)
	}
}

// A store that is not the caller's is like one that does not exist.
func TestHiddenStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var first string
	for name, store := range map[string]relation.StoreID{
		"absent": relation.StoreID(tenant.RandomID()), "own system": w.Acme.System, "platform's system": w.Platform.System,
		"another's system": w.Globex.System, "another's default": w.graph("globex"), "the platform's default": w.graph("platform"),
	} {
		r := w.get("access_manager@acme", "/stores/"+string(store))
		refusal(t, r, 404, "store_id_not_found")
		if first == "" {
			first = r.Body
		}
		if r.Body != first {
			t.Errorf("the store %s answers %q, others %q", name, r.Body, first)
		}
		ev := w.One(r.Header.Get(web.RequestIDHeader))
		if ev.Class != ledger.Deny || ev.Decision != "deny" || ev.Reason != "not_found" || ev.Tenant != w.Acme.Tenant || strings.Contains(ev.Resource, string(store)) {
			t.Errorf("the store %s is recorded as %+v", name, ev)
		}
	}
}

func TestWhoMayList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/stores", "/stores/" + string(w.graph("acme"))} {
		refusal(t, w.send("GET", path, "", nil), 401, "unauthenticated")
		for _, audience := range []string{"admin", "gateway"} {
			refusal(t, w.send("GET", path, "", guardtest.Bearer(w.Token("caller@acme", audience))), 401, "unauthenticated")
		}
		good := "Bearer " + w.Token("caller@acme", "authz")
		refusal(t, w.send("GET", path, "", http.Header{"Authorization": {good, good}}), 401, "unauthenticated")
		for _, who := range []string{"nobody@acme", "administrator@acme", "policy_author@acme"} {
			r := w.get(who, path)
			refusal(t, r, 403, "forbidden")
			if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Subject != w.Subject(who) || ev.Relation != "can_check" {
				t.Errorf("%s, %s is recorded as %+v", path, who, ev)
			}
		}
	}
	before := w.Token("caller@globex", "authz")
	w.Must(w.Directory.SetTenantState(context.Background(), ledger.Event{Subject: "system"}, w.Globex.Tenant, directory.Suspended))
	refusal(t, w.send("GET", "/stores", "", guardtest.Bearer(before)), 401, "unauthenticated")
}

func TestBadListing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	header := guardtest.Bearer(w.Token("caller@acme", "authz"))
	for path, code := range map[string]string{
		"?page_size=0": "page_size_invalid", "?page_size=101": "page_size_invalid", "?page_size=-1": "page_size_invalid",
		"?page_size=x": "validation_error", "?page_size=99999999999": "validation_error", "?page_size=1&page_size=2": "validation_error",
		"?tenant=globex": "validation_error", "?%zz": "validation_error", "?name=a*": "validation_error",
		"?continuation_token=x": "invalid_continuation_token", "?continuation_token=" + string(w.graph("globex")): "invalid_continuation_token",
		"/" + string(w.graph("acme")) + "?name=docs": "validation_error", "/x": "validation_error",
	} {
		r := w.send("GET", "/stores"+path, "", header)
		if refusal(t, r, 400, code); t.Failed() {
			t.Fatalf("%s: %d %s", path, r.Status, r.Body)
		}
		if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != "invalid" {
			t.Errorf("%s is recorded as %+v", path, ev)
		}
	}
	refusal(t, w.send("GET", "/stores", "{}", header), 400, "validation_error")
	refusal(t, w.send("GET", "/stores/"+string(w.graph("acme")), "{}", header), 400, "validation_error")
	refusal(t, w.send("PATCH", "/stores/"+string(w.graph("acme")), `{"name":"other"}`, header), 405, "unimplemented")
	for name, want := range map[string]int{"docs": 1, "Docs": 0, "other": 0} {
		if got := read[page](w, w.send("GET", "/stores?name="+name, "", header)); len(got.Stores) != want {
			t.Errorf("named %s: %+v", name, got)
		}
	}
}

// Several applications: pages in order of name, each store once.
func TestStorePages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	more, err := directory.New(context.Background(), directory.Config{
		Store: w.Store.Directory(), Env: guardtest.Env, Applications: []string{"wiki", "docs", "billing"}, MaxToken: sts.MaxTokenLife, Now: w.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.Bytes{}, io.EOF },
	})
	w.Must(err)
	w.Must(more.EnsureGraphs(context.Background()))
	for _, size := range []string{"1", "2", "3", "100"} {
		var names []string
		seen := map[relation.StoreID]bool{}
		for token, pages := "", 0; ; pages++ {
			got := read[page](w, w.get("caller@acme", "/stores?page_size="+size+"&continuation_token="+token))
			for _, s := range got.Stores {
				names = append(names, s.Name)
				seen[s.ID] = true
			}
			if token = got.Token; token == "" {
				break
			}
			if pages > 3 {
				t.Fatal("the pages do not end")
			}
		}
		if strings.Join(names, " ") != "billing docs wiki" || len(seen) != 3 {
			t.Errorf("in pages of %s: %v", size, names)
		}
	}
}
