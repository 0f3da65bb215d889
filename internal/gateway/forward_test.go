package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/web"
)

// Every refusal by its status, and what it says.
func TestRefusals(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for _, c := range []struct {
		target, token string
		status        int
		challenge     string
		want          map[string]any
	}{
		{"/open/x", "", 401, `Bearer realm="bulwark"`, map[string]any{"reason": "missing"}},
		{"/open/x", "Bearer other", 401, `Bearer realm="bulwark", error="invalid_token"`, map[string]any{}},
		{"/documents/seen", credential, 403, "", map[string]any{"reason": "no_relation", "decision_id": "decision-1"}},
		{"/documents/hidden", credential, 404, "", map[string]any{}},
		{"/documents/a%20b", credential, 404, "", map[string]any{}},
		{"/nowhere", credential, 404, "", map[string]any{}},
		{"/documents/broken", credential, 503, "", map[string]any{}}, // the zero verdict refuses
		{"/documents/unwritable", credential, 503, "", map[string]any{"reason": "audit_unavailable"}},
	} {
		lines := "GET " + c.target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
		if c.token != "" {
			lines += "Authorization: " + c.token + "\r\n"
		}
		out := h.send(lines + "\r\n")
		if len(out) != 1 || out[0].Status != c.status || out[0].Header.Get("WWW-Authenticate") != c.challenge {
			t.Errorf("%s: %+v", c.target, out)
			continue
		}
		var doc map[string]any
		if err := json.Unmarshal([]byte(out[0].Body), &doc); err != nil {
			t.Errorf("%s: %v: %s", c.target, err, out[0].Body)
		}
		c.want["status"], c.want["title"] = float64(c.status), http.StatusText(c.status)
		c.want["type"], c.want["detail"] = "urn:bulwark:problem:"+kindOf(c.status).String(), doc["detail"]
		c.want["request_id"] = out[0].Header.Get("Bulwark-Request-Id")
		if diff := cmp.Diff(c.want, doc); diff != "" {
			t.Errorf("%s: %s", c.target, diff)
		}
		if err := web.ReadProblem(c.status, []byte(out[0].Body)); fault.KindOf(err) != kindOf(c.status) || fault.Public(err) != doc["detail"] {
			t.Errorf("%s: our own client reads %v", c.target, err)
		}
		if ct := out[0].Header.Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("%s: content type %q", c.target, ct)
		}
	}
	if got := h.upstream.requests(); len(got) != 0 {
		t.Errorf("the upstream got %+v", got)
	}
	// Two credentials (item 21): the guard sees both.
	out := h.send("GET /open/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + credential + "\r\nAuthorization: Bearer other\r\n\r\n")
	if len(out) != 1 || out[0].Status != 401 {
		t.Errorf("two credentials: %+v", out)
	}
}

