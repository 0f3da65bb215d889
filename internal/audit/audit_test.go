package audit_test

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

const origin = "bulwark.example/audit/test"

// newKey makes the log's key pair for one test.
func newKey(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	priv, pub, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(priv)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(pub)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func newConfig(t testing.TB) audit.Config {
	t.Helper()
	s, v := newKey(t)
	return audit.Config{Dir: filepath.Join(t.TempDir(), "audit"), Now: time.Now, Signer: s, Verifier: v, Instance: tenant.RandomID()}
}

func open(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func deny(t tenant.ID) ledger.Event {
	return ledger.Event{Class: ledger.Deny, Action: "request", Tenant: t, Subject: "user:" + tenant.RandomID(),
		Resource: "document:roadmap", Relation: "can_view", Decision: "deny", Reason: "no_relation", Status: 404}
}

func TestAppendAndReopen(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	tenants := []tenant.ID{tenant.New(), tenant.New(), tenant.New()}
	for range 3 {
		l := open(t, cfg)
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				ev := deny(tenants[i%3])
				if i%2 == 0 {
					ev.Class, ev.Decision = ledger.Allow, "allow"
				}
				if err := l.Append(context.Background(), ev); err != nil {
					t.Error(err)
				}
				l.Reject(ledger.Event{Reason: "token_expired", Source: "192.0.2.0/24"})
			})
		}
		wg.Wait()
		closeLog(t, l)
	}
}

func BenchmarkAppendDeny(b *testing.B) {
	l := open(b, newConfig(b))
	id := tenant.New()
	b.SetParallelism(500)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(context.Background(), deny(id)); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	closeLog(b, l)
}

func BenchmarkAppendAllow(b *testing.B) {
	l := open(b, newConfig(b))
	ev := deny(tenant.New())
	ev.Class, ev.Decision = ledger.Allow, "allow"
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(context.Background(), ev); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	closeLog(b, l)
}
