package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/route"
	"bulwark.example/internal/tenant"
)

// Upstream is a service behind the gateway.
type Upstream struct {
	Name        string
	URL         string           // "https://host:port", without path
	Service     string           // the service's id: assertions are addressed to it
	CA          *x509.CertPool   // who may sign its certificate; nil means the system's roots
	ServerName  string           // the name in its certificate where it is not the URL's host
	Certificate *tls.Certificate // ours, where it wants one
	Plaintext   *Plaintext       // lets an http URL lead off loopback
	MaxConns    int              // connections at most; 0 means no limit
}

// Plaintext is the named exception to TLS (DESIGN rule 9). It is logged and
// audited at each load, counted, and ends by itself.
type Plaintext struct {
	Reason string
	Until  time.Time
}

// The transport's constants: per upstream, which has one host.
const (
	maxIdle          = 512
	idleTimeout      = 60 * time.Second
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	maxAnswerHeaders = 256 << 10
)

var errOffLoopback = errors.New("a plaintext upstream is not on loopback")

// upstream is an Upstream with its connections.
type upstream struct {
	cfg       Upstream
	url       *url.URL
	transport *http.Transport
	plain     atomic.Uint64 // requests sent in clear under the exception
	refused   atomic.Uint64 // requests refused because the exception has ended
}

func newUpstream(cfg Upstream) (*upstream, error) {
	bad := func(reason string) (*upstream, error) {
		return nil, fault.New(fault.Invalid, "upstream "+cfg.Name+": "+reason)
	}
	u, err := url.Parse(cfg.URL)
	switch {
	case cfg.Name == "":
		return bad("it has no name")
	case err != nil || u.Host == "" || u.Hostname() == "":
		return bad("the URL must be https://host:port")
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return bad("the URL must have no path: what is matched is what is forwarded")
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("the URL must be https")
	case u.Scheme == "https" && cfg.Plaintext != nil:
		return bad("plaintext is set for an https URL")
	case u.Scheme == "http" && (cfg.CA != nil || cfg.Certificate != nil || cfg.ServerName != ""):
		return bad("certificates are set for an http URL")
	case cfg.Plaintext != nil && (cfg.Plaintext.Reason == "" || cfg.Plaintext.Until.IsZero()):
		return bad("plaintext needs a reason and an end")
	case cfg.Service == "":
		return bad("it names no service to address assertions to")
	case cfg.MaxConns < 0:
		return bad("the number of connections is negative")
	}
	if u.Scheme == "http" && cfg.Plaintext == nil {
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && !a.IsLoopback() {
			return bad("http is for loopback; elsewhere it needs plaintext with a reason and an end")
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	if u.Scheme == "http" && cfg.Plaintext == nil {
		dialer.Control = loopbackOnly
	}
	up := &upstream{cfg: cfg, url: u}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	up.transport = &http.Transport{
		DialContext: dialer.DialContext, Protocols: &protocols,
		TLSClientConfig: clientTLS(&cfg), TLSHandshakeTimeout: handshakeTimeout,
		MaxIdleConnsPerHost: maxIdle, MaxConnsPerHost: cfg.MaxConns, IdleConnTimeout: idleTimeout,
		DisableCompression: true, MaxResponseHeaderBytes: maxAnswerHeaders,
	}
	return up, nil
}

// loopbackOnly looks at the address that a name turned out to have.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	if ap, err := netip.ParseAddrPort(address); err != nil || !ap.Addr().Unmap().IsLoopback() {
		return errOffLoopback
	}
	return nil
}

func clientTLS(cfg *Upstream) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: cfg.CA, ServerName: cfg.ServerName,
		NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	if cfg.Certificate != nil {
		c.Certificates = []tls.Certificate{*cfg.Certificate}
	}
	return c
}

// usable reports whether the upstream may be spoken to now. The first refusal
// after the end of an exception is an event of its own.
func (u *upstream) usable(x *exchange) bool {
	p := u.cfg.Plaintext
	if p == nil {
		return true
	}
	if x.g.cfg.Now().Before(p.Until) {
		u.plain.Add(1)
		return true
	}
	if u.refused.Add(1) == 1 {
		if err := x.g.note(context.Background(), u, "upstream.plaintext_expired"); err != nil {
			x.g.cfg.Logger.Error("the end of a plaintext exception was not recorded", "upstream", u.cfg.Name, "error", err)
		}
	}
	return false
}

