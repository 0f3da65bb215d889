package sdk_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"bulwark.example/sdk"
)

// statuses sends n requests at once, each with an assertion of the key, and
// counts the answers.
func (s *service) statuses(n int, kid string) map[int]int {
	s.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[int]int{}
	a := s.fresh(kid)
	for range n {
		wg.Go(func() {
			r := s.get(a)
			mu.Lock()
			defer mu.Unlock()
			out[r.status]++
		})
	}
	wg.Wait()
	return out
}

// fresh is an assertion of the key that is good at the service's time.
func (s *service) fresh(kid string) string {
	now := s.clock.now()
	return s.issuer.sign("bulwark-assertion+jwt", kid, with(s.issuer.asserted(), map[string]any{"iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}))
}

// is holds one answer to a status and the number of fetches so far to n.
func (s *service) is(what, kid string, status, n int) {
	s.t.Helper()
	if r := s.get(s.fresh(kid)); r.status != status {
		s.t.Errorf("%s: answered %d %s, want %d", what, r.status, r.body, status)
	}
	if got := s.issuer.fetches(assertions); got != n {
		s.t.Errorf("%s: the set was fetched %d times, want %d", what, got, n)
	}
}

// awaitFetches waits until n fetches have begun. They end soon after.
func (i *issuer) awaitFetches(n int) {
	i.t.Helper()
	for end := time.After(10 * time.Second); i.fetches(assertions) < n; {
		select {
		case <-i.asked:
		case <-end:
			i.t.Fatalf("%d fetches, waiting for %d", i.fetches(assertions), n)
		}
	}
}

// A set is fetched once for many requests at once, and again after a minute,
// while requests go on with what there is.
func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	if got := s.statuses(20, "a1"); got[200] != 20 || i.fetches(assertions) != 1 || i.fetches(tokens) != 0 {
		t.Fatalf("%v with %d fetches", got, i.fetches(assertions))
	}
	s.clock.forward(59 * time.Second)
	s.is("within a minute", "a1", 200, 1)

	// A withdrawn key: the first request after a minute starts the fetch.
	i.publish(assertions, "a2")
	s.clock.forward(2 * time.Second)
	if r := s.get(s.fresh("a1")); r.status != 200 {
		t.Errorf("while the set is fetched again: %d", r.status)
	}
	i.awaitFetches(2)
	s.awaitStatus("a2", 200)
	s.awaitStatus("a1", 401)
	s.send("GET", "/", bearer(i.token(nil))...)
	if i.fetches(tokens) != 1 {
		t.Error("the keys of access tokens are another set")
	}
}

// awaitStatus waits until an assertion of the key is answered so.
func (s *service) awaitStatus(kid string, status int) {
	s.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		r := s.get(s.fresh(kid))
		if r.status == status {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("an assertion of %s still answers %d", kid, r.status)
		}
	}
}

// A key that is not known is fetched for at once, by one request for all, and
// then not again for a while: who asks may be a stranger.
func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	s.is("at first", "a1", 200, 1)
	i.publish(assertions, "a1", "a2") // another gateway
	if got := s.statuses(20, "a2"); got[200] != 20 || i.fetches(assertions) != 2 {
		t.Errorf("%v with %d fetches", got, i.fetches(assertions))
	}
	if got := s.statuses(20, "nobody's"); got[401] != 20 || i.fetches(assertions) != 2 {
		t.Errorf("soon after a fetch: %v with %d fetches", got, i.fetches(assertions))
	}
	s.is("meanwhile", "a1", 200, 2)
	s.clock.forward(6 * time.Second)
	if got := s.statuses(20, "nobody's"); got[401] != 20 || i.fetches(assertions) != 3 {
		t.Errorf("after the pause: %v with %d fetches", got, i.fetches(assertions))
	}
	i.publish(assertions, "a1", "a2", "a3")
	s.is("within the pause", "a3", 401, 3)
	s.clock.forward(6 * time.Second)
	s.is("after it", "a3", 200, 4)
	// What can be told from the token alone costs no fetch.
	s.clock.forward(6 * time.Second)
	s.get(i.sign("JWT", "nobody's", i.asserted()))
	s.get("x.y.z")
	s.is("after what is no assertion", "a1", 200, 4)
}

