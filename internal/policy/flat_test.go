package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// atoms are conditions of all kinds, some of them for documents only.
var atoms = []string{
	`context.verified.amr.contains("mfa")`, `context.verified.amr.contains("pwd")`, `context.verified.amr.containsAny(["mfa", "otp"])`,
	`context.verified.amr.isEmpty()`, `context.verified.amr == ["mfa"]`, `context.verified has amr`, `context.verified has acr`,
	`context.verified.acr == "high"`, `context.verified.acr like "h*h"`, `context.verified.hour < 12`, `context.verified.weekday == 3`,
	`context.verified.hour * 60 + context.verified.minute >= 721`, `context.verified.time == context.verified.auth_time`,
	`context.verified.time.durationSince(context.verified.auth_time) <= duration("10m")`,
	`context.verified.ip.isInRange(ip("10.0.0.0/8"))`, `context.verified has ip`, `context.verified.client == "c"`,
	`context.verified.scopes.contains("s") == context.verified.actors.contains("service:a")`,
	`context.verified.relations.contains("can_edit")`, `context.verified has relations`,
	`principal.roles.contains("admin")`, `principal.roles.containsAll(["admin", "ops"])`, `principal has roles`, `principal has tenant`,
	`principal.tenant == "acme"`, `principal.id == "user:anne"`, `principal.id == resource.id`, `resource.id == "document:d"`,
	`context.claimed.amr.contains("mfa")`, `context.claimed.amr.contains(context.claimed.reason)`, `context.claimed has reason`,
	`context.claimed.reason like "a*"`, `context.claimed.ip == context.verified.ip`, `context.claimed.time > datetime("2026-01-01")`,
	`principal == user::"anne"`, `resource == document::"d"`, `principal in [user::"anne", user::"bob"]`, `action == Action::"can_view"`,
	`action in [Action::"can_view", Action::"can_edit"]`, `resource in [document::"d"]`, `principal is user`, `resource is folder`,
	`resource is document && resource.claimed.public`, `resource.claimed has region && resource.claimed.region == "eu"`,
	`resource is document && resource.claimed.size * 4611686018427387904 > 0`, `resource is document && resource.claimed.labels.contains("x")`,
	`resource.claimed.region == principal.tenant`, `resource.claimed.labels.containsAny(principal.roles)`, `true`, `false`,
}

var condition = rapid.Custom(func(t *rapid.T) string { return draw(t, 3) })

func draw(t *rapid.T, depth int) string {
	if depth == 0 || rapid.IntRange(0, 2).Draw(t, "leaf") == 0 {
		return "(" + rapid.SampledFrom(atoms).Draw(t, "atom") + ")"
	}
	sub := func() string { return draw(t, depth-1) }
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		return "(!" + sub() + ")"
	case 1:
		return "(" + sub() + " && " + sub() + ")"
	case 2:
		return "(" + sub() + " || " + sub() + ")"
	case 3:
		return "(if " + sub() + " then " + sub() + " else " + sub() + ")"
	}
	return "(" + sub() + " == " + sub() + ")"
}

var statement = rapid.Custom(func(t *rapid.T) string {
	pick := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	text := fmt.Sprintf("%s (%s, %s, %s)", pick("effect", "permit", "forbid"),
		pick("principal", "principal", "principal", "principal is user", `principal == user::"anne"`, `principal in user::"bob"`, `principal is user in user::"anne"`),
		pick("action", "action", `action == Action::"can_view"`, `action in Action::"can_edit"`, `action in [Action::"can_view", Action::"can_delete"]`),
		pick("resource", "resource", "resource", "resource is document", "resource is document", "resource is folder", `resource == document::"d"`, `resource in folder::"d"`, `resource is document in document::"d"`))
	for range rapid.IntRange(0, 2).Draw(t, "conditions") {
		text += fmt.Sprintf(" %s { %s }", pick("when", "when", "unless"), condition.Draw(t, "condition"))
	}
	return text + ";"
})

