package outgoing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"bulwark.example/internal/fault"
)

// server is a real TLS server on loopback. Its certificate names example.com
// and 127.0.0.1.
func server(t *testing.T, h http.Handler, max uint16) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{MaxVersion: max}
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s, pool
}

func handler(t *testing.T, hits *atomic.Int64) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/png") // not trusted, not looked at
		_, _ = io.WriteString(w, `{"ok":true}`)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 5<<20))
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/slowbody", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/secret", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/secret", func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		t.Error("a redirect was followed")
	})
	mux.HandleFunc("/404", http.NotFound)
	return mux
}

func TestTenantGet(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	s, pool := server(t, handler(t, &hits), 0)
	c := Tenant(Config{AllowLoopback: true, RootCAs: pool})
	body, err := c.Get(t.Context(), s.URL+"/ok", 1024)
	if err != nil || string(body) != `{"ok":true}` {
		t.Fatalf("%q %v", body, err)
	}
	for _, x := range []struct {
		name, url string
		kind      fault.Kind
	}{
		{"redirect inside", s.URL + "/redirect", fault.Unavailable},
		{"redirect to metadata", s.URL + "/away", fault.Unavailable},
		{"not found", s.URL + "/404", fault.Unavailable},
		{"5 MB, length known or not", s.URL + "/big", fault.TooLarge},
		{"endless", s.URL + "/endless", fault.TooLarge},
		{"http", strings.Replace(s.URL, "https:", "http:", 1) + "/ok", fault.Invalid},
		{"upper-case scheme is https all the same", "HTTPS" + strings.TrimPrefix(s.URL, "https") + "/404", fault.Unavailable},
		{"file", "file:///etc/passwd", fault.Invalid},
		{"gopher", "gopher://127.0.0.1/", fault.Invalid},
		{"no scheme", "//127.0.0.1/ok", fault.Invalid},
		{"no host", "https:///ok", fault.Invalid},
		{"opaque", "https:127.0.0.1/ok", fault.Invalid},
		{"user", strings.Replace(s.URL, "https://", "https://a:b@", 1) + "/ok", fault.Invalid},
		{"fragment", s.URL + "/ok#x", fault.Invalid},
		{"control character", s.URL + "/o\nk", fault.Invalid},
	} {
		if body, err := c.Get(t.Context(), x.url, 1<<20); err == nil || fault.KindOf(err) != x.kind {
			t.Errorf("%s: %d bytes, %v, want kind %v", x.name, len(body), err, x.kind)
		}
	}
	if body, err := c.Get(t.Context(), s.URL+"/ok", 10); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("11 bytes with a cap of 10: %q %v", body, err)
	}
	if body, err := c.Get(t.Context(), s.URL+"/ok", 11); err != nil {
		t.Errorf("11 bytes with a cap of 11: %q %v", body, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ended, s.URL+"/ok", 10); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("ended context: %v", err)
	}
}

// TestDo: a request of our own has the same fences.
func TestDo(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	s, pool := server(t, handler(t, &hits), 0)
	do := func(c *Client, url string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		return res.StatusCode, res.Body.Close()
	}
	open := Tenant(Config{AllowLoopback: true, RootCAs: pool})
	if code, err := do(open, s.URL+"/redirect"); code != http.StatusFound || err != nil {
		t.Errorf("redirect: %d %v, want it handed back and not followed", code, err)
	}
	for _, url := range []string{strings.Replace(s.URL, "https", "http", 1) + "/ok", strings.Replace(s.URL, "https://", "https://a:b@", 1) + "/ok"} {
		if _, err := do(open, url); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := do(Tenant(Config{RootCAs: pool}), s.URL+"/ok"); fault.KindOf(err) != fault.Denied {
		t.Errorf("loopback: %v", err)
	}
}

func TestSlowServerIsLeft(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	s, pool := server(t, handler(t, &hits), 0)
	c := Tenant(Config{AllowLoopback: true, RootCAs: pool, Timeout: 300 * time.Millisecond})
	for _, path := range []string{"/slow", "/slowbody"} {
		if _, err := c.Get(t.Context(), s.URL+path, 1024); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	old, pool := server(t, handler(t, &hits), tls.VersionTLS12)
	c := Tenant(Config{AllowLoopback: true, RootCAs: pool})
	if _, err := c.Get(t.Context(), old.URL+"/ok", 1024); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("TLS 1.2 was spoken: %v", err)
	}
	s, _ := server(t, handler(t, &hits), 0)
	if _, err := Tenant(Config{AllowLoopback: true, RootCAs: x509.NewCertPool()}).Get(t.Context(), s.URL+"/ok", 1024); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("an unknown certificate was trusted: %v", err)
	}
}

