package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamageIsNamed damages copies of a real log in every way that the issue
// names, and each is named with exit code 1.
func TestDamageIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	for range 20 {
		d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(d.token("carol@acme", "gateway"))...)
		d.do("PUT", d.Gateway+"/documents/roadmap", "x", bearer(d.token("carol@acme", "gateway"))...)
	}
	checkpoint := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(checkpoint, []byte(d.cli("audit", "checkpoint")), 0o600); err != nil {
		t.Fatal(err)
	}
	d.stop()
	verify := func(dir string, more ...string) (string, int) {
		out, errs, code := run(t, append([]string{"audit", "verify", "--data", dir}, more...)...)
		return out + errs, code
	}
	if out, code := verify(dir); code != 0 || !strings.Contains(out, "internally consistent, not anchored") {
		t.Fatalf("the log as it is: exit %d, %s", code, out)
	}
	if out, code := verify(dir, "--since", checkpoint); code != 0 || !strings.Contains(out, "anchored") || strings.Contains(out, "not anchored") {
		t.Fatalf("the log with a checkpoint kept elsewhere: exit %d, %s", code, out)
	}
	segment := func(dir string) string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "audit", "*-durable.seg"))
		if err != nil || len(list) == 0 {
			t.Fatal("no segment", err)
		}
		return list[0]
	}
	damage := func(name string, do func(dir string), more ...string) {
		t.Helper()
		copied := filepath.Join(t.TempDir(), "copy")
		copyTree(t, dir, copied)
		do(copied)
		if out, code := verify(copied, more...); code != 1 {
			t.Errorf("%s: exit %d, %s", name, code, out)
		}
	}
	content, err := os.ReadFile(segment(dir))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(content); i += 1 + len(content)/40 {
		damage("a flipped byte", func(dir string) {
			b := bytes.Clone(content)
			b[i] ^= 0x40
			if err := os.WriteFile(segment(dir), b, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	damage("a segment gone", func(dir string) {
		if err := os.Remove(segment(dir)); err != nil {
			t.Fatal(err)
		}
	})
	damage("the tail cut below the newest head", func(dir string) {
		if err := os.Truncate(segment(dir), int64(len(content)-200)); err != nil {
			t.Fatal(err)
		}
	})
	// Whoever cuts the head too is seen by a checkpoint kept elsewhere alone.
	early := filepath.Join(t.TempDir(), "early")
	e := startDev(t, early)
	old := e.cli("audit", "checkpoint")
	e.stop()
	damage("another log's checkpoint", func(string) {
		if err := os.WriteFile(checkpoint+".other", []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
	}, "--key", strings.TrimSpace(readFile(t, filepath.Join(early, "audit", "log.vkey"))))
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
