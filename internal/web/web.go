// Package web is our HTTP dialect: one router, strict input, uniform refusals.
//
// Every API of ours that speaks HTTP stands on a [Mux]. It gives each request
// an id, a time limit, a body limit and the security headers, turns an error
// into an answer in one place, and survives a panic. What a client sends
// chooses none of these: a Bulwark-Request-Id of the client's is ignored.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime"
	"runtime/debug"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

// RequestIDHeader names the request in every answer. The id is made here.
const RequestIDHeader = "Bulwark-Request-Id"

// The limits of a Mux that sets none.
const (
	DefaultMaxBody = 1 << 20 // bytes
	DefaultTimeout = 30 * time.Second
)

// Config is what a Mux needs. Logger is needed; the rest has defaults.
type Config struct {
	Logger  *slog.Logger
	MaxBody int64         // bytes of a request's body; zero is DefaultMaxBody
	Timeout time.Duration // of a whole request, reading the body included; zero is DefaultTimeout
	// Refuse writes the answer for an error; nil is [Problem]. Foreign
	// contracts bring the form of theirs.
	Refuse func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler answers a request or returns why it does not. After an error nothing
// may have been written: the Mux writes the refusal.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Mux routes requests by the patterns of [http.ServeMux] and serves them in
// our dialect. Register every pattern before the first request; then it is
// safe for concurrent use.
type Mux struct {
	cfg   Config
	inner *http.ServeMux
}

// NewMux returns a Mux without routes.
func NewMux(cfg Config) *Mux {
	if cfg.MaxBody == 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Refuse == nil {
		cfg.Refuse = Problem
	}
	return &Mux{cfg: cfg, inner: http.NewServeMux()}
}

// Handle registers a handler under a pattern with a method, such as
// "POST /admin/v1/users". It panics on a pattern that conflicts with another.
func (m *Mux) Handle(pattern string, h Handler) {
	m.inner.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			m.refuse(w, r, err)
		}
	})
}

// ServeHTTP serves one request.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), m.cfg.Timeout)
	defer cancel()
	id := requestID(ctx)
	if id == "" {
		id = tenant.RandomID()
		ctx = context.WithValue(ctx, contextKey{}, id)
	}
	r = r.WithContext(ctx)
	harden(w.Header(), id)
	deadline(w, m.cfg.Timeout)
	r.Body = http.MaxBytesReader(w, r.Body, m.cfg.MaxBody)

	out := &writer{ResponseWriter: w}
	defer m.recovered(out, r)
	// Only the one spelling of a path is served: a redirect to a cleaned one
	// would make two paths out of one for whoever reads logs and rules.
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path || r.URL.Opaque != "" {
		m.refuse(out, r, errNoRoute)
		return
	}
	h, pattern := m.inner.Handler(r)
	if pattern == "" {
		m.unrouted(out, r, h)
		return
	}
	m.inner.ServeHTTP(out, r)
}

var errNoRoute = fault.New(fault.NotFound, "there is nothing at this path")

// unrouted refuses what no pattern matches. ServeMux knows whether the path
// exists under other methods; its own handler is asked for that, not for text.
func (m *Mux) unrouted(w http.ResponseWriter, r *http.Request, h http.Handler) {
	probe := &verdictWriter{header: http.Header{}}
	h.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		m.refuse(w, r, ErrMethod)
		return
	}
	m.refuse(w, r, errNoRoute)
}

// refuse answers with the error and logs it where it is ours.
func (m *Mux) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch fault.KindOf(err) {
	case fault.Internal, fault.Integrity, fault.Unavailable:
		m.cfg.Logger.ErrorContext(r.Context(), "request failed",
			"request_id", RequestID(r), "method", r.Method, "kind", fault.KindOf(err).String(), "error", err)
	}
	m.cfg.Refuse(w, r, err)
}

// recovered turns a panic into the answer for an internal error. The log gets
// the place, never the value of the panic, which may hold anything at all.
func (m *Mux) recovered(w *writer, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	m.cfg.Logger.ErrorContext(r.Context(), "handler panicked",
		"request_id", RequestID(r), "method", r.Method, "panic", what, "stack", string(debug.Stack()))
	if w.wrote {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	m.cfg.Refuse(w, r, fault.New(fault.Internal, "internal error; the request id names the log entry"))
}

// harden sets the headers that every answer carries.
func harden(h http.Header, id string) {
	h.Set(RequestIDHeader, id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
}

// deadline bounds reading the body and writing the answer on the connection:
// a context alone does not wake a blocked read.
func deadline(w http.ResponseWriter, d time.Duration) {
	c := http.NewResponseController(w)
	end := time.Now().Add(d)   // the network's deadlines are wall clock
	_ = c.SetReadDeadline(end) // not supported by recorders in tests, and by nothing else
	_ = c.SetWriteDeadline(end.Add(d))
}

type contextKey struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(contextKey{}).(string)
	return id
}

// RequestID returns the id that the Mux gave to the request, empty outside one.
func RequestID(r *http.Request) string { return requestID(r.Context()) }

// Source returns the address of the peer, the zero Addr where there is none.
// Forwarding headers are not read: a client can write them.
func Source(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// Authorization returns every Authorization header as received, so that a
// second one can be refused instead of ignored.
func Authorization(r *http.Request) []string { return r.Header.Values("Authorization") }

// writer remembers whether an answer was begun.
type writer struct {
	http.ResponseWriter
	wrote bool
}

func (w *writer) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// verdictWriter takes the status of an answer and drops the rest.
type verdictWriter struct {
	header http.Header
	status int
}

func (w *verdictWriter) Header() http.Header         { return w.header }
func (w *verdictWriter) WriteHeader(status int)      { w.status = status }
func (w *verdictWriter) Write(b []byte) (int, error) { return len(b), nil }
