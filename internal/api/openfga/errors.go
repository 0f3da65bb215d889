package openfga

import (
	"context"
	"errors"
	"net/http"
	"strings"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/web"
)

// coded is a fault with a code of OpenFGA's own.
type coded struct {
	fault *fault.Error
	rpc   codes.Code // the status over gRPC
	code  int32      // decides the name and the status over HTTP; OpenFGA's errors_ignore.proto
}

// Error is the fault's: for logs.
func (c *coded) Error() string { return c.fault.Error() }

// Unwrap lets [fault.KindOf] see the fault.
func (c *coded) Unwrap() error { return c.fault }

func newCoded[C ~int32](code C, kind fault.Kind, text string) *coded {
	return &coded{fault.New(kind, text), codes.Code(code), int32(code)}
}

// as gives err the code, and keeps its kind, text and cause.
func as[C ~int32](code C, err error) error {
	return &coded{fault.Wrap(fault.KindOf(err), fault.Public(err), err), codes.Code(code), int32(code)}
}

var (
	errNoStore = newCoded(fga.NotFoundErrorCode_store_id_not_found, fault.NotFound, "Store ID not found")
	errNoInput = newCoded(fga.ErrorCode_invalid_write_input, fault.Invalid, "Invalid input. Make sure you provide at least one write, or at least one delete")
	errExpand  = newCoded(fga.ErrorCode_invalid_expand_input, fault.Invalid, "Invalid input. Make sure you provide an object and a relation")
	errToken   = newCoded(fga.ErrorCode_invalid_continuation_token, fault.Invalid, "Invalid continuation token")
)

// invalid makes the error of a request's Validate one of ours. Over gRPC it is
// InvalidArgument, over HTTP the field decides, as with OpenFGA.
func invalid(err error) error {
	text := err.Error()
	if i := strings.LastIndex(text, "| caused by:"); i >= 0 {
		text = strings.TrimSpace(text[i+len("| caused by:"):])
	}
	code := fga.ErrorCode_validation_error
	if where, reason, ok := strings.Cut(text, ": "); ok {
		if _, field, ok := strings.Cut(where, "."); ok {
			code = codeOf(field, reason)
		}
	}
	return &coded{fault.New(fault.Invalid, text), codes.InvalidArgument, int32(code)}
}

// fieldCodes are OpenFGA's codes for a field that breaks a rule of its kind.
var fieldCodes = []struct {
	field, reason string
	code          fga.ErrorCode
}{
	{"Assertions", "value must contain no more than", fga.ErrorCode_assertions_too_many_items},
	{"AuthorizationModelId", "value length must be at most", fga.ErrorCode_authorization_model_id_too_long},
	{"Base", "value is required", fga.ErrorCode_difference_base_missing_value},
	{"Id", "value length must be at most", fga.ErrorCode_id_too_long},
	{"Object", "value length must be at most", fga.ErrorCode_object_too_long},
	{"PageSize", "value must be inside range", fga.ErrorCode_page_size_invalid},
	{"Params", "value is required", fga.ErrorCode_param_missing_value},
	{"Relation", "value length must be at most", fga.ErrorCode_relation_too_long},
	{"Relations", "value must contain at least", fga.ErrorCode_relations_too_few_items},
	{"Subtract", "value is required", fga.ErrorCode_subtract_base_missing_value},
	{"StoreId", "value length must be", fga.ErrorCode_store_id_invalid_length},
	{"TupleKey", "value is required", fga.ErrorCode_tuple_key_value_not_specified},
	{"TupleKeys", "value must contain between", fga.ErrorCode_tuple_keys_too_many_or_too_few_items},
	{"Type", "value length must be at", fga.ErrorCode_type_invalid_length},
	{"Type", "value does not match regex pattern", fga.ErrorCode_type_invalid_pattern},
	{"TypeDefinitions", "value must contain at least", fga.ErrorCode_type_definitions_too_few_items},
}

func codeOf(field, reason string) fga.ErrorCode {
	for _, c := range fieldCodes {
		if c.field == field && strings.HasPrefix(reason, c.reason) {
			return c.code
		}
	}
	if strings.HasPrefix(field, "Relations[") {
		switch {
		case strings.HasPrefix(reason, "value length must be at most"):
			return fga.ErrorCode_relations_too_long
		case strings.HasPrefix(reason, "value does not match regex pattern"):
			return fga.ErrorCode_relations_invalid_pattern
		}
	}
	return fga.ErrorCode_validation_error
}

// wrong gives an error of the engine about a question its code. In a list a
// type or relation that the model lacks has a code of its own.
func (c *call) wrong(err error, list bool) error {
	switch {
	case errors.Is(err, authz.ErrNoModel):
		return as(fga.ErrorCode_authorization_model_not_found, err)
	case list && errors.Is(err, authz.ErrTuple) && errors.Is(err, authz.ErrCondition):
		return err // OpenFGA's lists, and they alone, tell a wrong condition from a wrong tuple
	case errors.Is(err, authz.ErrTuple):
		return as(fga.ErrorCode_invalid_tuple, err)
	case list && errors.Is(err, authz.ErrNoType):
		return as(fga.ErrorCode_type_not_found, err)
	case list && errors.Is(err, authz.ErrNoRelation):
		return as(fga.ErrorCode_relation_not_found, err)
	case fault.KindOf(err) == fault.NotFound:
		return c.gone(err)
	}
	return err
}

