package audit

import (
	"sync"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// The bounds of a second's refusals: a flood from many sources must cost a
// bounded number of events.
const (
	maxRejectKeys    = 4096
	maxRejectReasons = 64
)

type rejectKey struct{ reason, route, source string }

// rejects counts refusals between two flushes.
type rejects struct {
	mu       sync.Mutex
	counts   map[rejectKey]*ledger.Event
	overflow map[string]*ledger.Event // by reason alone
}

func (r *rejects) add(ev *ledger.Event) {
	key := rejectKey{ev.Reason, ev.Route, ev.Source}
	r.mu.Lock()
	defer r.mu.Unlock()
	if sum := r.counts[key]; sum != nil {
		sum.Count += max(ev.Count, 1)
		return
	}
	if len(r.counts) < maxRejectKeys {
		if r.counts == nil {
			r.counts = make(map[rejectKey]*ledger.Event)
		}
		r.counts[key] = summary(ev)
		return
	}
	reason := ev.Reason
	if r.overflow[reason] == nil && len(r.overflow) >= maxRejectReasons {
		reason = "other"
	}
	if sum := r.overflow[reason]; sum != nil {
		sum.Count += max(ev.Count, 1)
		return
	}
	if r.overflow == nil {
		r.overflow = make(map[string]*ledger.Event)
	}
	sum := summary(ev)
	sum.Reason, sum.Route, sum.Source, sum.RequestID = reason, "", "", ""
	sum.Detail = map[string]string{"overflow": "true"}
	r.overflow[reason] = sum
}

// summary keeps of a refusal what Bulwark itself observed.
func summary(ev *ledger.Event) *ledger.Event {
	return &ledger.Event{
		ID: tenant.RandomID(), Time: ev.Time, Class: ledger.Reject, Tenant: tenant.Platform,
		Action: ev.Action, Decision: ev.Decision, Reason: ev.Reason, Route: ev.Route,
		RequestID: ev.RequestID, Source: ev.Source, Status: ev.Status, Count: max(ev.Count, 1),
	}
}

// take returns the summaries and begins anew.
func (r *rejects) take() []item {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.counts) == 0 {
		return nil
	}
	out := make([]item, 0, len(r.counts)+len(r.overflow))
	for _, ev := range r.counts {
		out = append(out, item{ev: *ev})
	}
	for _, ev := range r.overflow {
		out = append(out, item{ev: *ev})
	}
	r.counts, r.overflow = nil, nil
	return out
}
