// Package relation is the vocabulary of relation tuples: object#relation@subject.
//
// The string forms and limits are OpenFGA's, so that its clients and models
// work unchanged: https://openfga.dev/docs/concepts.
package relation

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"bulwark.example/internal/fault"
)

// StoreID names one graph of tuples, which is also the shard that orders its
// changes. It has the shape of a ULID and is never reused.
type StoreID string

// Tuple says that Subject has Relation to Object. Object is "type:id". Subject
// is "type:id", "type:id#relation" (everyone who has that relation) or
// "type:*" (everyone of the type). The rest says when it counts: a tuple with a
// condition counts where the condition holds, one that expires until then.
//
// A store holds at most one tuple of a [Tuple.Key].
type Tuple struct {
	Object    string `json:"object"`
	Relation  string `json:"relation"`
	Subject   string `json:"user"`                // OpenFGA's name on the wire
	Condition string `json:"condition,omitempty"` // its name in the model
	Context   string `json:"context,omitempty"`   // of the condition: a JSON object as encoding/json writes a map; "" for none
	Expires   int64  `json:"expires,omitempty"`   // nanoseconds since 1970 UTC; 0: never
}

// Key returns what identifies the tuple in its store: object, relation, subject.
func (t Tuple) Key() Tuple { return Tuple{Object: t.Object, Relation: t.Relation, Subject: t.Subject} }

// String returns "object#relation@subject", the key in one word.
func (t Tuple) String() string { return t.Object + "#" + t.Relation + "@" + t.Subject }

// Revision is a point in the history of one store. Revisions of a store are
// dense: 1, 2, 3 and so on, visible in order. Epoch changes when a restore or
// a lossy failover makes a future invalid.
type Revision struct {
	Epoch uint64
	Store StoreID
	Rev   uint64
}

// Limits on the parts of a tuple, in bytes; OpenFGA's.
const (
	MaxObject   = 256
	MaxRelation = 50
	MaxSubject  = 512
)

// MaxContext is the largest context of a tuple's condition, in bytes; OpenFGA's.
const MaxContext = 32 << 10

// Validate reports what is wrong with the tuple's form; whether the model
// allows it is another question. The error has kind [fault.Invalid].
func (t Tuple) Validate() error {
	if !ValidObject(t.Object) {
		return fault.New(fault.Invalid, "the object must be type:id")
	}
	if !ValidRelation(t.Relation) {
		return fault.New(fault.Invalid, "the relation must be a name without : # @ or space")
	}
	if !ValidSubject(t.Subject) {
		return fault.New(fault.Invalid, "the user must be type:id, type:id#relation or type:*")
	}
	return t.validateGuard()
}

// validateGuard is for the parts that few tuples have.
func (t Tuple) validateGuard() error {
	switch {
	case t.Expires < 0:
		return fault.New(fault.Invalid, "the expiry must be a time after 1970")
	case t.Condition == "" && t.Context == "":
		return nil
	case t.Condition == "":
		return fault.New(fault.Invalid, "a context needs the condition that it is for")
	case len(t.Context) > MaxContext:
		return fault.New(fault.TooLarge, "the condition's context is larger than 32 KiB")
	case !ValidRelation(t.Condition):
		return fault.New(fault.Invalid, "the condition must be a name without : # @ or space")
	case t.Context != "" && (t.Context[0] != '{' || !utf8.ValidString(t.Context) || !json.Valid([]byte(t.Context))):
		return fault.New(fault.Invalid, "the condition's context is no JSON object")
	}
	return nil
}

// SplitObject returns the type and the id of "type:id". The id may hold colons.
func SplitObject(object string) (typ, id string, ok bool) {
	typ, id, ok = strings.Cut(object, ":")
	return typ, id, ok
}

// SplitSubject returns the object of a subject and, for a userset, its relation.
func SplitSubject(subject string) (object, rel string) {
	object, rel, _ = strings.Cut(subject, "#")
	return object, rel
}

// ValidObject reports whether s is a well-formed "type:id". The id "*" is no object.
func ValidObject(s string) bool {
	typ, id, ok := SplitObject(s)
	return ok && len(s) <= MaxObject && validName(typ) && id != "" && id != "*" && !strings.ContainsAny(id, "#") && clean(id)
}

// ValidRelation reports whether s is a well-formed relation or type name.
func ValidRelation(s string) bool { return len(s) <= MaxRelation && validName(s) }

// ValidSubject reports whether s is a well-formed subject of any of the three forms.
func ValidSubject(s string) bool {
	if len(s) > MaxSubject {
		return false
	}
	object, rel, userset := strings.Cut(s, "#")
	if typ, id, _ := SplitObject(object); id == "*" {
		return !userset && validName(typ)
	}
	return ValidObject(object) && (!userset || ValidRelation(rel))
}

func validName(s string) bool {
	return s != "" && len(s) <= MaxObject && !strings.ContainsAny(s, ":#@*") && clean(s)
}

// clean refuses white space, control characters and broken UTF-8: two strings
// that look alike must not be two objects.
func clean(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\u2028' || r == '\u2029' || r == '\ufeff' {
			return false
		}
	}
	return true
}
