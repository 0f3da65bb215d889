package authz

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Roles are part of a version of an operator's application. They say which roles
// there are on its objects, which relations nobody may hold together, and of
// what tenants may make roles of their own.
type Roles struct {
	Roles     []Role              `json:"roles,omitempty"`
	Exclusive []Exclusive         `json:"exclusive,omitempty"`
	Custom    map[string][]string `json:"custom,omitempty"` // by type: the relations that a tenant's roles may have
}

// Role is a template: an assignment to an object of the type writes a tuple for
// each relation. What was assigned stays when the template changes.
type Role struct {
	Name        string   `json:"name"` // one of its type
	Type        string   `json:"type"`
	Relations   []string `json:"relations"`
	Description string   `json:"description,omitempty"`
}

// Exclusive is a set of relations of a type of which nobody may hold two on one
// object, by whatever path: static separation of duties, as NIST's RBAC model
// (INCITS 359) has it.
type Exclusive struct {
	Name      string   `json:"name"`
	Type      string   `json:"type"`
	Relations []string `json:"relations"`
}

// Limits on roles.
const (
	MaxRoles         = 1000 // of a version, and again of a tenant's own
	maxExclusive     = 100
	maxRoleRelations = MaxWrite / 2
	maxDescription   = 500 // bytes
)

func (r Role) same(o Role) bool {
	return r.Name == o.Name && r.Type == o.Type && r.Description == o.Description && slices.Equal(r.Relations, o.Relations)
}

func (r Roles) same(o Roles) bool {
	if len(r.Custom) != len(o.Custom) {
		return false
	}
	for typ, rels := range r.Custom {
		if !slices.Equal(rels, o.Custom[typ]) {
			return false
		}
	}
	return slices.EqualFunc(r.Roles, o.Roles, Role.same) && slices.EqualFunc(r.Exclusive, o.Exclusive, func(a, b Exclusive) bool {
		return a.Name == b.Name && a.Type == b.Type && slices.Equal(a.Relations, b.Relations)
	})
}

