package audit_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
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

func BenchmarkAppendDeny(b *testing.B)  { benchmarkAppend(b, ledger.Deny, 500) }
func BenchmarkAppendAllow(b *testing.B) { benchmarkAppend(b, ledger.Allow, 1) }

// benchmarkAppend reports the CPU of caller and writer together beside the
// time, because the time on a shared machine says little.
func benchmarkAppend(b *testing.B, class ledger.Class, parallelism int) {
	l := open(b, newConfig(b))
	ev := deny(tenant.New())
	ev.Class = class
	b.SetParallelism(parallelism)
	b.ReportAllocs()
	before := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(context.Background(), ev); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	closeLog(b, l)
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkReject is a flood of refusals from many sources.
func BenchmarkReject(b *testing.B) {
	l := open(b, newConfig(b))
	sources := make([]string, 1000)
	for i := range sources {
		sources[i] = fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)
	}
	before := cpuTime(b)
	b.ReportAllocs()
	for i := range b.N {
		l.Reject(ledger.Event{Action: "request", Reason: "expired", Route: "documents", Source: sources[i%1000]})
	}
	b.StopTimer()
	closeLog(b, l)
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func BenchmarkVerify(b *testing.B) {
	cfg := newConfig(b)
	l := open(b, cfg)
	for range 100_000 {
		ev := deny(tenant.Platform)
		ev.Class = ledger.Allow
		if err := l.Append(context.Background(), ev); err != nil {
			b.Fatal(err)
		}
	}
	closeLog(b, l)
	b.ResetTimer()
	var events uint64
	before := cpuTime(b)
	for b.Loop() {
		r, err := audit.Verify(context.Background(), cfg.Dir, audit.VerifyOptions{Verifier: cfg.Verifier})
		if err != nil || !r.OK() {
			b.Fatal(err, r)
		}
		events += r.Events
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(events), "cpu-ns/event")
}
