package authzen

import (
	"errors"
	"io"
	"net/http"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/web"
)

var (
	errNoStore = fault.New(fault.NotFound, "there is no such store")
	errNoModel = fault.New(fault.Invalid, "the store has no model")
)

func invalid(text string) error { return fault.New(fault.Invalid, text) }

// statusOf returns the status that answers err. The contract knows 400, 401, 403
// and 500; beside them are only the ones that say more to any client of HTTP.
func statusOf(err error) int {
	if errors.Is(err, web.ErrMethod) {
		return http.StatusMethodNotAllowed
	}
	switch fault.KindOf(err) {
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Denied:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	case fault.Internal, fault.Integrity:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// refuse answers with the contract's "error message string". It is not JSON:
// every body of JSON is an object there. It holds nothing that differs from
// request to request, so that two hidden stores give the same bytes.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	status := statusOf(err)
	web.Hint(w.Header(), status)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, fault.Public(err)+"\n") // the peer is gone: nobody is left to tell
}

// refused words the guard's refusal.
func refused(op operation, v guard.Verdict) error {
	switch {
	case v.Kind == fault.Unauthenticated:
		return fault.New(v.Kind, "send one access token for the audience authz, as Authorization: Bearer")
	case v.Kind == fault.Denied && v.Reason == guard.NoScope:
		return fault.New(v.Kind, "who acts for another needs the scope "+op.action+" for this")
	case v.Kind == fault.Denied:
		return fault.New(v.Kind, "this needs "+need+" in your tenant")
	case v.Kind == fault.NotFound:
		return errNoStore
	}
	return fault.New(fault.Unavailable, "the request cannot be decided now; try again")
}
