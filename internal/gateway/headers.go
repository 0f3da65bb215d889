package gateway

import (
	"net/http"
	"strings"
)

// cleanRequest removes what a client may not say to an upstream: who it is,
// where it comes from, its credentials, and what would make the upstream
// serve another request than the one decided. Names arrive in canonical form.
func cleanRequest(h http.Header) {
	for name := range h {
		if forbidden(name) {
			delete(h, name)
		}
	}
	if cookies := h["Cookie"]; len(cookies) > 0 {
		cleanCookies(h, cookies)
	}
}

// forbidden reports whether a request header ends at the gateway.
func forbidden(name string) bool {
	// CGI-like upstreams read X_Y as X-Y.
	if strings.IndexByte(name, '_') >= 0 || ours(name) {
		return true
	}
	switch name {
	case "Authorization", "Proxy-Authorization", "Dpop": // credentials
		return true
	case "Host", "Expect", "Te", "Trailer", "Proxy": // net/http has dealt with them; Proxy is httpoxy
		return true
	case "Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip",
		"Cf-Connecting-Ip", "Fastly-Client-Ip", "Client-Ip", "Client-Cert", "Client-Cert-Chain": // provenance
		return true
	case "X-Http-Method", "X-Http-Method-Override", "X-Method-Override", "X-Rewrite-Url": // another request
		return true
	}
	if len(name) < 3 || name[:2] != "X-" {
		return false
	}
	return strings.HasPrefix(name, "X-Forwarded") || strings.HasPrefix(name, "X-Original-") ||
		strings.HasPrefix(name, "X-Envoy-") || strings.HasPrefix(name, "X-Ssl-") || strings.HasPrefix(name, "X-Bulwark-")
}

// ours reports whether a header speaks in our name.
func ours(name string) bool {
	const own = "Bulwark"
	return len(name) >= len(own) && strings.EqualFold(name[:len(own)], own)
}

// cleanCookies removes our own cookies.
func cleanCookies(h http.Header, cookies []string) {
	var kept []string
	changed := false
	for _, line := range cookies {
		if !mentionsOurs(line) {
			kept = append(kept, line)
			continue
		}
		changed = true
		var rest []string
		for pair := range strings.SplitSeq(line, ";") {
			if !ownCookie(pair) {
				rest = append(rest, strings.TrimSpace(pair))
			}
		}
		if len(rest) > 0 {
			kept = append(kept, strings.Join(rest, "; "))
		}
	}
	switch {
	case !changed:
	case len(kept) == 0:
		delete(h, "Cookie")
	default:
		h["Cookie"] = kept
	}
}

func mentionsOurs(line string) bool {
	for rest := line; ; {
		i := strings.IndexAny(rest, "bB")
		if i < 0 {
			return false
		}
		if ours(rest[i:]) {
			return true
		}
		rest = rest[i+1:]
	}
}

// ownCookie reports whether "name=value" is a cookie of ours, with or without
// a name prefix (RFC 6265bis section 4.1.3). Case and quotes are no disguise.
func ownCookie(pair string) bool {
	name := strings.TrimLeft(pair, " \t\"")
	for _, prefix := range [...]string{"__Host-", "__Secure-"} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			name = name[len(prefix):]
			break
		}
	}
	return ours(name)
}

// cleanResponse removes what an upstream may not say in our name.
func cleanResponse(res *http.Response) {
	for name := range res.Header {
		switch {
		case ours(name), name == "Alt-Svc": // it would lead clients around the gateway
			delete(res.Header, name)
		case name == "Set-Cookie":
			kept := res.Header[name][:0]
			for _, c := range res.Header[name] {
				if !ownCookie(c) {
					kept = append(kept, c)
				}
			}
			if res.Header[name] = kept; len(kept) == 0 {
				delete(res.Header, name)
			}
		}
	}
	for name := range res.Trailer {
		if ours(name) {
			delete(res.Trailer, name)
		}
	}
}

// dropTrailers removes our names from the trailers that ReverseProxy is about
// to send; they were not announced, so they come only now.
func dropTrailers(h http.Header) {
	for name := range h {
		if trailer, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && ours(trailer) {
			delete(h, name)
		}
	}
}
