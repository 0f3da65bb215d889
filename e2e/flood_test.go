package e2e

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// flood sends requests without a valid credential as fast as they are answered.
type flood struct {
	d    *dev
	stop chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	answers map[int]int // by status
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(b)
}

func encoded(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// credential is the nth bad one of a connection: all shapes in turn, each time
// with other random bytes. It returns the lines of the header.
func (f *flood) credential(n int, good string) string {
	claims := encoded(fmt.Sprintf(`{"iss":%q,"aud":"urn:bulwark:dev:gateway","sub":"user:x","exp":%d,"iat":%d}`, f.d.Issuer, time.Now().Unix()+60, time.Now().Unix()))
	switch n % 9 {
	case 0:
		return ""
	case 1:
		return "Authorization: Basic " + random(20) + "\r\n"
	case 2:
		return "Authorization: Bearer " + random(300) + "\r\n"
	case 3: // a key that nobody has, another one each time
		return "Authorization: Bearer " + encoded(`{"alg":"ES256","typ":"at+jwt","kid":"`+random(12)+`"}`) + "." + claims + "." + random(64) + "\r\n"
	case 4:
		return "Authorization: Bearer " + encoded(`{"alg":"none","typ":"at+jwt","kid":"k"}`) + "." + claims + ".\r\n"
	case 5:
		return "Authorization: Bearer " + strings.Repeat(".", 4000) + "\r\n"
	case 6:
		return "Authorization: Bearer " + good + "\r\nAuthorization: Bearer " + random(30) + "\r\n"
	case 7:
		return "Authorization: Bearer " + random(9000) + "\r\n"
	}
	return "Authorization: Bearer " + good[:strings.LastIndexByte(good, '.')+1] + random(64) + "\r\n"
}

// request is the nth request to the gateway.
func (f *flood) request(n int, good string) string {
	line := []string{"GET /documents/roadmap", "GET /whoami", "PUT /documents/" + random(6), "GET /" + random(9), "GET /documents/" + random(3)}[n%5]
	body := ""
	if strings.HasPrefix(line, "PUT") {
		body = "Content-Length: 0\r\n"
	}
	return line + " HTTP/1.1\r\nHost: " + host(f.d.Gateway) + "\r\n" + body + f.credential(n, good) + "\r\n"
}

func host(address string) string { u, _ := url.Parse(address); return u.Host }

// connection sends what next gives over one TLS connection at a time, from an
// address of its own network.
func (f *flood) connection(door string, network int, next func(int) string) {
	roots := f.d.http.Transport.(*http.Transport).TLSClientConfig.RootCAs
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, byte(network), 1)}, Timeout: 30 * time.Second},
		Config:    &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, NextProtos: []string{"http/1.1"}},
	}
	f.wg.Go(func() {
		var c net.Conn
		var in *bufio.Reader
		defer func() {
			if c != nil {
				_ = c.Close()
			}
		}()
		for n := network; ; n++ {
			select {
			case <-f.stop:
				return
			default:
			}
			var err error
			if c == nil {
				if c, err = dialer.Dial("tcp", host(door)); err != nil {
					f.d.t.Errorf("flood: %v", err)
					return
				}
				in = bufio.NewReader(c)
			}
			status, closed, err := exchange(c, in, next(n))
			if err != nil {
				f.d.t.Errorf("flood: no answer: %v", err)
				return
			}
			if closed {
				_ = c.Close()
				c = nil
			}
			f.mu.Lock()
			f.answers[status]++
			f.mu.Unlock()
		}
	})
}

func exchange(c net.Conn, in *bufio.Reader, request string) (status int, closed bool, err error) {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, false, err
	}
	if _, err := io.WriteString(c, request); err != nil {
		return 0, false, err
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, false, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Close, err
}

func startFlood(d *dev, good string) *flood {
	f := &flood{d: d, stop: make(chan struct{}), answers: map[int]int{}}
	for network := range 12 {
		f.connection(d.Gateway, network, func(n int) string { return f.request(n, good) })
	}
	for network := 12; network < 16; network++ {
		f.connection(d.API, network, func(n int) string {
			path := []string{"/admin/v1/users", "/admin/v1/tuples", "/admin/v1/audit/events"}[n%3]
			return "GET " + path + " HTTP/1.1\r\nHost: " + host(d.API) + "\r\n" + f.credential(n, good) + "\r\n"
		})
	}
	return f
}

func (f *flood) sum() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, times := range f.answers {
		n += times
	}
	return n
}

// honest are the latencies of somebody who asks one request after the other.
type honest struct {
	mu    sync.Mutex
	times []time.Duration
}

func (h *honest) ask(d *dev, until <-chan struct{}, want int, method string, token []string) {
	for {
		select {
		case <-until:
			return
		default:
		}
		began := time.Now()
		r, err := send(d.http, method, d.Gateway+"/documents/roadmap", "", token...)
		if err != nil || r.status != want {
			d.t.Errorf("an honest request: %d %s, %v", r.status, r.body, err)
			return
		}
		h.mu.Lock()
		h.times = append(h.times, time.Since(began))
		h.mu.Unlock()
	}
}

