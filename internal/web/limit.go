package web

import (
	"net/netip"
	"sync"
	"time"

	"bulwark.example/internal/ledger"
)

// LimiterConfig says how much one network may ask of an open door.
type LimiterConfig struct {
	Burst    float64       // requests at once
	Refill   time.Duration // until one more is allowed
	Networks int           // networks that are remembered
	Now      func() time.Time
}

// Limiter is a token bucket for each network. Its memory is bounded: when more
// networks come than it remembers, the newcomers share one bucket. It is safe
// for concurrent use.
type Limiter struct {
	cfg LimiterConfig

	mu      sync.Mutex
	buckets map[string]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// NewLimiter returns a limiter with full buckets.
func NewLimiter(cfg LimiterConfig) *Limiter {
	return &Limiter{cfg: cfg, buckets: map[string]*bucket{}}
}

// Allow takes one request of the address's network, and reports whether it may
// go on.
func (l *Limiter) Allow(a netip.Addr) bool {
	now, key := l.cfg.Now(), ledger.Network(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= l.cfg.Networks {
			l.forget(now)
		}
		if len(l.buckets) >= l.cfg.Networks {
			key = "" // the shared bucket
			b = l.buckets[key]
		}
		if b == nil {
			b = &bucket{l.cfg.Burst, now}
			l.buckets[key] = b
		}
	}
	l.fill(b, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (l *Limiter) fill(b *bucket, now time.Time) {
	b.tokens = min(l.cfg.Burst, b.tokens+float64(now.Sub(b.at))/float64(l.cfg.Refill))
	b.at = now
}

// forget drops the networks whose buckets are full again: they are like new.
func (l *Limiter) forget(now time.Time) {
	for key, b := range l.buckets {
		if l.fill(b, now); b.tokens >= l.cfg.Burst {
			delete(l.buckets, key)
		}
	}
}
