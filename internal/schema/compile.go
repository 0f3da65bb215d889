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
	total := 0
	for _, typ := range p.types {
		m.relations[typ] = []*Relation{}
		for _, rel := range slices.Sorted(maps.Keys(p.defs[typ])) {
			r := p.flatten(p.defs[typ][rel])
			if total += len(r.Steps) + len(r.Includes); total > maxSteps {
				return fault.New(fault.TooLarge, fmt.Sprintf("the model compiles to more than %d steps: its relations include too many others", maxSteps))
			}
			m.relations[typ] = append(m.relations[typ], r)
			m.index[name{typ, rel}] = r
		}
	}
	for _, r := range m.index {
		if len(r.Steps) <= maxPruned {
			p.prune(m, r)
		}
	}
	return nil
}

// prune drops the steps that another step of the union makes superfluous:
// "owner from parent" beside "editor from parent", when an editor of every
// possible parent includes its owner. The depth of an answer stays what it is.
func (p *parser) prune(m *Model, r *Relation) {
	covers := func(a, b Step) bool { // a reaches all that b does
		for _, target := range p.defs[r.Type][b.Relation].restrictions {
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
	for _, b := range r.Steps {
		// No two steps cover each other: their relations would include each other,
		// and such circles are refused.
		superfluous := b.Op == FromTuple && slices.ContainsFunc(r.Steps, func(a Step) bool {
			return a.Op == FromTuple && a.Relation == b.Relation && a.Computed != b.Computed && covers(a, b)
		})
		if !superfluous {
			kept = append(kept, b)
		}
	}
	r.Steps = kept
}

// flatten walks the computed relations breadth first, so that the chain of
// includes from the asked relation to each other is a shortest one.
func (p *parser) flatten(d *definition) *Relation {
	r := &Relation{Type: d.typ, Name: d.name, Restrictions: d.restrictions, Includes: []Include{{d.name, -1}}}
	included := map[string]bool{d.name: true}
	walked := map[[2]string]bool{}
	for i := 0; i < len(r.Includes); i++ {
		at := p.defs[d.typ][r.Includes[i].Relation]
		var add func(w rewrite)
		add = func(w rewrite) {
			switch w.kind {
			case this:
				r.Steps = append(r.Steps, Step{Op: Direct, Include: i, Relation: at.name})
			case computed:
				if !included[w.relation] {
					included[w.relation] = true
					r.Includes = append(r.Includes, Include{w.relation, i})
				}
			case fromTuple:
				if key := [2]string{w.tupleset, w.relation}; !walked[key] {
					walked[key] = true
					r.Steps = append(r.Steps, Step{Op: FromTuple, Include: i, Relation: w.tupleset, Computed: w.relation})
				}
			case union:
				for _, operand := range w.operands {
					add(operand)
				}
			}
		}
		add(at.rewrite)
	}
	return r
}
