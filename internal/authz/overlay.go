package authz

import (
	"fmt"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// MaxContextual is how many contextual tuples one question may bring; OpenFGA's.
const MaxContextual = 100

// contextualCaveat is the number of the first caveat of contextual tuples.
const contextualCaveat = 1 << 30

// overlay lays the contextual tuples of one question over a snapshot. One that
// has the key of a stored tuple stands in its place. It knows the entities that
// the store does not, with numbers beyond the store's.
type overlay struct {
	s       *snapshot
	out, in map[uint32]node // whole nodes of the entities that the tuples touch
	guards  []caveat
	ids     map[string]uint32
	names   []string // of the numbers from s.n+1
	every   map[sym]uint32
}

// lay checks the tuples and makes the overlay; nil if there are none. Errors:
// [fault.TooLarge] beyond [MaxContextual], else [ErrTuple].
func lay(s *snapshot, b *bound, syms *symbols, tuples []relation.Tuple) (*overlay, error) {
	if len(tuples) == 0 {
		return nil, nil
	}
	if len(tuples) > MaxContextual {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("one question may bring %d contextual tuples at most", MaxContextual))
	}
	o := newOverlay(s)
	seen := map[relation.Tuple]bool{}
	out, in := map[uint32][]change{}, map[uint32][]change{}
	for _, t := range tuples {
		if err := b.accepts(t); err != nil {
			return nil, err
		}
		if seen[t.Key()] {
			continue
		}
		seen[t.Key()] = true
		e, err := o.encode(t, syms)
		if err != nil {
			return nil, err
		}
		out[e.object] = append(out[e.object], change{edge: e.out()})
		in[e.word] = append(in[e.word], change{edge: e.in()})
	}
	o.finish(out, in)
	return o, nil
}

func newOverlay(s *snapshot) *overlay {
	return &overlay{s: s, out: map[uint32]node{}, in: map[uint32]node{}, ids: map[string]uint32{}, every: map[sym]uint32{}}
}

// finish makes the whole nodes of the changes by entity.
func (o *overlay) finish(out, in map[uint32][]change) {
	for id, changes := range out {
		o.out[id] = over(o.s.out.node(id), changes)
	}
	for id, changes := range in {
		o.in[id] = over(o.s.in.node(id), changes)
	}
}

// over returns the node with the edges in place of any that have their keys, and
// without those that go.
func over(base node, come []change) node {
	changes := make([]change, 0, 2*len(come))
	for _, c := range come {
		if !c.gone {
			changes = append(changes, c)
		}
		plain, _ := base.group(c.key)
		under, _ := base.group(c.key | guarded)
		if holds(plain, c.word) || holds(under, c.word) {
			c.gone, c.caveat = true, 0
			changes = append(changes, c)
		}
	}
	nd, err := appendChanged(nil, base, changes)
	if err != nil {
		return base // impossible: what goes is there, and what comes is not
	}
	return nd
}

func (o *overlay) encode(t relation.Tuple, syms *symbols) (e tie, err error) {
	object, srel := relation.SplitSubject(t.Subject)
	typ, _, _ := relation.SplitObject(t.Object)
	rel, err := syms.add(typ, t.Relation)
	if err != nil {
		return e, err
	}
	subject, err := syms.add(subjectForm(object, srel))
	if err != nil {
		return e, err
	}
	e = tie{object: o.entity(t.Object), word: o.entity(object), key: edgeKey(rel, subject)}
	if _, id, _ := relation.SplitObject(object); id == everyone {
		o.every[subject] = e.word
	}
	c, ok, err := caveatOf(t)
	if ok {
		e.caveat = contextualCaveat + uint32(len(o.guards))
		o.guards = append(o.guards, c)
	}
	return e, err
}

func (o *overlay) entity(name string) uint32 {
	if id := o.s.find(name); id != 0 {
		return id
	}
	id, ok := o.ids[name]
	if !ok {
		o.names = append(o.names, name)
		id = o.s.n + uint32(len(o.names))
		o.ids[name] = id
	}
	return id
}

// lookup returns the number of a name, 0 if no tuple has it, and its form, 0 if
// no stored tuple has it.
func (ev *evaluator) lookup(name string) found { return ev.laid(name, ev.snap.lookup(name)) }

// lookups is lookup of an object and an asker, for the waits for memory of one: the
// processor is told of everything that a check of them begins with before it needs
// the first of it.
func (ev *evaluator) lookups(object, asker string) (o, a found) {
	o, a = ev.snap.lookups(object, asker)
	ev.warm = ev.snap.out.touch(o.id)
	if !ev.walk {
		ev.warm += ev.snap.sets.touch(a.id)
	}
	return ev.laid(object, o), ev.laid(asker, a)
}

// laid adds the number that only a contextual tuple gives a name.
func (ev *evaluator) laid(name string, f found) found {
	if f.id == 0 && ev.over != nil {
		f.id = ev.over.ids[name]
	}
	return f
}

func (ev *evaluator) find(name string) uint32 { return ev.lookup(name).id }

func (ev *evaluator) name(id uint32) string {
	if id > ev.snap.n {
		return ev.over.names[id-ev.snap.n-1]
	}
	return ev.snap.name(id)
}

func (ev *evaluator) everyone(form sym) uint32 {
	if ev.over != nil {
		if id := ev.over.every[form]; id != 0 {
			return id
		}
	}
	return ev.snap.everyone(form)
}
