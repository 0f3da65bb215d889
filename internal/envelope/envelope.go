// Package envelope is ciphertext format 1: sealed bytes bound to where they belong.
//
// A blob is
//
//	header ‖ salt (32) ‖ commitment (32) ‖ nonce (12) ‖ ciphertext ‖ tag (16)
//
// and the header names environment, tenant, key and version in clear. For each
// message HKDF-SHA-256 (RFC 5869) derives from the key version, the random salt
// and an unambiguous encoding of header, purpose and context
//
//   - a commitment, which makes it infeasible to craft one blob that opens under
//     two keys or two contexts (AES-GCM alone does not commit to its key), and
//   - an AES-256-GCM key (NIST SP 800-38D) that seals this one message, so the
//     number of messages under a version is not limited by the size of a nonce.
//
// All functions are pure but for the system's random generator, and safe for
// concurrent use. docs/spec/envelope.md is the specification with test vectors.
package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"maps"
	"slices"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// Sizes and limits, in bytes.
const (
	KeySize      = 32      // of a key version
	MaxEnv       = 32      // of the environment's name
	MaxKey       = 128     // of a key's name
	MaxPurpose   = 64      // of a purpose
	MaxContext   = 8192    // of all context pairs, each string with 4 bytes for its length
	MaxPlaintext = 1 << 20 // of one message; larger data is sealed in parts or under a data key

	saltSize       = 32
	commitmentSize = 32
	nonceSize      = 12
	tagSize        = 16
	minTail        = saltSize + commitmentSize + nonceSize + tagSize
	maxHeader      = len(prefix) + 1 + MaxEnv + 1 + 26 + 1 + MaxKey + 4
)

// prefix is the magic with the format's number as its last byte.
const prefix = "BWE\x01"

// MaxBlob is the length in bytes of the longest blob.
const MaxBlob = maxHeader + minTail + MaxPlaintext

// errOpen is the one answer to whatever is wrong with a blob, a key or a
// context: a caller that learns which check failed has an oracle.
var errOpen = fault.New(fault.Invalid, "the ciphertext does not open")

// Header says in clear which key version sealed a blob. A header that [Parse]
// read is a claim: it is proven only when [Open] succeeds.
type Header struct {
	Env     string // lower-case letters, digits and hyphens
	Tenant  string // in the form of [tenant.ID]
	Key     string // printable ASCII without space
	Version uint32 // from 1
}

// Seal encrypts plaintext under one version of a key and returns the blob.
// The header is written in clear. purpose and context are not written at all:
// [Open] must be given the same ones. Order does not matter in a context, and
// nil is the same as empty.
//
// Errors have kind [fault.Invalid] for a key of wrong length or a header or
// purpose out of form, and [fault.TooLarge] for context or plaintext over
// their limit.
func Seal(versionKey secret.Bytes, h Header, purpose string, context map[string]string, plaintext []byte) ([]byte, error) {
	if versionKey.Len() != KeySize {
		return nil, fault.New(fault.Invalid, "a key version has 32 bytes")
	}
	if !h.valid() {
		return nil, fault.New(fault.Invalid, "the header of a ciphertext is out of form")
	}
	if purpose == "" || len(purpose) > MaxPurpose {
		return nil, fault.New(fault.Invalid, "a purpose has 1 to 64 bytes")
	}
	if contextSize(context) > MaxContext {
		return nil, fault.New(fault.TooLarge, "the encryption context is over 8192 bytes")
	}
	if len(plaintext) > MaxPlaintext {
		return nil, fault.New(fault.TooLarge, "the plaintext is over 1 MiB; encrypt it under a data key")
	}

	blob := make([]byte, 0, maxHeader+minTail+len(plaintext))
	blob = h.append(blob)
	headerLen := len(blob)
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // never fails: crypto/rand ends the process instead
	d, err := derive(versionKey, blob, salt[:], purpose, context)
	if err != nil {
		return nil, err
	}
	blob = append(blob, salt[:]...)
	blob = append(blob, d.commitment[:]...)
	// The nonce is drawn by the standard library; with a key that is used once
	// even a repeated nonce would reveal nothing.
	return d.aead.Seal(blob, nil, plaintext, d.aad(blob[:headerLen])), nil
}

// Open returns the plaintext of a blob, proven to have been sealed by someone
// who had the key version, with this header, purpose and context.
//
// Every failure gives one and the same error of kind [fault.Invalid]. The
// caller must check that the header names the tenant it serves, or better pick
// the key by that tenant: Open proves the header, it does not judge it.
func Open(versionKey secret.Bytes, purpose string, context map[string]string, blob []byte) (secret.Bytes, error) {
	_, headerLen, ok := parse(blob)
	if !ok || versionKey.Len() != KeySize || purpose == "" || len(purpose) > MaxPurpose || contextSize(context) > MaxContext {
		return secret.Bytes{}, errOpen
	}
	header, tail := blob[:headerLen], blob[headerLen:]
	salt, tail := tail[:saltSize], tail[saltSize:]
	commitment, sealed := tail[:commitmentSize], tail[commitmentSize:]

	d, err := derive(versionKey, header, salt, purpose, context)
	if err != nil || subtle.ConstantTimeCompare(d.commitment[:], commitment) != 1 {
		return secret.Bytes{}, errOpen
	}
	plaintext, err := d.aead.Open(nil, nil, sealed, d.aad(header))
	if err != nil {
		return secret.Bytes{}, errOpen
	}
	return secret.New(plaintext), nil
}

