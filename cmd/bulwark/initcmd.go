package main

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/config"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// initOptions is what init is told. The folder that it makes holds config.yaml,
// root.pass, tls/ and data/, so that one look shows everything.
type initOptions struct {
	dir, env, url                string
	gateway, ops, grpc           string
	issuer, audience, kind, algs string
	issuerCA                     string
	upstream, upstreamCA         string
	tenant                       string
	allowLoopback                bool
}

// initResult is what init prints.
type initResult struct {
	Config     string `json:"config"`
	Tenant     string `json:"tenant"`
	Connection string `json:"connection"`
	Code       string `json:"code"` // enrols the operator; shown once
	Gateway    string `json:"gateway"`
	API        string `json:"api"`
	Audience   string `json:"audience"` // of the assertions that your service gets
	CA         string `json:"ca"`
}

// runInit makes an installation: the one ceremony that works on the storage
// itself, under its lock, with an event for each thing that it makes.
func runInit(ctx context.Context, c *call) error {
	var o initOptions
	f := c.flags()
	f.StringVar(&o.dir, "dir", "bulwark", "folder to make: config.yaml, root.pass, tls/, data/")
	f.StringVar(&o.env, "env", "prod", "name of the environment, sealed into the root key")
	f.StringVar(&o.url, "url", "https://localhost:8444", "URL of the API port as clients reach it: the issuer of Bulwark's own tokens")
	f.StringVar(&o.gateway, "gateway", config.DefaultGateway, "address of the gateway")
	f.StringVar(&o.ops, "ops", config.DefaultOps, "address of /livez /readyz /metrics")
	f.StringVar(&o.grpc, "grpc", config.DefaultGRPC, "address of the gRPC API")
	f.StringVar(&o.issuer, "issuer", "", "your login: https URL of the issuer, as its tokens spell it")
	f.StringVar(&o.issuerCA, "issuer-ca", "", "PEM file with the CA of your login's certificate, where it is not a public one")
	f.StringVar(&o.audience, "audience", "", "the audience that your login writes into access tokens")
	f.StringVar(&o.kind, "kind", "at+jwt", "shape of its tokens: at+jwt, okta, entra or google")
	f.StringVar(&o.algs, "algs", "RS256", "its signature algorithms, separated by commas")
	f.StringVar(&o.upstream, "upstream", "", "your service: https://host:port, or http on loopback")
	f.StringVar(&o.upstreamCA, "upstream-ca", "", "PEM file with the CA of your service's certificate")
	f.StringVar(&o.tenant, "tenant", "first", "name of the first tenant")
	f.BoolVar(&o.allowLoopback, "allow-loopback", false, "let Bulwark fetch your login's keys from this machine")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	if o.issuer == "" || o.upstream == "" || o.audience == "" {
		return usageError("--issuer, --audience and --upstream are needed")
	}
	for _, file := range []string{o.issuerCA, o.upstreamCA} {
		if file != "" {
			if _, err := readPool(file); err != nil {
				return err
			}
		}
	}
	r, err := o.begin(ctx)
	if err != nil {
		return err
	}
	return c.show(r, func(w io.Writer) { r.print(w, o) })
}

// begin makes the folder, and removes it again when what goes into it cannot
// be made: what is left is a whole installation or none. It never touches a
// folder that is there.
func (o *initOptions) begin(ctx context.Context) (*initResult, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the folder has no path: "+o.dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the folder cannot be made: "+filepath.Dir(dir), err)
	}
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, fault.New(fault.Conflict, o.dir+" exists, and init never touches what is there; choose another folder with --dir")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the folder cannot be made: "+dir, err)
	}
	o.dir = dir
	r, err := o.make(ctx)
	if err == nil {
		return r, nil
	}
	if errRemove := os.RemoveAll(dir); errRemove != nil {
		return nil, fault.Wrap(fault.KindOf(err), fault.Public(err)+"\n"+dir+" is not whole and could not be removed: remove it", errors.Join(err, errRemove))
	}
	return nil, err
}

