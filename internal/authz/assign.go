package authz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// An assignment, which is any write of a tuple, is refused when somebody could
// then hold two relations that exclude each other. Could: conditions count as
// met, what stands after "but not" takes nothing away, and no chain is too long.
// So only writes can bring an overlap about: no delete, no end of a grant, no
// other question.
//
// For each tuple written, in the graph as it would be:
//
//  1. Upwards from the tuple: each (object, exclusive relation) that it leads to.
//     None for most tuples; then nothing else is done.
//  2. Downwards from the tuple: each subject that it leads to. Who gains by it is
//     among those: a new chain has the new tuple in it.
//  3. For each of both, the evaluator tells whether the subject could hold this
//     and another relation of the set. Where there are many objects, a search
//     upwards from the subject first tells of which that is worth asking. If the
//     tuple leads to everyone of a type, those who hold the other relation by name
//     are asked about too.
//
// Everything counts as tuples followed, up to a bound beyond which the write is
// refused: what cannot be shown is not assumed. Writes that step 1 concerns run
// one after the other in a store, so that no two of one process overlap only
// together; those of two processes are caught by the decisions, which deny.

// maxAssignEdges bounds the tuples that one assignment follows: half a second of
// one core.
const maxAssignEdges = 1 << 21

// routes say which tuples lead to exclusive relations.
type routes struct {
	programs []*program // that lead to exclusive relations, or are some
	targets  map[*program][]*exclusion
	named    map[uint32][]*program // by the key of a tuple: what its object may grant by it
	held     map[uint32][]rise     // by the id of a held program: as in [reach]
	operands map[uint32][]*program // by the id of an operand: whose it is
	many     int                   // how many gains are many: [manyGains], for tests fewer
}

func routesTo(sets map[string][]exclusion) routes {
	r := routes{targets: map[*program][]*exclusion{}, named: map[uint32][]*program{}, held: map[uint32][]rise{}, operands: map[uint32][]*program{}, many: manyGains}
	known := map[*program]bool{}
	add := func(p *program) {
		if !known[p] {
			known[p] = true
			r.programs = append(r.programs, p)
		}
	}
	for _, list := range sets {
		for i := range list {
			for _, p := range list[i].relations {
				r.targets[p] = append(r.targets[p], &list[i])
				add(p)
			}
		}
	}
	for i := 0; i < len(r.programs); i++ {
		p := r.programs[i]
		for _, a := range p.actions {
			r.named[a.key] = append(r.named[a.key], p)
			if a.next != nil {
				add(a.next)
				r.held[a.next.id] = append(r.held[a.next.id], rise{a.key, p, a.condition})
			}
		}
		for _, op := range p.operators {
			for _, operand := range op.needed() {
				add(operand)
				r.operands[operand.id] = append(r.operands[operand.id], p)
			}
		}
	}
	return r
}

// needed returns the operands that grant.
func (op *operator) needed() []*program {
	if op.except {
		return op.operands[:1]
	}
	return op.operands
}

// concerned tells whether one of the tuples leads to an exclusive relation.
func (s *roleSet) concerned(b *bound, tuples []relation.Tuple) bool {
	if s == nil {
		return false
	}
	for _, t := range tuples {
		if key, ok := b.edgeKey(t); ok && len(s.named[key]) > 0 {
			return true
		}
	}
	return false
}

// edgeKey returns the key of the tuple's edge; false if the model does not have it.
func (b *bound) edgeKey(t relation.Tuple) (uint32, bool) {
	typ, _, _ := relation.SplitObject(t.Object)
	object, rel := relation.SplitSubject(t.Subject)
	styp, id, _ := relation.SplitObject(object)
	of, from := b.types[typ], b.types[styp]
	if of == nil || from == nil || of.programs[t.Relation] == nil || rel != "" && from.programs[rel] == nil {
		return 0, false
	}
	y := from.object
	switch {
	case rel != "":
		y = from.programs[rel].userset
	case id == everyone:
		y = from.anybody
	}
	return edgeKey(of.programs[t.Relation].userset, y), true
}

