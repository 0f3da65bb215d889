package authz

import (
	"cmp"
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

// Write commits changes of a store's tuples with change's event and returns the
// revision, which the next Check sees. change.Store names the store, model the
// version that must allow the writes, "" the active one; deletes need not be
// allowed, so that tuples of older models can be removed. Kinds: [fault.Invalid]
// for a tuple that is malformed, not allowed ([ErrTuple]) or named twice, and for
// an unknown model ([ErrNoModel]); [fault.TooLarge] beyond [MaxWrite],
// [fault.Denied] for a system store (its tuples are the directory's to write,
// with its rules about roles) and, with an [Overlap] in its chain, for a write after
// which somebody could hold two roles that exclude each other; [fault.Exhausted] if
// that cannot be told, [fault.NotFound] for an unknown store or no active model,
// [fault.Conflict] as [Write] says.
func (e *Engine) Write(ctx context.Context, change ledger.Change, model string, w Write) (relation.Revision, error) {
	named, ok := e.cfg.Application(change.Store)
	if !ok {
		return relation.Revision{}, fault.New(fault.NotFound, "there is no such store")
	}
	if named == System {
		return relation.Revision{}, fault.New(fault.Denied, "admin rights are not written through this interface")
	}
	switch n := len(w.Writes) + len(w.Deletes); {
	case n == 0:
		return relation.Revision{}, fault.New(fault.Invalid, "name at least one tuple to write or delete")
	case n > MaxWrite:
		return relation.Revision{}, fault.New(fault.TooLarge, fmt.Sprintf("one call may change %d tuples at most", MaxWrite))
	}
	var by *judgement
	var err error
	if strings.HasPrefix(named, freePrefix) { // its models come with it
		_, _, by, err = e.view(ctx, change.Store, model)
	} else {
		by, err = e.application(named).answers(change.Store, model)
	}
	if err != nil {
		return relation.Revision{}, err
	}
	seen := make(map[relation.Tuple]bool, len(w.Writes)+len(w.Deletes))
	twice := func(t relation.Tuple) error {
		if seen[t.Key()] {
			return fault.New(fault.Invalid, "the tuple "+t.String()+" is named twice in one call")
		}
		seen[t.Key()] = true
		return nil
	}
	for _, t := range w.Writes {
		if err := cmp.Or(by.model.accepts(t), twice(t)); err != nil {
			return relation.Revision{}, err
		}
	}
	for i, t := range w.Deletes {
		w.Deletes[i] = t.Key()
		if err := cmp.Or(t.Key().Validate(), twice(t)); err != nil {
			return relation.Revision{}, err
		}
	}
	for _, m := range w.Must {
		if err := m.Filter.validate(); err != nil {
			return relation.Revision{}, err
		}
	}
	name(&change.Event, "writes", w.Writes)
	name(&change.Event, "deletes", w.Deletes)
	if !strings.HasPrefix(named, freePrefix) {
		if j, err := e.application(named).answers(change.Store, ""); err == nil && j.roles.concerned(j.model, w.Writes) {
			return e.assign(ctx, change, w)
		}
	}
	return e.cfg.Store.WriteTuples(ctx, change, w)
}

// Expire deletes tuples of any store that have ended, with change's event, at
// most [MaxWrite]. Each goes only if its end is still the given one: what was
// granted anew meanwhile stays. Kinds: [fault.Conflict] if one is not there any
// more or ends at another time, then nothing is changed; [fault.Invalid] for
// one without an end, [fault.NotFound] for an unknown store.
func (e *Engine) Expire(ctx context.Context, change ledger.Change, tuples []relation.Tuple) (relation.Revision, error) {
	if len(tuples) == 0 || len(tuples) > MaxWrite {
		return relation.Revision{}, fault.New(fault.Invalid, "1 to 100 tuples can expire together")
	}
	for _, t := range tuples {
		if t.Expires == 0 {
			return relation.Revision{}, fault.New(fault.Invalid, "the tuple "+t.String()+" never expires")
		}
	}
	name(&change.Event, "deletes", tuples)
	return e.cfg.Store.WriteTuples(ctx, change, Write{Deletes: tuples})
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
