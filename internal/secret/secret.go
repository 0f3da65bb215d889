// Package secret holds bytes that never print, marshal or compare with ==.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"

	"bulwark.example/internal/fault"
)

// Bytes is a secret. Every way in which Go prints or marshals a value gives
// "[secret]" or an error. The zero Bytes is an empty secret. Copies share the
// bytes, so one Destroy ends them all.
//
// The bytes are behind a function because fmt walks into unexported fields of
// the structs around a value, where it may call no method of the value: a
// slice would be printed there, a function is an address.
type Bytes struct{ get func() []byte }

const redacted = "[secret]"

// New returns a secret that owns b. The caller must not use b afterwards.
func New(b []byte) Bytes { return Bytes{func() []byte { return b }} }

// Random returns n bytes from the system's generator.
func Random(n int) Bytes {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return New(b)
}

// Reveal returns the bytes themselves, not a copy. Each call is a place to review.
func (s Bytes) Reveal() []byte {
	if s.get == nil {
		return nil
	}
	return s.get()
}

// Len returns the length in bytes.
func (s Bytes) Len() int { return len(s.Reveal()) }

// Equal compares in constant time for secrets of equal length.
func (s Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1
}

// Destroy overwrites the bytes. Go may have copied them before; this shortens
// the time that a memory dump can find them and promises nothing more.
func (s Bytes) Destroy() { clear(s.Reveal()) }

// Format writes "[secret]" whatever the verb: %d and %x would go around String.
func (s Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String returns "[secret]".
func (s Bytes) String() string { return redacted }

// LogValue returns "[secret]".
func (s Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses, with kind [fault.Internal]: a secret in an encoder is a defect.
func (s Bytes) MarshalText() ([]byte, error) {
	return nil, fault.New(fault.Internal, "a secret cannot be marshalled")
}

// MarshalBinary refuses, with kind [fault.Internal].
func (s Bytes) MarshalBinary() ([]byte, error) { return s.MarshalText() }

// MarshalJSON refuses, with kind [fault.Internal].
func (s Bytes) MarshalJSON() ([]byte, error) { return s.MarshalText() }
