package storetest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// testHistories runs random changes on the store and on a naive reference in
// memory: every statement must give the same answer, and in the end rows,
// changelog and events must be the same.
func testHistories(t *testing.T, open Open) {
	w := newWorld(t, open)
	rapid.Check(t, func(rt *rapid.T) {
		// A new tenant for each history: its shard begins empty.
		who := directory.Tenant{Tenant: tenant.New(), State: directory.Active, System: newStore(), Created: at}
		who.Name = who.Tenant.String()
		_, err := w.mutate(w.platform.System, tenant.Platform, func(tx directory.Tx) error {
			if err := tx.Insert(&who); err != nil {
				return err
			}
			return tx.Insert(&directory.Graph{Tenant: who.Tenant, ID: who.System, Kind: directory.SystemGraph})
		})
		if err != nil {
			rt.Fatal(err)
		}
		h := &history{w: w, rt: rt, who: who, want: reference{records: map[string]directory.Record{}, tuples: map[relation.Tuple]relation.Tuple{}}}
		for range 4 {
			h.ids = append(h.ids, tenant.RandomID())
		}
		rt.Repeat(map[string]func(*rapid.T){
			"change": func(rt *rapid.T) { h.rt = rt; h.change() },
			"tuples": func(rt *rapid.T) { h.rt = rt; h.engineTuples() },
			"":       func(rt *rapid.T) { h.rt = rt; h.compare() },
		})
	})
}

// reference is the naive store of one tenant.
type reference struct {
	records map[string]directory.Record       // by kind and key
	tuples  map[relation.Tuple]relation.Tuple // by key
	log     []store.Batch
}

func (r reference) clone() reference {
	return reference{maps.Clone(r.records), maps.Clone(r.tuples), r.log}
}

func recordKey(r directory.Record) string { return r.RecordKind() + " " + r.RecordKey() }

// taken reports whether another record has a unique name of r.
func (r reference) taken(rec directory.Record) bool {
	for key, other := range r.records {
		if key == recordKey(rec) {
			continue
		}
		switch a := rec.(type) {
		case *directory.User:
			if b, ok := other.(*directory.User); ok && (a.Name == b.Name || a.Connection != "" && a.Connection == b.Connection && a.External == b.External) {
				return true
			}
		case *directory.Service:
			if b, ok := other.(*directory.Service); ok && a.Name == b.Name {
				return true
			}
		case *directory.Connection:
			if b, ok := other.(*directory.Connection); ok && (a.Name == b.Name || a.Issuer == b.Issuer && a.Audience == b.Audience) {
				return true
			}
		}
	}
	return false
}

// dangling reports whether r refers to something that is not there.
func (r reference) dangling(rec directory.Record) bool {
	switch a := rec.(type) {
	case *directory.User:
		return a.Connection != "" && r.records["connection "+a.Connection] == nil
	case *directory.AudienceGrant:
		return r.records["service "+a.Service] == nil
	}
	return false
}

// used reports whether something refers to r.
func (r reference) used(rec directory.Record) bool {
	for _, other := range r.records {
		switch b := other.(type) {
		case *directory.User:
			if c, ok := rec.(*directory.Connection); ok && b.Connection == c.ID {
				return true
			}
		case *directory.AudienceGrant:
			if s, ok := rec.(*directory.Service); ok && b.Service == s.ID {
				return true
			}
		}
	}
	return false
}

const fine = fault.Kind(255)

// record applies one statement on a record and returns the kind of its error.
func (r reference) record(op string, rec directory.Record) fault.Kind {
	_, there := r.records[recordKey(rec)]
	switch {
	case op == "insert" && (there || r.taken(rec)):
		return fault.Conflict
	case op != "insert" && !there:
		return fault.NotFound
	case op == "update" && r.taken(rec):
		return fault.Conflict
	case op != "delete" && r.dangling(rec):
		return fault.NotFound
	case op == "delete" && r.used(rec):
		return fault.Conflict
	case op == "delete":
		delete(r.records, recordKey(rec))
	default:
		r.records[recordKey(rec)] = rec
	}
	return fine
}

