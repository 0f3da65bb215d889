package authz

import (
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
	ents  []*[entityChunk]entity
	arena []*[arenaChunk]byte
	n     uint32   // numbers 1..n are defined
	every []uint32 // by the form "user:*": the number of that name
}

const (
	entityChunk = 1 << 8
	arenaChunk  = 1 << 12
	maxEntities = 1 << 30
)

type entity struct {
	chunk uint32 // of the arena
	off   uint16
	size  uint16 // relation.MaxObject fits
	typ   sym    // the form of a subject that it can be: its type, or everyone of a type
}

// slots is an open-addressing table: the upper half of a slot holds 32 bits of
// the hash, the lower half the number. A zero slot is free. Slots are filled
// once and never emptied, which is what makes reading without a lock right.
type slots struct {
	seed maphash.Seed
	s    []atomic.Uint64
}

func newInterner(hint int) *interner {
	size := 64
	for size*2 < hint*3 {
		size *= 2
	}
	in := &interner{}
	in.table = &slots{seed: maphash.MakeSeed(), s: make([]atomic.Uint64, size)}
	return in
}

// find returns the number of the name; 0 if the view does not hold it.
func (v *view) find(name string) uint32 {
	h := maphash.String(v.table.seed, name)
	mask := uint64(len(v.table.s) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		slot := v.table.s[i].Load()
		if slot == 0 {
			return 0
		}
		if slot>>32 == h>>32 {
			if id := uint32(slot); id <= v.n && string(v.bytes(id)) == name {
				return id
			}
		}
	}
}

func (v *view) entity(id uint32) *entity { return &v.ents[id/entityChunk][id%entityChunk] }

func (v *view) bytes(id uint32) []byte {
	e := v.entity(id)
	return v.arena[e.chunk][e.off : e.off+e.size : e.off+e.size]
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
	if in.n+1 >= maxEntities || len(object) > relation.MaxObject {
		return 0, fault.New(fault.Exhausted, "the store holds too many objects")
	}
	if (int(in.n)+1)*4 > len(in.table.s)*3 {
		in.grow()
	}
	if in.room < len(object) {
		in.arena = append(in.arena, new([arenaChunk]byte))
		in.room = arenaChunk
	}
	chunk, off := len(in.arena)-1, arenaChunk-in.room
	copy(in.arena[chunk][off:], object)
	in.room -= len(object)
	id := in.n + 1
	if int(id/entityChunk) >= len(in.ents) {
		in.ents = append(in.ents, new([entityChunk]entity))
	}
	if rel == everyone {
		in.every = slices.Clone(in.every) // readers keep theirs
		for len(in.every) <= int(y) {
			in.every = append(in.every, 0)
		}
		in.every[y] = id
	}
	*in.entity(id) = entity{chunk: uint32(chunk), off: uint16(off), size: uint16(len(object)), typ: y}
	in.n = id
	in.table.put(maphash.String(in.table.seed, object), id)
	return id, nil
}

// subjectForm returns the form of a subject in its two parts.
func subjectForm(object, rel string) (string, string) {
	typ, id, _ := relation.SplitObject(object)
	if id == everyone {
		rel = everyone
	}
	return typ, rel
}

func (t *slots) put(h uint64, id uint32) {
	mask := uint64(len(t.s) - 1)
	i := h & mask
	for t.s[i].Load() != 0 {
		i = (i + 1) & mask
	}
	t.s[i].Store(h>>32<<32 | uint64(id))
}

// grow moves to a table of twice the size. Readers of older views keep theirs.
func (in *interner) grow() {
	next := &slots{seed: in.table.seed, s: make([]atomic.Uint64, 2*len(in.table.s))}
	for id := uint32(1); id <= in.n; id++ {
		next.put(maphash.Bytes(next.seed, in.bytes(id)), id)
	}
	in.table = next
}
