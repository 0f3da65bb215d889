// Package tenant is the isolation boundary: the identity of one customer, carried in a context.
//
// An [ID] cannot be made from a request value by accident: its field is
// unexported, no decoder can fill it (there is no UnmarshalJSON, UnmarshalText
// or Scan), and the one function that turns a string into an ID, [Trusted],
// may be called only from the places that house_test.go lists, each with the
// reason why the string is trustworthy there.
package tenant

import (
	"context"
	"crypto/rand"
	"encoding/base32"

	"bulwark.example/internal/fault"
)

// ID names one tenant. The zero ID names none and is refused everywhere.
// IDs are random, immutable and never reused; they compare with ==.
type ID struct{ s string }

// Platform is tenant zero: the home of operators and shared services. Its
// principals have no authority over any other tenant by themselves.
var Platform = ID{"00000000000000000000000000"}

// New returns a fresh random ID. It never equals [Platform].
func New() ID { return ID{RandomID()} }

// Trusted returns the ID that s spells. The name is a warning: s must come
// from a verified credential or from our own store, never from a path, header,
// query or body (DESIGN rule 2). Callers are listed in house_test.go.
//
// The error has kind [fault.Invalid] when s is not an identifier.
func Trusted(s string) (ID, error) {
	if !ValidID(s) {
		return ID{}, fault.New(fault.Invalid, "not a tenant id")
	}
	return ID{s}, nil
}

// String returns the 26-character form.
func (id ID) String() string { return id.s }

// IsZero reports whether id names no tenant.
func (id ID) IsZero() bool { return id.s == "" }

// MarshalText writes the 26-character form. There is deliberately no way back.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.s), nil }

// alphabet is Crockford's base 32, so that identifiers have the shape of a
// ULID: OpenFGA's clients refuse store ids of any other shape.
const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var crockford = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

// RandomID returns 128 random bits in the shape of a ULID: 26 characters of
// Crockford's base 32, the first at most '7'. Tenants, users, services,
// stores, events and requests are named by it. It is safe for concurrent use.
func RandomID() string {
	// 130 bits make 26 characters; the two leading bits stay zero, as in a ULID.
	var raw [17]byte
	_, _ = rand.Read(raw[:16]) // never fails: crypto/rand ends the process instead
	var shifted [17]byte
	for i := range shifted {
		var carry byte
		if i > 0 {
			carry = raw[i-1] << 6
		}
		shifted[i] = carry | raw[i]>>2
	}
	return crockford.EncodeToString(shifted[:])[:26]
}

// ValidID reports whether s has the shape that [RandomID] gives.
func ValidID(s string) bool {
	if len(s) != 26 || s[0] > '7' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
		case c >= 'A' && c <= 'Z' && c != 'I' && c != 'L' && c != 'O' && c != 'U':
		default:
			return false
		}
	}
	return true
}

type contextKey struct{}

// With returns a context that carries id.
func With(ctx context.Context, id ID) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// From returns the tenant that ctx carries; the zero ID and false if none.
func From(ctx context.Context) (ID, bool) {
	id, ok := ctx.Value(contextKey{}).(ID)
	return id, ok && !id.IsZero()
}
