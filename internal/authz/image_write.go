package authz

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"strings"

	"bulwark.example/internal/relation"
)

// An image is the tuples of one store at one revision, in a form that is read
// much faster than rows: names once, tuples in numbers of the image's own. The
// form is docs/spec/image.md; image_read.go is its other side.
const (
	imageMagic   = "BWIMAGE\n"
	imageVersion = 1
)

// The kinds of sections, in their order in an image.
const (
	sectionStore = 1 + iota
	sectionForms
	sectionNames
	sectionCaveats
	sectionTies
	sectionEnd
)

const (
	imagePart    = 256 << 10 // bytes after which a part is full: a transaction of the store's holds one
	imageSection = 32 << 10  // bytes after which a section of names or ties is full
	imageRun     = 1 << 12   // most subjects of one object that a section takes together
)

// imageWriter spells one image, part by part.
type imageWriter struct {
	snap  *snapshot
	forms []form // by symbol
	out   func(part []byte) error
	sum   hash.Hash
	part  []byte

	imageForm map[form]uint32 // the image's number of a form
	table     []form          // by that number
	index     []uint32        // by a name's number: its place among the names of its form, plus one; 0: no tuple names it
	guards    []uint32        // by a caveat's number: the image's; 0: no tuple has it
	caveats   []uint32        // by the image's number less one: the graph's
}

