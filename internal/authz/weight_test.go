package authz

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
)

// A free store's models are in memory with it, and may be all that it has: many
// small stores of one tenant must not take what the others need.
func TestModelsWeigh(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, docs)
	w.cfg.Application = func(id relation.StoreID) (string, bool) { return FreeApplication(id), true }
	var b strings.Builder
	b.WriteString("model\n  schema 1.1\ntype user\n")
	for i := range 500 {
		fmt.Fprintf(&b, "type t%d\n  relations\n    define a: [user]\n", i)
	}
	var ids []relation.StoreID
	old := strings.Replace(b.String(), "t499", "t500", 1)
	for range 3 {
		id := relation.StoreID(tenant.RandomID())
		ids = append(ids, id)
		w.db.seed(id, "t1:a#a@user:a")
		for source, active := range map[string]bool{old: false, b.String(): true} {
			w.db.models = append(w.db.models, ModelRecord{Application: FreeApplication(id), ID: schema.ID(source), Source: source, Active: active})
		}
	}
	ask := func(id relation.StoreID, model string) {
		t.Helper()
		d, err := w.Check(ctx, Query{Store: id, Asked: Asked{Model: model}, Object: "t1:a", Relation: "a", Subject: "user:a"})
		if err != nil || !d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	ask(ids[0], "")
	one := w.Stats().Bytes
	if one < 500<<10 {
		t.Errorf("a store with models of %d bytes weighs %d", len(old)+b.Len(), one)
	}
	ask(ids[0], schema.ID(old))
	two := w.Stats().Bytes
	if two < one+500<<10 {
		t.Errorf("with an old version compiled, too, it weighs %d, and %d before", two, one)
	}
	w.cfg.Memory = two + one/2
	ask(ids[1], "")
	if s := w.Stats(); s.Stores != 1 || s.Evictions != 1 || s.Bytes != one {
		t.Errorf("%+v of %d", s, w.cfg.Memory)
	}
	ask(ids[0], "") // the way back: as heavy as at first
	if s := w.Stats(); s.Stores != 2 || s.Bytes != 2*one {
		t.Errorf("%+v, one is %d", s, one)
	}
}
