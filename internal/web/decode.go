package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"bulwark.example/internal/fault"
)

// MaxDepth is how deep JSON may nest.
const MaxDepth = 16

// Decode reads the body as one JSON object into v, a pointer to a struct, by
// the rules of [Unmarshal]. The error has kind [fault.Invalid], or
// [fault.TooLarge] for a body over the Mux's limit.
func Decode(r *http.Request, v any) error {
	raw, err := Body(r)
	if err != nil {
		return err
	}
	return Unmarshal(raw, v)
}

// Body reads a body of JSON whole, for who decodes it without [Unmarshal]. The
// error is as [Decode]'s.
func Body(r *http.Request) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, fault.New(fault.Invalid, "the body must be JSON, with Content-Type: application/json")
	}
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return nil, fault.New(fault.Invalid, "the body must not be compressed")
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		var over *http.MaxBytesError
		if errors.As(err, &over) {
			return nil, fault.New(fault.TooLarge, fmt.Sprintf("the body is over the limit of %d bytes", over.Limit))
		}
		return nil, fault.Wrap(fault.Invalid, "the body did not arrive whole", err)
	}
	return raw, nil
}

// Empty refuses a body. The error has kind [fault.Invalid].
func Empty(r *http.Request) error {
	if n, err := r.Body.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "this request takes no body")
	}
	return nil
}

// Unmarshal reads exactly one JSON object into v, a pointer to a struct, and is
// stricter than encoding/json, so that no two readers can take one input for
// two things: it refuses what is not UTF-8, lone surrogates, control characters
// in strings (but tab and line ends), repeated members, members that v does not
// have, in exactly its spelling, null, nesting beyond [MaxDepth], and anything
// after the value. The error has kind [fault.Invalid].
func Unmarshal(raw []byte, v any) error {
	if err := walk(raw, reflect.TypeOf(v).Elem(), false); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && typ.Field != "" {
			return fault.New(fault.Invalid, "the member "+typ.Field+" has the wrong type")
		}
		return fault.Wrap(fault.Invalid, "the body does not have the expected form", err)
	}
	return nil
}

// Object reads exactly one JSON object as encoding/json does, for contracts whose
// receivers ignore members that they do not know. It is as strict as [Unmarshal]
// but for null, which is a value here. The error has kind [fault.Invalid].
func Object(raw []byte) (map[string]any, error) {
	if err := walk(raw, nil, true); err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fault.Wrap(fault.Invalid, "the body holds a number out of range", err)
	}
	return m, nil
}

// walk checks all but the types of what is to become a t.
func walk(raw []byte, t reflect.Type, nulls bool) error {
	if !utf8.Valid(raw) || loneSurrogate(raw) {
		return fault.New(fault.Invalid, "the body is not valid UTF-8")
	}
	d := &walker{json.NewDecoder(bytes.NewReader(raw)), nulls}
	d.UseNumber()
	if err := d.value(t, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "the body holds more than one JSON value")
	}
	return nil
}

type walker struct {
	*json.Decoder
	nulls bool // null is a value
}

var errSyntax = fault.New(fault.Invalid, "the body is not valid JSON")

// value reads one value that is to become a t. Only names are checked against
// t here; types are encoding/json's business. t nil takes any members.
func (d *walker) value(t reflect.Type, depth int) error {
	token, err := d.Token()
	if err != nil {
		return errSyntax
	}
	if depth == 0 && token != json.Delim('{') {
		return fault.New(fault.Invalid, "the body must be a JSON object")
	}
	if t != nil && reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		t = nil // reads its own form: json.RawMessage, time.Time
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch token := token.(type) {
	case nil:
		if d.nulls {
			return nil
		}
		return fault.New(fault.Invalid, "null is not a value here; leave the member out")
	case string:
		if control(token) {
			return fault.New(fault.Invalid, "a string holds a control character")
		}
	case json.Delim:
		if depth == MaxDepth {
			return fault.New(fault.Invalid, "the body nests too deep")
		}
		if token == '{' {
			return d.object(t, depth)
		}
		return d.array(t, depth)
	}
	return nil
}

func (d *walker) object(t reflect.Type, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return errSyntax
		}
		name := token.(string) // the decoder gives nothing else here
		if control(name) {
			return fault.New(fault.Invalid, "a string holds a control character")
		}
		if seen[name] {
			return fault.New(fault.Invalid, "the member "+quote(name)+" is repeated")
		}
		seen[name] = true
		var of reflect.Type
		switch {
		case t == nil:
		case t.Kind() == reflect.Map:
			of = t.Elem()
		case t.Kind() == reflect.Struct:
			var ok bool
			if of, ok = member(t, name); !ok {
				return fault.New(fault.Invalid, "there is no member "+quote(name)+" here")
			}
		}
		if err := d.value(of, depth+1); err != nil {
			return err
		}
	}
	return d.end()
}

func (d *walker) array(t reflect.Type, depth int) error {
	var of reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		of = t.Elem()
	}
	for d.More() {
		if err := d.value(of, depth+1); err != nil {
			return err
		}
	}
	return d.end()
}

func (d *walker) end() error {
	if _, err := d.Token(); err != nil {
		return errSyntax
	}
	return nil
}

// member returns the type of the struct's member with exactly this JSON name.
func member(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if of, ok := member(f.Type, name); ok {
				return of, true
			}
			continue
		}
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name && tag != "-" && tag != "" {
			return f.Type, true
		}
	}
	return nil, false
}

// quote shows a name of the client's in an error, shortened.
func quote(name string) string {
	if len(name) > 40 {
		name = strings.ToValidUTF8(name[:40], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}

func control(s string) bool {
	for _, r := range s {
		if (r < ' ' && r != '\t' && r != '\n' && r != '\r') || (r >= 0x7f && r < 0xa0) {
			return true
		}
	}
	return false
}

// loneSurrogate reports whether an escape names half of a surrogate pair.
// encoding/json would read every such escape as the same U+FFFD.
func loneSurrogate(raw []byte) bool {
	high := false // the escape just before was a high surrogate
	for i := 0; i < len(raw); i++ {
		low := false
		if raw[i] == '\\' && i+1 < len(raw) {
			if raw[i+1] == 'u' && i+5 < len(raw) {
				hex := strings.ToLower(string(raw[i+2 : i+6]))
				second := hex[1]
				if hex[0] == 'd' && second >= '8' && second <= 'b' {
					if high {
						return true
					}
					high = true
					i += 5
					continue
				}
				low = hex[0] == 'd' && second >= 'c' && second <= 'f'
				i += 5
			} else {
				i++
			}
		}
		if high != low {
			return true
		}
		high = false
	}
	return high
}

// Query returns the URL's parameters. A parameter that is not in allowed, that
// is repeated, or that does not decode is refused: an ignored filter would
// answer another question than the one that was asked. The error has kind
// [fault.Invalid].
func Query(r *http.Request, allowed ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the query does not decode")
	}
	for name, values := range q {
		if !slices.Contains(allowed, name) {
			return nil, fault.New(fault.Invalid, "there is no parameter "+quote(name)+" here")
		}
		if len(values) != 1 || !utf8.ValidString(values[0]) || control(values[0]) {
			return nil, fault.New(fault.Invalid, "the parameter "+quote(name)+" is repeated or malformed")
		}
	}
	return q, nil
}
