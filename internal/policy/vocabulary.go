package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// maxClaims bounds the declared attributes of the context, and of each type.
const maxClaims = 256

// typ is a type of the model in Cedar's terms.
type typ struct {
	name      string
	cedar     cedar.EntityType
	relations []string
	claimed   map[string]Kind
	principal bool
}

// words may not be the name of an entity type: the language's own, and Action,
// which is the type of actions.
var words = []string{"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar", "Action"}

// cedarName writes a type's name as an identifier.
func cedarName(name string) string {
	out := strings.Map(func(r rune) rune {
		if r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
	if out[0] >= '0' && out[0] <= '9' {
		out = "_" + out
	}
	if slices.Contains(words, out) {
		out += "_"
	}
	return out
}

// readTypes checks the vocabulary and turns its types into Cedar's.
func readTypes(v *Vocabulary) (map[string]*typ, error) {
	types := make(map[string]*typ, len(v.Types))
	owner := map[string]string{}
	for _, t := range v.Types {
		if !relation.ValidRelation(t.Name) {
			return nil, invalid("the vocabulary's type %q is no name of a type", t.Name)
		}
		name := cedarName(t.Name)
		if other, taken := owner[name]; taken {
			return nil, invalid("the types %s and %s have the same name in policies, %s; rename one", other, t.Name, name)
		}
		owner[name] = t.Name
		for _, r := range t.Relations {
			if !relation.ValidRelation(r) {
				return nil, invalid("the vocabulary's relation %q is no name of a relation", r)
			}
		}
		if err := checkClaims(t.Claimed); err != nil {
			return nil, err
		}
		types[t.Name] = &typ{
			name: t.Name, cedar: cedar.EntityType(name), relations: slices.Clone(t.Relations),
			claimed: maps.Clone(t.Claimed), principal: len(v.Principals) == 0,
		}
	}
	for _, name := range v.Principals {
		t := types[name]
		if t == nil {
			return nil, invalid("the vocabulary's principal %q is no type of it", name)
		}
		t.principal = true
	}
	return types, checkClaims(v.Claimed)
}

func checkClaims(claimed map[string]Kind) error {
	if len(claimed) > maxClaims {
		return invalid("more than %d claimed attributes are declared in one place", maxClaims)
	}
	for _, name := range sortedKeys(claimed) {
		if _, ok := kinds[claimed[name]]; !ok || !validLabel(name) || strings.Contains(name, " ") {
			return invalid("the claimed attribute %q needs a kind and a name of 1 to 128 printable characters without spaces", name)
		}
	}
	return nil
}

// kinds are the types of claimed attributes in a Cedar schema.
var kinds = map[Kind]sast.IsType{
	String: sast.String(), Long: sast.Long(), Bool: sast.Bool(), Strings: sast.Set(sast.String()),
	Time: sast.Datetime(), IP: sast.IPAddr(),
}

// validator builds the Cedar schema with the given actions, each on resources
// of the types that have it. Every attribute is declared as present, also those
// that a request may lack: reading an absent one is an error, which fails
// closed, so that policies need no `has` before each. What `has` is for the
// types is in check.go.
func validator(v *Vocabulary, types map[string]*typ, actions map[string][]*typ) (*validate.Validator, error) {
	verifiedType := sast.RecordType{}
	for _, a := range verifiedAttrs {
		verifiedType[cedar.String(a.name)] = sast.Attribute{Type: a.typ}
	}
	context := sast.RecordType{
		"verified": {Type: verifiedType},
		"claimed":  {Type: claimedType(v.Claimed)},
	}
	s := &sast.Schema{Entities: sast.Entities{}, Actions: sast.Actions{}}
	var principals []sast.EntityTypeRef
	for _, name := range sortedKeys(types) {
		t := types[name]
		shape := sast.RecordType{"id": {Type: sast.String()}, "claimed": {Type: claimedType(t.claimed)}}
		if t.principal {
			principals = append(principals, sast.EntityType(t.cedar))
			shape["tenant"] = sast.Attribute{Type: sast.String()}
			shape["roles"] = sast.Attribute{Type: sast.Set(sast.String())}
		}
		s.Entities[sast.Ident(t.cedar)] = sast.Entity{Shape: shape}
	}
	for name, on := range actions {
		applies := &sast.AppliesTo{Principals: principals, Context: context}
		for _, t := range on {
			applies.Resources = append(applies.Resources, sast.EntityType(t.cedar))
		}
		s.Actions[cedar.String(name)] = sast.Action{AppliesTo: applies}
	}
	resolved, err := schema.NewSchemaFromAST(s).Resolve()
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the vocabulary makes no Cedar schema", err)
	}
	return validate.New(resolved), nil
}

func claimedType(claimed map[string]Kind) sast.RecordType {
	out := sast.RecordType{}
	for name, kind := range claimed {
		out[cedar.String(name)] = sast.Attribute{Type: kinds[kind]}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, fmt.Sprintf(format, args...))
}