// Find returns the template of the name for objects of the type.
func (r Roles) Find(typ, name string) (Role, bool) {
	i := slices.IndexFunc(r.Roles, func(o Role) bool { return o.Type == typ && o.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return r.Roles[i], true
}

// Allow says why a tenant may not make a role like this; nil if it may. Kind
// [fault.Denied] for a relation that the operator does not offer.
func (r Roles) Allow(own Role) error {
	if err := own.validate(); err != nil {
		return err
	}
	if strings.ContainsFunc(own.Description, endsLine) { // one of an archive has passed no other door
		return fault.New(fault.Invalid, "the description of the role "+own.Name+" of "+own.Type+" must be one line of text")
	}
	if _, taken := r.Find(own.Type, own.Name); taken {
		return fault.New(fault.Conflict, "the application has a role "+own.Name+" of "+own.Type+" already; choose another name")
	}
	for _, rel := range own.Relations {
		if !slices.Contains(r.Custom[own.Type], rel) {
			offered := "none"
			if list := r.Custom[own.Type]; len(list) > 0 {
				offered = strings.Join(list, ", ")
			}
			return fault.New(fault.Denied, "a role of your own on "+clip(own.Type)+" may not have the relation "+clip(rel)+"; the operator offers: "+offered)
		}
	}
	return r.apart(own)
}

func endsLine(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

// apart refuses a role that nobody could hold.
func (r Roles) apart(role Role) error {
	for _, x := range r.Exclusive {
		var both []string
		for _, rel := range role.Relations {
			if x.Type == role.Type && slices.Contains(x.Relations, rel) {
				both = append(both, rel)
			}
		}
		if len(both) > 1 {
			return fault.New(fault.Invalid, fmt.Sprintf("the role %s has the relations %s and %s, which nobody may hold together (%s)", role.Name, both[0], both[1], x.Name))
		}
	}
	return nil
}

// validate looks at the form alone.
func (r Role) validate() error {
	what := "the role " + clip(r.Name) + " of " + clip(r.Type)
	switch {
	case !relation.ValidRelation(r.Name) || !relation.ValidRelation(r.Type):
		return fault.New(fault.Invalid, "a role needs a name and a type, of 1 to 50 characters without : # @ * or space; it says "+clip(r.Name)+" of "+clip(r.Type))
	case len(r.Relations) == 0:
		return fault.New(fault.Invalid, what+" has no relations")
	case len(r.Relations) > maxRoleRelations:
		return fault.New(fault.Invalid, fmt.Sprintf("%s has more than %d relations", what, maxRoleRelations))
	case len(r.Description) > maxDescription:
		return fault.New(fault.Invalid, what+" has a description of more than 500 bytes")
	}
	return once(what, r.Relations)
}

// once refuses a list that names something twice.
func once(what string, list []string) error {
	for i, s := range list {
		if slices.Contains(list[:i], s) {
			return fault.New(fault.Invalid, what+" names "+clip(s)+" twice")
		}
	}
	return nil
}

// roleSet is what a Roles excludes, compiled for a model.
type roleSet struct {
	of map[string][]exclusion // by type
	routes
}

type exclusion struct {
	name      string
	relations []*program
}

// excludes tells whether relations of the type exclude each other. It is asked in
// every decision.
func (s *roleSet) excludes(typ string) bool { return s != nil && s.of[typ] != nil }

// compileRoles holds roles to a model. The set is nil if nothing is excluded:
// templates take no part in decisions. Errors have kind [fault.Invalid].
func (b *bound) compileRoles(r Roles) (*roleSet, error) {
	if len(r.Roles) > MaxRoles || len(r.Exclusive) > maxExclusive {
		return nil, fault.New(fault.Invalid, fmt.Sprintf("an application may have %d roles and %d exclusive sets", MaxRoles, maxExclusive))
	}
	for i, role := range r.Roles {
		if err := role.validate(); err != nil {
			return nil, err
		}
		what := "the role " + role.Name
		if _, err := b.assignable(what, role.Type, role.Relations); err != nil {
			return nil, err
		}
		if j := slices.IndexFunc(r.Roles, func(o Role) bool { return o.Type == role.Type && o.Name == role.Name }); j < i {
			return nil, fault.New(fault.Invalid, what+" of "+role.Type+" is there twice")
		}
		if err := r.apart(role); err != nil {
			return nil, err
		}
	}
	for typ, rels := range r.Custom {
		const what = "what tenants may make roles of"
		if _, err := b.assignable(what, typ, rels); err != nil {
			return nil, err
		}
		if err := once(what, rels); err != nil {
			return nil, err
		}
	}
	s := &roleSet{of: map[string][]exclusion{}}
	for i, x := range r.Exclusive {
		if slices.IndexFunc(r.Exclusive, func(o Exclusive) bool { return o.Name == x.Name }) < i {
			return nil, fault.New(fault.Invalid, "the exclusive set "+clip(x.Name)+" is there twice")
		}
		programs, err := b.exclusive(x)
		if err != nil {
			return nil, err
		}
		s.of[x.Type] = append(s.of[x.Type], exclusion{x.Name, programs})
	}
	if len(s.of) == 0 {
		return nil, nil
	}
	s.routes = routesTo(s.of)
	return s, nil
}

// relations finds relations of a type.
func (b *bound) relations(what, typ string, rels []string) ([]*program, error) {
	bt := b.types[typ]
	if bt == nil {
		return nil, fault.New(fault.Invalid, what+" is about the type "+clip(typ)+", which the model does not have")
	}
	out := make([]*program, len(rels))
	for i, rel := range rels {
		if out[i] = bt.programs[rel]; out[i] == nil {
			return nil, fault.New(fault.Invalid, what+" names the relation "+clip(rel)+", which the type "+typ+" does not have")
		}
	}
	return out, nil
}

// assignable finds relations that tuples can name.
func (b *bound) assignable(what, typ string, rels []string) ([]*program, error) {
	out, err := b.relations(what, typ, rels)
	if err != nil {
		return nil, err
	}
	for _, rel := range rels {
		if r, _ := b.model.Relation(typ, rel); len(r.Restrictions) == 0 {
			return nil, fault.New(fault.Invalid, what+" names the relation "+rel+" of "+typ+", which cannot be assigned: its definition has no [types]")
		}
	}
	return out, nil
}

func (b *bound) exclusive(x Exclusive) ([]*program, error) {
	what := "the exclusive set " + clip(x.Name)
	if !relation.ValidRelation(x.Name) {
		return nil, fault.New(fault.Invalid, "an exclusive set needs a name of 1 to 50 characters without : # @ * or space; it says "+clip(x.Name))
	}
	programs, err := b.relations(what, x.Type, x.Relations)
	if err != nil {
		return nil, err
	}
	if err := once(what, x.Relations); err != nil {
		return nil, err
	}
	if len(programs) < 2 || len(programs) > maxRoleRelations {
		return nil, fault.New(fault.Invalid, fmt.Sprintf("%s needs 2 to %d relations", what, maxRoleRelations))
	}
	for _, r := range b.model.Relations(x.Type) {
		y := b.types[x.Type].programs[r.Name].userset
		var takes []string
		for _, p := range programs {
			if p.takesOver(y) {
				takes = append(takes, p.name)
			}
		}
		if len(takes) > 1 {
			return nil, fault.New(fault.Invalid, what+": by the model, whoever holds "+r.Name+" of "+x.Type+" holds "+takes[0]+" and "+takes[1]+"; they cannot exclude each other")
		}
	}
	return programs, nil
}

// takesOver reports whether who holds the userset could hold the program for that
// reason alone.
func (p *program) takesOver(userset sym) bool {
	return p.itself(userset) || slices.ContainsFunc(p.operators, func(op operator) bool {
		return !slices.ContainsFunc(op.needed(), func(o *program) bool { return !o.takesOver(userset) })
	})
}

// Overlap says that somebody holds two relations of an object that exclude each
// other. As an error it refuses an assignment.
type Overlap struct {
	Set       string    `json:"set"` // name of the exclusive set
	Object    string    `json:"object"`
	Subject   string    `json:"user"`
	Relations []string  `json:"relations"`       // two
	Paths     [][]Grant `json:"paths,omitempty"` // of a trace: how each of the two is held
}

// Error implements error.
func (o *Overlap) Error() string {
	return fmt.Sprintf("%s would hold both %s and %s of %s, which exclude each other (%s)", o.Subject, o.Relations[0], o.Relations[1], o.Object, o.Set)
}

// overlap returns the two exclusive relations that the asker holds on the object;
// nil if there are none. What a policy permits is no role. An error means that
// nobody can tell. v is the value of prog, which was asked.
func (ev *evaluator) overlap(prog *program, id uint32, v truth) (*Overlap, error) {
	var unclear error
	for i := range ev.roles.of[prog.typ] {
		x := &ev.roles.of[prog.typ][i]
		var held *program
		var doubt error
		doubts := 0
		for _, p := range x.relations {
			value := v
			if p != prog || v != yes {
				value = ev.value(id, p)
			}
			switch err := ev.failure(value); {
			case ev.fatal != nil:
				return nil, err
			case err != nil:
				doubt = err
				doubts++
			case value != yes:
			case held != nil:
				return &Overlap{Set: x.name, Relations: []string{held.name, p.name}}, nil
			default:
				held = p
			}
		}
		if doubts > 1 || doubts == 1 && held != nil {
			unclear = doubt
		}
	}
	return nil, unclear
}

// value answers another question about the same asker.
func (ev *evaluator) value(id uint32, p *program) truth {
	ev.fix, ev.cause = nil, nil // of the question before
	v, _ := ev.answer(id, p, false)
	return v
}

// explainOverlap completes a trace with how the two relations are held.
func (ev *evaluator) explainOverlap(asked *Query, t *Trace, id uint32) {
	q := *asked
	o := *ev.clash
	o.Object, o.Subject = q.Object, q.Subject
	w := &tracer{ev: ev, q: &q}
	for _, rel := range o.Relations {
		ev.fix, ev.cause = nil, nil
		typ, _, _ := relation.SplitObject(q.Object)
		if v, f := ev.answer(id, ev.model.types[typ].programs[rel], false); v == yes {
			o.Paths = append(o.Paths, w.operand(true, f).Path)
		}
	}
	t.Overlap = &o
}
