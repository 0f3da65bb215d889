package sts

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	goldenTenant = "01JDN3W8Z6Q5T4R3E2W1Q0P9M8"
	goldenUser   = "01JDN3W8Z6AMYCE00000000000"
	goldenNotes  = "01JDN3W8Z6N0TES00000000000"
	goldenBill   = "01JDN3W8Z6B1NGS00000000000"
)

// goldenPrincipal has every claim.
func goldenPrincipal(t *testing.T) *principal.Principal {
	t.Helper()
	tn, err := tenant.Trusted(goldenTenant)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 3, 30, 0, 0, time.UTC)
	service := func(s string) principal.Subject { return principal.Subject{Kind: principal.Service, ID: s} }
	return &principal.Principal{
		Tenant: tn, Subject: principal.Subject{Kind: principal.User, ID: goldenUser}, ClientID: goldenBill,
		Actors: []principal.Actor{{Subject: service(goldenBill), JTI: "01JDN3W8Z600000000000000J2"}, {Subject: service(goldenNotes), JTI: "01JDN3W8Z600000000000000J1"}},
		Scopes: []string{"read", "write"},
		Assurance: principal.Assurance{
			ACR: "phr", AMR: []string{"hwk", "user"}, AuthTime: at.Add(-time.Hour),
		},
		Credential: principal.Credential{
			Kind: principal.AccessToken, Issuer: "https://id.example", Audience: "urn:bulwark:prod:svc:" + goldenNotes,
			JTI: "01JDN3W8Z600000000000000J3", RootJTI: "01JDN3W8Z600000000000000J1", SID: "01JDN3W8Z600000000000000S1",
			IssuedAt: at, Expires: at.Add(5 * time.Minute),
		},
	}
}

func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func pretty(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, '\n')
}

func goldenAssertion(t *testing.T) assertionClaims {
	p := goldenPrincipal(t)
	s := &AssertionSigner{cfg: AssertionConfig{Issuer: "https://id.example"}}
	c := s.claims(&AssertionClaims{
		Audience: p.Credential.Audience, Principal: p, Method: "GET", Path: "/documents/roadmap", Route: "documents",
		Relation: "can_view", Object: "document:roadmap", RequestID: "01JDN3W8Z600000000000000R1",
	}, p.Credential.IssuedAt, p.Credential.IssuedAt.Add(time.Minute))
	c.JTI = "01JDN3W8Z600000000000000J4"
	return c
}

// The claims are a contract: their names, order and forms do not change.
func TestGoldenClaims(t *testing.T) {
	t.Parallel()
	spec, err := os.ReadFile(filepath.Join("..", "..", "docs", "spec", "tokens.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"access_token.claims.golden": accessClaimsOf(goldenPrincipal(t)),
		"assertion.claims.golden":    goldenAssertion(t),
	} {
		got := pretty(t, v)
		if diff := cmp.Diff(string(golden(t, name, got)), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !bytes.Contains(spec, got) {
			t.Errorf("docs/spec/tokens.md does not show %s as it is", name)
		}
	}
}

// A token that was signed once must verify and read the same for ever. The
// private key was thrown away.
func TestGoldenTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, typ string
		claims    any
	}{
		{"access_token", TypAccess, accessClaimsOf(goldenPrincipal(t))},
		{"assertion", TypAssertion, goldenAssertion(t)},
	} {
		var token, public []byte
		if *update {
			key, err := jose.GenerateES256()
			if err != nil {
				t.Fatal(err)
			}
			s, err := jose.Sign(key, c.typ, c.claims)
			if err != nil {
				t.Fatal(err)
			}
			token = []byte(s + "\n")
			if public, err = key.Public().MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
		token = bytes.TrimSpace(golden(t, c.name+".jwt.golden", token))
		public = golden(t, c.name+".jwk.golden", public)
		key, err := jose.ParsePublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		u, err := jose.Peek(string(token))
		if err != nil || !u.Header.Is(c.typ) {
			t.Fatalf("%+v, %v", u, err)
		}
		claims, err := jose.Verify(string(token), key, []jose.Alg{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		got, err := principal.Read(claims)
		if err != nil {
			t.Fatal(err)
		}
		want := goldenPrincipal(t)
		want.Credential.Kind = ""
		if c.typ == TypAssertion {
			want.Credential.JTI, want.Credential.Expires = "01JDN3W8Z600000000000000J4", want.Credential.IssuedAt.Add(time.Minute)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(tenant.ID{})); diff != "" {
			t.Errorf("%s reads differently (-want +got):\n%s", c.name, diff)
		}
	}
}

// The changelog's payload of a signing key.
func TestGoldenSigningKey(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 3, 30, 0, 0, time.UTC)
	if *update {
		key, err := jose.GenerateES256()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.Public().MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := EncodeSigningKey(SigningKey{
			KID: key.KID(), Purpose: PurposeToken, Public: public, Wrapped: []byte("sealed"),
			PublishAt: at, ActiveAt: at.Add(24 * time.Hour), RetireAt: at.Add(31 * 24 * time.Hour), RemoveAt: at.Add(31*24*time.Hour + 6*time.Minute),
		})
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "signing_key.golden", append(raw, '\n'))
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "signing_key.golden"))
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.TrimSpace(raw)
	row, err := DecodeSigningKey(want)
	if err != nil {
		t.Fatal(err)
	}
	if row.Purpose != PurposeToken || string(row.Wrapped) != "sealed" || !row.PublishAt.Equal(at) || !row.ActiveAt.Equal(at.Add(24*time.Hour)) ||
		!row.RetireAt.Equal(at.Add(31*24*time.Hour)) || !row.RemoveAt.Equal(at.Add(31*24*time.Hour+6*time.Minute)) {
		t.Errorf("row %+v", row)
	}
	again, err := EncodeSigningKey(row)
	if err != nil || string(again) != string(want) {
		t.Errorf("encodes differently: %v\n%s\n%s", err, again, want)
	}
}