// TestLoopbackIsRefused: the same server, by each of its spellings, when
// loopback is not allowed. The handler must never run.
func TestLoopbackIsRefused(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	s, pool := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }), 0)
	port := s.Listener.Addr().(*net.TCPAddr).Port
	c := Tenant(Config{RootCAs: pool, Timeout: 2 * time.Second})
	for _, host := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost",
		"[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "[fe80::1]", "100.100.100.200",
	} {
		_, err := c.Get(t.Context(), "https://"+host+":"+itoa(port)+"/", 1024)
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v, want kind denied", host, err)
		}
	}
	// Spellings that some resolvers turn into 127.0.0.1: whatever ours does, nothing is reached.
	for _, host := range []string{"2130706433", "0x7f000001", "0177.0.0.1", "127.1"} {
		if _, err := c.Get(t.Context(), "https://"+host+":"+itoa(port)+"/", 1024); err == nil {
			t.Errorf("%s was reached", host)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the internal server was reached %d times", n)
	}
}

func itoa(n int) string {
	return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(n)).String()[len("0.0.0.0:"):]
}

// resolver is a real DNS server on loopback: answers holds the address for
// each query in turn, the last for ever.
func resolver(t *testing.T, answers ...string) (*net.Resolver, *atomic.Int64) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	var asked atomic.Int64
	go func() { // ends when pc is closed
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			reply := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true},
				Questions: m.Questions,
			}
			if m.Questions[0].Type == dnsmessage.TypeA {
				i := min(int(asked.Add(1)), len(answers)) - 1
				reply.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(answers[i]).As4()},
				}}
			}
			out, err := reply.Pack()
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(out, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}, &asked
}

// TestRebinding: a name that resolves to a public address first and to
// loopback afterwards. Whatever was learnt before, the dialled address counts.
func TestRebinding(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	s, pool := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }), 0)
	url := "https://example.com:" + itoa(s.Listener.Addr().(*net.TCPAddr).Port) + "/"
	r, asked := resolver(t, "127.0.0.1")
	c := Tenant(Config{RootCAs: pool, Resolver: r})
	if _, err := c.Get(t.Context(), url, 1024); fault.KindOf(err) != fault.Denied {
		t.Errorf("a name that resolves to loopback: %v", err)
	}
	if asked.Load() == 0 {
		t.Fatal("the resolver was not asked; this test proves nothing")
	}
	if reached.Load() != 0 {
		t.Error("the internal server was reached")
	}
	// With loopback allowed the same name works, so it was the address that refused.
	if _, err := Tenant(Config{RootCAs: pool, Resolver: r, AllowLoopback: true}).Get(t.Context(), url, 1024); err != nil {
		t.Errorf("with loopback allowed: %v", err)
	}
	// The name changes between a careless check and the call: the check saw a
	// public address, the call does not get away with the other.
	rebind, _ := resolver(t, "198.41.0.4", "127.0.0.1")
	first, err := rebind.LookupNetIP(t.Context(), "ip4", "example.com")
	if err != nil || len(first) != 1 || !Public(first[0]) {
		t.Fatalf("the check before the call gave %v %v", first, err)
	}
	if _, err := Tenant(Config{RootCAs: pool, Resolver: rebind}).Get(t.Context(), url, 1024); fault.KindOf(err) != fault.Denied {
		t.Errorf("after the name changed: %v", err)
	}
	if n := reached.Load(); n != 1 {
		t.Errorf("the server was reached %d times, want once", n)
	}
}

