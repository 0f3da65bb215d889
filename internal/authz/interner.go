package authz

import (
	"encoding/binary"
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
	at    []*[entityChunk]uint32 // by number: where the name's record begins
	arena []*[arenaChunk]byte
	n     uint32   // numbers 1..n are defined
	every []uint32 // by the form "user:*": the number of that name
}

const (
	entityChunk = 1 << 8
	arenaChunk  = 1 << 12
	maxEntities = 1 << 30
	maxArena    = 1<<32/unitsInChunk - 1 // chunks: a slot names a place with 32 bits
)

// A record begins at a multiple of eight bytes, its unit, and holds
//
//	number (4, little endian) | form (2) | length (2) | name
//
// so that to find a name is to follow one slot to one place: what a look-up
// costs in a large store is its waits for memory. The form is that of a subject
// which the name can be: its type, or everyone of a type.
const (
	recordUnit   = 8
	recordHead   = 8
	unitsInChunk = arenaChunk / recordUnit
)

// slots is an open-addressing table: the upper half of a slot holds 32 bits of
// the hash, the lower half the record's place in units, plus one. A zero slot is
// free. Slots are filled once and never emptied, which is what makes reading
// without a lock right.
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

// record returns the memory that begins with the record at the place.
func (v *view) record(at uint32) []byte {
	return v.arena[at/unitsInChunk][at%unitsInChunk*recordUnit:]
}

func recordName(rec []byte) []byte {
	return rec[recordHead : recordHead+int(binary.LittleEndian.Uint16(rec[6:]))]
}

// lookup returns the number and the form of the name; 0 if the view does not
// hold it.
func (v *view) lookup(name string) (uint32, sym) {
	h := maphash.String(v.table.seed, name)
	mask := uint64(len(v.table.s) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		slot := v.table.s[i].Load()
		if slot == 0 {
			return 0, 0
		}
		if slot>>32 != h>>32 {
			continue
		}
		at := uint32(slot) - 1
		if at/unitsInChunk >= uint32(len(v.arena)) {
			continue // of a later view
		}
		rec := v.record(at)
		if id := binary.LittleEndian.Uint32(rec); id <= v.n && string(recordName(rec)) == name {
			return id, sym(binary.LittleEndian.Uint16(rec[4:]))
		}
	}
}

func (v *view) find(name string) uint32 {
	id, _ := v.lookup(name)
	return id
}

// form returns the form of the name with the number.
func (v *view) form(id uint32) sym {
	return sym(binary.LittleEndian.Uint16(v.record(v.at[id/entityChunk][id%entityChunk])[4:]))
}

func (v *view) bytes(id uint32) []byte {
	return recordName(v.record(v.at[id/entityChunk][id%entityChunk]))
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
	if in.n+1 >= maxEntities || len(in.arena) >= maxArena || len(object) > relation.MaxObject {
		return 0, fault.New(fault.Exhausted, "the store holds too many objects")
	}
	if (int(in.n)+1)*4 > len(in.table.s)*3 {
		in.grow()
	}
	size := (recordHead + len(object) + recordUnit - 1) / recordUnit * recordUnit
	if in.room < size {
		in.arena = append(in.arena, new([arenaChunk]byte))
		in.room = arenaChunk
	}
	id := in.n + 1
	at := uint32(len(in.arena)*arenaChunk-in.room) / recordUnit
	in.room -= size
	rec := in.record(at)
	binary.LittleEndian.PutUint32(rec, id)
	binary.LittleEndian.PutUint16(rec[4:], uint16(y))
	binary.LittleEndian.PutUint16(rec[6:], uint16(len(object)))
	copy(rec[recordHead:], object)
	if int(id/entityChunk) >= len(in.at) {
		in.at = append(in.at, new([entityChunk]uint32))
	}
	in.at[id/entityChunk][id%entityChunk] = at
	if rel == everyone {
		in.every = slices.Clone(in.every) // readers keep theirs
		for len(in.every) <= int(y) {
			in.every = append(in.every, 0)
		}
		in.every[y] = id
	}
	in.n = id
	in.table.put(maphash.String(in.table.seed, object), at)
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

func (t *slots) put(h uint64, at uint32) {
	mask := uint64(len(t.s) - 1)
	i := h & mask
	for t.s[i].Load() != 0 {
		i = (i + 1) & mask
	}
	t.s[i].Store(h>>32<<32 | uint64(at+1))
}

// grow moves to a table of twice the size. Readers of older views keep theirs.
func (in *interner) grow() {
	next := &slots{seed: in.table.seed, s: make([]atomic.Uint64, 2*len(in.table.s))}
	for id := uint32(1); id <= in.n; id++ {
		next.put(maphash.Bytes(next.seed, in.bytes(id)), in.at[id/entityChunk][id%entityChunk])
	}
	in.table = next
}
