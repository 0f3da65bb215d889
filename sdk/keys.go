package sdk

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Ages of a key set. A key that is withdrawn stops verifying within maxAge,
// whatever the network does.
const (
	refreshAge = time.Minute     // after which it is fetched again
	maxAge     = 5 * time.Minute // after which it is not used
	coolDown   = 5 * time.Second // after a fetch that failed, or that was for a key nobody has
	fetchLimit = 10 * time.Second
	maxKeySet  = 1 << 20 // bytes
)

var errNoKey = errors.New("no such key")

// keySet is a JWKS that is fetched when needed. One fetch runs at a time.
type keySet struct {
	url  string
	http *http.Client
	now  func() time.Time

	mu      sync.Mutex
	keys    map[string]jose.JSONWebKey
	fetched time.Time     // when the fetch of keys began
	rest    time.Time     // until when no fetch begins: strangers choose key ids
	flight  chan struct{} // closed when the running fetch ends; nil without one
	err     error         // of the last fetch
}

// key returns the ES256 key with the kid. The error is errNoKey when the issuer
// does not publish one, ctx's, or the fetch's.
func (s *keySet) key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	for {
		k, flight, err := s.look(kid)
		if flight == nil {
			return k, err
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return jose.JSONWebKey{}, ctx.Err()
		}
	}
}

// look returns the key, or what to wait for before looking again, or why there
// is no key. Waiting ends: a fetch for a key that is missing is followed by rest.
func (s *keySet) look(kid string) (jose.JSONWebKey, chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	k, known := s.keys[kid]
	age, resting := now.Sub(s.fetched), now.Before(s.rest)
	switch {
	case known && age < maxAge:
		if age >= refreshAge && s.flight == nil && !resting {
			s.begin(now, false) // and go on meanwhile
		}
		return k, nil, nil
	case s.flight != nil:
		return jose.JSONWebKey{}, s.flight, nil
	case !resting:
		// A new gateway signs with a key that we have not seen.
		s.begin(now, age < maxAge)
		return jose.JSONWebKey{}, s.flight, nil
	case s.err != nil:
		return jose.JSONWebKey{}, nil, s.err
	}
	return jose.JSONWebKey{}, nil, errNoKey
}

// begin starts a fetch; s.mu is held and none runs. missing says that it is for
// a key which a set that is good otherwise does not hold.
func (s *keySet) begin(now time.Time, missing bool) {
	flight := make(chan struct{})
	s.flight = flight
	go func() {
		// Its own time limit: a caller that gives up must not fail the others.
		ctx, cancel := context.WithTimeout(context.Background(), fetchLimit)
		defer cancel()
		keys, err := s.fetch(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err = err; err == nil {
			s.keys, s.fetched = keys, now
		}
		if missing || err != nil {
			s.rest = s.now().Add(coolDown)
		}
		s.flight = nil
		close(flight)
	}()
}

func (s *keySet) fetch(ctx context.Context) (map[string]jose.JSONWebKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // nothing was written; a failed close loses nothing
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", s.url, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: the key set did not arrive whole: %w", s.url, err)
	case len(body) > maxKeySet:
		return nil, fmt.Errorf("%s: the key set is larger than 1 MiB", s.url)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("%s: not a key set: %w", s.url, err)
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("%s: not a key set", s.url)
	}
	keys := map[string]jose.JSONWebKey{}
	for _, raw := range set.Keys {
		// A key of a kind that is not known here is not for this version.
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) == nil && usable(&k) {
			keys[k.KeyID] = k
		}
	}
	return keys, nil
}

// usable reports whether a key verifies ES256 signatures and nothing else.
func usable(k *jose.JSONWebKey) bool {
	public, ok := k.Key.(*ecdsa.PublicKey)
	return ok && k.Valid() && public.Curve == elliptic.P256() && k.Algorithm == string(jose.ES256) && k.KeyID != "" && (k.Use == "" || k.Use == "sig")
}
