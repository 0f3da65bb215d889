package authz

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// imageReader reads an image, part by part. It allocates for what the bytes hold
// and never for what they announce, and it touches nothing that others see: an
// image is used after its end only, when the checksum said that it is the one
// that was written.
type imageReader struct {
	store relation.StoreID // whose image it must be
	rev   uint64           // and of which revision

	sum     hash.Hash
	begun   bool
	section byte // kind of the last one
	names   uint64
	ties    uint64 // as the image announces them, with names

	forms   []imageForm
	byForm  map[form]uint32
	caveats []relation.Tuple // only what makes a tuple count sometimes
	keys    []imageKey
	byKey   map[[2]uint32]uint32
	list    []tie // object and word are places among all names, the key is one of keys
}

// imageForm is a form with the names that have it, in the order of their numbers.
type imageForm struct {
	form
	text  []byte   // the names without their type, one after the other
	ends  []uint32 // where each ends
	first uint32   // the number of its first name among all; once all names are there
}

func (f *imageForm) name(i uint32) []byte {
	begin := uint32(0)
	if i > 0 {
		begin = f.ends[i-1]
	}
	return f.text[begin:f.ends[i]]
}

// imageKey is what some ties say: this relation to those subjects.
type imageKey struct {
	relation, subject uint32 // forms
	objects, words    *imageForm
	object, word      uint64 // of the last tie
	begun             bool
}

var (
	errImage    = fault.New(fault.Integrity, "the store's image is damaged")
	errNewImage = fault.New(fault.Unsupported, "a newer version wrote the store's image")
	errAnother  = fault.New(fault.Integrity, "the store's image is another's")
)

func newImageReader(store relation.StoreID, rev uint64) *imageReader {
	return &imageReader{store: store, rev: rev, sum: sha256.New(), byForm: map[form]uint32{}, byKey: map[[2]uint32]uint32{}}
}

// fields takes numbers and texts off a section. What is not there sets bad.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) number() uint64 {
	if len(f.b) > 0 && f.b[0] < 0x80 {
		n := uint64(f.b[0])
		f.b = f.b[1:]
		return n
	}
	n, size := binary.Uvarint(f.b)
	if size <= 0 {
		f.b, f.bad = nil, true
		return 0
	}
	f.b = f.b[size:]
	return n
}

func (f *fields) text() []byte {
	n := f.number()
	if n > uint64(len(f.b)) {
		f.b, f.bad = nil, true
		return nil
	}
	s := f.b[:n]
	f.b = f.b[n:]
	return s
}

// part takes the next part. Kind [fault.Integrity], or [fault.Unsupported] for an
// image of a newer version.
func (r *imageReader) part(b []byte) error {
	in := fields{b: b}
	if !r.begun {
		if !bytes.HasPrefix(b, []byte(imageMagic)) {
			return errImage
		}
		in.b = b[len(imageMagic):]
		switch version := in.number(); {
		case in.bad || version == 0:
			return errImage
		case version > imageVersion:
			return errNewImage
		}
		r.begun = true
	}
	for len(in.b) > 0 {
		at := len(b) - len(in.b)
		kind := in.b[0]
		in.b = in.b[1:]
		payload := in.text()
		if in.bad || kind < r.section || r.section == sectionEnd || r.section == 0 && kind != sectionStore || kind == r.section && kind == sectionStore {
			return errImage
		}
		if kind > sectionNames && r.section <= sectionNames {
			if err := r.named(); err != nil {
				return err
			}
		}
		r.section = kind
		if kind == sectionEnd {
			r.sum.Write(b[:at])
			if len(in.b) > 0 || !bytes.Equal(payload, r.sum.Sum(nil)) {
				return errImage
			}
			return r.whole()
		}
		if err := r.take(kind, fields{b: payload}); err != nil {
			return err
		}
	}
	r.sum.Write(b)
	return nil
}

func (r *imageReader) take(kind byte, in fields) error {
	var ok bool
	switch kind {
	case sectionStore:
		store, rev := in.text(), in.number()
		if r.names, r.ties = in.number(), in.number(); in.bad || len(in.b) > 0 {
			return errImage
		}
		if string(store) != string(r.store) || rev != r.rev {
			return errAnother
		}
		ok = true
	case sectionForms:
		ok = r.takeForms(in)
	case sectionNames:
		ok = r.takeNames(in)
	case sectionCaveats:
		ok = r.takeCaveats(in)
	case sectionTies:
		ok = r.takeTies(in)
	}
	if !ok {
		return errImage
	}
	return nil
}

func (r *imageReader) takeForms(in fields) bool {
	for len(in.b) > 0 {
		f := form{string(in.text()), string(in.text())}
		_, twice := r.byForm[f]
		if in.bad || twice || len(r.forms) >= maxSymbols || !relation.ValidObject(f.typ+":x") || f.rel != "" && f.rel != everyone && !relation.ValidRelation(f.rel) {
			return false
		}
		r.byForm[f] = uint32(len(r.forms))
		r.forms = append(r.forms, imageForm{form: f})
	}
	return true
}

func (r *imageReader) takeNames(in fields) bool {
	y := in.number()
	if in.bad || y >= uint64(len(r.forms)) {
		return false
	}
	f := &r.forms[y]
	if f.rel != "" && f.rel != everyone || len(f.text)+len(in.b) > math.MaxUint32 {
		return false
	}
	for len(in.b) > 0 {
		id := in.text()
		if f.rel == everyone {
			if string(id) != everyone || len(f.ends) > 0 {
				return false
			}
		} else if !validID(f.typ, id) {
			return false
		}
		f.text = append(f.text, id...)
		f.ends = append(f.ends, uint32(len(f.text)))
	}
	return !in.bad
}

