package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/route"
)

func (h *house) http2() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.ca.pool, ServerName: "localhost"}, ForceAttemptHTTP2: true}
}

// TLS 1.3 only, hybrid key exchange, both protocols (DESIGN rule 9).
func TestListener(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	cfg := &tls.Config{RootCAs: h.ca.pool, ServerName: "localhost", MaxVersion: tls.VersionTLS12}
	if c, err := tls.Dial("tcp", h.addr, cfg); err == nil {
		_ = c.Close()
		t.Error("TLS 1.2 is accepted")
	}
	s := h.dial("h2").ConnectionState()
	if s.Version != tls.VersionTLS13 || s.CurveID != tls.X25519MLKEM768 || s.NegotiatedProtocol != "h2" {
		t.Errorf("version %x, key exchange %v, protocol %q", s.Version, s.CurveID, s.NegotiatedProtocol)
	}
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: "+credential+"\r\n\r\n")
	_, _ = io.ReadAll(c) // until the server closes
	h.nothing("clear text")
}

// load puts one upstream behind the open route and asks it once.
func (h *house) ask(up Upstream) answer {
	h.t.Helper()
	up.Name, up.Service = "demo", "svc-demo"
	if err := h.gateway.Load(h.t.Context(), routes(), []Upstream{up}); err != nil {
		h.t.Fatal(err)
	}
	return h.get("/open/x")
}

