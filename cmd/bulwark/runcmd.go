package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/gateway"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/route"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

func runCommands() []command {
	return []command{
		{"dev", "[--data DIR]", "run everything in one process, with people and a service to try it on", runDev},
		{"init", "--issuer URL --upstream URL --audience A", "make an installation for your own login and service", runInit},
		{"serve", "--config FILE", "run an installation", runServe},
		{"config check", "FILE", "check a configuration file without starting anything", runConfigCheck},
		{"version", "", "print the version", runVersion},
	}
}

func runVersion(_ context.Context, c *call) error {
	var s session
	f := c.flags()
	f.BoolVar(&s.json, "json", false, "print JSON")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	return s.show(c.stdout, map[string]string{"version": version()}, func(w io.Writer) { fmt.Fprintln(w, "bulwark", version()) })
}

func runConfigCheck(_ context.Context, c *call) error {
	var s session
	f := c.flags()
	f.BoolVar(&s.json, "json", false, "print JSON")
	args, err := c.parse(f, 1, 1)
	if err != nil {
		return err
	}
	cfg, err := config.Load(args[0])
	if err != nil {
		return err
	}
	if _, err := route.Compile(routesOf(cfg)); err != nil {
		return err
	}
	return s.show(c.stdout, map[string]any{"ok": true, "routes": len(cfg.Routes)}, func(w io.Writer) {
		fmt.Fprintf(w, "ok: %d routes, %d upstreams\n", len(cfg.Routes), len(cfg.Upstreams))
	})
}

// runServe runs an installation by the operator's file. SIGHUP reads the file
// again: routes, upstreams and certificates change without a dropped request,
// and a bad file is refused while the old one runs on.
func runServe(ctx context.Context, c *call) error {
	var path, roleList string
	f := c.flags()
	f.StringVar(&path, "config", "", "the operator's file")
	f.StringVar(&roleList, "roles", "", "start these roles alone, separated by commas; empty: all")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	if path == "" {
		return usageError("--config FILE is needed; `bulwark init` writes one")
	}
	roles, err := parseRoles(roleList)
	if err != nil {
		return err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(c.stderr, nil))
	p, err := servePlan(cfg, log)
	if err != nil {
		return err
	}
	n, err := openNode(ctx, p)
	if err != nil {
		return err
	}
	defer n.close(context.WithoutCancel(ctx))
	if n.instance.Issuer != cfg.Issuer {
		return fault.New(fault.Denied, "this installation's issuer is "+n.instance.Issuer+"; tokens under another name would not verify")
	}
	certs := &certificates{}
	if err := certs.load(cfg); err != nil {
		return err
	}
	upstreams, err := upstreamsOf(n, cfg)
	if err != nil {
		return err
	}
	s, err := newServer(ctx, n, doors{
		gatewayTLS: certs.gateway, apiTLS: certs.api, routes: routesOf(cfg), upstreams: upstreams, roles: roles,
	})
	if err != nil {
		return err
	}
	if err := s.listen(cfg.Listen); err != nil {
		return err
	}
	stop := onHangup(func() { s.reload(ctx, path, certs) })
	defer stop()
	n.awaitReady(ctx)
	log.Info("ready", "gateway", s.address("gateway"), "api", s.address("api"), "ops", s.address("ops"), "roles", roles)
	return s.run(ctx, 30*time.Second)
}

// reload swaps in what the file says now, or keeps what runs.
func (s *server) reload(ctx context.Context, path string, certs *certificates) {
	log := s.node.plan.log
	err := func() error {
		cfg, err := config.Load(path)
		if err != nil {
			return err
		}
		upstreams, err := upstreamsOf(s.node, cfg)
		if err != nil {
			return err
		}
		if err := certs.load(cfg); err != nil || s.gateway == nil {
			return err
		}
		return s.gateway.Load(ctx, routesOf(cfg), upstreams)
	}()
	if err != nil {
		log.Error("the configuration was not taken; the old one runs on", "error", err)
		return
	}
	log.Info("the configuration was taken")
}

func onHangup(do func()) (stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ch:
				do()
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(ch); close(done) }
}

