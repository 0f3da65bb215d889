package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/route"
)

// always allows at no cost: what is measured is the gateway's own work.
type always struct{ v guard.Verdict }

func (always) Saw(context.Context, *principal.Principal, string) {}

func (a always) Check(context.Context, *guard.Request) (guard.Verdict, *audit.Record) {
	return a.v, nil
}

func benchUpstream(b *testing.B) *httptest.Server {
	body := []byte(`{"id":"roadmap","title":"` + strings.Repeat("x", 150) + `"}`)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(body)
	}))
	b.Cleanup(s.Close)
	return s
}

func benchGateway(b *testing.B, upstream string) http.Handler {
	g, err := New(Config{
		Guard: always{guard.Verdict{Allowed: true, Identity: guard.Identity{
			Assertion: strings.Repeat("a", 700), Tenant: "00000000000000000000000000", Subject: "user:00000000000000000000000000", Scope: "documents",
		}}},
		Recorder: &events{}, Audience: "a", Now: time.Now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := g.Load(b.Context(), routes(), []Upstream{{Name: "demo", URL: upstream, Service: "s"}}); err != nil {
		b.Fatal(err)
	}
	return g
}

// benchBare is the yardstick: ReverseProxy with a tuned transport and a buffer pool.
func benchBare(b *testing.B, upstream string) http.Handler {
	target, err := url.Parse(upstream)
	if err != nil {
		b.Fatal(err)
	}
	return &httputil.ReverseProxy{
		Rewrite:    func(p *httputil.ProxyRequest) { p.SetURL(target); p.SetXForwarded() },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true},
		BufferPool: &bufferPool{},
	}
}

// benchReal has the real guard, with its audit log on the disk.
func benchReal(b *testing.B, tokens int) (http.Handler, []string) {
	w := newWorld(b)
	if err := w.gateway.Load(b.Context(), []route.Route{{
		ID: "read", Path: "/documents/{id}", Methods: []string{"GET"}, Upstream: "notes",
		Require: &route.Requirement{Application: "docs", Object: "document:{id}", Relation: "can_view", Visible: "can_view"},
	}}, []Upstream{{Name: "notes", URL: benchUpstream(b).URL, Service: w.service}}); err != nil {
		b.Fatal(err)
	}
	list := make([]string, tokens)
	for i := range list {
		list[i] = w.token("alice@acme", nil)
	}
	w.directory.Confirm()
	return w.gateway, list
}

// BenchmarkProxy measures over TLS 1.3 and HTTP/1.1, with clients and upstream
// in the same process: CPU of everything, for the ratio to be careful.
func BenchmarkProxy(b *testing.B) {
	plain := func(make func(*testing.B, string) http.Handler) func(*testing.B) (http.Handler, []string) {
		return func(b *testing.B) (http.Handler, []string) {
			return make(b, benchUpstream(b).URL), []string{strings.Repeat("x", 500)}
		}
	}
	for _, c := range []struct {
		name    string
		handler func(*testing.B) (http.Handler, []string)
	}{
		{"bare", plain(benchBare)}, {"gateway", plain(benchGateway)},
		{"real-1-token", func(b *testing.B) (http.Handler, []string) { return benchReal(b, 1) }},
		{"real-1000-tokens", func(b *testing.B) (http.Handler, []string) { return benchReal(b, 1000) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			ca := newAuthority(b)
			handler, tokens := c.handler(b)
			s := httptest.NewUnstartedServer(handler)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue()}, MinVersion: tls.VersionTLS13}
			s.StartTLS()
			b.Cleanup(s.Close)
			var turn atomic.Int64
			requests := make([]string, len(tokens))
			for i, token := range tokens {
				requests[i] = "GET /documents/roadmap HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token +
					"\r\nUser-Agent: bench\r\nAccept: */*\r\nCookie: theme=dark\r\nAccept-Encoding: gzip\r\n\r\n"
			}
			for _, token := range tokens { // every token is known before the clock starts
				r := httptest.NewRequestWithContext(b.Context(), "GET", "/documents/roadmap", nil)
				r.Header.Set("Authorization", "Bearer "+token)
				handler.ServeHTTP(&nowhere{http.Header{}}, r)
			}
			b.ReportAllocs()
			before := cpu(b)
			b.SetParallelism(16)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				c, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{RootCAs: ca.pool, ServerName: "localhost"})
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				br := bufio.NewReader(c)
				for pb.Next() {
					if _, err := io.WriteString(c, requests[int(turn.Add(1))%len(requests)]); err != nil {
						b.Error(err)
						return
					}
					res, err := http.ReadResponse(br, nil)
					if err != nil || res.StatusCode != 200 {
						b.Error(res, err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body) // a short body in memory
				}
			})
			b.ReportMetric(float64(cpu(b)-before)/float64(time.Microsecond)/float64(b.N), "cpu-us/op")
		})
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// nowhere is an answer that nobody reads.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w *nowhere) WriteHeader(int)             {}

// pipe is a connection to a server that answers every request at once.
type pipe struct {
	net.Conn
	requests chan struct{}
	answer   []byte
	pending  []byte
}

func (p *pipe) Write(b []byte) (int, error) { p.requests <- struct{}{}; return len(b), nil }

func (p *pipe) Read(b []byte) (int, error) {
	if len(p.pending) == 0 {
		if _, ok := <-p.requests; !ok {
			return 0, io.EOF
		}
		p.pending = p.answer
	}
	n := copy(b, p.pending)
	p.pending = p.pending[n:]
	return n, nil
}

func (p *pipe) Close() error { return nil }

// BenchmarkHandler is the handler's work alone, without sockets and TLS.
func BenchmarkHandler(b *testing.B) {
	dial := func(context.Context, string, string) (net.Conn, error) {
		return &pipe{requests: make(chan struct{}, 1), answer: []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nDate: now\r\n\r\n{}")}, nil
	}
	for name, handler := range map[string]func(*testing.B, string) http.Handler{"bare": benchBare, "gateway": benchGateway} {
		b.Run(name, func(b *testing.B) {
			h := handler(b, "http://127.0.0.1:1")
			switch h := h.(type) {
			case *Gateway:
				h.current.Load().upstreams["demo"].transport.DialContext = dial
			case *httputil.ReverseProxy:
				h.Transport.(*http.Transport).DialContext = dial
			}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(ctx, "GET", "/documents/roadmap", nil)
				r.Header = http.Header{"Authorization": {credential}, "User-Agent": {"bench"}, "Accept": {"*/*"}, "Cookie": {"theme=dark"}}
				h.ServeHTTP(&nowhere{http.Header{}}, r)
			}
		})
	}
}
