package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

var _ Directory = (*directory.Directory)(nil)

func TestOwnToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.own().with(claims{
		"act": claims{"sub": w.notes.String(), "jti": "j1", "act": claims{"sub": w.billing.String(), "jti": "j2"}},
		"nbf": w.in(-time.Second),
	})
	token := w.sign(c)
	got := w.mustPass("good", token)
	at := func(name string) time.Time { return time.Unix(c[name].(int64), 0).UTC() }
	want := &principal.Principal{
		Tenant: w.acme, Subject: w.alice, ClientID: w.alice.ID, Scopes: []string{"read", "write"},
		Actors:    []principal.Actor{{Subject: w.notes, JTI: "j1"}, {Subject: w.billing, JTI: "j2"}},
		Assurance: principal.Assurance{ACR: "1", AMR: []string{"pwd", "otp"}, AuthTime: at("auth_time")},
		Credential: principal.Credential{
			Kind: principal.AccessToken, Issuer: issuer, KeyID: w.key.KID(), Audience: gateway,
			JTI: c["jti"].(string), RootJTI: c["root_jti"].(string), SID: "session-1",
			IssuedAt: at("iat"), NotBefore: at("nbf"), Expires: at("exp"),
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tenant.ID{})); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
	if again := w.mustPass("again", token); again != got {
		t.Error("the second use was verified anew")
	}
	if w.mustPass("lowest", w.sign(w.own().with(claims{"scope": nil, "sid": nil, "acr": nil, "amr": nil, "auth_time": nil}))); w.web.total() != 0 {
		t.Error("something was fetched for a token of our own")
	}
	w.mustPass("application/at+jwt", w.signTyp("application/at+jwt", w.own()))
	for _, scheme := range []string{"Bearer ", "bearer ", "BEARER ", "bEaReR "} {
		if _, err := w.askAt(gateway, scheme+token); err != nil {
			t.Errorf("%q: %v", scheme, err)
		}
	}
}

// TestHeader: what stands in the Authorization header.
func TestHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.sign(w.own())
	for _, c := range []struct {
		name    string
		headers []string
		want    Reason
	}{
		{"none", nil, Missing},
		{"empty", []string{""}, Missing},
		{"scheme alone", []string{"Bearer"}, Missing},
		{"scheme and space", []string{"Bearer "}, Missing},
		{"two, good and bad", []string{"Bearer " + good, "Bearer x"}, MultipleCredentials},
		{"two, bad and good", []string{"Bearer x", "Bearer " + good}, MultipleCredentials},
		{"two good", []string{"Bearer " + good, "Bearer " + good}, MultipleCredentials},
		{"two, one empty", []string{"", "Bearer " + good}, MultipleCredentials},
		{"two in one", []string{"Bearer " + good + ", Bearer " + good}, Malformed},
		{"no scheme", []string{good}, Scheme},
		{"Basic", []string{"Basic dXNlcjpwYXNz"}, Scheme},
		{"DPoP", []string{"DPoP " + good}, Scheme},
		{"Bearer with colon", []string{"Bearer: " + good}, Scheme},
		{"Token", []string{"Token " + good}, Scheme},
		{"leading space", []string{" Bearer " + good}, Scheme},
		{"tab", []string{"Bearer\t" + good}, Scheme},
		{"two spaces", []string{"Bearer  " + good}, Malformed},
		{"trailing space", []string{"Bearer " + good + " "}, Malformed},
		{"quoted", []string{`Bearer "` + good + `"`}, Malformed},
		{"long s, which folds to s nowhere here", []string{"Bearer\u017f " + good}, Scheme},
		{"1 MB", []string{"Bearer " + strings.Repeat("a", 1<<20)}, TooLarge},
		{"1 MB of dots", []string{"Bearer " + strings.Repeat(".", 1<<20)}, TooLarge},
		{"thousands of dots", []string{"Bearer " + strings.Repeat(".", 10_000)}, Malformed},
		{"NUL", []string{"Bearer " + good + "\x00"}, Malformed},
	} {
		p, err := w.askAt(gateway, c.headers...)
		checkRefusal(t, c.name, p, err, c.want)
	}
	if w.web.total() != 0 {
		t.Error("something was fetched")
	}
}