// While Bulwark is away, keys serve for five minutes. After that the answer is
// 503, not 401, and one fetch is tried in a while.
func TestIssuerAway(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	s.is("at first", "a1", 200, 1)
	away := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "away", http.StatusBadGateway) }
	i.set(func() { i.answer = away })
	s.clock.forward(61 * time.Second)
	for range 50 { // each sees that the set is due; all together try once
		if r := s.get(s.fresh("a1")); r.status != 200 {
			t.Fatalf("within five minutes: %d", r.status)
		}
	}
	i.awaitFetches(2)
	if r := s.get(s.fresh("new")); r.status != 503 && r.status != 401 {
		t.Errorf("a key that cannot be told: %d", r.status)
	}
	s.awaitStatus("new", 503)
	if n := i.fetches(assertions); n != 2 {
		t.Errorf("%d fetches while Bulwark is away", n)
	}
	s.clock.forward(4*time.Minute - 2*time.Second) // the set is 4:59 old
	s.awaitStatus("a1", 200)
	s.clock.forward(10 * time.Second)
	r := s.get(s.fresh("a1"))
	if r.status != 503 || r.header.Get("Retry-After") == "" || strings.Contains(r.body, i.URL) {
		t.Errorf("after five minutes: %d %v %s", r.status, r.header, r.body)
	}
	tried := i.fetches(assertions)
	if got := s.statuses(20, "a1"); got[503] != 20 || i.fetches(assertions) != tried {
		t.Errorf("soon after: %v with %d more fetches", got, i.fetches(assertions)-tried)
	}
	i.set(func() { i.answer = nil })
	s.clock.forward(6 * time.Second)
	s.is("when it is back", "a1", 200, tried+1)
}

