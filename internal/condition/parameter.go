package condition

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	celtypes "cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"bulwark.example/internal/fault"
)

const (
	// MaxValues is how many JSON values, nested ones counted, the parameters of
	// one evaluation may have together.
	MaxValues = 10_000

	// MaxBytes is how much text these values may hold together. One operator of
	// CEL reads its operands before their cost is known, so that the inputs must
	// be small by themselves.
	MaxBytes = 256 << 10

	maxDepth   = 64 // of a value
	maxGeneric = 8  // of a type
	maxNumber  = 64 // bytes of a number in a string: reading one takes the square of its length
)

// Type is the type of a parameter. Name is bool, string, int, uint, double,
// duration, timestamp, any, ipaddress, map or list; Of is the type of a map's or
// list's elements, nil for the others. The keys of a map are strings.
type Type struct {
	Name string
	Of   *Type
}

// String returns the type as the language writes it: map<string>.
func (t Type) String() string {
	var b strings.Builder
	depth := 0
	for at := &t; at != nil && depth <= maxGeneric; at = at.Of {
		if depth++; depth > 1 {
			b.WriteByte('<')
		}
		b.WriteString(at.Name)
	}
	return b.String() + strings.Repeat(">", depth-1)
}

// ParseType reads a type as the language writes it. Errors are
// [fault.Invalid].
func ParseType(text string) (Type, error) {
	t, err := parseType(text, 0)
	if err == nil {
		err = t.valid(0)
	}
	if err != nil {
		return Type{}, fault.New(fault.Invalid, err.Error())
	}
	return t, nil
}

func parseType(text string, depth int) (Type, error) {
	name, rest, generic := strings.Cut(text, "<")
	if !generic {
		return Type{Name: name}, nil
	}
	of, closed := strings.CutSuffix(rest, ">")
	if !closed || depth == maxGeneric {
		return Type{}, fmt.Errorf("the type %s is malformed", quote(text))
	}
	inner, err := parseType(of, depth+1)
	return Type{Name: name, Of: &inner}, err
}

func (t Type) valid(depth int) error {
	switch t.Name {
	case "bool", "string", "int", "uint", "double", "duration", "timestamp", "any", "ipaddress":
		if t.Of != nil {
			return fmt.Errorf("the type %s has no element type", t.Name)
		}
		return nil
	case "map", "list":
		switch {
		case t.Of == nil:
			return fmt.Errorf("the type %s needs an element type, as in %s<any>", t.Name, t.Name)
		case depth == maxGeneric:
			return fmt.Errorf("its type is nested deeper than %d", maxGeneric)
		}
		return t.Of.valid(depth + 1)
	}
	return fmt.Errorf("the type %s is unknown", quote(t.Name))
}

// cel returns the type's counterpart; the type must be valid.
func (t Type) cel() *cel.Type {
	switch t.Name {
	case "bool":
		return cel.BoolType
	case "string":
		return cel.StringType
	case "int":
		return cel.IntType
	case "uint":
		return cel.UintType
	case "double":
		return cel.DoubleType
	case "duration":
		return cel.DurationType
	case "timestamp":
		return cel.TimestampType
	case "ipaddress":
		return cel.ObjectType(ipaddressName)
	case "map":
		return cel.MapType(cel.StringType, t.Of.cel())
	case "list":
		return cel.ListType(t.Of.cel())
	}
	return cel.AnyType
}

// budget counts what the values of one evaluation hold.
type budget struct{ values, bytes int }

var (
	errTooLarge = errors.New("too large")
	errText     = errors.New("its value has text that is not UTF-8")
)

func (b *budget) spend(text string) error {
	b.values++
	b.bytes += len(text)
	if b.values > MaxValues || b.bytes > MaxBytes {
		return fmt.Errorf("%w: the values of one condition may be %d with %d bytes of text", errTooLarge, MaxValues, MaxBytes)
	}
	if !utf8.ValidString(text) {
		return errText
	}
	return nil
}

// convert reads a JSON value as the type, by OpenFGA's rules: an int may be a
// string, a number beyond an int's range becomes the nearest int, a double in a
// string must have exactly that value, a duration is a string.
func (t Type) convert(v any, used *budget, depth int) (ref.Val, error) {
	text, isText := v.(string)
	if err := used.spend(text); err != nil {
		return nil, err
	}
	switch t.Name {
	case "bool":
		if b, ok := v.(bool); ok {
			return celtypes.Bool(b), nil
		}
	case "string":
		if isText {
			return celtypes.String(text), nil
		}
	case "int", "uint", "double":
		return t.number(v)
	case "duration":
		if d, err := time.ParseDuration(text); isText && err == nil {
			return celtypes.Duration{Duration: d}, nil
		}
	case "timestamp":
		if at, err := time.Parse(time.RFC3339, text); isText && err == nil {
			return celtypes.Timestamp{Time: at}, nil
		}
	case "ipaddress":
		if ip, err := parseAddress(text); isText && err == nil {
			return ip, nil
		}
	case "any":
		if err := anything(v, used, depth); err != nil {
			return nil, err
		}
		return celtypes.DefaultTypeAdapter.NativeToValue(v), nil
	case "list":
		if list, ok := v.([]any); ok {
			return t.list(list, used, depth)
		}
	case "map":
		if m, ok := v.(map[string]any); ok {
			return t.mapping(m, used, depth)
		}
	}
	return nil, t.refuse(v)
}