func TestUpstreamTLS(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	ca, other := newAuthority(t), newAuthority(t)
	serve := func(change func(*tls.Config)) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				w.Header().Set("X-Client", r.TLS.PeerCertificates[0].Subject.CommonName)
			}
		}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue()}}
		if change != nil {
			change(s.TLS)
		}
		s.StartTLS()
		s.Config.ErrorLog = h.gateway.quiet
		t.Cleanup(s.Close)
		return s
	}
	plain := serve(nil)
	mutual := serve(func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool })
	old := serve(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	good, bad := ca.issue(), other.issue()
	port := plain.URL[strings.LastIndex(plain.URL, ":"):]
	for _, c := range []struct {
		name   string
		up     Upstream
		status int
	}{
		{"private CA", Upstream{URL: plain.URL, CA: ca.pool}, 200},
		{"by name", Upstream{URL: "https://localhost" + port, CA: ca.pool}, 200},
		{"another CA", Upstream{URL: plain.URL, CA: other.pool}, 502},
		{"the system's roots", Upstream{URL: plain.URL}, 502},
		{"another name", Upstream{URL: plain.URL, CA: ca.pool, ServerName: "elsewhere.example"}, 502},
		{"TLS 1.2", Upstream{URL: old.URL, CA: ca.pool}, 502},
		{"certificate wanted", Upstream{URL: mutual.URL, CA: ca.pool}, 502},
		{"certificate of another CA", Upstream{URL: mutual.URL, CA: ca.pool, Certificate: &bad}, 502},
		{"certificate shown", Upstream{URL: mutual.URL, CA: ca.pool, Certificate: &good}, 200},
	} {
		if a := h.ask(c.up); a.Status != c.status || (c.name == "certificate shown") != (a.Header.Get("X-Client") == "leaf") {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
}

func TestPlaintextIsForLoopback(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.1:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		"10.0.0.1:80": false, "192.0.2.1:80": false, "[::ffff:10.0.0.1]:80": false, "169.254.169.254:80": false,
		"[fe80::1%lo]:80": false, "0.0.0.0:80": false, "[::]:80": false, "": false, "localhost:80": false,
	} {
		if err := loopbackOnly("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
	// The check stands in the transport's own dialer, where a name has become an address.
	up, err := newUpstream(Upstream{Name: "u", Service: "s", URL: "http://localhost:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.transport.DialContext(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, errOffLoopback) {
		t.Errorf("off loopback: %v", err)
	}
	h := build(t, nil, nil)
	if a := h.ask(Upstream{URL: strings.Replace(h.upstream.URL, "127.0.0.1", "localhost", 1)}); a.Status != 200 {
		t.Errorf("localhost by name: %+v", a)
	}
}

// A plaintext exception is recorded when it comes into force, counted, and
// ends by itself, also on connections that are open.
func TestPlaintextException(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := make(chan time.Time, 1)
	clock <- now
	h := build(t, nil, func(c *Config) {
		c.Now = func() time.Time { v := <-clock; clock <- v; return v }
	})
	up := Upstream{URL: h.upstream.URL, Plaintext: &Plaintext{Reason: "moves to TLS in spring", Until: now.Add(time.Minute)}}
	if a := h.ask(up); a.Status != 200 {
		t.Fatalf("%+v", a)
	}
	<-clock
	clock <- now.Add(time.Minute)
	for range 3 {
		if a := h.get("/open/x"); a.Status != 502 || !strings.Contains(a.Body, "upstream_plaintext_expired") {
			t.Errorf("after the end: %+v", a)
		}
	}
	if got := h.gateway.PlaintextCounts()["demo"]; got != (Plain{1, 3}) {
		t.Errorf("counts %+v", got)
	}
	if got := h.events.reasons(); got != "upstream.plaintext, upstream.plaintext_expired" {
		t.Errorf("events: %s", got)
	}
	for _, e := range h.events.list() {
		if e.Class != ledger.System || e.Detail["upstream"] != "demo" {
			t.Errorf("%+v", e)
		}
	}
	if n := len(h.upstream.requests()); n != 1 {
		t.Errorf("the upstream got %d requests", n)
	}
	// What cannot be recorded does not come into force.
	h.events.mu.Lock()
	h.events.err = fault.New(fault.Unavailable, "the disk is full")
	h.events.mu.Unlock()
	up.Name, up.Service, up.Plaintext = "demo", "svc-demo", &Plaintext{Reason: "again", Until: now.Add(time.Hour)}
	if err := h.gateway.Load(t.Context(), routes(), []Upstream{up}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("an unrecorded exception: %v", err)
	}
	if a := h.get("/open/x"); a.Status != 502 {
		t.Errorf("it is in force: %+v", a)
	}
}

func TestUpstreamRefuses(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	until := time.Now().Add(time.Hour)
	for want, up := range map[string]Upstream{
		"name":              {URL: "https://a", Service: "s", Name: ""},
		"service":           {URL: "https://a", Name: "u"},
		"https://host:port": {URL: "a:443", Name: "u", Service: "s"},
		"no path":           {URL: "https://a/base", Name: "u", Service: "s"},
		"must have no path": {URL: "https://a?x=1", Name: "u", Service: "s"},
		"have no path":      {URL: "https://x:y@a", Name: "u", Service: "s"},
		"be https":          {URL: "ftp://a", Name: "u", Service: "s"},
		"http is for":       {URL: "http://192.0.2.1", Name: "u", Service: "s"},
		"reason and an end": {URL: "http://a", Name: "u", Service: "s", Plaintext: &Plaintext{Until: until}},
		"a reason":          {URL: "http://a", Name: "u", Service: "s", Plaintext: &Plaintext{Reason: "x"}},
		"plaintext is set":  {URL: "https://a", Name: "u", Service: "s", Plaintext: &Plaintext{Reason: "x", Until: until}},
		"certificates":      {URL: "http://localhost", Name: "u", Service: "s", CA: ca.pool},
		"negative":          {URL: "https://a", Name: "u", Service: "s", MaxConns: -1},
	} {
		if _, err := newUpstream(up); fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%+v: %v; want %q", up, err, want)
		}
	}
	h := build(t, nil, nil)
	demo := Upstream{Name: "demo", URL: h.upstream.URL, Service: "s"}
	for want, load := range map[string]func() error{
		"twice":       func() error { return h.gateway.Load(t.Context(), routes(), []Upstream{demo, demo}) },
		"no upstream": func() error { return h.gateway.Load(t.Context(), routes(), nil) },
		"same requests": func() error {
			again := routes()[0]
			again.ID = "again"
			return h.gateway.Load(t.Context(), append(routes(), again), []Upstream{demo})
		},
	} {
		if err := load(); fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if a := h.get("/open/x"); a.Status != 200 {
		t.Errorf("a refused load changed something: %+v", a)
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Guard = nil }, func(c *Config) { c.Recorder = nil }, func(c *Config) { c.Now = nil },
		func(c *Config) { c.Logger = nil }, func(c *Config) { c.Audience = "" },
	} {
		cfg := h.gateway.cfg
		change(&cfg)
		if _, err := New(cfg); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// A reload changes what new requests see, and nothing for those on their way.
func TestReload(t *testing.T) {
	t.Parallel()
	arrived, finish := make(chan struct{}), make(chan struct{})
	h := build(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/open/slow" {
			close(arrived)
			<-finish
		}
		_, _ = io.WriteString(w, "old")
	}, nil)
	fresh := newUpstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "new") })
	slow := make(chan answer)
	go func() { slow <- h.get("/open/slow") }()
	<-arrived
	same := h.gateway.current.Load().upstreams["demo"]
	if err := h.gateway.Load(t.Context(), routes(), []Upstream{{Name: "demo", URL: h.upstream.URL, Service: "svc-demo"}}); err != nil {
		t.Fatal(err)
	}
	if h.gateway.current.Load().upstreams["demo"] != same {
		t.Error("an upstream that did not change lost its connections")
	}
	if err := h.gateway.Load(t.Context(), []route.Route{{ID: "only", Path: "/new", Methods: []string{"GET"}, Upstream: "demo"}},
		[]Upstream{{Name: "demo", URL: fresh.URL, Service: "svc-demo"}}); err != nil {
		t.Fatal(err)
	}
	if a := h.get("/new"); a.Status != 200 || a.Body != "new" {
		t.Errorf("the new route: %+v", a)
	}
	if a := h.get("/open/x"); a.Status != 404 {
		t.Errorf("the old route: %+v", a)
	}
	close(finish)
	if a := <-slow; a.Status != 200 || a.Body != "old" {
		t.Errorf("the request on its way: %+v", a)
	}
	eventually(t, "its connection is not kept", func() bool { return h.upstream.open() == 0 })
}