func (o *initOptions) make(ctx context.Context) (*initResult, error) {
	dir := o.dir
	for _, sub := range []string{"tls", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fault.Wrap(fault.Unavailable, "the folder cannot be made: "+filepath.Join(dir, sub), err)
		}
	}
	if err := o.makeCertificates(); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.yaml")
	if err := writeDurable(path, []byte(o.file())); err != nil {
		return nil, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return nil, inFlags(err)
	}
	passphrase := base64.RawURLEncoding.EncodeToString(secret.Random(24).Reveal())
	if err := writeDurable(cfg.Root.Passphrase, []byte(passphrase+"\n")); err != nil {
		return nil, err
	}
	root, err := local.Create(cfg.Root.File, secret.New([]byte(passphrase)), local.Config{Env: o.env})
	if err != nil {
		return nil, err
	}
	p := plan{
		env: o.env, issuer: cfg.Issuer, data: cfg.Data, application: cfg.Application, root: root,
		outgoing: outgoing.Config{AllowLoopback: o.allowLoopback}, now: time.Now, log: slog.New(slog.DiscardHandler),
	}
	if err := ensureInstance(ctx, p); err != nil {
		return nil, err
	}
	n, err := openNode(ctx, p)
	if err != nil {
		return nil, err
	}
	defer n.close(context.WithoutCancel(ctx))
	r, err := o.found(ctx, n)
	if err != nil {
		return nil, err
	}
	r.Config, r.API, r.Gateway, r.CA = path, cfg.Issuer, "https://"+cfg.Listen.Gateway, filepath.Join(dir, "tls", caFile)
	return r, nil
}

// named says which flag an engine's refusal is about.
func named(flag string, err error) error {
	return fault.Wrap(fault.KindOf(err), flag+": "+fault.Public(err), err)
}

// inFlags says what is wrong with the file that init was about to write in the
// words of the flags that its values came from.
func inFlags(err error) error {
	text := strings.NewReplacer(
		"config: upstreams.main: ", "--upstream: ", "config: issuer: ", "--url: ", "config: env: ", "--env: ", "config: listen.", "--",
	).Replace(fault.Public(err))
	return fault.Wrap(fault.KindOf(err), text, err)
}

// found makes the first tenant with its connection, the service behind the
// gateway, an empty model, and the code for the operator.
func (o *initOptions) found(ctx context.Context, n *node) (*initResult, error) {
	d, ev := n.directory, ledger.Event{Subject: "system"}
	t, err := d.CreateTenant(ctx, ev, o.tenant)
	if err != nil {
		return nil, named("--tenant", err)
	}
	if err := n.ensureKEK(ctx, t.Tenant); err != nil {
		return nil, err
	}
	connection, err := d.CreateConnection(ctx, ev, directory.Connection{
		Tenant: t.Tenant, Name: "login", Issuer: o.issuer, Audience: o.audience,
		Kind: directory.ConnectionKind(o.kind), Algs: strings.Split(o.algs, ","),
	})
	if err != nil {
		return nil, named("--issuer, --audience, --kind or --algs", err)
	}
	svc, err := d.CreateService(ctx, ev, tenant.Platform, "upstream")
	if err != nil {
		return nil, err
	}
	if _, err := d.Install(ctx, ev, t.Tenant, svc.ID, nil, time.Time{}); err != nil {
		return nil, err
	}
	platform, err := d.SystemGraph(tenant.Platform)
	if err != nil {
		return nil, err
	}
	s := &seeder{n: n}
	change := ledger.Change{Store: platform, Event: s.change("release.activate", tenant.Platform)}
	if _, err := n.authz.Enforce(ctx, change, n.plan.application, authz.Draft{Model: docsModel}); err != nil {
		return nil, err
	}
	code, _, err := d.Invite(ctx, ev, directory.Inviter{Tenant: tenant.Platform}, tenant.Platform, "operator", "")
	if err != nil {
		return nil, err
	}
	return &initResult{Tenant: t.Tenant.String(), Connection: connection.ID, Code: code, Audience: d.ServiceAudience(svc.ID)}, nil
}