// TestRefusedOwn is the issue's list for tokens that claim to be ours. No case
// fetches anything or asks for a person.
func TestRefusedOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	jwk, err := json.Marshal(w.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	thief, thiefPublic := newECDSA(t)
	thiefJWK, err := json.Marshal(thiefPublic)
	if err != nil {
		t.Fatal(err)
	}
	good := w.own()
	raw := func(c claims) string {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// forged is signed with the thief's key, in any header.
	forged := func(header string) string { return rawES256(thief, header, raw(good)) }
	hs256 := func(secret []byte) string {
		input := segment(`{"alg":"HS256","typ":"at+jwt","kid":"`+w.key.KID()+`"}`) + "." + segment(raw(good))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	kid := func(kid string) string {
		k, err := json.Marshal(kid)
		if err != nil {
			t.Fatal(err)
		}
		return forged(`{"alg":"ES256","typ":"at+jwt","kid":` + string(k) + `}`)
	}
	// numbers replaces a claim by JSON that no Go value would give.
	number := func(claim, value string) string {
		text := strings.Replace(raw(good.with(claims{claim: "MARK"})), `"MARK"`, value, 1)
		token, err := jose.Sign(w.key, "at+jwt", json.RawMessage(text))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	act := func(depth int) claims {
		var a claims
		for range depth {
			next := claims{"sub": w.notes.String(), "jti": "j"}
			if a != nil {
				next["act"] = a
			}
			a = next
		}
		return a
	}
	valid := w.sign(good)
	at := len(valid) - 20 // inside the signature
	changed := valid[:at] + string(rune('A'+(valid[at]-'A'+1)%26)) + valid[at+1:]
	if valid[at] < 'A' || valid[at] > 'Z' {
		changed = valid[:at] + "A" + valid[at+1:]
	}
	for _, c := range []struct {
		name  string
		token string
		want  Reason
	}{
		{"expired", w.sign(good.with(claims{"exp": w.in(-61 * time.Second)})), Expired},
		{"expired to the second", w.sign(good.with(claims{"exp": w.in(-60 * time.Second)})), Expired},
		{"no exp", w.sign(good.with(claims{"exp": nil})), NoExpiry},
		{"exp null", number("exp", "null"), Malformed},
		{"exp a string", number("exp", `"1900000000"`), Malformed},
		{"exp a float", number("exp", `1900000000.5`), Malformed},
		{"exp 1e400", number("exp", `1e400`), Malformed},
		{"exp 2e9", number("exp", `2e9`), Malformed},
		{"exp negative", number("exp", `-1`), Malformed},
		{"exp of 13 digits", number("exp", `1900000000000`), Malformed},
		{"no iat", w.sign(good.with(claims{"iat": nil})), NoIssueTime},
		{"iat a string", number("iat", `"1"`), Malformed},
		{"issued in 61 s", w.sign(good.with(claims{"iat": w.in(61 * time.Second)})), NotYetValid},
		{"nbf in 61 s", w.sign(good.with(claims{"nbf": w.in(61 * time.Second)})), NotYetValid},
		{"nbf a string", number("nbf", `"1"`), Malformed},
		{"wrong issuer", w.sign(good.with(claims{"iss": "https://evil.test"})), Issuer},
		{"issuer with a slash", w.sign(good.with(claims{"iss": issuer + "/"})), Issuer},
		{"issuer in upper case", w.sign(good.with(claims{"iss": strings.ToUpper(issuer)})), Issuer},
		{"issuer over http", w.sign(good.with(claims{"iss": "http://bulwark.test"})), Issuer},
		{"no issuer", w.sign(good.with(claims{"iss": nil})), Issuer},
		{"issuer a list", w.sign(good.with(claims{"iss": []string{issuer}})), Malformed},
		{"wrong audience", w.sign(good.with(claims{"aud": "urn:bulwark:test:kms"})), Audience},
		{"audience of another environment", w.sign(good.with(claims{"aud": "urn:bulwark:prod:gateway"})), Audience},
		{"several audiences", w.sign(good.with(claims{"aud": []string{gateway, "urn:bulwark:test:kms"}})), Audience},
		{"one audience in a list", w.sign(good.with(claims{"aud": []string{gateway}})), Audience},
		{"no audience in a list", w.sign(good.with(claims{"aud": []string{}})), Audience},
		{"no audience", w.sign(good.with(claims{"aud": nil})), Audience},
		{"empty audience", w.sign(good.with(claims{"aud": ""})), Audience},
		{"audience a number", number("aud", "1"), Malformed},
		{"alg none", segment(`{"alg":"none","typ":"at+jwt"}`) + "." + segment(raw(good)) + ".", Algorithm},
		{"alg None", segment(`{"alg":"None","typ":"at+jwt"}`) + "." + segment(raw(good)) + ".", Algorithm},
		{"alg null", segment(`{"alg":null,"typ":"at+jwt"}`) + "." + segment(raw(good)) + ".AAAA", Algorithm},
		{"alg none with a good signature", segment(`{"alg":"none","typ":"at+jwt"}`) + "." + segment(raw(good)) + valid[strings.LastIndexByte(valid, '.'):], Algorithm},
		{"HS256 with our public key", hs256(jwk), Algorithm},
		{"HS256 with an empty key", hs256(nil), Algorithm},
		{"RS256 under our kid", forged(`{"alg":"RS256","typ":"at+jwt","kid":"` + w.key.KID() + `"}`), Algorithm},
		{"another key under our kid", forged(`{"alg":"ES256","typ":"at+jwt","kid":"` + w.key.KID() + `"}`), Signature},
		{"unknown kid", forged(`{"alg":"ES256","typ":"at+jwt","kid":"` + thiefPublic.KID + `"}`), UnknownKey},
		{"no kid", forged(`{"alg":"ES256","typ":"at+jwt"}`), UnknownKey},
		{"kid a path", kid("../../../../dev/null"), UnknownKey},
		{"kid SQL", kid("' UNION SELECT 'x' -- "), UnknownKey},
		{"kid a URL", kid("https://evil.test/key"), UnknownKey},
		{"kid with NUL", kid(w.key.KID() + "\x00"), UnknownKey},
		{"kid of 10 kB", kid(strings.Repeat("k", 10_000)), TooLarge},
		{"jwk", forged(`{"alg":"ES256","typ":"at+jwt","jwk":` + string(thiefJWK) + `}`), Malformed},
		{"jku", forged(`{"alg":"ES256","typ":"at+jwt","kid":"x","jku":"` + jwks + `"}`), Malformed},
		{"x5u", forged(`{"alg":"ES256","typ":"at+jwt","kid":"x","x5u":"` + jwks + `"}`), Malformed},
		{"crit", forged(`{"alg":"ES256","typ":"at+jwt","crit":["x"],"x":1}`), Malformed},
		{"b64 false", forged(`{"alg":"ES256","typ":"at+jwt","b64":false,"crit":["b64"]}`), Malformed},
		{"JWE", "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AA.AA.AA.AA", Malformed},
		{"deep JSON", forged(`{"alg":"ES256","x":` + strings.Repeat("[", 700) + strings.Repeat("]", 700) + `}`), Malformed},
		{"repeated claim", rawES256(thief, `{"alg":"ES256"}`, `{"iss":"`+issuer+`","iss":"x"}`), Malformed},
		{"truncated", valid[:len(valid)-1], Malformed},
		{"one character changed", changed, Signature},
		{"an assertion of ours", w.signTyp("bulwark-assertion+jwt", good), TokenType},
		{"typ JWT", w.signTyp("JWT", good), TokenType},
		{"bound to a key", w.sign(good.with(claims{"cnf": claims{"jkt": "x"}})), BoundToken},
		{"no tenant", w.sign(good.with(claims{"tenant": nil})), Malformed},
		{"tenant by its name", w.sign(good.with(claims{"tenant": "acme"})), Malformed},
		{"unknown tenant", w.sign(good.with(claims{"tenant": tenant.RandomID()})), TenantInactive},
		{"no sub", w.sign(good.with(claims{"sub": nil})), Malformed},
		{"sub a mail address", w.sign(good.with(claims{"sub": "alice@acme.test"})), Malformed},
		{"sub without kind", w.sign(good.with(claims{"sub": w.alice.ID})), Malformed},
		{"no client", w.sign(good.with(claims{"client_id": nil})), Malformed},
		{"no jti", w.sign(good.with(claims{"jti": nil})), Malformed},
		{"no root", w.sign(good.with(claims{"root_jti": nil})), Malformed},
		{"jti with a line break", w.sign(good.with(claims{"jti": "a\r\nX: y"})), Malformed},
		{"scope with a line break", w.sign(good.with(claims{"scope": "a\r\nX: y"})), Malformed},
		{"scope a list", w.sign(good.with(claims{"scope": []string{"a"}})), Malformed},
		{"scope with two spaces", w.sign(good.with(claims{"scope": "a  b"})), Malformed},
		{"amr a string", w.sign(good.with(claims{"amr": "pwd"})), Malformed},
		{"four actors", w.sign(good.with(claims{"act": act(4)})), Malformed},
		{"a person as actor", w.sign(good.with(claims{"act": claims{"sub": w.alice.String(), "jti": "j"}})), Malformed},
		{"an actor without jti", w.sign(good.with(claims{"act": claims{"sub": w.notes.String()}})), Malformed},
		{"act null", number("act", "null"), Malformed},
		{"a service that is not installed", w.sign(good.with(claims{"sub": w.notes.String(), "tenant": w.globex.String()})), Revoked},
		{"an actor that does not exist", w.sign(good.with(claims{"act": claims{"sub": "service:" + tenant.RandomID(), "jti": "j"}})), Revoked},
	} {
		w.mustRefuse(c.name, c.token, c.want)
		w.mustRefuse(c.name+", again", c.token, c.want)
	}
	if n := w.web.total(); n != 0 {
		t.Errorf("%d documents were fetched", n)
	}
	if w.rows.asked != 0 {
		t.Errorf("the store was asked %d times for people", w.rows.asked)
	}
	for name, c := range map[string]claims{
		"expires within the skew":  {"exp": w.in(-59 * time.Second)},
		"issued within the skew":   {"iat": w.in(60 * time.Second)},
		"nbf within the skew":      {"nbf": w.in(60 * time.Second)},
		"expires in the year 9999": {"exp": int64(253402300799)},
		"expires after that":       {"exp": int64(999999999999)},
		"three actors":             {"act": act(3)},
	} {
		token := w.sign(good.with(c))
		w.mustPass(name, token)
		w.mustPass(name+", cached", token)
	}
	p, err := w.askAt("", "Bearer "+w.sign(good.with(claims{"aud": ""})))
	checkRefusal(t, "a door without an audience", p, err, Audience)
}

// TestRecheckOwn: a token that was good is refused at its next use when what
// it stands on has changed.
func TestRecheckOwn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(w *world, c claims)
		want   Reason
	}{
		{"expires", func(w *world, _ claims) { w.clock.forward(6 * time.Minute) }, Expired},
		{"clock goes back before its issue", func(w *world, _ claims) { w.clock.forward(-2 * time.Minute) }, NotYetValid},
		{"key unpublished", func(w *world, _ claims) { w.ring.keys.Clear() }, UnknownKey},
		{"key exchanged under its name", func(w *world, _ claims) {
			_, other := newECDSA(w.t)
			other.KID = w.key.KID()
			w.ring.publish(other)
		}, UnknownKey},
		{"tenant suspended", func(w *world, _ claims) {
			w.put(&directory.Tenant{Tenant: w.acme, Name: "acme", State: directory.Suspended, System: "a"})
		}, TenantInactive},
		{"token revoked", func(w *world, c claims) { w.revoke(directory.RevokeToken, c["jti"].(string)) }, Revoked},
		{"root revoked", func(w *world, c claims) { w.revoke(directory.RevokeRoot, c["root_jti"].(string)) }, Revoked},
		{"session revoked", func(w *world, c claims) { w.revoke(directory.RevokeSession, "session-1") }, Revoked},
		{"subject revoked", func(w *world, c claims) { w.revoke(directory.RevokeSubject, w.alice.String()) }, Revoked},
		{"client revoked", func(w *world, c claims) { w.revoke(directory.RevokeClient, w.alice.ID) }, Revoked},
		{"tenant's tokens revoked", func(w *world, c claims) { w.revoke(directory.RevokeTenant, w.acme.String()) }, Revoked},
		{"actor's token revoked", func(w *world, c claims) { w.revoke(directory.RevokeToken, "j1") }, Revoked},
		{"actor suspended", func(w *world, c claims) {
			w.put(&directory.Service{Tenant: tenant.Platform, ID: w.notes.ID, Name: "notes", State: directory.Suspended})
		}, Revoked},
		{"actor uninstalled", func(w *world, c claims) {
			w.remove(&directory.Installation{Tenant: w.acme, Service: w.notes.ID})
		}, Revoked},
	} {
		w := newWorld(t)
		claims := w.own().with(claims{"act": claims{"sub": w.notes.String(), "jti": "j1"}})
		token := w.sign(claims)
		w.mustPass(c.name, token)
		w.mustPass(c.name+", cached", token)
		c.change(w, claims)
		w.mustRefuse(c.name, token, c.want)
	}
}

func (w *world) revoke(kind directory.RevocationKind, value string) {
	now := w.clock.now()
	w.put(&directory.Revocation{Tenant: w.acme, Kind: kind, Value: value, Before: now, Expires: now.Add(6 * time.Minute)})
}

// TestRevocationOfAnother leaves a token alone; the generation has changed all
// the same, so that it was asked anew.
func TestRevocationOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.sign(w.own())
	first := w.mustPass("before", token)
	w.revoke(directory.RevokeToken, "another")
	if w.mustPass("after", token) != first {
		t.Error("the token was verified anew")
	}
}

