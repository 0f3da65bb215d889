package e2e

import (
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// httpClient is a client that trusts one CA.
type httpClient struct{ *http.Client }

func newHTTP(t testing.TB, ca string) *httpClient { return &httpClient{clientFor(t, ca)} }

func (c *httpClient) do(t testing.TB, method, url, body string, header ...string) reply {
	t.Helper()
	r, err := send(c.Client, method, url, body, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return r
}

// upstream is a service behind the gateway that keeps what it was sent.
type upstream struct {
	url, ca string
	n       atomic.Int64
}

func (u *upstream) count() int64 { return u.n.Load() }

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	dir := t.TempDir()
	u := &upstream{ca: filepath.Join(dir, "ca.pem")}
	cert := makeCertificate(t, u.ca, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.url = "https://" + l.Addr().String()
	srv := &http.Server{
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			u.n.Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"ok":true}`)) // the gateway may be gone
		}),
	}
	go func() { _ = srv.ServeTLS(l, "", "") }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return u
}
