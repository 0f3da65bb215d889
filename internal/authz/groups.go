package authz

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// Who is in which groups does not depend on the object asked about. So the
// engine computes for each subject that asks the set of all usersets that it
// belongs to, through any number of other groups, and then tests an object's
// edges against the set (Zanzibar, section 3.2.5: Leopard). A set is kept until
// a tuple on an object of a group's type changes; nothing is done at the write.

// flatness says which usersets of a model the sets hold: those that follow from
// tuples alone, without a parent to walk to ("from"): a set of folders that
// somebody sees could be as large as the store.
type flatness struct {
	types []sym  // of the objects whose tuples decide about the sets
	holds []bool // by the form of a userset: whether sets hold it
	lifts []lift // by key
}

// lift says that who stands in a tuple of the key belongs to the userset.
type lift struct {
	key     uint32
	userset sym
	sure    bool // not only under an operator or a condition
}

// flatten finds the usersets that sets can hold.
func flatten(b *bound) flatness {
	var f flatness
	var usersets []*program
	for _, p := range b.programs {
		for _, a := range p.actions {
			if a.next != nil && !a.parent && !slices.Contains(usersets, a.next) {
				usersets = append(usersets, a.next)
			}
		}
	}
	for changed := true; changed; { // what needs a walk, or a userset that does, falls out
		changed = false
		usersets = slices.DeleteFunc(usersets, func(p *program) bool {
			out := !p.flat(usersets, nil)
			changed = changed || out
			return out
		})
	}
	for _, p := range usersets {
		for len(f.holds) <= int(p.userset) {
			f.holds = append(f.holds, false)
		}
		f.holds[p.userset] = true
		if typ := b.types[p.typ].object; !slices.Contains(f.types, typ) {
			f.types = append(f.types, typ)
		}
		p.lift(&f, p.userset, true, nil)
	}
	slices.SortFunc(f.lifts, func(a, b lift) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.userset, b.userset))
	})
	return f
}

// flat reports whether every way to hold the program is a tuple.
func (p *program) flat(usersets, seen []*program) bool {
	if slices.Contains(seen, p) {
		return true
	}
	seen = append(seen, p)
	for _, a := range p.actions {
		if a.parent || a.next != nil && !slices.Contains(usersets, a.next) {
			return false
		}
	}
	for _, op := range p.operators {
		for _, operand := range op.operands {
			if !operand.flat(usersets, seen) {
				return false
			}
		}
	}
	return true
}

// lift adds what leads to the userset. What is subtracted leads nowhere.
func (p *program) lift(f *flatness, userset sym, sure bool, seen []*program) {
	if slices.Contains(seen, p) {
		return
	}
	seen = append(seen, p)
	for _, a := range p.actions {
		f.add(lift{a.key, userset, sure && a.condition == ""})
	}
	for _, op := range p.operators {
		operands := op.operands
		if op.except {
			operands = operands[:1]
		}
		for _, operand := range operands {
			operand.lift(f, userset, false, seen)
		}
	}
}

func (f *flatness) add(l lift) {
	i := slices.IndexFunc(f.lifts, func(o lift) bool { return o.key == l.key && o.userset == l.userset })
	if i < 0 {
		f.lifts = append(f.lifts, l)
		return
	}
	f.lifts[i].sure = f.lifts[i].sure || l.sure
}

// of returns the lifts of a key.
func (f *flatness) of(key uint32) []lift {
	i, ok := slices.BinarySearchFunc(f.lifts, key, func(l lift, k uint32) int { return cmp.Compare(l.key, k) })
	if !ok {
		return nil
	}
	end := i
	for end < len(f.lifts) && f.lifts[end].key == key {
		end++
	}
	return f.lifts[i:end]
}

func (f *flatness) has(userset sym) bool { return int(userset) < len(f.holds) && f.holds[userset] }

// groupSet is all the usersets that one subject belongs to. It never changes.
type groupSet struct {
	stamp uint64 // when a tuple on an object of the groups' types changed last
	too   bool   // too many: the set is not kept, and the evaluator walks
	// members are the groups of one userset's form after the other:
	//
	//	form, n, n objects in ascending order, n infos
	//
	// An info is the depth of the membership, doubled, plus 1 if it is sure.
	members []uint32
	few     [10]uint32 // the memory of most members: beside the stamp, it is there when they are needed
}

// Bounds on one set. Beyond them a walk from the object is no worse.
const (
	maxGroups     = 1 << 13
	maxGroupEdges = 1 << 16
	maxGroupDepth = 1<<7 - 1
)

// of returns the groups of a userset's form.
func (s *groupSet) of(userset sym) (objects, infos []uint32) {
	for m := s.members; len(m) > 0; {
		n := int(m[1])
		if m[0] == uint32(userset) {
			return m[2 : 2+n], m[2+n : 2+2*n]
		}
		m = m[2+2*n:]
	}
	return nil, nil
}

// groupSets keeps the sets of one graph and one model: the one that asked first
// since the last change of the active model. Others compute theirs anew.
type groupSets struct {
	model  atomic.Pointer[bound]
	chunks []atomic.Pointer[setChunk] // by subject
}

const setChunkSize = 1 << 8

type setChunk [setChunkSize]atomic.Pointer[groupSet]

func newGroupSets(n uint32) *groupSets {
	return &groupSets{chunks: make([]atomic.Pointer[setChunk], n/setChunkSize+1)}
}

// fitting returns sets with room for n subjects that hold what these hold.
func (gs *groupSets) fitting(n uint32) *groupSets {
	if int(n/setChunkSize) < len(gs.chunks) {
		return gs
	}
	next := newGroupSets(n + n/4)
	next.model.Store(gs.model.Load())
	for i := range gs.chunks {
		next.chunks[i].Store(gs.chunks[i].Load())
	}
	return next
}

