package transfer

import (
	"context"
	"slices"
	"time"

	"bulwark.example/internal/fault"
)

// State is how far an import came, so that it can go on later.
type State struct {
	Version int               `json:"version"` // 1
	URL     string            `json:"url"`     // where it comes from
	From    string            `json:"from"`    // the store there
	Into    string            `json:"into"`    // the store here
	Since   time.Time         `json:"since"`   // their clock before the first tuple was read, with a margin
	Models  map[string]string `json:"models"`  // id here, by id there
	Copied  bool              `json:"copied"`  // every tuple was read once
	Token   string            `json:"token"`   // place in their changes; empty: from Since on
	Skipped int               `json:"skipped"` // so far: what did not come over once does not come by going on
}

// margin is how far before their clock the changes begin: some of them may have
// been written by a server with another clock. What is replayed twice does no harm.
const margin = time.Minute

// Skip is a tuple or model that did not come over.
type Skip struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
}

// Report is what an import did.
type Report struct {
	Store   string            `json:"store"`
	Models  map[string]string `json:"models"` // id here, by id there
	Tuples  int               `json:"tuples"` // read from there, in this run
	Changes int               `json:"changes"`
	Skipped int               `json:"skipped"`         // in this run and those before it
	Skips   []Skip            `json:"skips,omitempty"` // the first of this run
}

const maxSkips = 100

// Import copies a store and follows its changes. Where it begins in the changes is
// fixed before the first tuple is read, and what is written or gone already is
// left as it is: at the end of the changes, each tuple is as its last change left
// it, whatever was written while the tuples were read. It belongs to one
// goroutine.
type Import struct {
	From, To Store
	State    State
	Save     func(State) error // called when State is worth keeping; nil: it is not
	Now      func() time.Time  // for a server that does not tell its clock
	Say      func(tuples int)  // progress of the copy; nil: none
	Trouble  func(error)       // what Follow waits for the end of; nil: nobody is told
	Report   Report            // what was done so far

	newest string // id there of the newest model that was looked at
}

// Copy brings models and tuples over, unless an earlier run did, and then all
// changes that there are.
func (m *Import) Copy(ctx context.Context) error {
	m.Report.Store = m.To.ID
	if m.State.Models == nil {
		m.State.Models = map[string]string{}
	}
	m.Report.Models, m.Report.Skipped = m.State.Models, m.State.Skipped
	if m.State.Since.IsZero() {
		_, now, err := m.From.Info(ctx)
		if err != nil {
			return err
		}
		if now.IsZero() {
			now = m.Now().Add(-10 * margin) // their clock is not known
		}
		m.State.Version, m.State.Since = 1, now.Add(-margin).UTC()
		if err := m.save(); err != nil {
			return err
		}
	}
	if err := m.copyModels(ctx); err != nil {
		return err
	}
	if !m.State.Copied {
		err := m.From.tuples(ctx, func(keys []Key) error {
			m.Report.Tuples += len(keys)
			if m.Say != nil {
				m.Say(m.Report.Tuples)
			}
			return m.apply(ctx, keys, nil)
		})
		if err != nil {
			return err
		}
		m.State.Copied = true
		if err := m.save(); err != nil {
			return err
		}
	}
	return m.CatchUp(ctx)
}

func (m *Import) save() error {
	if m.Save == nil {
		return nil
	}
	return m.Save(m.State)
}

// copyModels writes the versions that are newer than those here, the oldest first,
// so that the newest is in force at the end, as it is there. One that was left out
// is not tried again: it would be in force then.
func (m *Import) copyModels(ctx context.Context) error {
	list, err := m.From.models(ctx, 10_000)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fault.New(fault.Invalid, "the store "+m.From.ID+" has no model: there is nothing that could be asked about it")
	}
	newest := list[0].ID
	if known := slices.IndexFunc(list, func(v model) bool { return m.State.Models[v.ID] != "" }); known >= 0 {
		list = list[:known]
	}
	slices.Reverse(list)
	for i, v := range list {
		id, err := m.To.putModel(ctx, v)
		last := i == len(list)-1
		if err != nil && fault.KindOf(err) == fault.Invalid && !last {
			m.skip("model "+v.ID, err) // an old one; who needs it is told
			continue
		}
		if err != nil {
			return fault.Wrap(fault.KindOf(err), "the model "+v.ID+" cannot be written: "+fault.Public(err), err)
		}
		m.State.Models[v.ID] = id
	}
	m.newest = newest
	return m.save()
}

