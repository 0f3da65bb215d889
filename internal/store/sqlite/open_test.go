package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	driver "modernc.org/sqlite"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

var update = flag.Bool("update", false, "write the golden files anew")

// refused opens a store that must not open.
func refused(t *testing.T, path string, want fault.Kind) {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path})
	if err == nil {
		_ = s.Close()
	}
	if err == nil || fault.KindOf(err) != want {
		t.Errorf("%v, want kind %v", err, want)
	}
}

func plain(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestFilesAreOursAlone(t *testing.T) {
	t.Parallel()
	path := place(t)
	s := open(t, Config{Path: path})
	world(t, s)
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 4 {
		t.Fatalf("the files are %v, %v: want the database, its WAL, its index and its lock", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v, %v", filepath.Base(f), info.Mode(), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	t.Run("no directory", func(t *testing.T) {
		t.Parallel()
		refused(t, filepath.Join(t.TempDir(), "none", "bulwark.db"), fault.Invalid)
	})
	t.Run("a directory that others write to", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := os.Chmod(filepath.Dir(path), 0o770); err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Invalid)
	})
	t.Run("a file that others read", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Invalid)
	})
	t.Run("a link", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := os.Symlink("elsewhere", path); err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Invalid)
	})
	t.Run("a directory in its place", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Invalid)
	})
	t.Run("no database", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := os.WriteFile(path, bytes.Repeat([]byte("not a database"), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Integrity)
	})
	t.Run("somebody else's database", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		db := plain(t, path)
		if _, err := db.Exec("CREATE TABLE theirs (a)"); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Invalid)
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("their database was changed: %v", err)
		}
	})
	t.Run("a newer format", func(t *testing.T) {
		t.Parallel()
		path := place(t)
		if err := open(t, Config{Path: path}).Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := plain(t, path).Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)"); err != nil {
			t.Fatal(err)
		}
		refused(t, path, fault.Unsupported)
	})
}

func TestOneWriter(t *testing.T) {
	t.Parallel()
	path := place(t)
	s := open(t, Config{Path: path})
	refused(t, path, fault.Conflict)
	refused(t, filepath.Dir(path)+"/./"+filepath.Base(path), fault.Conflict)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, Config{Path: path}).Close(); err != nil {
		t.Fatal(err)
	}
}

// The schema is a persisted format: this file shows every change of it.
func TestSchemaGolden(t *testing.T) {
	t.Parallel()
	golden(t, "schema.golden", schemaOf(t, open(t, Config{Path: place(t)})))
}