func (h *honest) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.times)
}

func (h *honest) String() string {
	slices.Sort(h.times)
	n := len(h.times)
	return fmt.Sprintf("%d requests, median %v, 99%% %v, slowest %v", n, h.times[n/2], h.times[n*99/100], h.times[n-1])
}

// TestFlood floods the doors with bad credentials, 5 s here and a minute in
// `make soak`, while alice and carol go on with their work.
func TestFlood(t *testing.T) {
	// Not parallel: it takes every processor, and says how others fare.
	lasts := 5 * time.Second
	if os.Getenv("SOAK") != "" {
		lasts = time.Minute
	}
	d := startDev(t, t.TempDir())
	alice, carol := d.token("alice@acme", "gateway"), d.token("carol@acme", "gateway")
	work := func(name string, during func()) (allows, denials *honest) {
		allows, denials = &honest{}, &honest{}
		end := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { allows.ask(d, end, 200, "GET", bearer(alice)) })
		wg.Go(func() { denials.ask(d, end, 403, "PUT", bearer(carol)) })
		during()
		close(end)
		wg.Wait()
		if allows.count() == 0 || denials.count() == 0 {
			t.Fatalf("%s: nobody got an answer", name)
		}
		t.Logf("%s: allowed %v; denied, on disk, %v", name, allows, denials)
		return allows, denials
	}
	passes := func(span time.Duration) func() {
		return func() {
			end := time.Now().Add(span)
			d.await("the time to pass", func() bool { return time.Now().After(end) })
		}
	}
	work("in peace", passes(time.Second))

	segments := size(t, d.dir, "*-reject.seg")
	f := startFlood(d, alice)
	began := time.Now()
	_, denials := work("in the flood", func() { floodFor(f, lasts) })
	close(f.stop)
	f.wg.Wait()
	seconds := time.Since(began).Seconds()

	sent := f.sum()
	var rejects []flooded
	d.await("the last count", func() bool {
		rejects = d.rejects()
		return total(rejects) >= uint64(sent)
	})
	if got := total(rejects); got != uint64(sent) {
		t.Errorf("%d requests were refused, the log counts %d", sent, got)
	}
	// What the log is given in a second does not depend on how many came, but
	// on how many reasons, routes and networks there are. It is taken once a
	// second, and once more where a tick comes late.
	kinds, blocks := map[string]bool{}, map[uint64]bool{}
	for _, e := range rejects {
		kinds[e.Reason+" "+e.Route+" "+e.Source] = true
		blocks[e.Block] = true
	}
	takes := int(2 * (seconds + 2))
	grown := size(t, d.dir, "*-reject.seg") - segments
	t.Logf("%d refusals in %.1f s (%v): %d kinds, %d events, %d blocks, %d bytes of segments", sent, seconds, f.answers, len(kinds), len(rejects), len(blocks), grown)
	if len(rejects) > takes*len(kinds) {
		t.Errorf("%d events for %d kinds of refusals in %.0f s", len(rejects), len(kinds), seconds)
	}
	if most := int64(takes * (len(kinds)*300 + 1024)); grown > most {
		t.Errorf("the segments grew by %d bytes, at most %d are bounded", grown, most)
	}
	// Each of these blocks is one sync that a denial may share or wait for.
	if most := takes * (1 + len(kinds)/512); len(blocks) > most {
		t.Errorf("%d blocks of refusals in %.0f s", len(blocks), seconds)
	}
	if sent < 2*len(rejects) || len(kinds) < 50 {
		t.Errorf("that was no flood: %d refusals, %d kinds", sent, len(kinds))
	}
	if slowest := slices.Max(denials.times); slowest > 10*time.Second {
		t.Errorf("an honest request waited %v", slowest)
	}
	d.stop()
	if out, errs, code := run(t, "audit", "verify", "--data", d.dir); code != 0 {
		t.Errorf("audit verify: exit %d, %s%s", code, out, errs)
	}
}

func floodFor(f *flood, span time.Duration) {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.d.done:
		f.d.t.Errorf("the node is gone: %s", f.d.err.String())
	}
}

// flooded is an exported event of class reject.
type flooded struct {
	Block                 uint64
	Reason, Route, Source string
	Count                 uint64
	Subject, Tenant       string
}

func (d *dev) rejects() []flooded {
	d.t.Helper()
	var list []flooded
	for line := range strings.Lines(d.cli("audit", "export", "--as", "olga@platform", "--class", "reject")) {
		var e flooded
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			d.t.Fatalf("%v in %q", err, line)
		}
		list = append(list, e)
	}
	return list
}

func total(list []flooded) (n uint64) {
	for _, e := range list {
		n += max(e.Count, 1)
	}
	return n
}

// size adds up the log's files of a pattern.
func size(t testing.TB, dir, pattern string) (n int64) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "audit", pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}