// CatchUp follows the changes up to the newest, and brings over the models that
// are newer: one may take rights away, and no change tells of it.
func (m *Import) CatchUp(ctx context.Context) error {
	var way circle
	for {
		list, next, err := m.From.changes(ctx, m.State.Token, m.State.Since)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			_, err := m.newerModel(ctx)
			return err
		}
		if err := m.replay(ctx, list); err != nil {
			return err
		}
		if next == "" || next == m.State.Token {
			return fault.New(fault.Unavailable, m.From.host()+" does not say where its changes go on")
		}
		if way.closed(next) {
			return m.From.errCircle()
		}
		m.State.Token = next // not that of an empty page, which may mean the beginning
		if err := m.save(); err != nil {
			return err
		}
	}
}

// Follow follows the changes until ctx ends, which is no error. pause is how long
// it waits at the end of them. A server that does not answer for a while is told
// to Trouble and asked again: a cut-over may be days away.
func (m *Import) Follow(ctx context.Context, pause time.Duration) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		if err := m.CatchUp(ctx); err != nil {
			kind := fault.KindOf(err)
			if ctx.Err() != nil {
				return nil
			}
			if kind != fault.Unavailable && kind != fault.Exhausted {
				return err
			}
			if m.Trouble != nil {
				m.Trouble(err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// replay applies a page of changes: of each tuple, the last one counts.
func (m *Import) replay(ctx context.Context, list []change) error {
	last := map[Key]change{}
	var order []Key
	for _, c := range list {
		k := c.Key.bare()
		if _, known := last[k]; !known {
			order = append(order, k)
		}
		last[k] = c
	}
	var writes, deletes []Key
	for _, k := range order {
		switch c := last[k]; c.Operation {
		case deleted:
			deletes = append(deletes, k)
		case written:
			writes = append(writes, c.Key)
		default:
			return fault.New(fault.Unavailable, m.From.host()+" tells of a change that is neither written nor deleted: "+printable(c.Operation))
		}
	}
	m.Report.Changes += len(list)
	return m.apply(ctx, writes, deletes)
}

// apply writes tuples together; where one of them is refused, it is found by
// halves.
func (m *Import) apply(ctx context.Context, writes, deletes []Key) error {
	if len(writes)+len(deletes) == 0 {
		return nil
	}
	err := m.To.write(ctx, writes, deletes)
	kind := fault.KindOf(err)
	switch {
	case err == nil:
		return nil
	case kind != fault.Invalid && kind != fault.Conflict:
		return err
	case len(deletes) > 0 && len(writes) > 0:
		if err := m.apply(ctx, nil, deletes); err != nil {
			return err
		}
		return m.apply(ctx, writes, nil)
	case len(writes)+len(deletes) > 1:
		for _, half := range []bool{true, false} {
			if err := m.apply(ctx, part(writes, half), part(deletes, half)); err != nil {
				return err
			}
		}
		return nil
	case len(deletes) == 1:
		m.skip("delete "+deletes[0].String(), err)
		return nil
	case kind == fault.Conflict: // it stands here under another condition
		if err := m.To.write(ctx, nil, writes); err != nil {
			return err
		}
		if err = m.To.write(ctx, writes, nil); err == nil {
			return nil
		}
		if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.Conflict {
			return err
		}
	default:
		if newer, err := m.newerModel(ctx); err != nil || newer {
			if err != nil {
				return err
			}
			return m.apply(ctx, writes, nil)
		}
	}
	m.skip(writes[0].String(), err)
	return nil
}

func part(keys []Key, first bool) []Key {
	if n := (len(keys) + 1) / 2; first {
		return keys[:n]
	} else {
		return keys[n:]
	}
}

// newerModel looks whether there is a newer model there, which may explain a
// tuple that is refused here, and brings it over.
func (m *Import) newerModel(ctx context.Context) (bool, error) {
	list, err := m.From.models(ctx, 1)
	if err != nil || len(list) == 0 || list[0].ID == m.newest {
		return false, err
	}
	return true, m.copyModels(ctx)
}

func (m *Import) skip(what string, reason error) {
	m.Report.Skipped++
	m.State.Skipped = m.Report.Skipped
	if len(m.Report.Skips) < maxSkips {
		m.Report.Skips = append(m.Report.Skips, Skip{printable(what), fault.Public(reason)})
	}
}
