package authz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The order of a list is that of its bytes, whatever the names have in common
// and whatever an earlier list has left in the memory.
func TestListOrder(t *testing.T) {
	t.Parallel()
	var w wave
	rapid.Check(t, func(rt *rapid.T) {
		part := rapid.StringMatching(`[a-c\x01\xff-]{0,9}`)
		names := rapid.SliceOfNDistinct(rapid.Custom(func(rt *rapid.T) string {
			return "document:" + rapid.SampledFrom([]string{"", "x", "same-begin-"}).Draw(rt, "begin") + part.Draw(rt, "rest")
		}), 0, 80, rapid.ID[string]).Draw(rt, "names")
		want := slices.Sorted(slices.Values(names))
		if w.sort(names); !slices.Equal(names, want) {
			rt.Fatalf("%q", names)
		}
	})
	var long []string
	for i := range 100_000 {
		long = append(long, fmt.Sprintf("document:%0*d%s", 1+i%7, i*7919%100_003, strings.Repeat("z", i%3)))
	}
	long = slices.Compact(slices.Sorted(slices.Values(long)))
	got := slices.Clone(long)
	slices.Reverse(got)
	w.sort(got)
	if diff := cmp.Diff(long, got); diff != "" {
		t.Error(diff)
	}
}

// A userset of an object that no tuple names holds what the model gives it, also
// through an operator, and lists say so as Check does.
func TestListsOfAUsersetItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `model
  schema 1.1
type user
type team
  relations
    define member: [user]
    define guest: [user]
    define both: member and member
    define apart: member and guest
`)
	for rel, want := range map[string][]string{"member": {"team:absent"}, "both": {"team:absent"}, "apart": nil, "guest": nil} {
		objects, err := w.ListObjects(t.Context(), ObjectsQuery{Store: w.store, Type: "team", Relation: rel, Subject: "team:absent#member"})
		if err != nil || !slices.Equal(objects.Names, want) {
			t.Errorf("objects of %s: %v %v", rel, objects.Names, err)
		}
		users, err := w.ListUsers(t.Context(), UsersQuery{Store: w.store, Object: "team:absent", Relation: rel, Type: "team", Userset: "member"})
		if got := len(users.Names) == 1 && users.Names[0] == "team:absent#member"; err != nil || got != (want != nil) {
			t.Errorf("users of %s: %v %v", rel, users.Names, err)
		}
		if d, err := w.Check(t.Context(), Query{Store: w.store, Object: "team:absent", Relation: rel, Subject: "team:absent#member"}); err != nil || d.Allowed != (want != nil) {
			t.Errorf("check of %s: %v %v", rel, d.Allowed, err)
		}
		if none, err := w.ListObjects(t.Context(), ObjectsQuery{Store: w.store, Type: "user", Relation: rel, Subject: "team:absent#member"}); err == nil {
			t.Errorf("users have no %s: %v", rel, none.Names)
		}
	}
}
