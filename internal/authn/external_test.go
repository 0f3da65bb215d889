package authn

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

const tid = "72f988bf-86f1-41af-91ab-2d7cd011db47"

// kinds are good tokens as the large issuers write them, with the subject that
// must be looked up, and what makes each an ID token or somebody else's.
func (w *world) kinds() []kindCase {
	now, later := w.in(0), w.in(time.Hour)
	jwt := map[string]any{"typ": "JWT"}
	okta := claims{
		"ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMbuTgJR3pgU", "iss": external, "aud": "api://acme",
		"iat": now, "exp": later, "cid": "0oa1acme", "uid": "00u1alice", "scp": []string{"openid", "docs.read"},
		"auth_time": now, "sub": "alice@acme.test",
	}
	entra := claims{
		"aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "iss": "https://login.microsoftonline.com/" + tid + "/v2.0",
		"iat": now, "nbf": now, "exp": later, "aio": "AXQAi", "azp": "client-1", "azpacr": "0", "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
		"preferred_username": "alice@acme.test", "rh": "I", "scp": "access_as_user", "sub": "HKZpfaHyWadeOouYlitjrI", "tid": tid,
		"uti": "fqiBqXLPj0eQa82S-IYFAA", "ver": "2.0",
	}
	entra1 := claims{
		"aud": "api://acme", "iss": "https://sts.windows.net/" + tid + "/", "iat": now, "nbf": now, "exp": later,
		"appid": "client-1", "appidacr": "1", "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "roles": []string{"Docs.Read.All"},
		"sub": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "tid": tid, "uti": "fqiBqXLPj0eQ", "ver": "1.0",
	}
	google := claims{
		"aud": "https://gateway.acme.test", "azp": "113774264463038321964", "email": "caller@acme.iam.gserviceaccount.com",
		"email_verified": true, "exp": later, "iat": now, "iss": "https://accounts.google.com", "sub": "113774264463038321964",
	}
	generic := w.rfc9068("subject-1")
	return []kindCase{
		{
			kind: directory.Okta, header: nil, claims: okta, subject: "00u1alice", client: "0oa1acme", scopes: []string{"openid", "docs.read"},
			bad: []badCase{
				{"ID token", jwt, okta.with(claims{"jti": "ID.4eAWJOCMB3SX8XewDfVR", "cid": nil, "scp": nil, "uid": nil, "amr": []string{"pwd"}, "idp": "00o"}), TokenType},
				{"ID token with cid and scp", jwt, okta.with(claims{"jti": "ID.4eAWJOCMB3SX8XewDfVR"}), TokenType},
				{"ID token with nonce", jwt, okta.with(claims{"nonce": "n"}), TokenType},
				{"ID token with at_hash", jwt, okta.with(claims{"at_hash": "n"}), TokenType},
				{"ID token with c_hash", jwt, okta.with(claims{"c_hash": "n"}), TokenType},
				{"no cid", nil, okta.with(claims{"cid": nil}), TokenType},
				{"no scp", nil, okta.with(claims{"scp": nil}), TokenType},
				{"scp a string", nil, okta.with(claims{"scp": "docs.read"}), Malformed},
				{"a person's login instead of uid", nil, okta.with(claims{"uid": nil}), TokenType},
				{"uid empty", nil, okta.with(claims{"uid": ""}), Malformed},
				{"another typ", map[string]any{"typ": "secevent+jwt"}, okta, TokenType},
				{"unknown person", nil, okta.with(claims{"uid": "00u1mallory"}), UnknownSubject},
				{"the login as uid", nil, okta.with(claims{"uid": "alice@acme.test"}), UnknownSubject},
			},
		},
		{
			kind: directory.Entra, header: jwt, claims: entra, subject: "690222be-ff1a-4d56-abd1-7e4f7d38e474", client: "client-1", scopes: []string{"access_as_user"},
			bad: []badCase{
				{"ID token", jwt, entra.with(claims{"azp": nil, "azpacr": nil, "scp": nil, "nonce": "n", "name": "Alice"}), TokenType},
				{"ID token with roles, without nonce", jwt, entra.with(claims{"azp": nil, "azpacr": nil, "scp": nil, "roles": []string{"admin"}}), TokenType},
				{"another directory's tid", jwt, entra.with(claims{"tid": "00000000-0000-0000-0000-000000000000"}), Issuer},
				{"no tid", jwt, entra.with(claims{"tid": nil}), Issuer},
				{"tid of the path's end", jwt, entra.with(claims{"tid": "v2.0"}), Issuer},
				{"no oid", jwt, entra.with(claims{"oid": nil}), Malformed},
				{"no azpacr", jwt, entra.with(claims{"azpacr": nil}), TokenType},
				{"no azp", jwt, entra.with(claims{"azp": nil}), TokenType},
				{"neither scp nor roles", jwt, entra.with(claims{"scp": nil}), TokenType},
				{"version 1 marks in version 2", jwt, entra.with(claims{"azp": nil, "azpacr": nil, "appid": "c", "appidacr": "1"}), TokenType},
				{"version 3", jwt, entra.with(claims{"ver": "3.0"}), TokenType},
				{"sub instead of oid", jwt, entra.with(claims{"oid": entra["sub"]}), UnknownSubject},
			},
		},
		{
			kind: directory.Entra, header: jwt, claims: entra1, subject: "690222be-ff1a-4d56-abd1-7e4f7d38e474", client: "client-1", scopes: []string{"Docs.Read.All"},
			bad: []badCase{
				{"ID token", jwt, entra1.with(claims{"appid": nil, "appidacr": nil}), TokenType},
				{"another directory's tid", jwt, entra1.with(claims{"tid": "00000000-0000-0000-0000-000000000000"}), Issuer},
			},
		},
		{
			kind: directory.Google, header: jwt, claims: google, subject: "113774264463038321964", client: "113774264463038321964",
			bad: []badCase{
				{"a person's ID token", jwt, google.with(claims{"azp": "1234.apps.googleusercontent.com", "hd": "acme.test"}), TokenType},
				{"a person's ID token without hd", jwt, google.with(claims{"azp": "1234.apps.googleusercontent.com"}), TokenType},
				{"hd", jwt, google.with(claims{"hd": "acme.test"}), TokenType},
				{"nonce", jwt, google.with(claims{"nonce": "n"}), TokenType},
				{"no azp", jwt, google.with(claims{"azp": nil}), TokenType},
				{"neither azp nor sub", jwt, google.with(claims{"azp": nil, "sub": nil}), TokenType},
				{"another account with the same mail", jwt, google.with(claims{"azp": "2", "sub": "2"}), UnknownSubject},
			},
		},
		{
			kind: directory.RFC9068, header: at, claims: generic, subject: "subject-1", client: "spa", scopes: []string{"docs.read"},
			bad: []badCase{
				{"ID token", jwt, generic.with(claims{"nonce": "n"}), TokenType},
				{"typ JWT", jwt, generic, TokenType},
				{"no typ", nil, generic, TokenType},
				{"at+jwt with nonce", at, generic.with(claims{"nonce": "n"}), TokenType},
				{"a logout token", map[string]any{"typ": "logout+jwt"}, generic, TokenType},
				{"no client", at, generic.with(claims{"client_id": nil}), Malformed},
				{"no jti", at, generic.with(claims{"jti": nil}), Malformed},
				{"no sub", at, generic.with(claims{"sub": nil}), Malformed},
				{"bound", at, generic.with(claims{"cnf": claims{"jkt": "x"}}), BoundToken},
				{"on behalf of", at, generic.with(claims{"act": claims{"sub": "x"}}), TokenType},
				{"no exp", at, generic.with(claims{"exp": nil}), NoExpiry},
				{"no iat", at, generic.with(claims{"iat": nil}), NoIssueTime},
				{"expired", at, generic.with(claims{"exp": w.in(-time.Hour)}), Expired},
				{"lives 31 hours", at, generic.with(claims{"exp": w.in(31 * time.Hour)}), LongLived},
				{"two audiences", at, generic.with(claims{"aud": []string{"api://acme", "api://other"}}), Audience},
				{"another audience", at, generic.with(claims{"aud": "api://other"}), Issuer},
				{"no audience", at, generic.with(claims{"aud": nil}), Issuer},
				{"empty audience list", at, generic.with(claims{"aud": []string{}}), Issuer},
				{"our own audience", at, generic.with(claims{"aud": gateway}), Issuer},
				{"issuer with a slash", at, generic.with(claims{"iss": external + "/"}), Issuer},
				{"our own issuer", at, generic.with(claims{"iss": issuer}), UnknownKey},
				{"a subject of ours", at, generic.with(claims{"sub": w.alice.String()}), UnknownSubject},
				{"an algorithm that the connection does not list", map[string]any{"typ": "at+jwt", "alg": "PS256"}, generic, Algorithm},
				{"ES256 claimed for an RSA key", map[string]any{"typ": "at+jwt", "alg": "ES256"}, generic, Algorithm},
				{"unknown kid", map[string]any{"typ": "at+jwt", "kid": "other"}, generic, UnknownKey},
				{"no kid", map[string]any{"typ": "at+jwt", "kid": ""}, generic, UnknownKey},
				{"jku", map[string]any{"typ": "at+jwt", "jku": "https://evil.test/jwks"}, generic, Malformed},
			},
		},
	}
}

