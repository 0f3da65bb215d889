package authz

import (
	"maps"
	"sync"
	"sync/atomic"

	"bulwark.example/internal/fault"
)

// sym names a form, interned once per application, so that its models and all
// its stores' graphs speak of the same numbers. 0 names none.
type sym uint16

// form is what a tuple's relation or subject is, without its ids: a subject
// "user" has no relation, everyone of a type has the relation [everyone], a
// userset "team#member" its own. A relation is named with the type of its
// object, so that the key of an edge tells the types of both its ends.
type form struct{ typ, rel string }

const everyone = "*"

// maxSymbols leaves a bit of an edge key's half free; see [guarded].
const maxSymbols = 1<<15 - 1

// symbols only grows. Reads take no lock.
type symbols struct {
	mu  sync.Mutex
	cur atomic.Pointer[symtab]
}

type symtab struct {
	byForm map[form]sym
	forms  []form // by sym
}

func newSymbols() *symbols {
	s := &symbols{}
	s.cur.Store(&symtab{byForm: map[form]sym{}, forms: make([]form, 1)})
	return s
}

// table returns the current, immutable table.
func (s *symbols) table() *symtab { return s.cur.Load() }

// add returns the symbol of the form and makes one if there is none. The error
// has kind [fault.Exhausted]: an application has more than 32,767 forms.
func (s *symbols) add(typ, rel string) (sym, error) {
	f := form{typ, rel}
	if y, ok := s.table().byForm[f]; ok {
		return y, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table()
	if y, ok := t.byForm[f]; ok {
		return y, nil
	}
	if len(t.forms) > maxSymbols {
		return 0, fault.New(fault.Exhausted, "the application's models use too many names")
	}
	next := &symtab{byForm: maps.Clone(t.byForm), forms: append(t.forms[:len(t.forms):len(t.forms)], f)}
	y := sym(len(t.forms))
	next.byForm[f] = y
	s.cur.Store(next)
	return y, nil
}
