package audit_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/audit/powerloss"
	"bulwark.example/internal/ledger"
)

// Whatever bytes a segment, the saved state and the stored head hold, readers
// and a start end with an answer.
func FuzzDirectory(f *testing.F) {
	s := newSample(f)
	var first []byte
	for name, b := range s.files {
		if strings.HasPrefix(name, "000000000000-durable") {
			first = b
		}
	}
	state, err := os.ReadFile(filepath.Join(s.cfg.Dir, "state"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(first, state, s.heads[0])
	f.Add(first[:len(first)-9], []byte{}, s.heads[1])
	f.Add(first[:20], state[:30], []byte("x"))
	cfg := s.cfg
	cfg.Dir = "/audit"
	f.Fuzz(func(t *testing.T, segment, state, head []byte) {
		disk := powerloss.New()
		cfg := cfg
		cfg.FS = disk.FS()
		if err := cfg.FS.MkdirAll("/audit/log"); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"000000000000-durable.seg": segment, "state": state, "log/checkpoint": head} {
			file, err := cfg.FS.OpenFile("/audit/"+name, os.O_RDWR|os.O_CREATE)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
		}
		ctx := context.Background()
		report, err := audit.Verify(ctx, cfg.Dir, audit.VerifyOptions{FS: cfg.FS, Verifier: cfg.Verifier})
		if err == nil && report.OK() && report.Blocks == 0 && report.HeadSize > 0 {
			t.Fatal("an empty log fits a head")
		}
		for _, newest := range []bool{false, true} {
			_ = audit.Query(ctx, cfg.Dir, audit.QueryOptions{FS: cfg.FS, NewestFirst: newest}, func(ledger.Stored) bool { return true })
		}
		if l, err := audit.Open(ctx, cfg); err == nil {
			closeLog(t, l)
			verifyOn(t, cfg)
		}
	})
}
