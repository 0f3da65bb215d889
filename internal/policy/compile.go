package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"bulwark.example/internal/fault"
)

// Compile reads the sources, checks them against the vocabulary and makes them
// ready for questions. A tenant's permit is refused unless every question that
// it may answer is among the delegated ones; its forbid is always welcome. An
// operator's forbid needs no defence against a tenant: nothing beats a forbid.
//
// Errors name file, line and reason: kind [fault.Invalid], or [fault.TooLarge]
// beyond the package's limits.
func Compile(v Vocabulary, sources []Source, delegated ...Grant) (*Set, error) {
	types, err := readTypes(&v)
	if err != nil {
		return nil, err
	}
	c := &compiler{
		types: types, paths: knownPaths(&v), index: newIndex(true), vocabulary: &v,
		actions: map[string]bool{}, sums: map[**entry]*sum{}, slots: map[slotKey]slot{}, validators: map[string]*validate.Validator{},
		delegated: map[Grant]bool{}, names: map[layered]*entry{}, files: map[layered]bool{},
		set: &Set{
			id: identify(&v, sources, delegated), zone: zone(&v), types: types,
			pairs: map[Grant]*bucket{}, policies: map[policyID]*entry{},
		},
	}
	for _, t := range types {
		if t.principal {
			c.principals++
		}
		c.declared += 4 + len(t.claimed)
		for _, r := range t.relations {
			c.actions[r] = true
			c.pairs++
		}
	}
	for _, g := range delegated {
		c.delegated[g] = true
	}
	total := 0
	for i := range sources {
		if total += len(sources[i].Text); total > MaxText {
			return nil, fault.New(fault.TooLarge, "the policies are larger than 4 MiB together")
		}
		if err := c.source(&sources[i]); err != nil {
			return nil, err
		}
	}
	if err := c.gather(); err != nil {
		return nil, err
	}
	return c.set, nil
}

// layered is a name in its layer: what a tenant calls its policies must not get
// into the way of what the operator calls its own, or the other way round.
type layered struct {
	name   string
	tenant bool
}

type compiler struct {
	set        *Set
	types      map[string]*typ
	principals int // how many types ask
	paths      map[string]string
	validators map[string]*validate.Validator
	index      *index
	delegated  map[Grant]bool
	names      map[layered]*entry
	files      map[layered]bool
	vocabulary *Vocabulary
	actions    map[string]bool
	pairs      int // of action and type
	declared   int // attributes of all types
	checks     int
	sums       map[**entry]*sum
	slots      map[slotKey]slot
}

// source adds the policies of one file.
func (c *compiler) source(src *Source) error {
	key := layered{src.Name, src.Tenant}
	if !validLabel(src.Name) || c.files[key] {
		return invalid("the name %q of a file of policies is taken or not 1 to 128 printable characters", src.Name)
	}
	c.files[key] = true
	list, err := parse(src)
	if err != nil {
		return err
	}
	for _, p := range list {
		if len(c.set.policies) == MaxPolicies {
			return fault.New(fault.TooLarge, src.Name+": the set has more than 10,000 policies")
		}
		if err := c.add(src, (*ast.Policy)(p.AST())); err != nil {
			return err
		}
	}
	return nil
}

// parse reads a file within the bounds.
func parse(src *Source) (list cedar.PolicyList, err error) {
	if err := checkText(src); err != nil {
		return nil, err
	}
	list, err = cedar.NewPolicyListFromBytes(src.Name, []byte(src.Text))
	if err != nil {
		return nil, unreadable(src.Name, err)
	}
	return list, nil
}

// whereParsed finds the line in the parser's words.
var whereParsed = regexp.MustCompile(`(?s)^parser error: (?:parse error at \S*?:?(\d+):\d+ (?:"[^"]*": )?)?(.*)$`)

func unreadable(file string, err error) error {
	m := whereParsed.FindStringSubmatch(err.Error())
	if m == nil {
		return at(file, 1, err.Error())
	}
	line, _ := strconv.Atoi(m[1])
	return at(file, max(line, 1), "cannot be read: "+m[2])
}

// maxReason bounds what a message repeats of the text.
const maxReason = 400

func at(file string, line int, reason string) error {
	if len(reason) > maxReason {
		reason = reason[:maxReason] + " …"
	}
	return fault.New(fault.Invalid, fmt.Sprintf("%s:%d: %q", file, line, reason))
}

