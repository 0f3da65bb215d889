package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// installation is what `bulwark init` made, for a login of the test's own.
type installation struct {
	t        testing.TB
	dir      string // of init
	home     string // where profiles are kept
	login    *login
	upstream string

	Config, Code, API, CA, Gateway, Tenant, Connection string
}

// newInstallation runs init. A nil login gets one that nobody asks anything.
func newInstallation(t testing.TB, l *login, args ...string) *installation {
	t.Helper()
	if l == nil {
		l = newLogin(t)
	}
	dir := t.TempDir()
	in := &installation{t: t, dir: filepath.Join(dir, "bulwark"), home: filepath.Join(dir, "home"), login: l, upstream: "https://127.0.0.1:1"}
	all := append([]string{
		"init", "--json", "--dir", in.dir, "--issuer", l.url, "--issuer-ca", l.ca, "--audience", "api://docs", "--algs", "ES256",
		"--allow-loopback", "--upstream", in.upstream, "--url", "https://" + freeAddr(t), "--gateway", freeAddr(t), "--ops", freeAddr(t), "--grpc", freeAddr(t), "--tenant", "acme",
	}, args...)
	out, errs, code := run(t, all...)
	if code != 0 {
		t.Fatalf("init: exit %d: %s", code, errs)
	}
	if err := json.Unmarshal([]byte(out), in); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return in
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// edit writes a changed copy of the configuration beside the first, and fails
// the test when there is nothing to change.
func (in *installation) edit(t testing.TB, pairs ...string) string {
	t.Helper()
	b, err := os.ReadFile(in.Config)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the configuration has no %q:\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	f, err := os.CreateTemp(in.dir, "edited-*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// cli runs a command with the profile and fails the test unless it exits with 0.
func (in *installation) cli(profile string, args ...string) string {
	in.t.Helper()
	out, errs, code := runWith(in.t, "", []string{"XDG_CONFIG_HOME=" + in.home}, append(args, "--profile", profile)...)
	if code != 0 {
		in.t.Fatalf("bulwark %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// serve runs the installation until the test ends.
func (in *installation) serve(config string) *process {
	in.t.Helper()
	p := start(in.t, bulwarkPath(), "serve", "--config", config)
	p.await("ready", func() bool { return strings.Contains(p.err.String(), `"msg":"ready"`) })
	return p
}

// invite makes a code as one person and redeems it as another.
func (in *installation) invite(by, profile string, args ...string) {
	in.t.Helper()
	var i struct{ Code string }
	if err := json.Unmarshal([]byte(in.cli(by, append([]string{"invite", "--json"}, args...)...)), &i); err != nil {
		in.t.Fatal(err)
	}
	in.enrol(i.Code, profile)
}

func (in *installation) enrol(code, profile string) {
	in.t.Helper()
	in.cli(profile, "enrol", code, "--api", in.API, "--ca", in.CA, "--name", profile)
}

// staff enrols the operator, and the tenant's people one after the other.
func (in *installation) staff() {
	in.t.Helper()
	in.enrol(in.Code, "operator")
	in.invite("operator", "admin", "--tenant", "acme", "--role", "administrator")
	in.invite("admin", "access", "--role", "access_manager")
	in.invite("admin", "auditor", "--role", "auditor")
}

// login is an identity provider of the test's own: real TLS, real keys.
type login struct {
	url, ca, cert, certKey string

	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey
	more []jose.JSONWebKey // published beside keys
	hits int
	tls  tls.Certificate
}

func newLogin(t testing.TB) *login {
	t.Helper()
	l := &login{keys: map[string]*ecdsa.PrivateKey{}}
	l.rotate("k1")
	dir := t.TempDir()
	l.ca, l.cert, l.certKey = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	l.tls = makeCertificate(t, l.ca, l.cert, l.certKey)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": l.url, "jwks_uri": l.url + "/jwks"}) // the asker may be gone
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hits++
		set := jose.JSONWebKeySet{Keys: slices.Clone(l.more)}
		for kid, k := range l.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: &k.PublicKey, KeyID: kid, Algorithm: "ES256", Use: "sig"})
		}
		_ = json.NewEncoder(w).Encode(set) // the asker may be gone
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.url = "https://" + listener.Addr().String()
	srv := &http.Server{Handler: mux, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{l.tls}}}
	go func() { _ = srv.ServeTLS(listener, "", "") }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return l
}

// rotate makes the key kid the only one.
func (l *login) rotate(kid string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys = map[string]*ecdsa.PrivateKey{kid: key}
}

// sign makes a token with the claims; those not given are good ones.
func (l *login) sign(t testing.TB, kid, typ string, claims map[string]any) string {
	t.Helper()
	l.mu.Lock()
	key := l.keys[kid]
	l.mu.Unlock()
	all := map[string]any{
		"iss": l.url, "aud": "api://docs", "client_id": "app", "jti": "j-" + strconv.FormatInt(time.Now().UnixNano(), 36), "scope": "read",
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
	}
	for k, v := range claims {
		if v == nil {
			delete(all, k)
		} else {
			all[k] = v
		}
	}
	return signWith(t, key, kid, typ, all)
}

func signWith(t testing.TB, key any, kid, typ string, claims any) string {
	t.Helper()
	alg := jose.ES256
	if _, ok := key.(*rsa.PrivateKey); ok {
		alg = jose.RS256
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// makeCertificate makes a CA and a certificate for loopback.
func makeCertificate(t testing.TB, caFile, certFile, keyFile string) tls.Certificate {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "e2e"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		caFile: {Type: "CERTIFICATE", Bytes: caDER}, certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
