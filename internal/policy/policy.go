// Package policy evaluates guard policies written in Cedar.
//
// An application has a [Set] of policies beside its model. A `forbid` that
// applies beats every grant, one that relations give too; a `permit` that
// applies is a grant of its own, on attributes alone. What the answer means for
// a decision is package authz's business; this package says which policies apply.
//
// # Entities
//
// The relation vocabulary maps one to one: the subject "user:anne" is the
// principal user::"anne", the object "document:roadmap" the resource
// document::"roadmap", the relation asked for is the action
// Action::"can_view". A type whose name is no Cedar identifier is written with
// "_" for every other character (git-repo is git_repo), with "_" before a digit
// at its start and after a word of the language (in, Action); two types that
// would get one name are refused. Entities have no parents: groups and folders
// are relations, and context.verified.relations tells a policy about those.
//
// # Provenance
//
// Who says an attribute stands in its path. `context.verified`, `principal.id`,
// `principal.tenant`, `principal.roles` and `resource.id` are filled from
// [Verified] and the question, by Bulwark alone. Whatever a caller passes along
// is under `context.claimed`, `principal.claimed` or `resource.claimed`
// ([Claimed]), and nowhere else: a claimed amr of ["mfa"] is
// context.claimed.amr, which no policy about context.verified.amr reads.
//
// # Errors fail closed
//
// Cedar ignores a policy whose evaluation ends in an error. A guard must not
// open because something is unknown, so here, and only here, the rule is
// another: an error in a forbid counts as that forbid; an error in a permit
// grants nothing. Unknown attributes are absent, and reading what is absent is
// an error, so that
//
//	forbid (principal, action, resource)
//	unless { context.verified.amr.contains("mfa") };
//
// denies a caller whose amr nobody knows. `has` asks without an error. All the
// rest is Cedar as its integration corpus has it, which runs through the same
// code (corpus_test.go).
//
// # What Compile checks
//
// Cedar's validator (cedar-go's x/exp/schema/validate, strict) finds unknown
// types, operands of wrong types, scopes that fit no question; checks of ours
// find unknown actions and attributes, comparisons of unlike things that it
// lets pass, policies that can never apply, and ways of reading attributes that
// hide which. It does not find a condition that is false or an error for
// reasons of values (hour == 25, an overflow), nor a forbid that is true for
// everyone, nor the text of names: an @id, a user::"anne" that nobody is.
//
// Language: https://docs.cedarpolicy.com.
package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"time"
)

// Limits on the policies of one set.
const (
	MaxSource    = 64 << 10 // bytes of one file
	MaxText      = 4 << 20  // bytes of all files together
	MaxPolicies  = 10_000
	MaxStatement = 8 << 10 // bytes of one policy without its strings, comments, white space
	MaxLiteral   = 2 << 10 // bytes of one string or pattern in a policy
	MaxDepth     = 64      // of brackets
)

// Limits on one request.
const (
	MaxClaim = 4 << 10 // bytes of one claimed string
	MaxItems = 256     // of a list of strings, claimed or verified
)

// maxExpression is the number of levels of an expression, brackets or not.
const maxExpression = 256

// maxChecks bounds what Compile spends on types: expressions, times the kinds
// of question that they are for. It is some seconds of work.
const maxChecks = 10_000_000

// Kind is the type of a claimed attribute.
type Kind uint8

// The kinds, with what they are in Cedar and what a caller passes for them.
const (
	String  Kind = iota + 1 // String: a string
	Long                    // Long: a whole number
	Bool                    // Bool: a boolean
	Strings                 // Set<String>: a list of strings
	Time                    // datetime: a string as RFC 3339 has it
	IP                      // ipaddr: a string, an address or a range
)

// Vocabulary is what policies may talk about. It comes from the application's
// model and its declarations.
type Vocabulary struct {
	Types      []Type
	Principals []string        // the types that ask; none: every type
	Claimed    map[string]Kind // attributes of context.claimed
	Zone       *time.Location  // of context.verified's weekday, hour, minute; nil: UTC

	// Lenient leaves out a tenant's permits that are not delegated (any more),
	// where Compile refuses them otherwise.
	Lenient bool
}

// Type is a type of the model with its relations.
type Type struct {
	Name      string
	Relations []string        // each is an action on resources of this type
	Claimed   map[string]Kind // attributes of resource.claimed and principal.claimed
}

// Source is one file of policies.
type Source struct {
	Name, Text string
	Tenant     bool // the tenant's own, not the operator's
}

// Grant names a relation of a type for which a tenant's permit is accepted.
type Grant struct{ Type, Relation string }

// Set is a compiled set of policies. It never changes and is safe for
// concurrent use.
type Set struct {
	id       string
	zone     *time.Location
	types    map[string]*typ
	pairs    map[Grant]*bucket
	policies map[policyID]*entry
}

// ID returns the hash of everything that the set was compiled from. Equal sets
// have equal ids everywhere; the order of sources counts.
func (s *Set) ID() string { return s.id }

// Len returns the number of policies.
func (s *Set) Len() int { return len(s.policies) }

// Candidates returns how many forbids and permits may apply to a question
// about the relation of the type. With no permits, a list of objects needs no
// look beyond relations.
func (s *Set) Candidates(typ, relation string) (forbids, permits int) {
	b := s.pairs[Grant{typ, relation}]
	if b == nil {
		return 0, 0
	}
	for _, list := range b.lists {
		for _, e := range list {
			if e.permit {
				permits++
			} else {
				forbids++
			}
		}
	}
	return forbids, permits
}

// Asks returns the relations of the type that candidate policies look for in
// context.verified.relations. Whoever calls [Set.Decide] evaluates them for the
// principal and the resource, without policies, and passes on those that hold.
func (s *Set) Asks(typ, relation string) []string {
	if b := s.pairs[Grant{typ, relation}]; b != nil {
		return b.asks
	}
	return nil
}

// identify hashes what a set is made from.
func identify(v *Vocabulary, sources []Source, delegated []Grant) string {
	d := digest{sha256.New()}
	d.text("bulwark policies 1")
	d.number(len(v.Types))
	for _, t := range v.Types {
		d.text(t.Name)
		d.number(len(t.Relations))
		for _, r := range t.Relations {
			d.text(r)
		}
		d.kinds(t.Claimed)
	}
	d.number(len(v.Principals))
	for _, p := range v.Principals {
		d.text(p)
	}
	d.kinds(v.Claimed)
	d.text(zone(v).String())
	d.number(len(sources))
	for _, src := range sources {
		d.text(src.Name)
		d.text(src.Text)
		d.flag(src.Tenant)
	}
	d.number(len(delegated))
	for _, g := range delegated {
		d.text(g.Type)
		d.text(g.Relation)
	}
	return hex.EncodeToString(d.Sum(nil))
}

// digest writes so that no two inputs give the same bytes.
type digest struct{ hash.Hash }

func (d digest) number(n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.Write(b[:])
}

func (d digest) text(s string) {
	d.number(len(s))
	d.Write([]byte(s))
}

func (d digest) flag(b bool) {
	if b {
		d.number(1)
	} else {
		d.number(0)
	}
}

func (d digest) kinds(m map[string]Kind) {
	d.number(len(m))
	for _, name := range sortedKeys(m) {
		d.text(name)
		d.number(int(m[name]))
	}
}

func zone(v *Vocabulary) *time.Location {
	if v.Zone == nil {
		return time.UTC
	}
	return v.Zone
}
