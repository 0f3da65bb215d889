package directory

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

func samples() []Record {
	t, at := tenant.New(), time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	return []Record{
		&Tenant{Tenant: t, Name: "acme", State: Active, System: "s", Created: at},
		&Graph{Tenant: t, ID: "g", Kind: DefaultGraph, Application: "docs"},
		&Graph{Tenant: t, ID: "f", Kind: FreeGraph, Name: "mine", Created: at},
		&User{Tenant: t, ID: "u", Name: "alice", State: Active, Created: at},
		&Service{Tenant: t, ID: "s", Name: "notes", State: Suspended, Created: at},
		&ClientKey{Tenant: t, Subject: principal.Subject{Kind: principal.Service, ID: "s"}, KID: "k", Public: []byte(`{"kty":"EC"}`), Created: at},
		&AudienceGrant{Tenant: t, Service: "s", Audience: "urn:x", Scopes: []string{"a"}, Direct: true},
		&Installation{Tenant: t, Service: "s", Expires: at, Created: at},
		&Connection{Tenant: t, ID: "c", Name: "okta", Issuer: "https://i", Audience: "a", Kind: Okta, Algs: []string{"RS256"}, State: Active, Created: at},
		&Enrolment{Tenant: t, ID: "e", CodeMAC: []byte{1}, Role: "operator", InvitedBy: "user:u", Expires: at},
		&Revocation{Tenant: t, Kind: RevokeRoot, Value: "j", Before: at, Expires: at},
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range samples() {
		seen[r.RecordKind()] = true
		b, err := Encode(r)
		if err != nil {
			t.Fatalf("%s: %v", r.RecordKind(), err)
		}
		got, err := Decode(r.RecordKind(), b)
		if err != nil {
			t.Fatalf("%s: %v", r.RecordKind(), err)
		}
		if diff := cmp.Diff(r, got, cmp.AllowUnexported(tenant.ID{})); diff != "" {
			t.Errorf("%s changed on the way (-want +got):\n%s", r.RecordKind(), diff)
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("kind %q is not tested", kind)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, payload string }{
		{"tenant", ``}, {"tenant", `{}`}, {"tenant", `{"tenant":"x","record":{}}`},
		{"tenant", `{"tenant":"` + tenant.RandomID() + `","record":7}`}, {"nothing", `{}`},
	} {
		if _, err := Decode(c.kind, []byte(c.payload)); fault.KindOf(err) != fault.Integrity {
			t.Errorf("Decode(%q, %q): %v, want kind Integrity", c.kind, c.payload, err)
		}
	}
}
