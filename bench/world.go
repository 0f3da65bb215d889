package main

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
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// world is everything that a run needs: an issuer, an upstream, the bare proxy,
// and Bulwark as `init` and `serve` make it.
type world struct {
	*options
	dir     string
	closers []func()

	caFile, certFile, keyFile string
	issuer                    string
	key                       *ecdsa.PrivateKey

	upstream, bare, bulwark *part
	ready                   time.Duration
	ops                     *http.Client // trusts Bulwark's certificate
	api, opsURL, config     string
	grpc, prodCA            string
	idle                    float64 // bytes resident before the load
	sessions                map[string]session
}

// part is a process whose CPU time is read.
type part struct {
	name, url string
	cmd       *exec.Cmd
}

func (w *world) close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) build(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", w.path("bulwark"), "./cmd/bulwark")
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	return cmd.Run()
}

// cli runs a command of Bulwark with the person's profile.
func (w *world) cli(ctx context.Context, profile string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.path("bulwark"), append(args, "--profile", profile)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+w.path("home"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("bulwark %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out, nil
}

// launch starts a process of ours and reads the address that it prints first.
func (w *world) launch(name, exe string, args ...string) (*part, error) {
	cmd := exec.Command(exe, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w.closers = append(w.closers, func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s did not start: %w", name, err)
	}
	return &part{name, strings.TrimSpace(line), cmd}, nil
}

func (w *world) open(ctx context.Context) (err error) {
	if err := w.certificates(); err != nil {
		return err
	}
	if err := w.openIssuer(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	pair := []string{"-cert", w.certFile, "-key", w.keyFile}
	if w.upstream, err = w.launch("upstream", self, append([]string{"upstream"}, pair...)...); err != nil {
		return err
	}
	if w.bare, err = w.launch("bare", self, append([]string{"bare", "-ca", w.caFile, "-to", w.upstream.url}, pair...)...); err != nil {
		return err
	}
	return w.openBulwark(ctx)
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

// openBulwark makes an installation as an operator would, and serves it.
func (w *world) openBulwark(ctx context.Context) error {
	gateway, api, ops := freeAddr(), freeAddr(), freeAddr()
	w.opsURL, w.grpc = "https://"+ops, freeAddr()
	cmd := exec.CommandContext(ctx, w.path("bulwark"), "init", "--dir", w.path("prod"), "--json",
		"--issuer", w.issuer, "--issuer-ca", w.caFile, "--audience", "bench", "--kind", "at+jwt", "--algs", "ES256", "--allow-loopback",
		"--upstream", w.upstream.url, "--upstream-ca", w.caFile, "--gateway", gateway, "--ops", ops, "--grpc", w.grpc, "--url", "https://"+api, "--tenant", "acme")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	var made struct{ Config, Code, API, CA, Gateway string }
	if err := json.Unmarshal(out, &made); err != nil {
		return err
	}
	w.config, w.prodCA = made.Config, made.CA
	w.bulwark, w.api, w.sessions = &part{name: "bulwark", url: made.Gateway}, made.API, map[string]session{}
	w.closers = append(w.closers, func() { _ = w.stop() })
	if err := w.serve(ctx); err != nil {
		return err
	}
	enrol := func(code, profile string) error {
		_, err := w.cli(ctx, profile, "enrol", code, "--api", made.API, "--ca", made.CA, "--name", profile)
		return err
	}
	invite := func(by string, args ...string) (string, error) {
		out, err := w.cli(ctx, by, append([]string{"invite", "--json"}, args...)...)
		if err != nil {
			return "", err
		}
		var in struct{ Code string }
		return in.Code, json.Unmarshal(out, &in)
	}
	if err := enrol(made.Code, "operator"); err != nil {
		return err
	}
	code, err := invite("operator", "--tenant", "acme", "--role", "administrator")
	if err == nil {
		err = enrol(code, "admin")
	}
	for _, role := range []string{"access_manager", "auditor"} {
		if err == nil {
			if code, err = invite("admin", "--role", role); err == nil {
				err = enrol(code, role)
			}
		}
	}
	return err
}

// serve runs the installation until stop.
func (w *world) serve(ctx context.Context) error {
	serve := exec.Command(w.path("bulwark"), "serve", "--config", w.config)
	log, err := os.Create(w.path("serve.log"))
	if err != nil {
		return err
	}
	serve.Stdout, serve.Stderr = log, log
	began := time.Now()
	if err := serve.Start(); err != nil {
		return err
	}
	w.bulwark.cmd = serve
	err = w.awaitReady(ctx, w.prodCA, strings.TrimPrefix(w.api, "https://"))
	w.ready = time.Since(began)
	return err
}

func (w *world) stop() error {
	if w.bulwark.cmd == nil {
		return nil
	}
	cmd := w.bulwark.cmd
	w.bulwark.cmd = nil
	return errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait())
}

func (w *world) awaitReady(ctx context.Context, ca, api string) error {
	pool, err := readPool(ca)
	if err != nil {
		return err
	}
	w.ops = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: 10 * time.Second}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+api+"/.well-known/openid-configuration", nil)
		if err != nil {
			return err
		}
		if res, err := w.ops.Do(req); err == nil {
			_ = res.Body.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(w.path("serve.log"))
			return fmt.Errorf("serve is not ready: %s", log)
		case <-tick.C:
		}
	}
}

// people makes the users, links them to the issuer and lets them see a folder.
func (w *world) people(ctx context.Context) error {
	tokens, err := os.Create(w.path("tokens"))
	if err != nil {
		return err
	}
	defer tokens.Close()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: w.key, KeyID: "bench"}}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		return err
	}
	var first string
	for i := range w.tokens {
		sub := "person-" + strconv.Itoa(i)
		var u struct{ ID string }
		if err := w.call(ctx, "admin", "/users", map[string]string{"name": "p" + strconv.Itoa(i), "connection": "login", "external": sub}, &u); err != nil {
			return err
		}
		if err := w.write(ctx, "folder:plans", "viewer", "user:"+u.ID); err != nil {
			return err
		}
		now := time.Now()
		claims, err := json.Marshal(map[string]any{
			"iss": w.issuer, "aud": "bench", "sub": sub, "client_id": "app", "jti": sub,
			"iat": now.Unix(), "exp": now.Add(2 * time.Hour).Unix(), "scope": "read",
		})
		if err != nil {
			return err
		}
		jws, err := signer.Sign(claims)
		if err != nil {
			return err
		}
		token, err := jws.CompactSerialize()
		if err != nil {
			return err
		}
		if _, err := io.WriteString(tokens, token+"\n"); err != nil {
			return err
		}
		if first == "" {
			first = token
		}
	}
	if err := os.WriteFile(w.path("token"), []byte(first+"\n"), 0o600); err != nil {
		return err
	}
	return w.write(ctx, "document:roadmap", "parent", "folder:plans")
}