// What is no key set is no reason to forget the one that there is, and a set
// is not read without end.
func TestBadSets(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte(" "), 1<<20)
	for name, answer := range map[string]http.HandlerFunc{
		"an error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"not JSON":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"no set":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(big)
			_, _ = io.WriteString(w, `{"keys":[]}`)
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"keys":`)
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			s := newService(t, i, nil)
			i.set(func() { i.answer = answer })
			s.is("at first", "a1", 503, 1)
			i.set(func() { i.answer = nil })
			s.clock.forward(6 * time.Second)
			s.is("then", "a1", 200, 2)
			i.set(func() { i.answer = answer })
			s.clock.forward(6 * time.Second)
			s.is("for another key", "a2", 503, 3)
			s.is("for the one that is known", "a1", 200, 3)
		})
	}
}

// A set may hold more than what is for us: those keys verify nothing, and do
// not spoil the others.
func TestOtherKeys(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	var set struct {
		Keys []any `json:"keys"`
	}
	for kid, change := range map[string]map[string]any{
		"a1": nil, "other alg": {"alg": "ES384"}, "no alg": {"alg": nil}, "off the curve": {"x": "AAAA"},
		"new kind": {"kty": "AKP", "alg": "ML-DSA-65"}, "no kind": {"kty": nil}, "kid as a number": {"kid": 7}, "private": {"d": "AAAA"},
		"encryption": {"use": "enc"},
	} {
		var k map[string]any
		b, err := jose.JSONWebKey{Key: &i.key(kid).PublicKey, KeyID: kid, Algorithm: "ES256", Use: "sig"}.MarshalJSON()
		must(t, err)
		must(t, json.Unmarshal(b, &k))
		set.Keys = append(set.Keys, with(k, change))
	}
	set.Keys = append(set.Keys,
		jose.JSONWebKey{Key: []byte("shared"), KeyID: "shared", Algorithm: "HS256"}, jose.JSONWebKey{Key: []byte("shared"), KeyID: "shared2", Algorithm: "ES256"},
		jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "p384", Algorithm: "ES256"}, nil, 1, "x")
	b, err := json.Marshal(set)
	must(t, err)
	i.set(func() { i.sets[assertions] = b })
	s := newService(t, i, nil)
	for _, kid := range []string{"other alg", "no alg", "off the curve", "new kind", "no kind", "private", "encryption"} {
		s.refused(kid, s.get(s.fresh(kid)))
	}
	for _, kid := range []string{"shared", "shared2"} {
		s.refused(kid, s.get(macToken(t, []byte("shared"), kid, i.asserted())))
		s.refused(kid+" as ES256", s.get(i.sign("bulwark-assertion+jwt", kid, i.asserted())))
	}
	s.refused("p384", s.get(sign(t, p384, map[string]any{"alg": "ES256", "typ": "bulwark-assertion+jwt", "kid": "p384"}, i.asserted())))
	if r := s.get(s.fresh("a1")); r.status != 200 {
		t.Errorf("the good key: %d", r.status)
	}
}

// A redirect is not followed: the issuer's own address answers, or nothing.
func TestNoRedirects(t *testing.T) {
	t.Parallel()
	i, evil := newIssuer(t), newIssuer(t)
	i.set(func() {
		i.answer = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, evil.URL+r.URL.Path, http.StatusFound)
		}
	})
	follows := i.Client() // httptest's clients trust each other's servers, and follow
	s := newService(t, i, func(c *sdk.VerifierConfig) { c.HTTP = follows })
	if r := s.get(evil.sign("bulwark-assertion+jwt", "a1", i.asserted())); r.status != 503 {
		t.Errorf("answered %d %s", r.status, r.body)
	}
	if evil.fetches(assertions) != 0 {
		t.Error("the redirect was followed")
	}
	if follows.CheckRedirect != nil {
		t.Error("the client that was handed in is changed")
	}
}

// One who gives up waiting for keys does not take them from the others.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	hold := make(chan struct{})
	i.set(func() { i.holding = hold })
	s := newService(t, i, nil)
	a := s.fresh("a1")
	impatient, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	req, err := http.NewRequestWithContext(impatient, "GET", s.URL+"/documents/roadmap", nil)
	must(t, err)
	req.Header.Set(sdk.AssertionHeader, a)
	go func() {
		res, err := s.Client().Do(req)
		if err == nil {
			_ = res.Body.Close()
		}
		first <- err
	}()
	i.awaitFetches(1)
	giveUp()
	if err := <-first; err == nil {
		t.Error("the first did not give up")
	}
	second := make(chan reply, 1)
	go func() { second <- s.get(a) }()
	close(hold)
	if r := <-second; r.status != 200 || i.fetches(assertions) != 1 {
		t.Errorf("the second: %d with %d fetches", r.status, i.fetches(assertions))
	}
}

// A request waits for the keys no longer than its own context allows, and the
// fetch itself ends after ten seconds: the clock here is synctest's.
func TestFetchEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stuck := &http.Client{Transport: silence{}}
		v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: "https://auth.example.com", Audience: audience, HTTP: stuck})
		must(t, err)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		r := httptest.NewRequest("GET", "/documents/roadmap", nil)
		r.Header.Set(sdk.AssertionHeader, sign(t, key, map[string]any{"alg": "ES256", "typ": "bulwark-assertion+jwt", "kid": "k"}, map[string]any{}))
		began := time.Now()
		if _, err := v.Verify(r); !errors.Is(err, sdk.ErrUnavailable) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if _, err := v.Verify(r); !errors.Is(err, sdk.ErrUnavailable) || time.Since(began) != 10*time.Second {
			t.Errorf("the next one within the pause: %v after %v", err, time.Since(began))
		}
	})
}

// silence is a network on which nothing answers.
type silence struct{}

// RoundTrip implements [http.RoundTripper].
func (silence) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