// validID reports whether the id is that of an object of the type: most are of
// letters and digits, which need no long look.
func validID(typ string, id []byte) bool {
	plain := len(id) > 0 && len(typ)+1+len(id) <= relation.MaxObject && id[0] != '*'
	for _, c := range id {
		plain = plain && c > ' ' && c < 0x7f && c != '#'
	}
	return plain || relation.ValidObject(typ+":"+string(id))
}

// named is called when all names are there.
func (r *imageReader) named() error {
	first := uint64(0)
	for i := range r.forms {
		r.forms[i].first = uint32(first)
		if first += uint64(len(r.forms[i].ends)); first >= maxEntities {
			return errImage
		}
	}
	if first != r.names {
		return errImage
	}
	return nil
}

func (r *imageReader) takeCaveats(in fields) bool {
	for len(in.b) > 0 {
		c := relation.Tuple{Object: "a:b", Relation: "c", Subject: "a:b", Condition: string(in.text()), Context: string(in.text())}
		expires := in.number()
		c.Expires = int64(min(expires, math.MaxInt64))
		if in.bad || expires > math.MaxInt64 || c == c.Key() || c.Validate() != nil {
			return false
		}
		r.caveats = append(r.caveats, c)
	}
	return true
}

// key returns the number of the ties' key, a new one if needed.
func (r *imageReader) key(rel, subject uint64) (uint32, bool) {
	if n := uint64(len(r.forms)); rel >= n || subject >= n {
		return 0, false
	}
	id := [2]uint32{uint32(rel), uint32(subject)}
	if n, ok := r.byKey[id]; ok {
		return n, true
	}
	of, to := r.forms[rel].form, r.forms[subject].form
	if of.rel == "" || of.rel == everyone {
		return 0, false
	}
	if to.rel != everyone {
		to.rel = ""
	}
	objects, ok := r.byForm[form{of.typ, ""}]
	words, ok2 := r.byForm[to]
	n := uint32(len(r.keys))
	if ok && ok2 {
		r.byKey[id] = n
		r.keys = append(r.keys, imageKey{relation: id[0], subject: id[1], objects: &r.forms[objects], words: &r.forms[words]})
	}
	return n, ok && ok2
}

// takeTies reads runs of subjects of one object: the step to the object from the
// last one, how many there are, the steps from subject to subject. Objects and
// subjects ascend, so that no tuple is there twice.
func (r *imageReader) takeTies(in fields) bool {
	n, ok := r.key(in.number(), in.number())
	if in.bad || !ok {
		return false
	}
	k := &r.keys[n]
	objects, words := uint64(len(k.objects.ends)), uint64(len(k.words.ends))
	object := uint64(0)
	for len(in.b) > 0 {
		step, run := in.number(), in.number()
		count := run >> 1
		if in.bad || count == 0 || count > uint64(len(in.b)) || step >= objects-min(object, objects) {
			return false
		}
		object += step
		again := k.begun && object == k.object
		if k.begun && object < k.object {
			return false
		}
		word := uint64(0)
		for j := range count {
			step := in.number()
			switch {
			case step >= words-word, j > 0 && step == 0, j == 0 && again && step <= k.word:
				return false
			}
			word += step
			t := tie{object: k.objects.first + uint32(object) + 1, key: n, word: k.words.first + uint32(word) + 1}
			if run&1 != 0 {
				c := in.number()
				if c > uint64(len(r.caveats)) {
					return false
				}
				t.caveat = uint32(c)
			}
			r.list = append(r.list, t)
		}
		if in.bad {
			return false
		}
		k.object, k.word, k.begun = object, word, true
	}
	return true
}

// whole is called at the end.
func (r *imageReader) whole() error {
	if uint64(len(r.list)) != r.ties {
		return errImage
	}
	return nil
}

// graph makes the graph that the image is of. The reader must not be used any more.
func (r *imageReader) graph(syms *symbols) (*graph, error) {
	if r.section != sectionEnd {
		return nil, errImage
	}
	b := newBuilder(syms)
	of := make([]sym, len(r.forms))
	var err error
	for i, f := range r.forms {
		if of[i], err = syms.add(f.typ, f.rel); err != nil {
			return nil, err
		}
	}
	keys := make([]uint32, len(r.keys))
	for i, k := range r.keys {
		keys[i] = edgeKey(of[k.relation], of[k.subject])
	}
	caveats := make([]uint32, len(r.caveats)+1)
	for i, c := range r.caveats {
		if caveats[i+1], err = b.g.caveat(c); err != nil {
			return nil, fault.Wrap(fault.Integrity, "the store's image holds a malformed tuple", err)
		}
	}
	if b.g.in, err = r.interner(of); err != nil {
		return nil, err
	}
	for i := range r.list {
		t := &r.list[i]
		t.key, t.caveat = keys[t.key], caveats[t.caveat]
	}
	b.list = r.list
	return b.lay(r.rev)
}

// interner numbers the names in their order.
func (r *imageReader) interner(of []sym) (*interner, error) {
	in := newInterner(int(r.names))
	var name []byte
	for i := range r.forms {
		f := &r.forms[i]
		name = append(append(name[:0], f.typ...), ':')
		prior := len(name)
		for n := range uint32(len(f.ends)) {
			name = append(name[:prior], f.name(n)...)
			if in.full() {
				return nil, errTooMany
			}
			in.append(name, of[i])
			h := in.hash(string(name))
			if in.hashed(h, string(name)).id != 0 {
				return nil, errImage
			}
			in.table.put(h, in.known(in.n), in.n)
		}
		if f.rel == everyone && len(f.ends) > 0 {
			for len(in.every) <= int(of[i]) {
				in.every = append(in.every, 0)
			}
			in.every[of[i]] = in.n
		}
	}
	return in, nil
}
