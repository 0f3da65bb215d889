package schema

import (
	"fmt"
	"maps"
	"slices"

	"bulwark.example/internal/fault"
)

// maxSteps bounds the compiled form: a chain of n computed relations has n²/2
// includes, and 256 KB of text would hold thousands.
const maxSteps = 1 << 16

// maxPruned is the longest program that is looked through for superfluous
// steps, which takes quadratic time. Longer ones are right as they are.
const maxPruned = 64

// compile flattens every relation: what it takes over from other relations of
// the same object becomes steps of its own, so that the engine reads an
// object's tuples once, without asking the model what to do next.
func (p *parser) compile(m *Model) error {
	m.relations = map[string][]*Relation{}
	m.index = map[name]*Relation{}
	p.programs, p.operands = map[*definition]*Program{}, map[*Rewrite][]*Program{}
	for _, relations := range p.defs {
		for _, d := range relations {
			p.programs[d] = &Program{} // operands may refer to it before it is filled
		}
	}
	for _, typ := range p.types {
		m.relations[typ] = []*Relation{}
		for _, rel := range slices.Sorted(maps.Keys(p.defs[typ])) {
			d := p.defs[typ][rel]
			if err := p.flatten(d, &d.rewrite, p.programs[d]); err != nil {
				return err
			}
			r := &Relation{Type: d.typ, Name: d.name, Restrictions: d.restrictions, Rewrite: d.rewrite, Program: p.programs[d]}
			m.relations[typ] = append(m.relations[typ], r)
			m.index[name{typ, rel}] = r
		}
	}
	for d, program := range p.programs {
		p.prune(m, d.typ, program)
	}
	for r, list := range p.operands {
		for i := range list {
			if r.Operands[i].Op != Computed {
				p.prune(m, r.typ, list[i])
			}
		}
	}
	return nil
}

// prune drops the steps that another step of the union makes superfluous:
// "owner from parent" beside "editor from parent", when an editor of every
// possible parent includes its owner. The depth of an answer stays what it is.
func (p *parser) prune(m *Model, typ string, program *Program) {
	if len(program.Steps) > maxPruned {
		return
	}
	covers := func(a, b Step) bool { // a reaches all that b does
		for _, target := range p.defs[typ][b.Relation].restrictions {
			if _, ok := m.index[name{target.Type, b.Computed}]; !ok {
				continue
			}
			over, ok := m.index[name{target.Type, a.Computed}]
			if !ok || !slices.ContainsFunc(over.Includes, func(i Include) bool { return i.Relation == b.Computed }) {
				return false
			}
		}
		return true
	}
	var kept []Step
	for _, b := range program.Steps {
		// No two steps cover each other: their relations would include each other,
		// and such circles are refused.
		superfluous := b.Op == FromTuple && slices.ContainsFunc(program.Steps, func(a Step) bool {
			return a.Op == FromTuple && a.Relation == b.Relation && a.Computed != b.Computed && covers(a, b)
		})
		if !superfluous {
			kept = append(kept, b)
		}
	}
	program.Steps = kept
}

// flatten fills the program of a definition, or of an operand in it, which is
// then not the definition's whole right-hand side. It walks the computed
// relations breadth first, so that the chain of includes from the asked
// relation to each other is a shortest one.
func (p *parser) flatten(d *definition, of *Rewrite, program *Program) error {
	included := map[string]bool{}
	walked := map[[2]string]bool{}
	var err error
	walk := func(at *definition, w *Rewrite, by int) {
		var add func(w *Rewrite)
		add = func(w *Rewrite) {
			switch w.Op {
			case Direct:
				program.Steps = append(program.Steps, Step{Op: Direct, Include: by, Relation: at.name})
			case Computed:
				if !included[w.Relation] {
					included[w.Relation] = true
					program.Includes = append(program.Includes, Include{w.Relation, by})
				}
			case FromTuple:
				if key := [2]string{w.Tupleset, w.Relation}; !walked[key] {
					walked[key] = true
					program.Steps = append(program.Steps, Step{Op: FromTuple, Include: by, Relation: w.Tupleset, Computed: w.Relation})
				}
			case Union:
				for i := range w.Operands {
					add(&w.Operands[i])
				}
			case All, Except:
				op := All
				if w.Op == Except {
					op = Except
				}
				var list []*Program
				if list, err = p.operandsOf(at, w); err == nil {
					program.Steps = append(program.Steps, Step{Op: op, Include: by, Operands: list})
				}
			}
		}
		add(w)
	}
	if of == &d.rewrite {
		included[d.name] = true
		program.Includes = append(program.Includes, Include{d.name, -1})
		walk(d, of, 0)
	} else {
		walk(d, of, -1)
	}
	for i := 0; i < len(program.Includes) && err == nil; i++ {
		if at := p.defs[d.typ][program.Includes[i].Relation]; at != d || of != &d.rewrite {
			walk(at, &at.rewrite, i)
		}
	}
	if p.steps += len(program.Steps) + len(program.Includes); p.steps > maxSteps && err == nil {
		err = fault.New(fault.TooLarge, fmt.Sprintf("the model compiles to more than %d steps: its relations include too many others", maxSteps))
	}
	return err
}

// operandsOf returns the programs of an operator's operands. They are made once,
// however many relations take the operator over; the program of a relation is
// shared, or a chain of operators would double with every link.
func (p *parser) operandsOf(d *definition, w *Rewrite) ([]*Program, error) {
	if list, ok := p.operands[w]; ok {
		return list, nil
	}
	w.typ = d.typ
	var list []*Program
	for i := range w.Operands {
		operand := &w.Operands[i]
		if operand.Op == Computed {
			list = append(list, p.programs[p.defs[d.typ][operand.Relation]])
			continue
		}
		program := new(Program)
		if err := p.flatten(d, operand, program); err != nil {
			return nil, err
		}
		list = append(list, program)
	}
	p.operands[w] = list
	return list, nil
}
