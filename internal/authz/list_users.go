package authz

import (
	"context"

	"bulwark.example/internal/relation"
)

// UsersQuery asks which subjects of a form have the relation to the object.
type UsersQuery struct {
	Store    relation.StoreID
	Object   string
	Relation string
	Type     string // of the subjects
	Userset  string // their relation, for usersets; "" for objects and everyone
	Asked
	Limit int
	After string // a subject
}

// ListUsers returns the subjects of the form that have the relation, of those that
// the store's tuples name. Everyone of a type is listed as "user:*"; who has the
// relation for that reason alone is not listed beside it. Kinds: as
// [Engine.ListObjects]; a condition that cannot be evaluated on a tuple that the
// list meets is an error of the list.
func (e *Engine) ListUsers(ctx context.Context, q UsersQuery) (List, error) {
	ev, err := e.ask(ctx, q.Store, &q.Asked)
	if err != nil {
		return List{}, err
	}
	defer ev.release()
	ev.limit, ev.walk = maxListEdges, true
	object, typ, err := ev.objectOf(q.Object)
	if err != nil {
		return List{}, err
	}
	prog, err := typ.program(q.Relation)
	if err != nil {
		return List{}, err
	}
	of := ev.model.types[q.Type]
	if of == nil {
		return List{}, noType("user", q.Type)
	}
	want := wanted{asker: asker{form: of.object}, every: of.anybody}
	suffix := ""
	if q.Userset != "" {
		p, err := of.program(q.Userset)
		if err != nil {
			return List{}, err
		}
		want, suffix = wanted{asker: asker{form: p.userset, set: true}}, "#"+q.Userset
	}
	w := ev.surge()
	defer w.ebb()
	var names []string
	for _, id := range w.users(q.Object, object, prog, want, of) {
		names = append(names, ev.name(id)+suffix)
	}
	if object == 0 && want.set && of == typ {
		if ev.who = want.asker; w.itself(q.Object, q.Object+suffix, prog) {
			names = append(names, q.Object+suffix)
		}
	}
	return e.list(q.Store, w, names, q.Limit, q.After)
}

// wanted is which subjects a list is about.
type wanted struct {
	asker
	every sym // also everyone of the type
}

// users returns who holds the program, after what policies and exclusive roles
// say about each. Everyone of a type is not one who asks, nor is a userset: of
// those, the policies say nothing.
func (w *wave) users(name string, object uint32, prog *program, want wanted, of *boundType) []uint32 {
	ev := w.ev
	ids := w.subjects(object, prog, want)
	excludes := ev.roles.excludes(prog.typ)
	if (!ev.guarded() || want.set) && !excludes || w.stop() {
		return ids
	}
	had := make(map[uint32]bool, len(ids))
	for _, id := range ids {
		had[id] = true
	}
	candidates := ids
	if w.permits(prog) && !want.set {
		for id := uint32(1); id <= ev.snap.n; id++ {
			if ev.snap.form(id) == of.object && !had[id] {
				candidates = append(candidates, id)
			}
		}
	}
	var kept []uint32
	for _, id := range candidates {
		if !w.count(1) {
			break
		}
		v := no
		if had[id] {
			v = yes
		}
		switch {
		case want.set:
			ev.who = want.asker
			ev.who.object = id
		case id == ev.everyone(of.anybody):
			ev.who = asker{object: id, form: of.anybody}
		default:
			ev.who = asker{object: id, form: of.object, every: of.anybody}
		}
		clear(ev.memo)
		if w.judge(name, ev.name(id), prog, object, v) {
			kept = append(kept, id)
		}
	}
	return kept
}

// subjects searches downwards from the object for who holds the program.
func (w *wave) subjects(object uint32, prog *program, want wanted) []uint32 {
	ev := w.ev
	sure := map[uint32]bool{} // who was found, and whether it is sure
	note := func(id uint32, ok bool) { sure[id] = sure[id] || ok }
	w.run(func(bool) {
		w.add(spot{object, prog, 0, true})
	}, func(at spot, surely bool) {
		if want.set && at.object != 0 && at.prog.itself(want.form) {
			note(at.object, at.sure)
		}
		nd := ev.out(at.object)
		for i := 0; i < len(nd); {
			key, words, caveats, after := nd.next(i)
			i = after
			w.descend(at, key&^guarded, words, caveats, want, note)
		}
		if surely {
			return
		}
		for _, op := range at.prog.operators {
			for n, operand := range op.operands {
				if n == 0 || !op.except {
					w.add(spot{at.object, operand, at.depth, false})
				}
			}
		}
	})
	ids := make([]uint32, 0, len(sure))
	ev.cause = nil
	for id, ok := range sure {
		if !ok {
			ev.who = want.asker
			ev.who.object = id
			if want.every != 0 && id == ev.everyone(want.every) {
				ev.who.form = want.every
			} else if !want.set {
				ev.who.every = want.every
			}
			clear(ev.memo)
			ok = w.asks(object, prog, !want.set && ev.who.form != want.every)
		}
		if ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// descend follows one group of an object's tuples.
func (w *wave) descend(at spot, key uint32, words, caveats []uint32, want wanted, note func(uint32, bool)) {
	for n := range at.prog.actions {
		a := &at.prog.actions[n]
		if a.key != key {
			continue
		}
		if !w.count(len(words)) {
			return
		}
		form := keySubject(key)
		names := !a.parent && (form == want.form || form == want.every)
		if !names && a.next == nil {
			continue
		}
		for n, word := range words {
			if caveats == nil && a.condition != "" {
				continue
			}
			if caveats != nil {
				c := w.ev.caveat(caveats[n])
				if c.condition != a.condition {
					continue
				}
				v := w.ev.holds(c)
				if v == no {
					continue
				}
				if v == unknown { // as in OpenFGA, also where another tuple says yes
					w.err = w.ev.cause
					return
				}
			}
			if names {
				note(word, at.sure)
			}
			if a.next != nil {
				w.add(spot{word, a.next, at.depth + 1, at.sure})
			}
		}
	}
}
