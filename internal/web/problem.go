package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"bulwark.example/internal/fault"
)

// ErrMethod refuses a method that a path does not have. It answers 405 where
// the kind alone would answer otherwise.
var ErrMethod = fault.New(fault.Unsupported, "this path does not have the method")

// answers is the one table from kinds to HTTP, in the order of the kinds.
var answers = [...]struct {
	kind   fault.Kind
	status int
	title  string
}{
	{fault.Internal, http.StatusInternalServerError, "Internal error"},
	{fault.Invalid, http.StatusBadRequest, "Invalid request"},
	{fault.Unauthenticated, http.StatusUnauthorized, "Not authenticated"},
	{fault.Denied, http.StatusForbidden, "Denied"},
	{fault.NotFound, http.StatusNotFound, "Not found"},
	{fault.Conflict, http.StatusConflict, "Conflict"},
	{fault.Exhausted, http.StatusTooManyRequests, "Limit reached"},
	{fault.TooLarge, http.StatusRequestEntityTooLarge, "Too large"},
	{fault.Unavailable, http.StatusServiceUnavailable, "Unavailable"},
	{fault.Integrity, http.StatusInternalServerError, "Internal error"},
	{fault.Unsupported, http.StatusUnprocessableEntity, "Not offered"},
}

// Status returns the HTTP status that answers err.
func Status(err error) int {
	if errors.Is(err, ErrMethod) {
		return http.StatusMethodNotAllowed
	}
	return answers[fault.KindOf(err)].status
}

// problem is the body of a refusal (RFC 9457).
type problem struct {
	Type       string `json:"type"` // problemType and the kind's name
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	RequestID  string `json:"request_id,omitempty"`
	DecisionID string `json:"decision_id,omitempty"`
}

// problemType begins the URI that names a kind of problem.
const problemType = "urn:bulwark:problem:"

// maxProblem bounds the body of a refusal that a client reads, in bytes.
const maxProblem = 64 << 10

// Problem answers err as application/problem+json. Only the public text of the
// fault is shown, never its cause; a decision's id is shown where one was
// bound with [WithDecision].
func Problem(w http.ResponseWriter, r *http.Request, err error) {
	a := answers[fault.KindOf(err)]
	p := problem{
		Type: problemType + a.kind.String(), Title: a.title, Status: Status(err),
		Detail: fault.Public(err), RequestID: RequestID(r),
	}
	var d *decided
	if errors.As(err, &d) {
		p.DecisionID = d.id
	}
	Hint(w.Header(), p.Status)
	send(w, p.Status, "application/problem+json", p)
}

// Hint sets the headers that a status asks for: what credential is wanted, and
// when to come back.
func Hint(h http.Header, status int) {
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="bulwark"`) // RFC 6750 section 3
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	}
}

// ReadProblem turns a refusal that was received back into a fault with the
// server's public text. A body that is no problem document gives the fault of
// the status alone.
func ReadProblem(status int, body []byte) error {
	kind, text := fault.Internal, "the server refused the request"
	for _, a := range answers {
		if a.status == status && a.kind != fault.Integrity {
			kind = a.kind
		}
	}
	var p problem
	if len(body) <= maxProblem && json.Unmarshal(body, &p) == nil && p.Detail != "" {
		text = p.Detail
		for _, a := range answers {
			if name, ok := strings.CutPrefix(p.Type, problemType); ok && name == a.kind.String() {
				kind = a.kind
			}
		}
	}
	err := error(fault.New(kind, text))
	if p.DecisionID != "" {
		err = WithDecision(err, p.DecisionID)
	}
	return err
}

// decided is an error whose decision is in the audit log.
type decided struct {
	error
	id string
}

func (d *decided) Unwrap() error { return d.error }

// WithDecision binds the id of the audited decision to the error.
func WithDecision(err error, id string) error { return &decided{err, id} }

// DecisionID returns the id of the audited decision behind err, empty if none.
func DecisionID(err error) string {
	var d *decided
	if errors.As(err, &d) {
		return d.id
	}
	return ""
}

// Send answers with v as JSON. The error has kind [fault.Internal]: v does not
// encode, and nothing was written.
func Send(w http.ResponseWriter, status int, v any) error {
	return send(w, status, "application/json", v)
}

func send(w http.ResponseWriter, status int, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.Internal, "the answer does not encode", err)
	}
	write(w, status, contentType, body)
	return nil
}

// SendRaw answers with bytes that are JSON already.
func SendRaw(w http.ResponseWriter, status int, body []byte) {
	write(w, status, "application/json", body)
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the peer is gone: nobody is left to tell
}
