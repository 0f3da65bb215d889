package authz

import (
	"cmp"
	"slices"
	"sync"

	"bulwark.example/internal/condition"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
)

// bound is a model in the symbols of its application: what the evaluator runs.
// It never changes.
type bound struct {
	model      *schema.Model
	types      map[string]*boundType
	bySymbol   []*boundType // by the form of an object; nil where it is no type of the model
	conditions map[string]*condition.Condition
	programs   []*program // by id
	flat       flatness

	mu      sync.Mutex // guards reaches
	reaches map[*program]*reach
}

type boundType struct {
	name            string
	object, anybody sym // the forms "user" and "user:*" of a subject
	programs        map[string]*program
}

// program is one relation of one type, or an operand of an operator. Its
// pointers to other programs save the evaluator every look-up but the first.
type program struct {
	typ, name string // name is "" for an operand
	id        uint32
	userset   sym // the form of a subject that holds the relation; 0 for an operand
	includes  []include
	steps     []step
	actions   []action // by key
	operators []operator
}

type include struct {
	userset sym
	name    string
	by      int
}

// step says for people what actions and operators do.
type step struct {
	op      schema.Op
	include int
	rel     sym // whose tuples are read; 0 for an operator
	relName string
	asked   string // of the subjects, for "from"
}

// action is what one form of a tuple can do for a program: a tuple of another
// form, and so one that the model does not allow, meets no action and counts
// for nothing.
type action struct {
	key       uint32
	step      int32
	parent    bool     // of "from": the subject is where to go on, and holds nothing itself
	next      *program // to ask of the subject; nil for a form that ends there
	condition string   // that the tuple must name; "" for one that must name none
}

// operator is an intersection or exclusion.
type operator struct {
	step     int32
	except   bool
	operands []*program
}

// bind compiles a model for an application. Errors: [fault.Invalid] for a
// condition that does not compile, [fault.Exhausted] for too many names.
func bind(m *schema.Model, syms *symbols) (*bound, error) {
	b := &bound{model: m, types: map[string]*boundType{}, conditions: map[string]*condition.Condition{}}
	for _, c := range m.Conditions() {
		params := map[string]condition.Type{}
		for name, text := range c.Parameters {
			var err error
			if params[name], err = condition.ParseType(text); err != nil {
				return nil, fault.Wrap(fault.Invalid, "the condition "+c.Name+" has the parameter "+clip(name)+": "+fault.Public(err), err)
			}
		}
		compiled, err := condition.Compile(c.Name, c.Expression, params)
		if err != nil {
			return nil, err
		}
		b.conditions[c.Name] = compiled
	}
	known := map[*schema.Program]*program{}
	for _, typ := range m.Types() {
		bt := &boundType{name: typ, programs: map[string]*program{}}
		var err, err2 error
		bt.object, err = syms.add(typ, "")
		bt.anybody, err2 = syms.add(typ, everyone)
		if err = cmp.Or(err, err2); err != nil {
			return nil, err
		}
		b.types[typ] = bt
		for len(b.bySymbol) <= int(bt.object) {
			b.bySymbol = append(b.bySymbol, nil)
		}
		b.bySymbol[bt.object] = bt
		for _, r := range m.Relations(typ) {
			p := &program{typ: typ, name: r.Name}
			if p.userset, err = syms.add(typ, r.Name); err != nil {
				return nil, err
			}
			bt.programs[r.Name] = p
			known[r.Program] = p
		}
	}
	for _, typ := range m.Types() {
		for _, r := range m.Relations(typ) {
			if err := b.fill(known[r.Program], r.Program, known, syms); err != nil {
				return nil, err
			}
		}
	}
	b.flat = flatten(b)
	return b, nil
}

// fill compiles a program, once those of all relations exist.
func (b *bound) fill(p *program, source *schema.Program, known map[*schema.Program]*program, syms *symbols) error {
	p.id = uint32(len(b.programs))
	b.programs = append(b.programs, p)
	programs := b.types[p.typ].programs
	for _, inc := range source.Includes {
		p.includes = append(p.includes, include{programs[inc.Relation].userset, inc.Relation, inc.By})
	}
	for _, s := range source.Steps {
		n := int32(len(p.steps))
		st := step{op: s.Op, include: s.Include, relName: s.Relation, asked: s.Computed}
		if read := programs[s.Relation]; read != nil {
			st.rel = read.userset
		}
		p.steps = append(p.steps, st)
		if s.Op == schema.Direct || s.Op == schema.FromTuple {
			b.act(p, n, s, syms)
			continue
		}
		op := operator{step: n, except: s.Op == schema.Except}
		for _, operand := range s.Operands {
			next := known[operand]
			if next == nil {
				next = &program{typ: p.typ}
				known[operand] = next
				if err := b.fill(next, operand, known, syms); err != nil {
					return err
				}
			}
			op.operands = append(op.operands, next)
		}
		p.operators = append(p.operators, op)
	}
	slices.SortStableFunc(p.actions, func(a, b action) int { return cmp.Compare(a.key, b.key) })
	return nil
}

// act adds the actions of a step that reads tuples.
func (b *bound) act(p *program, n int32, s schema.Step, syms *symbols) {
	read, _ := b.model.Relation(p.typ, s.Relation)
	rel := b.types[p.typ].programs[s.Relation].userset
	for _, r := range read.Restrictions {
		typ := b.types[r.Type]
		a := action{key: edgeKey(rel, typ.object), step: n, condition: r.Condition}
		switch {
		case s.Op == schema.FromTuple:
			a.parent = true
			if a.next = typ.programs[s.Computed]; a.next == nil {
				continue
			}
		case r.Wildcard:
			a.key = edgeKey(rel, typ.anybody)
		case r.Relation != "":
			a.next = typ.programs[r.Relation]
			a.key = edgeKey(rel, a.next.userset)
		}
		p.actions = append(p.actions, a)
	}
}

// typeOf returns the bound type of an object's form; nil if the model lacks it.
func (b *bound) typeOf(y sym) *boundType {
	if int(y) < len(b.bySymbol) {
		return b.bySymbol[y]
	}
	return nil
}