// gone tells a store without a model from one that was deleted meanwhile.
func (c *call) gone(err error) error {
	if _, known := c.api.Directory.Graph(c.tenant, c.store.ID); known != nil {
		return errNoStore
	}
	return &coded{
		fault.Wrap(fault.Invalid, "No authorization models found for store '"+string(c.store.ID)+"'", err),
		codes.Code(fga.ErrorCode_latest_authorization_model_not_found), int32(fga.ErrorCode_latest_authorization_model_not_found),
	}
}

// kinds is the one table from kinds to OpenFGA's codes, in the order of the
// kinds, for errors that have no code of their own.
var kinds = [...]struct {
	kind fault.Kind
	rpc  codes.Code
	code int32
}{
	{fault.Internal, codes.Code(fga.InternalErrorCode_internal_error), int32(fga.InternalErrorCode_internal_error)},
	{fault.Invalid, codes.Code(fga.ErrorCode_validation_error), int32(fga.ErrorCode_validation_error)},
	{fault.Unauthenticated, codes.Code(fga.AuthErrorCode_unauthenticated), int32(fga.AuthErrorCode_unauthenticated)},
	{fault.Denied, codes.Code(fga.AuthErrorCode_forbidden), int32(fga.AuthErrorCode_forbidden)},
	{fault.NotFound, codes.Code(fga.NotFoundErrorCode_undefined_endpoint), int32(fga.NotFoundErrorCode_undefined_endpoint)},
	{fault.Conflict, codes.Code(fga.ErrorCode_write_failed_due_to_invalid_input), int32(fga.ErrorCode_write_failed_due_to_invalid_input)},
	{fault.Exhausted, codes.Code(fga.ErrorCode_authorization_model_resolution_too_complex), int32(fga.ErrorCode_authorization_model_resolution_too_complex)},
	{fault.TooLarge, codes.Code(fga.ErrorCode_exceeded_entity_limit), int32(fga.ErrorCode_exceeded_entity_limit)},
	{fault.Unavailable, codes.Unavailable, int32(fga.InternalErrorCode_unavailable)}, // generic clients come back after this one
	{fault.Integrity, codes.Code(fga.InternalErrorCode_internal_error), int32(fga.InternalErrorCode_internal_error)},
	{fault.Unsupported, codes.Unimplemented, int32(fga.NotFoundErrorCode_unimplemented)},
}

// codesOf returns the status over gRPC and the code.
func codesOf(err error) (codes.Code, int32) {
	var c *coded
	kind := fault.KindOf(err)
	switch {
	case errors.As(err, &c):
		return c.rpc, c.code
	case kind == fault.Unavailable && errors.Is(err, context.DeadlineExceeded):
		return codes.Code(fga.InternalErrorCode_deadline_exceeded), int32(fga.InternalErrorCode_deadline_exceeded)
	case kind == fault.Unavailable && errors.Is(err, context.Canceled):
		return codes.Code(fga.ErrorCode_cancelled), int32(fga.ErrorCode_cancelled)
	}
	return kinds[kind].rpc, kinds[kind].code
}

// statusOf is err over gRPC.
func statusOf(err error) error {
	rpc, _ := codesOf(err)
	return status.Error(rpc, fault.Public(err))
}

// nameOf returns the code's name and status over HTTP.
func nameOf(err error) (name string, httpStatus int) {
	_, code := codesOf(err)
	switch {
	case errors.Is(err, web.ErrMethod):
		return "unimplemented", http.StatusMethodNotAllowed
	case code == int32(fga.AuthErrorCode_forbidden):
		return "forbidden", http.StatusForbidden
	case code == int32(fga.InternalErrorCode_unavailable):
		return "unavailable", http.StatusServiceUnavailable
	case code == int32(fga.InternalErrorCode_resource_exhausted):
		return "resource_exhausted", http.StatusTooManyRequests
	case code >= 5000:
		return fga.NotFoundErrorCode(code).String(), http.StatusNotFound
	case code >= 4000:
		return fga.InternalErrorCode(code).String(), http.StatusInternalServerError
	case code >= 2000:
		return fga.ErrorCode(code).String(), http.StatusBadRequest
	}
	return fga.AuthErrorCode(code).String(), http.StatusUnauthorized
}

// refusal is OpenFGA's form of an error.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refuse answers err in OpenFGA's form. It holds nothing that differs from
// request to request, so that two hidden stores give the same bytes.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	name, code := nameOf(err)
	web.Hint(w.Header(), code)
	_ = web.Send(w, code, refusal{name, fault.Public(err)})
}

// refused words the guard's refusal.
func refused(r *rule, v guard.Verdict) error {
	switch {
	case v.Kind == fault.Unauthenticated:
		return fault.New(v.Kind, "send one access token for the audience authz, as Authorization: Bearer")
	case v.Kind == fault.Denied && v.Reason == guard.NoScope:
		return fault.New(v.Kind, "who acts for another needs the scope "+r.action+" for this")
	case v.Kind == fault.Denied:
		return fault.New(v.Kind, "this needs "+r.relation+" in your tenant")
	case v.Kind == fault.NotFound:
		return errNoStore
	}
	return fault.New(fault.Unavailable, "the request cannot be decided now; try again")
}
