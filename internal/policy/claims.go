package policy

import (
	"math"
	"strconv"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// claim returns what the caller says of the attribute. What is not said, as a
// JSON null is not, and what is not declared (kind 0) is absent.
func claim(says map[string]any, name string, kind Kind, r read) (cedar.Value, error) {
	raw, ok := says[name]
	if !ok || raw == nil || kind == 0 {
		return nil, nil
	}
	var v cedar.Value
	if kind == Strings {
		if items, ok := stringList(raw); ok {
			v = list(items, r)
		}
	} else {
		v = scalar(raw, kind)
	}
	if v == nil {
		return nil, invalid("the claimed attribute %s must be %s", strconv.Quote(name), shapes[kind])
	}
	return v, nil
}

var shapes = map[Kind]string{
	String: "a string of at most 4 KiB", Long: "a whole number", Bool: "a boolean",
	Strings: "a list of at most 256 strings", Time: "a time as RFC 3339 has it", IP: "an IP address or range",
}

// scalar returns nil for a value that is not of the kind.
func scalar(raw any, kind Kind) cedar.Value {
	switch raw := raw.(type) {
	case string:
		return fromString(raw, kind)
	case bool:
		if kind == Bool {
			return cedar.Boolean(raw)
		}
	case float64:
		// Beyond 2^53 JSON's numbers are no longer the caller's.
		if kind == Long && raw == math.Trunc(raw) && math.Abs(raw) <= 1<<53 {
			return cedar.Long(raw)
		}
	case int:
		if kind == Long {
			return cedar.Long(raw)
		}
	case int64:
		if kind == Long {
			return cedar.Long(raw)
		}
	}
	return nil
}

func fromString(s string, kind Kind) cedar.Value {
	if len(s) > MaxClaim {
		return nil
	}
	switch kind {
	case String:
		return cedar.String(s)
	case Time:
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return cedar.NewDatetime(t)
		}
	case IP:
		if ip, err := types.ParseIPAddr(s); err == nil {
			return ip
		}
	}
	return nil
}

// stringList reads a list of strings within the bounds. Cedar finds members of
// a set by a hash that anyone can make collide: the bounds keep that cheap.
func stringList(raw any) (items []string, ok bool) {
	switch l := raw.(type) {
	case []string:
		items = l
	case []any:
		if len(l) > MaxItems {
			return nil, false
		}
		items = make([]string, len(l))
		for i, item := range l {
			if items[i], ok = item.(string); !ok {
				return nil, false
			}
		}
	}
	if items == nil || len(items) > MaxItems {
		return nil, false
	}
	for _, s := range items {
		if len(s) > MaxClaim {
			return nil, false
		}
	}
	return items, true
}
