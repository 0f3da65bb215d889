package sts_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

func signer(t testing.TB, w *world, cfg sts.AssertionConfig) *sts.AssertionSigner {
	t.Helper()
	cfg.Issuer, cfg.Store, cfg.Platform, cfg.Now = "https://id.example", w.store.Tokens(), w.platform, w.now
	s, err := sts.NewAssertionSigner(context.Background(), cfg)
	must(t, err)
	return s
}

// full is a request with every part filled.
func full(w *world) sts.AssertionClaims {
	service := func() principal.Subject { return principal.Subject{Kind: principal.Service, ID: tenant.RandomID()} }
	return sts.AssertionClaims{
		Audience: "urn:bulwark:test:svc:a", Method: "GET", Path: "/documents/roadmap", Route: "documents",
		Relation: "can_view", Object: "document:roadmap", RequestID: "rid",
		Principal: &principal.Principal{
			Tenant: tenant.New(), Subject: principal.Subject{Kind: principal.User, ID: tenant.RandomID()},
			Actors:   []principal.Actor{{Subject: service(), JTI: "j1"}, {Subject: service(), JTI: "j0"}},
			ClientID: "client", Scopes: []string{"read", "write"},
			Assurance: principal.Assurance{ACR: "phr", AMR: []string{"hwk", "user"}, AuthTime: w.now().Add(-time.Hour)},
			Credential: principal.Credential{
				Issuer: "https://id.example", JTI: "jti", RootJTI: "root", SID: "sid", Expires: w.now().Add(5 * time.Minute),
			},
		},
	}
}

func sign(t testing.TB, s *sts.AssertionSigner, c sts.AssertionClaims) string {
	t.Helper()
	token, err := s.Sign(context.Background(), c)
	must(t, err)
	return token
}

func claimsOf(t testing.TB, k *sts.Keys, token string) map[string]any {
	t.Helper()
	u, err := jose.Peek(token)
	must(t, err)
	key, ok := k.AssertionKey(u.Header.KID)
	if !ok {
		t.Fatal("the assertion's key is not published")
	}
	c, err := jose.Verify(token, key, []jose.Alg{jose.ES256})
	must(t, err)
	var m map[string]any
	must(t, json.Unmarshal(c.Raw(), &m))
	return m
}

// Whatever an assertion states, another value of it gets another assertion.
func TestCacheKeyHoldsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.node(nil)
	s := signer(t, w, sts.AssertionConfig{})
	base := full(w)
	first := sign(t, s, base)
	again := base
	again.RequestID = "another"
	if sign(t, s, again) != first {
		t.Error("an equal request did not get the same assertion")
	}
	if claimsOf(t, k, first)["rid"] != "rid" {
		t.Error("rid does not name the request that minted it")
	}

	other := func(change func(*sts.AssertionClaims, *principal.Principal)) sts.AssertionClaims {
		c, p := base, *base.Principal
		c.Principal = &p
		change(&c, &p)
		return c
	}
	type C = sts.AssertionClaims
	type P = principal.Principal
	changes := map[string]func(*C, *P){
		"aud": func(c *C, _ *P) { c.Audience += "x" }, "htm": func(c *C, _ *P) { c.Method = "PUT" },
		"path": func(c *C, _ *P) { c.Path += "x" }, "route": func(c *C, _ *P) { c.Route += "x" },
		"relation": func(c *C, _ *P) { c.Relation = "can_edit" }, "object": func(c *C, _ *P) { c.Object += "x" },
		"tenant": func(_ *C, p *P) { p.Tenant = tenant.New() }, "sub": func(_ *C, p *P) { p.Subject.ID = tenant.RandomID() },
		"sub kind": func(_ *C, p *P) { p.Subject.Kind = principal.Service }, "client_id": func(_ *C, p *P) { p.ClientID += "x" },
		"scope":     func(_ *C, p *P) { p.Scopes = []string{"read"} },
		"scope cut": func(_ *C, p *P) { p.Scopes = []string{"rea", "dwrite"} },
		"act":       func(_ *C, p *P) { p.Actors = p.Actors[:1] },
		"act sub": func(_ *C, p *P) {
			p.Actors = []principal.Actor{{Subject: p.Subject, JTI: "j1"}, p.Actors[1]}
		},
		"act jti":   func(_ *C, p *P) { p.Actors = []principal.Actor{{Subject: p.Actors[0].Subject, JTI: "jx"}, p.Actors[1]} },
		"sid":       func(_ *C, p *P) { p.Credential.SID += "x" },
		"token_jti": func(_ *C, p *P) { p.Credential.JTI += "x" },
		"root_jti":  func(_ *C, p *P) { p.Credential.RootJTI += "x" },
		"acr":       func(_ *C, p *P) { p.Assurance.ACR += "x" },
		"amr":       func(_ *C, p *P) { p.Assurance.AMR = []string{"hwk"} },
		"auth_time": func(_ *C, p *P) { p.Assurance.AuthTime = w.now() },
	}
	seen := map[string]string{first: "the first"}
	for name, change := range changes {
		token := sign(t, s, other(change))
		if was, ok := seen[token]; ok {
			t.Errorf("a change of %s got the assertion of %s", name, was)
		}
		seen[token] = name
	}
	// No claim is left that the list above does not change: iss is the
	// signer's, jti, iat, exp and rid are the assertion's own.
	for name := range claimsOf(t, k, first) {
		switch name {
		case "iss", "jti", "iat", "exp", "rid":
		default:
			if changes[name] == nil {
				t.Errorf("claim %s is stated, and no case changes it", name)
			}
		}
	}
}