// servePlan opens the root key and states what the engines are told.
func servePlan(cfg *config.Config, log *slog.Logger) (plan, error) {
	passphrase, err := passphraseOf(cfg)
	if err != nil {
		return plan{}, err
	}
	root, err := local.Open(cfg.Root.File, passphrase)
	passphrase.Destroy()
	if err != nil {
		return plan{}, err
	}
	out := outgoing.Config{Allow: cfg.Outgoing.Allow, AllowLoopback: cfg.Outgoing.AllowLoopback}
	if cfg.Outgoing.CA != "" {
		if out.RootCAs, err = readPool(cfg.Outgoing.CA); err != nil {
			return plan{}, err
		}
	}
	budgets := map[ledger.Class]int64{}
	if cfg.Audit.MaxAllow > 0 {
		budgets[ledger.Allow] = int64(cfg.Audit.MaxAllow)
	}
	if cfg.Audit.MaxReject > 0 {
		budgets[ledger.Reject] = int64(cfg.Audit.MaxReject)
	}
	return plan{
		env: cfg.Env, issuer: cfg.Issuer, data: cfg.Data, application: cfg.Application, root: root,
		outgoing: out, audit: budgets, keyLife: time.Duration(cfg.Tokens.KeyLife), overlap: time.Duration(cfg.Tokens.KeyOverlap),
		now: time.Now, log: log,
	}, nil
}

func passphraseOf(cfg *config.Config) (secret.Bytes, error) {
	switch {
	case cfg.Root.FD != 0:
		return local.PassphraseFromFD(cfg.Root.FD)
	case cfg.Root.Credential != "":
		return local.PassphraseFromSystemdCredential(cfg.Root.Credential)
	}
	return local.PassphraseFromFile(cfg.Root.Passphrase, cfg.Data)
}

func readPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the CA file cannot be read: "+path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fault.New(fault.Invalid, "the CA file holds no PEM certificate: "+path)
	}
	return pool, nil
}

func readPair(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the certificate and key cannot be used: "+cert+", "+key, err)
	}
	return &pair, nil
}

// certificates are the listeners' own; they change at reload.
type certificates struct {
	forGateway, forAPI atomic.Pointer[tls.Certificate]
}

// load reads both pairs before it takes either.
func (c *certificates) load(cfg *config.Config) error {
	gw, err := readPair(cfg.TLS.Gateway.Cert, cfg.TLS.Gateway.Key)
	if err != nil {
		return err
	}
	api, err := readPair(cfg.TLS.API.Cert, cfg.TLS.API.Key)
	if err != nil {
		return err
	}
	c.forGateway.Store(gw)
	c.forAPI.Store(api)
	return nil
}

func (c *certificates) gateway(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.forGateway.Load(), nil
}

func (c *certificates) api(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.forAPI.Load(), nil
}

func routesOf(cfg *config.Config) []route.Route {
	var list []route.Route
	for _, r := range cfg.Routes {
		out := route.Route{
			ID: r.ID, Hosts: r.Hosts, Methods: r.Methods, Path: r.Path, Upstream: r.Upstream,
			Timeout: time.Duration(r.Timeout), MaxBody: int64(r.MaxBody),
		}
		if r.Require != nil {
			out.Require = &route.Requirement{
				Application: cfg.Application, Relation: r.Require.Relation, Object: r.Require.Object, Visible: r.Require.Visible,
			}
		}
		list = append(list, out)
	}
	return list
}

// upstreamsOf turns names of services into ids and files into certificates.
func upstreamsOf(n *node, cfg *config.Config) ([]gateway.Upstream, error) {
	var list []gateway.Upstream
	for name, u := range cfg.Upstreams {
		svc, err := n.directory.ResolveService(tenant.Platform, u.Service)
		if err != nil {
			return nil, fault.New(fault.Invalid, "upstreams."+name+": the platform has no service "+u.Service)
		}
		out := gateway.Upstream{Name: name, URL: u.URL, Service: svc.ID}
		if u.CA != "" {
			if out.CA, err = readPool(u.CA); err != nil {
				return nil, err
			}
		}
		if u.ClientCert != "" {
			if out.Certificate, err = readPair(u.ClientCert, u.ClientKey); err != nil {
				return nil, err
			}
		}
		if u.Plaintext != nil {
			out.Plaintext = &gateway.Plaintext{Reason: u.Plaintext.Reason, Until: u.Plaintext.Until}
			n.plan.log.Warn("an upstream is reached without TLS", "upstream", name, "reason", u.Plaintext.Reason, "until", u.Plaintext.Until)
		}
		list = append(list, out)
	}
	return list, nil
}