// write applies one call of WriteTuples, which stops at its first error.
func (r reference) write(w authz.Write) fault.Kind {
	for _, p := range w.Must {
		found := false
		for key := range r.tuples {
			found = found || key.Object == p.Filter.Object
		}
		if found == p.Absent {
			return fault.Conflict
		}
	}
	for _, t := range w.Deletes {
		if _, there := r.tuples[t.Key()]; !there && !w.IgnoreMissing {
			return fault.Conflict
		}
		delete(r.tuples, t.Key())
	}
	for _, t := range w.Writes {
		if old, there := r.tuples[t.Key()]; there && (!w.IgnoreDuplicate || old != t) {
			return fault.Conflict
		}
		r.tuples[t.Key()] = t
	}
	return fine
}

// net completes the batch with the difference in tuples.
func net(b *store.Batch, before, after map[relation.Tuple]relation.Tuple) {
	for key, t := range after {
		if before[key] != t {
			b.Writes = append(b.Writes, t)
		}
	}
	for key, t := range before {
		if after[key] != t {
			b.Deletes = append(b.Deletes, key)
		}
	}
	sortTuples(b.Writes)
	sortTuples(b.Deletes)
}

func sortTuples(list []relation.Tuple) {
	slices.SortFunc(list, func(a, b relation.Tuple) int {
		return slices.Compare([]string{a.Object, a.Relation, a.Subject}, []string{b.Object, b.Relation, b.Subject})
	})
}

type history struct {
	w    *world
	rt   *rapid.T
	who  directory.Tenant
	ids  []string // few, so that histories collide with themselves
	want reference
}

func (h *history) pick(label string, n int) int { return rapid.IntRange(0, n-1).Draw(h.rt, label) }

func (h *history) id(kind string) string {
	// The same few ids for each kind, never one id for two kinds.
	id := []byte(h.ids[h.pick("id", len(h.ids))])
	id[25] = kind[0] - 'a' + 'A'
	if id[25] == 'U' { // not in the alphabet
		id[25] = 'W'
	}
	return string(id)
}

func (h *history) anyRecord() directory.Record {
	t, name := h.who.Tenant, fmt.Sprint("n", h.pick("name", 3))
	switch h.pick("kind", 4) {
	case 0:
		u := &directory.User{Tenant: t, ID: h.id("user"), Name: name, State: directory.Active, Created: at}
		if h.pick("linked", 2) == 0 {
			u.Connection, u.External = h.id("connection"), fmt.Sprint("x", h.pick("external", 2))
		}
		return u
	case 1:
		return &directory.Service{Tenant: t, ID: h.id("service"), Name: name, State: directory.Suspended, Created: at}
	case 2:
		return &directory.AudienceGrant{Tenant: t, Service: h.id("service"), Audience: "urn:" + name, Direct: h.pick("direct", 2) == 0}
	default:
		return &directory.Connection{
			Tenant: t, ID: h.id("connection"), Name: name, Issuer: "https://" + h.who.Name + ".example/" + fmt.Sprint(h.pick("issuer", 2)),
			Audience: "api", Kind: directory.Entra, Algs: []string{"RS256"}, State: directory.Active, Created: at,
		}
	}
}

func keys(list []relation.Tuple) (out []relation.Tuple) {
	for _, t := range list {
		out = append(out, t.Key())
	}
	return out
}

func (h *history) anyTuples(label string) (list []relation.Tuple) {
	for range h.pick(label, 3) {
		t := tuple(fmt.Sprint(h.pick("tuple", 4)))
		switch h.pick("guard", 4) {
		case 1:
			t.Condition, t.Context = "when", `{"a":1}`
		case 2:
			t.Expires = at.UnixNano()
		}
		list = append(list, t)
	}
	return list
}

