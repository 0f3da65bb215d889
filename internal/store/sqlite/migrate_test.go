package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

const (
	oldTenant = "0TENANT0000000000000000000"
	oldSystem = "0SYSTEM0000000000000000000"
	oldDocs   = "0DOCS000000000000000000000"
)

// formatOne makes a database as the first version left it: its migration alone,
// with rows that nobody of today writes.
func formatOne(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Path: path, checkpoint: checkpointPages}
	db, err := connect(cfg.dsn(false), 2)
	if err != nil {
		t.Fatal(err)
	}
	p, err := migrator(db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	platform := tenant.Platform.String()
	event, err := encodeEvent(&ledger.Event{ID: tenant.RandomID(), Time: time.Unix(7, 0).UTC(), Class: ledger.Mutation, Tenant: tenant.Platform, Action: "old"})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{"INSERT INTO instance VALUES (1, 'i', 'test', 'https://i.example', 3, 'f', 0, 5)", nil},
		{"INSERT INTO tenants VALUES (?, 'platform', 'active', 'P', 5), (?, 'acme', 'active', ?, 6)", []any{platform, oldTenant, oldSystem}},
		{"INSERT INTO stores VALUES (?, 'P', 'system', ''), (?, ?, 'system', ''), (?, ?, 'default', 'docs')", []any{platform, oldTenant, oldSystem, oldTenant, oldDocs}},
		{"INSERT INTO head VALUES (?, 'P', 'system', 2), (?, ?, 'system', 1), (?, ?, 'default', 2), (?, 'GONE', 'default', 4)",
			[]any{platform, oldTenant, oldSystem, oldTenant, oldDocs, oldTenant}},
		{`INSERT INTO tuples VALUES (?, ?, 'document:a', 'viewer', 'user:b'), (?, ?, 'document:a', 'viewer', 'user:a'), (?, ?, 'system:x', 'auditor', 'user:a')`,
			[]any{oldTenant, oldDocs, oldTenant, oldDocs, oldTenant, oldSystem}},
		{`INSERT INTO changelog VALUES (?, ?, 1, 0, 'tuple', 'put', 'document:a#viewer@user:a', NULL), (?, ?, 1, 1, 'tuple', 'put', 'document:b#viewer@user:b', NULL),
			(?, ?, 2, 0, 'tuple', 'delete', 'document:b#viewer@user:b', NULL), (?, ?, 2, 1, 'tuple', 'put', 'document:a#viewer@user:b', NULL)`,
			[]any{oldTenant, oldDocs, oldTenant, oldDocs, oldTenant, oldDocs, oldTenant, oldDocs}},
		{"INSERT INTO outbox (tenant_id, store_id, rev, event) VALUES (?, ?, 2, ?)", []any{oldTenant, oldDocs, event}},
		{"INSERT INTO models VALUES ('docs', 'm', 'source', 1, 9)", nil},
		{"INSERT INTO users VALUES (?, 'U', 'ann', 'active', NULL, NULL, 8)", []any{oldTenant}},
	} {
		if _, err := db.Exec(q.sql, q.args...); err != nil {
			t.Fatalf("%s: %v", q.sql, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A store of the first format opens with all that it held, and does all that a
// new one does.
func TestMigrateFromOne(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	path := place(t)
	formatOne(t, path)
	s := open(t, Config{Path: path})
	rev := relation.Revision{Epoch: 3, Store: oldDocs, Rev: 2}
	tup := func(o, u string) relation.Tuple {
		return relation.Tuple{Object: "document:" + o, Relation: "viewer", Subject: "user:" + u}
	}
	var got []relation.Tuple
	loaded, err := s.Tuples().LoadGraph(ctx, oldDocs, func(r relation.Tuple) error { got = append(got, r); return nil })
	if diff := cmp.Diff([]relation.Tuple{tup("a", "a"), tup("a", "b")}, got); diff != "" || err != nil || loaded.Revision != rev {
		t.Errorf("at %v: %v (-want +got):\n%s", loaded.Revision, err, diff)
	}
	changes, at, err := s.Archive().ReadChanges(ctx, oldDocs, "", time.Time{}, authz.Position{}, 9)
	want := []authz.TupleChange{
		{Position: authz.Position{Rev: 1}, Tuple: tup("a", "a")}, {Position: authz.Position{Rev: 1, Ordinal: 1}, Tuple: tup("b", "b")},
		{Position: authz.Position{Rev: 2}, Tuple: tup("b", "b"), Delete: true}, {Position: authz.Position{Rev: 2, Ordinal: 1}, Tuple: tup("a", "b")},
	}
	if diff := cmp.Diff(want, changes); diff != "" || err != nil || at != rev {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	page, _, err := s.Archive().ReadTuples(ctx, oldDocs, authz.Filter{Subject: "user:b"}, relation.Tuple{}, 9)
	if diff := cmp.Diff([]authz.StoredTuple{{Tuple: tup("a", "b")}}, page); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	records, err := s.Directory().LoadDirectory(ctx)
	graphs := map[relation.StoreID]directory.GraphKind{}
	for _, r := range records {
		if g, ok := r.(*directory.Graph); ok {
			graphs[g.ID] = g.Kind
		}
	}
	if diff := cmp.Diff(map[relation.StoreID]directory.GraphKind{"P": "system", oldSystem: "system", oldDocs: "default"}, graphs); diff != "" || err != nil {
		t.Errorf("%v: stores (-want +got):\n%s", err, diff)
	}
	models, errModels := s.Tuples().LoadModels(ctx)
	events, errEvents := s.Outbox().Pending(ctx, 9)
	if len(models) != 1 || len(events) != 1 || events[0].Event.Action != "old" {
		t.Errorf("models %v, %v; events %v, %v", models, errModels, events, errEvents)
	}
	if policies, err := s.Tuples().LoadPolicies(ctx); len(policies) != 0 || err != nil {
		t.Errorf("policies %v, %v", policies, err)
	}
	rollouts, err := s.Tuples().LoadRollouts(ctx) // what was active is in force
	if diff := cmp.Diff([]authz.Rollout{{Application: models[0].Application, Serial: 1, Current: authz.Version{Model: models[0].ID}}}, rollouts); diff != "" || err != nil {
		t.Errorf("%v: rollouts (-want +got):\n%s", err, diff)
	}

	acme, err := tenant.Trusted(oldTenant)
	if err != nil {
		t.Fatal(err)
	}
	ev := ledger.Event{Class: ledger.Mutation, Tenant: acme, Action: "new"}
	insert := func(g *directory.Graph) error {
		g.Tenant = acme
		_, err := s.Directory().Mutate(ctx, ledger.Change{Store: oldSystem, Event: ev}, func(tx directory.Tx) error { return tx.Insert(g) })
		return err
	}
	free := &directory.Graph{ID: "FREE", Kind: directory.FreeGraph, Name: "mine"}
	if err := errors.Join(insert(free), insert(&directory.Graph{ID: "FREE2", Kind: directory.FreeGraph, Name: "mine"})); err != nil {
		t.Fatal(err)
	}
	for what, g := range map[string]*directory.Graph{
		"a second store of an application": {ID: "X", Kind: directory.DefaultGraph, Application: "docs"},
		"a second system store":            {ID: "X", Kind: directory.SystemGraph},
		"the id of a deleted store":        {ID: "GONE", Kind: directory.FreeGraph, Name: "abc"},
	} {
		if err := insert(g); fault.KindOf(err) != fault.Conflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, id := range []relation.StoreID{oldDocs, "FREE"} {
		at, err := s.Tuples().WriteTuples(ctx, ledger.Change{Store: id, Event: ev}, authz.Write{
			Writes: []relation.Tuple{{Object: "document:a", Relation: "viewer", Subject: "user:c", Condition: "c", Expires: 1}},
		})
		if err != nil || id == oldDocs && at.Rev != 3 {
			t.Errorf("%s: %v, %v", id, at, err)
		}
	}
	// The children still refer to the table that came in the place of the old.
	if err := s.keep(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO tuples (tenant_id, store_id, object, relation, subject) VALUES (?, 'NONE', 'a:b', 'c', 'd:e')", oldTenant)
		return err
	}); err == nil {
		t.Error("a tuple of no store is stored")
	}
	for _, check := range []string{"SELECT count(*) FROM pragma_foreign_key_check", "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"} {
		var n int
		if err := s.row(ctx, check, nil, &n); err != nil || n != 0 {
			t.Errorf("%s: %d, %v", check, n, err)
		}
	}
	if diff := cmp.Diff(schemaOf(t, open(t, Config{Path: place(t)})), schemaOf(t, s)); diff != "" {
		t.Errorf("a migrated schema is not a new one's (-new +migrated):\n%s", diff)
	}
}

// A migration that ends before its commit has done nothing, and is done anew.
func TestMigrationIsWhole(t *testing.T) {
	t.Parallel()
	path := place(t)
	formatOne(t, path)
	// The last statement of the migration fails: somebody has its table.
	if _, err := plain(t, path).Exec("CREATE TABLE assertions (a)"); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(context.Background(), Config{Path: path}); err == nil {
		_ = s.Close()
		t.Fatal("it opened")
	}
	db := plain(t, path)
	var n, version int
	row := db.QueryRow("SELECT (SELECT count(*) FROM pragma_table_info('tuples') WHERE name = 'expires'), (SELECT max(version_id) FROM goose_db_version)")
	if err := row.Scan(&n, &version); err != nil || n != 0 || version != 1 {
		t.Errorf("a migration that failed left %d columns at version %d: %v", n, version, err)
	}
	if _, err := db.Exec("DROP TABLE assertions"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, Config{Path: path}).Close(); err != nil {
		t.Error(err)
	}
}

// Pages of what an API asks for come from an index, in its order.
func TestPagesUseAnIndex(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Path: place(t)})
	world(t, s)
	after := relation.Tuple{Object: "document:b", Relation: "viewer", Subject: "user:b"}
	for _, c := range []struct {
		filter authz.Filter
		want   string
	}{
		{authz.Filter{}, "PRIMARY KEY (tenant_id=? AND store_id=? AND (object,relation,subject)>(?,?,?))"},
		{authz.Filter{Object: "document:b"}, "PRIMARY KEY (tenant_id=? AND store_id=? AND object=? AND (relation,subject)>(?,?))"},
		{authz.Filter{Object: "document:b", Relation: "viewer"}, "PRIMARY KEY (tenant_id=? AND store_id=? AND object=? AND relation=? AND subject>?)"},
		{authz.Filter{Object: "document:", Subject: "user:"}, "PRIMARY KEY (tenant_id=? AND store_id=? AND"},
		{authz.Filter{Subject: "user:b"}, "tuples_subject (tenant_id=? AND store_id=? AND subject=? AND (object,relation)>(?,?))"},
		{authz.Filter{Subject: "user:b", Object: "document:"}, "tuples_subject (tenant_id=? AND store_id=? AND subject=? AND"},
		{authz.Filter{Subject: "user:"}, "PRIMARY KEY (tenant_id=? AND store_id=? AND (object,relation,subject)>(?,?,?))"},
	} {
		query, args, _ := pageQuery("t", "s", c.filter, after, 10)
		plan := explain(t, s, query, args...)
		if !strings.Contains(plan, c.want) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%+v is read by\n%s\nwant %s", c.filter, plan, c.want)
		}
	}
	for query, want := range map[string]string{
		"SELECT * FROM tuples WHERE expires > 0 AND expires <= 9 ORDER BY expires": "tuples_expiring",
		loadQuery: "PRIMARY KEY (tenant_id=? AND store_id=? AND (object,relation,subject)>(?,?,?))",
	} {
		if plan := explain(t, s, query, make([]any, strings.Count(query, "?"))...); !strings.Contains(plan, want) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s\nis read by\n%s", query, plan)
		}
	}
}