// image gives the snapshot to out as an image, part by part. A part is out's for
// the call only. The forms are those of the application's symbols.
func (s *snapshot) image(store relation.StoreID, forms []form, out func(part []byte) error) error {
	w := &imageWriter{snap: s, forms: forms, out: out, sum: sha256.New(), imageForm: map[form]uint32{}, index: make([]uint32, s.n+1), guards: make([]uint32, s.guards.n+1)}
	w.part = binary.AppendUvarint(append(make([]byte, 0, imagePart+2*imageSection), imageMagic...), imageVersion)
	names, total := w.count()
	head := binary.AppendUvarint(appendText(nil, string(store)), s.rev)
	head = binary.AppendUvarint(binary.AppendUvarint(head, total), uint64(s.tuples))
	if err := w.section(sectionStore, head); err != nil {
		return err
	}
	for _, write := range []func() error{w.writeForms, func() error { return w.writeNames(names) }, w.writeCaveats, func() error { return w.writeTies(names) }} {
		if err := write(); err != nil {
			return err
		}
	}
	w.sum.Write(w.part)
	w.part = w.sum.Sum(append(w.part, sectionEnd, sha256.Size))
	return w.out(w.part)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// section adds a section to the part, and gives away the part that has no room
// for it.
func (w *imageWriter) section(kind byte, payload []byte) error {
	if len(w.part) > 0 && len(w.part)+len(payload) > imagePart {
		w.sum.Write(w.part)
		if err := w.out(w.part); err != nil {
			return err
		}
		w.part = w.part[:0]
	}
	w.part = binary.AppendUvarint(append(w.part, kind), uint64(len(payload)))
	w.part = append(w.part, payload...)
	return nil
}

// count finds the names that tuples name, by form, the rarest form first: that is
// the order in which a graph numbers them. What was named once and is not any more
// stays out.
func (w *imageWriter) count() (byForm [][]uint32, total uint64) {
	s := w.snap
	of := make([][]uint32, len(w.forms))
	used := map[form]bool{}
	key := func(nd node) {
		for i := 0; i < len(nd); {
			k, _, caveats, after := nd.next(i)
			for _, c := range caveats {
				if w.guards[c] == 0 {
					w.caveats = append(w.caveats, c)
					w.guards[c] = uint32(len(w.caveats))
				}
			}
			used[w.forms[keyRelation(k)]], used[w.forms[keySubject(k)]] = true, true
			i = after
		}
	}
	for id := uint32(1); id <= s.n; id++ {
		out := s.out.node(id)
		if len(out) == 0 && len(s.in.node(id)) == 0 {
			continue
		}
		key(out)
		y := s.form(id)
		of[y] = append(of[y], id)
		w.index[id] = uint32(len(of[y]))
		total++
	}
	var syms []sym
	for y := range of {
		if len(of[y]) > 0 {
			syms = append(syms, sym(y))
		}
	}
	slices.SortFunc(syms, func(a, b sym) int {
		return cmp.Or(cmp.Compare(len(of[a]), len(of[b])), compareForms(w.forms[a], w.forms[b]))
	})
	for _, y := range syms {
		w.add(w.forms[y])
		byForm = append(byForm, of[y])
		delete(used, w.forms[y])
	}
	var rest []form
	for f := range used {
		rest = append(rest, f)
	}
	slices.SortFunc(rest, compareForms)
	for _, f := range rest {
		w.add(f)
	}
	return byForm, total
}

func compareForms(a, b form) int {
	return cmp.Or(strings.Compare(a.typ, b.typ), strings.Compare(a.rel, b.rel))
}

func (w *imageWriter) add(f form) {
	w.imageForm[f] = uint32(len(w.table))
	w.table = append(w.table, f)
}

func (w *imageWriter) writeForms() error {
	var p []byte
	for i, f := range w.table {
		p = appendText(appendText(p, f.typ), f.rel)
		if len(p) >= imageSection || i == len(w.table)-1 {
			if err := w.section(sectionForms, p); err != nil {
				return err
			}
			p = p[:0]
		}
	}
	return nil
}

func (w *imageWriter) writeNames(byForm [][]uint32) error {
	var p []byte
	for y, ids := range byForm {
		p = binary.AppendUvarint(p[:0], uint64(y))
		begin := len(p)
		for i, id := range ids {
			p = appendText(p, w.snap.name(id)[len(w.table[y].typ)+1:])
			if len(p) >= imageSection || i == len(ids)-1 {
				if err := w.section(sectionNames, p); err != nil {
					return err
				}
				p = p[:begin]
			}
		}
	}
	return nil
}

func (w *imageWriter) writeCaveats() error {
	var p []byte
	for i, id := range w.caveats {
		c := w.snap.guards.get(id)
		p = binary.AppendUvarint(appendText(appendText(p, c.condition), c.context), uint64(c.expires))
		if len(p) >= imageSection || i == len(w.caveats)-1 {
			if err := w.section(sectionCaveats, p); err != nil {
				return err
			}
			p = p[:0]
		}
	}
	return nil
}

// tieWriter spells the ties of one key.
type tieWriter struct {
	payload []byte
	begin   int    // of the first group in payload
	object  uint32 // of the last group in payload
}

func (w *imageWriter) writeTies(byForm [][]uint32) error {
	for y, ids := range byForm {
		if w.table[y].rel != "" {
			continue // everyone is no object
		}
		writers := map[uint32]*tieWriter{} // those of one type of object: its ids come one after the other
		for i, id := range ids {
			if err := w.object(writers, uint32(i), w.snap.out.node(id)); err != nil {
				return err
			}
		}
		keys := make([]uint32, 0, len(writers))
		for key := range writers {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if t := writers[key]; len(t.payload) > t.begin {
				if err := w.section(sectionTies, t.payload); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// object spells all ties of an object. Those of a key that count always and those
// that count sometimes stand apart in a node, and together in an image.
func (w *imageWriter) object(writers map[uint32]*tieWriter, object uint32, nd node) error {
	for i := 0; i < len(nd); {
		key, words, caveats, after := nd.next(i)
		i = after
		if key&guarded != 0 {
			if plain, _ := nd.group(key &^ guarded); plain != nil {
				continue // it came with these
			}
		} else if more, with := nd.group(key | guarded); more != nil {
			words, caveats = merged(words, more, with)
		}
		key &^= guarded
		t := writers[key]
		if t == nil {
			t = &tieWriter{}
			t.payload = binary.AppendUvarint(t.payload, uint64(w.imageForm[w.forms[keyRelation(key)]]))
			t.payload = binary.AppendUvarint(t.payload, uint64(w.imageForm[w.forms[keySubject(key)]]))
			t.begin = len(t.payload)
			writers[key] = t
		}
		for len(words) > 0 {
			n := min(len(words), imageRun)
			if len(t.payload) == t.begin {
				t.object = 0
			}
			t.payload = binary.AppendUvarint(t.payload, uint64(object-t.object))
			t.object = object
			t.payload = w.appendRun(t.payload, words[:n], caveats)
			words = words[n:]
			if caveats != nil {
				caveats = caveats[n:]
			}
			if len(t.payload) >= imageSection {
				if err := w.section(sectionTies, t.payload); err != nil {
					return err
				}
				t.payload = t.payload[:t.begin]
			}
		}
	}
	return nil
}

func (w *imageWriter) appendRun(p []byte, words, caveats []uint32) []byte {
	flag := uint64(0)
	if caveats != nil {
		flag = 1
	}
	p = binary.AppendUvarint(p, uint64(len(words))<<1|flag)
	last := uint32(0)
	for j, word := range words {
		at := w.index[word] - 1
		p = binary.AppendUvarint(p, uint64(at-last))
		last = at
		if caveats != nil {
			p = binary.AppendUvarint(p, uint64(w.guards[caveats[j]]))
		}
	}
	return p
}

// merged joins ascending words that have no caveat with such as have one.
func merged(plain, guarded, caveats []uint32) (words, all []uint32) {
	for i, j := 0, 0; i < len(plain) || j < len(guarded); {
		if j == len(guarded) || i < len(plain) && plain[i] < guarded[j] {
			words, all = append(words, plain[i]), append(all, 0)
			i++
			continue
		}
		words, all = append(words, guarded[j]), append(all, caveats[j])
		j++
	}
	return words, all
}