var request = rapid.Custom(func(t *rapid.T) *Request {
	strs := func(name string, of ...string) []string {
		if rapid.IntRange(0, 3).Draw(t, name+" unknown") == 0 {
			return nil
		}
		return append([]string{}, rapid.SliceOfN(rapid.SampledFrom(of), 0, 2).Draw(t, name)...)
	}
	str := func(name string, of ...string) string { return rapid.SampledFrom(append(of, "")).Draw(t, name) }
	instant := func(name string) time.Time {
		return rapid.SampledFrom([]time.Time{{}, noon, noon.Add(-5 * time.Minute), noon.Add(-time.Hour), noon.AddDate(0, 0, 3)}).Draw(t, name)
	}
	r := &Request{
		Principal: str("principal", "user:anne", "user:bob", "service:s"), Resource: str("resource", "document:d", "document:e", "folder:d"),
		Relation: str("relation", "can_view", "can_edit", "can_delete"),
		Verified: Verified{
			Tenant: str("tenant", "acme", "eu"), Roles: strs("roles", "admin", "ops"), Time: instant("time"), AuthTime: instant("auth_time"),
			AMR: strs("amr", "pwd", "mfa"), ACR: str("acr", "high", "low"), Client: str("client", "c", "d"), Scopes: strs("scopes", "s"),
			Actors: strs("actors", "service:a"), Relations: strs("relations", "can_edit", "author"),
		},
	}
	if rapid.Bool().Draw(t, "ip known") {
		r.Verified.IP = netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.1.1", "::ffff:10.1.1.1", "192.0.2.1"}).Draw(t, "ip"))
	}
	says := func(name string, all map[string]any) map[string]any {
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if rapid.IntRange(0, 2).Draw(t, name+k) == 0 {
				delete(all, k)
			}
		}
		return all
	}
	r.Claimed.Context = says("context", map[string]any{"amr": []any{"mfa"}, "reason": "mfa", "ip": "10.1.1.1", "time": "2026-05-05T00:00:00Z"})
	r.Claimed.Resource = says("resource", map[string]any{"region": "eu", "public": true, "size": float64(rapid.IntRange(0, 3).Draw(t, "size")), "labels": []any{"x", "ops"}})
	return r
})

// naive answers as Cedar's documentation says that it should be asked: all
// policies as they are written, all attributes in nested records and entities.
func naive(t *rapid.T, policies map[string]string, r *Request) (Answer, []string) {
	set := cedar.NewPolicySet()
	for name, text := range policies {
		var p cedar.Policy
		if err := p.UnmarshalCedar([]byte(text)); err != nil {
			t.Fatal(err)
		}
		set.Add(cedar.PolicyID(name), &p)
	}
	list := func(m cedar.RecordMap, name string, l []string) {
		if l != nil {
			var values []cedar.Value
			for _, s := range l {
				values = append(values, cedar.String(s))
			}
			m[cedar.String(name)] = cedar.NewSet(values...)
		}
	}
	v := &r.Verified
	known := cedar.RecordMap{}
	for name, l := range map[string][]string{"amr": v.AMR, "scopes": v.Scopes, "actors": v.Actors, "relations": v.Relations} {
		list(known, name, l)
	}
	for name, s := range map[string]string{"acr": v.ACR, "client": v.Client} {
		if s != "" {
			known[cedar.String(name)] = cedar.String(s)
		}
	}
	if !v.Time.IsZero() {
		local := v.Time.Add(time.Hour)
		known["time"] = cedar.NewDatetime(v.Time)
		known["hour"], known["minute"] = cedar.Long(local.Hour()), cedar.Long(local.Minute())
		known["weekday"] = cedar.Long([]int{7, 1, 2, 3, 4, 5, 6}[local.Weekday()])
	}
	if !v.AuthTime.IsZero() {
		known["auth_time"] = cedar.NewDatetime(v.AuthTime)
	}
	if v.IP.IsValid() {
		known["ip"] = cedar.IPAddr(netip.PrefixFrom(v.IP.Unmap(), v.IP.Unmap().BitLen()))
	}
	says := func(claimed map[string]any) cedar.Record {
		m := cedar.RecordMap{}
		for name, raw := range claimed {
			switch raw := raw.(type) {
			case string:
				m[cedar.String(name)] = cedar.String(raw)
			case bool:
				m[cedar.String(name)] = cedar.Boolean(raw)
			case float64:
				m[cedar.String(name)] = cedar.Long(raw)
			case []any:
				var l []string
				for _, s := range raw {
					l = append(l, s.(string))
				}
				list(m, name, l)
			}
		}
		if _, ok := m["ip"]; ok {
			m["ip"] = cedar.IPAddr(netip.MustParsePrefix("10.1.1.1/32"))
		}
		if _, ok := m["time"]; ok {
			m["time"] = cedar.NewDatetime(time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC))
		}
		return cedar.NewRecord(m)
	}
	uid := func(s string) cedar.EntityUID {
		typ, id, _ := strings.Cut(s, ":")
		return cedar.NewEntityUID(cedar.EntityType(typ), cedar.String(id))
	}
	principal := cedar.RecordMap{"id": cedar.String(r.Principal), "claimed": says(nil)}
	list(principal, "roles", v.Roles)
	if v.Tenant != "" {
		principal["tenant"] = cedar.String(v.Tenant)
	}
	resource := cedar.RecordMap{"id": cedar.String(r.Resource), "claimed": says(nil)}
	if strings.HasPrefix(r.Resource, "document:") { // folders have no claims
		resource["claimed"] = says(r.Claimed.Resource)
	}
	p, o := uid(r.Principal), uid(r.Resource)
	decision, diag := cedar.Authorize(set, cedar.EntityMap{
		p: {UID: p, Attributes: cedar.NewRecord(principal)}, o: {UID: o, Attributes: cedar.NewRecord(resource)},
	}, cedar.Request{
		Principal: p, Action: cedar.NewEntityUID("Action", cedar.String(r.Relation)), Resource: o,
		Context: cedar.NewRecord(cedar.RecordMap{"verified": cedar.NewRecord(known), "claimed": says(r.Claimed.Context)}),
	})
	a := Answer{Forbid: decision == cedar.Deny && len(diag.Reasons) > 0}
	for _, e := range diag.Errors {
		a.Forbid = a.Forbid || strings.HasPrefix(policies[string(e.PolicyID)], "forbid")
	}
	a.Permit = bool(decision) && !a.Forbid
	var part []string
	note := func(id cedar.PolicyID, mark string) {
		if !a.Forbid || strings.HasPrefix(policies[string(id)], "forbid") {
			part = append(part, string(id)+mark)
		}
	}
	for _, d := range diag.Reasons {
		note(d.PolicyID, "")
	}
	for _, d := range diag.Errors {
		note(d.PolicyID, " !")
	}
	slices.Sort(part)
	return a, part
}

