package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// A client that knows the API's address alone finds the AuthZEN endpoints, and
// asks there what the gateway asks itself.
func TestAuthZEN(t *testing.T) {
	t.Parallel()
	d := startDev(t, filepath.Join(t.TempDir(), "data"))
	var point map[string]string
	d.do("GET", d.API+"/.well-known/authzen-configuration", "").read(t, &point)
	if point["policy_decision_point"] != d.API {
		t.Fatalf("the decision point at %s says %v", d.API, point)
	}
	header := append(bearer(d.token("admin@acme", "authz")), "Content-Type", "application/json", "X-Request-ID", "mine")
	document := `,"action":{"name":"can_view"},"resource":{"type":"document","id":"roadmap"}}`
	for who, want := range map[string]string{"alice@acme": `{"decision":true,`, "dave@acme": `{"decision":false,`} {
		r := d.do("POST", point["access_evaluation_endpoint"], `{"subject":{"type":"user","id":"`+d.Users[who].ID+`"}`+document, header...)
		if r.status != 200 || !strings.HasPrefix(r.body, want) || r.header.Get("X-Request-ID") != "mine" || r.header.Get("Bulwark-Revision") == "" {
			t.Errorf("%s: %d %s", who, r.status, r.body)
		}
	}
	var found struct{ Results []struct{ Type, ID string } }
	d.do("POST", d.API+"/stores/"+d.Tenants["acme"].Store+"/access/v1/search/subject", `{"subject":{"type":"user"}`+document, header...).read(t, &found)
	if len(found.Results) != 3 { // alice, bob, carol
		t.Errorf("found %+v", found)
	}
	if r := d.do("POST", point["access_evaluation_endpoint"], "{}", header[2:]...); r.status != 401 {
		t.Errorf("without a token: %d %s", r.status, r.body)
	}
	if r := d.do("POST", d.API+"/stores/"+d.Tenants["globex"].Store+"/access/v1/evaluation", `{"subject":{"type":"user","id":"x"}`+document, header...); r.status != 404 {
		t.Errorf("another tenant's store: %d %s", r.status, r.body)
	}
	if r := d.do("GET", d.API+"/stores", "", header[:2]...); r.status != 200 || !strings.Contains(r.body, `"stores"`) {
		t.Errorf("the other contract below /stores: %d %s", r.status, r.body)
	}
}
