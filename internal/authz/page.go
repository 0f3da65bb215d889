package authz

import (
	"cmp"
	"math"
	"slices"

	"bulwark.example/internal/fault"
)

// An edge is a tuple in numbers, seen from one of its ends: from is the entity
// where it is kept, key says what it is and word names the other end.
type edge struct{ from, key, word, caveat uint32 }

// edgeKey joins the form of the relation (document#viewer) and that of the
// subject (user, user:*, team#member).
func edgeKey(rel, subject sym) uint32 { return uint32(rel)<<16 | uint32(subject) }

func keyRelation(key uint32) sym { return sym(key &^ guarded >> 16) }

func keySubject(key uint32) sym { return sym(key & 0xffff) }

// guarded marks the key of edges that count under a condition or for a time. It
// is the highest bit, so that these groups stand last.
const guarded = 1 << 31

// node is what one entity's edges say, without pointers: groups of
//
//	key, n, n words in ascending order, and if the key is guarded n caveats
//
// in ascending order of keys. A node is never changed once it is in a snapshot.
type node []uint32

// next returns the group at i and where the following one begins.
func (nd node) next(i int) (key uint32, words, caveats []uint32, after int) {
	key = nd[i]
	n := int(nd[i+1])
	words = nd[i+2 : i+2+n]
	after = i + 2 + n
	if key&guarded != 0 {
		caveats = nd[after : after+n]
		after += n
	}
	return key, words, caveats, after
}

// group returns the words and caveats of a key; nil if there are none.
func (nd node) group(key uint32) (words, caveats []uint32) {
	for i := 0; i < len(nd); {
		k, w, c, after := nd.next(i)
		if k >= key {
			if k == key {
				return w, c
			}
			return nil, nil
		}
		i = after
	}
	return nil, nil
}

// holds reports whether the ascending words have the word.
func holds(words []uint32, word uint32) bool {
	_, ok := place(words, word)
	return ok
}

func place(words []uint32, word uint32) (int, bool) {
	if len(words) <= 8 { // a line or less of memory: no search is faster
		for i, w := range words {
			if w >= word {
				return i, w == word
			}
		}
		return len(words), false
	}
	return slices.BinarySearch(words, word)
}

const pageSize = 1 << 6

// page is the unit of copy-on-write: the nodes of neighbouring entities in one
// block, so that an entity costs no pointer. Each entity has a cell, and all
// cells of a page are as wide: where a node begins is known without another wait
// for memory. In a large store such waits are what a question takes, and so a cell
// lies in one line of memory: its width is a power of two, and the allocator puts
// blocks of this size at the beginning of a line.
//
// A cell begins with the node's length. The node follows, if it fits; else the
// place of the node behind the cells.
type page struct {
	words []uint32
	width uint32 // of a cell, in words; 0: all nodes are empty
}

// pages hold one direction of a graph, by entity.
type pages []page

// node returns what the entity's edges say; nil for an unknown one.
func (ps pages) node(id uint32) node {
	if p := int(id / pageSize); p < len(ps) {
		return ps[p].node(id % pageSize)
	}
	return nil
}

func (p *page) node(slot uint32) node {
	if p.width == 0 {
		return nil
	}
	at := slot * p.width
	n := p.words[at]
	if n >= p.width {
		at = p.words[at+1] - 1
	}
	return node(p.words[at+1 : at+1+n])
}

// touch makes the processor fetch the entity's cell.
func (ps pages) touch(id uint32) uint32 {
	if p := int(id / pageSize); p < len(ps) && ps[p].width > 0 {
		return ps[p].words[id%pageSize*ps[p].width]
	}
	return 0
}

// maxCell is the widest cell: a line of memory.
const maxCell = 16

// loose is a page in the making: the nodes one after the other, and where each
// begins and the last one ends.
type loose struct {
	words []uint32
	begin [pageSize + 1]uint32
}

