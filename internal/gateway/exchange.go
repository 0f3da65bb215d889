package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync/atomic"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/route"
	"bulwark.example/internal/web"
)

// grace is what the client's side of an exchange gets beyond the upstream's
// time: for the rest of the answer, or for the 504.
const grace = 5 * time.Second

// statusGone stands in the audit log for a client that left before the answer.
const statusGone = 499

// exchange is one request on its way. It is the response writer too, so that
// it sees the status and holds back interim (1xx) answers of the upstream.
type exchange struct {
	http.ResponseWriter
	g       *Gateway
	id      string
	source  string
	address netip.Addr
	up      *upstream

	path     string
	identity *guard.Identity
	who      *principal.Principal
	body     *requestBody
	last     bool // nothing that follows on the connection can be trusted
	trailers bool // the upstream announced or may send trailers
	status   int
	failure  string // code of what went wrong after the verdict
	proxy    httputil.ReverseProxy
}

// Unwrap lets [http.ResponseController] reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader holds back interim answers: their headers would be another way
// past the removal of hop-by-hop headers (golang/go#81319).
func (x *exchange) WriteHeader(status int) {
	if status < 200 {
		return
	}
	x.status = status
	if x.last { // after an interim answer ReverseProxy has cleared the headers
		x.Header().Set("Connection", "close")
	}
	x.ResponseWriter.WriteHeader(status)
}

// forward hands the request to the upstream and its answer to the client.
func (x *exchange) forward(r *http.Request, b *route.Bound, id *guard.Identity, limit int64) {
	if !x.up.usable(x) {
		x.fail(http.StatusBadGateway, "upstream_plaintext_expired")
		return
	}
	timeout := b.Route.Timeout
	if timeout == 0 {
		timeout = x.g.cfg.Timeout
	}
	if timeout > x.g.cfg.Timeout { // the server's own deadlines are shorter
		c := http.NewResponseController(x.ResponseWriter)
		end := x.g.cfg.Now().Add(timeout + grace)
		_, _ = c.SetReadDeadline(end), c.SetWriteDeadline(end) // both are offered by net/http
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	r = r.WithContext(ctx)
	if r.ContentLength != 0 && r.Body != nil {
		// The reader gets no writer: at the limit it would set a header of the
		// answer, on the transport's goroutine, while ours copies the upstream's.
		x.body = &requestBody{ReadCloser: http.MaxBytesReader(nil, r.Body, limit)}
		r.Body = x.body
		// The transport waits for its reader of the body, which would wait for
		// a client that sends nothing: end that read with the exchange.
		// The writer is gone when this handler has returned, so an end that has
		// begun is waited for.
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() { defer close(ended); x.stopReading() })
		defer func() {
			if !stop() {
				<-ended
			}
		}()
	}
	x.path, x.identity = b.Path, id
	x.proxy = httputil.ReverseProxy{
		Rewrite: x.rewrite, ModifyResponse: x.response, ErrorHandler: x.failed,
		Transport: x.up.transport, BufferPool: &x.g.buffers, ErrorLog: x.g.quiet,
	}
	x.proxy.ServeHTTP(x, r)
	if x.trailers {
		dropTrailers(x.Header())
	}
}

// stopReading ends every read of the client's body, now and later.
func (x *exchange) stopReading() {
	_ = http.NewResponseController(x.ResponseWriter).SetReadDeadline(x.g.cfg.Now()) // offered by net/http
}

// rewrite makes the upstream's request. ReverseProxy has removed hop-by-hop
// headers already, so nothing set here can be taken away by the client.
func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	u := p.Out.URL
	u.Scheme, u.Host = x.up.url.Scheme, x.up.url.Host
	u.Opaque = x.path // the request line gets exactly what was matched
	p.Out.Host = ""
	p.Out.Trailer = nil // a client's trailers end here

	h := p.Out.Header
	cleanRequest(h)
	values := [...]struct{ name, value string }{
		{"Bulwark-Assertion", x.identity.Assertion},
		{"Bulwark-Tenant", x.identity.Tenant},
		{"Bulwark-Subject", x.identity.Subject},
		{"Bulwark-Actor", x.identity.Actor},
		{"Bulwark-Scope", x.identity.Scope},
		{"Bulwark-At-Least", x.identity.AtLeast},
		{web.RequestIDHeader, x.id},
		{"X-Forwarded-For", x.source},
		{"X-Forwarded-Host", p.In.Host},
	}
	slots := make([]string, len(values))
	for i, v := range values {
		if v.value != "" {
			slots[i] = v.value
			h[v.name] = slots[i : i+1 : i+1]
		}
	}
	h["X-Forwarded-Proto"] = x.g.https
}

