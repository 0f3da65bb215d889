package jose

import (
	"strings"
	"time"

	"bulwark.example/internal/fault"
)

// maxName bounds ids and names inside a token, in bytes.
const maxName = 256

// Reader reads the claims of a token that was verified and keeps the first
// error, of kind [fault.Invalid] or that of [Claims]' methods. Names and ids must be visible ASCII: these
// values end up in headers, logs and keys of maps. It belongs to one goroutine.
type Reader struct {
	Claims Claims
	Err    error
}

func (r *Reader) fail(err error) {
	if r.Err == nil {
		r.Err = err
	}
}

// May returns an optional name.
func (r *Reader) May(name string) string {
	s, ok, err := r.Claims.Text(name)
	if err != nil {
		r.fail(err)
	} else if ok && !visible(s) {
		r.fail(fault.New(fault.Invalid, "the claim "+name+" is not a name"))
	}
	return s
}

// Need is May for a claim that must be there.
func (r *Reader) Need(name string) string {
	if !r.Claims.Has(name) {
		r.fail(fault.New(fault.Invalid, "the claim "+name+" is missing"))
	}
	return r.May(name)
}

// List returns an optional array of names.
func (r *Reader) List(name string) []string {
	list, _, err := r.Claims.Texts(name)
	if err != nil {
		r.fail(err)
	}
	for _, s := range list {
		if !visible(s) {
			r.fail(fault.New(fault.Invalid, "the claim "+name+" is not a list of names"))
		}
	}
	return list
}

// Time returns an optional NumericDate; the zero time if it is absent.
func (r *Reader) Time(name string) time.Time {
	t, _, err := r.Claims.Time(name)
	if err != nil {
		r.fail(err)
	}
	return t
}

// Scopes reads a space-delimited list (RFC 6749 section 3.3). Absent and empty
// give none.
func (r *Reader) Scopes(name string) []string {
	s, _, err := r.Claims.Text(name)
	if err != nil {
		r.fail(err)
	}
	if s == "" {
		return nil
	}
	list := strings.Split(s, " ")
	for _, one := range list {
		if !visible(one) {
			r.fail(fault.New(fault.Invalid, "the claim "+name+" is not a list of scopes"))
		}
	}
	return list
}

// visible reports whether s is 1 to 256 bytes of the characters that RFC 6749
// allows in a scope: visible ASCII without quote and backslash.
func visible(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if b := s[i]; b < 0x21 || b > 0x7e || b == '"' || b == '\\' {
			return false
		}
	}
	return true
}