// note records a fact about a plaintext upstream.
func (g *Gateway) note(ctx context.Context, u *upstream, action string) error {
	return g.cfg.Recorder.Append(ctx, ledger.Event{
		ID: tenant.RandomID(), Time: g.cfg.Now(), Class: ledger.System, Action: action, Tenant: tenant.Platform,
		Detail: map[string]string{"upstream": u.cfg.Name, "until": u.cfg.Plaintext.Until.UTC().Format(time.RFC3339)},
	})
}

// Load puts routes and upstreams into force, all or nothing: a request sees
// one set from its start to its end. Upstreams that did not change keep their
// connections; those of the others close when their requests end. The error
// has kind [fault.Invalid], or is the recorder's when a plaintext exception
// cannot be recorded; then nothing has changed.
func (g *Gateway) Load(ctx context.Context, routes []route.Route, upstreams []Upstream) error {
	g.loading.Lock()
	defer g.loading.Unlock()
	table, err := route.Compile(routes)
	if err != nil {
		return err
	}
	old, next := g.current.Load(), &snapshot{table: table, upstreams: map[string]*upstream{}}
	for _, cfg := range upstreams {
		if next.upstreams[cfg.Name] != nil {
			return fault.New(fault.Invalid, "upstream "+cfg.Name+": the name is used twice")
		}
		up := old.upstreams[cfg.Name]
		if up == nil || !up.cfg.equal(&cfg) {
			if up, err = newUpstream(cfg); err != nil {
				return err
			}
		}
		next.upstreams[cfg.Name] = up
	}
	for i := range routes {
		if next.upstreams[routes[i].Upstream] == nil {
			return fault.New(fault.Invalid, "route "+routes[i].ID+": there is no upstream "+routes[i].Upstream)
		}
	}
	for _, up := range next.upstreams {
		if p := up.cfg.Plaintext; p != nil {
			if err := g.note(ctx, up, "upstream.plaintext"); err != nil {
				return err
			}
			g.cfg.Logger.Warn("an upstream is spoken to in clear text", "upstream", up.cfg.Name, "reason", p.Reason, "until", p.Until)
		}
	}
	g.current.Store(next)
	for name, up := range old.upstreams {
		if next.upstreams[name] != up {
			up.transport.CloseIdleConnections()
		}
	}
	return nil
}

func (u *Upstream) equal(other *Upstream) bool {
	a, b := *u, *other
	same := a.Name == b.Name && a.URL == b.URL && a.Service == b.Service && a.ServerName == b.ServerName && a.MaxConns == b.MaxConns &&
		(a.CA == nil) == (b.CA == nil) && (a.CA == nil || a.CA.Equal(b.CA)) &&
		(a.Plaintext == nil) == (b.Plaintext == nil) && (a.Plaintext == nil || *a.Plaintext == *b.Plaintext) &&
		(a.Certificate == nil) == (b.Certificate == nil)
	if !same || a.Certificate == nil {
		return same
	}
	return bytes.Equal(bytes.Join(a.Certificate.Certificate, nil), bytes.Join(b.Certificate.Certificate, nil))
}

// Plain counts the requests of one upstream under a plaintext exception.
type Plain struct{ Sent, Refused uint64 }

// PlaintextCounts returns the counts by upstream, for the current set.
func (g *Gateway) PlaintextCounts() map[string]Plain {
	out := map[string]Plain{}
	for name, up := range g.current.Load().upstreams {
		if up.cfg.Plaintext != nil {
			out[name] = Plain{up.plain.Load(), up.refused.Load()}
		}
	}
	return out
}

// bufferPool lends the buffers that answers are copied through.
type bufferPool struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements [net/http/httputil.BufferPool].
func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, bufferSize)
}

// Put implements [net/http/httputil.BufferPool].
func (p *bufferPool) Put(b []byte) {
	if cap(b) >= bufferSize {
		p.pool.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}