// A shifted boundary between two fields is another request.
func TestCacheKeyIsUnambiguous(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := signer(t, w, sts.AssertionConfig{})
	a, b := full(w), full(w)
	b.Principal = a.Principal
	a.Path, a.Route = "/ab", "c"
	b.Path, b.Route = "/a", "bc"
	if sign(t, s, a) == sign(t, s, b) {
		t.Error("two requests share an assertion")
	}
}

func TestAssertionTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.node(nil)
	s := signer(t, w, sts.AssertionConfig{})
	c := full(w)
	first := sign(t, s, c)
	m := claimsOf(t, k, first)
	if got := m["exp"].(float64) - m["iat"].(float64); got != 60 {
		t.Errorf("life %v", got)
	}
	w.add(30*time.Second - time.Nanosecond)
	if sign(t, s, c) != first {
		t.Error("an assertion was not reused within 30 s")
	}
	w.add(time.Nanosecond)
	if sign(t, s, c) == first {
		t.Error("an assertion was reused after 30 s")
	}

	// Two credentials of one person that state the same: the one that ends
	// sooner does not get an assertion that outlives it.
	long := full(w)
	short, p := long, *long.Principal
	p.Credential.Expires = w.now().Add(10 * time.Second)
	short.Principal = &p
	a, b := sign(t, s, long), sign(t, s, short)
	if a == b {
		t.Fatal("an assertion outlives its credential")
	}
	if m := claimsOf(t, k, b); int64(m["exp"].(float64)) != p.Credential.Expires.Unix() {
		t.Errorf("exp %v", m["exp"])
	}
	w.add(10 * time.Second)
	if _, err := s.Sign(context.Background(), short); fault.KindOf(err) != fault.Unauthenticated {
		t.Errorf("an expired credential: %v", err)
	}
	for _, spoil := range []func(*sts.AssertionClaims){
		func(c *sts.AssertionClaims) { c.Principal = nil }, func(c *sts.AssertionClaims) { c.Audience = "" },
		func(c *sts.AssertionClaims) { c.Method = "" }, func(c *sts.AssertionClaims) { c.Path = "" }, func(c *sts.AssertionClaims) { c.Route = "" },
		func(c *sts.AssertionClaims) { c.Principal = &principal.Principal{} },
	} {
		c := full(w)
		spoil(&c)
		if _, err := s.Sign(context.Background(), c); fault.KindOf(err) != fault.Internal {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestAssertionKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	k := w.node(nil)
	s := signer(t, w, sts.AssertionConfig{})
	kid := func() string {
		c := full(w)
		u, err := jose.Peek(sign(t, s, c))
		must(t, err)
		return u.Header.KID
	}
	same := full(w)
	same.Principal.Credential.Expires = time.Time{} // a credential that outlives the test
	first := kid()
	w.add(day - 10*time.Minute - time.Second)
	must(t, s.Rotate(ctx))
	if got := kids(t, k.AssertionJWKS); len(got) != 1 {
		t.Fatalf("published %v", got)
	}
	w.add(time.Second)
	for range 3 { // idempotent
		must(t, s.Rotate(ctx))
	}
	set := kids(t, k.AssertionJWKS)
	if len(set) != 2 || kid() != first {
		t.Fatalf("published %v, signing %s", set, kid())
	}
	w.add(10*time.Minute - time.Second)
	must(t, s.Rotate(ctx))
	before := sign(t, s, same)
	w.add(time.Second)
	if _, err := s.Sign(ctx, same); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a retired key signs: %v", err)
	}
	must(t, s.Rotate(ctx))
	if kid() != set[1] {
		t.Error("the next key does not sign")
	}
	if after := sign(t, s, same); after == before {
		t.Error("the cache outlived its key")
	}
	claimsOf(t, k, before) // still verifies: its own life is not over
	w.add(sts.MaxAssertionLife + sts.Skew)
	if got := kids(t, k.AssertionJWKS); !cmp.Equal(got, set[1:]) {
		t.Errorf("published %v", got)
	}
	// The row itself goes with the next rotation of anybody.
	rows, err := w.store.Tokens().LoadSigningKeys(ctx)
	must(t, err)
	for _, row := range rows {
		if row.Wrapped != nil {
			t.Error("a private half of an assertion key was stored")
		}
	}
	_, err = k.Rotate(ctx)
	must(t, err)
	if after, err := w.store.Tokens().LoadSigningKeys(ctx); err != nil || len(after) != len(rows)-1 {
		t.Errorf("%d rows, %v", len(after), err)
	}
}