func (gs *groupSets) slot(subject uint32) *atomic.Pointer[groupSet] {
	at := &gs.chunks[subject/setChunkSize]
	c := at.Load()
	if c == nil {
		at.CompareAndSwap(nil, new(setChunk))
		c = at.Load()
	}
	return &c[subject%setChunkSize]
}

// touch makes the processor fetch the subject's set, if there is one.
func (gs *groupSets) touch(subject uint32) uint32 {
	if c := gs.chunks[subject/setChunkSize].Load(); c != nil {
		if set := c[subject%setChunkSize].Load(); set != nil {
			return uint32(set.stamp)
		}
	}
	return 0
}

// stamp returns when the groups of the model changed last.
func (s *snapshot) stamp(f *flatness) uint64 {
	var last uint64
	for _, typ := range f.types {
		if int(typ) < len(s.touched) {
			last = max(last, s.touched[typ])
		}
	}
	return last
}

// groupsOf returns the set of the subject, which must not be a userset; nil if the
// evaluator must walk.
func (s *snapshot) groupsOf(b *bound, who asker) *groupSet {
	stamp := s.stamp(&b.flat)
	if who.object == 0 { // what everyone belongs to
		return s.kept(s.flattened(b, who, stamp))
	}
	model := s.sets.model.Load()
	if model == nil {
		s.sets.model.CompareAndSwap(nil, b)
		model = s.sets.model.Load()
	}
	if model != b {
		return s.kept(s.flattened(b, who, stamp))
	}
	slot := s.sets.slot(who.object)
	set := slot.Load()
	if set == nil || set.stamp != stamp {
		set = s.flattened(b, who, stamp)
		slot.Store(set)
	}
	return s.kept(set)
}

func (s *snapshot) kept(set *groupSet) *groupSet {
	if set.too {
		return nil
	}
	return set
}

// flattened computes the subject's set by breadth-first search upwards: first
// over what is sure, so that a group has its shortest sure depth if it has one,
// then over everything.
func (s *snapshot) flattened(b *bound, who asker, stamp uint64) *groupSet {
	c := climb{s: s, f: &b.flat, start: [2]climbed{{object: who.object, userset: who.form}, {object: s.everyone(who.every), userset: who.every}}}
	set := &groupSet{stamp: stamp}
	if c.run(true); c.doubt && c.edges <= maxGroupEdges {
		c.run(false)
	}
	if c.edges > maxGroupEdges || len(c.found) > maxGroups {
		set.too = true
		return set
	}
	slices.SortFunc(c.found, func(a, b climbed) int {
		return cmp.Or(cmp.Compare(a.userset, b.userset), cmp.Compare(a.object, b.object))
	})
	forms := 1
	for i := 1; i < len(c.found); i++ {
		if c.found[i].userset != c.found[i-1].userset {
			forms++
		}
	}
	set.members = set.few[:0]
	if n := 2 * (forms + len(c.found)); n > len(set.few) {
		set.members = make([]uint32, 0, n)
	}
	for i := 0; i < len(c.found); {
		end := i
		for end < len(c.found) && c.found[end].userset == c.found[i].userset {
			end++
		}
		set.members = append(set.members, uint32(c.found[i].userset), uint32(end-i))
		for _, at := range c.found[i:end] {
			set.members = append(set.members, at.object)
		}
		for _, at := range c.found[i:end] {
			info := uint32(at.depth) << 1
			if at.sure {
				info |= 1
			}
			set.members = append(set.members, info)
		}
		i = end
	}
	return set
}

// climb is one search for the groups of a subject.
type climb struct {
	s     *snapshot
	f     *flatness
	start [2]climbed // the subject, and everyone of its type
	found []climbed
	index map[uint64]bool // of found, once it is long
	edges int
	doubt bool // something unsure was left out
}

// climbed is a userset that the subject belongs to.
type climbed struct {
	object  uint32
	userset sym
	depth   uint8 // how many usersets stand between
	sure    bool
}

func (c *climb) run(sure bool) {
	for _, at := range c.start {
		if at.object != 0 {
			c.step(at, 0, sure)
		}
	}
	for i := 0; i < len(c.found) && c.edges <= maxGroupEdges && len(c.found) <= maxGroups; i++ {
		if at := c.found[i]; at.depth < maxGroupDepth {
			c.step(at, at.depth+1, sure)
		}
	}
}

// step takes over every group in whose tuples the subject stands.
func (c *climb) step(at climbed, depth uint8, sure bool) {
	nd := c.s.in.node(at.object)
	for i := 0; i < len(nd); {
		key, words, _, after := nd.next(i)
		i = after
		plain := key&guarded == 0
		if keySubject(key) != at.userset {
			continue
		}
		for _, l := range c.f.of(key &^ guarded) {
			if sure && !(plain && l.sure) {
				c.doubt = true
				continue
			}
			c.edges += len(words)
			for _, object := range words {
				c.add(climbed{object, l.userset, depth, sure})
			}
		}
	}
}

func (c *climb) add(at climbed) {
	const long = 24
	key := uint64(at.object)<<16 | uint64(at.userset)
	if c.index == nil {
		for i := range c.found {
			if c.found[i].object == at.object && c.found[i].userset == at.userset {
				return
			}
		}
		if len(c.found) == long {
			c.index = map[uint64]bool{}
			for _, f := range c.found {
				c.index[uint64(f.object)<<16|uint64(f.userset)] = true
			}
		}
	} else if c.index[key] {
		return
	}
	if c.index != nil {
		c.index[key] = true
	}
	c.found = append(c.found, at)
}
