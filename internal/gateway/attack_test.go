package gateway

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"bulwark.example/internal/ledger"
)

// nothing checks that neither the guard nor the upstream saw anything.
func (h *house) nothing(what string) {
	h.t.Helper()
	if got := h.upstream.requests(); len(got) != 0 {
		h.t.Errorf("%s: the upstream got %+v", what, got)
	}
	if got := h.guard.requests(); len(got) != 0 {
		h.t.Errorf("%s: the guard was asked %+v", what, got)
	}
}

// research/gateway.md section 3, items 1 to 5, over the wire.
func TestPathAttacks(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	targets := []string{
		"/open/../admin", "/open/..", "/../admin", "/open/./admin", "/./admin", // 1, 3
		"/open/%2e%2e/admin", "/open/%2E%2e/admin", "/open/.%2e/admin", "/open/..%2fadmin", "/open/%2e%2e%2fadmin", // 2
		"/open%2fadmin", "/open/..%5cadmin", `/open/..\admin`, "/open/%252e%252e/admin", "/open/%25", "/open/%c0%ae%c0%ae/admin", // 2
		"//admin", "/open//admin", "//localhost/admin", "///admin", "/open/x//", // 3
		"/..;/admin", "/open/..;/admin", "/open/..;a=b/admin", "/;/admin", "/open/;x/admin", "/admin;x", "/open/..%3b/admin", // 4
		"/admin#", "/open#/../admin", "/open/x#/../../admin", "/open/%00", "/open/%0d%0aX:y", "/open/%7f", // 5
		"/open/\x80", "/open/%ff", "/open/%zz", "/open/%",
	}
	for _, target := range targets {
		if a := h.get(target); a.Status != 400 {
			t.Errorf("%q: %d %s", target, a.Status, a.Body)
		}
		h.nothing(target)
	}
	// net/http refuses "%zz" and "%" itself; that event comes with the connection's end.
	h.await("an event for each request", func() bool { return len(h.events.list()) == len(targets) })
	for _, e := range h.events.list() {
		if e.Class != ledger.Reject || e.Status != 400 || e.Subject != "" || e.Source != "127.0.0.0/24" || e.RequestID == "" {
			t.Errorf("the event %+v", e)
		}
	}
	if r := h.events.reasons(); strings.Count(r, "bad_path")+strings.Count(r, "bad_target") != len(targets)-2 || strings.Count(r, "unreadable_request") != 2 {
		t.Error(r)
	}
}

// What net/http refuses by itself is an event too; what it does not, is not.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	bad := []string{
		"GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"GET /open/x HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
		"GET /open/x HTTP/1.1\r\n\r\n", // no Host
		"\x16\x03\x01 no HTTP\r\n\r\n",
		"GET /open/x HTTP/1.1\r\nHost: loc", // and away
	}
	for _, wire := range bad {
		c := h.dial("http/1.1")
		go func() { _, _ = io.WriteString(c, wire); _ = c.CloseWrite() }() // the server may not read all of it
		_, _ = io.Copy(io.Discard, c)                                      // until the server closes, or resets
	}
	h.await("an event for each", func() bool { return len(h.events.list()) == len(bad) })
	for _, e := range h.events.list() {
		if e.Class != ledger.Reject || e.Reason != "unreadable_request" || e.Source != "127.0.0.0/24" || e.Route != "" {
			t.Errorf("the event %+v", e)
		}
	}
	_ = h.dial("http/1.1").Close()
	_ = h.dial("h2").Close()
	for range 2 {
		h.get("/open/x")
	}
	c := h.dial("h2")
	_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(4, 0, 0, ""))
	_, _ = io.ReadFull(c, make([]byte, 9)) // the server's settings: it speaks HTTP/2
	_ = c.Close()
	h.await("the connections' ends", func() bool {
		open := 0
		h.gateway.connections.Range(func(any, any) bool { open++; return true })
		return open == 0
	})
	if r := h.events.reasons(); strings.Count(r, "unreadable_request") != len(bad) {
		t.Errorf("honest connections left events: %s", r)
	}
}

// The query and the target's form.
func TestTargetAttacks(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for _, target := range []string{
		"/open/x?a#b", "/open/x?\xe9", "/open/x?a=b\x80", "https://localhost/open/x", "http://evil/admin", "*", "admin", "?", "",
	} {
		for _, a := range h.send("GET " + target + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\nConnection: close\r\n\r\n") {
			if a.Status != 400 {
				t.Errorf("%q: %d", target, a.Status)
			}
		}
		h.nothing(target)
	}
	for _, a := range h.send("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") {
		if a.Status != 400 {
			t.Errorf("OPTIONS *: %d", a.Status)
		}
	}
}

