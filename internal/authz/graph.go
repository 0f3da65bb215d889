package authz

import (
	"encoding/json"
	"slices"
	"sync/atomic"

	"bulwark.example/internal/condition"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// snapshot is one store's graph at one revision. It never changes.
type snapshot struct {
	view
	rev     uint64
	tuples  int
	out     pages    // from an object to its subjects
	in      pages    // from a subject to the objects whose tuples name it: for lists and group sets
	touched []uint64 // by the symbol of a type: when a tuple on an object of it changed last
	guards  caveats
	sets    *groupSets // shared by all snapshots of one graph
	layer   *layer     // the tenant's own policies; nil without any
}

// caveat is why a tuple counts only sometimes.
type caveat struct {
	condition string
	context   string // as in [relation.Tuple]
	expires   int64
	stored    map[string]any // context, decoded

	own *atomic.Pointer[condition.Condition] // of the tuple's own condition, once compiled
}

// caveats is a table that only grows, by its writer; number 0 is none.
type caveats struct {
	chunks []*[caveatChunk]caveat
	n      uint32
}

const caveatChunk = 1 << 6

func (c *caveats) get(id uint32) *caveat { return &c.chunks[id/caveatChunk][id%caveatChunk] }

func (c *caveats) add(v caveat) uint32 {
	c.n++
	if int(c.n/caveatChunk) >= len(c.chunks) {
		c.chunks = append(c.chunks, new([caveatChunk]caveat))
	}
	*c.get(c.n) = v
	return c.n
}

// caveatOf returns the tuple's caveat, and whether it has one.
func caveatOf(t relation.Tuple) (caveat, bool, error) {
	if t.Condition == "" && t.Expires == 0 {
		return caveat{}, false, nil
	}
	c := caveat{condition: t.Condition, context: t.Context, expires: t.Expires}
	if t.Condition == schema.Inline {
		c.own = new(atomic.Pointer[condition.Condition])
	}
	if t.Context != "" {
		if err := json.Unmarshal([]byte(t.Context), &c.stored); err != nil {
			return caveat{}, false, fault.Wrap(fault.Invalid, "the condition's context is no JSON object", err)
		}
	}
	return c, true, nil
}

// graph is the writer's side of one store. The store's lock guards it.
type graph struct {
	in     *interner
	syms   *symbols
	guards caveats
	known  map[caveatKey]uint32
	cur    *snapshot
}

type caveatKey struct {
	condition, context string
	expires            int64
}

// tie is a tuple in numbers.
type tie struct{ object, key, word, caveat uint32 }

func (t tie) out() edge { return edge{from: t.object, key: t.key, word: t.word, caveat: t.caveat} }

func (t tie) in() edge { return edge{from: t.word, key: t.key, word: t.object, caveat: t.caveat} }

// encode interns the parts of a tuple. Names that the graph knows are well formed,
// so only new ones are looked at. A malformed tuple has kind [fault.Integrity].
func (g *graph) encode(t relation.Tuple) (e tie, err error) {
	object, srel := relation.SplitSubject(t.Subject)
	var typ, styp sym
	known, asker := g.in.lookups(t.Object, object)
	if e.object, typ = known.id, known.form; typ == 0 {
		if !relation.ValidObject(t.Object) {
			return e, errMalformed
		}
		if e.object, err = g.in.add(t.Object, g.syms); err != nil {
			return e, err
		}
		typ = g.in.form(e.object)
	}
	if e.word, styp = asker.id, asker.form; styp == 0 {
		if !relation.ValidSubject(object) {
			return e, errMalformed
		}
		if e.word, err = g.in.add(object, g.syms); err != nil {
			return e, err
		}
		styp = g.in.form(e.word)
	}
	rel, err := g.member(typ, t.Relation)
	if err != nil {
		return e, err
	}
	if srel != "" || len(object) != len(t.Subject) {
		if styp, err = g.member(styp, srel); err != nil {
			return e, err
		}
	}
	e.key = edgeKey(rel, styp)
	if t.Condition != "" || t.Context != "" || t.Expires != 0 {
		if err := t.Validate(); err != nil {
			return e, fault.Wrap(fault.Integrity, "the store holds a malformed tuple", err)
		}
		e.caveat, err = g.caveat(t)
	}
	return e, err
}

var errMalformed = fault.New(fault.Integrity, "the store holds a malformed tuple")

// member returns the form of a relation of the type's objects.
func (g *graph) member(typ sym, rel string) (sym, error) {
	f := g.syms.table().forms[typ]
	if y, ok := g.syms.table().byForm[form{f.typ, rel}]; ok && f.rel == "" && rel != "" {
		return y, nil
	}
	if f.rel != "" || !relation.ValidRelation(rel) {
		return 0, errMalformed
	}
	return g.syms.add(f.typ, rel)
}

func (g *graph) caveat(t relation.Tuple) (uint32, error) {
	c, ok, err := caveatOf(t)
	if err != nil || !ok {
		return 0, err
	}
	key := caveatKey{c.condition, c.context, c.expires}
	id, ok := g.known[key]
	if !ok {
		id = g.guards.add(c)
		g.known[key] = id
	}
	return id, nil
}

// builder makes a graph out of the tuples of a store, in any order.
type builder struct {
	g    *graph
	list []tie
}

func newBuilder(syms *symbols) *builder {
	return &builder{g: &graph{in: newInterner(0), syms: syms, known: map[caveatKey]uint32{}}}
}

// add takes one tuple. A malformed one has kind [fault.Integrity].
func (b *builder) add(t relation.Tuple) error {
	e, err := b.g.encode(t)
	if err != nil {
		return err
	}
	b.list = append(b.list, e)
	return nil
}

// graph ends the building. A tuple that is there twice has kind [fault.Integrity].
func (b *builder) graph(rev uint64) (*graph, error) {
	g := b.g
	var now []uint32
	g.in, now = g.in.sorted()
	for i := range b.list {
		t := &b.list[i]
		t.object, t.word = now[t.object], now[t.word]
	}
	return b.lay(rev)
}

// lay is the end of graph: the names have their numbers.
func (b *builder) lay(rev uint64) (*graph, error) {
	g := b.g
	s := &snapshot{rev: rev, tuples: len(b.list)}
	in := make(chan pages, 1)
	go func() { in <- fill(b.edges(tie.in), g.in.n) }() // ends by itself; a quarter of a large store's load
	list := b.edges(tie.out)
	for i := 1; i < len(list); i++ {
		if a, b := list[i-1], list[i]; a.from == b.from && a.key == b.key && a.word == b.word {
			return nil, fault.New(fault.Integrity, "the store holds one tuple twice")
		}
	}
	s.out = fill(list, g.in.n)
	s.in = <-in
	s.view, s.guards, s.sets = g.in.view, g.guards, newGroupSets(g.in.n)
	g.cur = s
	return g, nil
}

// edges returns all tuples in one direction, in order.
func (b *builder) edges(of func(tie) edge) []edge {
	list := make([]edge, len(b.list))
	for i, t := range b.list {
		list[i] = of(t)
	}
	return arranged(list, b.g.in.n)
}

// begin returns the line on which tuples come to the builder.
func (b *builder) begin() *line {
	l := &line{full: make(chan []relation.Tuple, 4), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for list := range l.full {
			for _, t := range list {
				if l.err == nil {
					l.err = b.add(t)
				}
			}
		}
	}()
	return l
}

// line lets a store be read beside the building of its graph, which costs about
// as much: a cold store is there in two thirds of the time. One goroutine adds
// and ends.
type line struct {
	full chan []relation.Tuple
	next []relation.Tuple
	done chan struct{}
	err  error // the builder's; to be read once done is closed
}

// lineLength is how many tuples go over the line together.
const lineLength = 1024

// add never fails: what the builder refuses, end says.
func (l *line) add(t relation.Tuple) error {
	if l.next = append(l.next, t); len(l.next) == lineLength {
		l.full <- l.next
		l.next = make([]relation.Tuple, 0, lineLength)
	}
	return nil
}

// end waits until everything has reached the builder, and returns its error.
func (l *line) end() error {
	l.full <- l.next
	close(l.full)
	<-l.done
	return l.err
}

// apply makes the next snapshot, at revision rev. An error leaves the graph
// unusable: the caller drops it. Kind [fault.Integrity] means that the changes
// do not fit the graph, so something was missed.
func (g *graph) apply(rev uint64, writes, deletes []relation.Tuple) error {
	next := *g.cur
	next.rev, next.tuples = rev, g.cur.tuples+len(writes)-len(deletes)
	if len(writes)+len(deletes) == 0 {
		g.cur = &next
		return nil
	}
	next.touched = slices.Clone(g.cur.touched)
	out := make([]change, 0, len(writes)+len(deletes))
	in := make([]change, 0, cap(out))
	for i := range cap(out) {
		gone := i < len(deletes)
		var t relation.Tuple
		if gone {
			t = deletes[i].Key()
		} else {
			t = writes[i-len(deletes)]
		}
		e, err := g.encode(t)
		if err != nil {
			return err
		}
		out, in = append(out, change{e.out(), gone}), append(in, change{e.in(), gone})
		next.touch(g.in.form(e.object))
	}
	var err error
	if next.out, err = next.out.with(out, g.in.n); err != nil {
		return err
	}
	if next.in, err = next.in.with(in, g.in.n); err != nil {
		return err
	}
	next.view, next.guards = g.in.view, g.guards
	next.sets = next.sets.fitting(g.in.n)
	g.cur = &next
	if garbage := int(g.in.n) + int(g.guards.n); garbage > 5*next.tuples+4096 {
		return g.compact()
	}
	return nil
}

func (s *snapshot) touch(typ sym) {
	for int(typ) >= len(s.touched) {
		s.touched = append(s.touched, 0)
	}
	s.touched[typ] = s.rev
}

// compact forgets the names and caveats that no tuple holds any more, by
// building the graph again. Each tuple brings two names and a caveat at most, so
// the work is paid for by the deletes that made it necessary.
func (g *graph) compact() error {
	b := newBuilder(g.syms)
	var failed error
	forms := g.syms.table().forms
	g.cur.each(func(object, key, word, caveat uint32) bool {
		failed = b.add(g.cur.tuple(object, key, word, caveat, forms))
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	fresh, err := b.graph(g.cur.rev)
	if err != nil {
		return err
	}
	*g = *fresh
	return nil
}

// each yields all tuples in numbers.
func (s *snapshot) each(yield func(object, key, word, caveat uint32) bool) {
	for object := uint32(1); object <= s.n; object++ {
		for i, nd := 0, s.out.node(object); i < len(nd); {
			key, words, caveats, after := nd.next(i)
			for n, w := range words {
				var c uint32
				if caveats != nil {
					c = caveats[n]
				}
				if !yield(object, key&^guarded, w, c) {
					return
				}
			}
			i = after
		}
	}
}

// tuple spells an edge.
func (s *snapshot) tuple(object, key, word, caveat uint32, forms []form) relation.Tuple {
	t := relation.Tuple{Object: s.name(object), Relation: forms[keyRelation(key)].rel, Subject: s.name(word)}
	if f := forms[keySubject(key)]; f.rel != "" && f.rel != everyone {
		t.Subject += "#" + f.rel
	}
	if caveat != 0 {
		c := s.guards.get(caveat)
		t.Condition, t.Context, t.Expires = c.condition, c.context, c.expires
	}
	return t
}