// A hidden object, an absent one, an impossible one and a path without route
// are told apart by nothing but the request's id.
func TestNotFoundIsOneAnswer(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	var first answer
	for i, target := range []string{"/documents/hidden", "/documents/absent", "/documents/a%20b", "/nowhere"} {
		a := h.get(target)
		id := a.Header.Get("Bulwark-Request-Id")
		if len(id) != 26 {
			t.Errorf("%s: id %q", target, id)
		}
		a.Body = strings.ReplaceAll(a.Body, id, "ID")
		a.Header.Set("Bulwark-Request-Id", "ID")
		a.Header.Del("Date")
		if i == 0 {
			first = a
		}
		if diff := cmp.Diff(first, a); diff != "" || a.Status != 404 {
			t.Errorf("%s: %d %s", target, a.Status, diff)
		}
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for _, m := range []string{"POST", "HEAD", "get", "DELETE", "X"} {
		out := h.send(m + " /documents/roadmap HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if len(out) != 1 || out[0].Status != 405 || out[0].Header.Get("Allow") != "GET, PUT" {
			t.Errorf("%s: %+v", m, out)
		}
		h.nothing(m)
	}
	if r := h.events.reasons(); strings.Count(r, "method_not_allowed") != 5 {
		t.Errorf("events: %s", r)
	}
}

// Item 31: the guard is asked about every request as it is, whatever the
// credential was good for before.
func TestNothingIsRememberedBetweenRoutes(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	one := func(method, target string) string {
		return method + " " + target + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nAuthorization: " + credential + "\r\n"
	}
	out := h.send(one("GET", "/documents/roadmap") + "\r\n" + one("PUT", "/documents/roadmap") + "\r\n" + one("GET", "/documents/seen") + "\r\n" +
		one("GET", "/admin") + "\r\n" + one("GET", "/open/x") + "Connection: close\r\n\r\n")
	var statuses []int
	for _, a := range out {
		statuses = append(statuses, a.Status)
	}
	if diff := cmp.Diff([]int{200, 200, 403, 404, 200}, statuses); diff != "" {
		t.Error(diff)
	}
	type asked struct{ Route, Method, Path, Object, Relation, Audience, Upstream string }
	var got []asked
	ids := map[string]bool{}
	for _, q := range h.guard.requests() {
		a := asked{Route: q.Route, Method: q.Method, Path: q.Path, Audience: q.Audience, Upstream: q.Upstream}
		if q.Require != nil {
			a.Object, a.Relation = q.Require.Object, q.Require.Relation
		}
		got = append(got, a)
		ids[q.RequestID] = true
		if q.Source.String() != "127.0.0.1" || q.Action != "request" {
			t.Errorf("%+v", q)
		}
	}
	urn := "urn:bulwark:test:gateway"
	want := []asked{
		{"read", "GET", "/documents/roadmap", "document:roadmap", "can_view", urn, "svc-demo"},
		{"write", "PUT", "/documents/roadmap", "document:roadmap", "can_view", urn, "svc-demo"},
		{"read", "GET", "/documents/seen", "document:seen", "can_view", urn, "svc-demo"},
		{"admin", "GET", "/admin", "document:admin", "can_administrate", urn, "svc-demo"},
		{"open", "GET", "/open/x", "", "", urn, "svc-demo"},
	}
	if diff := cmp.Diff(want, got); diff != "" || len(ids) != len(want) {
		t.Errorf("%s, %d ids", diff, len(ids))
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	head := "POST /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + credential + "\r\n"
	for _, c := range []struct {
		name, rest string
		status     int
	}{
		{"fits", "Content-Length: 10\r\n\r\n0123456789", 200},
		{"fits in chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200},
		{"empty", "Content-Length: 0\r\n\r\n", 200},
		{"too long", "Content-Length: 11\r\n\r\n0123456789a", 413},
		{"too long in chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", 413},
		{"expected and fits", "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n0123456789", 100},
		{"expected and too long", "Expect: 100-continue\r\nContent-Length: 11\r\n\r\n", 413},
		{"unknown expectation", "Expect: magic\r\nContent-Length: 0\r\n\r\n", 417},
		{"broken chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\nzz\r\n", 400},
	} {
		out := h.send(head + c.rest)
		if len(out) == 0 || out[0].Status != c.status {
			t.Errorf("%s: %+v", c.name, out)
		}
	}
	whole := 0
	for _, r := range h.upstream.requests() {
		if r.Err == nil && r.Body != "0123456789" && r.Body != "" {
			t.Errorf("a cut body looks whole: %+v", r)
		}
		if r.Err == nil {
			whole++
		}
	}
	if whole != 4 {
		t.Errorf("%d requests reached the upstream whole", whole)
	}
	for _, a := range h.send(head + "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n0123456789") {
		if a.Status != 100 && a.Status != 200 {
			t.Errorf("%+v", a)
		}
	}
}

// A body is bounded over HTTP/2 as well, with and without content-length.
func TestBodies2(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	c := &http.Client{Transport: h.http2()}
	for _, body := range []io.Reader{strings.NewReader("0123456789a"), io.MultiReader(strings.NewReader("0123456789a"))} {
		req, _ := http.NewRequest("POST", "https://"+h.addr+"/small", body)
		req.Header.Set("Authorization", credential)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 413 || res.ProtoMajor != 2 {
			t.Errorf("%s %d", res.Proto, res.StatusCode)
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	var waiting atomic.Int32
	h := build(t, func(_ http.ResponseWriter, r *http.Request) {
		waiting.Add(1)
		<-r.Context().Done()
		waiting.Add(-1)
	}, nil)
	begin := time.Now()
	if a := h.get("/quick"); a.Status != 504 || !strings.Contains(a.Body, "upstream_timeout") {
		t.Errorf("%+v", a)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	eventually(t, "the upstream is told", func() bool { return waiting.Load() == 0 })
	// A client that never sends its body cannot hold a request either.
	out := h.send("POST /quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + credential + "\r\nContent-Length: 5\r\n\r\nab")
	if len(out) != 1 || out[0].Status != 504 {
		t.Errorf("%+v", out)
	}
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	started, gone := make(chan struct{}), make(chan struct{})
	h := build(t, func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(gone)
	}, nil)
	c := h.dial("http/1.1")
	_, _ = fmt.Fprintf(c, "GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n", credential)
	<-started
	_ = c.Close()
	<-gone
}

func TestUpstreamDown(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	h.upstream.Close()
	if a := h.get("/open/x"); a.Status != 502 || !strings.Contains(a.Body, "upstream_unreachable") || strings.Contains(a.Body, "127.0.0.1") {
		t.Errorf("%+v", a)
	}
}

// An upstream that breaks off is not taken for one that has finished.
func TestUpstreamBreaksOff(t *testing.T) {
	t.Parallel()
	h := build(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, nil)
	c := h.dial("http/1.1")
	_, _ = fmt.Fprintf(c, "GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n", credential)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return // cut before the headers left
	}
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the client took %q for the whole answer", body)
	}
}

// An answer without end is passed on as it comes.
func TestStreaming(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	h := build(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-next
		_, _ = io.WriteString(w, "data: 2\n\n")
	}, nil)
	c := h.dial("http/1.1")
	_, _ = fmt.Fprintf(c, "GET /open/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: %s\r\n\r\n", credential)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 9)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "data: 1\n\n" {
		t.Fatalf("%q %v", first, err)
	}
	close(next)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "data: 2\n\n" {
		t.Errorf("%q %v", rest, err)
	}
}

// Request ids are ours, random, and the same for client, guard and upstream.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	seen := map[string]bool{}
	for range 5 {
		a := h.get("/open/x", "Bulwark-Request-Id: 00000000000000000000000000", "X-Request-Id: 7")
		id := a.Header.Get("Bulwark-Request-Id")
		reqs, asked := h.upstream.requests(), h.guard.requests()
		if seen[id] || len(id) != 26 || id[0] == '0' && strings.Trim(id, "0") == "" ||
			reqs[len(reqs)-1].Header.Get("Bulwark-Request-Id") != id || asked[len(asked)-1].RequestID != id {
			t.Errorf("%q", id)
		}
		seen[id] = true
	}
}
