// Package listen is what the example services share: their flags, their TLS listener.
package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// Options are what an example service is told.
type Options struct {
	Addr, Cert, CertKey     string
	Issuer, CA              string
	Audience, ClientID, Key string
}

// Flags registers the options as flags.
func (o *Options) Flags() {
	flag.StringVar(&o.Addr, "addr", "127.0.0.1:0", "address to listen on; port 0 picks a free one")
	flag.StringVar(&o.Cert, "cert", "", "PEM certificate")
	flag.StringVar(&o.CertKey, "cert-key", "", "PEM key of the certificate")
	flag.StringVar(&o.Issuer, "issuer", "", "URL of Bulwark's API")
	flag.StringVar(&o.CA, "ca", "", "PEM file with the CA of Bulwark and of other services")
	flag.StringVar(&o.Audience, "audience", "", "this service's own audience (URN)")
	flag.StringVar(&o.ClientID, "client-id", "", "this service's id")
	flag.StringVar(&o.Key, "key", "", "file with this service's private JWK")
}

// HTTP returns a client that trusts the CA and follows nobody elsewhere.
func (o *Options) HTTP() (*http.Client, error) {
	b, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("the CA file holds no PEM certificate")
	}
	return &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Serve serves TLS until ctx ends. The first line on standard output is the
// address, so that whoever started the service finds it.
func (o *Options) Serve(ctx context.Context, h http.Handler) error {
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return err
	}
	fmt.Println("https://" + l.Addr().String())
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13}}
	go func() {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(stop) // what is not done by then is cut
	}()
	if err := srv.ServeTLS(l, o.Cert, o.CertKey); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