// The index, the scopes that it strips, the attributes moved into one record:
// none of it changes an answer.
func TestFlatIsCedar(t *testing.T) {
	t.Parallel()
	words := vocabulary(t)
	kept, asked, decided := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		policies := map[string]string{}
		var sources []Source
		for i := range rapid.IntRange(1, 8).Draw(t, "policies") {
			src := Source{Name: fmt.Sprint(i), Text: statement.Draw(t, "policy")}
			if _, err := Compile(words, []Source{src}); err != nil {
				continue // of types that do not fit, or never true
			}
			policies[src.Name+":1:1"] = src.Text
			sources = append(sources, src)
			kept++
		}
		s, err := Compile(words, sources)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			r := request.Draw(t, "request")
			if r.Principal == "" || r.Resource == "" || r.Relation == "" || s.pairs[Grant{strings.SplitN(r.Resource, ":", 2)[0], r.Relation}] == nil {
				continue
			}
			asked++
			want, wantPart := naive(t, policies, r)
			got, err := s.Decide(r)
			if err != nil {
				t.Fatal(err)
			}
			var part []string
			for _, d := range got.Deciding {
				if d.Error != "" {
					d.Policy += " !"
				}
				part = append(part, d.Policy)
			}
			slices.Sort(part)
			if len(part) > 0 {
				decided++
			}
			if got.Forbid != want.Forbid || got.Permit != want.Permit || !slices.Equal(part, wantPart) {
				t.Fatalf("policies %v\nrequest %+v\n%s", policies, r, cmp.Diff(fmt.Sprint(want.Forbid, want.Permit, wantPart), fmt.Sprint(got.Forbid, got.Permit, part)))
			}
		}
	})
	t.Logf("%d policies, %d questions, %d with deciding policies", kept, asked, decided)
	// Shares, not counts: -short lets rapid draw a fifth of its runs.
	if kept < 10 || asked*3 < kept || decided*8 < asked {
		t.Error("too little was compared")
	}
}
