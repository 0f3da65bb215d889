package policy

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// vocabulary is what the examples and most tests are written against.
func vocabulary(t testing.TB) Vocabulary {
	t.Helper()
	berlin := time.FixedZone("Berlin in winter", 3600)
	return Vocabulary{
		Types: []Type{
			{Name: "user"},
			{Name: "service"},
			{Name: "folder", Relations: []string{"can_view", "can_edit"}},
			{
				Name:      "document",
				Relations: []string{"author", "owner", "can_view", "can_edit", "can_delete", "can_approve"},
				Claimed:   map[string]Kind{"region": String, "public": Bool, "size": Long, "labels": Strings, "created": Time, "origin": IP},
			},
			{Name: "expense", Relations: []string{"can_approve"}, Claimed: map[string]Kind{"submitter": String}},
		},
		Principals: []string{"user", "service"},
		Claimed:    map[string]Kind{"amr": Strings, "reason": String, "ip": IP, "time": Time},
		Zone:       berlin,
	}
}

// noon is a Wednesday.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func verified(change func(*Verified)) Verified {
	v := Verified{
		Tenant: "acme", Roles: []string{}, Time: noon, IP: netip.MustParseAddr("192.0.2.7"),
		AMR: []string{"pwd", "mfa"}, AuthTime: noon.Add(-time.Minute), Scopes: []string{}, Relations: []string{},
	}
	if change != nil {
		change(&v)
	}
	return v
}

