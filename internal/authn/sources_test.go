package authn

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
)

// TestUnknownKidFlood: two thousand tokens with as many kids, from many
// goroutines, make one fetch of the keys in a cool-down.
func TestUnknownKidFlood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	good := key.sign(at, w.rfc9068("s"))
	w.mustPass("before", good)
	if n := w.web.count(jwks); n != 1 {
		t.Fatalf("%d fetches at the start", n)
	}
	payload := segment(w.rfc9068("s"))
	flood := func() {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 250 {
					head := segment(fmt.Sprintf(`{"alg":"RS256","typ":"at+jwt","kid":"%d-%d"}`, g, i))
					p, err := w.ask(head + "." + payload + "." + strings.Repeat("A", 342))
					checkRefusal(t, "flood", p, err, UnknownKey)
				}
			})
		}
		wg.Wait()
	}
	flood()
	if n := w.web.count(jwks); n != 1 {
		t.Errorf("%d fetches within the cool-down of the first", n)
	}
	w.clock.forward(coolDown)
	flood()
	if n := w.web.count(jwks); n != 2 {
		t.Errorf("%d fetches after one cool-down, want 2", n)
	}
	w.mustPass("after", good)
	// A flood of kids for tokens that nobody trusts asks for nothing.
	before := w.web.total()
	w.clock.forward(coolDown)
	w.mustRefuse("no such issuer", key.sign(map[string]any{"typ": "at+jwt", "kid": "z"}, w.rfc9068("s").with(claims{"iss": "https://other.test"})), Issuer)
	w.mustRefuse("no such audience", key.sign(map[string]any{"typ": "at+jwt", "kid": "z"}, w.rfc9068("s").with(claims{"aud": "other"})), Issuer)
	w.mustRefuse("algorithm not listed", key.sign(map[string]any{"typ": "at+jwt", "kid": "z", "alg": "EdDSA"}, w.rfc9068("s")), Algorithm)
	if w.web.total() != before {
		t.Error("something was fetched")
	}
}

// TestRotation: a new key works at once, the old one while it is published,
// and no longer: not for a token that was verified before either.
func TestRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := idpKey{"k1", rsaKeys[0]()}, idpKey{"k2", rsaKeys[1]()}
	w.publish(first.public())
	w.link("s")
	old := first.sign(at, w.rfc9068("s"))
	w.mustPass("old key", old)
	w.publish(first.public(), second.public())
	w.clock.forward(coolDown)
	fresh := second.sign(at, w.rfc9068("s"))
	w.mustPass("new key", fresh)
	w.mustPass("old key beside it", old)
	w.publish(second.public())
	w.clock.forward(refreshAfter)
	w.mustRefuse("removed key, verified before", old, UnknownKey)
	w.mustRefuse("removed key, new token", first.sign(at, w.rfc9068("s").with(claims{"jti": "n"})), UnknownKey)
	w.mustPass("new key still", fresh)
	// The name of a key is given to another key.
	w.publish(jose.PublicKey{KID: "k2", Alg: jose.RS256, Key: &rsaKeys[0]().PublicKey})
	w.clock.forward(refreshAfter)
	w.mustRefuse("exchanged key", fresh, UnknownKey)
}

// TestOutage: the keys outlive their issuer's outage for a day and no longer.
// Nobody waits meanwhile, and attempts keep their distance.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	good := key.sign(at, w.rfc9068("s").with(claims{"exp": w.in(30 * time.Hour)}))
	w.mustPass("before", good)
	start := w.web.count(discovery)
	w.web.mu.Lock()
	w.web.down = true
	w.web.mu.Unlock()
	w.clock.forward(refreshAfter)
	for range 1000 {
		w.mustPass("stale", good)
	}
	w.mustPass("stale, new token", key.sign(at, w.rfc9068("s")))
	w.mustRefuse("unknown key during the outage", key.sign(map[string]any{"typ": "at+jwt", "kid": "x"}, w.rfc9068("s")), UnknownKey)
	if n := w.web.count(discovery) - start; n != 1 {
		t.Errorf("%d attempts within a cool-down", n)
	}
	w.clock.forward(staleFor - refreshAfter - time.Second)
	w.mustPass("almost a day", good)
	w.clock.forward(time.Second)
	w.mustRefuse("a day", good, KeysUnavailable)
	w.mustRefuse("a day, new token", key.sign(at, w.rfc9068("s")), KeysUnavailable)
	w.web.mu.Lock()
	w.web.down = false
	w.web.mu.Unlock()
	w.clock.forward(coolDown)
	w.mustPass("recovered", good)
}

