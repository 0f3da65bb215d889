package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/route"
)

// credential is the one token that the fake guard takes.
const credential = "Bearer good-token-0123456789"

// fakeGuard decides by fixed rules; the guard is not what these tests are about.
type fakeGuard struct {
	mu    sync.Mutex
	asked []guard.Request
}

func (g *fakeGuard) Saw(context.Context, *principal.Principal, string) {}

func (g *fakeGuard) Check(_ context.Context, q *guard.Request) (guard.Verdict, *audit.Record) {
	g.mu.Lock()
	g.asked = append(g.asked, *q)
	g.mu.Unlock()
	v := guard.Verdict{Enforced: true, DecisionID: "decision-1"}
	switch {
	case len(q.Authorization) != 1:
		v.Kind, v.Reason = fault.Unauthenticated, map[bool]string{true: "missing", false: "multiple_credentials"}[len(q.Authorization) == 0]
	case q.Authorization[0] != credential:
		v.Kind, v.Reason = fault.Unauthenticated, "signature"
	case q.Require != nil && q.Require.Object == "document:seen":
		v.Kind, v.Reason = fault.Denied, "no_relation"
	case q.Require != nil && q.Require.Object == "document:broken":
		return guard.Verdict{}, nil
	case q.Require != nil && q.Require.Object == "document:unwritable":
		v.Kind, v.Reason = fault.Unavailable, "audit_unavailable"
	case q.Require != nil && q.Require.Object != "document:roadmap":
		v.Kind, v.Reason = fault.NotFound, "not_visible"
	default:
		v.Allowed = true
		v.Identity = guard.Identity{Assertion: "signed.for." + q.Upstream, Tenant: "T-acme", Subject: "user:alice", Scope: "documents"}
	}
	return v, nil
}

func (g *fakeGuard) requests() []guard.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]guard.Request(nil), g.asked...)
}

// events is a recorder that keeps everything.
type events struct {
	mu  sync.Mutex
	all []ledger.Event
	err error
}

func (e *events) Reject(ev ledger.Event) { _ = e.keep(ev) }

func (e *events) Append(_ context.Context, ev ledger.Event) error { return e.keep(ev) }

func (e *events) keep(ev ledger.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	e.all = append(e.all, ev)
	return nil
}

func (e *events) list() []ledger.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]ledger.Event(nil), e.all...)
}

// reasons returns what was recorded, each as "action reason".
func (e *events) reasons() string {
	var out []string
	for _, ev := range e.list() {
		out = append(out, strings.TrimSpace(ev.Action+" "+ev.Reason))
	}
	return strings.Join(out, ", ")
}

// got is a request as the upstream received it.
type got struct {
	Method, Target, Host string
	Header, Trailer      http.Header
	Body                 string
	Err                  error // of reading the body
}

// recording is a real upstream that keeps what it gets, parsed and raw.
type recording struct {
	*httptest.Server
	answer http.HandlerFunc // nil answers 200 with a short body
	mu     sync.Mutex
	reqs   []got
	raw    bytes.Buffer
	opened int // connections, and how many of them are closed again
	closed int
}

func (u *recording) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	u.mu.Lock()
	u.reqs = append(u.reqs, got{r.Method, r.RequestURI, r.Host, r.Header.Clone(), r.Trailer.Clone(), string(body), err})
	answer := u.answer
	u.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	_, _ = io.WriteString(w, "upstream\n")
}

// answers makes it answer otherwise from now on.
func (u *recording) answers(h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = h
}

func (u *recording) requests() []got {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]got(nil), u.reqs...)
}

func (u *recording) wire() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.raw.String()
}

type teeListener struct {
	net.Listener
	u *recording
}

func (l teeListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.u.mu.Lock()
	l.u.opened++
	l.u.mu.Unlock()
	return &teeConn{Conn: c, u: l.u}, nil
}

type teeConn struct {
	net.Conn
	u    *recording
	once sync.Once
}

func (c *teeConn) Close() error {
	c.once.Do(func() {
		c.u.mu.Lock()
		c.u.closed++
		c.u.mu.Unlock()
	})
	return c.Conn.Close()
}

func (c *teeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.u.mu.Lock()
	c.u.raw.Write(p[:n])
	c.u.mu.Unlock()
	return n, err
}

// open returns how many connections are open.
func (u *recording) open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.opened - u.closed
}

func newUpstreamServer(t testing.TB, answer http.HandlerFunc) *recording {
	t.Helper()
	u := &recording{answer: answer}
	u.Server = httptest.NewUnstartedServer(u)
	u.Listener = teeListener{u.Listener, u}
	u.Start()
	t.Cleanup(u.Close)
	return u
}

// authority is a private CA, made for one test.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// issue makes a certificate for localhost and its addresses.
func (a *authority) issue() tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// house is a gateway on a real TLS listener before a real upstream.
type house struct {
	t        testing.TB
	gateway  *Gateway
	guard    *fakeGuard
	events   *events
	upstream *recording
	ca       *authority
	addr     string
	served   chan error
}