// write adds one tuple.
func (w *world) write(ctx context.Context, object, relation, user string) error {
	tuple := map[string]string{"object": object, "relation": relation, "user": user}
	return w.call(ctx, "access_manager", "/tuples", map[string]any{"writes": []any{tuple}}, nil)
}

// call posts to the admin API, as the CLI would, without a process for each.
func (w *world) call(ctx context.Context, profile, path string, in, out any) error {
	t := w.sessions[profile]
	if time.Since(t.at) > 2*time.Minute {
		text, err := w.cli(ctx, profile, "token", "--audience", "admin")
		if err != nil {
			return err
		}
		t = session{strings.TrimSpace(string(text)), time.Now()}
		w.sessions[profile] = t
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.api+"/admin/v1"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+t.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := w.ops.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %s (%w)", path, res.Status, answer, err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// session is a person's token for the admin API.
type session struct {
	token string
	at    time.Time
}

// openIssuer is the login that people already have, as far as Bulwark sees it.
func (w *world) openIssuer() (err error) {
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.issuer = "https://" + l.Addr().String()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &w.key.PublicKey, KeyID: "bench", Algorithm: "ES256", Use: "sig"}}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(map[string]string{"issuer": w.issuer, "jwks_uri": w.issuer + "/jwks"}) // the asker may be gone
	})
	mux.HandleFunc("GET /jwks", func(rw http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(rw).Encode(set) })
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.ServeTLS(l, w.certFile, w.keyFile) }() // ends with Close
	w.closers = append(w.closers, func() { _ = srv.Close() })
	return nil
}

// certificates makes one CA and one certificate for everything of the bench.
func (w *world) certificates() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bench"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	w.caFile, w.certFile, w.keyFile = w.path("ca.pem"), w.path("cert.pem"), w.path("key.pem")
	for path, block := range map[string]*pem.Block{
		w.caFile: {Type: "CERTIFICATE", Bytes: caDER}, w.certFile: {Type: "CERTIFICATE", Bytes: der}, w.keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