// Shutdown lets running requests finish, takes no new one, and is bounded.
func TestShutdown(t *testing.T) {
	t.Parallel()
	for _, bounded := range []bool{false, true} {
		t.Run(fmt.Sprintf("bounded %v", bounded), func(t *testing.T) {
			t.Parallel()
			arrived, finish := make(chan struct{}), make(chan struct{})
			h := build(t, func(w http.ResponseWriter, r *http.Request) {
				close(arrived)
				select {
				case <-finish:
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, "done")
			}, nil)
			slow := make(chan []answer)
			go func() {
				slow <- h.send("GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\n\r\n")
			}()
			<-arrived
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := make(chan error)
			go func() { ended <- h.gateway.Shutdown(ctx) }()
			eventually(t, "no new connection is taken", func() bool {
				c, err := net.Dial("tcp", h.addr)
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
			if bounded {
				cancel()
				if err := <-ended; fault.KindOf(err) != fault.Unavailable {
					t.Errorf("a cut shutdown: %v", err)
				}
				cut := time.Now()
				if out := <-slow; len(out) != 0 || time.Since(cut) > 10*time.Second {
					t.Errorf("the cut request: %+v after %v", out, time.Since(cut))
				}
			} else {
				close(finish)
				if out := <-slow; len(out) != 1 || out[0].Body != "done" {
					t.Errorf("the running request: %+v", out)
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			if err := <-h.served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}