func explain(t *testing.T, s *Store, query string, args ...any) string {
	t.Helper()
	var b strings.Builder
	err := s.rows(context.Background(), "EXPLAIN QUERY PLAN "+query, args, func(scan func(...any) error) error {
		var id, parent, unused sql.NullInt64
		var detail string
		err := scan(&id, &parent, &unused, &detail)
		fmt.Fprintln(&b, detail)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A damaged row is not a graph with a tuple less.
func TestDamagedTuples(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for what, damage := range map[string]string{
		"a separator":     "UPDATE tuples SET subject = 'user:' || char(30) || 'x'",
		"half a guard":    "UPDATE tuples SET subject = 'user:x' || char(31) || 'c'",
		"a changelog row": "UPDATE changelog SET payload = x'7b' WHERE kind = 'tuple'",
	} {
		s := open(t, Config{Path: place(t)})
		shard := world(t, s)
		if err := addUser(s, shard, tenant.RandomID()); err != nil {
			t.Fatal(err)
		}
		if err := s.keep(ctx, func(t *tx) error { _, err := t.exec(damage); return err }); err != nil {
			t.Fatal(err)
		}
		_, err := s.Tuples().LoadGraph(ctx, shard, func(relation.Tuple) error { return nil })
		if what == "a changelog row" {
			_, _, err = s.Archive().ReadChanges(ctx, shard, "", time.Time{}, authz.Position{}, 9)
			if _, err := s.Changes(ctx, shard, 0, 9); fault.KindOf(err) != fault.Integrity {
				t.Errorf("%s, for who tails: %v", what, err)
			}
		}
		if fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v, want kind Integrity", what, err)
		}
	}
}

// Damaged policies are not policies less: what they forbid must stay forbidden.
func TestDamagedPolicies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for what, damage := range map[string]string{
		"no record":             "UPDATE policies SET payload = '{\"files\":1}'",
		"another application's": "UPDATE policies SET application = 'mail'",
		"another version's":     "UPDATE policies SET id = 'b'",
	} {
		s := open(t, Config{Path: place(t)})
		system := world(t, s)
		_, err := s.Tuples().PutRollout(ctx, change(system, "release.activate", "application:docs"), authz.Rollout{Application: "docs", Serial: 1},
			authz.Content{Policies: []authz.PolicyRecord{{Application: "docs", ID: "a"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.keep(ctx, func(t *tx) error { _, err := t.exec(damage); return err }); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Tuples().LoadPolicies(ctx); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}
