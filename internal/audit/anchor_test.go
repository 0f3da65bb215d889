package audit_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

// A log extends every head that it ever had, with its tiles or without; one that
// was set back, and has grown again, does not.
func TestExtends(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	ctx := context.Background()
	dir := s.cfg.Dir
	check := func(what string, kept []byte, ok bool) {
		t.Helper()
		if err := audit.Extends(ctx, dir, s.cfg.Verifier, kept); (err == nil) != ok || err != nil && fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("its newest head", s.heads[1], true)
	check("an earlier one", s.heads[0], true)
	if err := os.RemoveAll(filepath.Join(dir, "log", "tile")); err != nil {
		t.Fatal(err)
	}
	check("its newest head, without tiles", s.heads[1], true)
	check("an earlier one, without tiles", s.heads[0], true)
	check("no checkpoint", []byte("x"), false)

	back := newSample(t) // the same events by number, another history
	check("another log's head", back.heads[0], false)

	early := filepath.Join(t.TempDir(), "early")
	if err := os.CopyFS(early, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l := open(t, s.cfg)
	for range 3 {
		if err := l.Append(ctx, deny(tenant.New())); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	kept := l.Head()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(early)); err != nil {
		t.Fatal(err)
	}
	check("a later head after it was set back", kept, false)
	for range 20 { // past the size that the kept head covers
		closeLog(t, open(t, s.cfg))
	}
	check("a later head after it was set back and grew again", kept, false)
	check("a head from before", s.heads[1], true)
}