type kindCase struct {
	kind            directory.ConnectionKind
	header          map[string]any
	claims          claims
	subject, client string
	scopes          []string
	bad             []badCase
}

type badCase struct {
	name   string
	header map[string]any
	claims claims
	want   Reason
}

func TestExternalKinds(t *testing.T) {
	t.Parallel()
	for i := range newWorld(t).kinds() {
		w := newWorld(t)
		k := w.kinds()[i]
		name := string(k.kind)
		iss := k.claims["iss"].(string)
		w.connect(func(c *directory.Connection) { c.Kind, c.Issuer, c.Audience = k.kind, iss, k.claims["aud"].(string) })
		key := idpKey{"idp-1", rsaKeys[0]()}
		set, err := jose.NewSet(key.public())
		if err != nil {
			t.Fatal(err)
		}
		w.web.set(trim(iss)+"/.well-known/openid-configuration", map[string]any{"issuer": iss, "jwks_uri": jwks})
		w.web.set(jwks, set)
		user := w.link(k.subject)

		got := w.mustPass(name, key.sign(k.header, k.claims))
		if len(got.Credential.JTI) < 10 || got.Credential.RootJTI != got.Credential.JTI {
			t.Errorf("%s: nothing names the token: %+v", name, got.Credential)
		}
		want := &principal.Principal{
			Tenant: w.acme, Subject: principal.Subject{Kind: principal.User, ID: user.ID}, ClientID: w.conn.ID + "/" + k.client, Scopes: k.scopes,
			Credential: principal.Credential{
				Kind: principal.ExternalToken, Issuer: iss, Connection: w.conn.ID, KeyID: "idp-1", Audience: w.conn.Audience,
				JTI: got.Credential.JTI, RootJTI: got.Credential.RootJTI,
				IssuedAt: w.clock.now(), NotBefore: got.Credential.NotBefore, Expires: w.clock.now().Add(time.Hour),
			},
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(tenant.ID{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, b := range k.bad {
			w.mustRefuse(name+": "+b.name, key.sign(b.header, b.claims), b.want)
		}
		// A token of this kind counts at no other door of ours.
		for n, surface := range []string{"admin", "kms", "authz", "audit", "pep", "svc:" + w.notes.ID} {
			unseen := k.claims.with(claims{"exp": w.in(time.Hour + time.Duration(n+1)*time.Second)})
			p, err := w.askAt("urn:bulwark:test:"+surface, "Bearer "+key.sign(k.header, unseen))
			checkRefusal(t, name+" at "+surface, p, err, Audience)
		}
		// Signed by another key under the same kid.
		w.mustRefuse(name+": forged", idpKey{"idp-1", rsaKeys[1]()}.sign(k.header, k.claims), Signature)
		// Each kind refuses the good tokens of the others.
		for j, other := range w.kinds() {
			if j == i || other.kind == k.kind {
				continue
			}
			c := other.claims.with(claims{"iss": iss, "aud": k.claims["aud"]})
			if p, err := w.ask(key.sign(other.header, c)); err == nil {
				t.Errorf("%s accepts a token of kind %s: %+v", name, other.kind, p)
			}
		}
		if len(w.web.asked) != 2 {
			t.Errorf("%s: fetched %v", name, w.web.asked)
		}
	}
}

func trim(issuer string) string {
	if issuer[len(issuer)-1] == '/' {
		return issuer[:len(issuer)-1]
	}
	return issuer
}

// TestOktaClient: a client that acts for itself has no uid; its sub is its cid.
func TestOktaClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect(func(c *directory.Connection) { c.Kind = directory.Okta })
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("0oa1acme")
	w.mustPass("client", key.sign(nil, claims{
		"iss": external, "aud": "api://acme", "iat": w.in(0), "exp": w.in(time.Hour), "cid": "0oa1acme", "sub": "0oa1acme", "scp": []string{},
	}))
}

// TestOtherTenantsUser: a link to a user of another tenant, which the
// directory's rules forbid, gains nothing even if a row says so.
func TestOtherTenantsUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.setUser(&directory.User{Tenant: w.globex, ID: tenant.RandomID(), State: directory.Active, Connection: w.conn.ID, External: "s"})
	w.mustRefuse("user of globex", key.sign(at, w.rfc9068("s")), UnknownSubject)
}

// TestRecheckExternal: what is asked again for a remembered external token.
func TestRecheckExternal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(w *world, u *directory.User)
		want   Reason
	}{
		{"connection suspended", func(w *world, _ *directory.User) {
			w.connect(func(c *directory.Connection) { c.State = directory.Suspended })
		}, ConnectionDisabled},
		{"connection removed", func(w *world, _ *directory.User) { w.remove(w.conn) }, Issuer},
		{"connection's algorithms narrowed", func(w *world, _ *directory.User) {
			w.connect(func(c *directory.Connection) { c.Algs = []string{"ES256"} })
		}, Algorithm},
		{"connection's kind changed", func(w *world, _ *directory.User) {
			w.connect(func(c *directory.Connection) { c.Kind = directory.Google })
		}, TokenType},
		{"connection's keys elsewhere", func(w *world, _ *directory.User) {
			w.connect(func(c *directory.Connection) { c.JWKSURI = "https://nowhere.test/keys" })
		}, KeysUnavailable},
		{"user suspended", func(w *world, u *directory.User) {
			changed := *u
			changed.State = directory.Suspended
			w.setUser(&changed)
		}, SubjectSuspended},
		{"user unlinked", func(w *world, u *directory.User) {
			w.rows.mu.Lock()
			clear(w.rows.users)
			w.rows.mu.Unlock()
			w.put(u)
		}, UnknownSubject},
		{"store down when asked anew", func(w *world, u *directory.User) {
			w.rows.mu.Lock()
			w.rows.down = true
			w.rows.mu.Unlock()
			w.put(u)
		}, DirectoryUnavailable},
		{"tenant suspended", func(w *world, _ *directory.User) {
			w.put(&directory.Tenant{Tenant: w.acme, Name: "acme", State: directory.Suspended, System: "a"})
		}, TenantInactive},
		{"subject revoked", func(w *world, u *directory.User) { w.revoke(directory.RevokeSubject, "user:"+u.ID) }, Revoked},
		{"token revoked", func(w *world, u *directory.User) { w.revoke(directory.RevokeToken, "the-jti") }, Revoked},
	} {
		w := newWorld(t)
		key := idpKey{"k", rsaKeys[0]()}
		w.publish(key.public())
		user := w.link("s")
		token := key.sign(at, w.rfc9068("s").with(claims{"jti": "the-jti"}))
		first := w.mustPass(c.name, token)
		if w.mustPass(c.name+", cached", token) != first {
			t.Errorf("%s: not cached", c.name)
		}
		c.change(w, user)
		w.mustRefuse(c.name, token, c.want)
	}
}

