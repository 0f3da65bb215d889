package gateway

import (
	"net/http"
	"strconv"

	"bulwark.example/internal/authn"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/web"
)

// refuse answers a request that the guard did not allow. 404 is the same
// answer for an absent object, for one that the caller may not see, and for a
// path that has no route: it carries no decision and no reason.
func (x *exchange) refuse(v *guard.Verdict) {
	switch status := v.Status(); status {
	case http.StatusUnauthorized:
		if v.Reason != "missing" {
			// RFC 6750 section 3.1: only whoever sent a token is told about it.
			x.Header().Set("WWW-Authenticate", `Bearer realm="bulwark", error="invalid_token"`)
		}
		var reason string
		if authn.Reason(v.Reason).Told() {
			reason = v.Reason
		}
		x.problem(status, "a valid access token for this gateway is needed", reason, "")
	case http.StatusForbidden:
		x.problem(status, "the decision is in the audit log under its id", v.Reason, v.DecisionID)
	case http.StatusNotFound:
		x.problem(status, "", "", "")
	default:
		reason := v.Reason
		if v.Reason == string(authn.KeysUnavailable) { // of a login that is connected here
			reason = ""
		}
		x.problem(status, "the request could not be decided; try again", reason, "")
	}
}

// kindOf names the kinds of refusal as the admin API does, see [web.Problem].
func kindOf(status int) fault.Kind {
	switch status {
	case http.StatusBadRequest:
		return fault.Invalid
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Denied
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		return fault.TooLarge
	case http.StatusTooManyRequests:
		return fault.Exhausted
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fault.Unsupported
	case http.StatusInternalServerError:
		return fault.Internal
	}
	return fault.Unavailable
}

// problem writes the document of [web.Problem], with the reason's code where
// the caller may know it. Everything in it is ours: ids, codes and fixed texts,
// so that nothing needs escaping and no credential is shown. It is built by
// hand because a flood of refusals must stay cheap.
func (x *exchange) problem(status int, detail, reason, decision string) {
	if status == http.StatusNotFound {
		detail = "there is nothing at this path for you"
	}
	b := make([]byte, 0, 320)
	b = append(b, `{"type":"urn:bulwark:problem:`...)
	b = append(b, kindOf(status).String()...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	for _, m := range [...]struct{ name, value string }{
		{"title", http.StatusText(status)}, {"detail", detail}, {"reason", reason}, {"request_id", x.id}, {"decision_id", decision},
	} {
		if m.value != "" {
			b = append(b, ',', '"')
			b = append(b, m.name...)
			b = append(b, '"', ':')
			b = strconv.AppendQuote(b, m.value) // ASCII, hence JSON too
		}
	}
	b = append(b, '}', '\n')
	h := x.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(web.RequestIDHeader, x.id)
	if h.Get("WWW-Authenticate") == "" {
		web.Hint(h, status)
	}
	x.WriteHeader(status)
	_, _ = x.Write(b) // the client may be gone
}