// TestInstallationEndsByTheClock: nothing changes in the directory.
func TestInstallationEndsByTheClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(&directory.Installation{Tenant: w.acme, Service: w.notes.ID, Expires: w.clock.now().Add(2 * time.Minute)})
	token := w.sign(w.own().with(claims{"sub": w.notes.String()}))
	w.mustPass("installed", token)
	w.clock.forward(119 * time.Second)
	w.mustPass("still installed", token)
	w.clock.forward(2 * time.Second)
	w.mustRefuse("no longer installed", token, Revoked)
}

func TestAudienceOfACachedToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.sign(w.own())
	w.mustPass("gateway", token)
	p, err := w.askAt("urn:bulwark:test:admin", "Bearer "+token)
	checkRefusal(t, "admin", p, err, Audience)
	w.mustPass("gateway again", token)
}

func TestStaleDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.sign(w.own())
	w.mustPass("fresh", token)
	w.clock.forward(directory.StaleAfter)
	p, err := w.authn.Authenticate(t.Context(), Input{Authorization: []string{"Bearer " + token}, Audience: gateway})
	checkRefusal(t, "stale, cached", p, err, StaleDirectory)
	p, err = w.authn.Authenticate(t.Context(), Input{Authorization: []string{"Bearer " + w.sign(w.own())}, Audience: gateway})
	checkRefusal(t, "stale, new", p, err, StaleDirectory)
	w.dir.Confirm()
	w.mustPass("fresh again", token)
}

func TestReasonsAreClosed(t *testing.T) {
	t.Parallel()
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if r == "" || seen[r] || strings.ToLower(string(r)) != string(r) {
			t.Errorf("reason %q", r)
		}
		seen[r] = true
	}
	if len(seen) != 25 {
		t.Errorf("%d reasons", len(seen))
	}
}

// What is found before the signature counts is not told: it would list the
// logins that are connected here, to anybody.
func TestReasonsThatAreTold(t *testing.T) {
	t.Parallel()
	hidden := []Reason{Scheme, MultipleCredentials, Malformed, TooLarge, Algorithm, UnknownKey, Signature, Issuer, Audience, ConnectionDisabled,
		KeysUnavailable, StaleDirectory, DirectoryUnavailable}
	for _, r := range Reasons() {
		if r.Told() == slices.Contains(hidden, r) {
			t.Errorf("%s: told %v", r, r.Told())
		}
	}
}
