// Package schema is the authorization model: it reads, validates, compiles the OpenFGA language.
//
// A [Model] is what the engine runs: for each relation of each type a short
// program of steps over one object's tuples. Whatever this package cannot
// compile it refuses, so that no engine can evaluate a model wrongly by not
// knowing one of its constructs. It is the only importer of openfga/language.
//
// Language: https://openfga.dev/docs/configuration-language, schema 1.1.
package schema

import (
	"crypto/sha256"
	"encoding/base32"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// MaxSource is the largest accepted model text in bytes; OpenFGA's limit.
const MaxSource = 256 << 10

// Model is one compiled model. It never changes and is safe for concurrent use.
type Model struct {
	id, source string
	types      []string // in the order of the source
	relations  map[string][]*Relation
	index      map[name]*Relation
}

type name struct{ typ, relation string }

// ID returns the model's identifier: a hash of its source text in the shape of
// a ULID. Equal texts have equal ids everywhere.
func (m *Model) ID() string { return m.id }

// Source returns the text that the model was parsed from, byte for byte.
func (m *Model) Source() string { return m.source }

// Types returns the names of the types in the order of the source. The caller
// must not change the slice.
func (m *Model) Types() []string { return m.types }

// HasType reports whether the model defines the type.
func (m *Model) HasType(typ string) bool {
	_, ok := m.relations[typ]
	return ok
}

// Relations returns the relations of a type, sorted by name; nil for an
// unknown type. The caller must not change the slice.
func (m *Model) Relations(typ string) []*Relation { return m.relations[typ] }

// Relation returns one relation of one type, and whether it is defined.
func (m *Model) Relation(typ, relation string) (*Relation, bool) {
	r, ok := m.index[name{typ, relation}]
	return r, ok
}

// Relation is one compiled relation of one type. Read only.
type Relation struct {
	Type, Name   string
	Restrictions []Restriction // who may stand in a tuple of this relation; empty: nobody
	Includes     []Include     // the relation itself first, then all that it takes over whole
	Steps        []Step        // any step that grants, grants
}

// Restriction is one entry of [user, user:*, team#member].
type Restriction struct {
	Type     string
	Relation string // of a userset; "" otherwise
	Wildcard bool   // type:*
}

// String returns the entry as the language writes it.
func (r Restriction) String() string {
	switch {
	case r.Wildcard:
		return r.Type + ":*"
	case r.Relation != "":
		return r.Type + "#" + r.Relation
	}
	return r.Type
}

// Include is a relation of the same object whose holders all hold the asked
// relation, too (a computed userset, possibly through others).
type Include struct {
	Relation string
	By       int // index of the Include that names it; -1 for the asked relation itself
}

// Op is what a step does. A union is a list of steps; intersection and
// exclusion will be further kinds of step with programs as operands.
type Op uint8

// The steps.
const (
	Direct    Op = iota + 1 // the tuples of Relation on this object
	FromTuple               // Computed of each object that Tupleset names on this object
)

// Step is one way in which an object can grant the relation.
type Step struct {
	Op       Op
	Include  int    // index of the Include in whose definition the step stands
	Relation string // whose tuples are read: the relation itself, or the tupleset
	Computed string // FromTuple only: the relation asked of the objects found
}

// Validate reports why the model does not allow the tuple; nil when it does.
// The tuple's form must be valid ([relation.Tuple.Validate]). The error has
// kind [fault.Invalid].
func (m *Model) Validate(t relation.Tuple) error {
	typ, _, _ := relation.SplitObject(t.Object)
	if !m.HasType(typ) {
		return fault.New(fault.Invalid, "the model has no type "+clip(typ))
	}
	r, ok := m.Relation(typ, t.Relation)
	if !ok {
		return fault.New(fault.Invalid, "the type "+typ+" has no relation "+clip(t.Relation))
	}
	object, rel := relation.SplitSubject(t.Subject)
	styp, id, _ := relation.SplitObject(object)
	for _, allowed := range r.Restrictions {
		if allowed == (Restriction{Type: styp, Relation: rel, Wildcard: id == "*"}) {
			return nil
		}
	}
	if len(r.Restrictions) == 0 {
		return fault.New(fault.Invalid, typ+"#"+r.Name+" is computed from other relations: no tuple can name it")
	}
	return fault.New(fault.Invalid, typ+"#"+r.Name+" does not accept "+Restriction{clip(styp), clip(rel), id == "*"}.String())
}

// clip shortens a name that a caller gave, for an error text.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

const domain = "bulwark model 1\x00" // versions the id

var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// ID returns the identifier that a model of this text has, without parsing it:
// the first 128 bits of SHA-256 over a domain and the text, in the shape of a
// ULID, whose 26 characters begin with two zero bits.
func ID(source string) string {
	sum := sha256.Sum256([]byte(domain + source))
	var shifted [17]byte
	for i := range shifted {
		var carry byte
		if i > 0 {
			carry = sum[i-1] << 6
		}
		shifted[i] = carry
		if i < 16 {
			shifted[i] |= sum[i] >> 2
		}
	}
	return crockford.EncodeToString(shifted[:])[:26]
}
