package authz

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// MaxWrite is how many tuples one call may write and delete together; OpenFGA's.
const MaxWrite = 100

// Write commits changes of a default store's tuples with change's event and
// returns the revision, which the next Check sees. change.Store names the store.
// Writes must be allowed by the active model; deletes need not be, so that
// tuples of older models can be removed. Kinds: [fault.Invalid] for a tuple that
// is malformed, not allowed or named twice, [fault.TooLarge] beyond [MaxWrite],
// [fault.Denied] for a system store (its tuples are
// the directory's to write, with its rules about roles), [fault.NotFound] for an unknown store or no
// active model, [fault.Conflict] for a write of what exists or a delete of what
// does not.
func (e *Engine) Write(ctx context.Context, change ledger.Change, writes, deletes []relation.Tuple) (relation.Revision, error) {
	application, ok := e.cfg.Application(change.Store)
	if !ok {
		return relation.Revision{}, fault.New(fault.NotFound, "there is no such store")
	}
	if application == System {
		return relation.Revision{}, fault.New(fault.Denied, "admin rights are not written through this interface")
	}
	switch n := len(writes) + len(deletes); {
	case n == 0:
		return relation.Revision{}, fault.New(fault.Invalid, "name at least one tuple to write or delete")
	case n > MaxWrite:
		return relation.Revision{}, fault.New(fault.TooLarge, fmt.Sprintf("one call may change %d tuples at most", MaxWrite))
	}
	model, ok := e.ActiveModel(application)
	if !ok {
		return relation.Revision{}, fault.New(fault.NotFound, "the application has no active model")
	}
	seen := make(map[relation.Tuple]bool, len(writes)+len(deletes))
	check := func(t relation.Tuple) error {
		if err := t.Validate(); err != nil {
			return err
		}
		if seen[t] {
			return fault.New(fault.Invalid, "the tuple "+t.String()+" is named twice in one call")
		}
		seen[t] = true
		return nil
	}
	for _, t := range writes {
		if err := check(t); err != nil {
			return relation.Revision{}, err
		}
		if err := model.Validate(t); err != nil {
			return relation.Revision{}, err
		}
	}
	for _, t := range deletes {
		if err := check(t); err != nil {
			return relation.Revision{}, err
		}
	}
	name(&change.Event, "writes", writes)
	name(&change.Event, "deletes", deletes)
	return e.cfg.Store.WriteTuples(ctx, change, writes, deletes)
}

// maxNamed bounds the tuples that an event names, in bytes for each of writes
// and deletes: an event has a size ([ledger.MaxEvent]). The changelog holds all
// of them under the event's revision.
const maxNamed = 5 << 10

// name writes into the event which tuples it is about, separated by spaces,
// which no tuple holds; what is over the bound is counted.
func name(ev *ledger.Event, as string, tuples []relation.Tuple) {
	if len(tuples) == 0 {
		return
	}
	var b strings.Builder
	detail := maps.Clone(ev.Detail) // the caller may share it
	if detail == nil {
		detail = map[string]string{}
	}
	for i, t := range tuples {
		s := t.String()
		if b.Len()+len(s) >= maxNamed {
			detail[as+"_unnamed"] = strconv.Itoa(len(tuples) - i)
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s)
	}
	detail[as] = b.String()
	ev.Detail = detail
}
