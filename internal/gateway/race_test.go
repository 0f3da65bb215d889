package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// A client that goes away over HTTP/2 in the middle of its body: what ends the
// reading must not touch a writer that net/http has taken back. It ended the
// process, within a fraction of a second.
func TestCancelledBodies(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	h := build(t, func(http.ResponseWriter, *http.Request) { <-hold }, nil)
	defer close(hold)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: h.ca.pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 60 {
				ctx, cancel := context.WithCancel(t.Context())
				pr, pw := io.Pipe()
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+h.addr+"/open/x", pr)
				if err != nil {
					t.Error(err)
				}
				req.Header.Set("Authorization", credential)
				go func() {
					_, _ = pw.Write([]byte("x")) // the request may be gone already
					cancel()
				}()
				if res, err := tr.RoundTrip(req); err == nil {
					_ = res.Body.Close()
				}
				_ = pw.Close()
			}
		})
	}
	wg.Wait()
}

// A body that passes its limit while the upstream's answer is copied: two
// goroutines wrote into the answer's headers.
func TestLimitWhileAnswering(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	h := build(t, nil, nil)
	// In place of the harness's own, which reads the body before it answers.
	h.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 200 {
			w.Header().Set(fmt.Sprintf("X-H-%d", i), "v")
		}
		_ = http.NewResponseController(w).EnableFullDuplex() // offered by net/http
		begun <- struct{}{}
		_, _ = io.WriteString(w, "early\n")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body) // ends with the connection
	})
	for range 200 {
		c := h.dial("http/1.1")
		_, _ = io.WriteString(c, "POST /small HTTP/1.1\r\nHost: localhost\r\nAuthorization: "+credential+"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
		<-begun
		_, _ = io.WriteString(c, "20\r\n"+strings.Repeat("y", 32)+"\r\n0\r\n\r\n")
		_, _ = io.ReadAll(c) // whatever came, the connection ends
		_ = c.Close()
	}
}

// An interim answer does not bring a connection back to trust.
func TestInterimAnswerKeepsTheEnd(t *testing.T) {
	t.Parallel()
	h := build(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	}, nil)
	head := "POST /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\n"
	out := h.send(head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + "GET /open/y HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\nConnection: close\r\n\r\n")
	if n := len(h.upstream.requests()); n > 1 || len(out) > 1 {
		t.Errorf("%d requests reached the upstream, %d answers came: %+v", n, len(out), out)
	}
}
