package authz

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

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
	Tuples   []StoredTuple // by object, relation, subject in byte order
	Next     string        // cursor of the next page; "" at the end
	Revision relation.Revision
}

// Read lists the store's tuples, also those that the active model does not
// allow. limit is 1 to [MaxPage]. Pages are read at the latest revision each; a
// tuple that stands during the whole listing is on exactly one page. Kinds:
// [fault.Invalid] for a wrong filter, limit or cursor, else the archive's.
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
	if _, ok := e.cfg.Application(store); !ok {
		return Page{}, fault.New(fault.NotFound, "there is no such store")
	}
	list, rev, err := e.cfg.Archive.ReadTuples(ctx, store, f, after, limit+1)
	if err != nil {
		return Page{}, err
	}
	page := Page{Tuples: list, Revision: rev}
	if len(list) > limit {
		page.Tuples = list[:limit]
		page.Next = spellCursor(list[limit-1].Tuple)
	}
	return page, nil
}

// ChangesPage is a part of a store's history.
type ChangesPage struct {
	Changes  []TupleChange // oldest first
	Next     string        // cursor after the last of them, also at the end
	Revision relation.Revision
}

// ReadChanges lists what was written and deleted, oldest first. typ is a type of
// object or "" for all; since leaves out what is older, unless it is zero. limit
// is 1 to [MaxPage]. The cursor goes on where another page ended, even after a
// restart. Kinds: as [Engine.Read]'s.
func (e *Engine) ReadChanges(ctx context.Context, store relation.StoreID, typ string, since time.Time, limit int, cursor string) (ChangesPage, error) {
	if limit < 1 || limit > MaxPage {
		return ChangesPage{}, fault.New(fault.Invalid, "the page size must be 1 to 1000")
	}
	if typ != "" && !relation.ValidRelation(typ) {
		return ChangesPage{}, fault.New(fault.Invalid, "the type must be the name of a type")
	}
	if _, ok := e.cfg.Application(store); !ok {
		return ChangesPage{}, fault.New(fault.NotFound, "there is no such store")
	}
	after, err := e.parsePosition(typ, cursor)
	if err != nil {
		return ChangesPage{}, err
	}
	list, rev, err := e.cfg.Archive.ReadChanges(ctx, store, typ, since, after, limit)
	if err != nil {
		return ChangesPage{}, err
	}
	if rev.Rev < after.Rev {
		return ChangesPage{}, fault.New(fault.Conflict, "the cursor is of a future that the last restore undid; begin again without it")
	}
	if len(list) > 0 {
		after = list[len(list)-1].Position
	}
	return ChangesPage{Changes: list, Next: e.spellPosition(typ, after), Revision: rev}, nil
}

// A position's cursor, format 1: base64url of "c1 <epoch> <rev> <ordinal> <type>".
func (e *Engine) spellPosition(typ string, p Position) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "c1 %d %d %d %s", e.cfg.Epoch, p.Rev, p.Ordinal, typ))
}

func (e *Engine) parsePosition(typ, cursor string) (Position, error) {
	if cursor == "" {
		return Position{}, nil
	}
	wrong := fault.Wrap(fault.Invalid, "this is not a cursor of these changes", ErrCursor)
	b, err := strict.DecodeString(cursor)
	var p Position
	var epoch uint64
	parts := strings.Split(string(b), " ")
	if err != nil || len(parts) != 5 {
		return Position{}, wrong
	}
	if n, err := fmt.Sscanf(strings.Join(parts[:4], " "), "c1 %d %d %d", &epoch, &p.Rev, &p.Ordinal); err != nil || n != 3 || p.Ordinal < 0 {
		return Position{}, wrong
	}
	if parts[4] != typ {
		return Position{}, fault.Wrap(fault.Invalid, "the cursor is of changes of another type", errors.Join(ErrCursor, ErrCursorType))
	}
	if epoch != e.cfg.Epoch {
		return Position{}, fault.New(fault.Conflict, "the cursor is older than the last restore; begin again without it")
	}
	return p, nil
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

// A cursor, format 1: base64url of "1" and the last tuple's parts, each ended
// by a line feed, which no part can hold. It is the caller's own data.
func spellCursor(t relation.Tuple) string {
	return base64.RawURLEncoding.EncodeToString([]byte("1" + t.Object + "\n" + t.Relation + "\n" + t.Subject + "\n"))
}

func parseCursor(cursor string) (relation.Tuple, error) {
	if cursor == "" {
		return relation.Tuple{}, nil
	}
	wrong := fault.Wrap(fault.Invalid, "this is not a cursor of a listing", ErrCursor)
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
