package sdk

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// CheckFunc asks whether the subject has the relation to the object in the
// tenant, as [Client.Check] does.
type CheckFunc func(ctx context.Context, tenant, subject, relation, object string) (bool, error)

// ShadowConfig bounds what a shadow may cost. The zero value is fit for use.
type ShadowConfig struct {
	Concurrency int           // questions that Bulwark is asked at a time; more are dropped. 0: 16
	Timeout     time.Duration // for Bulwark's answer. 0: 2 s

	// Report is told each disagreement, on a goroutine that holds one of the
	// places of Concurrency. nil: Logger is, at the level Warn.
	Report func(Disagreement)
	Logger *slog.Logger // nil: slog.Default()
}

// Disagreement is a question to which Bulwark does not answer what the existing
// check does. No answer of Bulwark's is one too: after a cut-over it would deny.
type Disagreement struct {
	Tenant, Subject, Relation, Object string

	Existing bool
	Ours     bool
	OursErr  error  // why there was no answer; nil if there was one
	Revision string // of Bulwark's answer: its consistency token
}

// ShadowCounters say what became of the questions so far.
type ShadowCounters struct {
	Agreed    uint64
	Disagreed uint64 // both answered, and otherwise
	Failed    uint64 // the existing check answered, and Bulwark did not
	Skipped   uint64 // the existing check did not answer: there is nothing to compare
	Dropped   uint64 // Bulwark was not asked: too many questions at a time
}

// Shadowed is a check with a shadow. Make one with [Shadow].
type Shadowed struct {
	existing CheckFunc
	ours     *Client
	cfg      ShadowConfig
	places   chan struct{}
	running  sync.WaitGroup

	agreed, disagreed, failed, skipped, dropped atomic.Uint64
}

// Shadow returns a check that always answers as the existing one does, with its
// errors, and asks Bulwark the same beside it. Bulwark never delays the answer: it
// is asked with time and places of its own, and a question for which there is no
// place is dropped and counted.
func Shadow(existing CheckFunc, ours *Client, cfg ShadowConfig) *Shadowed {
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 16
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Shadowed{existing: existing, ours: ours, cfg: cfg, places: make(chan struct{}, cfg.Concurrency)}
}

// verdict is what the existing check said; the zero one is that it did not.
type verdict struct{ allowed, answered bool }

// Check answers as the existing check does. It is a [CheckFunc].
func (s *Shadowed) Check(ctx context.Context, tenant, subject, relation, object string) (bool, error) {
	told := make(chan verdict, 1)
	select {
	case s.places <- struct{}{}:
		q := Disagreement{Tenant: tenant, Subject: subject, Relation: relation, Object: object}
		// The answer may be given and the request over before Bulwark answers.
		own := context.WithoutCancel(ctx)
		s.running.Go(func() {
			defer func() { <-s.places }()
			s.compare(own, q, told)
		})
	default:
		s.dropped.Add(1)
	}
	var v verdict
	defer func() { told <- v }() // also where the existing check panics
	allowed, err := s.existing(ctx, tenant, subject, relation, object)
	v = verdict{allowed, err == nil}
	return allowed, err
}

// compare asks Bulwark, and holds its answer against what it is told.
func (s *Shadowed) compare(ctx context.Context, q Disagreement, told <-chan verdict) {
	defer func() {
		// What goes wrong here must not take the service with it.
		if p := recover(); p != nil {
			s.cfg.Logger.ErrorContext(ctx, "the shadow of a check panicked", "panic", fmt.Sprint(p))
		}
	}()
	asked, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	q.Ours, q.Revision, q.OursErr = s.ours.checkAt(asked, q.Tenant, q.Subject, q.Relation, q.Object)
	v := <-told
	q.Existing = v.allowed
	switch {
	case !v.answered:
		s.skipped.Add(1)
		return
	case q.OursErr != nil:
		s.failed.Add(1)
	case q.Ours != v.allowed:
		s.disagreed.Add(1)
	default:
		s.agreed.Add(1)
		return
	}
	if s.cfg.Report != nil {
		s.cfg.Report(q)
		return
	}
	s.cfg.Logger.WarnContext(ctx, "bulwark disagrees with the existing check", "tenant", q.Tenant, "subject", q.Subject, "relation", q.Relation,
		"object", q.Object, "existing", q.Existing, "ours", q.Ours, "error", q.OursErr, "revision", q.Revision)
}

// Counters returns what became of the questions so far.
func (s *Shadowed) Counters() ShadowCounters {
	return ShadowCounters{
		Agreed: s.agreed.Load(), Disagreed: s.disagreed.Load(), Failed: s.failed.Load(), Skipped: s.skipped.Load(), Dropped: s.dropped.Load(),
	}
}

// Wait waits for the questions that Bulwark is being asked. Call it when no more
// come.
func (s *Shadowed) Wait() { s.running.Wait() }
