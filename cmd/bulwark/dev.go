package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"bulwark.example/internal/config"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/gateway"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/route"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/sts"
)

const (
	defaultData    = ".bulwark"
	devApplication = "docs"
)

// devState is DIR/dev.json: what a person or a test needs to use a running dev.
type devState struct {
	Gateway  string                `json:"gateway"`
	API      string                `json:"api"`
	GRPC     string                `json:"grpc"`
	Ops      string                `json:"ops"`
	CA       string                `json:"ca"`
	Issuer   string                `json:"issuer"`
	Env      string                `json:"env"`
	Tenants  map[string]devTenant  `json:"tenants"`
	Users    map[string]devUser    `json:"users"`
	Services map[string]devService `json:"services"`
}

type devTenant struct {
	ID    string `json:"id"`
	Store string `json:"store"`
}

type devUser struct {
	ID string `json:"id"`
}

type devService struct {
	ID       string `json:"id"`
	Owner    string `json:"owner"`
	ClientID string `json:"client_id"`
	Audience string `json:"audience"`
	Key      string `json:"key"` // file with the private JWK
}

// runDev is everything in one process: the product on its embedded default,
// with people, services and an upstream to try it on.
func runDev(ctx context.Context, c *call) error {
	data, listen, err := devFlags(c)
	if err != nil {
		return err
	}
	if err := refuseSecondDev(ctx, data); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ca, p, err := prepareDev(data, log)
	if err != nil {
		return err
	}
	// The issuer is the API's address, so that listener comes first.
	api, err := net.Listen("tcp", listen.API)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "the API cannot listen on "+listen.API+"; is another process there?", err)
	}
	defer api.Close()
	p.issuer = "https://" + api.Addr().String()
	if err := ensureInstance(ctx, p); err != nil {
		return err
	}
	keepHeapFloor()
	n, err := openNode(ctx, p)
	if err != nil {
		return err
	}
	defer n.close(context.WithoutCancel(ctx))
	state, err := seed(ctx, n)
	if err != nil {
		return err
	}
	upstream, stopDemo, err := startDemo(n, ca, state.Services["notes"])
	if err != nil {
		return err
	}
	defer stopDemo()
	server, err := devServer(ctx, n, ca, upstream)
	if err != nil {
		return err
	}
	server.bind("api", api)
	if err := server.listen(listen); err != nil {
		return err
	}
	state.fill(server, n, filepath.Join(data, "dev", caFile))
	stopSocket, err := serveSocket(ctx, data, n.mintFor)
	if err != nil {
		return err
	}
	defer stopSocket()
	n.awaitReady(ctx)
	if err := state.write(data); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(data, stateFile))
	if err := c.show(state, func(w io.Writer) { printTour(w, data, state) }); err != nil {
		return err
	}
	return server.run(ctx, 5*time.Second)
}

func devFlags(c *call) (data string, l config.Listen, err error) {
	f := c.flags()
	f.StringVar(&data, "data", defaultData, "folder for everything that dev keeps")
	f.StringVar(&l.Gateway, "gateway", config.DefaultGateway, "address of the gateway")
	f.StringVar(&l.API, "api", config.DefaultAPI, "address of the API")
	f.StringVar(&l.GRPC, "grpc", config.DefaultGRPC, "address of the gRPC API")
	f.StringVar(&l.Ops, "ops", config.DefaultOps, "address of /livez /readyz /metrics")
	if _, err = c.parse(f, 0, 0); err != nil {
		return "", l, err
	}
	for _, addr := range []string{l.Gateway, l.API, l.GRPC, l.Ops} {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil || !ap.Addr().IsLoopback() {
			return "", l, fault.New(fault.Denied, "dev listens on loopback alone, e.g. 127.0.0.1:8443; "+addr+" is refused. `bulwark serve` is for everything else")
		}
	}
	return data, l, nil
}

