package authz

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync/atomic"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// An interner turns "type:id" into a number, for one store. It only grows: one
// writer adds (under the store's lock), any number of readers look up without a
// lock. A reader holds a view, which ends at the count of its snapshot, so that
// it sees neither later names nor memory that the writer is still filling.
//
// Names live in an arena and not in Go strings: the garbage collector has
// nothing to follow there.
type interner struct {
	view
	room int // bytes left in the last chunk of the arena
}

// view is the readers' side of an interner at one moment.
type view struct {
	table *slots
	at    []*[entityChunk]uint64 // by number: the place of the name and what it is
	arena [][]byte               // slices: a pointer to an array is checked by reading its first byte, one more wait for memory
	n     uint32                 // numbers 1..n are defined
	every []uint32               // by the form "user:*": the number of that name
}

const (
	entityChunk  = 1 << 8
	arenaChunk   = 1 << 12
	nameUnit     = 8 // a name begins at a multiple of so many bytes
	unitsInChunk = arenaChunk / nameUnit
	maxEntities  = 1 << 30
	maxArena     = 1<<32/unitsInChunk - 1 // chunks: a place has 32 bits
)

// slots is an open-addressing table. A zero slot is free. Slots are filled once
// and never emptied, which is what makes reading without a lock right.
type slots struct {
	seed maphash.Seed
	s    []slot
}

// slot tells all about a name but its letters: what a look-up costs in a large
// store is its waits for memory, and so what follows from the number need not
// wait for the letters to be compared.
type slot struct {
	what atomic.Uint64 // the number, and below 16 bits of the form and 16 of the length
	name atomic.Uint64 // 32 bits of the hash, and below the place in units, plus one; filled last
}

// packed joins 32 bits (the number, or the place) with a name's form (that of a
// subject which it can be: its type, or everyone of a type) and length.
func packed(high uint32, y sym, length int) uint64 {
	return uint64(high)<<32 | uint64(y)<<16 | uint64(length)
}

func newInterner(hint int) *interner {
	size := 64
	for size*2 < hint*3 {
		size *= 2
	}
	in := &interner{}
	in.table = &slots{seed: maphash.MakeSeed(), s: make([]slot, size)}
	return in
}

// letters returns the name at the place.
func (v *view) letters(place uint32, length uint64) []byte {
	from := place % unitsInChunk * nameUnit
	return v.arena[place/unitsInChunk][from : from+uint32(length)]
}

func (v *view) hash(name string) uint64 { return maphash.String(v.table.seed, name) }

// lookup returns what the view knows of the name: nothing if it does not hold it.
func (v *view) lookup(name string) found { return v.hashed(v.hash(name), name) }

// lookups finds two names for the waits for memory of one.
func (v *view) lookups(a, b string) (found, found) {
	h, g := v.hash(a), v.hash(b)
	v.table.first(h).name.Load()
	v.table.first(g).name.Load()
	return v.hashed(h, a), v.hashed(g, b)
}

func (t *slots) first(h uint64) *slot { return &t.s[h&uint64(len(t.s)-1)] }

// hashed is lookup of a name with the hash.
func (v *view) hashed(h uint64, name string) found {
	mask := uint64(len(v.table.s) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		at := &v.table.s[i]
		mark := at.name.Load()
		if mark == 0 {
			return found{}
		}
		what := at.what.Load()
		id := uint32(what >> 32)
		if mark>>32 != h>>32 || what&0xffff != uint64(len(name)) || id > v.n { // beyond n: of a later view
			continue
		}
		if string(v.letters(uint32(mark)-1, what&0xffff)) == name {
			return found{id, sym(what >> 16)}
		}
	}
}

func (v *view) find(name string) uint32 { return v.lookup(name).id }

func (v *view) known(id uint32) uint64 { return v.at[id/entityChunk][id%entityChunk] }

// form returns the form of the name with the number.
func (v *view) form(id uint32) sym { return sym(v.known(id) >> 16) }

func (v *view) bytes(id uint32) []byte {
	known := v.known(id)
	return v.letters(uint32(known>>32), known&0xffff)
}

// everyone returns the number of everyone of the form; 0 if no tuple names them.
func (v *view) everyone(y sym) uint32 {
	if int(y) < len(v.every) {
		return v.every[y]
	}
	return 0
}

// name returns "type:id".
func (v *view) name(id uint32) string { return string(v.bytes(id)) }

