package authz

import "slices"

// edges is what one object's tuples say, without pointers: groups of
//
//	key, n, n words in ascending order
//
// in ascending order of keys. A key is (relation, subject relation): with plain
// the words are objects, with wildcard they are types, with any other symbol
// they are the objects of usersets. An edges value is never changed once it is
// in a snapshot.
type edges []uint32

func edgeKey(rel, srel sym) uint32 { return uint32(rel)<<16 | uint32(srel) }

func keyRelation(key uint32) sym { return sym(key >> 16) }

func keySubject(key uint32) sym { return sym(key & 0xffff) }

// group returns the words of a key; nil if there are none.
func (e edges) group(key uint32) []uint32 {
	for i := 0; i < len(e); {
		k, n := e[i], int(e[i+1])
		if k >= key {
			if k == key {
				return e[i+2 : i+2+n]
			}
			return nil
		}
		i += 2 + n
	}
	return nil
}

// holds reports whether the group of the key has the word.
func (e edges) holds(key, word uint32) bool {
	g := e.group(key)
	if len(g) <= 8 {
		return slices.Contains(g, word)
	}
	_, ok := slices.BinarySearch(g, word)
	return ok
}

// all yields every (key, word) in order.
func (e edges) all(yield func(key, word uint32) bool) {
	for i := 0; i < len(e); {
		k, n := e[i], int(e[i+1])
		for _, w := range e[i+2 : i+2+n] {
			if !yield(k, w) {
				return
			}
		}
		i += 2 + n
	}
}

// at returns where the group of the key begins, or should begin, and its length
// in words; ok tells whether it exists.
func (e edges) at(key uint32) (i, n int, ok bool) {
	for i < len(e) && e[i] < key {
		i += 2 + int(e[i+1])
	}
	if i < len(e) && e[i] == key {
		return i, int(e[i+1]), true
	}
	return i, 0, false
}

// with returns a copy that has the word; false if it was there already.
func (e edges) with(key, word uint32) (edges, bool) {
	i, n, ok := e.at(key)
	if !ok {
		out := make(edges, 0, len(e)+3)
		out = append(append(out, e[:i]...), key, 1, word)
		return append(out, e[i:]...), true
	}
	pos, found := slices.BinarySearch(e[i+2:i+2+n], word)
	if found {
		return e, false
	}
	out := make(edges, 0, len(e)+1)
	out = append(append(out, e[:i+2+pos]...), word)
	out = append(out, e[i+2+pos:]...)
	out[i+1]++
	return out, true
}

// without returns a copy that lacks the word; false if it was not there.
func (e edges) without(key, word uint32) (edges, bool) {
	i, n, ok := e.at(key)
	if !ok {
		return e, false
	}
	pos, found := slices.BinarySearch(e[i+2:i+2+n], word)
	if !found {
		return e, false
	}
	if n == 1 {
		if len(e) == 3 {
			return nil, true
		}
		out := make(edges, 0, len(e)-3)
		return append(append(out, e[:i]...), e[i+3:]...), true
	}
	out := make(edges, 0, len(e)-1)
	out = append(append(out, e[:i+2+pos]...), e[i+2+pos+1:]...)
	out[i+1]--
	return out, true
}