// prepareDev makes or opens the folder, the CA and the root key.
func prepareDev(data string, log *slog.Logger) (*localCA, plan, error) {
	if err := refuseForeign(data); err != nil {
		return nil, plan{}, err
	}
	if err := os.MkdirAll(filepath.Join(data, "dev"), 0o700); err != nil {
		return nil, plan{}, fault.Wrap(fault.Unavailable, "the data folder cannot be made: "+data, err)
	}
	// A folder inside somebody's checkout must not be committed by accident.
	if err := os.WriteFile(filepath.Join(data, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return nil, plan{}, fault.Wrap(fault.Unavailable, "the data folder cannot be written: "+data, err)
	}
	if err := os.Remove(filepath.Join(data, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, plan{}, fault.Wrap(fault.Unavailable, "the data folder cannot be written: "+data, err)
	}
	passphrase, err := devPassphrase(filepath.Join(data, "dev", "root.pass"))
	if err != nil {
		return nil, plan{}, err
	}
	root, err := ensureRoot(filepath.Join(data, "root.sealed"), data, passphrase, local.Config{Env: "dev", Dev: true})
	if err != nil {
		return nil, plan{}, err
	}
	ca, err := openCA(filepath.Join(data, "dev"), time.Now())
	if err != nil {
		return nil, plan{}, err
	}
	return ca, plan{
		env: "dev", data: data, dev: true, application: devApplication, root: root,
		outgoing: outgoing.Config{AllowLoopback: true, RootCAs: ca.pool()}, now: time.Now, log: log,
	}, nil
}

func devPassphrase(path string) (secret.Bytes, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return secret.New(b), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return secret.Bytes{}, fault.Wrap(fault.Unavailable, "dev's passphrase cannot be read", err)
	}
	text := []byte(base64.RawURLEncoding.EncodeToString(secret.Random(24).Reveal()))
	return secret.New(text), writeDurable(path, text)
}

// startDemo serves the demo upstream over TLS and tells how to reach it.
func startDemo(n *node, ca *localCA, notes devService) (gateway.Upstream, func(), error) {
	cert, err := ca.issue("notes", x509.ExtKeyUsageServerAuth, n.plan.now())
	if err != nil {
		return gateway.Upstream{}, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return gateway.Upstream{}, nil, fault.Wrap(fault.Unavailable, "the demo upstream cannot listen", err)
	}
	srv := &http.Server{
		Handler:           &demo{name: "notes", audience: notes.Audience, key: n.keys.AssertionKey, now: n.plan.now},
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet(n.plan.log),
	}
	go func() { _ = srv.ServeTLS(l, "", "") }() // ends with Close
	return gateway.Upstream{Name: "notes", URL: "https://" + l.Addr().String(), Service: notes.ID, CA: ca.pool()},
		func() { _ = srv.Close() }, nil
}

func devServer(ctx context.Context, n *node, ca *localCA, up gateway.Upstream) (*server, error) {
	cert, err := ca.issue("bulwark dev", x509.ExtKeyUsageServerAuth, n.plan.now())
	if err != nil {
		return nil, err
	}
	same := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	need := func(relation string) *route.Requirement {
		return &route.Requirement{Application: devApplication, Relation: relation, Object: "document:{id}", Visible: "can_view"}
	}
	return newServer(ctx, n, doors{
		gatewayTLS: same, apiTLS: same, roles: roleNames, upstreams: []gateway.Upstream{up},
		routes: []route.Route{
			{ID: "document-read", Methods: []string{"GET"}, Path: "/documents/{id}", Upstream: up.Name, Require: need("can_view")},
			{ID: "document-write", Methods: []string{"PUT"}, Path: "/documents/{id}", Upstream: up.Name, Require: need("can_edit")},
			{ID: "whoami", Methods: []string{"GET"}, Path: "/whoami", Upstream: up.Name},
		},
	})
}

// mintFor answers the token socket: "alice@acme" and an audience.
func (n *node) mintFor(ctx context.Context, req socketRequest) (string, error) {
	t, user, err := n.person(ctx, req.As)
	if err != nil {
		return "", err
	}
	if user.State != directory.Active || t.State != directory.Active {
		return "", fault.New(fault.Denied, req.As+" is suspended") // as at every other way to a token
	}
	if req.Audience == "" {
		req.Audience = "gateway"
	}
	token, err := n.issuer.Mint(ctx, sts.MintRequest{
		Tenant: t.Tenant, Subject: principal.Subject{Kind: principal.User, ID: user.ID}, Audience: req.Audience,
		Assurance: principal.Assurance{ACR: "dev", AMR: []string{"dev"}, AuthTime: n.plan.now()},
	})
	if err != nil {
		return "", err
	}
	return token.Value, nil
}

const stateFile = "dev.json"

// fill adds the addresses to what seed found.
func (s *devState) fill(srv *server, n *node, ca string) {
	s.Gateway, s.API, s.Ops = "https://"+srv.address("gateway"), "https://"+srv.address("api"), "https://"+srv.address("ops")
	s.GRPC, s.Issuer, s.Env = srv.address("grpc"), n.plan.issuer, n.plan.env
	s.CA = ca
	if abs, err := filepath.Abs(ca); err == nil {
		s.CA = abs
	}
}

func (s *devState) write(data string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, "dev.json does not encode", err)
	}
	return writeDurable(filepath.Join(data, stateFile), append(b, '\n'))
}

// readState finds a running dev by its data folder.
func readState(data string) (*devState, error) {
	b, err := os.ReadFile(filepath.Join(data, stateFile))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "no `bulwark dev` is running over "+data+"; start it, or name its folder with --data", err)
	}
	var s devState
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fault.Wrap(fault.Integrity, fmt.Sprintf("%s is damaged; start `bulwark dev` again", filepath.Join(data, stateFile)), err)
	}
	return &s, nil
}
