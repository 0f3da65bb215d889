package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/api/authzen"
	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/api/openfga"
	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/gateway"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/route"
	"bulwark.example/internal/store"
)

// roleNames are what `serve --roles` can start apart (DESIGN section 4). Those
// of later issues are not listed before they exist.
var roleNames = []string{"gateway", "sts", "pdp", "console"}

// doors is what a node opens to the world.
type doors struct {
	gatewayTLS func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	apiTLS     func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	routes     []route.Route
	upstreams  []gateway.Upstream
	roles      []string
}

// door is one listener with what serves it.
type door struct {
	name     string
	listener net.Listener
	serve    func(net.Listener) error
	shutdown func(context.Context) error
}

// server is a node that serves.
type server struct {
	node      *node
	gateway   *gateway.Gateway
	routing   *routing     // nil without the role gateway
	decisions *openfga.API // nil without the role pdp
	access    *authzen.API // likewise
	doors     []door
}

// newServer builds the doors of the node's roles, in the order in which they
// are read in the architecture: gateway, API, gRPC, ops.
func newServer(ctx context.Context, n *node, d doors) (*server, error) {
	s := &server{node: n}
	gw, err := s.gatewayDoor(ctx, d)
	if err != nil {
		return nil, err
	}
	var register func(grpc.ServiceRegistrar)
	if slices.Contains(d.roles, "pdp") {
		s.decisions = openfga.New(openfga.Config{
			Guard: n.guard, Directory: n.directory, Authz: n.authz, Archive: n.store.Archive(), Logger: n.plan.log, Now: n.plan.now,
			Proposals: n.plan.limits.Proposals,
		})
		n.store.Subscribe(func(b store.Batch) {
			s.decisions.Changed(b.Store)
			for _, e := range b.Entries { // a store that is deleted is an entry of its tenant's shard
				s.decisions.Changed(relation.StoreID(e.Key))
			}
		})
		register = s.decisions.Register
		s.access = authzen.New(authzen.Config{Guard: n.guard, Directory: n.directory, Authz: n.authz, URL: n.plan.issuer, Logger: n.plan.log})
	}
	api, err := s.apiHandler(d.roles)
	if err != nil {
		return nil, err
	}
	s.doors = append(s.doors, gw...)
	s.doors = append(s.doors,
		s.httpDoor("api", d.apiTLS, api),
		grpcDoor(n.plan.log, d.apiTLS, register),
		s.httpDoor("ops", d.apiTLS, s.opsHandler()),
	)
	return s, nil
}

func (s *server) gatewayDoor(ctx context.Context, d doors) ([]door, error) {
	if !slices.Contains(d.roles, "gateway") {
		return nil, nil
	}
	n := s.node
	var err error
	s.gateway, err = gateway.New(gateway.Config{
		Guard: n.guard, Recorder: n.audit, Audience: n.directory.Audience("gateway"), Now: n.plan.now, Logger: n.plan.log,
	})
	if err != nil {
		return nil, err
	}
	s.routing = &routing{node: n, gateway: s.gateway, routesHere: d.routes, upstreams: d.upstreams}
	if err := s.routing.follow(ctx); err != nil {
		return nil, err
	}
	n.fits = s.routing.fits
	return []door{{
		name:     "gateway",
		serve:    func(l net.Listener) error { return s.gateway.Serve(l, d.gatewayTLS) },
		shutdown: s.gateway.Shutdown,
	}}, nil
}