// The same over HTTP/2, where the path is no part of a request line; item 8.
func TestPathAttacks2(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for _, path := range []string{
		"admin", "open/../admin", "", "*", "https://localhost/admin", "//admin", "/open/../admin", "/open/%2e%2e/admin", "/..;/admin",
		"/admin#", "/open/x y", "/open/x?a b", "/open/x HTTP/1.1\r\nX: y", "/open/x?a\r\nX: y", "/open/\x00", "/open/x?\x7f", "/open/\xff",
	} {
		got := h.send2(frame(1, 5, 1, block(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", path, "authorization", credential)))
		if got != 400 && got != 0 {
			t.Errorf("%q: %d", path, got)
		}
		h.nothing(path)
	}
	if got := h.send2(frame(1, 5, 1, block(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/open/x", "authorization", credential))); got != 200 {
		t.Errorf("an honest request: %d", got)
	}
}

// What is matched, decided and asserted is byte for byte what is forwarded.
func TestForwardedAsMatched(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for target, want := range map[string]string{
		"/open/%41%c3%a9/~x%7e":        "/open/A%C3%A9/~x~",
		"/open/a%3bb%2Cc,d:e@f":        "/open/a%3Bb%2Cc,d:e@f",
		"/open/":                       "/open/",
		"/open/x/?":                    "/open/x/?",
		"/open/x?a=%2F..%00&b=/../c":   "/open/x?a=%2F..%00&b=/../c",
		"/open/%20%22%3c%3E%5b?q=%20x": "/open/%20%22%3C%3E%5B?q=%20x",
	} {
		if a := h.get(target); a.Status != 200 {
			t.Errorf("%q: %d %s", target, a.Status, a.Body)
			continue
		}
		reqs, asked := h.upstream.requests(), h.guard.requests()
		if got := reqs[len(reqs)-1].Target; got != want {
			t.Errorf("%q is forwarded as %q, want %q", target, got, want)
		}
		path, _, _ := strings.Cut(want, "?")
		if got := asked[len(asked)-1].Path; got != path {
			t.Errorf("%q is decided as %q, want %q", target, got, path)
		}
		if !strings.Contains(h.upstream.wire(), "GET "+want+" HTTP/1.1\r\n") {
			t.Errorf("%q is not on the wire", want)
		}
	}
}

// A query that two parsers read differently is not forwarded as it came (item 24).
func TestQueryCleaned(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	if a := h.get("/open/x?a=1;b=2&c=3"); a.Status != 200 {
		t.Fatal(a)
	}
	if got := h.upstream.requests()[0].Target; strings.Contains(got, ";") {
		t.Errorf("forwarded as %q", got)
	}
}

// Item 20, and every other way out of request and answer.
func TestNoProtocolChange(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	for name, lines := range map[string]string{
		"h2c":             "GET /open/x HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"h2c unlisted":    "GET /open/x HTTP/1.1\r\nUpgrade: h2c\r\n",
		"settings only":   "GET /open/x HTTP/1.1\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"websocket":       "GET /open/x HTTP/1.1\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n",
		"two upgrades":    "GET /open/x HTTP/1.1\r\nUpgrade: \r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
		"odd upgrade":     "GET /open/x HTTP/1.1\r\nuPgRaDe: TLS/1.0\r\nConnection: Upgrade\r\n",
		"connect":         "CONNECT localhost:443 HTTP/1.1\r\n",
		"connect to path": "CONNECT /open/x HTTP/1.1\r\n",
		"trace":           "TRACE /open/x HTTP/1.1\r\n",
	} {
		out := h.send(lines + "Host: localhost\r\nAuthorization: " + credential + "\r\nConnection: close\r\n\r\n")
		if len(out) != 1 || out[0].Status != 501 {
			t.Errorf("%s: %+v", name, out)
		}
		h.nothing(name)
	}
	// Prior knowledge on a connection that negotiated HTTP/1.1.
	for _, a := range h.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, "")) {
		if a.Status < 400 {
			t.Errorf("prior knowledge: %+v", a)
		}
	}
	h.nothing("prior knowledge")
	for _, extra := range [][]string{{"upgrade", "h2c"}, {"connection", "upgrade"}, {"transfer-encoding", "chunked"}, {":protocol", "websocket"}} {
		pairs := append([]string{":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/open/x"}, extra...)
		if extra[0] == ":protocol" {
			pairs[1] = "CONNECT"
		}
		if got := h.send2(frame(1, 5, 1, block(pairs...))); got != 0 && got != 400 && got != 501 {
			t.Errorf("%v: %d", extra, got)
		}
	}
	if got := h.send2(frame(1, 4, 1, block(":method", "CONNECT", ":authority", "localhost:443"))); got != 501 {
		t.Errorf("CONNECT over HTTP/2: %d", got)
	}
	h.nothing("over HTTP/2")
}

// Item 23. Whatever the framing says, the bytes of one request's body never
// become a second request, here or at the upstream.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	head := "POST /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\n"
	smuggled := "GET /admin HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\nX-Smuggled: yes\r\nConnection: close\r\n\r\n"
	chunk := func(size, end string) string { return size + end + "hello" + "\r\n0\r\n\r\n" }
	for name, wire := range map[string]string{
		"CL and TE, TE shorter":      head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5+len(smuggled)) + smuggled,
		"TE and CL, CL shorter":      head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + fmt.Sprintf("%x\r\n", len(smuggled)) + smuggled + "\r\n0\r\n\r\n",
		"two CL":                     head + "Content-Length: 0\r\nContent-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled,
		"CL list":                    head + "Content-Length: 0, " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled,
		"CL with plus":               head + "Content-Length: +0\r\n\r\n" + smuggled,
		"CL negative":                head + "Content-Length: -1\r\n\r\n" + smuggled,
		"CL hex":                     head + "Content-Length: 0x0\r\n\r\n" + smuggled,
		"CL huge":                    head + "Content-Length: 99999999999999999999\r\n\r\n" + smuggled,
		"CL with space before colon": head + "Content-Length : 0\r\n\r\n" + smuggled,
		"TE with space before colon": head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE xchunked":                head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE list":                    head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE identity":                head + "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
		"TE twice":                   head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
		"TE tab":                     head + "Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n" + smuggled,
		"TE quoted":                  head + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" + smuggled,
		"TE empty":                   head + "Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"TE folded":                  head + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE after a bare LF":         head + "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + smuggled,
		"TE after a bare CR":         head + "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"TE on HTTP/1.0":             strings.Replace(head, "1.1", "1.0", 1) + "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"bare LF in chunk size":      head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("5", "\n") + smuggled,
		"bare CR in chunk size":      head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("5", "\r") + smuggled,
		"bare LF in chunk extension": head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("5;a\nb", "\r\n") + smuggled,
		"chunk size with plus":       head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("+5", "\r\n") + smuggled,
		"chunk size 0x":              head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("0x5", "\r\n") + smuggled,
		"chunk size overflow":        head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("10000000000000005", "\r\n") + smuggled,
		"chunk size with underscore": head + "Transfer-Encoding: chunked\r\n\r\n" + chunk("5_", "\r\n") + smuggled,
		"chunk without end":          head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n" + smuggled,
		"name with space":            head + "X Y: z\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"no colon":                   head + "Transfer-Encoding\r\nContent-Length: 0\r\n\r\n" + smuggled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := build(t, nil, nil)
			out := h.send(wire)
			if len(out) > 1 {
				t.Errorf("%d answers: %+v", len(out), out)
			}
			if strings.Contains(h.upstream.wire(), "GET /admin") && name != "TE and CL, CL shorter" {
				t.Errorf("on the upstream's wire: %q", h.upstream.wire())
			}
			for _, r := range h.upstream.requests() {
				if r.Target != "/open/x" || r.Header.Get("X-Smuggled") != "" {
					t.Errorf("the upstream got %+v", r)
				}
			}
			for _, q := range h.guard.requests() {
				if q.Path != "/open/x" {
					t.Errorf("the guard was asked %+v", q)
				}
			}
			// What passes is re-framed: one framing header, never both.
			if w := h.upstream.wire(); strings.Contains(w, "Content-Length") && strings.Contains(w, "Transfer-Encoding") {
				t.Errorf("two framings on the upstream's wire: %q", w)
			}
		})
	}
}

// Pipelined honest requests are still two.
func TestPipelining(t *testing.T) {
	t.Parallel()
	h := build(t, nil, nil)
	one := "GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credential + "\r\n"
	if out := h.send(one + "\r\n" + one + "Connection: close\r\n\r\n"); len(out) != 2 || out[1].Status != 200 {
		t.Errorf("%+v", out)
	}
}
