package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
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
		{"dev", "[--data DIR] [--gateway ADDR] [--api ADDR] [--grpc ADDR] [--ops ADDR]", "run everything in one process, with people and a service to try it on", runDev},
		{"init", "--issuer URL --audience A --upstream URL", "make an installation for your own login and service", runInit},
		{"serve", "--config FILE", "run an installation", runServe},
		{"config check", "FILE", "check a configuration file without starting anything: exit 0 good, 1 bad", runConfigCheck},
		{"version", "", "print the version", runVersion},
	}
}

func runVersion(_ context.Context, c *call) error {
	if _, err := c.parse(c.flags(), 0, 0); err != nil {
		return err
	}
	return c.show(map[string]string{"version": version()}, func(w io.Writer) { fmt.Fprintln(w, "bulwark", version()) })
}

// runConfigCheck answers yes or no about the file alone: what it points to
// (certificates, the root key) may be on another machine.
func runConfigCheck(_ context.Context, c *call) error {
	args, err := c.parse(c.flags(), 1, 1)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return fault.Wrap(fault.Invalid, "the config file cannot be read: "+args[0], err)
	}
	result := checkConfig(text, filepath.Dir(args[0]), time.Now())
	err = c.show(result, func(w io.Writer) {
		for _, p := range result.Problems {
			fmt.Fprintln(w, p)
		}
		for _, n := range result.Notes {
			fmt.Fprintln(w, "note:", n)
		}
		if result.OK {
			fmt.Fprintf(w, "ok: %d routes, %d upstreams\n", result.Routes, result.Upstreams)
		}
	})
	if err == nil && !result.OK {
		return errNo
	}
	return err
}

// configResult is what config check prints.
type configResult struct {
	OK        bool     `json:"ok"`
	Routes    int      `json:"routes"`
	Upstreams int      `json:"upstreams"`
	Problems  []string `json:"problems"`
	Notes     []string `json:"notes"`
}

func checkConfig(text []byte, dir string, now time.Time) (r configResult) {
	r.Problems, r.Notes = []string{}, []string{}
	cfg, err := config.Parse(text, dir)
	if err == nil {
		_, err = route.Compile(routesOf(cfg.Application, cfg.Routes))
	}
	if err != nil {
		r.Problems = strings.Split(fault.Public(err), "\n")
		return r
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Upstreams)) {
		p := cfg.Upstreams[name].Plaintext
		switch {
		case p == nil:
		case now.Before(p.Until):
			r.Notes = append(r.Notes, "upstreams."+name+" is reached without TLS until "+when(p.Until)+": "+p.Reason)
		default:
			r.Problems = append(r.Problems, "config: upstreams."+name+": the excuse from TLS ended at "+when(p.Until)+", so every request to it is refused; give it an https url")
		}
	}
	r.OK, r.Routes, r.Upstreams = len(r.Problems) == 0, len(cfg.Routes), len(cfg.Upstreams)
	return r
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
	keepHeapFloor()
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
		gatewayTLS: certs.gateway, apiTLS: certs.api, routes: routesOf(cfg.Application, cfg.Routes), upstreams: upstreams, roles: roles,
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
	ready := map[string]any{"gateway": s.address("gateway"), "api": s.address("api"), "grpc": s.address("grpc"), "ops": s.address("ops"), "roles": roles}
	if err := c.show(ready, func(io.Writer) {}); err != nil { // the log says it to people
		return err
	}
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
		return s.routing.reload(ctx, routesOf(cfg.Application, cfg.Routes), upstreams)
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
		limits: cfg.Limits, now: time.Now, log: log,
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

// routesOf makes the gateway's routes of the configuration's: their relations are
// the application's.
func routesOf(application string, of []config.Route) []route.Route {
	var list []route.Route
	for _, r := range of {
		out := route.Route{
			ID: r.ID, Hosts: r.Hosts, Methods: r.Methods, Path: r.Path, Upstream: r.Upstream,
			Explain: r.Explain, Timeout: time.Duration(r.Timeout), MaxBody: int64(r.MaxBody),
		}
		if r.Require != nil {
			out.Require = &route.Requirement{
				Application: application, Relation: r.Require.Relation, Object: r.Require.Object, Visible: r.Require.Visible,
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
