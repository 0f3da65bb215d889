package gateway

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// identity returns the headers of a request that speak of identity or
// provenance, in any spelling that an upstream might take for one.
func identity(h http.Header) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		plain := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if strings.Contains(plain, "bulwark") || strings.Contains(plain, "forward") || strings.HasPrefix(plain, "x-original") || strings.HasPrefix(plain, "x-envoy") {
			out[name] = values
		}
	}
	return out
}

// wantIdentity is what an upstream is told about the good credential.
func wantIdentity(requestID string) map[string][]string {
	return map[string][]string{
		"Bulwark-Assertion":  {"signed.for.svc-demo"},
		"Bulwark-Tenant":     {"T-acme"},
		"Bulwark-Subject":    {"user:alice"},
		"Bulwark-Scope":      {"documents"},
		"Bulwark-Request-Id": {requestID},
		"X-Forwarded-For":    {"127.0.0.1"},
		"X-Forwarded-Host":   {"localhost"},
		"X-Forwarded-Proto":  {"https"},
	}
}

var identityNames = []string{
	"Bulwark-Assertion", "Bulwark-Tenant", "Bulwark-Subject", "Bulwark-Actor", "Bulwark-Scope", "Bulwark-Request-Id",
	"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// Items 9 to 12, 14, 15, 17, 18 and 21: no client speaks in our name.
func TestIdentityHeaders(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	cases := map[string][]string{"honest": nil}
	for _, n := range identityNames {
		low := strings.ToLower(n)
		cases["spoofed "+n] = []string{n + ": evil"}
		cases["lower "+n] = []string{low + ": evil", low + ": evil2"}
		cases["upper "+n] = []string{strings.ToUpper(n) + ": evil"}
		cases["underscore "+n] = []string{strings.ReplaceAll(n, "-", "_") + ": evil", strings.Replace(low, "-", "_", 1) + ": evil"}
		cases["connection "+n] = []string{"Connection: " + n}
		cases["connection list "+n] = []string{"Connection: x, " + low + " ,close", n + ": evil"}
		cases["connection twice "+n] = []string{"Connection: ", "connection: " + low}
		cases["proxy-connection "+n] = []string{"Proxy-Connection: " + n, "Keep-Alive: " + n}
		cases["te "+n] = []string{"TE: trailers, " + n, "Connection: TE"}
	}
	for _, n := range []string{
		"Forwarded", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Forwarded-User", "X-Forwarded-Email",
		"X-Forwarded", "X-Original-Url", "X-Original-Forwarded-For", "X-Envoy-Original-Path", "X-Envoy-External-Address", "Bulwark-Anything", "X-Bulwark-Tenant",
	} {
		cases[n] = []string{n + ": evil"}
	}
	for name, lines := range cases {
		a := h.get("/open/x", lines...)
		if a.Status != 200 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
			continue
		}
		reqs := h.upstream.requests()
		if diff := cmp.Diff(wantIdentity(a.Header.Get("Bulwark-Request-Id")), identity(reqs[len(reqs)-1].Header)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if strings.Contains(h.upstream.wire(), "evil") {
		t.Error("a client's word is on the upstream's wire")
	}
}

// What stays, and what else goes.
func TestOtherHeaders(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	a := h.get("/open/x", "X-Custom: kept", "Accept: a", "Accept: b", "Cookie: a=1", "If-Match: \"x\"", "Traceparent: 00-1",
		"X-Http-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE", "X-Rewrite-Url: /admin", "Proxy: http://evil",
		"X-Real-IP: 10.0.0.1", "True-Client-IP: 10.0.0.1", "Client-Cert: x", "Dpop: x", "X-Api_Key: x", "Expect: 100-continue", "Via: 1.1 x")
	if a.Status != 200 {
		t.Fatal(a)
	}
	got := h.upstream.requests()[0]
	for n := range identity(got.Header) {
		delete(got.Header, n)
	}
	want := http.Header{"X-Custom": {"kept"}, "Accept": {"a", "b"}, "Cookie": {"a=1"}, "If-Match": {`"x"`}, "Traceparent": {"00-1"}}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Error(diff)
	}
	if got.Host != strings.TrimPrefix(h.upstream.URL, "http://") {
		t.Errorf("the upstream's Host is %q", got.Host)
	}
}

// Item 16: trailers, announced or not, over HTTP/1.1 and HTTP/2.
func TestTrailers(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	head := "POST /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
	end := "\r\n4\r\nbody\r\n0\r\nBulwark-Tenant: evil\r\nbulwark_subject: evil\r\nX-Forwarded-For: evil\r\nAuthorization: Bearer evil\r\nX-Other: evil\r\n\r\n"
	for name, wire := range map[string]string{
		"announced":     head + "Trailer: Bulwark-Tenant, bulwark_subject, X-Forwarded-For, Authorization, X-Other\r\nTE: trailers\r\n" + end,
		"not announced": head + end,
	} {
		if out := h.send(wire); len(out) != 1 || out[0].Status != 200 {
			t.Errorf("%s: %+v", name, out)
		}
	}
	got := h.send2(
		frame(1, 4, 1, block(":method", "POST", ":scheme", "https", ":authority", "localhost", ":path", "/open/x", "authorization", credential,
			"trailer", "bulwark-tenant", "te", "trailers")),
		frame(0, 0, 1, "body"),
		frame(1, 5, 1, block("bulwark-tenant", "evil", "bulwark_subject", "evil", "x-other", "evil")))
	if got != 200 {
		t.Errorf("over HTTP/2: %d", got)
	}
	reqs := h.upstream.requests()
	if len(reqs) != 3 {
		t.Fatalf("the upstream got %d requests", len(reqs))
	}
	for _, r := range reqs {
		if len(r.Trailer) != 0 || r.Body != "body" || r.Err != nil {
			t.Errorf("the upstream got %+v", r)
		}
		if diff := cmp.Diff(wantIdentity(r.Header.Get("Bulwark-Request-Id")), identity(r.Header)); diff != "" {
			t.Error(diff)
		}
	}
	if w := h.upstream.wire(); strings.Contains(w, "evil") || strings.Contains(w, "Trailer:") {
		t.Errorf("on the upstream's wire: %q", w)
	}
}

// Items 21 and 22: values that two servers may read differently.
func TestRefusedHeaders(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for _, c := range []struct {
		status int
		lines  string
	}{
		{400, "Host: localhost\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\n"},
		{400, "Host: localhost\r\nHost: evil\r\n"},
		{400, "Host: localhost\r\nHost: localhost\r\n"},
		{400, "X: y\r\n"}, // no Host
		{400, "Host: localhost\r\nX-Name: \xff\xfe\r\n"},
		{400, "Host: localhost\r\nX-Name: a\x80\r\n"},
		{400, "Host: localhost\r\nX-Name: a\x00b\r\n"},
		{400, "Host: localhost\r\nX-Name: a\x7fb\r\n"},
		{400, "Host: localhost\r\nX-Name: a\rb\r\n"},
		{404, "Host: local host\r\n"},
		{404, "Host: localhost/x\r\n"},
		{404, "Host: x@localhost\r\n"},
		{431, "Host: localhost\r\nX-Name: " + strings.Repeat("x", MaxHeaders) + "\r\n"},
		{431, "Host: localhost\r\nX-Name: " + strings.Repeat("x", 5*MaxHeaders) + "\r\n"},
	} {
		out := h.send("GET /open/x HTTP/1.1\r\nAuthorization: " + credential + "\r\nConnection: close\r\n" + c.lines + "\r\n")
		// net/http itself says 400 to some hosts, before our 404.
		if len(out) != 1 || out[0].Status != c.status && (c.status != 404 || out[0].Status != 400) {
			t.Errorf("%.60q: %+v", c.lines, out)
		}
		h.nothing(c.lines[:min(20, len(c.lines))])
	}
	for _, extra := range [][]string{
		{"host", "evil"}, {"x-name", "\xff"}, {"content-type", "a", "content-type", "b"}, {"content-length", "0", "content-length", "1"},
		{"x-name", "a\r\nb: c"}, {"Bulwark-Tenant", "upper"},
	} {
		pairs := append([]string{":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/open/x", "authorization", credential}, extra...)
		if got := h.send2(frame(1, 5, 1, block(pairs...))); got != 0 && got != 400 {
			t.Errorf("%q over HTTP/2: %d", extra, got)
		}
		h.nothing("over HTTP/2")
	}
	// UTF-8 is fine.
	if a := h.get("/open/x", "X-Name: Zoë"); a.Status != 200 {
		t.Errorf("UTF-8: %+v", a)
	}
}

// Item 36: credentials end at the gateway.
func TestCredentialsEndHere(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	secret := "s3cr3t-session"
	for _, c := range []struct {
		cookie string
		want   []string
	}{
		{"__Host-bulwark=" + secret, nil},
		{"__Host-bulwark_session=" + secret + "; a=1", []string{"a=1"}},
		{"a=1; bulwark_csrf=" + secret + ";b=2", []string{"a=1; b=2"}},
		{"a=1;\t__HOST-BULWARK-x=" + secret, []string{"a=1"}},
		{"__Secure-Bulwark_x=" + secret, nil},
		{"\"bulwark_x=" + secret + "\"", nil},
		{"a=\"x; bulwark_x=" + secret + "\"; b=bulwark", []string{`a="x; b=bulwark`}},
		{"a=bulwark_b; c=2", []string{"a=bulwark_b; c=2"}},
		{"theme=dark", []string{"theme=dark"}},
	} {
		a := h.get("/open/x", "Cookie: "+c.cookie, "Proxy-Authorization: Basic "+secret, "DPoP: "+secret)
		if a.Status != 200 {
			t.Fatal(a)
		}
		reqs := h.upstream.requests()
		if diff := cmp.Diff(c.want, reqs[len(reqs)-1].Header["Cookie"]); diff != "" {
			t.Errorf("%q: %s", c.cookie, diff)
		}
	}
	for _, leak := range []string{secret, credential, strings.TrimPrefix(credential, "Bearer "), "Authorization"} {
		if strings.Contains(h.upstream.wire(), leak) {
			t.Errorf("%q is on the upstream's wire", leak)
		}
	}
	// No error shows the credential that it is about.
	for _, target := range []string{"/open/x", "/documents/seen", "/documents/hidden", "/nowhere", "/open/../x", "/documents/unwritable"} {
		for _, token := range []string{"bad-token-98765", "good-token-0123456789"} {
			out := h.send("GET " + target + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\nConnection: close\r\n\r\n")
			if len(out) != 1 {
				t.Fatal(out)
			}
			var all strings.Builder
			_ = out[0].Header.Write(&all)
			if s := all.String() + out[0].Body; strings.Contains(s, token) || strings.Contains(s, "signed.for") {
				t.Errorf("%s shows a token: %s", target, s)
			}
		}
	}
}

// What an upstream says in our name does not reach the client, nor do interim answers.
func TestAnswers(t *testing.T) {
	t.Parallel()
	h := build(t, func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		for _, n := range []string{"Bulwark-Assertion", "Bulwark-Request-Id", "bulwark_tenant"} {
			head[n] = []string{"evil"}
		}
		head["Alt-Svc"] = []string{`h3="evil:443"`}
		head["Set-Cookie"] = []string{"a=1", "__Host-bulwark_session=evil; Secure", "bulwark_x=evil"}
		head.Set("X-Early", "1")
		w.WriteHeader(http.StatusEarlyHints)
		head.Del("X-Early")
		switch r.URL.Query().Get("do") {
		case "cache":
			head.Set("Cache-Control", "public, max-age=60")
		case "announced":
			head.Set("Trailer", "Bulwark-Tenant, X-Sum")
		case "both":
			head.Set("Trailer", "Bulwark-Tenant, X-Sum")
			defer head.Set(http.TrailerPrefix+"Bulwark-Subject", "evil")
		case "unannounced":
			defer head.Set(http.TrailerPrefix+"Bulwark-Subject", "evil")
			defer head.Set(http.TrailerPrefix+"X-Sum", "1")
		}
		_, _ = io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		head.Set("Bulwark-Tenant", "evil")
		head.Set("X-Sum", "1")
	}, nil)
	for _, c := range []struct{ target, cache string }{
		{"/open/x", "private"}, {"/open/x?do=cache", "public, max-age=60"}, {"/open/x?do=announced", "private"},
	} {
		out := h.send("GET " + c.target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTE: trailers\r\nAuthorization: " + credential + "\r\n\r\n")
		if len(out) != 1 || out[0].Status != 200 || !strings.Contains(out[0].Body, "body") {
			t.Fatalf("%s: %+v", c.target, out)
		}
		a := out[0]
		if a.Header.Get("Cache-Control") != c.cache || len(a.Header["Set-Cookie"]) != 1 || a.Header.Get("X-Early") != "" || a.Header.Get("Alt-Svc") != "" || a.Header.Get("Server") != "" {
			t.Errorf("%s: %+v", c.target, a.Header)
		}
		if id := a.Header["Bulwark-Request-Id"]; len(id) != 1 || len(id[0]) != 26 {
			t.Errorf("%s: the request id is %q", c.target, id)
		}
		for n, v := range a.Header {
			if ours(n) && n != "Bulwark-Request-Id" || slices.Contains(v, "evil") {
				t.Errorf("%s: %s: %s", c.target, n, v)
			}
		}
	}
	// Trailers, on the wire.
	for _, do := range []string{"announced", "both", "unannounced"} {
		c := h.dial("http/1.1")
		_, _ = io.WriteString(c, "GET /open/x?do="+do+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTE: trailers\r\nAuthorization: "+credential+"\r\n\r\n")
		wire, _ := io.ReadAll(c) // until the server closes
		if strings.Contains(string(wire), "evil") || !strings.Contains(string(wire), "X-Sum: 1") {
			t.Errorf("%s: on the client's wire: %q", do, wire)
		}
	}
}

// An upstream that switches protocols unasked is cut off.
func TestSwitchingUpstream(t *testing.T) {
	t.Parallel()
	h := build(t, func(w http.ResponseWriter, _ *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		_ = buf.Flush()
		_ = c.Close()
	}, nil)
	if a := h.get("/open/x"); a.Status != 502 {
		t.Errorf("%+v", a)
	}
}
