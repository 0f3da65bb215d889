package relation

import (
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s                         string
		object, relation, subject bool
	}{
		{"document:roadmap", true, false, true},
		{"document:a:b", true, false, true},
		{"team:core#member", false, false, true},
		{"user:*", false, false, true},
		{"user:*#member", false, false, false},
		{"viewer", false, true, false},
		{"can_view", false, true, false},
		{"", false, false, false},
		{":x", false, false, false},
		{"document:", false, false, false},
		{"document:a b", false, false, false},
		{"document:a\x00b", false, false, false},
		{"document:a\nb", false, false, false},
		{"document:\xff\xfe", false, false, false},
		{"document:a\u2028b", false, false, false},
		{"document:a#", false, false, false},
		{"document:a#b#c", false, false, false},
		{"*:a", false, false, false},
		{"vie wer", false, false, false},
		{"d:" + strings.Repeat("x", MaxObject), false, false, false},
		{strings.Repeat("r", MaxRelation), false, true, false},
		{strings.Repeat("r", MaxRelation+1), false, false, false},
	} {
		if got := ValidObject(c.s); got != c.object {
			t.Errorf("ValidObject(%q) = %v", c.s, got)
		}
		if got := ValidRelation(c.s); got != c.relation {
			t.Errorf("ValidRelation(%q) = %v", c.s, got)
		}
		if got := ValidSubject(c.s); got != c.subject {
			t.Errorf("ValidSubject(%q) = %v", c.s, got)
		}
	}
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{"user:a", "team:a#member", "user:*", "a:b:c#d", "a:\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidSubject(s) {
			return
		}
		object, rel := SplitSubject(s)
		again := object
		if rel != "" {
			again += "#" + rel
		}
		if again != s {
			t.Errorf("%q splits into %q and %q", s, object, rel)
		}
		if typ, id, ok := SplitObject(object); !ok || typ == "" || id == "" {
			t.Errorf("%q has the object %q", s, object)
		}
	})
}
