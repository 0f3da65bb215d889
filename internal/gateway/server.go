package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

// The server's limits. Routes with a longer timeout than the default get
// longer deadlines for their own requests.
const (
	headerTimeout = 10 * time.Second
	keepAlive     = 120 * time.Second
	maxStreams    = 250
)

func (g *Gateway) newServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler: g, ErrorLog: g.quiet, Protocols: &protocols,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout + g.cfg.Timeout,
		WriteTimeout: headerTimeout + g.cfg.Timeout + grace, IdleTimeout: keepAlive,
		// Twice what screen lets through: what lies between is refused with an event.
		MaxHeaderBytes:               2 * MaxHeaders,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" would be answered without us
		ConnContext:                  g.connected, ConnState: g.changed,
	}
}

// connection tells requests that reached us from those that net/http refused
// by itself (a head that does not parse or is too large), which get an event too.
type connection struct {
	begun atomic.Bool // a request began, and has not reached ServeHTTP
}

type connectionKey struct{}

func (g *Gateway) connected(ctx context.Context, c net.Conn) context.Context {
	conn := &connection{}
	g.connections.Store(c, conn)
	return context.WithValue(ctx, connectionKey{}, conn)
}

// reached notes that the connection's request is ours to answer.
func reached(ctx context.Context) {
	if conn, ok := ctx.Value(connectionKey{}).(*connection); ok {
		conn.begun.Store(false)
	}
}

// changed follows HTTP/1.1 connections: net/http closes one whose request it
// refused. Over HTTP/2 it refuses a stream, of which nobody is told.
func (g *Gateway) changed(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		if conn, ok := g.connections.Load(c); ok {
			conn.(*connection).begun.Store(true)
		}
	case http.StateIdle: // HTTP/2 says so after its preface
		if conn, ok := g.connections.Load(c); ok {
			conn.(*connection).begun.Store(false)
		}
	case http.StateClosed, http.StateHijacked:
		if conn, ok := g.connections.LoadAndDelete(c); ok && conn.(*connection).begun.Load() {
			_, address := source(c.RemoteAddr().String())
			g.rejected(flawUnreadable, "", tenant.RandomID(), address)
		}
	}
}

// Serve accepts connections with TLS 1.3 (DESIGN rule 9), HTTP/1.1 and HTTP/2,
// until [Gateway.Shutdown]. certificate is asked at each handshake, so that it
// can change without a restart. Key exchange is left to Go's default, which is
// hybrid post-quantum. Serve closes the listener. Call it once.
func (g *Gateway) Serve(l net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	g.server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate}
	err := g.server.ServeTLS(l, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fault.Wrap(fault.Unavailable, "the gateway's listener ended", err)
}

// Shutdown takes no new request and waits for the running ones. When ctx ends
// first it cuts them and returns an error of kind [fault.Unavailable].
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.server.SetKeepAlivesEnabled(false)
	err := g.server.Shutdown(ctx)
	if err != nil {
		_ = g.server.Close()
		err = fault.Wrap(fault.Unavailable, "requests were cut at shutdown", err)
	}
	for _, up := range g.current.Load().upstreams {
		up.transport.CloseIdleConnections()
	}
	return err
}
