package sts

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"
)

// stated appends everything that an assertion states, each part with its
// length before it: two requests have the same bytes only if they would get
// the same assertion. A claim that is added to assertionClaims and not here is
// found by TestCacheKeyHoldsEverything.
func stated(b []byte, kid string, c *AssertionClaims) []byte {
	p := c.Principal
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	list := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	text(kid)
	text(c.Audience)
	text(c.Method)
	text(c.Path)
	text(c.Route)
	text(c.Relation)
	text(c.Object)
	text(p.Tenant.String())
	text(string(p.Subject.Kind))
	text(p.Subject.ID)
	text(p.ClientID)
	list(len(p.Scopes))
	for _, s := range p.Scopes {
		text(s)
	}
	list(len(p.Actors))
	for _, a := range p.Actors {
		text(string(a.Subject.Kind))
		text(a.Subject.ID)
		text(a.JTI)
	}
	text(p.Credential.SID)
	text(p.Credential.JTI)
	text(p.Credential.RootJTI)
	text(p.Assurance.ACR)
	list(len(p.Assurance.AMR))
	for _, s := range p.Assurance.AMR {
		text(s)
	}
	var authTime int64
	if !p.Assurance.AuthTime.IsZero() {
		authTime = p.Assurance.AuthTime.Unix()
	}
	return binary.BigEndian.AppendUint64(b, uint64(authTime))
}

const cacheShards = 16

// assertionCache keeps assertions for a short time. It is bounded: a full
// shard drops what has run out, then anything.
type assertionCache struct {
	seed    maphash.Seed
	perPart int
	parts   [cacheShards]cachePart
	buffers sync.Pool
}

type cachePart struct {
	mu      sync.Mutex
	entries map[string]cached
}

type cached struct {
	token   string
	until   time.Time // when it may be handed out last
	expires time.Time // its exp
}

func newAssertionCache(size int) *assertionCache {
	c := &assertionCache{seed: maphash.MakeSeed(), perPart: max(1, size/cacheShards)}
	c.buffers.New = func() any { b := make([]byte, 0, 1024); return &b }
	for i := range c.parts {
		c.parts[i].entries = map[string]cached{}
	}
	return c
}

func (c *assertionCache) buffer() *[]byte   { return c.buffers.Get().(*[]byte) }
func (c *assertionCache) release(b *[]byte) { c.buffers.Put(b) }

func (c *assertionCache) part(key []byte) *cachePart {
	return &c.parts[maphash.Bytes(c.seed, key)%cacheShards]
}

// get returns an assertion that may still be handed out and does not outlive
// the credential of this request (zero: a credential without an end).
func (c *assertionCache) get(key []byte, now, credential time.Time) (string, bool) {
	p := c.part(key)
	p.mu.Lock()
	e, ok := p.entries[string(key)] // does not copy the key
	p.mu.Unlock()
	if !ok || !now.Before(e.until) || (!credential.IsZero() && e.expires.After(credential)) {
		return "", false
	}
	return e.token, true
}

func (c *assertionCache) put(key string, e cached, now time.Time) {
	p := c.part([]byte(key))
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.entries) >= c.perPart {
		for k, old := range p.entries {
			if !now.Before(old.until) {
				delete(p.entries, k)
			}
		}
		for k := range p.entries {
			if len(p.entries) < c.perPart {
				break
			}
			delete(p.entries, k)
		}
	}
	p.entries[key] = e
}
