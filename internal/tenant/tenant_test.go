package tenant

import (
	"context"
	"database/sql"
	"encoding"
	"encoding/json"
	"testing"

	"bulwark.example/internal/fault"
)

func TestRandomIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	last := map[byte]bool{}
	for range 5000 {
		id := RandomID()
		if !ValidID(id) {
			t.Fatalf("RandomID gave %q, which ValidID refuses", id)
		}
		if seen[id] {
			t.Fatalf("RandomID gave %q twice", id)
		}
		seen[id], last[id[25]] = true, true
	}
	if len(last) < 30 {
		t.Errorf("the last character took only %d of 32 values: bits are lost", len(last))
	}
}

func TestValidID(t *testing.T) {
	t.Parallel()
	good := RandomID()
	for _, bad := range []string{
		"", good[:25], good + "0", "8" + good[1:], good[:25] + "I", good[:25] + "U",
		good[:25] + "a", good[:25] + "\x00", "../" + good[3:], "ＡＡ" + good[6:],
	} {
		if ValidID(bad) {
			t.Errorf("ValidID(%q) = true", bad)
		}
		if _, err := Trusted(bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("Trusted(%q): %v, want kind Invalid", bad, err)
		}
	}
	if !ValidID(Platform.String()) {
		t.Error("the platform's id is not valid")
	}
}

// A decoder must have no way to make an ID out of a request's bytes.
func TestNoDecoderMakesAnID(t *testing.T) {
	t.Parallel()
	var id any = new(ID)
	if _, ok := id.(json.Unmarshaler); ok {
		t.Error("*ID is a json.Unmarshaler")
	}
	if _, ok := id.(encoding.TextUnmarshaler); ok {
		t.Error("*ID is an encoding.TextUnmarshaler")
	}
	if _, ok := id.(sql.Scanner); ok {
		t.Error("*ID is an sql.Scanner")
	}
	var req struct{ Tenant ID }
	_ = json.Unmarshal([]byte(`{"Tenant":"`+RandomID()+`"}`), &req)
	_ = json.Unmarshal([]byte(`{"Tenant":{"s":"`+RandomID()+`"}}`), &req)
	if !req.Tenant.IsZero() {
		t.Errorf("JSON filled a tenant id: %v", req.Tenant)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	if _, ok := From(context.Background()); ok {
		t.Error("an empty context carries a tenant")
	}
	if _, ok := From(With(context.Background(), ID{})); ok {
		t.Error("the zero ID counts as a tenant")
	}
	id := New()
	if got, ok := From(With(context.Background(), id)); !ok || got != id {
		t.Errorf("From = %v, %v", got, ok)
	}
}
