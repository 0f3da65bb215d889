package sdk_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"bulwark.example/sdk"
)

// asking is a service that asks about the tokens that it is sent, and an issuer
// that knows which were ended.
type asking struct {
	*service
	key *ecdsa.PrivateKey // the service's

	mu        sync.Mutex
	ended     map[string]bool // by token
	questions []call
}

func newAsking(t testing.TB) *asking {
	t.Helper()
	a := &asking{ended: map[string]bool{}}
	i := newIssuer(t)
	i.set(func() { i.tells = a.tell })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a.key = key
	a.service = newService(t, i, func(c *sdk.VerifierConfig) {
		client, err := sdk.NewClient(sdk.ClientConfig{Issuer: i.URL, ClientID: notes, Key: privateJWK(t, key, "k1"), HTTP: i.Client(), Now: c.Now})
		must(t, err)
		c.Introspect = client
	})
	return a
}

func (a *asking) tell(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a client that is gone sent what it sent
	form, _ := url.ParseQuery(string(body))
	a.mu.Lock()
	a.questions = append(a.questions, call{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(body)})
	active := !a.ended[form.Get("token")]
	a.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]bool{"active": active}) // the asker may be gone
}

// end revokes a token, or takes that back.
func (a *asking) end(token string, ended bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended[token] = ended
}

// token is a good one, and another each time.
func (a *asking) token() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return a.issuer.token(map[string]any{"jti": fmt.Sprintf("%x", id), "exp": a.clock.now().Add(5 * time.Minute).Unix()})
}

// is holds the answer to a request with the token to a status, and the number
// of questions so far to n.
func (a *asking) is(what, token string, status, n int) {
	a.t.Helper()
	before := a.calls.Load()
	r := a.send("GET", "/invoices/1", bearer(token)...)
	if r.status != status {
		a.t.Errorf("%s: answered %d %.80s, want %d", what, r.status, r.body, status)
	}
	if status == http.StatusUnauthorized {
		a.refused(what, r)
	}
	if status == http.StatusServiceUnavailable && (r.header.Get("Retry-After") == "" || r.header.Get("WWW-Authenticate") != "" || r.body != "try again later\n") {
		a.t.Errorf("%s: answered %v %.80q", what, r.header, r.body)
	}
	if reached := a.calls.Load() - before; reached != 0 && status != 200 {
		a.t.Errorf("%s: the handler was reached", what)
	}
	if got := a.issuer.fetches(introspect); got != n {
		a.t.Errorf("%s: asked %d times, want %d", what, got, n)
	}
}

// A token that was ended is refused, and the question says whose it is.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	good, ended := a.token(), a.token()
	a.end(ended, true)
	a.is("a good one", good, 200, 1)
	a.is("an ended one", ended, 401, 2)
	ids := map[string]bool{}
	for k, token := range []string{good, ended} {
		if q := a.questions[k]; q.path != introspect {
			t.Errorf("%+v", q)
		}
		got, jti := form(t, a.issuer.URL, a.questions[k], a.key, a.clock.now())
		if diff := cmp.Diff(url.Values{"token": {token}}, got); diff != "" {
			t.Error(diff)
		}
		ids[jti] = true
	}
	if len(ids) != 2 {
		t.Error("a client assertion's id is used twice")
	}
	// What is refused anyway, and what the gateway says, costs no question.
	for name, change := range map[string]map[string]any{
		"expired": {"exp": a.clock.now().Add(-time.Second).Unix()}, "another service's": {"aud": other}, "bound": {"cnf": map[string]string{"jkt": "x"}},
		"four actors": {"act": actors(4)},
	} {
		a.is(name, a.issuer.token(change), 401, 2)
	}
	a.is("a stranger's", newIssuer(t).token(map[string]any{"iss": a.issuer.URL}), 401, 2)
	a.is("no token", "x.y.z", 401, 2)
	a.saw(a.get(a.issuer.assertion(nil)))
	if n := a.issuer.fetches(introspect); n != 2 {
		t.Errorf("an assertion is asked about: %d questions", n)
	}
}

// actors is a chain of n.
func actors(n int) any {
	var act map[string]any
	for range n {
		next := map[string]any{"sub": billing}
		if act != nil {
			next["act"] = act
		}
		act = next
	}
	return act
}

