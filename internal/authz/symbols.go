package authz

import (
	"maps"
	"sync"
	"sync/atomic"

	"bulwark.example/internal/fault"
)

// sym is a type or relation name, interned once per application, so that its
// models and all its stores' graphs speak of the same numbers.
type sym uint16

// Reserved symbols, used in the second half of an edge key.
const (
	plain    sym = 0      // the subject is an object
	wildcard sym = 0xffff // the subject is everyone of a type
)

// symbols only grows. Reads take no lock.
type symbols struct {
	mu  sync.Mutex
	cur atomic.Pointer[symtab]
}

type symtab struct {
	byName map[string]sym
	names  []string // by sym; names[0] is ""
}

func newSymbols() *symbols {
	s := &symbols{}
	s.cur.Store(&symtab{byName: map[string]sym{}, names: []string{""}})
	return s
}

// table returns the current, immutable table.
func (s *symbols) table() *symtab { return s.cur.Load() }

// add returns the symbol of the name and makes one if there is none. The error
// has kind [fault.Exhausted]: an application has more than 65,534 names.
func (s *symbols) add(name string) (sym, error) {
	if y, ok := s.table().byName[name]; ok {
		return y, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table()
	if y, ok := t.byName[name]; ok {
		return y, nil
	}
	if len(t.names) >= int(wildcard) {
		return 0, fault.New(fault.Exhausted, "the application's models use too many names")
	}
	next := &symtab{byName: maps.Clone(t.byName), names: append(t.names[:len(t.names):len(t.names)], name)}
	y := sym(len(t.names))
	next.byName[name] = y
	s.cur.Store(next)
	return y, nil
}
