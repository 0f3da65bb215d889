package powervfs

import (
	"database/sql"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // the driver that uses the disk
)

// survivors opens what the image left and returns how many rows it has, -1
// when there is no table.
func survivors(t *testing.T, im *Image, loss Loss) int {
	t.Helper()
	dir := t.TempDir()
	if err := im.WriteTo(dir, loss, rand.New(rand.NewPCG(7, uint64(loss)))); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "a.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil {
		return -1
	}
	return n
}

// The disk keeps what was synced, may lose the rest, and never loses it when
// told that all arrived. It also cannot be registered twice.
func TestDiskForgets(t *testing.T) {
	t.Parallel()
	disk, err := New("forgets")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if again, err := New("forgets"); err == nil {
		again.Close()
		t.Error("the name was taken twice")
	}
	path := filepath.Join(t.TempDir(), "a.db")
	for _, c := range []struct {
		synchronous  string
		all, nothing int
	}{
		{"FULL", 2, 2}, // two rows, whatever the disk loses
		{"OFF", -1, 2}, // no table even, if it loses what it may
	} {
		_ = os.Remove(path)
		db, err := sql.Open("sqlite", "file:"+path+"?vfs=forgets&_pragma=journal_mode(WAL)&_pragma=synchronous("+c.synchronous+")")
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		for _, q := range []string{"CREATE TABLE t (a)", "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"} {
			if _, err := db.Exec(q); err != nil {
				t.Fatal(err)
			}
		}
		cut := make(chan *Image, 1)
		disk.CutAfter(1, func(im *Image) { cut <- im })
		if _, err := db.Exec("INSERT INTO t VALUES (3)"); err != nil {
			t.Fatal(err)
		}
		im := <-cut
		if got := survivors(t, im, All); got != c.all {
			t.Errorf("synchronous=%s: %d rows survive the worst, want %d", c.synchronous, got, c.all)
		}
		if got := survivors(t, im, Nothing); got != c.nothing {
			t.Errorf("synchronous=%s: %d rows survive the best, want %d", c.synchronous, got, c.nothing)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(t.TempDir(), "a.db")
	}
}
