package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// selects is the filter's meaning in words.
func (f Filter) selects(t relation.Tuple) bool {
	part := func(want, got string) bool {
		return want == "" || want == got || strings.HasSuffix(want, ":") && strings.HasPrefix(got, want)
	}
	return part(f.Object, t.Object) && (f.Relation == "" || f.Relation == t.Relation) && part(f.Subject, t.Subject)
}

func readAll(w *world, f Filter, limit int, between func()) ([]relation.Tuple, error) {
	var all []relation.Tuple
	cursor := ""
	for range 10_000 {
		page, err := w.Read(context.Background(), w.store, f, limit, cursor)
		if err != nil {
			return nil, err
		}
		if len(page.Tuples) > limit || (page.Next != "" && len(page.Tuples) != limit) {
			return nil, fmt.Errorf("a page of %d tuples, limit %d, next %q", len(page.Tuples), limit, page.Next)
		}
		for _, t := range page.Tuples {
			all = append(all, t.Tuple)
		}
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
		if between != nil {
			between()
		}
	}
	return nil, fmt.Errorf("the listing does not end")
}

// Pages of any size join to the sorted selection.
func TestRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w, err := newSilentWorld(docs)
		if err != nil {
			rt.Fatal(err)
		}
		w.db.seed(w.store)
		var want []relation.Tuple
		object := rapid.SampledFrom([]string{"folder:a", "folder:b", "folder:a:b", "document:a", "document:ab", "document:a-", "team:z"})
		rel := rapid.SampledFrom([]string{"viewer", "editor", "parent", "old"})
		subject := rapid.SampledFrom([]string{"user:a", "user:b", "user:*", "team:z", "team:z#member", "team:z#old", "folder:a", "service:*"})
		for range rapid.IntRange(0, 60).Draw(rt, "n") {
			x := relation.Tuple{Object: object.Draw(rt, "o"), Relation: rel.Draw(rt, "r"), Subject: subject.Draw(rt, "s")}
			w.db.tuples[w.store][x] = x
		}
		types := []string{"", "", "folder:", "user:", "team:", "planet:", "user:zoe", "document:none"}
		f := Filter{
			Object:   rapid.OneOf(object, rapid.SampledFrom(types)).Draw(rt, "object"),
			Relation: rapid.OneOf(rel, rapid.SampledFrom([]string{"", "", "new"})).Draw(rt, "relation"),
			Subject:  rapid.OneOf(subject, rapid.SampledFrom(types)).Draw(rt, "subject"),
		}
		for tu := range w.db.tuples[w.store] {
			if f.selects(tu) {
				want = append(want, tu)
			}
		}
		slices.SortFunc(want, byKey)
		got, err := readAll(w, f, rapid.IntRange(1, 8).Draw(rt, "limit"), nil)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("%+v: %s", f, diff)
		}
	})
}

// A tuple that stands all the time is listed once, whatever else changes, and
// also when the store leaves memory between two pages.
func TestReadWhileChanging(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	var want []relation.Tuple
	for i := range 50 {
		tu := tuple(fmt.Sprintf("folder:f%02d#viewer@user:stays", i))
		w.db.tuples[w.store][tu] = tu
		want = append(want, tu)
	}
	n := 0
	got, err := readAll(w, Filter{}, 7, func() {
		n++
		w.write(t, tuples(fmt.Sprintf("folder:a%d#viewer@user:comes", n), fmt.Sprintf("folder:z%d#viewer@user:comes", n)), nil)
		if n%2 == 0 {
			w.Apply(w.store, 99, nil, nil) // a gap: loaded again
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got = slices.DeleteFunc(got, func(tu relation.Tuple) bool { return tu.Subject == "user:comes" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	for name, c := range map[string]struct {
		f      Filter
		limit  int
		cursor string
	}{
		"no limit":      {Filter{}, 0, ""},
		"big limit":     {Filter{}, MaxPage + 1, ""},
		"object":        {Filter{Object: "folder"}, 1, ""},
		"wild object":   {Filter{Object: "folder:*"}, 1, ""},
		"relation":      {Filter{Relation: "a b"}, 1, ""},
		"subject":       {Filter{Subject: "user:a#"}, 1, ""},
		"cursor":        {Filter{}, 1, "AAAA"},
		"cursor base64": {Filter{}, 1, "%%%"},
	} {
		if _, err := w.Read(context.Background(), w.store, c.f, c.limit, c.cursor); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Read(context.Background(), "01ARZ3NDEKTSV4RRFFQ69G5FAV", Filter{}, 1, ""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("unknown store: %v", err)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(spellCursor(tuple("folder:a:b#viewer@team:x#member")))
	f.Add("")
	f.Add("MQ")
	f.Fuzz(func(t *testing.T, s string) {
		tu, err := parseCursor(s)
		if err == nil && s != "" && spellCursor(tu) != s {
			t.Errorf("%q reads as %v", s, tu)
		}
	})
}

// FuzzCheck: whatever the strings are, a question about a graph in which nobody
// holds anything but alice does not allow anybody else.
func FuzzCheck(f *testing.F) {
	w := newWorld(f, docs, "document:x#viewer@user:alice")
	for _, q := range [][3]string{
		{"document:x", "can_view", "user:alice"}, {"document:x", "can_view", "user:alice#"}, {"document:x", "can_view", "user:*"},
		{"document:x#viewer", "viewer", "user:alice"}, {"document:", "viewer", ":"}, {"document:x", "viewer", "document:x#viewer"}, {"", "", "#"},
	} {
		f.Add(q[0], q[1], q[2])
	}
	f.Fuzz(func(t *testing.T, object, rel, subject string) {
		d, err := w.Check(context.Background(), Query{Store: w.store, Object: object, Relation: rel, Subject: subject, Explain: true})
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatal(err)
		}
		alice := object == "document:x" && subject == "user:alice"
		itself := strings.HasPrefix(subject, object+"#") && relation.ValidSubject(subject)
		if d.Allowed && !alice && !itself {
			t.Errorf("%q %q %q is allowed:\n%s", object, rel, subject, d.Trace)
		}
		if err == nil && (!relation.ValidObject(object) || !relation.ValidRelation(rel) || !relation.ValidSubject(subject)) {
			t.Errorf("%q %q %q was answered", object, rel, subject)
		}
	})
}
