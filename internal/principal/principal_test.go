package principal

import (
	"context"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

func TestParseSubject(t *testing.T) {
	t.Parallel()
	id := tenant.RandomID()
	for _, s := range []string{"user:" + id, "service:" + id} {
		sub, err := ParseSubject(s)
		if err != nil || sub.String() != s {
			t.Errorf("ParseSubject(%q) = %v, %v", s, sub, err)
		}
	}
	for _, s := range []string{
		"", "user", "user:", ":" + id, "User:" + id, "group:" + id, "user:" + id + ":x", "user:*",
		" user:" + id, "user:" + id + "\n", "user:" + id + "#member", id,
	} {
		if sub, err := ParseSubject(s); fault.KindOf(err) != fault.Invalid || !sub.IsZero() {
			t.Errorf("ParseSubject(%q) = %v, %v; want kind Invalid", s, sub, err)
		}
	}
	if (Subject{}).String() != "" {
		t.Error("nobody has a name")
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	if From(context.Background()) != nil {
		t.Error("an empty context carries a principal")
	}
	p := &Principal{Scopes: []string{"read"}}
	if From(With(context.Background(), p)) != p {
		t.Error("the principal is lost")
	}
	if !p.HasScope("read") || p.HasScope("rea") || p.HasScope("") {
		t.Error("HasScope is not exact")
	}
}