func TestExamples(t *testing.T) {
	t.Parallel()
	user, service := "user:anne", "service:notes"
	type claims = map[string]any
	for file, questions := range map[string][]struct {
		name                          string
		principal, relation, resource string
		verified                      func(*Verified)
		claimed                       claims // of the resource
		forbid, permit                string // the policy that does
	}{
		"step-up.cedar": {
			{"fresh second factor", user, "can_delete", "document:d", nil, nil, "", ""},
			{"one factor", user, "can_delete", "document:d", func(v *Verified) { v.AMR = []string{"pwd"} }, nil, "step-up-for-deletion", ""},
			{"no factor known", user, "can_delete", "document:d", func(v *Verified) { v.AMR = nil }, nil, "step-up-for-deletion", ""},
			{"ten minutes", user, "can_delete", "document:d", func(v *Verified) { v.AuthTime = noon.Add(-10 * time.Minute) }, nil, "", ""},
			{"more", user, "can_delete", "document:d", func(v *Verified) { v.AuthTime = noon.Add(-10*time.Minute - time.Second) }, nil, "step-up-for-deletion", ""},
			{"no time of login", user, "can_delete", "document:d", func(v *Verified) { v.AuthTime = time.Time{} }, nil, "step-up-for-deletion", ""},
			{"another relation", user, "can_edit", "document:d", func(v *Verified) { v.AMR = nil }, nil, "", ""},
			{"a service", service, "can_delete", "document:d", nil, nil, "deletion-by-services", ""},
			{"a service with the scope", service, "can_delete", "document:d", func(v *Verified) { v.Scopes = []string{"documents.delete"} }, nil, "", ""},
		},
		"office-hours.cedar": {
			{"noon", user, "can_edit", "document:d", nil, nil, "", ""},
			{"7:29 UTC is before half past eight", user, "can_edit", "folder:f", utc(7, 29), nil, "office-hours", ""},
			{"7:30 UTC", user, "can_edit", "folder:f", utc(7, 30), nil, "", ""},
			{"16:59 UTC", user, "can_edit", "document:d", utc(16, 59), nil, "", ""},
			{"17:00 UTC is six", user, "can_edit", "document:d", utc(17, 0), nil, "office-hours", ""},
			{"Saturday", user, "can_delete", "document:d", func(v *Verified) { v.Time = noon.AddDate(0, 0, 3) }, nil, "office-hours", ""},
			{"Friday at 23:30 UTC is Saturday", user, "can_delete", "document:d", func(v *Verified) { v.Time = noon.AddDate(0, 0, 2).Add(11*time.Hour + 30*time.Minute) }, nil, "office-hours", ""},
			{"Saturday, on call", user, "can_delete", "document:d", func(v *Verified) { v.Time = noon.AddDate(0, 0, 3); v.Roles = []string{"on-call"} }, nil, "", ""},
			{"no clock", user, "can_edit", "document:d", func(v *Verified) { v.Time = time.Time{} }, nil, "office-hours", ""},
			{"Saturday, viewing", user, "can_view", "document:d", func(v *Verified) { v.Time = noon.AddDate(0, 0, 3) }, nil, "", ""},
		},
		"region.cedar": {
			{"eu from an office", user, "can_view", "document:d", nil, claims{"region": "eu", "public": false}, "", ""},
			{"eu from elsewhere", user, "can_view", "document:d", from("203.0.113.9"), claims{"region": "eu", "public": true}, "eu-documents-stay-in-the-eu", ""},
			{"eu by IPv6", user, "can_edit", "document:d", from("2001:db8:e::1"), claims{"region": "eu"}, "", ""},
			{"an office's address in IPv6 clothes", user, "can_edit", "document:d", from("::ffff:192.0.2.7"), claims{"region": "eu"}, "", ""},
			{"no address known", user, "can_edit", "document:d", func(v *Verified) { v.IP = netip.Addr{} }, claims{"region": "eu"}, "eu-documents-stay-in-the-eu", ""},
			{"us from elsewhere", user, "can_edit", "document:d", from("203.0.113.9"), claims{"region": "us"}, "", ""},
			{"nothing said", user, "can_edit", "document:d", nil, nil, "eu-documents-stay-in-the-eu", ""},
			{"public", user, "can_view", "document:d", nil, claims{"region": "us", "public": true}, "", "public-documents"},
			{"not public", user, "can_view", "document:d", nil, claims{"region": "us", "public": false}, "", ""},
		},
		"separation-of-duties.cedar": {
			{"a stranger", user, "can_approve", "document:d", nil, nil, "", ""},
			{"the author", user, "can_approve", "document:d", func(v *Verified) { v.Relations = []string{"author"} }, nil, "authors-do-not-approve", ""},
			{"nobody looked", user, "can_approve", "document:d", func(v *Verified) { v.Relations = nil }, nil, "authors-do-not-approve", ""},
			{"another's expense", user, "can_approve", "expense:e", nil, claims{"submitter": "user:bob"}, "", ""},
			{"one's own", user, "can_approve", "expense:e", nil, claims{"submitter": "user:anne"}, "submitters-do-not-approve", ""},
			{"not said whose", user, "can_approve", "expense:e", nil, nil, "submitters-do-not-approve", ""},
		},
	} {
		s := mustCompile(t, example(t, file))
		for _, q := range questions {
			a, err := s.Decide(&Request{
				Principal: q.principal, Relation: q.relation, Resource: q.resource,
				Verified: verified(q.verified), Claimed: Claimed{Resource: q.claimed},
			})
			if err != nil {
				t.Errorf("%s, %s: %v", file, q.name, err)
				continue
			}
			if a.Forbid != (q.forbid != "") || a.Permit != (q.permit != "") {
				t.Errorf("%s, %s: %+v, want forbid by %q, permit by %q", file, q.name, a, q.forbid, q.permit)
				continue
			}
			if want := q.forbid + q.permit; want != "" && (len(a.Deciding) != 1 || a.Deciding[0].Policy != want) {
				t.Errorf("%s, %s: decided by %+v, want %s", file, q.name, a.Deciding, want)
			}
		}
	}
	if d := cmp.Diff([]string{"author", "owner"}, mustCompile(t, example(t, "separation-of-duties.cedar")).Asks("document", "can_approve")); d != "" {
		t.Errorf("the relations that separation of duties looks for (-want +got)\n%s", d)
	}
}

// Every example is in the test above, and all of them are one set.
func TestEveryExampleIsTested(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../../docs/policies/*.cedar")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var sources []Source
	for _, p := range paths {
		names = append(names, filepath.Base(p))
		sources = append(sources, example(t, filepath.Base(p)))
	}
	slices.Sort(names)
	if d := cmp.Diff([]string{"office-hours.cedar", "region.cedar", "separation-of-duties.cedar", "step-up.cedar"}, names); d != "" {
		t.Errorf("(-tested +there)\n%s", d)
	}
	mustCompile(t, sources...)
}

func example(t testing.TB, file string) Source {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs/policies", file))
	if err != nil {
		t.Fatal(err)
	}
	return Source{Name: file, Text: string(text)}
}

func mustCompile(t testing.TB, sources ...Source) *Set {
	t.Helper()
	s, err := Compile(vocabulary(t), sources)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func utc(hour, minute int) func(*Verified) {
	return func(v *Verified) { v.Time = time.Date(2026, 11, 25, hour, minute, 0, 0, time.UTC) }
}

func from(ip string) func(*Verified) {
	return func(v *Verified) { v.IP = netip.MustParseAddr(ip) }
}