// An answer counts for less than five seconds, from when it was asked for, and
// for its own token alone.
func TestAnswersAreKept(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	one, two := a.token(), a.token()
	a.is("one", one, 200, 1)
	a.is("one again", one, 200, 1)
	a.end(one, true)
	a.end(two, true)
	a.clock.forward(5*time.Second - time.Nanosecond)
	a.is("two, which was ended", two, 401, 2)
	a.is("one, within five seconds", one, 200, 2)
	a.clock.forward(time.Nanosecond)
	a.is("one, after five seconds", one, 401, 3)
	a.is("one again, after five seconds", one, 401, 3)
	a.end(one, false) // as when a service is installed again
	a.clock.forward(5 * time.Second)
	a.is("one, which is good again", one, 200, 4)
	// A clock that is set back makes no answer count for longer.
	a.end(one, true)
	a.clock.forward(-20 * time.Second)
	a.is("one, when its answer is of the future", one, 401, 5)
	// What an answer says may have been so when the question left, and no later.
	slow, release := a.token(), a.hold()
	done := make(chan reply, 1)
	go func() { done <- a.send("GET", "/invoices/1", bearer(slow)...) }()
	a.awaitQuestions(6)
	a.clock.forward(3 * time.Second)
	release()
	if r := <-done; r.status != 200 {
		t.Errorf("a slow answer: %d %s", r.status, r.body)
	}
	a.end(slow, true)
	a.clock.forward(2 * time.Second)
	a.is("five seconds after a slow question", slow, 401, 7)
}

// hold makes the issuer's answers wait until release is called, or the test ends.
func (a *asking) hold() (release func()) {
	hold := make(chan struct{})
	a.issuer.set(func() { a.issuer.holding = hold })
	release = sync.OnceFunc(func() { close(hold) })
	a.t.Cleanup(release)
	return release
}

// awaitQuestions waits until n questions have arrived at the issuer.
func (a *asking) awaitQuestions(n int) {
	a.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(4 * time.Second); a.issuer.fetches(introspect) < n; <-tick.C {
		if time.Now().After(end) {
			a.t.Fatalf("%d questions, waiting for %d", a.issuer.fetches(introspect), n)
		}
	}
}

// While Bulwark cannot be asked, a service that wants to know takes no token:
// 503, for the caller did nothing wrong. What is no answer is not kept.
func TestIntrospectionAway(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	evil := newIssuer(t)
	token, n := a.token(), 0
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"stale": {503, `{"error":"temporarily_unavailable"}`}, "client refused": {401, `{"error":"invalid_client"}`}, "an error that is active": {200, `{"error":"invalid_client","active":true}`},
		"active with 500": {500, `{"active":true}`}, "inactive with 400": {400, `{"active":false}`}, "active with 201": {201, `{"active":true}`},
		"a page": {502, `<html>`}, "nothing": {200, ``}, "no member": {200, `{}`}, "null": {200, `{"active":null}`}, "text": {200, `{"active":"true"}`},
		"twice": {200, `{"active":false,"active":true}`}, "in capitals": {200, `{"Active":true}`}, "cut": {200, `{"active":true`}, "no object": {200, `true`},
		"a redirect": {307, ``},
	} {
		a.issuer.set(func() {
			a.issuer.tells = func(w http.ResponseWriter, r *http.Request) {
				if answer.status == 307 {
					http.Redirect(w, r, evil.URL+introspect, answer.status)
					return
				}
				w.WriteHeader(answer.status)
				_, _ = io.WriteString(w, answer.body) // the asker may be gone
			}
		})
		n++
		a.is(name, token, 503, n)
	}
	if evil.fetches(introspect) != 0 {
		t.Error("a redirect was followed, with the token")
	}
	a.issuer.set(func() { a.issuer.tells = a.tell })
	a.is("when it is back", token, 200, n+1)

	a.saw(a.get(a.fresh("a1"))) // which fetches the gateway's keys
	a.issuer.Close()
	a.is("an answer from before", token, 200, n+1)
	a.is("another token", a.token(), 503, n+1)
	a.clock.forward(5 * time.Second)
	a.is("an answer that is too old", token, 503, n+1)
	a.saw(a.get(a.fresh("a1"))) // the gateway's word needs no question
}