// TestSingleFlight: fifty first requests at once make one fetch, and all of
// them pass.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	w.web.gate, w.web.begun = make(chan struct{}), make(chan struct{}, 10)
	var wg sync.WaitGroup
	for range 50 {
		token := key.sign(at, w.rfc9068("s"))
		wg.Go(func() {
			if _, err := w.ask(token); err != nil {
				t.Error(err)
			}
		})
	}
	<-w.web.begun
	close(w.web.gate)
	wg.Wait()
	if d, k := w.web.count(discovery), w.web.count(jwks); d != 1 || k != 1 {
		t.Errorf("%d and %d fetches", d, k)
	}
}

// TestHangUp: a client that is gone before the keys have come neither stops
// their fetch nor uses up the one attempt.
func TestHangUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	w.web.gate, w.web.begun = make(chan struct{}), make(chan struct{}, 10)
	ctx, hangUp := context.WithCancel(t.Context())
	token := key.sign(at, w.rfc9068("s"))
	in := Input{Authorization: []string{"Bearer " + token}, Audience: gateway}
	done := make(chan error, 1)
	go func() { _, err := w.authn.Authenticate(ctx, in); done <- err }()
	<-w.web.begun
	hangUp()
	// Another that waits may leave: it gets an answer though the fetch goes on.
	p, err := w.authn.Authenticate(ctx, in)
	checkRefusal(t, "waiting client that hung up", p, err, KeysUnavailable)
	close(w.web.gate)
	<-done
	w.mustPass("the next client", token)
	if n := w.web.count(jwks); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestBadIssuers: what an issuer may answer that gives no keys.
func TestBadIssuers(t *testing.T) {
	t.Parallel()
	key := idpKey{"k", rsaKeys[0]()}
	for _, c := range []struct {
		name    string
		answer  func(w *world)
		fetched int
	}{
		{"nothing", func(w *world) { w.web.docs = map[string][]byte{} }, 1},
		{"discovery of another issuer", func(w *world) {
			w.web.set(discovery, map[string]any{"issuer": "https://other.test", "jwks_uri": jwks})
		}, 1},
		{"discovery with a slash more", func(w *world) {
			w.web.set(discovery, map[string]any{"issuer": external + "/", "jwks_uri": jwks})
		}, 1},
		{"discovery is HTML", func(w *world) { w.web.set(discovery, []byte("<html>")) }, 1},
		{"discovery too large", func(w *world) { w.web.set(discovery, make([]byte, maxDiscovery+1)) }, 1},
		{"no keys named", func(w *world) { w.web.set(discovery, map[string]any{"issuer": external}) }, 1},
		{"keys over http", func(w *world) {
			w.web.set(discovery, map[string]any{"issuer": external, "jwks_uri": "http://keys.idp.test/v1/keys"})
		}, 1},
		{"keys in a file", func(w *world) {
			w.web.set(discovery, map[string]any{"issuer": external, "jwks_uri": "file:///etc/keys"})
		}, 1},
		{"keys of 5 MB", func(w *world) { w.web.set(jwks, []byte(`{"keys":[],"x":"`+strings.Repeat("x", 5<<20)+`"}`)) }, 2},
		{"no key in the set", func(w *world) { w.web.set(jwks, []byte(`{"keys":[]}`)) }, 2},
		{"keys are garbage", func(w *world) { w.web.set(jwks, []byte(`{`)) }, 2},
		{"one kid, two keys", func(w *world) {
			one := strings.TrimSuffix(strings.TrimPrefix(string(w.web.docs[jwks]), `{"keys":[`), `]}`)
			w.web.set(jwks, []byte(`{"keys":[`+one+`,`+one+`]}`))
		}, 2},
	} {
		w := newWorld(t)
		w.publish(key.public())
		w.link("s")
		c.answer(w)
		for range 3 {
			w.mustRefuse(c.name, key.sign(at, w.rfc9068("s")), KeysUnavailable)
		}
		if n := w.web.total(); n != c.fetched {
			t.Errorf("%s: %d fetches (%v), want %d", c.name, n, w.web.asked, c.fetched)
		}
		// It gets better, and is believed after the cool-down.
		w.publish(key.public())
		w.clock.forward(coolDown)
		w.mustPass(c.name+", mended", key.sign(at, w.rfc9068("s")))
	}
}