// MarkOverlap says in the event of a refused write why it was, if two exclusive
// roles are the reason.
func MarkOverlap(ev *ledger.Event, err error) {
	var o *Overlap
	if !errors.As(err, &o) {
		return
	}
	ev.Reason = reasonExclusive
	o.mark(ev)
}

// mark names the overlap in an event.
func (o *Overlap) mark(ev *ledger.Event) {
	ev.Detail = detailed(ev.Detail)
	ev.Detail["set"], ev.Detail["object"], ev.Detail["user"] = o.Set, o.Object, o.Subject
	ev.Detail["relations"] = strings.Join(o.Relations, " ")
}

// assign commits a write that leads to exclusive relations, if it may.
func (e *Engine) assign(ctx context.Context, change ledger.Change, w Write) (relation.Revision, error) {
	ent, _, _, err := e.view(ctx, change.Store, "")
	if err != nil {
		return relation.Revision{}, err
	}
	leave, err := ent.alone(ctx)
	if err != nil {
		return relation.Revision{}, err
	}
	defer leave()
	ent, snap, by, err := e.view(ctx, change.Store, "") // as those left it that were before
	if err != nil {
		return relation.Revision{}, err
	}
	if by.roles != nil {
		if err := e.apart(ctx, ent, snap, by, w); err != nil {
			return relation.Revision{}, err
		}
	}
	return e.cfg.Store.WriteTuples(ctx, change, w)
}