// Parse returns the header of a blob without a key. It accepts exactly the
// blobs whose form is right, and gives the error of [Open] for any other.
func Parse(blob []byte) (Header, error) {
	h, _, ok := parse(blob)
	if !ok {
		return Header{}, errOpen
	}
	return h, nil
}

// derived is what one message needs: its commitment and its one-use cipher.
type derived struct {
	info       []byte
	commitment [commitmentSize]byte
	aead       cipher.AEAD
}

// derive runs HKDF-SHA-256 with salt and info into commitment ‖ key. info
// begins with the header, which is self-delimiting and begins with magic and
// format, so no other use of HKDF with this key can have the same info.
func derive(versionKey secret.Bytes, header, salt []byte, purpose string, context map[string]string) (derived, error) {
	info := appendInfo(make([]byte, 0, len(header)+8+len(purpose)+contextSize(context)), header, purpose, context)
	okm, err := hkdf.Key(sha256.New, versionKey.Reveal(), salt, string(info), commitmentSize+KeySize)
	if err != nil {
		return derived{}, fault.Wrap(fault.Internal, "key derivation failed", err)
	}
	defer clear(okm)
	block, err := aes.NewCipher(okm[commitmentSize:])
	if err != nil {
		return derived{}, fault.Wrap(fault.Internal, "key derivation failed", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return derived{}, fault.Wrap(fault.Internal, "key derivation failed", err)
	}
	return derived{info, [commitmentSize]byte(okm), aead}, nil
}

// aad is header ‖ info.
func (d derived) aad(header []byte) []byte { return slices.Concat(header, d.info) }

// appendInfo writes header ‖ purpose ‖ number of pairs ‖ pairs sorted by name.
// Each string has its length before it, so that {"a":"b1:c1:d"} and
// {"a":"b","c":"d"} cannot meet.
func appendInfo(b, header []byte, purpose string, context map[string]string) []byte {
	b = append(b, header...)
	b = appendString(b, purpose)
	b = binary.BigEndian.AppendUint32(b, uint32(len(context)))
	for _, name := range slices.Sorted(maps.Keys(context)) {
		b = appendString(b, name)
		b = appendString(b, context[name])
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// contextSize is the encoded length of the pairs. It cannot overflow: the
// strings are in memory.
func contextSize(context map[string]string) int {
	n := 0
	for name, value := range context {
		n += 8 + len(name) + len(value)
	}
	return n
}

// append writes the header's clear form; see parse for the way back.
func (h Header) append(b []byte) []byte {
	b = append(b, prefix...)
	for _, s := range []string{h.Env, h.Tenant, h.Key} {
		b = append(b, byte(len(s))) // valid() holds each below 256
		b = append(b, s...)
	}
	return binary.BigEndian.AppendUint32(b, h.Version)
}

func (h Header) valid() bool {
	return ValidEnv(h.Env) && tenant.ValidID(h.Tenant) && ValidKey(h.Key) && h.Version > 0
}

// parse reads the header and its length, and checks that the rest is long
// enough to be cut into its parts.
func parse(blob []byte) (h Header, headerLen int, ok bool) {
	if len(blob) > MaxBlob || len(blob) < len(prefix) || string(blob[:len(prefix)]) != prefix {
		return Header{}, 0, false
	}
	rest := blob[len(prefix):]
	for _, field := range []*string{&h.Env, &h.Tenant, &h.Key} {
		if len(rest) == 0 {
			return Header{}, 0, false
		}
		n := int(rest[0]) // an int: adding to a byte would wrap at 255
		if len(rest)-1 < n {
			return Header{}, 0, false
		}
		*field, rest = string(rest[1:1+n]), rest[1+n:]
	}
	if len(rest) < 4 {
		return Header{}, 0, false
	}
	h.Version, rest = binary.BigEndian.Uint32(rest), rest[4:]
	if !h.valid() || len(rest) < minTail || len(rest) > minTail+MaxPlaintext {
		return Header{}, 0, false
	}
	return h, len(blob) - len(rest), true
}

// ValidEnv reports whether s can name an environment: 1 to 32 lower-case
// letters, digits and hyphens.
func ValidEnv(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= MaxEnv
}

// ValidKey reports whether s can name a key: 1 to 128 printable ASCII
// characters, no space.
func ValidKey(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= MaxKey
}