// change runs one transaction of a few statements. It gives up at the first
// error, or goes on, or fails in the end whatever happened.
func (h *history) change() {
	after := h.want.clone()
	batch := store.Batch{Store: h.who.System, Rev: uint64(len(h.want.log) + 1)}
	patient, doomed := h.pick("patient", 3) == 0, h.pick("doomed", 5) == 0
	steps := 1 + h.pick("steps", 4)
	failed := false
	_, err := h.w.mutate(h.who.System, h.who.Tenant, func(tx directory.Tx) error {
		for range steps {
			var got error
			var want fault.Kind
			if h.pick("what", 4) == 0 {
				writes, deletes := h.anyTuples("writes"), h.anyTuples("deletes")
				want = after.write(authz.Write{Writes: writes, Deletes: keys(deletes)})
				got = tx.WriteTuples(h.who.System, writes, keys(deletes))
			} else {
				rec := h.anyRecord()
				op := []string{"insert", "update", "delete"}[h.pick("op", 3)]
				want = after.record(op, rec)
				entry := store.Entry{Kind: rec.RecordKind(), Op: store.Put, Key: rec.RecordKey()}
				switch op {
				case "insert":
					got = tx.Insert(rec)
				case "update":
					got = tx.Update(rec)
				default:
					got, entry.Op = tx.Delete(rec), store.Delete
				}
				if entry.Op == store.Put {
					entry.Payload, _ = directory.Encode(rec)
				}
				if want == fine {
					batch.Entries = append(batch.Entries, entry)
				}
			}
			if (got == nil) != (want == fine) || got != nil && fault.KindOf(got) != want {
				return fmt.Errorf("a statement gave %w, the reference %v", got, want)
			}
			if got != nil && !patient {
				failed = true
				return errOwn
			}
		}
		if doomed {
			failed = true
			return errOwn
		}
		return nil
	})
	if failed != (fault.KindOf(err) == fault.Denied && err != nil) || !failed && err != nil {
		h.rt.Fatalf("the change failed: %v; %v", failed, err)
	}
	if failed {
		return
	}
	net(&batch, h.want.tuples, after.tuples)
	after.log = append(h.want.log, batch)
	h.want = after
}

func (h *history) engineTuples() {
	after := h.want.clone()
	w := authz.Write{
		Writes: h.anyTuples("writes"), Deletes: keys(h.anyTuples("deletes")),
		IgnoreDuplicate: h.pick("duplicate", 2) == 0, IgnoreMissing: h.pick("missing", 2) == 0,
	}
	for range h.pick("must", 2) {
		w.Must = append(w.Must, authz.Precondition{Filter: authz.Filter{Object: tuple(fmt.Sprint(h.pick("tuple", 4))).Object}, Absent: h.pick("absent", 2) == 0})
	}
	want := after.write(w)
	_, err := h.w.write(h.who.System, h.who.Tenant, w)
	if (err == nil) != (want == fine) || err != nil && fault.KindOf(err) != want {
		h.rt.Fatalf("writing tuples gave %v, the reference %v", err, want)
	}
	if err == nil {
		batch := store.Batch{Store: h.who.System, Rev: uint64(len(h.want.log) + 1)}
		net(&batch, h.want.tuples, after.tuples)
		after.log = append(h.want.log, batch)
		h.want = after
	}
}

// compare holds the store against the reference.
func (h *history) compare() {
	records := map[string]directory.Record{}
	all, err := h.w.Directory().LoadDirectory(h.w.ctx)
	if err != nil {
		h.rt.Fatal(err)
	}
	users, err := h.w.Directory().Users(h.w.ctx, h.who.Tenant, "", 1000)
	if err != nil {
		h.rt.Fatal(err)
	}
	for _, u := range users {
		all = append(all, u)
	}
	for _, r := range all {
		switch r.(type) {
		case *directory.Tenant, *directory.Graph:
			continue
		}
		if r.Owner() == h.who.Tenant {
			records[recordKey(r)] = r
		}
	}
	if diff := cmp.Diff(h.want.records, records, exact); diff != "" {
		h.rt.Fatalf("records (-reference +store):\n%s", diff)
	}
	tuples, loaded, err := h.w.load(h.w.ctx, h.who.System)
	if err != nil || loaded.Revision.Rev != uint64(len(h.want.log)) {
		h.rt.Fatalf("loaded at revision %d, want %d: %v", loaded.Revision.Rev, len(h.want.log), err)
	}
	want := slices.Collect(maps.Values(h.want.tuples))
	sortTuples(want)
	if !slices.Equal(want, tuples) {
		h.rt.Fatalf("tuples %v, want %v", tuples, want)
	}
	log, err := h.w.Changes(h.w.ctx, h.who.System, 0, 1<<20)
	if err != nil {
		h.rt.Fatal(err)
	}
	for i := range log {
		sortTuples(log[i].Writes)
		sortTuples(log[i].Deletes)
	}
	if diff := cmp.Diff(h.want.log, log); diff != "" {
		h.rt.Fatalf("changelog (-reference +store):\n%s", diff)
	}
}