// alone waits until nobody else writes what leads to exclusive relations.
func (ent *entry) alone(ctx context.Context) (leave func(), err error) {
	select {
	case ent.assigning <- struct{}{}:
		return func() { <-ent.assigning }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// maxOverlaps bounds the overlaps that a restore names.
const maxOverlaps = 10

// overlaps names who could hold two exclusive relations by the tuples in a store
// that has no others, each once; unclear: there may be more.
func (e *Engine) overlaps(ctx context.Context, store relation.StoreID, tuples []relation.Tuple) (found []*Overlap, unclear bool, err error) {
	ent, snap, by, err := e.view(ctx, store, "")
	if err != nil || !by.roles.concerned(by.model, tuples) {
		return nil, false, err
	}
	c, ties, err := e.claim(ctx, ent, snap, by, Write{Writes: tuples})
	if err != nil {
		return nil, false, err
	}
	defer c.ev.release()
	known := map[string]bool{}
	for _, t := range ties {
		o := c.overlap(t)
		switch {
		case c.cut || c.ev.fatal == errEdges:
			return found, true, nil
		case c.over():
			return found, true, cmp.Or(c.ev.fatal, c.err)
		case o == nil:
			continue
		}
		slices.Sort(o.Relations) // each of the two tuples finds it
		if s := o.Error(); !known[s] {
			if len(found) == maxOverlaps {
				return found, true, nil
			}
			known[s] = true
			found = append(found, o)
		}
	}
	return found, false, nil
}

// apart refuses a write after which somebody could hold two exclusive relations:
// kind [fault.Denied] with an [Overlap] in its chain, or [fault.Exhausted].
func (e *Engine) apart(ctx context.Context, ent *entry, snap *snapshot, by *judgement, w Write) error {
	c, ties, err := e.claim(ctx, ent, snap, by, w)
	if err != nil {
		return err
	}
	defer c.ev.release()
	for _, t := range ties {
		o := c.overlap(t)
		switch {
		case c.cut || c.ev.fatal == errEdges:
			return fault.New(fault.Exhausted, fmt.Sprintf("whether somebody would hold two exclusive roles cannot be shown by following %d tuples, so nothing is written; assign to smaller groups, or to fewer objects at once", maxAssignEdges))
		case c.ev.fatal != nil:
			return c.ev.fatal
		case c.err != nil:
			return c.err
		case o != nil:
			return fault.Wrap(fault.Denied, o.Error(), o)
		}
	}
	return nil
}

// claim begins a search in the store as it would be with the write, whose
// evaluator its caller releases.
func (e *Engine) claim(ctx context.Context, ent *entry, snap *snapshot, by *judgement, w Write) (*claim, []tie, error) {
	over, ties, err := layWrite(snap, ent.app.syms, w)
	if err != nil {
		return nil, nil, err
	}
	ev := newEvaluator(ctx, snap, by.model, e.cfg.Now)
	ev.over, ev.walk, ev.generous, ev.limit = over, true, true, maxAssignEdges
	return &claim{wave: wave{ev: ev}, set: by.roles, forms: ent.app.syms.table().forms}, ties, nil
}

// claim is the search for the overlaps that one tuple brings about.
type claim struct {
	wave
	set   *roleSet
	forms []form
}

// manyGains is how many relations are worth a search upwards from each subject.
const manyGains = 64

func (c *claim) overlap(t tie) *Overlap {
	gains := c.rise(t)
	if len(gains) == 0 {
		return nil
	}
	for _, a := range c.descend(t).list {
		everyone := !a.set && a.every == 0
		search := len(gains) > c.set.many && !everyone
		if search {
			c.riseFrom(a)
		}
		for _, at := range gains {
			for _, x := range c.set.targets[at.prog] {
				for _, other := range x.relations {
					if other == at.prog || search && !(c.seen.has(at.object, other.id) && c.seen.has(at.object, at.prog.id)) {
						continue
					}
					who, ok := a, c.could(at.object, other, a) && c.could(at.object, at.prog, a)
					if !ok && everyone {
						who, ok = c.beside(at.object, at.prog, other, a)
					}
					if c.over() {
						return nil
					}
					if ok {
						return c.name(x, at.object, who, at.prog, other)
					}
				}
			}
		}
	}
	return nil
}

// over tells whether the search is over before its end.
func (c *claim) over() bool { return c.stop() || c.ev.fatal != nil }

// holders are subjects, each once.
type holders struct {
	list []asker
	seen map[asker]bool
}

func (h *holders) add(a asker) {
	if !h.seen[a] {
		h.seen[a] = true
		h.list = append(h.list, a)
	}
}

// beside returns one of those who hold the other relation by name, where everyone
// of a type gains a relation.
func (c *claim) beside(object uint32, gained, other *program, everyone asker) (asker, bool) {
	named := holders{seen: map[asker]bool{}}
	c.found, c.seen = nil, set{}
	c.add(spot{object: object, prog: other})
	c.below(&named)
	for _, b := range named.list {
		if !b.set && b.every == everyone.form && c.could(object, other, b) && c.could(object, gained, b) {
			return b, true
		}
		if c.over() {
			break
		}
	}
	return asker{}, false
}

// could tells whether the asker could hold the relation.
func (c *claim) could(object uint32, p *program, a asker) bool {
	ev := c.ev
	if c.over() {
		return false
	}
	ev.who = a
	clear(ev.memo)
	return ev.value(object, p) > no && ev.fatal == nil
}

// rise returns the exclusive relations that the tuple leads to, with the objects.
func (c *claim) rise(t tie) []spot {
	c.found, c.seen = nil, set{}
	for _, p := range c.set.named[t.key] {
		c.add(spot{object: t.object, prog: p})
	}
	return c.climb()
}

// riseFrom searches for all exclusive relations that the asker could hold, and
// perhaps more.
func (c *claim) riseFrom(a asker) {
	c.found, c.seen = nil, set{}
	c.seen.reset()
	for _, from := range []struct {
		object uint32
		form   sym
	}{{a.object, a.form}, {c.ev.everyone(a.every), a.every}} {
		if from.object == 0 || from.form == 0 {
			continue
		}
		for n, nd := 0, c.ev.in(from.object); n < len(nd); {
			key, words, _, after := nd.next(n)
			n = after
			if keySubject(key) != from.form {
				continue
			}
			for _, p := range c.set.named[key&^guarded] {
				if !c.count(len(words)) {
					return
				}
				for _, object := range words {
					c.add(spot{object: object, prog: p})
				}
			}
		}
	}
	for _, p := range c.set.programs {
		if a.set && p.itself(a.form) {
			c.add(spot{object: a.object, prog: p})
		}
	}
	c.climb()
}

// climb goes on upwards from what was found, and returns the exclusive relations
// among it.
func (c *claim) climb() (gains []spot) {
	for i := 0; i < len(c.found) && !c.stop(); i++ {
		at := c.found[i]
		if len(c.set.targets[at.prog]) > 0 {
			gains = append(gains, at)
		}
		for _, p := range c.set.operands[at.prog.id] {
			c.add(spot{object: at.object, prog: p})
		}
		ups := c.set.held[at.prog.id]
		if len(ups) == 0 {
			continue
		}
		for n, nd := 0, c.ev.in(at.object); n < len(nd); {
			key, words, _, after := nd.next(n)
			n = after
			for _, up := range ups {
				if up.key != key&^guarded {
					continue
				}
				if !c.count(len(words)) {
					return nil
				}
				for _, object := range words {
					c.add(spot{object: object, prog: up.prog})
				}
			}
		}
	}
	return gains
}

// descend returns the subjects that the tuple leads to.
func (c *claim) descend(t tie) holders {
	who := holders{seen: map[asker]bool{}}
	c.found, c.seen = nil, set{}
	for _, p := range c.set.named[t.key] {
		for n := range p.actions {
			if a := &p.actions[n]; a.key == t.key {
				c.take(&who, a, t.word)
			}
		}
	}
	c.below(&who)
	return who
}

// below follows what was found to the subjects.
func (c *claim) below(who *holders) {
	for i := 0; i < len(c.found) && !c.stop(); i++ {
		at := c.found[i]
		for n, nd := 0, c.ev.out(at.object); n < len(nd); {
			key, words, _, after := nd.next(n)
			n = after
			for m := range at.prog.actions {
				a := &at.prog.actions[m]
				if a.key != key&^guarded {
					continue
				}
				if !c.count(len(words)) {
					return
				}
				for _, w := range words {
					c.take(who, a, w)
				}
			}
		}
		for m := range at.prog.operators {
			for _, operand := range at.prog.operators[m].needed() {
				c.add(spot{object: at.object, prog: operand})
			}
		}
	}
}

// take takes the subject of a tuple: who it names, and where to go on. Groups are
// somebody where a tuple names them, so that a group without members is assigned
// no two roles either; those that only the model makes are not.
func (c *claim) take(who *holders, a *action, word uint32) {
	if a.next != nil {
		c.add(spot{object: word, prog: a.next})
	}
	y := keySubject(a.key)
	switch bt := c.ev.model.typeOf(y); {
	case a.parent:
	case a.next != nil:
		who.add(asker{object: word, form: a.next.userset, set: true})
	case bt != nil:
		who.add(asker{object: word, form: bt.object, every: bt.anybody})
	default:
		who.add(asker{object: word, form: y}) // everyone
	}
}

// name spells what was found.
func (c *claim) name(x *exclusion, object uint32, who asker, gained, other *program) *Overlap {
	o := &Overlap{Set: x.name, Object: c.ev.name(object), Subject: c.ev.name(who.object), Relations: []string{gained.name, other.name}}
	if who.set {
		o.Subject += "#" + c.forms[who.form].rel
	}
	return o
}

// layWrite makes the overlay of a write's changes, with the tuples written. What
// is not there to be deleted is left to the store.
func layWrite(s *snapshot, syms *symbols, w Write) (*overlay, []tie, error) {
	o := newOverlay(s)
	var ties []tie
	out, in := map[uint32][]change{}, map[uint32][]change{}
	lay := func(t relation.Tuple, gone bool) error {
		e, err := o.encode(t, syms)
		if err != nil {
			return err
		}
		if !gone {
			ties = append(ties, e)
		}
		out[e.object] = append(out[e.object], change{edge: e.out(), gone: gone})
		in[e.word] = append(in[e.word], change{edge: e.in(), gone: gone})
		return nil
	}
	for _, t := range w.Deletes {
		if err := lay(t.Key(), true); err != nil {
			return nil, nil, err
		}
	}
	for _, t := range w.Writes {
		if err := lay(t, false); err != nil {
			return nil, nil, err
		}
	}
	o.finish(out, in)
	return o, ties, nil
}