// makeCertificates makes a CA for this machine and one certificate, to begin
// with; the operator replaces them with real ones.
func (o *initOptions) makeCertificates() error {
	dir := filepath.Join(o.dir, "tls")
	ca, err := makeCA(dir, time.Now())
	if err != nil {
		return err
	}
	cert, err := ca.issue("bulwark", x509.ExtKeyUsageServerAuth, time.Now())
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return fault.Wrap(fault.Internal, "a key does not encode", err)
	}
	return errors.Join(
		writeDurable(filepath.Join(dir, "bulwark.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})),
		writeDurable(filepath.Join(dir, "bulwark-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	)
}

// file is the configuration to begin with. docs/operate/config.yaml has every key.
func (o *initOptions) file() string {
	api := config.DefaultAPI
	if u, err := url.Parse(o.url); err == nil && u.Port() != "" {
		api = "127.0.0.1:" + u.Port()
	}
	path := func(before, file string) string {
		if file == "" {
			return ""
		}
		if abs, err := filepath.Abs(file); err == nil {
			file = abs
		}
		return before + yamlString(file)
	}
	return fmt.Sprintf(`# Written by bulwark init. Every key: docs/operate/config.yaml
version: 1
env: %s
issuer: %s
data: data
listen: {gateway: %q, api: %q, ops: %q, grpc: %q}
tls: # for this machine; replace with real certificates
  gateway: {cert: tls/bulwark.pem, key: tls/bulwark-key.pem}
  api: {cert: tls/bulwark.pem, key: tls/bulwark-key.pem}
root:
  passphrase_file: root.pass # better: passphrase_credential, or passphrase_fd
outgoing: {allow_loopback: %t%s}
application: app
upstreams:
  main:
    url: %s
    service: upstream%s
routes:
  # Anyone whom your login knows and who is a user of a tenant. Add routes
  # with a requirement above it: literal and {variable} segments win over {rest...}.
  - id: document-read
    methods: [GET]
    path: /documents/{id}
    upstream: main
    require: {relation: can_view, object: "document:{id}", visible: can_view}
  - id: everything-else
    methods: ["*"]
    path: /{rest...}
    upstream: main
`, o.env, yamlString(strings.TrimSuffix(o.url, "/")), o.gateway, api, o.ops, o.grpc, o.allowLoopback, path(", ca: ", o.issuerCA), yamlString(o.upstream), path("\n    ca: ", o.upstreamCA))
}

func yamlString(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func (r *initResult) print(w io.Writer, o initOptions) {
	exe := quote(os.Args[0])
	fmt.Fprintf(w, `The installation is made. Its configuration: %[1]s

The root key's passphrase is in %[2]s: move it to your secret store.

  $ %[3]s serve --config %[1]s

This code enrols the operator, once, within 15 minutes. The operator can create
tenants and invite each tenant's first administrator, and nothing else:

  $ %[3]s enrol %[4]s --api %[5]s --ca %[6]s --name operator --profile operator
  $ %[3]s invite --profile operator --tenant %[7]s --role administrator

Your service gets each request with an assertion whose audience is
%[8]s
`, quote(r.Config), quote(filepath.Join(o.dir, "root.pass")), exe, r.Code, r.API, quote(r.CA), o.tenant, r.Audience)
	if u, err := url.Parse(r.API); err == nil && !thisMachine(u.Hostname()) {
		fmt.Fprintf(w, "\nThe certificates in %s are for this machine alone: put those of %s in their place.\n", quote(filepath.Join(o.dir, "tls")), u.Hostname())
	}
}

func thisMachine(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