// page lays the nodes into cells, of the width that takes the least memory; that a
// node lies behind the cells counts like half a line.
func (l *loose) page() page {
	total := l.begin[pageSize]
	if total == 0 {
		return page{}
	}
	width, size, least := uint32(0), uint32(0), uint32(math.MaxUint32)
	for w := uint32(2); w <= maxCell; w *= 2 {
		words, behind := w*pageSize, uint32(0)
		for slot := range pageSize {
			if n := l.begin[slot+1] - l.begin[slot]; n >= w {
				words += n
				behind++
			}
		}
		if words+behind*maxCell/2 < least {
			width, size, least = w, words, words+behind*maxCell/2
		}
	}
	p := page{make([]uint32, size), width}
	tail := pageSize * width
	for slot := range uint32(pageSize) {
		nd := l.words[l.begin[slot]:l.begin[slot+1]]
		cell := p.words[slot*width:]
		cell[0] = uint32(len(nd))
		if uint32(len(nd)) < width {
			copy(cell[1:], nd)
			continue
		}
		cell[1] = tail
		tail += uint32(copy(p.words[tail:], nd))
	}
	return p
}

func sortEdges(list []edge) { slices.SortFunc(list, compareEdges) }

func compareEdges(a, b edge) int {
	switch {
	case a.from != b.from:
		return cmp.Compare(a.from, b.from)
	case a.stored() != b.stored():
		return cmp.Compare(a.stored(), b.stored())
	}
	return cmp.Compare(a.word, b.word)
}

// arranged returns the edges of entities up to n in order: a counting sort over
// the entities, of which each has few, so that a large store loads in linear time.
func arranged(list []edge, n uint32) []edge {
	begin := make([]uint32, n+2)
	for _, e := range list {
		begin[e.from+1]++
	}
	for i := range n + 1 {
		begin[i+1] += begin[i]
	}
	out := make([]edge, len(list))
	next := slices.Clone(begin)
	for _, e := range list {
		out[next[e.from]] = e
		next[e.from]++
	}
	for i := range n + 1 {
		if run := out[begin[i]:begin[i+1]]; len(run) > 1 {
			sortEdges(run)
		}
	}
	return out
}

// stored is the key under which the edge stands.
func (e edge) stored() uint32 {
	if e.caveat != 0 {
		return e.key | guarded
	}
	return e.key
}

// fill lays sorted edges into fresh pages for entities up to n.
func fill(list []edge, n uint32) pages {
	ps := make(pages, n/pageSize+1)
	var l loose
	for i := 0; i < len(list); {
		number := list[i].from / pageSize
		l.words = l.words[:0]
		for slot := range uint32(pageSize) {
			end := i
			for end < len(list) && list[end].from == number*pageSize+slot {
				end++
			}
			l.words = appendNode(l.words, list[i:end])
			l.begin[slot+1] = uint32(len(l.words))
			i = end
		}
		ps[number] = l.page()
	}
	return ps
}

// appendNode spells the sorted edges of one entity. It trusts the caller that no
// two are the same.
func appendNode(words []uint32, list []edge) []uint32 {
	sp := speller{words: words}
	for _, e := range list {
		sp.add(e.stored(), e.word, e.caveat)
	}
	return sp.end()
}

// speller writes a node, edge by edge in order.
type speller struct {
	words   []uint32
	head    int // where the open group begins, if count > 0
	count   uint32
	caveats []uint32 // of the open group, if its key is guarded
}

func (sp *speller) add(key, word, caveat uint32) {
	if sp.count == 0 || sp.words[sp.head] != key {
		sp.end()
		sp.head = len(sp.words)
		sp.words = append(sp.words, key, 0)
	}
	sp.count++
	sp.words = append(sp.words, word)
	if key&guarded != 0 {
		sp.caveats = append(sp.caveats, caveat)
	}
}