var errSwitched = errors.New("the upstream switched protocols without being asked")

// response prepares the upstream's answer for the client.
func (x *exchange) response(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errSwitched
	}
	x.trailers = len(res.Trailer) > 0 || res.ContentLength < 0
	if tokens := res.Header["Bulwark-Revision"]; len(tokens) == 1 {
		x.g.cfg.Guard.Saw(res.Request.Context(), x.who, tokens[0])
	}
	cleanResponse(res)
	slot := [1]string{x.id}
	res.Header[web.RequestIDHeader] = slot[:]
	if len(res.Header["Cache-Control"]) == 0 {
		// Who asked was decisive, and a shared cache does not know who asks.
		res.Header["Cache-Control"] = x.g.private
	}
	return nil
}

// failed answers when the upstream did not.
func (x *exchange) failed(_ http.ResponseWriter, r *http.Request, err error) {
	if x.body != nil {
		// The body may never end. net/http would wait for it before answering.
		x.Header().Set("Connection", "close")
		x.stopReading()
	}
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	bodyErr := x.body.failure()
	switch {
	case errors.As(err, &tooLarge), errors.As(bodyErr, &tooLarge):
		x.fail(http.StatusRequestEntityTooLarge, "body_too_large")
	case errors.Is(r.Context().Err(), context.DeadlineExceeded):
		x.fail(http.StatusGatewayTimeout, "upstream_timeout")
	case errors.Is(r.Context().Err(), context.Canceled):
		x.status, x.failure = statusGone, "client_gone" // nobody reads an answer
	case bodyErr != nil:
		x.fail(http.StatusBadRequest, "bad_body")
	case errors.Is(err, errOffLoopback):
		x.fail(http.StatusBadGateway, "upstream_plaintext_refused")
	case errors.As(err, &timeout) && timeout.Timeout():
		x.fail(http.StatusGatewayTimeout, "upstream_timeout")
	default:
		x.fail(http.StatusBadGateway, "upstream_unreachable")
	}
	if x.status >= 500 {
		x.g.cfg.Logger.Warn("the upstream did not answer", "upstream", x.up.cfg.Name,
			"reason", x.failure, "request_id", x.id, "error", err)
	}
}

// fail answers a request that was allowed and could not be served.
func (x *exchange) fail(status int, code string) {
	x.failure = code
	detail := "the service behind this route did not answer"
	switch status {
	case http.StatusRequestEntityTooLarge:
		detail = flawBody.detail
	case http.StatusBadRequest:
		detail = "the body is malformed"
	}
	x.problem(status, detail, code, "")
}

// record closes the audit record with the outcome. It runs also when
// ReverseProxy gives up an answer half-way by a panic.
func (x *exchange) record(rec *audit.Record) {
	if rec == nil {
		return
	}
	rec.Event.Status = x.status
	if x.failure != "" {
		if rec.Event.Detail == nil {
			rec.Event.Detail = map[string]string{}
		}
		rec.Event.Detail["failure"] = x.failure
	}
	// The verdict stands already; the outcome is recorded whether or not the
	// client is still there.
	if err := rec.Close(context.Background()); err != nil {
		x.g.cfg.Logger.Error("the outcome of a request was not recorded", "request_id", x.id, "error", err)
	}
}

// requestBody remembers why reading the client's body failed. The transport
// reads it on a goroutine of its own.
type requestBody struct {
	io.ReadCloser
	err atomic.Pointer[error]
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (b *requestBody) failure() error {
	if b == nil {
		return nil
	}
	if p := b.err.Load(); p != nil {
		return *p
	}
	return nil
}