// apiHandler mounts one handler per contract on the API port. Key sets are
// public and served by every role.
func (s *server) apiHandler(roles []string) (http.Handler, error) {
	n := s.node
	protocol := oidc.Config{Issuer: n.plan.issuer, Keys: n.keys, Logger: n.plan.log}
	if slices.Contains(roles, "sts") {
		protocol.STS = n.issuer
	}
	tokens, err := oidc.New(protocol)
	if err != nil {
		return nil, err
	}
	mounts := []mount{{"/oauth2/", tokens}, {"/.well-known/", tokens}}
	if s.decisions != nil {
		mounts = append(mounts, mount{"/stores", s.decisions})
	}
	if slices.Contains(roles, "console") {
		mounts = append(mounts, mount{admin.Base + "/", admin.New(admin.Config{
			Guard: n.guard, Directory: n.directory, Authz: n.authz, Copies: n.store.Copies(), Releases: n.releases, Keys: n.keyring,
			Audit: n.audit, AuditDir: auditPath(n.plan.data), LogKey: n.logKey, Logger: n.plan.log, Now: n.plan.now,
		})})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.access != nil && authzen.Owns(r.URL.Path) { // also some below other contracts' prefixes
			s.access.ServeHTTP(w, r)
			return
		}
		for _, m := range mounts {
			if strings.HasPrefix(r.URL.Path, m.prefix) {
				m.handler.ServeHTTP(w, r)
				return
			}
		}
		tokens.ServeHTTP(w, r) // which knows no such path, and says so in our dialect
	}), nil
}

// mount is a contract below a prefix. No path is cleaned or redirected here:
// each contract sees what was sent.
type mount struct {
	prefix  string
	handler http.Handler
}

// httpDoor serves HTTP/1.1 and HTTP/2 over TLS 1.3.
func (s *server) httpDoor(name string, cert func(*tls.ClientHelloInfo) (*tls.Certificate, error), h http.Handler) door {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		TLSConfig: tls13(cert), ErrorLog: quiet(s.node.plan.log),
	}
	if s.decisions != nil {
		srv.RegisterOnShutdown(s.decisions.Drain) // streams would outlast the drain
	}
	return door{
		name: name,
		serve: func(l net.Listener) error {
			if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		shutdown: srv.Shutdown,
	}
}

func tls13(cert func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: cert}
}

// listen binds every door, so that addresses are known before anything serves.
func (s *server) listen(l config.Listen) error {
	addresses := map[string]string{"gateway": l.Gateway, "api": l.API, "grpc": l.GRPC, "ops": l.Ops}
	for i := range s.doors {
		d := &s.doors[i]
		if d.listener != nil {
			continue // bound before, as dev does with the API's
		}
		var err error
		if d.listener, err = net.Listen("tcp", addresses[d.name]); err != nil {
			s.unlisten()
			return fault.Wrap(fault.Unavailable, "the "+d.name+" cannot listen on "+addresses[d.name]+"; is another process there?", err)
		}
	}
	return nil
}

// bind gives a door a listener that was opened before.
func (s *server) bind(name string, l net.Listener) {
	for i := range s.doors {
		if s.doors[i].name == name {
			s.doors[i].listener = l
		}
	}
}

func (s *server) unlisten() {
	for _, d := range s.doors {
		if d.listener != nil {
			_ = d.listener.Close()
		}
	}
}

// run serves until ctx ends, then drains: no door takes a new request, what is
// running may finish within the timeout.
func (s *server) run(ctx context.Context, drain time.Duration) error {
	ended := make(chan error, len(s.doors))
	for _, d := range s.doors {
		go func() { ended <- d.serve(d.listener) }()
	}
	var first error
	running := len(s.doors)
	select {
	case <-ctx.Done():
	case first = <-ended:
		running--
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	var wg sync.WaitGroup
	cut := make([]error, len(s.doors))
	for i, d := range s.doors {
		wg.Go(func() { cut[i] = d.shutdown(stop) })
	}
	wg.Wait()
	for range running {
		<-ended
	}
	return errors.Join(append(cut, first)...)
}

// address is where a door listens.
func (s *server) address(name string) string {
	for _, d := range s.doors {
		if d.name == name && d.listener != nil {
			return d.listener.Addr().String()
		}
	}
	return ""
}

// parseRoles reads --roles; empty means all.
func parseRoles(s string) ([]string, error) {
	if s == "" {
		return roleNames, nil
	}
	roles := strings.Split(s, ",")
	for _, r := range roles {
		if !slices.Contains(roleNames, r) {
			return nil, usageError("--roles takes " + strings.Join(roleNames, ", "))
		}
	}
	return roles, nil
}