// end closes the open group.
func (sp *speller) end() []uint32 {
	if sp.count > 0 {
		sp.words[sp.head+1] = sp.count
		sp.words = append(sp.words, sp.caveats...)
		sp.count, sp.caveats = 0, sp.caveats[:0]
	}
	return sp.words
}

// change is an edge that comes or goes.
type change struct {
	edge
	gone bool // its caveat is then not known
}

var errUnfit = fault.New(fault.Integrity, "a change does not fit the graph")

// with returns pages that have the changes. Every page is copied once, however
// many of the changes it takes. The error is errUnfit.
func (ps pages) with(changes []change, n uint32) (pages, error) {
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.from, b.from) })
	next := slices.Clone(ps)
	for len(next) <= int(n/pageSize) {
		next = append(next, page{})
	}
	for i := 0; i < len(changes); {
		number := changes[i].from / pageSize
		end := i
		for end < len(changes) && changes[end].from/pageSize == number {
			end++
		}
		p, err := next[number].with(changes[i:end])
		if err != nil {
			return nil, err
		}
		next[number] = p
		i = end
	}
	return next, nil
}

func (p *page) with(changes []change) (page, error) {
	l := loose{words: make([]uint32, 0, len(p.words)+4*len(changes))}
	for slot, i := uint32(0), 0; slot < pageSize; slot++ {
		end := i
		for end < len(changes) && changes[end].from%pageSize == slot {
			end++
		}
		old := p.node(slot)
		if i == end {
			l.words = append(l.words, old...)
		} else {
			var err error
			if l.words, err = appendChanged(l.words, old, changes[i:end]); err != nil {
				return page{}, err
			}
		}
		l.begin[slot+1] = uint32(len(l.words))
		i = end
	}
	return l.page(), nil
}

// appendChanged spells a node after the changes. What goes goes first: a changed
// caveat is an edge that goes and one that comes.
func appendChanged(words []uint32, old node, changes []change) ([]uint32, error) {
	gone, come := make([]edge, 0, len(changes)), make([]edge, 0, len(changes))
	for _, c := range changes {
		if !c.gone {
			come = append(come, c.edge)
			continue
		}
		// It is known by key and word alone; whether it is guarded is read off.
		w, caveats := old.group(c.key | guarded)
		if at, ok := place(w, c.word); ok {
			c.caveat = caveats[at]
		}
		gone = append(gone, c.edge)
	}
	sortEdges(gone)
	sortEdges(come)
	sp := speller{words: words}
	left := len(gone)
	emit := func() {
		sp.add(come[0].stored(), come[0].word, come[0].caveat)
		come = come[1:]
	}
	for i := 0; i < len(old); {
		key, w, caveats, after := old.next(i)
		for len(come) > 0 && come[0].stored() < key {
			emit()
		}
		if !concerns(gone, key) && (len(come) == 0 || come[0].stored() > key) {
			sp.words = append(sp.end(), old[i:after]...) // most groups, at the speed of a copy
			i = after
			continue
		}
		for n, word := range w {
			for len(come) > 0 && come[0].stored() == key && come[0].word < word {
				emit()
			}
			e := edge{key: key &^ guarded, word: word}
			if caveats != nil {
				e.caveat = caveats[n]
			}
			if slices.ContainsFunc(gone, func(g edge) bool { return g.stored() == key && g.word == word }) {
				left--
				continue
			}
			if len(come) > 0 && come[0].stored() == key && come[0].word == word {
				return nil, errUnfit
			}
			sp.add(key, word, e.caveat)
		}
		i = after
	}
	for len(come) > 0 {
		if len(come) > 1 && come[1].stored() == come[0].stored() && come[1].word == come[0].word {
			return nil, errUnfit
		}
		emit()
	}
	if left > 0 {
		return nil, errUnfit
	}
	return sp.end(), nil
}

func concerns(gone []edge, key uint32) bool {
	return slices.ContainsFunc(gone, func(g edge) bool { return g.stored() == key })
}
