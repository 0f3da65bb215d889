package route

import (
	"strings"
	"unicode/utf8"

	"bulwark.example/internal/fault"
)

// MaxPath is the longest request path in bytes, as it is on the wire.
const MaxPath = 8 << 10

// What is wrong with a path. The texts may be shown to the caller.
var (
	errRelative  = fault.New(fault.Invalid, "the path must begin with a slash")
	errLong      = fault.New(fault.Invalid, "the path is longer than 8 KiB")
	errCharacter = fault.New(fault.Invalid, "the path holds a character that must be percent-encoded")
	errParameter = fault.New(fault.Invalid, "the path holds a semicolon; path parameters are not offered, a literal one is %3B")
	errFragment  = fault.New(fault.Invalid, "the path holds a fragment; a literal # is %23")
	errEscape    = fault.New(fault.Invalid, "the path holds a percent sign without two hexadecimal digits")
	errEncoded   = fault.New(fault.Invalid, "the path holds an encoded slash, backslash, dot or percent sign")
	errControl   = fault.New(fault.Invalid, "the path holds an encoded control character")
	errUTF8      = fault.New(fault.Invalid, "the path is not UTF-8 once decoded")
	errSegment   = fault.New(fault.Invalid, "the path holds an empty or a dot segment")
	errAmbiguous = fault.New(fault.Invalid, "the path can be read as that of two routes; send it without escapes or trailing slash")
)

// Normalize returns the one canonical form of a request path, given as it came
// over the wire: percent-encoded, without the query. What it returns is what
// is matched and, byte for byte, what is forwarded.
//
// It repairs only what RFC 3986 section 6.2.2 calls equivalent: the escapes of
// letters, digits, '-', '_' and '~' are decoded, and hexadecimal digits become
// upper case. Everything that two servers are known to read differently is
// refused, never repaired, because the upstream might repair it in another way:
//
//   - no leading slash (HTTP/2 :path, absolute form), more than [MaxPath] bytes
//   - empty segments ("//"), dot segments, both also with path parameters ("..;")
//   - a raw semicolon, '#', '?', '\', space, control byte, byte over 0x7E or
//     any other character that RFC 3986 keeps out of a path
//   - an encoded slash, backslash, dot, percent sign (so nothing can be encoded
//     twice), NUL or other control character
//   - a percent sign without two hexadecimal digits
//   - what is not UTF-8 once decoded, overlong forms included
//
// Letter case is significant, and so is a trailing slash. The error has kind
// [fault.Invalid]. Normalize is idempotent and does not allocate for a path
// that holds no escape.
func Normalize(raw string) (string, error) {
	if raw == "" || raw[0] != '/' {
		return "", errRelative
	}
	if len(raw) > MaxPath {
		return "", errLong
	}
	escaped := false
	for i := range len(raw) {
		switch c := raw[i]; {
		case pchar(c), c == '/':
		case c == '%':
			escaped = true
		case c == ';':
			return "", errParameter
		case c == '#':
			return "", errFragment
		default:
			return "", errCharacter
		}
	}
	path := raw
	if escaped {
		var err error
		if path, err = canonicalEscapes(raw); err != nil {
			return "", err
		}
	}
	for rest := path[1:]; ; {
		segment, tail, more := strings.Cut(rest, "/")
		if !more && segment == "" {
			return path, nil // a trailing slash, or the root
		}
		if segment == "" || segment[0] == '.' && dots(segment) || strings.HasPrefix(segment, "%3B") {
			return "", errSegment
		}
		if !more {
			return path, nil
		}
		rest = tail
	}
}

// dots reports whether a segment that begins with a dot is "." or "..", also
// when an encoded semicolon follows: some servers cut a segment there.
func dots(segment string) bool {
	segment, _, _ = strings.Cut(segment, "%3B")
	return segment == "." || segment == ".."
}

// canonicalEscapes decodes the escapes of unreserved characters and writes the
// others in upper case.
func canonicalEscapes(raw string) (string, error) {
	out := make([]byte, 0, len(raw))
	decoded := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '%' {
			out, decoded = append(out, c), append(decoded, c)
			continue
		}
		if i+2 >= len(raw) || unhex(raw[i+1]) < 0 || unhex(raw[i+2]) < 0 {
			return "", errEscape
		}
		c = byte(unhex(raw[i+1])<<4 | unhex(raw[i+2]))
		i += 2
		switch {
		case c == '/', c == '\\', c == '.', c == '%':
			return "", errEncoded
		case c < ' ', c == 0x7F:
			return "", errControl
		case unreserved(c):
			out = append(out, c)
		default:
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		}
		decoded = append(decoded, c)
	}
	if !utf8.Valid(decoded) {
		return "", errUTF8
	}
	for _, r := range string(decoded) {
		if r >= 0x80 && r < 0xA0 { // the C1 controls
			return "", errControl
		}
	}
	return string(out), nil
}

// decode returns what a segment of a canonical path stands for.
func decode(segment string) string {
	if strings.IndexByte(segment, '%') < 0 {
		return segment
	}
	out := make([]byte, 0, len(segment))
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c == '%' {
			c = byte(unhex(segment[i+1])<<4 | unhex(segment[i+2]))
			i += 2
		}
		out = append(out, c)
	}
	return string(out)
}

const upperHex = "0123456789ABCDEF"

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// unreserved is RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// pchar is RFC 3986 section 3.3 without the escapes and without the semicolon.
func pchar(c byte) bool {
	return unreserved(c) || strings.IndexByte("!$&'()*+,=:@", c) >= 0
}
