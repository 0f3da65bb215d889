package authn

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
)

// How a connection's keys are kept.
const (
	refreshAfter = 15 * time.Minute // a removed key stops verifying within this and one cool-down
	coolDown     = 30 * time.Second // between two attempts, whatever asks for them
	staleFor     = 24 * time.Hour   // keys outlive an outage of their issuer by this
	fetchTime    = 10 * time.Second // for discovery and keys together
	maxDiscovery = 64 << 10         // bytes
)

// keySet is one answer of an issuer. It is immutable.
type keySet struct {
	keys    jose.Set
	fetched int64 // Unix nanoseconds
}

// source holds the keys of one connection. Whoever finds them due fetches
// them: there is no goroutine in the background, and never more than one fetch
// at a time.
type source struct {
	issuer, jwksURI string
	fetch           func(ctx context.Context, url string, max int64) ([]byte, error)

	current atomic.Pointer[keySet] // nil until the first success
	nextTry atomic.Int64           // Unix nanoseconds; no attempt starts before

	mu     sync.Mutex
	flight chan struct{} // closed when the running fetch ends; nil when none runs
}

// usable returns the current keys, fetched anew if they are due. It waits for
// a fetch only when it starts it itself or when there are no keys at all.
func (s *source) usable(ctx context.Context, now time.Time) (*keySet, *Refusal) {
	set := s.current.Load()
	if set != nil && now.UnixNano()-set.fetched < int64(refreshAfter) {
		return set, nil
	}
	s.refresh(ctx, now, set == nil)
	set = s.current.Load()
	if set == nil || now.UnixNano()-set.fetched >= int64(staleFor) {
		return nil, refuse(KeysUnavailable, nil)
	}
	return set, nil
}

// key returns the key with the kid. An unknown kid may be a new key, so it is
// worth one fetch, but no more than one in [coolDown], however many tokens
// bring unknown kids.
func (s *source) key(ctx context.Context, kid string, now time.Time) (jose.PublicKey, *keySet, *Refusal) {
	if kid == "" {
		return jose.PublicKey{}, nil, refuse(UnknownKey, nil)
	}
	set, refusal := s.usable(ctx, now)
	if refusal != nil {
		return jose.PublicKey{}, nil, refusal
	}
	if key, ok := set.keys.Key(kid); ok {
		return key, set, nil
	}
	s.refresh(ctx, now, true)
	set = s.current.Load()
	if key, ok := set.keys.Key(kid); ok {
		return key, set, nil
	}
	return jose.PublicKey{}, nil, refuse(UnknownKey, nil)
}

// refresh fetches the keys unless that was tried within the cool-down. With
// wait, it waits for a fetch that somebody else has started; the end of ctx
// ends the waiting, and never the fetch: a client that hangs up could
// otherwise keep the keys from ever arriving.
func (s *source) refresh(ctx context.Context, now time.Time, wait bool) {
	if !wait && now.UnixNano() < s.nextTry.Load() {
		return // during an outage every request comes by here
	}
	s.mu.Lock()
	if s.flight != nil {
		flight := s.flight
		s.mu.Unlock()
		if wait {
			select {
			case <-flight:
			case <-ctx.Done():
			}
		}
		return
	}
	if now.UnixNano() < s.nextTry.Load() {
		s.mu.Unlock()
		return
	}
	s.nextTry.Store(now.Add(coolDown).UnixNano())
	flight := make(chan struct{})
	s.flight = flight
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.flight = nil
		s.mu.Unlock()
		close(flight)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	// A failure changes nothing: the old keys serve until they are too old.
	if keys, err := s.load(ctx); err == nil {
		s.current.Store(&keySet{keys, now.UnixNano()})
	}
}

// load gets the issuer's keys by way of its discovery document (OpenID Connect
// Discovery section 4), whose issuer must be the one that was asked. The
// operator alone can name the place of the keys instead.
func (s *source) load(ctx context.Context) (jose.Set, error) {
	place := s.jwksURI
	if place == "" {
		raw, err := s.fetch(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration", maxDiscovery)
		if err != nil {
			return jose.Set{}, err
		}
		var doc struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			return jose.Set{}, fault.Wrap(fault.Invalid, "the discovery document is not JSON", err)
		}
		if doc.Issuer != s.issuer {
			return jose.Set{}, fault.New(fault.Invalid, "the discovery document is of another issuer")
		}
		place = doc.JWKSURI
	}
	if u, err := url.Parse(place); err != nil || u.Scheme != "https" || u.Host == "" {
		return jose.Set{}, fault.Wrap(fault.Invalid, "keys are fetched by https alone", err)
	}
	raw, err := s.fetch(ctx, place, jose.MaxSet)
	if err != nil {
		return jose.Set{}, err
	}
	set, err := jose.ParseSet(raw)
	if err != nil {
		return jose.Set{}, err
	}
	if set.Len() == 0 {
		return jose.Set{}, errors.New("the issuer publishes no usable key")
	}
	return set, nil
}

// sources holds a source for each connection in use.
type sources struct {
	fetch func(ctx context.Context, url string, max int64) ([]byte, error)
	mu    *sync.Mutex
	byID  map[string]*source
}

func newSources(fetch func(ctx context.Context, url string, max int64) ([]byte, error)) sources {
	return sources{fetch, new(sync.Mutex), map[string]*source{}}
}

// of returns the connection's source. A connection that changed its issuer or
// place starts with no keys. Sources whose keys are too old to be used go when
// another is added, so that the map stays as large as what is in use.
func (s *sources) of(c *directory.Connection, now time.Time) *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byID[c.ID]; have != nil && have.issuer == c.Issuer && have.jwksURI == c.JWKSURI {
		return have
	}
	for id, old := range s.byID {
		if set := old.current.Load(); set != nil && now.UnixNano()-set.fetched >= int64(staleFor) {
			delete(s.byID, id)
		}
	}
	fresh := &source{issuer: c.Issuer, jwksURI: c.JWKSURI, fetch: s.fetch}
	s.byID[c.ID] = fresh
	return fresh
}