func routes() []route.Route {
	need := &route.Requirement{Application: "docs", Relation: "can_view", Object: "document:{id}", Visible: "can_view"}
	return []route.Route{
		{ID: "read", Path: "/documents/{id}", Methods: []string{"GET"}, Upstream: "demo", Require: need},
		{ID: "write", Path: "/documents/{id}", Methods: []string{"PUT"}, Upstream: "demo", Require: need},
		{ID: "open", Path: "/open/{rest...}", Methods: []string{"*"}, Upstream: "demo"},
		{ID: "small", Path: "/small", Methods: []string{"POST"}, Upstream: "demo", MaxBody: 10},
		{ID: "quick", Path: "/quick", Methods: []string{"GET", "POST"}, Upstream: "demo", Timeout: 50 * time.Millisecond},
		{ID: "admin", Path: "/admin", Methods: []string{"GET"}, Upstream: "demo", Require: &route.Requirement{
			Application: "docs", Relation: "can_administrate", Object: "document:admin"}},
	}
}

func build(t testing.TB, answer http.HandlerFunc, change func(*Config)) *house {
	t.Helper()
	h := &house{t: t, guard: &fakeGuard{}, events: &events{}, ca: newAuthority(t), served: make(chan error, 1)}
	h.upstream = newUpstreamServer(t, answer)
	cfg := Config{
		Guard: h.guard, Recorder: h.events, Audience: "urn:bulwark:test:gateway", Now: time.Now,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if h.gateway, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := h.gateway.Load(t.Context(), routes(), []Upstream{{Name: "demo", URL: h.upstream.URL, Service: "svc-demo"}}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	cert := h.ca.issue()
	go func() {
		h.served <- h.gateway.Serve(l, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil })
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = h.gateway.Shutdown(ctx)
	})
	return h
}

// dial opens a TLS connection with the application protocol.
func (h *house) dial(protocol string) *tls.Conn {
	h.t.Helper()
	c, err := tls.Dial("tcp", h.addr, &tls.Config{RootCAs: h.ca.pool, ServerName: "localhost", NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// await waits until the condition holds.
func (h *house) await(what string, holds func() bool) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); runtime.Gosched() {
		if time.Now().After(end) {
			h.t.Fatalf("never came: %s", what)
		}
	}
}

// answer is one response on a raw connection.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// send writes the bytes as they are and reads every answer until the server
// closes the connection. The bytes should ask it to.
func (h *house) send(wire string) []answer {
	h.t.Helper()
	c := h.dial("http/1.1")
	if _, err := io.WriteString(c, wire); err != nil {
		h.t.Fatal(err)
	}
	var out []answer
	for br := bufio.NewReader(c); ; {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return out
		}
		body, _ := io.ReadAll(res.Body) // a cut answer is shown as far as it came
		out = append(out, answer{res.StatusCode, res.Header, string(body)})
	}
}

// get makes a request with the good credential and further header lines.
func (h *house) get(target string, lines ...string) answer {
	h.t.Helper()
	lines = append([]string{"GET " + target + " HTTP/1.1", "Host: localhost", "Authorization: " + credential, "Connection: close"}, lines...)
	out := h.send(strings.Join(lines, "\r\n") + "\r\n\r\n")
	if len(out) != 1 {
		h.t.Fatalf("%q: %d answers", target, len(out))
	}
	return out[0]
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("it never came: %s", what)
		}
		<-time.After(time.Millisecond) // between two looks at the condition
	}
}

// frame is an HTTP/2 frame (RFC 9113 section 4.1).
func frame(kind, flags byte, stream uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags,
		byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

// block is an HPACK header block of literals without Huffman (RFC 7541 6.2.2).
func block(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteByte(0)
		for _, s := range pairs[i : i+2] {
			if n := len(s); n < 127 {
				b.WriteByte(byte(n))
			} else {
				b.WriteByte(127)
				for n -= 127; n >= 128; n >>= 7 {
					b.WriteByte(byte(n&127 | 128))
				}
				b.WriteByte(byte(n))
			}
			b.WriteString(s)
		}
	}
	return b.String()
}

// send2 sends frames on an HTTP/2 connection and returns the status of stream
// 1, or 0 when the stream or the connection was refused.
func (h *house) send2(frames ...string) int {
	h.t.Helper()
	c := h.dial("h2")
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		h.t.Fatalf("negotiated %q", p)
	}
	_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(4, 0, 0, "")+strings.Join(frames, ""))
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(c, head); err != nil {
			return 0
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c, payload); err != nil {
			return 0
		}
		switch head[3] {
		case 1: // HEADERS
			return status2(payload[0], string(payload))
		case 3, 7: // RST_STREAM, GOAWAY
			return 0
		}
	}
}

// status2 reads :status from the start of a block of Go's encoder: from the
// static table, or as a literal with the indexed name 8.
func status2(first byte, all string) int {
	if s, ok := map[byte]int{0x88: 200, 0x8c: 400, 0x8d: 404, 0x8e: 500}[first]; ok {
		return s
	}
	for s, huffman := range map[int]string{501: "\x82\x6c\x01", 401: "\x82\x68\x01", 431: "\x82\x68\x19"} {
		if strings.HasPrefix(all[1:], huffman) {
			return s
		}
	}
	return -1
}
