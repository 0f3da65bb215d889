package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// client plays a service with its key file.
type serviceClient struct {
	d        *dev
	id       string
	key      jose.JSONWebKey
	audience string
}

func (d *dev) service(name string) *serviceClient {
	d.t.Helper()
	s := d.Services[name]
	b, err := os.ReadFile(s.Key)
	if err != nil {
		d.t.Fatal(err)
	}
	c := &serviceClient{d: d, id: s.ClientID, audience: s.Audience}
	if err := json.Unmarshal(b, &c.key); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// tokenAnswer is the token endpoint's.
type tokenAnswer struct {
	status int
	Token  string `json:"access_token"`
	Type   string `json:"issued_token_type"`
	Error  string `json:"error"`
}

// ask posts to the token endpoint with a fresh client assertion.
func (c *serviceClient) ask(form ...string) tokenAnswer {
	c.d.t.Helper()
	now := time.Now()
	assertion := signWith(c.d.t, c.key.Key, c.key.KeyID, "JWT", map[string]any{
		"iss": c.id, "sub": c.id, "aud": c.d.Issuer, "jti": now.String(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	v := url.Values{"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion}}
	for i := 0; i < len(form); i += 2 {
		v.Add(form[i], form[i+1])
	}
	r := c.d.do("POST", c.d.API+"/oauth2/token", v.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	a := tokenAnswer{status: r.status}
	r.read(c.d.t, &a)
	return a
}

const (
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessType    = "urn:ietf:params:oauth:token-type:access_token"
	jwtType       = "urn:ietf:params:oauth:token-type:jwt"
)

func (c *serviceClient) exchange(token, kind, audience string, more ...string) tokenAnswer {
	c.d.t.Helper()
	return c.ask(append([]string{"grant_type", exchangeGrant, "subject_token", token, "subject_token_type", kind, "audience", audience}, more...)...)
}

// assertion returns what the gateway tells notes about a request of the person.
func (d *dev) assertion(as, path string) string {
	d.t.Helper()
	r := d.do("GET", d.Gateway+path, "", bearer(d.token(as, "gateway"))...)
	var saw struct {
		Raw string `json:"bulwark_assertion"`
	}
	r.read(d.t, &saw)
	if saw.Raw == "" {
		d.t.Fatalf("%s %s: %d %s", as, path, r.status, r.body)
	}
	return saw.Raw
}

// claimsOf reads a token without verifying it.
func claimsOf(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("not a token: %q", token)
	}
	var c map[string]any
	if err := json.Unmarshal([]byte(rawBase64(t, parts[1])), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// notes exchanges the assertion that it received for a token with audience
// billing and act, and that token is refused everywhere else.
func TestExchange(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	notes, billing := d.service("notes"), d.service("billing")
	a := notes.exchange(d.assertion("alice@acme", "/documents/roadmap"), jwtType, "billing")
	if a.status != 200 {
		t.Fatalf("%+v", a)
	}
	c := claimsOf(t, a.Token)
	act, _ := c["act"].(map[string]any)
	if c["aud"] != billing.audience || c["sub"] != "user:"+d.Users["alice@acme"].ID || c["tenant"] != d.Tenants["acme"].ID || act["sub"] != "service:"+notes.id || c["client_id"] != notes.id {
		t.Errorf("claims: %v", c)
	}
	if exp, iat := c["exp"].(float64), c["iat"].(float64); exp-iat > 60 {
		t.Errorf("the token lives %v s, longer than what it was exchanged for", exp-iat)
	}
	for name, r := range map[string]reply{
		"gateway":   d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(a.Token)...),
		"admin API": d.do("GET", d.API+"/admin/v1/self", "", bearer(a.Token)...),
		"check API": d.do("POST", d.API+"/stores/"+d.Tenants["acme"].Store+"/check", `{"tuple_key":{"user":"user:x","relation":"can_view","object":"document:roadmap"}}`, append(bearer(a.Token), "Content-Type", "application/json")...),
	} {
		if r.status != 401 {
			t.Errorf("the %s takes a token for billing: %d %s", name, r.status, r.body)
		}
	}
	if again := notes.exchange(a.Token, accessType, "billing"); again.status == 200 {
		t.Error("notes exchanges a token that is addressed to billing")
	}
}

// Each refusal has its error code (RFC 8693 section 2.2.2: a subject token that
// is not acceptable is invalid_request), gives no token, and is an event of class
// deny in the chain of whom it concerns.
func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	notes, billing := d.service("notes"), d.service("billing")
	gatewayToken := d.token("alice@acme", "gateway")
	assertion := d.assertion("alice@acme", "/documents/roadmap")
	for _, c := range []struct {
		name, code string
		answer     tokenAnswer
	}{
		{"billing exchanges a token addressed to the gateway", "invalid_request", billing.exchange(gatewayToken, accessType, "billing")},
		{"notes exchanges a token addressed to the gateway", "invalid_request", notes.exchange(gatewayToken, accessType, "billing")},
		{"billing exchanges the assertion for notes", "invalid_request", billing.exchange(assertion, jwtType, "gateway")},
		{"a platform service asks for globex", "", notes.ask("grant_type", "client_credentials", "audience", "authz", "tenant", "globex")},
		{"for no tenant", "", notes.ask("grant_type", "client_credentials", "audience", "authz")},
		{"for a tenant that is none", "", notes.ask("grant_type", "client_credentials", "audience", "authz", "tenant", "nowhere")},
		{"for the admin API", "invalid_target", notes.ask("grant_type", "client_credentials", "audience", "admin", "tenant", "acme")},
		{"for pep", "invalid_target", notes.ask("grant_type", "client_credentials", "audience", "pep", "tenant", "acme")},
		{"an assertion without being a PEP", "invalid_request", notes.exchange(assertion, jwtType, "billing", "requested_token_type", "urn:bulwark:params:token-type:assertion")},
		{"a refresh token", "invalid_request", notes.exchange(assertion, jwtType, "billing", "requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")},
		{"two audiences", "", notes.exchange(assertion, jwtType, "billing", "audience", "gateway")},
		{"an ungranted audience", "invalid_target", notes.exchange(assertion, jwtType, "kms")},
		{"a wider scope", "", notes.exchange(assertion, jwtType, "billing", "scope", "everything")},
	} {
		if c.answer.status < 400 || c.answer.status >= 500 || c.answer.Token != "" || c.answer.Error == "" || (c.code != "" && c.answer.Error != c.code) {
			t.Errorf("%s: %+v, want %s", c.name, c.answer, c.code)
		}
	}
	d.awaitEvent("olga@platform", func(e map[string]any) bool { return e["action"] == "token.issue" || e["action"] == "token.exchange" }, "--class", "deny")

	// The installation ends, and so does everything of the service.
	if a := notes.ask("grant_type", "client_credentials", "audience", "authz", "tenant", "acme"); a.status != 200 {
		t.Fatalf("while installed: %+v", a)
	}
	d.cli("service", "uninstall", "notes")
	if a := notes.ask("grant_type", "client_credentials", "audience", "authz", "tenant", "acme"); a.status == 200 {
		t.Error("without its installation notes still gets tokens")
	}
	if a := notes.exchange(d.assertion("alice@acme", "/documents/roadmap"), jwtType, "billing"); a.status == 200 {
		t.Error("without its installation notes still exchanges")
	}
}

// A derived token dies with its root.
func TestRevokedRoot(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	notes, billing := d.service("notes"), d.service("billing")
	root := d.token("alice@acme", "gateway")
	r := d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(root)...)
	var saw struct {
		Raw string `json:"bulwark_assertion"`
	}
	r.read(t, &saw)
	derived := notes.exchange(saw.Raw, jwtType, "billing")
	if derived.status != 200 {
		t.Fatalf("%+v", derived)
	}
	active := func() bool {
		var in struct{ Active bool }
		now := time.Now()
		assertion := signWith(t, billing.key.Key, billing.key.KeyID, "JWT", map[string]any{
			"iss": billing.id, "sub": billing.id, "aud": d.Issuer, "jti": now.String(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		})
		d.do("POST", d.API+"/oauth2/introspect", url.Values{
			"token": {derived.Token}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
		}.Encode(), "Content-Type", "application/x-www-form-urlencoded").read(t, &in)
		return in.Active
	}
	if !active() {
		t.Fatal("the derived token is not active before")
	}
	jti, _ := claimsOf(t, root)["jti"].(string)
	d.cli("token", "revoke", "root", jti)
	if active() {
		t.Error("the derived token outlives its root")
	}
	if r := d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(root)...); r.status != 401 {
		t.Errorf("the revoked root: %d", r.status)
	}
	if a := notes.exchange(saw.Raw, jwtType, "billing"); a.status == 200 {
		t.Error("an assertion of a revoked root is exchanged")
	}
}

// A tenant's administrator who wants to be taken for Bulwark, or for another tenant.
func TestRefusedAdministration(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	refused := func(name string, args ...string) {
		t.Helper()
		out, errs, code := run(t, append(args, "--data", d.dir)...)
		if code == 0 {
			t.Errorf("%s: done: %s%s", name, out, errs)
		}
	}
	refused("a service named gateway", "service", "create", "gateway")
	d.cli("service", "create", "reports")
	refused("the audience pep", "service", "grant", "reports", "pep", "--direct")
	d.cli("idp", "create", "okta", "--issuer", "https://acme.okta.example", "--audience", "api://docs", "--kind", "okta")
	// globex has no administrator in dev; its own is made by the operator's invitation.
	var invite struct{ Code string }
	if err := json.Unmarshal([]byte(d.cli("invite", "--as", "olga@platform", "--tenant", "globex", "--role", "administrator", "--json")), &invite); err != nil {
		t.Fatal(err)
	}
	home := "XDG_CONFIG_HOME=" + t.TempDir()
	if _, errs, code := runWith(t, "", []string{home}, "enrol", invite.Code, "--api", d.API, "--ca", d.CA, "--name", "gwen", "--profile", "gwen"); code != 0 {
		t.Fatal(errs)
	}
	_, errs, code := runWith(t, "", []string{home}, "idp", "create", "mine", "--profile", "gwen", "--issuer", "https://acme.okta.example", "--audience", "api://docs", "--kind", "okta")
	if code == 0 {
		t.Error("globex registers acme's issuer")
	}
	if strings.Contains(errs, "acme\"") || strings.Contains(errs, d.Tenants["acme"].ID) {
		t.Errorf("the refusal tells whose it is: %s", errs)
	}
	if list := d.cli("service", "list"); strings.Contains(list, "gateway") {
		t.Errorf("a refused service exists:\n%s", list)
	}
	d.awaitEvent("admin@acme", func(e map[string]any) bool { return e["action"] == "service.create" && e["reason"] == "invalid" }, "--class", "deny")

	// An admin tuple through the check API: the system store answers like none.
	absent := d.do("POST", d.API+"/stores/01ARZ3NDEKTSV4RRFFQ69G5FAV/write", adminTuple(d), append(bearer(d.token("admin@acme", "authz")), "Content-Type", "application/json")...)
	for name, store := range map[string]string{"globex's": d.Tenants["globex"].Store} {
		r := d.do("POST", d.API+"/stores/"+store+"/write", adminTuple(d), append(bearer(d.token("admin@acme", "authz")), "Content-Type", "application/json")...)
		if r.status != 404 || r.body != absent.body {
			t.Errorf("%s store: %d %s; an absent one: %d %s", name, r.status, r.body, absent.status, absent.body)
		}
	}
	d.awaitEvent("admin@acme", func(e map[string]any) bool { return e["action"] == "tuple.write" }, "--class", "deny")
	r := d.do("POST", d.API+"/stores/"+d.Tenants["acme"].Store+"/write", adminTuple(d), append(bearer(d.token("admin@acme", "authz")), "Content-Type", "application/json")...)
	if r.status == 200 {
		t.Error("an admin tuple is written into the default store")
	}
}

func adminTuple(d *dev) string {
	return `{"writes":{"tuple_keys":[{"user":"user:` + d.Users["dave@acme"].ID + `","relation":"administrator","object":"system:` + d.Tenants["acme"].ID + `"}]}}`
}
