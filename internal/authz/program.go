package authz

import "bulwark.example/internal/schema"

// bound is a model in the symbols of its application: what the evaluator runs.
// It never changes.
type bound struct {
	model    *schema.Model
	types    map[string]*boundType
	bySymbol []*boundType // by sym; nil where the symbol is no type of the model
}

type boundType struct {
	name     string
	sym      sym
	programs map[string]*program
}

// program is one relation of one type. Its pointers to other programs save the
// evaluator every look-up but the first.
type program struct {
	typ, name string
	id        uint32 // within the model
	rel       sym
	includes  []include
	steps     []step
}

type include struct {
	rel  sym
	name string
	by   int
}

// step is a [schema.Step] with the model's type restrictions resolved: a tuple
// that the model does not allow matches nothing here, and so is ignored.
type step struct {
	op      schema.Op
	include int
	rel     sym
	relName string
	plain   []sym // Direct: types whose objects may stand as subject
	every   []sym // Direct: types of which everyone may
	hops    []hop // Direct: usersets; FromTuple: objects to ask
	keys    []uint32
}

// hop leads from a subject of the type to its program. Each srel that hops
// carry has one entry in the step's keys: the group where such subjects stand.
type hop struct {
	typ, srel sym
	next      *program
}

func bind(m *schema.Model, syms *symbols) (*bound, error) {
	b := &bound{model: m, types: map[string]*boundType{}}
	for _, typ := range m.Types() {
		y, err := syms.add(typ)
		if err != nil {
			return nil, err
		}
		bt := &boundType{name: typ, sym: y, programs: map[string]*program{}}
		b.types[typ] = bt
		for len(b.bySymbol) <= int(y) {
			b.bySymbol = append(b.bySymbol, nil)
		}
		b.bySymbol[y] = bt
		for _, r := range m.Relations(typ) {
			rel, err := syms.add(r.Name)
			if err != nil {
				return nil, err
			}
			bt.programs[r.Name] = &program{typ: typ, name: r.Name, rel: rel}
		}
	}
	id := uint32(0)
	for _, typ := range m.Types() {
		for _, r := range m.Relations(typ) {
			b.program(r, id)
			id++
		}
	}
	return b, nil
}

// program fills the program of a relation, once all programs exist.
func (b *bound) program(r *schema.Relation, id uint32) {
	programs := b.types[r.Type].programs
	p := programs[r.Name]
	p.id = id
	for _, inc := range r.Includes {
		p.includes = append(p.includes, include{rel: programs[inc.Relation].rel, name: inc.Relation, by: inc.By})
	}
	for _, s := range r.Steps {
		st := step{op: s.Op, include: s.Include, rel: programs[s.Relation].rel, relName: s.Relation}
		read, _ := b.model.Relation(r.Type, s.Relation)
		for _, a := range read.Restrictions {
			typ := b.types[a.Type]
			switch {
			case s.Op == schema.FromTuple:
				if next := typ.programs[s.Computed]; next != nil {
					st.hop(hop{typ.sym, plain, next})
				}
			case a.Wildcard:
				st.every = append(st.every, typ.sym)
			case a.Relation != "":
				next := typ.programs[a.Relation]
				st.hop(hop{typ.sym, next.rel, next})
			default:
				st.plain = append(st.plain, typ.sym)
			}
		}
		p.steps = append(p.steps, st)
	}
}

func (st *step) hop(h hop) {
	st.hops = append(st.hops, h)
	key := edgeKey(st.rel, h.srel)
	for _, k := range st.keys {
		if k == key {
			return
		}
	}
	st.keys = append(st.keys, key)
}

// next returns the program to ask of a subject of the type, if the model allows
// such a subject.
func (st *step) next(typ, srel sym) *program {
	for i := range st.hops {
		if h := &st.hops[i]; h.typ == typ && h.srel == srel {
			return h.next
		}
	}
	return nil
}

// typeOf returns the bound type of a symbol; nil if the model lacks it.
func (b *bound) typeOf(y sym) *boundType {
	if int(y) < len(b.bySymbol) {
		return b.bySymbol[y]
	}
	return nil
}