// A key of one purpose verifies nothing of the other.
func TestPurposesAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.node(w.seal)
	_, err := w.issuer(k)
	must(t, err)
	signer(t, w, sts.AssertionConfig{})
	for _, kid := range kids(t, k.JWKS) {
		if _, ok := k.AssertionKey(kid); ok {
			t.Error("an access token's key verifies assertions")
		}
	}
	for _, kid := range kids(t, k.AssertionJWKS) {
		if _, ok := k.PublicKey(kid); ok {
			t.Error("an assertion's key verifies access tokens")
		}
	}
}

// A gateway that dies and starts again all the time does not push others out of
// the published set, nor make it too large to read.
func TestAssertionKeysAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	k := w.node(nil)
	steady := signer(t, w, sts.AssertionConfig{})
	w.add(time.Second)
	unlucky := signer(t, w, sts.AssertionConfig{})
	var last *sts.AssertionSigner
	for range 60 {
		w.add(time.Second)
		last = signer(t, w, sts.AssertionConfig{})
		if n := len(kids(t, k.AssertionJWKS)); n > 48 {
			t.Fatalf("%d keys are published", n)
		}
	}
	for _, s := range []*sts.AssertionSigner{steady, unlucky, last} {
		claimsOf(t, k, sign(t, s, full(w)))
	}
	// A row that is gone all the same comes back.
	u, err := jose.Peek(sign(t, unlucky, full(w)))
	must(t, err)
	_, err = w.store.Tokens().Mutate(ctx, ledger.Change{Store: w.platform, Event: ledger.Event{Class: ledger.Mutation, Action: "test.write", Tenant: tenant.Platform}},
		func(tx sts.Tx) error { return tx.DeleteSigningKey(u.Header.KID) })
	must(t, err)
	if _, ok := k.AssertionKey(u.Header.KID); ok {
		t.Fatal("the row is still there")
	}
	for range 2 {
		must(t, unlucky.Rotate(ctx))
	}
	claimsOf(t, k, sign(t, unlucky, full(w)))
}

// The cache is bounded, and right under many goroutines.
func TestCacheUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.node(nil)
	s := signer(t, w, sts.AssertionConfig{CacheMax: 32})
	base := full(w)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 200 {
				c := base
				c.Path = fmt.Sprintf("/documents/%d", (g*7+n)%100)
				token, err := s.Sign(context.Background(), c)
				if err != nil {
					t.Error(err)
					return
				}
				if n%50 == 0 && claimsOf(t, k, token)["path"] != c.Path {
					t.Error("an assertion for another path")
				}
			}
		})
	}
	wg.Wait()
}

// What is large is signed anew: the cache is bounded by number.
func TestLargeAssertionsAreNotKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := signer(t, w, sts.AssertionConfig{})
	c := full(w)
	kept := func() bool { first := sign(t, s, c); return sign(t, s, c) == first }
	if !kept() {
		t.Error("an assertion of the usual size is not kept")
	}
	c.Path = "/" + strings.Repeat("x", 4<<10)
	if kept() {
		t.Error("a large assertion is kept")
	}
}

// A hit of the cache is what nearly every request costs.
func TestCacheHitAllocates(t *testing.T) { // not parallel: it counts allocations
	w := newWorld(t)
	s := signer(t, w, sts.AssertionConfig{})
	c := full(w)
	sign(t, s, c)
	ctx := context.Background()
	if n := testing.AllocsPerRun(200, func() { _, _ = s.Sign(ctx, c) }); n > 1 {
		t.Errorf("a hit makes %v allocations", n)
	}
}

func TestAssertionClaimsAreAllStated(t *testing.T) {
	t.Parallel()
	// AssertionClaims has exactly the fields that full fills: a new one must be
	// looked at here and in the cache's key.
	w := newWorld(t)
	v := reflect.ValueOf(full(w))
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("field %s is not tested", v.Type().Field(i).Name)
		}
	}
}

func BenchmarkAssertionHit(b *testing.B) {
	w := newWorld(b)
	s := signer(b, w, sts.AssertionConfig{})
	c := full(w)
	sign(b, s, c)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Sign(context.Background(), c)
	}
}

func BenchmarkAssertionMiss(b *testing.B) {
	w := newWorld(b)
	s := signer(b, w, sts.AssertionConfig{})
	c := full(w)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		c.Path = fmt.Sprintf("/documents/%d", n)
		_, _ = s.Sign(context.Background(), c)
	}
}
