package openfga

import (
	"errors"
	"net/http"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/web"
)

// The errors that have a code of their own.
var (
	errNoStore    = fault.New(fault.NotFound, "Store ID not found")
	errNoModel    = fault.New(fault.Invalid, "the store's application has no authorization model")
	errPage       = fault.New(fault.Invalid, "page_size must be 1 to 100")
	errOtherModel = fault.New(fault.Invalid, "only the active authorization model answers; leave authorization_model_id out or name that one")
)

// answers is the one table from kinds to OpenFGA's statuses and codes
// (openfga/api, errors_ignore.proto), in the order of the kinds.
var answers = [...]struct {
	kind   fault.Kind
	status int
	code   string
}{
	{fault.Internal, http.StatusInternalServerError, "internal_error"},
	{fault.Invalid, http.StatusBadRequest, "validation_error"},
	{fault.Unauthenticated, http.StatusUnauthorized, "unauthenticated"},
	{fault.Denied, http.StatusForbidden, "forbidden"},
	{fault.NotFound, http.StatusNotFound, "undefined_endpoint"},
	{fault.Conflict, http.StatusBadRequest, "write_failed_due_to_invalid_input"},
	{fault.Exhausted, http.StatusBadRequest, "authorization_model_resolution_too_complex"},
	{fault.TooLarge, http.StatusBadRequest, "exceeded_entity_limit"},
	{fault.Unavailable, http.StatusServiceUnavailable, "unavailable"},
	{fault.Integrity, http.StatusInternalServerError, "internal_error"},
	{fault.Unsupported, http.StatusBadRequest, "validation_error"},
}

// refuse answers err in OpenFGA's form. It holds nothing that differs from
// request to request, so that two hidden stores give the same bytes.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	a := answers[fault.KindOf(err)]
	switch {
	case errors.Is(err, errNoStore):
		a.code = "store_id_not_found"
	case errors.Is(err, errNoModel):
		a.code = "latest_authorization_model_not_found"
	case errors.Is(err, errOtherModel):
		a.code = "authorization_model_not_found"
	case errors.Is(err, web.ErrMethod):
		a.status, a.code = http.StatusMethodNotAllowed, "unimplemented"
	}
	web.Hint(w.Header(), a.status)
	_ = web.Send(w, a.status, struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{a.code, fault.Public(err)})
}

// refused words the guard's refusal.
func refused(rt route, kind fault.Kind) error {
	switch kind {
	case fault.Unauthenticated:
		return fault.New(kind, "send one access token for the audience authz, as Authorization: Bearer")
	case fault.Denied:
		return fault.New(kind, "this needs "+rt.relation+" in your tenant")
	case fault.NotFound:
		return errNoStore
	}
	return fault.New(fault.Unavailable, "the request cannot be decided now; try again")
}