func TestOperatorAllowList(t *testing.T) {
	t.Parallel()
	s, pool := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }), 0)
	port := itoa(s.Listener.Addr().(*net.TCPAddr).Port)
	loop, _ := resolver(t, "127.0.0.1")
	meta, _ := resolver(t, "169.254.169.254")
	for _, x := range []struct {
		name     string
		allow    []string
		host     string
		resolver *net.Resolver
		good     bool
	}{
		{"nothing listed", nil, "example.com", loop, false},
		{"name", []string{"example.com"}, "example.com", loop, true},
		{"name in other case", []string{"Example.COM"}, "EXAMPLE.com", loop, true},
		{"another name", []string{"sub.example.com", "xample.com"}, "example.com", loop, false},
		{"network", []string{"127.0.0.0/8"}, "127.0.0.1", nil, true},
		{"network, by name", []string{"127.0.0.0/8"}, "example.com", loop, true},
		{"another network", []string{"10.0.0.0/8"}, "127.0.0.1", nil, false},
		{"address with only its name listed", []string{"example.com"}, "127.0.0.1", nil, false},
		{"listed name turns to metadata", []string{"example.com"}, "example.com", meta, false},
	} {
		c, err := Operator(Config{Allow: x.allow, RootCAs: pool, Resolver: x.resolver, AllowLoopback: true})
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		_, err = c.Get(t.Context(), "https://"+x.host+":"+port+"/", 10)
		if x.good && err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
		if !x.good && fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v, want kind denied", x.name, err)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/99", "::ffff:10.0.0.0/104", "example.com:443", "a b", "user@host"} {
		if _, err := Operator(Config{Allow: []string{bad}}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestPlainLoopback: without TLS only this machine is reached, and only by an
// operator's client that was told so.
func TestPlainLoopback(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(s.Close)
	told := Config{Allow: []string{"127.0.0.0/8", "192.0.2.0/24", "example.com"}, PlainLoopback: true}
	quiet := told
	quiet.PlainLoopback = false
	for name, x := range map[string]struct {
		cfg  Config
		url  string
		kind fault.Kind
	}{
		"told":            {told, s.URL, 0},
		"not told":        {quiet, s.URL, fault.Invalid},
		"not listed":      {Config{Allow: []string{"example.com"}, PlainLoopback: true}, s.URL, fault.Denied},
		"another machine": {told, "http://192.0.2.1:80", fault.Denied},
		"with a user":     {told, strings.Replace(s.URL, "http://", "http://u@", 1), fault.Invalid},
		"another scheme":  {told, "ftp://127.0.0.1", fault.Invalid},
	} {
		c, err := Operator(x.cfg)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, x.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err == nil {
			_ = res.Body.Close()
		}
		if name == "told" && err != nil || name != "told" && (err == nil || fault.KindOf(err) != x.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := hits.Load(); n != 1 {
		t.Errorf("the server was reached %d times", n)
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "198.41.0.4": true, "2606:4700:4700::1111": true, "2a00:1450:4001:81b::200e": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.1.2.3": false, "100.64.0.1": false, "100.127.255.255": false, "100.128.0.1": true,
		"127.0.0.1": false, "127.255.255.254": false, "168.63.129.16": false, "168.63.129.17": true,
		"169.254.169.254": false, "172.15.255.255": true, "172.16.0.1": false, "172.31.255.255": false, "172.32.0.1": true,
		"192.0.0.192": false, "192.0.2.1": false, "192.168.0.1": false, "198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false,
		"224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:8.8.8.8": false, "::8.8.8.8": false, "64:ff9b::808:808": false, "64:ff9b:1::1": false,
		"100::1": false, "2001::1": false, "2001:db8::1": false, "2002:808:808::1": false, "3fff::1": false, "fc00::1": false,
		"fd00:ec2::254": false, "fe80::1": false, "fec0::1": false, "ff02::1": false, "5f00::1": false, "4000::1": false,
		"2606:4700::1%eth0": false,
	} {
		if got := Public(netip.MustParseAddr(s)); got != want {
			t.Errorf("Public(%s) = %v", s, got)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

// Not parallel: it sets the environment.
func TestNoProxyFromTheEnvironment(t *testing.T) {
	var proxied atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("ALL_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	s, pool := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }), 0)
	r, _ := resolver(t, "127.0.0.1") // a name, since Go never proxies loopback literals
	c := Tenant(Config{AllowLoopback: true, RootCAs: pool, Resolver: r})
	if _, err := c.Get(t.Context(), "https://example.com:"+itoa(s.Listener.Addr().(*net.TCPAddr).Port)+"/", 10); err != nil {
		t.Fatal(err)
	}
	if proxied.Load() != 0 {
		t.Error("the proxy of the environment was used")
	}
}
