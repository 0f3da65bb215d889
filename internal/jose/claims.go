package jose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Claims is a JSON object that was read strictly: valid UTF-8, no repeated
// member at any depth, bounded nesting. Names match exactly, in case too,
// which encoding/json does not do for structs. The zero Claims has no members.
// A Claims is immutable: do not change what Raw and Member return.
type Claims struct {
	raw     []byte
	members map[string]json.RawMessage
}

// ParseClaims reads a JSON object. The error wraps [ErrMalformed] or [ErrTooLarge].
func ParseClaims(raw []byte) (Claims, error) {
	if len(raw) > MaxToken {
		return Claims{}, ErrTooLarge
	}
	members, err := object(raw, maxDepth)
	if err != nil {
		return Claims{}, err
	}
	return Claims{raw, members}, nil
}

// Raw returns the object's bytes as they were signed.
func (c Claims) Raw() []byte { return c.raw }

// Has reports whether the member is present, null included.
func (c Claims) Has(name string) bool { _, ok := c.members[name]; return ok }

// Member returns a member's JSON, nil when absent.
func (c Claims) Member(name string) json.RawMessage { return c.members[name] }

// Text returns a member that must be a string. Absent gives "" and false. The
// error wraps [ErrMalformed]; null is no string.
func (c Claims) Text(name string) (string, bool, error) {
	raw, ok := c.members[name]
	if !ok {
		return "", false, nil
	}
	if len(raw) == 0 || raw[0] != '"' {
		return "", false, fmt.Errorf("%w: %s is not a string", ErrMalformed, name)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", false, fmt.Errorf("%w: %s is not a string", ErrMalformed, name)
	}
	return s, true, nil
}

// Texts returns a member that must be an array of strings. Absent gives nil
// and false. The error wraps [ErrMalformed].
func (c Claims) Texts(name string) ([]string, bool, error) {
	raw, ok := c.members[name]
	if !ok {
		return nil, false, nil
	}
	// Pointers, because null would read as the empty string.
	var list []*string
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return nil, false, fmt.Errorf("%w: %s is not an array of strings", ErrMalformed, name)
	}
	out := make([]string, len(list))
	for i, s := range list {
		if s == nil {
			return nil, false, fmt.Errorf("%w: %s is not an array of strings", ErrMalformed, name)
		}
		out[i] = *s
	}
	return out, true, nil
}

// Audience returns the claim aud as a list, with single true when it was
// written as one string (RFC 7519 section 4.1.3 allows both forms). Absent
// gives nil and false. The error wraps [ErrMalformed].
func (c Claims) Audience() (list []string, single bool, err error) {
	raw := c.members["aud"]
	if len(raw) > 0 && raw[0] == '"' {
		s, _, err := c.Text("aud")
		return []string{s}, true, err
	}
	list, _, err = c.Texts("aud")
	return list, false, err
}

// Time returns a NumericDate (RFC 7519 section 2) read more strictly than the
// RFC: digits only, no sign, fraction or exponent, at most twelve. Absent gives
// the zero time and false. The error wraps [ErrMalformed].
func (c Claims) Time(name string) (time.Time, bool, error) {
	raw, ok := c.members[name]
	if !ok {
		return time.Time{}, false, nil
	}
	if len(raw) == 0 || len(raw) > 12 {
		return time.Time{}, false, fmt.Errorf("%w: %s is not a time", ErrMalformed, name)
	}
	for _, b := range raw {
		if b < '0' || b > '9' {
			return time.Time{}, false, fmt.Errorf("%w: %s is not a time", ErrMalformed, name)
		}
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return time.Time{}, false, fmt.Errorf("%w: %s is not a time", ErrMalformed, name)
	}
	return time.Unix(n, 0).UTC(), true, nil
}

// Object returns a member that must be an object. Absent gives the zero Claims
// and false. The error wraps [ErrMalformed].
func (c Claims) Object(name string) (Claims, bool, error) {
	raw, ok := c.members[name]
	if !ok {
		return Claims{}, false, nil
	}
	inner, err := ParseClaims(raw)
	if err != nil {
		return Claims{}, false, err
	}
	return inner, true, nil
}

// object reads raw as one JSON object and nothing behind it.
func object(raw []byte, depth int) (map[string]json.RawMessage, error) {
	if !utf8.Valid(raw) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	if err := walk(raw, depth); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return nil, fmt.Errorf("%w: not a JSON object", ErrMalformed)
	}
	return members, nil
}

// walk refuses repeated members at any depth and nesting beyond depth. A
// repeated member means that two readers of one token may read two tokens.
func walk(raw []byte, depth int) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	type level struct {
		names map[string]struct{} // nil for an array
		value bool                // in an object: the next token is a value
	}
	var stack []level
	for first := true; first || len(stack) > 0; first = false {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		top := len(stack) - 1
		if name, ok := t.(string); ok && top >= 0 && stack[top].names != nil && !stack[top].value {
			if _, dup := stack[top].names[name]; dup {
				return fmt.Errorf("%w: repeated member", ErrMalformed)
			}
			stack[top].names[name] = struct{}{}
			stack[top].value = true
			continue
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if len(stack) == depth {
				return fmt.Errorf("%w: nested too deep", ErrMalformed)
			}
			if top >= 0 {
				stack[top].value = false
			}
			var l level
			if t == json.Delim('{') {
				l.names = map[string]struct{}{}
			}
			stack = append(stack, l)
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		default:
			if top < 0 {
				return fmt.Errorf("%w: not a JSON object", ErrMalformed)
			}
			stack[top].value = false
		}
	}
	return nil
}