// TestRelinked: the connection's subject is somebody else from now on.
func TestRelinked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	first := w.link("s")
	token := key.sign(at, w.rfc9068("s"))
	if p := w.mustPass("before", token); p.Subject.ID != first.ID {
		t.Errorf("%v", p.Subject)
	}
	second := w.link("s")
	if p := w.mustPass("after", token); p.Subject.ID != second.ID {
		t.Errorf("the old person still: %v", p.Subject)
	}
}

// TestAskedOncePerChange: a change of the directory makes each remembered token
// ask for its person once, not at every use from then on.
func TestAskedOncePerChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	user := w.link("s")
	token := key.sign(at, w.rfc9068("s"))
	w.mustPass("first", token)
	for change := range 3 {
		w.put(user)
		for range 5 {
			w.mustPass("later", token)
		}
		if w.rows.asked != change+2 {
			t.Errorf("asked %d times after %d changes", w.rows.asked, change+1)
		}
	}
}

// TestUnnamedTokens: where the issuer gives no id, the signed bytes do, and the
// same claims signed twice are one token.
func TestUnnamedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect(func(c *directory.Connection) { c.Kind, c.Issuer = directory.Google, external })
	secret, public := newECDSA(t)
	w.publish(public)
	w.link("1")
	header := `{"alg":"ES256","typ":"JWT","kid":"` + public.KID + `"}`
	text := func(exp int64) string {
		s := segmentText(claims{"iss": external, "aud": "api://acme", "azp": "1", "sub": "1", "iat": w.in(0), "exp": exp})
		return s
	}
	one := w.mustPass("one", rawES256(secret, header, text(w.in(time.Hour))))
	two := w.mustPass("two", rawES256(secret, header, text(w.in(time.Hour))))
	three := w.mustPass("three", rawES256(secret, header, text(w.in(2*time.Hour))))
	if one.Credential.JTI != two.Credential.JTI || one.Credential.JTI == three.Credential.JTI || one.Credential.JTI == "" {
		t.Errorf("%q %q %q", one.Credential.JTI, two.Credential.JTI, three.Credential.JTI)
	}
	w.revoke(directory.RevokeToken, one.Credential.JTI)
	w.mustRefuse("revoked by that name", rawES256(secret, header, text(w.in(time.Hour))), Revoked)
}
