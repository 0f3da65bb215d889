// Package gateway is the only door to the upstreams.
//
// A request is screened, bound to a route, decided by the guard, and forwarded
// with an identity that the client cannot touch: every header by which a client
// could speak in our name is removed, and ours are set after the removal of
// hop-by-hop headers. The path leaves as it was matched, byte for byte; a query
// that servers read differently (";", bad escapes) is written in its clean form.
package gateway

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/route"
	"bulwark.example/internal/tenant"
)

// Guard decides about a request. The record of an allowed request is open: the
// gateway closes it with the answer's status.
type Guard interface {
	Check(context.Context, *guard.Request) (guard.Verdict, *audit.Record)
	// Saw notes the revision token that an upstream answered with.
	Saw(context.Context, *principal.Principal, string)
}

// Recorder takes the events that no verdict covers. [audit.Log] is one.
type Recorder interface {
	// Reject records a request that was refused before the guard. It never waits.
	Reject(ledger.Event)
	// Append returns when the event is on disk.
	Append(context.Context, ledger.Event) error
}

// Config names what a gateway needs. All fields without a default are required.
type Config struct {
	Guard    Guard
	Recorder Recorder
	Audience string // the only audience that this gateway accepts in a credential
	Now      func() time.Time
	Logger   *slog.Logger

	Timeout time.Duration // of an exchange on routes that set none; 0 means 30 s
	MaxBody int64         // bytes of a request body on routes that set none; 0 means 10 MiB
}

// Defaults of [Config].
const (
	DefaultTimeout = 30 * time.Second
	DefaultMaxBody = 10 << 20
)

// Gateway serves requests. It is safe for concurrent use; before [Gateway.Load]
// it knows no route.
type Gateway struct {
	cfg     Config
	current atomic.Pointer[snapshot]
	loading sync.Mutex
	server  *http.Server
	quiet   *log.Logger
	buffers bufferPool

	connections sync.Map // net.Conn to *connection, as long as it is open

	// Header values that are the same for every request.
	https, private []string
}

// snapshot is what one request sees from its start to its end.
type snapshot struct {
	table     *route.Table
	upstreams map[string]*upstream
}

// New returns a gateway without routes. The error has kind [fault.Invalid].
func New(cfg Config) (*Gateway, error) {
	switch {
	case cfg.Guard == nil, cfg.Recorder == nil, cfg.Now == nil, cfg.Logger == nil:
		return nil, fault.New(fault.Invalid, "a gateway needs a guard, a recorder, a clock and a logger")
	case cfg.Audience == "":
		return nil, fault.New(fault.Invalid, "a gateway needs the audience that it accepts")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	g := &Gateway{cfg: cfg, https: []string{"https"}, private: []string{"private"}}
	// What net/http says about broken connections holds addresses: for debugging only.
	g.quiet = slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)
	table, err := route.Compile(nil)
	if err != nil {
		return nil, err
	}
	g.current.Store(&snapshot{table: table})
	g.server = g.newServer()
	return g, nil
}

// ServeHTTP answers one request. It is the handler that [Gateway.Serve] serves.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reached(r.Context())
	snap := g.current.Load()
	x := &exchange{ResponseWriter: w, g: g, id: tenant.RandomID()}
	x.source, x.address = source(r.RemoteAddr)
	if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
		// RFC 9112 section 6.1: after a message whose framing another server
		// may have read differently, nothing that follows can be trusted.
		x.last = true
	}
	path, flaw := screen(r)
	if flaw != nil {
		x.reject(flaw, "")
		return
	}
	bound, outcome := snap.table.Match(r.Host, r.Method, path)
	switch outcome {
	case route.Matched:
	case route.BadPath:
		x.reject(&flawed{http.StatusBadRequest, "bad_path", fault.Public(bound.Refusal)}, "")
		return
	case route.MethodNotAllowed:
		w.Header().Set("Allow", bound.Allow)
		x.reject(flawMethod, "")
		return
	default:
		x.reject(flawNoRoute, "")
		return
	}
	limit := bound.Route.MaxBody
	if limit == 0 {
		limit = g.cfg.MaxBody
	}
	if r.ContentLength > limit {
		x.reject(flawBody, bound.Route.ID)
		return
	}
	x.up = snap.upstreams[bound.Route.Upstream]
	verdict, rec := g.cfg.Guard.Check(r.Context(), x.ask(r, &bound))
	if !verdict.Allowed {
		x.refuse(&verdict)
		return
	}
	defer x.record(rec)
	x.who = verdict.Principal
	x.forward(r, &bound, &verdict.Identity, limit)
}

// ask states the request to the guard.
func (x *exchange) ask(r *http.Request, b *route.Bound) *guard.Request {
	q := &guard.Request{
		Action: "request", Route: b.Route.ID, Method: r.Method, Path: b.Path, RequestID: x.id,
		Authorization: r.Header["Authorization"], Source: x.address,
		Audience: x.g.cfg.Audience, Upstream: x.up.cfg.Service, Explain: b.Route.Explain,
	}
	if need := b.Route.Require; need != nil {
		q.Require = &guard.Requirement{
			Application: need.Application, Object: b.Object, Relation: need.Relation, Visible: need.Visible,
		}
	}
	return q
}
