// Package schema is the authorization model: it reads, validates, compiles the OpenFGA language.
//
// A [Model] is what the engine runs: for each relation of each type a short
// program of steps over one object's tuples. It is the only importer of
// openfga/language.
//
// Language: https://openfga.dev/docs/configuration-language, schema 1.1 and 1.2.
package schema

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// MaxSource is the largest accepted model in bytes, as text or on the wire;
// OpenFGA's limit. Its JSON form takes about four times as much.
const (
	MaxSource = 256 << 10
	maxJSON   = 4 * MaxSource
)

// Model is one compiled model. It never changes and is safe for concurrent use.
type Model struct {
	id, source string
	types      []string // in the order of the source
	relations  map[string][]*Relation
	index      map[name]*Relation
	conditions []Condition
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

// Conditions returns the declared conditions, sorted by name. The caller must
// not change the slice.
func (m *Model) Conditions() []Condition { return m.conditions }

// Inline is the name of the condition that a tuple brings along in its context;
// OpenFGA's.
const Inline = "$expression"

// Condition is a declared condition, not compiled.
type Condition struct {
	Name       string
	Expression string            // CEL
	Parameters map[string]string // name to type as the language writes it: list<string>
}

// Relation is one compiled relation of one type. Read only.
type Relation struct {
	Type, Name   string
	Restrictions []Restriction // who may stand in a tuple of this relation; empty: nobody
	Rewrite      Rewrite       // the definition as written
	*Program
}

// Rewrite is the right-hand side of a definition, as OpenFGA names it: a tree.
type Rewrite struct {
	Op       Op
	Relation string // Computed; FromTuple: what is asked of the tupleset's objects
	Tupleset string
	Operands []Rewrite // Union, All, Except

	typ string // of an operator: the type in whose definition it stands, once compiled
}

// Program says how an object can grant: any step that grants, grants. Read only.
type Program struct {
	Includes []Include // of a relation: itself first, then all that it takes over whole
	Steps    []Step
}

// Restriction is one entry of [user, user:*, team#member, user with c].
type Restriction struct {
	Type      string
	Relation  string // of a userset; "" otherwise
	Wildcard  bool   // type:*
	Condition string // that a tuple must name; "" for one that must name none
}

// String returns the entry as the language writes it.
func (r Restriction) String() string {
	s := r.Type
	switch {
	case r.Wildcard:
		s += ":*"
	case r.Relation != "":
		s += "#" + r.Relation
	}
	if r.Condition != "" {
		s += " with " + r.Condition
	}
	return s
}

// Include is a relation of the same object whose holders all hold the asked
// relation, too (a computed userset, possibly through others).
type Include struct {
	Relation string
	By       int // index of the Include that names it; -1 where the program itself does
}

// Op is what a step or a rewrite does. A union is a list of steps, and what is
// computed on the same object are more steps.
type Op uint8

// The operations; a step has none of the last two.
const (
	Direct    Op = iota + 1 // the tuples of Relation on this object
	FromTuple               // Computed of each object that Relation names on this object
	All                     // every operand grants (and)
	Except                  // the first operand grants, the second does not (but not)
	Union                   // an operand grants (or)
	Computed                // another relation of this object
)

// Step is one way in which an object can grant the relation.
type Step struct {
	Op       Op
	Include  int        // index of the Include in whose definition the step stands; -1 for the program's own
	Relation string     // Direct and FromTuple: whose tuples are read: the relation itself, or the tupleset
	Computed string     // FromTuple only: the relation asked of the objects found
	Operands []*Program // All and Except; one of a relation is that relation's program
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
	found := Restriction{Type: styp, Relation: rel, Wildcard: id == "*", Condition: t.Condition}
	if slices.Contains(r.Restrictions, found) {
		return nil
	}
	if len(r.Restrictions) == 0 {
		return fault.New(fault.Invalid, typ+"#"+r.Name+" is computed from other relations: no tuple can name it")
	}
	found = Restriction{clip(styp), clip(rel), found.Wildcard, clip(found.Condition)}
	return fault.New(fault.Invalid, typ+"#"+r.Name+" does not accept "+found.String())
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
