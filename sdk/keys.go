package sdk

import (
	"context"
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
	coolDown   = 5 * time.Second // between fetches for a key that is not there
	maxKeySet  = 1 << 20         // bytes
)

var errNoKey = errors.New("no such key")

// keySet is a JWKS that is fetched when needed. One fetch runs at a time.
type keySet struct {
	url  string
	http *http.Client
	now  func() time.Time

	mu      sync.Mutex
	keys    map[string]jose.JSONWebKey
	fetched time.Time
	asked   time.Time     // when the last fetch began
	flight  chan struct{} // closed when the running fetch ends; nil without one
	err     error         // of the last fetch
}

// key returns the ES256 key with the kid.
func (s *keySet) key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	s.mu.Lock()
	k, known := s.keys[kid]
	age := s.now().Sub(s.fetched)
	usable := known && age < maxAge
	due := age >= refreshAge || (!known && s.now().Sub(s.asked) >= coolDown)
	var flight chan struct{}
	if due {
		flight = s.fetchLocked()
	} else if !usable {
		flight = s.flight // somebody else's, or none
	}
	s.mu.Unlock()
	if usable {
		return k, nil // a refresh, if due, runs meanwhile
	}
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return jose.JSONWebKey{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, known := s.keys[kid]; known && s.now().Sub(s.fetched) < maxAge {
		return k, nil
	}
	if s.err != nil {
		return jose.JSONWebKey{}, s.err
	}
	return jose.JSONWebKey{}, errNoKey
}

// fetchLocked starts a fetch unless one runs, and returns what to wait for.
func (s *keySet) fetchLocked() chan struct{} {
	if s.flight != nil {
		return s.flight
	}
	flight := make(chan struct{})
	s.flight, s.asked = flight, s.now()
	go func() {
		// Its own time limit: a caller that gives up must not fail the others.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		keys, err := s.fetch(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err = err; err == nil {
			s.keys, s.fetched = keys, s.asked
		}
		s.flight = nil
		close(flight)
	}()
	return flight
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
	if err != nil || len(body) > maxKeySet {
		return nil, fmt.Errorf("%s: the key set did not arrive whole: %w", s.url, err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("%s: not a key set: %w", s.url, err)
	}
	keys := map[string]jose.JSONWebKey{}
	for _, k := range set.Keys {
		if k.Valid() && k.IsPublic() && k.Algorithm == string(jose.ES256) && k.KeyID != "" {
			keys[k.KeyID] = k
		}
	}
	return keys, nil
}
