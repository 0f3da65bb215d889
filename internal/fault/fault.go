// Package fault is the one error type: a kind, a public text, a private cause.
//
// The kind decides how a protocol answers and is mapped once per protocol. The
// public text may be shown to the caller: it says what to do next and leaks
// nothing. The cause is for the log of the process only.
package fault

import (
	"context"
	"errors"
)

// Kind says what sort of failure happened. The set is closed.
type Kind uint8

// The kinds. Internal is the zero value: an error of unknown origin is ours.
const (
	Internal        Kind = iota // a defect or an unexpected state of ours
	Invalid                     // the input is malformed; the caller must change it
	Unauthenticated             // no credential, or one that does not verify
	Denied                      // authenticated, and not allowed
	NotFound                    // absent, or hidden from the caller
	Conflict                    // the state changed under the caller, or a name is taken
	Exhausted                   // a limit is reached; later may work
	TooLarge                    // the input is over a size limit
	Unavailable                 // a part that we need does not answer; retry
	Integrity                   // stored bytes are not what was written
	Unsupported                 // well formed, and not offered here
)

var names = [...]string{
	"internal", "invalid", "unauthenticated", "denied", "not_found", "conflict",
	"exhausted", "too_large", "unavailable", "integrity", "unsupported",
}

// String returns the kind's stable lower-case name.
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return "internal"
}

// Error is an error with a kind. Error values are immutable.
type Error struct {
	kind   Kind
	public string
	cause  error
}

// New returns an error of the kind with a text that the caller may see.
func New(kind Kind, public string) *Error { return &Error{kind: kind, public: public} }

// Wrap returns an error of the kind whose cause stays private.
func Wrap(kind Kind, public string, cause error) *Error {
	return &Error{kind: kind, public: public, cause: cause}
}

// Error returns the public text with the private cause: for logs, never for answers.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.public
	}
	return e.public + ": " + e.cause.Error()
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of the first *Error in err's chain. A context's end
// is Unavailable; anything else is Internal. KindOf(nil) is Internal too: ask
// only about errors.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.kind
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// Public returns the text of err that a caller may see. Errors of unknown
// origin give a fixed text, so that no internal detail can leak.
func Public(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.public
	}
	if KindOf(err) == Unavailable {
		return "the request was not finished in time; try again"
	}
	return "internal error; the request id names the log entry"
}
