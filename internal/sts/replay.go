package sts

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// replays remembers which client assertions were used, by a hash of client and
// jti, until they expire. It is bounded, and no single client can fill it: a
// full memory refuses, it never forgets.
type replays struct {
	max int

	mu        sync.Mutex
	used      map[[32]byte]use
	perClient map[string]int
	swept     time.Time
}

type use struct {
	client  string
	expires time.Time
}

func newReplays(limit int) *replays {
	return &replays{max: limit, used: map[[32]byte]use{}, perClient: map[string]int{}}
}

// outcome of remembering an assertion.
type outcome uint8

const (
	replayed outcome = iota // zero: refuse
	full
	fresh
)

// remember notes the assertion and reports whether it was fresh.
func (r *replays) remember(client, jti string, now, expires time.Time) outcome {
	id := assertionID(client, jti)
	r.mu.Lock()
	defer r.mu.Unlock()
	if u, ok := r.used[id]; ok && now.Before(u.expires) {
		return replayed
	}
	if len(r.used) >= r.max || r.perClient[client] >= max(1, r.max/4) || now.Sub(r.swept) >= time.Minute {
		r.sweep(now)
	}
	if len(r.used) >= r.max || r.perClient[client] >= max(1, r.max/4) {
		return full
	}
	if _, ok := r.used[id]; !ok {
		r.perClient[client]++
	}
	r.used[id] = use{client, expires}
	return fresh
}

// sweep forgets what has expired, at most once a second: a full memory must not
// make every request walk it.
func (r *replays) sweep(now time.Time) {
	if now.Sub(r.swept) < time.Second {
		return
	}
	r.swept = now
	for id, u := range r.used {
		if now.Before(u.expires) {
			continue
		}
		delete(r.used, id)
		if r.perClient[u.client]--; r.perClient[u.client] <= 0 {
			delete(r.perClient, u.client)
		}
	}
}

// assertionID hashes client and jti, the first with its length, so that no two
// pairs give the same bytes.
func assertionID(client, jti string) [32]byte {
	buf := binary.AppendUvarint(make([]byte, 0, len(client)+len(jti)+4), uint64(len(client)))
	buf = append(buf, client...)
	return sha256.Sum256(append(buf, jti...))
}
