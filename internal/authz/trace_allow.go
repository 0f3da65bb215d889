package authz

import (
	"slices"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// path spells the grants from the root to the frame's.
func (w *tracer) path(f *frame) []Grant {
	g := f.grant
	it := f.queue[g.item]
	last := Grant{Object: w.objectName(it.object), Relation: it.prog.name}
	if g.how == byItself {
		last.Reason, last.Includes = reasonItself, it.prog.chain(g.step)
	} else {
		st := &it.prog.steps[g.step]
		last.Includes = it.prog.chain(st.include)
		switch g.how {
		case byOperator:
			op := it.prog.operator(g.step)
			if last.Reason = reasonAll; op.except {
				last.Reason = reasonExcept
			}
			// The frame is no longer needed: asking again takes the levels above it.
			last.Operands = w.operands(op, it.object)
		case byEveryone:
			typ, _, _ := relation.SplitObject(w.q.Subject)
			w.stand(&last, reasonEveryone, st, typ+":*", g.caveat)
		default:
			w.stand(&last, reasonTuple, st, w.q.Subject, g.caveat)
		}
	}
	grants := []Grant{last}
	for i := g.item; f.queue[i].parent >= 0; i = int(f.queue[i].parent) {
		child, at := f.queue[i], f.queue[f.queue[i].parent]
		st := &at.prog.steps[child.step]
		hop := Grant{Object: w.objectName(at.object), Relation: at.prog.name, Includes: at.prog.chain(st.include)}
		if subject := w.objectName(child.object); st.op == schema.Direct {
			w.stand(&hop, reasonUserset, st, subject+"#"+child.prog.name, 0)
		} else {
			w.stand(&hop, reasonParent, st, subject, 0)
		}
		grants = append(grants, hop)
	}
	slices.Reverse(grants)
	return grants
}

// stand completes a grant with its tuple, looked up for what guards it.
func (w *tracer) stand(g *Grant, reason Reason, st *step, subject string, _ uint32) {
	g.Reason = reason
	g.Tuple = tracedTuple{relation.Tuple{Object: g.Object, Relation: st.relName, Subject: subject}}
	if w.ev.over != nil {
		g.Contextual = slices.ContainsFunc(w.q.Contextual, func(t relation.Tuple) bool { return t.Key() == g.Tuple.Tuple })
	}
	object, _ := relation.SplitSubject(subject)
	word := w.ev.find(object)
	key := w.ev.model.key(st, subject)
	words, caveats := w.ev.out(w.ev.find(g.Object)).group(key | guarded)
	if n, ok := place(words, word); ok {
		c := w.ev.caveat(caveats[n])
		g.Tuple.Condition, g.Tuple.Context, g.Tuple.Expires = c.condition, c.context, c.expires
		g.Inputs = w.inputs(c)
	}
}

// key returns the key of a step's tuple with the subject.
func (b *bound) key(st *step, subject string) uint32 {
	object, rel := relation.SplitSubject(subject)
	name, id, _ := relation.SplitObject(object)
	typ := b.types[name]
	switch {
	case rel != "":
		return edgeKey(st.rel, typ.programs[rel].userset)
	case id == everyone:
		return edgeKey(st.rel, typ.anybody)
	}
	return edgeKey(st.rel, typ.object)
}
