package authz

import (
	"cmp"
	"slices"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// snapshot is one store's graph at one revision. It never changes.
//
// The reverse index (subject to objects), which lists need, will be a second
// set of pages with the same form: [edges] of (relation, subject relation) by
// subject. Check does not read it, so this version does not carry its cost.
type snapshot struct {
	view
	rev    uint64
	tuples int
	pages  []*page // by object number
}

const pageSize = 1 << 7

// page is the unit of copy-on-write.
type page [pageSize]edges

// edges returns what the tuples on the object say; nil for an unknown object.
func (s *snapshot) edges(object uint32) edges {
	if p := int(object / pageSize); p < len(s.pages) && s.pages[p] != nil {
		return s.pages[p][object%pageSize]
	}
	return nil
}

// graph is the writer's side of one store. The store's lock guards it.
type graph struct {
	in   *interner
	syms *symbols
	cur  *snapshot
}

// edge is a tuple in numbers.
type edge struct{ object, key, word uint32 }

// encode interns the parts of a valid tuple.
func (g *graph) encode(t relation.Tuple) (edge, error) {
	rel, err := g.syms.add(t.Relation)
	if err != nil {
		return edge{}, err
	}
	object, err := g.in.add(t.Object, g.syms)
	if err != nil {
		return edge{}, err
	}
	sobj, srel := relation.SplitSubject(t.Subject)
	if typ, everyone := strings.CutSuffix(sobj, ":*"); everyone {
		y, err := g.syms.add(typ)
		return edge{object, edgeKey(rel, wildcard), uint32(y)}, err
	}
	y := plain
	if srel != "" {
		if y, err = g.syms.add(srel); err != nil {
			return edge{}, err
		}
	}
	word, err := g.in.add(sobj, g.syms)
	return edge{object, edgeKey(rel, y), word}, err
}

// build makes a graph of all the tuples of a store at a revision. A malformed
// tuple or one that is there twice has kind [fault.Integrity].
func build(tuples []relation.Tuple, rev uint64, syms *symbols) (*graph, error) {
	g := &graph{in: newInterner(len(tuples) / 2), syms: syms}
	list := make([]edge, 0, len(tuples))
	for _, t := range tuples {
		if err := t.Validate(); err != nil {
			return nil, fault.Wrap(fault.Integrity, "the store holds a malformed tuple", err)
		}
		e, err := g.encode(t)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return g, g.fill(list, rev)
}

// fill makes the first snapshot out of a list of edges in any order.
func (g *graph) fill(list []edge, rev uint64) error {
	slices.SortFunc(list, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.key, b.key), cmp.Compare(a.word, b.word))
	})
	s := &snapshot{rev: rev, tuples: len(list), pages: make([]*page, g.in.n/pageSize+1)}
	for i := 0; i < len(list); {
		number := list[i].object / pageSize
		end := i
		words := 0
		for ; end < len(list) && list[end].object/pageSize == number; end++ {
			if words++; end == i || list[end].object != list[end-1].object || list[end].key != list[end-1].key {
				words += 2
			} else if list[end].word == list[end-1].word {
				return fault.New(fault.Integrity, "the store holds one tuple twice")
			}
		}
		s.pages[number] = fillPage(list[i:end], words)
		i = end
	}
	s.view = g.in.view
	g.cur = s
	return nil
}

// fillPage lays the edges of a page's objects into one block of memory.
func fillPage(list []edge, words int) *page {
	p := new(page)
	block := make(edges, 0, words)
	for i := 0; i < len(list); {
		begin := len(block)
		object := list[i].object
		for i < len(list) && list[i].object == object {
			key, head := list[i].key, len(block)
			block = append(block, key, 0)
			for ; i < len(list) && list[i].object == object && list[i].key == key; i++ {
				block = append(block, list[i].word)
				block[head+1]++
			}
		}
		p[object%pageSize] = block[begin:len(block):len(block)]
	}
	return p
}

// apply makes the next snapshot, at revision rev. An error leaves the graph
// unusable: the caller drops it. Kind [fault.Integrity] means that the changes
// do not fit the graph, so something was missed.
func (g *graph) apply(rev uint64, writes, deletes []relation.Tuple) error {
	next := &snapshot{rev: rev, tuples: g.cur.tuples, pages: g.cur.pages}
	copied := map[uint32]bool{}
	change := func(t relation.Tuple, f func(edges, uint32, uint32) (edges, bool)) error {
		if err := t.Validate(); err != nil {
			return fault.Wrap(fault.Integrity, "the store holds a malformed tuple", err)
		}
		e, err := g.encode(t)
		if err != nil {
			return err
		}
		if len(copied) == 0 {
			next.pages = slices.Clone(next.pages)
		}
		number := e.object / pageSize
		for int(number) >= len(next.pages) {
			next.pages = append(next.pages, nil)
		}
		if !copied[number] {
			copied[number] = true
			p := new(page)
			if old := next.pages[number]; old != nil {
				*p = *old
			}
			next.pages[number] = p
		}
		at := &next.pages[number][e.object%pageSize]
		changed, ok := f(*at, e.key, e.word)
		if !ok {
			return fault.New(fault.Integrity, "a change does not fit the graph: "+t.Relation)
		}
		*at = changed
		return nil
	}
	for _, t := range deletes {
		if err := change(t, edges.without); err != nil {
			return err
		}
	}
	for _, t := range writes {
		if err := change(t, edges.with); err != nil {
			return err
		}
	}
	next.tuples += len(writes) - len(deletes)
	next.view = g.in.view
	g.cur = next
	if int(g.in.n) > 4*next.tuples+4096 {
		return g.compact()
	}
	return nil
}

// compact forgets the names that no tuple holds any more, by building the graph
// again. Each tuple brings two names at most, so the work is paid for by the
// deletes that made it necessary.
func (g *graph) compact() error {
	old := g.cur
	fresh := &graph{in: newInterner(old.tuples / 2), syms: g.syms}
	list := make([]edge, 0, old.tuples)
	var failed error
	for object := uint32(1); object <= old.n; object++ {
		old.edges(object).all(func(key, word uint32) bool {
			var e edge
			if e.object, failed = fresh.in.add(old.name(object), g.syms); failed != nil {
				return false
			}
			e.key, e.word = key, word
			if keySubject(key) != wildcard {
				e.word, failed = fresh.in.add(old.name(word), g.syms)
			}
			list = append(list, e)
			return failed == nil
		})
		if failed != nil {
			return failed
		}
	}
	if err := fresh.fill(list, old.rev); err != nil {
		return err
	}
	*g = *fresh
	return nil
}

// tuple spells an edge.
func (s *snapshot) tuple(object, key, word uint32, names []string) relation.Tuple {
	t := relation.Tuple{Object: s.name(object), Relation: names[keyRelation(key)]}
	switch srel := keySubject(key); srel {
	case plain:
		t.Subject = s.name(word)
	case wildcard:
		t.Subject = names[word] + ":*"
	default:
		t.Subject = s.name(word) + "#" + names[srel]
	}
	return t
}