// Many requests at once ask once about each token, and each gets the answer
// about its own.
func TestQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.is("so that keys are there", a.token(), 200, 1)
	good, ended := a.token(), a.token()
	a.end(ended, true)
	release := a.hold()
	const each = 20
	var mu sync.Mutex
	var wg sync.WaitGroup
	before, got := a.began.Load(), map[string]int{}
	for range each {
		for name, token := range map[string]string{"good": good, "ended": ended} {
			wg.Go(func() {
				r := a.send("GET", "/invoices/1", bearer(token)...)
				mu.Lock()
				defer mu.Unlock()
				got[fmt.Sprint(name, " ", r.status)]++
			})
		}
	}
	// The answers wait until all requests are there and both questions are asked.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(4 * time.Second); a.began.Load()-before < 2*each; <-tick.C {
		if time.Now().After(end) {
			t.Errorf("%d requests arrived, want %d", a.began.Load()-before, 2*each)
			break
		}
	}
	a.awaitQuestions(3)
	release()
	wg.Wait()
	if diff := cmp.Diff(map[string]int{"good 200": each, "ended 401": each}, got); diff != "" || a.issuer.fetches(introspect) != 3 {
		t.Errorf("%d questions about two tokens; %s", a.issuer.fetches(introspect)-1, diff)
	}
}

// Nobody waits for an answer longer than five seconds or than the own request
// lives: the clock here is synctest's.
func TestQuestionEnds(t *testing.T) {
	t.Parallel()
	keys := newIssuer(t)
	const auth = "https://auth.example.com"
	token := keys.token(map[string]any{"iss": auth, "iat": 1, "exp": int64(1 << 40)})
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	set := marshal(t, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &keys.key("t1").PublicKey, KeyID: "t1", Algorithm: "ES256"}}})
	synctest.Test(t, func(t *testing.T) {
		network := &deaf{set: set}
		half := &http.Client{Transport: network}
		client, err := sdk.NewClient(sdk.ClientConfig{Issuer: auth, ClientID: notes, Key: privateJWK(t, k, "k1"), HTTP: half})
		must(t, err)
		v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: auth, Audience: audience, HTTP: half, Introspect: client})
		must(t, err)
		r := httptest.NewRequest("GET", "/documents/roadmap", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		began := time.Now()
		_, err = v.Verify(r)
		if !errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, sdk.ErrUnauthenticated) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if strings.Contains(fmt.Sprintf("%v %+v %+v", err, v, client), token[:20]) {
			t.Error("a token is printed")
		}
		began = time.Now()
		if _, err := v.Verify(r.WithContext(canceled(t))); !errors.Is(err, sdk.ErrUnavailable) || time.Since(began) != 0 {
			t.Errorf("one who gave up: %v after %v", err, time.Since(began))
		}
		// The question goes on for the others.
		if _, err := v.Verify(r); !errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, context.Canceled) || time.Since(began) != 5*time.Second {
			t.Errorf("one who waits for the same question: %v after %v", err, time.Since(began))
		}
		if n := network.questions.Load(); n != 2 {
			t.Errorf("%d questions, want 2", n)
		}
	})
}

// deaf is a network on which key sets arrive and nothing else is answered.
type deaf struct {
	set       string
	questions atomic.Int64
}

// RoundTrip implements [http.RoundTripper].
func (d *deaf) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == tokens {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(d.set)), Request: r}, nil
	}
	d.questions.Add(1)
	return silence{}.RoundTrip(r)
}

// The client is this service's own, or every token would be said to be ended,
// to somebody else.
func TestIntrospectionConfig(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	good := sdk.ClientConfig{Issuer: "https://auth.example.com", ClientID: notes, Key: privateJWK(t, key, "k1")}
	for name, c := range map[string]struct {
		change func(*sdk.ClientConfig)
		taken  bool
	}{
		"its own":           {func(*sdk.ClientConfig) {}, true},
		"another issuer's":  {func(c *sdk.ClientConfig) { c.Issuer = "https://evil.example.com" }, false},
		"another service's": {func(c *sdk.ClientConfig) { c.ClientID = strings.TrimPrefix(billing, "service:") }, false},
	} {
		cfg := good
		c.change(&cfg)
		client, err := sdk.NewClient(cfg)
		must(t, err)
		if got := !refusedConfig(sdk.VerifierConfig{Issuer: good.Issuer, Audience: audience, Introspect: client}); got != c.taken {
			t.Errorf("%s: taken: %v", name, got)
		}
	}
}
