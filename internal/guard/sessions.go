package guard

import (
	"context"
	"sync"
	"sync/atomic"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
)

// maxSessions bounds how many sessions are remembered for sure; up to twice as
// many are.
const maxSessions = 1 << 16

// sessions remembers the newest revision that each session has seen, so that a
// person who changed something finds it changed at the next request, whichever
// application and node answers it. It holds two generations: the older one goes
// when the younger one is full.
type sessions struct {
	used atomic.Bool // false: nothing was ever remembered

	mu         sync.Mutex
	young, old map[string]seen
}

type seen struct {
	store relation.StoreID
	rev   uint64
	token string
}

// sessionOf names what a principal's requests have in common: the login, else the
// first token of the chain, else who it is.
func sessionOf(p *principal.Principal) string {
	key := p.Tenant.String() + " " + p.Subject.String()
	switch c := &p.Credential; {
	case c.SID != "":
		key += " sid " + c.SID
	case c.RootJTI != "":
		key += " root " + c.RootJTI
	}
	return key
}

func (s *sessions) remember(key string, now seen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.find(key); ok && last.store == now.store && last.rev > now.rev {
		return
	}
	if s.young == nil || len(s.young) >= maxSessions {
		s.old, s.young = s.young, map[string]seen{}
	}
	s.young[key] = now
	s.used.Store(true)
}

func (s *sessions) recall(p *principal.Principal) (seen, bool) {
	if !s.used.Load() {
		return seen{}, false
	}
	key := sessionOf(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(key)
}

// find is called with the lock held.
func (s *sessions) find(key string) (seen, bool) {
	if v, ok := s.young[key]; ok {
		return v, true
	}
	v, ok := s.old[key]
	return v, ok
}

// Saw notes that an upstream changed a default store of the tenant in the
// principal's session, and which revision token it got for that. What is no such
// token is passed over: an upstream's words can delay nobody but its own callers.
func (g *Guard) Saw(ctx context.Context, p *principal.Principal, token string) {
	for _, graph := range g.cfg.Directory.Graphs(p.Tenant) {
		if graph.Kind != directory.DefaultGraph {
			continue
		}
		rev, err := g.cfg.Authz.ParseToken(ctx, graph.ID, token)
		if err == nil {
			g.sessions.remember(sessionOf(p), seen{graph.ID, rev.Rev, token})
			return
		}
	}
}

// lastSeen returns the newest token of the principal's session, once this process
// has reached its revision; empty without any, and for one that means nothing any
// more, as after a restore. Kind [fault.Unavailable] for a revision that is not
// here yet.
func (g *Guard) lastSeen(ctx context.Context, p *principal.Principal) (string, error) {
	last, ok := g.sessions.recall(p)
	if !ok {
		return "", nil
	}
	_, err := g.cfg.Authz.ParseToken(ctx, last.store, last.token)
	switch {
	case err == nil:
		return last.token, nil
	case fault.KindOf(err) == fault.Unavailable:
		return "", err
	}
	return "", nil
}