// TestOperatorsKeys: only the operator can name the place of the keys; then
// discovery is not asked at all.
func TestOperatorsKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	w.connect(func(c *directory.Connection) { c.JWKSURI = jwks })
	w.mustPass("operator's place", key.sign(at, w.rfc9068("s")))
	if w.web.count(discovery) != 0 || w.web.count(jwks) != 1 {
		t.Errorf("fetched %v", w.web.asked)
	}
}

// TestMovedConnection: under a new issuer the keys of the old one are nothing.
func TestMovedConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	old := key.sign(at, w.rfc9068("s"))
	w.mustPass("before", old)
	const moved = "https://moved.test"
	w.connect(func(c *directory.Connection) { c.Issuer = moved })
	w.mustRefuse("the old issuer's token", old, Issuer)
	token := key.sign(at, w.rfc9068("s").with(claims{"iss": moved}))
	w.mustRefuse("signed with the old issuer's key", token, KeysUnavailable)
	w.web.set(moved+"/.well-known/openid-configuration", map[string]any{"issuer": moved, "jwks_uri": jwks})
	w.clock.forward(coolDown)
	w.mustPass("once the new issuer publishes it", token)
}

// TestSourcesOfGoneConnections do not stay for ever.
func TestSourcesOfGoneConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := w.clock.now()
	old := w.authn.sources.of(&directory.Connection{ID: "old", Issuer: external}, now)
	old.current.Store(&keySet{fetched: now.UnixNano()})
	if w.authn.sources.of(&directory.Connection{ID: "old", Issuer: external}, now) != old {
		t.Error("a source is made twice")
	}
	w.authn.sources.of(&directory.Connection{ID: "new", Issuer: external}, now.Add(staleFor))
	if len(w.authn.sources.byID) != 1 {
		t.Errorf("%d sources", len(w.authn.sources.byID))
	}
}

// TestConcurrency: requests, rotations, revocations and changes of the
// directory at once; run with -race. A revoked token never passes afterwards.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := idpKey{"k1", rsaKeys[0]()}, idpKey{"k2", rsaKeys[1]()}
	w.publish(first.public(), second.public())
	user := w.link("s")
	var tokens []string
	for i := range 40 {
		tokens = append(tokens, w.sign(w.own()))
		tokens = append(tokens, []idpKey{first, second}[i%2].sign(at, w.rfc9068("s")))
	}
	victim := w.own()
	dead := w.sign(victim)
	w.mustPass("alive", dead)
	var revoked atomic.Bool
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				if _, err := w.ask(tokens[(i*7+g)%len(tokens)]); err != nil {
					t.Error(err)
				}
				was := revoked.Load()
				if _, err := w.ask(dead); err == nil && was {
					t.Error("a revoked token passes")
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 100 {
			w.put(user)
			w.clock.forward(time.Second)
			if i == 50 {
				w.revoke(directory.RevokeToken, victim["jti"].(string))
				revoked.Store(true)
			}
		}
	})
	wg.Wait()
	w.mustRefuse("dead", dead, Revoked)
}
