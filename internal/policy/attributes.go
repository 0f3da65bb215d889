package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
)

// slot makes one attribute of a question; a nil value is unknown, or not given.
type slot struct {
	key   cedar.String
	value func(r *Request, asker *typ) (cedar.Value, error)
}

// verifiedAttrs are the attributes of context.verified. Lists have list in
// place of value.
var verifiedAttrs = []struct {
	name  string
	typ   sast.IsType
	value func(v *Verified, zone *time.Location) cedar.Value
	list  func(v *Verified) []string
}{
	{"time", sast.Datetime(), func(v *Verified, _ *time.Location) cedar.Value { return datetime(v.Time) }, nil},
	{"auth_time", sast.Datetime(), func(v *Verified, _ *time.Location) cedar.Value { return datetime(v.AuthTime) }, nil},
	{"weekday", sast.Long(), clock(func(t time.Time) int { return (int(t.Weekday())+6)%7 + 1 }), nil}, // 1 is Monday
	{"hour", sast.Long(), clock(time.Time.Hour), nil},
	{"minute", sast.Long(), clock(time.Time.Minute), nil},
	{"ip", sast.IPAddr(), func(v *Verified, _ *time.Location) cedar.Value { return address(v.IP) }, nil},
	{"acr", sast.String(), func(v *Verified, _ *time.Location) cedar.Value { return text(v.ACR) }, nil},
	{"client", sast.String(), func(v *Verified, _ *time.Location) cedar.Value { return text(v.Client) }, nil},
	{"amr", sast.Set(sast.String()), nil, func(v *Verified) []string { return v.AMR }},
	{"scopes", sast.Set(sast.String()), nil, func(v *Verified) []string { return v.Scopes }},
	{"actors", sast.Set(sast.String()), nil, func(v *Verified) []string { return v.Actors }},
	{"relations", sast.Set(sast.String()), nil, func(v *Verified) []string { return v.Relations }},
}

// slot returns the maker of an attribute, for resources of the type.
func (c *compiler) slot(r read, t *typ) slot {
	s := slot{key: r.key()}
	section, name, _ := strings.Cut(r.path, ".claimed.")
	switch section {
	case "context":
		kind := c.vocabulary.Claimed[name]
		s.value = func(q *Request, _ *typ) (cedar.Value, error) { return claim(q.Claimed.Context, name, kind, r) }
	case "principal":
		s.value = func(q *Request, asker *typ) (cedar.Value, error) {
			return claim(q.Claimed.Principal, name, asker.claimed[name], r)
		}
	case "resource":
		kind := t.claimed[name]
		s.value = func(q *Request, _ *typ) (cedar.Value, error) { return claim(q.Claimed.Resource, name, kind, r) }
	default:
		value := c.known(r)
		s.value = func(q *Request, _ *typ) (cedar.Value, error) { return value(q), nil }
	}
	return s
}

// known returns the maker of an attribute that Bulwark fills.
func (c *compiler) known(r read) func(*Request) cedar.Value {
	switch r.path {
	case "principal.id":
		return func(q *Request) cedar.Value { return cedar.String(q.Principal) }
	case "principal.tenant":
		return func(q *Request) cedar.Value { return text(q.Verified.Tenant) }
	case "principal.roles":
		return func(q *Request) cedar.Value { return list(q.Verified.Roles, r) }
	case "resource.id":
		return func(q *Request) cedar.Value { return cedar.String(q.Resource) }
	}
	zone := c.set.zone
	for i := range verifiedAttrs {
		a := &verifiedAttrs[i]
		if r.path != "context.verified."+a.name {
			continue
		}
		if a.list != nil {
			return func(q *Request) cedar.Value { return list(a.list(&q.Verified), r) }
		}
		return func(q *Request) cedar.Value { return a.value(&q.Verified, zone) }
	}
	return func(*Request) cedar.Value { return nil } // inspect lets no other path through
}

func datetime(t time.Time) cedar.Value {
	if t.IsZero() {
		return nil
	}
	return cedar.NewDatetime(t)
}

func clock(of func(time.Time) int) func(*Verified, *time.Location) cedar.Value {
	return func(v *Verified, zone *time.Location) cedar.Value {
		if v.Time.IsZero() {
			return nil
		}
		return cedar.Long(of(v.Time.In(zone)))
	}
}

// address drops the two ways in which one IPv4 address has many forms.
func address(a netip.Addr) cedar.Value {
	if !a.IsValid() {
		return nil
	}
	a = a.Unmap().WithZone("")
	return cedar.IPAddr(netip.PrefixFrom(a, a.BitLen()))
}

func text(s string) cedar.Value {
	if s == "" {
		return nil
	}
	return cedar.String(s)
}

// list makes a set, or says whether the list has the item. nil is unknown, and
// so is a list beyond the bound.
func list(l []string, r read) cedar.Value {
	switch {
	case l == nil || len(l) > MaxItems:
		return nil
	case r.contains:
		return cedar.Boolean(slices.Contains(l, r.item))
	}
	values := make([]cedar.Value, len(l))
	for i, s := range l {
		values[i] = cedar.String(s)
	}
	return cedar.NewSet(values...)
}