// refuse says what was expected. It does not repeat the value: a caller that may
// ask need not be allowed to read what a tuple stores.
func (t Type) refuse(v any) error {
	expected := map[string]string{
		"duration":  `a string like "1h30m"`,
		"timestamp": `a string like "2006-01-02T15:04:05Z" (RFC 3339)`,
		"ipaddress": "a string with an IP address",
	}[t.Name]
	if expected == "" {
		expected = t.Name
	}
	return fmt.Errorf("its value must be %s, not this %s", expected, kind(v))
}

// kind names a JSON value's sort.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "bool"
	case string:
		return "string"
	case float64:
		return "number"
	case []any:
		return "list"
	case map[string]any:
		return "map"
	}
	return "value, which JSON does not have"
}

func (t Type) list(list []any, used *budget, depth int) (ref.Val, error) {
	if depth == maxDepth {
		return nil, errDepth
	}
	if len(list) > MaxValues {
		return nil, used.full()
	}
	out := make([]ref.Val, len(list))
	for i, item := range list {
		var err error
		if out[i], err = t.Of.convert(item, used, depth+1); err != nil {
			return nil, err
		}
	}
	return celtypes.NewRefValList(celtypes.DefaultTypeAdapter, out), nil
}

func (t Type) mapping(m map[string]any, used *budget, depth int) (ref.Val, error) {
	if depth == maxDepth {
		return nil, errDepth
	}
	if len(m) > MaxValues {
		return nil, used.full()
	}
	out := make(map[string]any, len(m))
	for key, item := range m {
		if err := used.spend(key); err != nil {
			return nil, err
		}
		v, err := t.Of.convert(item, used, depth+1)
		if err != nil {
			return nil, err
		}
		out[key] = v
	}
	return celtypes.NewStringInterfaceMap(celtypes.DefaultTypeAdapter, out), nil
}

var (
	errDepth   = fmt.Errorf("its value is nested deeper than %d", maxDepth)
	errForeign = errors.New("its value has a number that JSON does not have")
)

// full is the error of a budget that cannot suffice.
func (b *budget) full() error {
	b.values = MaxValues
	return b.spend("")
}

// anything counts a JSON value of any type, the value itself excepted.
func anything(v any, used *budget, depth int) error {
	item := func(v any) error {
		text, _ := v.(string)
		if err := used.spend(text); err != nil {
			return err
		}
		return anything(v, used, depth+1)
	}
	switch v := v.(type) {
	case nil, bool, string:
		return nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return errForeign
		}
		return nil
	case []any:
		if depth == maxDepth {
			return errDepth
		}
		for _, e := range v {
			if err := item(e); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		if depth == maxDepth {
			return errDepth
		}
		for key, e := range v {
			if err := used.spend(key); err != nil {
				return err
			}
			if err := item(e); err != nil {
				return err
			}
		}
		return nil
	}
	return Type{Name: "any"}.refuse(v)
}

// number reads a number, or one in a string.
func (t Type) number(v any) (ref.Val, error) {
	var n *big.Float
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errForeign
		}
		n = big.NewFloat(v)
	case string:
		if len(v) > maxNumber {
			return nil, fmt.Errorf("its value must be %s, not a string of more than %d bytes", t.Name, maxNumber)
		}
		// OpenFGA's call: base 10, 64 bits, to the nearest. A base of 10 still takes
		// "1p3" and "Inf".
		f, _, err := big.ParseFloat(v, 10, 64, big.ToNearestEven)
		if err != nil {
			return nil, t.refuse(v)
		}
		n = f
	default:
		return nil, t.refuse(v)
	}
	if t.Name == "double" {
		d, accuracy := n.Float64()
		if accuracy != big.Exact {
			return nil, errors.New("its value is not a number that a double has: write it as a number, not as a string")
		}
		return celtypes.Double(d), nil
	}
	if !n.IsInt() {
		return nil, fmt.Errorf("its value must be %s, not a fraction", t.Name)
	}
	i, _ := n.Int64() // the nearest one, of numbers beyond the range
	if t.Name == "int" {
		return celtypes.Int(i), nil
	}
	if i < 0 {
		return nil, errors.New("its value must be uint, not negative")
	}
	return celtypes.Uint(i), nil
}

// printable refuses control characters in what a tuple stores, as OpenFGA does.
func printable(v any, depth int) error {
	control := func(s string) error {
		if strings.ContainsFunc(s, unicode.IsControl) {
			return errors.New("its value has control characters")
		}
		return nil
	}
	if depth > maxDepth {
		return errDepth
	}
	switch v := v.(type) {
	case string:
		return control(v)
	case []any:
		for _, e := range v {
			if err := printable(e, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, e := range v {
			if err := control(key); err != nil {
				return err
			}
			if err := printable(e, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