// add returns the number of the object, a new one if needed. The object must be
// valid, or everyone of a type. The error has kind [fault.Exhausted].
func (in *interner) add(object string, syms *symbols) (uint32, error) {
	if id := in.find(object); id != 0 {
		return id, nil
	}
	typ, rel := subjectForm(object, "")
	y, err := syms.add(typ, rel)
	if err != nil {
		return 0, err
	}
	if in.full() || len(object) > relation.MaxObject {
		return 0, errTooMany
	}
	if (int(in.n)+1)*4 > len(in.table.s)*3 {
		in.grow()
	}
	in.append([]byte(object), y)
	if rel == everyone {
		in.every = slices.Clone(in.every) // readers keep theirs
		for len(in.every) <= int(y) {
			in.every = append(in.every, 0)
		}
		in.every[y] = in.n
	}
	in.table.put(in.hash(object), in.known(in.n), in.n)
	return in.n, nil
}

var errTooMany = fault.New(fault.Exhausted, "the store holds too many objects")

func (in *interner) full() bool { return in.n+1 >= maxEntities || len(in.arena) >= maxArena }

// append gives the name the next number.
func (in *interner) append(name []byte, y sym) {
	size := (len(name) + nameUnit - 1) / nameUnit * nameUnit
	if in.room < size {
		in.arena = append(in.arena, make([]byte, arenaChunk))
		in.room = arenaChunk
	}
	place := uint32(len(in.arena)*arenaChunk-in.room) / nameUnit
	in.room -= size
	in.n++
	if int(in.n/entityChunk) >= len(in.at) {
		in.at = append(in.at, new([entityChunk]uint64))
	}
	in.at[in.n/entityChunk][in.n%entityChunk] = packed(place, y, len(name))
	copy(in.letters(place, uint64(len(name))), name)
}

// subjectForm returns the form of a subject in its two parts.
func subjectForm(object, rel string) (string, string) {
	typ, id, _ := relation.SplitObject(object)
	if id == everyone {
		rel = everyone
	}
	return typ, rel
}

// put adds the name with the number, of which is known what the interner keeps.
func (t *slots) put(h, known uint64, id uint32) {
	mask := uint64(len(t.s) - 1)
	i := h & mask
	for t.s[i].name.Load() != 0 {
		i = (i + 1) & mask
	}
	t.s[i].what.Store(uint64(id)<<32 | known&0xffffffff)
	t.s[i].name.Store(h>>32<<32 | (known>>32 + 1))
}

// grow moves to a table of twice the size. Readers of older views keep theirs.
func (in *interner) grow() {
	next := &slots{seed: in.table.seed, s: make([]slot, 2*len(in.table.s))}
	for id := uint32(1); id <= in.n; id++ {
		next.put(maphash.Bytes(next.seed, in.bytes(id)), in.known(id), id)
	}
	in.table = next
}

// sorted returns an interner of the same names, in which those of one form stand
// side by side, the rarest form first, and by the old numbers the new ones. So
// what most questions pass (people, groups, folders) shares its memory with its
// like and stays near to the processor, however many documents there are. It
// takes the table over: the old interner must not be used any more.
func (in *interner) sorted() (*interner, []uint32) {
	counts := []uint32{}
	for id := uint32(1); id <= in.n; id++ {
		y := int(in.form(id))
		for len(counts) <= y {
			counts = append(counts, 0)
		}
		counts[y]++
	}
	forms := make([]int, len(counts))
	for y := range forms {
		forms[y] = y
	}
	slices.SortStableFunc(forms, func(a, b int) int { return cmp.Compare(counts[a], counts[b]) })
	begin, next := make([]uint32, len(counts)), uint32(1)
	for _, y := range forms {
		begin[y] = next
		next += counts[y]
	}
	now, was := make([]uint32, in.n+1), make([]uint32, in.n+1)
	for id := uint32(1); id <= in.n; id++ {
		y := in.form(id)
		now[id], was[begin[y]] = begin[y], id
		begin[y]++
	}
	out := &interner{}
	out.table, out.every = in.table, make([]uint32, len(in.every))
	for _, old := range was[1:] {
		out.append(in.bytes(old), in.form(old))
	}
	for i := range out.table.s {
		if at := &out.table.s[i]; at.name.Load() != 0 {
			what := at.what.Load()
			id := now[what>>32]
			at.what.Store(uint64(id)<<32 | what&0xffffffff)
			at.name.Store(at.name.Load()>>32<<32 | (out.known(id)>>32 + 1))
		}
	}
	for y, id := range in.every {
		out.every[y] = now[id]
	}
	return out, now
}
