package gateway

import (
	"net/http"
	"net/netip"
	"strings"
	"unicode/utf8"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// MaxHeaders bounds the names and values of a request's headers, in bytes.
const MaxHeaders = 32 << 10

// flawed says why a request is refused before anybody asks who sent it. The
// reason is a code of the audit log; the detail is for the client.
type flawed struct {
	status int
	reason string
	detail string
}

func (f *flawed) Error() string { return f.detail }

// The flaws. Their values never change.
var (
	flawNoRoute    = &flawed{http.StatusNotFound, "no_route", ""}
	flawMethod     = &flawed{http.StatusMethodNotAllowed, "method_not_allowed", "the header Allow lists what this path takes"}
	flawBody       = &flawed{http.StatusRequestEntityTooLarge, "body_too_large", "the body is larger than this route takes"}
	flawProtocol   = &flawed{http.StatusNotImplemented, "protocol_change", "tunnels, traces and protocol upgrades are not offered"}
	flawTarget     = &flawed{http.StatusBadRequest, "bad_target", "the request target must be a path, with a query at most, in printable ASCII without a fragment"}
	flawHeaders    = &flawed{http.StatusRequestHeaderFieldsTooLarge, "headers_too_large", "the headers are larger than 32 KiB"}
	flawHeader     = &flawed{http.StatusBadRequest, "bad_header", "a header's value is not UTF-8"}
	flawUnreadable = &flawed{http.StatusBadRequest, "unreadable_request", ""} // net/http answered, or the client left
	flawRepeated   = &flawed{http.StatusBadRequest, "repeated_header", "Host, Content-Type and Content-Length may be sent once"}
)

// screen refuses what net/http lets through although two servers may read it
// differently, and returns the path as it was on the wire.
func screen(r *http.Request) (string, *flawed) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return "", flawProtocol
	}
	target := r.RequestURI
	if target == "" || target[0] != '/' {
		return "", flawTarget // absolute form and "*": who would be the host?
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7F || c == '#' {
			if c == '#' || strings.IndexByte(target[:i], '?') >= 0 {
				return "", flawTarget
			}
			break // within the path: normalization says what is wrong
		}
	}
	size := 0
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v)
			if !utf8.ValidString(v) {
				return "", flawHeader
			}
		}
		switch name {
		case "Upgrade", "Http2-Settings":
			return "", flawProtocol
		case "Content-Type", "Content-Length":
			if len(values) > 1 {
				return "", flawRepeated
			}
		case "Host": // HTTP/2 may carry it beside :authority
			if len(values) > 1 || values[0] != r.Host {
				return "", flawRepeated
			}
		}
	}
	if size > MaxHeaders {
		return "", flawHeaders
	}
	path, _, _ := strings.Cut(target, "?")
	return path, nil
}

// source returns the client's address as text and parsed; both are empty when
// the address cannot be read. It does not allocate.
func source(remote string) (string, netip.Addr) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "", netip.Addr{}
	}
	host := remote[:strings.LastIndexByte(remote, ':')]
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return host, ap.Addr()
}

// reject answers and records a request that was refused before the guard. No
// unverified word of the client enters the event.
func (x *exchange) reject(f *flawed, routeID string) {
	x.g.rejected(f, routeID, x.id, x.address)
	x.problem(f.status, f.detail, "", "")
}

func (g *Gateway) rejected(f *flawed, routeID, requestID string, address netip.Addr) {
	g.cfg.Recorder.Reject(ledger.Event{
		ID: tenant.RandomID(), Time: g.cfg.Now(), Class: ledger.Reject, Action: "request",
		Tenant: tenant.Platform, Decision: "deny", Reason: f.reason, Route: routeID,
		RequestID: requestID, Source: ledger.Network(address), Status: f.status,
	})
}