// add checks one policy and files it.
func (c *compiler) add(src *Source, p *ast.Policy) error {
	e := &entry{
		order: len(c.set.policies), source: src.Name, line: p.Position.Line, tenant: src.Tenant,
		permit: p.Effect == ast.EffectPermit, reads: map[read]bool{},
	}
	e.id = policyID(strconv.Itoa(e.order))
	e.name = fmt.Sprintf("%s:%d:%d", src.Name, e.line, p.Position.Column)
	if reason := c.baptize(e, p); reason != "" {
		return at(src.Name, e.line, reason)
	}
	shape := measure(p)
	if shape.depth > maxExpression {
		return at(src.Name, e.line, "an expression has more than 256 levels; write several policies")
	}
	if reason := c.checkScope(p); reason != "" {
		return at(src.Name, e.line, reason)
	}
	questions := c.questions(p)
	if len(questions) == 0 {
		return at(src.Name, e.line, "no question has this scope: the type does not have the relation")
	}
	if c.checks += c.work(p, questions, shape); c.checks > maxChecks {
		return errTooMuch
	}
	asks := map[string]bool{}
	if reason := c.inspect(p, e.reads, asks); reason != "" {
		return at(src.Name, e.line, reason)
	}
	if reason, err := c.checkTypes(p, questions); err != nil {
		return err
	} else if reason != "" {
		return at(src.Name, e.line, reason)
	}
	e.asks = sortedKeys(asks)
	if reason := c.checkAsks(e, questions); reason != "" {
		return at(src.Name, e.line, reason)
	}
	if e.permit && e.tenant {
		if reason := c.checkDelegated(questions); reason != "" {
			if c.vocabulary.Lenient {
				return nil
			}
			return at(src.Name, e.line, reason)
		}
	}
	c.set.policies[e.id] = e
	c.index.add(e, p)
	return nil
}

// checkScope refuses unknown actions; of principal and resource the type
// checker knows.
func (c *compiler) checkScope(p *ast.Policy) (reason string) {
	var uids []cedar.EntityUID
	switch s := p.Action.(type) {
	case ast.ScopeTypeEq:
		uids = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeIn:
		uids = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeInSet:
		uids = s.Entities
	}
	for _, uid := range uids {
		if !isAction(uid) || !c.actions[string(uid.ID)] {
			return "no type has the relation of the action " + uid.String()
		}
	}
	return ""
}

// work estimates what the type checker has to do: it looks at each kind of
// question, and takes cubic time over a chain of `has`.
func (c *compiler) work(p *ast.Policy, questions []Grant, s shape) int {
	pairs := c.pairs
	if !speaksOfAction(p) {
		seen := map[string]bool{}
		for _, g := range questions {
			seen[g.Type] = true
		}
		pairs = len(seen)
	}
	envs := pairs * c.principals
	return len(verifiedAttrs) + len(c.vocabulary.Claimed) + envs*(s.nodes+s.has*s.has*s.has/8+1)
}

// baptize gives the policy the name in its @id.
func (c *compiler) baptize(e *entry, p *ast.Policy) (reason string) {
	for _, a := range p.Annotations {
		if a.Key != "id" {
			continue
		}
		name := string(a.Value)
		if !validLabel(name) {
			return "the @id must be 1 to 128 printable characters"
		}
		key := layered{name, e.tenant}
		if other := c.names[key]; other != nil {
			return fmt.Sprintf("@id(%q) is also in %s:%d", name, other.source, other.line)
		}
		c.names[key] = e
		e.name = name
	}
	return ""
}

// validLabel is for names of files and policies, which end up in audit events.
func validLabel(s string) bool {
	return s != "" && len(s) <= 128 && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// questions lists what the policy's scope admits.
func (c *compiler) questions(p *ast.Policy) (all []Grant) {
	flat := flatten(*p)
	actions, anyAction := c.index.actions(flat.Action)
	cedarType, anyType, _ := resourceType(flat.Resource)
	named := make(map[string]bool, len(actions))
	for _, a := range actions {
		if a.Type == "Action" {
			named[string(a.ID)] = true
		}
	}
	for _, name := range sortedKeys(c.types) {
		t := c.types[name]
		if !anyType && t.cedar != cedarType {
			continue
		}
		for _, r := range t.relations {
			if anyAction || named[r] {
				all = append(all, Grant{name, r})
			}
		}
	}
	return all
}

// checkAsks refuses to look for a relation that no question's type has.
func (c *compiler) checkAsks(e *entry, questions []Grant) (reason string) {
	for _, name := range e.asks {
		if !slices.ContainsFunc(questions, func(g Grant) bool { return slices.Contains(c.types[g.Type].relations, name) }) {
			return fmt.Sprintf("no type that the policy is for has the relation %q", name)
		}
	}
	return ""
}

// checkDelegated is for a tenant's permit.
func (c *compiler) checkDelegated(questions []Grant) (reason string) {
	for _, g := range questions {
		if !c.delegated[g] {
			return fmt.Sprintf("a tenant may not permit %s on %s: the operator does not delegate it", g.Relation, g.Type)
		}
	}
	return ""
}
