package authz

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// MaxPage is the largest page of tuples.
const MaxPage = 1000

// Filter selects tuples. An empty field selects all; Object and Subject may be
// a type with its colon ("document:"), which selects all of the type.
type Filter struct {
	Object, Relation, Subject string
}

// Page is a part of a listing.
type Page struct {
	Tuples   []relation.Tuple // by object, relation, subject in byte order
	Next     string           // cursor of the next page; "" at the end
	Revision relation.Revision
}

// Read lists the store's tuples, also those that the active model does not
// allow. limit is 1 to [MaxPage]. Pages are read at the latest revision each; a
// tuple that stands during the whole listing is on exactly one page. Kinds:
// [fault.Invalid] for a wrong filter, limit or cursor, else those of Check.
func (e *Engine) Read(ctx context.Context, store relation.StoreID, f Filter, limit int, cursor string) (Page, error) {
	if limit < 1 || limit > MaxPage {
		return Page{}, fault.New(fault.Invalid, "the page size must be 1 to 1000")
	}
	after, err := parseCursor(cursor)
	if err != nil {
		return Page{}, err
	}
	if err := f.validate(); err != nil {
		return Page{}, err
	}
	ent, s, err := e.snapshot(ctx, store)
	if err != nil {
		return Page{}, err
	}
	page := Page{Revision: relation.Revision{Epoch: e.cfg.Epoch, Store: store, Rev: s.rev}, Tuples: []relation.Tuple{}}
	names := ent.app.syms.table()
	sel := newSelection(s, names, f)
	for _, object := range sel.objects(after.Object, limit+2) {
		var own []relation.Tuple
		s.edges(object).all(func(key, word uint32) bool {
			if sel.edge(key, word) {
				own = append(own, s.tuple(object, key, word, names.names))
			}
			return true
		})
		slices.SortFunc(own, compare)
		for _, t := range own {
			if compare(t, after) <= 0 {
				continue
			}
			if len(page.Tuples) == limit {
				page.Next = spellCursor(page.Tuples[limit-1])
				return page, nil
			}
			page.Tuples = append(page.Tuples, t)
		}
	}
	return page, nil
}

func (f Filter) validate() error {
	isType := func(s string) bool {
		typ, ok := strings.CutSuffix(s, ":")
		return ok && relation.ValidRelation(typ)
	}
	if f.Object != "" && !isType(f.Object) && !relation.ValidObject(f.Object) {
		return fault.New(fault.Invalid, "the object must be type:id or type:")
	}
	if f.Subject != "" && !isType(f.Subject) && !relation.ValidSubject(f.Subject) {
		return fault.New(fault.Invalid, "the user must be a subject or type:")
	}
	if f.Relation != "" && !relation.ValidRelation(f.Relation) {
		return fault.New(fault.Invalid, "the relation must be a name")
	}
	return nil
}

func compare(a, b relation.Tuple) int {
	if c := strings.Compare(a.Object, b.Object); c != 0 {
		return c
	}
	if c := strings.Compare(a.Relation, b.Relation); c != 0 {
		return c
	}
	return strings.Compare(a.Subject, b.Subject)
}

// selection is a filter in numbers.
type selection struct {
	s       *snapshot
	nothing bool // the filter names what the graph does not know
	object  uint32
	otype   sym
	rel     sym
	srel    sym // with subject: its kind
	subject uint32
	stype   sym
	any     bool // every subject
}

func newSelection(s *snapshot, t *symtab, f Filter) *selection {
	sel := &selection{s: s, any: f.Subject == ""}
	symbol := func(name string) sym {
		y, ok := t.byName[name]
		sel.nothing = sel.nothing || !ok
		return y
	}
	known := func(object string) uint32 {
		id := s.find(object)
		sel.nothing = sel.nothing || id == 0
		return id
	}
	if typ, ok := strings.CutSuffix(f.Object, ":"); ok {
		sel.otype = symbol(typ)
	} else if f.Object != "" {
		sel.object = known(f.Object)
	}
	if f.Relation != "" {
		sel.rel = symbol(f.Relation)
	}
	object, rel := relation.SplitSubject(f.Subject)
	if typ, ok := strings.CutSuffix(f.Subject, ":"); ok {
		sel.stype = symbol(typ)
	} else if typ, ok := strings.CutSuffix(object, ":*"); ok {
		sel.srel, sel.subject = wildcard, uint32(symbol(typ))
	} else if f.Subject != "" {
		sel.subject = known(object)
		if rel != "" {
			sel.srel = symbol(rel)
		}
	}
	return sel
}

func (sel *selection) edge(key, word uint32) bool {
	if sel.rel != 0 && keyRelation(key) != sel.rel {
		return false
	}
	switch {
	case sel.any:
		return true
	case sel.stype != 0 && keySubject(key) == wildcard:
		return sym(word) == sel.stype
	case sel.stype != 0:
		return sel.s.entity(word).typ == sel.stype
	}
	return keySubject(key) == sel.srel && word == sel.subject
}

// objects returns the first limit objects, by name, that are not before from
// and have a selected tuple.
func (sel *selection) objects(from string, limit int) []uint32 {
	s := sel.s
	if sel.nothing {
		return nil
	}
	if sel.object != 0 {
		if s.name(sel.object) < from {
			return nil
		}
		return []uint32{sel.object}
	}
	byName := func(a, b uint32) int { return strings.Compare(string(s.bytes(a)), string(s.bytes(b))) }
	var found []uint32
	for id := uint32(1); id <= s.n; id++ {
		own := s.edges(id)
		if len(own) == 0 || (sel.otype != 0 && s.entity(id).typ != sel.otype) || string(s.bytes(id)) < from {
			continue
		}
		matches := false
		own.all(func(key, word uint32) bool { matches = sel.edge(key, word); return !matches })
		if !matches {
			continue
		}
		// Keep twice the limit and throw the larger half away when full: linear
		// work on the whole, whatever the order of names.
		if found = append(found, id); len(found) >= 2*limit {
			slices.SortFunc(found, byName)
			found = found[:limit]
		}
	}
	slices.SortFunc(found, byName)
	return found[:min(limit, len(found))]
}

// A cursor, format 1: base64url of "1" and the last tuple's parts, each ended
// by a line feed, which no part can hold. It is the caller's own data.
func spellCursor(t relation.Tuple) string {
	return base64.RawURLEncoding.EncodeToString([]byte("1" + t.Object + "\n" + t.Relation + "\n" + t.Subject + "\n"))
}

func parseCursor(cursor string) (relation.Tuple, error) {
	if cursor == "" {
		return relation.Tuple{}, nil
	}
	wrong := fault.New(fault.Invalid, "this is not a cursor of a listing")
	if len(cursor) > 2048 {
		return relation.Tuple{}, wrong
	}
	b, err := strict.DecodeString(cursor)
	if err != nil || len(b) == 0 || b[0] != '1' {
		return relation.Tuple{}, wrong
	}
	parts := strings.Split(string(b[1:]), "\n")
	if len(parts) != 4 || parts[3] != "" {
		return relation.Tuple{}, wrong
	}
	t := relation.Tuple{Object: parts[0], Relation: parts[1], Subject: parts[2]}
	if t.Validate() != nil {
		return relation.Tuple{}, wrong
	}
	return t, nil
}