func schemaOf(t *testing.T, s *Store) string {
	t.Helper()
	var b strings.Builder
	const query = `SELECT coalesce(sql, name) FROM sqlite_schema WHERE name NOT LIKE 'goose%' AND name <> 'sqlite_sequence' ORDER BY type DESC, name`
	err := s.rows(context.Background(), query, nil, func(scan func(...any) error) error {
		var text string
		err := scan(&text)
		b.WriteString(text + ";\n\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pragma := range []string{"application_id", "encoding", "page_size", "journal_mode"} {
		var value string
		if err := s.row(context.Background(), "PRAGMA "+pragma, nil, &value); err != nil {
			t.Fatal(err)
		}
		b.WriteString("-- " + pragma + " " + value + "\n")
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +now); later versions must read what is stored:\n%s", name, diff)
	}
}

// Every connection has the settings on which durability and isolation rest.
func TestSettings(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := open(t, Config{Path: place(t)})
	world(t, s)
	for _, c := range []struct{ pragma, reader, writer string }{
		{"foreign_keys", "1", "1"}, {"synchronous", "2", "2"}, {"query_only", "1", "0"},
		{"secure_delete", "1", "1"}, {"trusted_schema", "0", "0"}, {"busy_timeout", "5000", "5000"},
	} {
		var reader, writer string
		if err := s.row(ctx, "PRAGMA "+c.pragma, nil, &reader); err != nil {
			t.Fatal(err)
		}
		if err := s.keep(ctx, func(t *tx) error { return t.row("PRAGMA "+c.pragma, nil, &writer) }); err != nil {
			t.Fatal(err)
		}
		if reader != c.reader && c.pragma != "synchronous" || writer != c.writer {
			t.Errorf("%s is %s for readers and %s for the writer", c.pragma, reader, writer)
		}
	}
	if _, err := s.read.ExecContext(ctx, "DELETE FROM users"); err == nil {
		t.Error("a reading connection can write")
	}
	// A table that is not STRICT or a key without its tenant is a mistake.
	err := s.rows(ctx, "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'goose%'", nil,
		func(scan func(...any) error) error {
			var name string
			var strict bool
			if err := scan(&name, &strict); err != nil {
				return err
			}
			if !strict {
				t.Errorf("table %s is not STRICT", name)
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	err = s.rows(ctx, `SELECT m.name, i.name FROM pragma_table_list m JOIN pragma_table_info(m.name) i
		WHERE m.schema = 'main' AND i.pk = 1 AND i.name <> 'tenant_id' AND m.name NOT LIKE 'sqlite%' AND m.name NOT LIKE 'goose%'`, nil,
		func(scan func(...any) error) error {
			var table, column string
			if err := scan(&table, &column); err != nil {
				return err
			}
			switch table {
			case "instance", "outbox", "models", "policies", "rollouts", "releases", "signing_keys", "audit_logs", "audit_heads": // the installation's, not a tenant's
			default:
				t.Errorf("the key of %s begins with %s", table, column)
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
}

// The driver's errors stay inside: a caller can neither see them nor their text.
func TestErrorsAreFaults(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Path: place(t)})
	shard := world(t, s)
	id := tenant.RandomID()
	if err := addUser(s, shard, id); err != nil {
		t.Fatal(err)
	}
	err := addUser(s, shard, id)
	var leaked *driver.Error
	if errors.As(err, &leaked) || fault.KindOf(err) != fault.Conflict || strings.Contains(fault.Public(err), "UNIQUE") {
		t.Errorf("the driver's error is seen: %v; %s", err, fault.Public(err))
	}
}

// A function that swallows the loss of the transaction does not commit what
// it does afterwards, and the store goes on.
func TestBrokenTransactionStaysBroken(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Path: place(t)})
	shard := world(t, s)
	for what, first := range map[string]string{
		"rolled back": "ROLLBACK", // as SQLite does by itself when the disk is full
		"still open":  "SELECT 1",
	} {
		_, err := s.mutate(context.Background(), change(shard, "x", ""), func(t *tx) error {
			_, _ = t.exec(first)
			_, _ = t.exec("NO SUCH STATEMENT")
			_ = directoryTx{t}.Insert(&directory.User{Tenant: tenant.Platform, ID: tenant.RandomID(), Name: "ghost", State: directory.Active})
			return nil
		})
		if err == nil {
			t.Errorf("%s: a lost transaction was acknowledged", what)
		}
		if _, err := s.Directory().UserByName(context.Background(), tenant.Platform, "ghost"); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s: a statement on a lost transaction was committed alone: %v", what, err)
		}
		if err := addUser(s, shard, tenant.RandomID()); err != nil {
			t.Errorf("%s: the store does not go on: %v", what, err)
		}
	}
}

func FuzzTupleKey(f *testing.F) {
	for _, s := range []string{"document:a#viewer@user:b", "document:a@b#viewer@team:c#member", "d:a#v@user:*", "", "#@", "a:b#c", "a:b@c#d@e:f"} {
		f.Add(s, []byte(nil))
		f.Add(s, []byte(`{"condition":"c","context":"{}","expires":7}`))
	}
	f.Fuzz(func(t *testing.T, s string, payload []byte) {
		got, ok := parseTuple(s, payload)
		if !ok {
			return
		}
		if again, ok := parseTuple(got.String(), guardOf(got)); got.String() != s || !ok || again != got {
			t.Errorf("%q, %q reads as %v", s, payload, got)
		}
	})
}

func FuzzTupleParts(f *testing.F) {
	f.Add("document:a", "viewer", "user:b", "", "", int64(0))
	f.Add("document:a:b@c", "viewer", "team:c@d#member", "c", `{"a":"\u001e"}`, int64(1))
	f.Fuzz(func(t *testing.T, object, rel, subject, condition, document string, expires int64) {
		want := relation.Tuple{Object: object, Relation: rel, Subject: subject, Condition: condition, Context: document, Expires: expires}
		if want.Validate() != nil {
			return
		}
		if strings.ContainsAny(want.String()+want.Condition+want.Context, record+unit) {
			t.Errorf("%+v holds a separator of loads", want)
		}
		if got, ok := parseTuple(want.String(), guardOf(want)); !ok || got != want {
			t.Errorf("%+v came back as %+v", want, got)
		}
	})
}

// The form in which events wait is persisted as well.
func TestEventGolden(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("testdata", "event.golden"))
	if err != nil && !*update {
		t.Fatal(err)
	}
	want := ledger.Event{
		ID: "01234567890123456789012345", Time: time.Date(2026, 11, 24, 1, 2, 3, 4, time.UTC), Class: ledger.Mutation, Action: "user.create",
		Tenant: tenant.Platform, Subject: "user:x", Actors: []string{"service:y"}, Resource: "user:z", Detail: map[string]string{"k": "v"},
		Revision: relation.Revision{Epoch: 1, Store: "S", Rev: 2},
	}
	got, err := encodeEvent(&want)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		raw = got
		if err := os.WriteFile(filepath.Join("testdata", "event.golden"), got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(raw, got) {
		t.Errorf("an event is stored as %x, and was as %x", got, raw)
	}
	back, err := ledger.DecodeEvent(raw)
	if diff := cmp.Diff(want, back, cmp.AllowUnexported(tenant.ID{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
