package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// body is what the upstream answers: 186 bytes, as in the baselines that these
// numbers are compared with.
var body = []byte(`{"id":"roadmap","title":"Roadmap for the coming year","owner":"alice","tags":["plan","draft"],"words":1280,"updated":"2026-11-24T12:00:00Z","parent":"plans","shared":true,"v":"00000000"}`)

// listenTLS prints the address that it got, for whoever started this part.
func listenTLS(cert, key string) (net.Listener, *tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	fmt.Println("https://" + l.Addr().String())
	return l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}, nil
}

func runUpstream(args []string) error {
	f := flag.NewFlagSet("upstream", flag.ExitOnError)
	cert, key := f.String("cert", "", ""), f.String("key", "", "")
	_ = f.Parse(args) // ExitOnError
	l, cfg, err := listenTLS(*cert, *key)
	if err != nil {
		return err
	}
	length := strconv.Itoa(len(body))
	srv := &http.Server{TLSConfig: cfg, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", length)
		_, _ = w.Write(body) // the proxy may be gone
	})}
	return srv.ServeTLS(l, "", "")
}

// runBare is the peer: ReverseProxy with a transport and buffers of its own.
func runBare(args []string) error {
	f := flag.NewFlagSet("bare", flag.ExitOnError)
	cert, key, ca, to := f.String("cert", "", ""), f.String("key", "", ""), f.String("ca", "", ""), f.String("to", "", "")
	_ = f.Parse(args) // ExitOnError
	target, err := url.Parse(*to)
	if err != nil {
		return err
	}
	pool, err := readPool(*ca)
	if err != nil {
		return err
	}
	l, cfg, err := listenTLS(*cert, *key)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool},
			MaxIdleConns:    512, MaxIdleConnsPerHost: 512, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		BufferPool: &buffers{},
		ErrorLog:   log.New(io.Discard, "", 0),
	}
	return (&http.Server{TLSConfig: cfg, Handler: proxy}).ServeTLS(l, "", "")
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

func readPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("no certificate in " + path)
	}
	return pool, nil
}

// result is what one row of one round gave.
type result struct {
	Requests int64         `json:"requests"`
	Failures int64         `json:"failures"`
	Elapsed  time.Duration `json:"elapsed"`
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
}

// runLoad sends prepared HTTP/1.1 requests over TLS and reads answers with the
// least work that is right, so that the machine's time goes to what is measured.
func runLoad(args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	to, ca, tokens := f.String("to", "", ""), f.String("ca", "", ""), f.String("tokens", "", "")
	path := f.String("path", "/documents/roadmap", "")
	conns, length := f.Int("connections", 64, ""), f.Duration("length", 3*time.Second, "")
	_ = f.Parse(args) // ExitOnError
	u, err := url.Parse(*to)
	if err != nil {
		return err
	}
	pool, err := readPool(*ca)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(*tokens)
	if err != nil {
		return err
	}
	var requests [][]byte
	for token := range strings.FieldsSeq(string(text)) {
		requests = append(requests, []byte("GET "+*path+" HTTP/1.1\r\nHost: "+u.Host+"\r\nAuthorization: Bearer "+token+"\r\n\r\n"))
	}
	results, failures := make([][]time.Duration, *conns), make([]int64, *conns)
	errs := make([]error, *conns)
	began := time.Now()
	end := began.Add(*length)
	var wg sync.WaitGroup
	for i := range *conns {
		wg.Go(func() {
			results[i], failures[i], errs[i] = worker(u.Host, pool, requests, i, *conns, end)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	all := slices.Concat(results...)
	slices.Sort(all)
	r := result{Requests: int64(len(all)), Elapsed: time.Since(began)}
	for _, n := range failures {
		r.Failures += n
	}
	if len(all) > 0 {
		r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func worker(host string, pool *x509.CertPool, requests [][]byte, n, step int, end time.Time) (took []time.Duration, failures int64, err error) {
	conn, err := tls.Dial("tcp", host, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 16<<10)
	for i := n; ; i += step {
		at := time.Now()
		if at.After(end) {
			return took, failures, nil
		}
		if _, err := conn.Write(requests[i%len(requests)]); err != nil {
			return took, failures, err
		}
		ok, err := readAnswer(r)
		if err != nil {
			return took, failures, err
		}
		if !ok {
			failures++
		}
		took = append(took, time.Since(at))
	}
}

// readAnswer reads one answer with a Content-Length. ok: status 200, and the
// body that the upstream gives.
func readAnswer(r *bufio.Reader) (ok bool, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	ok = bytes.HasPrefix(line, []byte("HTTP/1.1 200"))
	length := -1
	for {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return false, err
			}
		}
	}
	if length < 0 {
		return false, errors.New("an answer without Content-Length")
	}
	_, err = r.Discard(length)
	return ok && length == len(body), err
}
