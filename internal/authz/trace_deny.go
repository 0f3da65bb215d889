package authz

import (
	"slices"

	"bulwark.example/internal/schema"
)

// tried spells everything that a search visited, as a tree.
func (w *tracer) tried(f *frame) Branch {
	queue := slices.Clone(f.queue) // operands are asked again meanwhile
	children := map[[2]int][]int{}
	for i := 1; i < len(queue); i++ {
		at := [2]int{int(queue[i].parent), int(queue[i].step)}
		children[at] = append(children[at], i)
	}
	var spell func(i int) Branch
	spell = func(i int) Branch {
		p := queue[i].prog
		b := Branch{Object: w.objectName(queue[i].object), Relation: p.name, Tries: []Try{}}
		for n := range p.steps {
			if w.notes++; w.notes > maxNotes {
				w.omitted++
				continue
			}
			below := children[[2]int{i, n}]
			t := w.try(queue[i].object, p, n, len(below) > 0)
			for _, c := range below {
				if w.notes >= maxNotes {
					w.omitted += len(queue[c].prog.steps)
					continue
				}
				t.Branches = append(t.Branches, spell(c))
			}
			b.Tries = append(b.Tries, t)
		}
		return b
	}
	return spell(0)
}

// try says why one step of a program did not grant on the object.
func (w *tracer) try(object uint32, p *program, n int, followed bool) Try {
	st := &p.steps[n]
	t := Try{Includes: p.chain(st.include)}
	if st.op == schema.All || st.op == schema.Except {
		op := p.operator(n)
		if t.Reason = reasonNotAll; op.except {
			t.Reason = reasonExcluded
		}
		t.Operands = w.operands(op, object)
		return t
	}
	if st.op == schema.FromTuple {
		t.From, t.Asked = st.relName, st.asked
	}
	for i, nd := 0, w.ev.out(object); i < len(nd); {
		key, words, caveats, after := nd.next(i)
		i = after
		if keyRelation(key) != st.rel {
			continue
		}
		t.Tuples += len(words)
		for _, c := range caveats {
			w.note(&t, w.ev.caveat(c))
		}
	}
	switch {
	case t.Tuples == 0:
		t.Reason = reasonNoTuple
	case followed:
		t.Reason = reasonFollowed
	case len(t.Guarded) > 0:
		t.Reason = reasonNotCounted
	case st.op == schema.FromTuple:
		t.Reason = reasonTriedAlready
	default:
		t.Reason = reasonOtherSubjects
	}
	return t
}

// maxGuarded bounds the different conditions that one try names.
const maxGuarded = 5

func (w *tracer) note(t *Try, c *caveat) {
	g := Guarded{Condition: c.condition, Reason: reasonNotMet, Tuples: 1}
	switch w.ev.holds(c) {
	case yes:
		return
	case unknown:
		g.Reason = reasonNotKnown
	default:
		if c.expires != 0 && c.expires <= w.ev.at {
			g = Guarded{Reason: reasonExpired, Tuples: 1}
		}
	}
	for i := range t.Guarded {
		if t.Guarded[i].Condition == g.Condition && t.Guarded[i].Reason == g.Reason {
			t.Guarded[i].Tuples++
			return
		}
	}
	if len(t.Guarded) < maxGuarded {
		if g.Condition != "" {
			g.Inputs = w.inputs(c)
		}
		t.Guarded = append(t.Guarded, g)
	}
}
