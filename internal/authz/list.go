package authz

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"bulwark.example/internal/policy"
	"bulwark.example/internal/relation"
)

// maxListEdges bounds the tuples that one list follows: 4 million are about a
// second of one core. A list that meets the bound is cut, and says so.
const maxListEdges = 1 << 22

// ObjectsQuery asks which objects of the type the subject has the relation to.
type ObjectsQuery struct {
	Store    relation.StoreID
	Type     string
	Relation string
	Subject  string
	Asked
	Limit int    // of the page; 0: all
	After string // an object's id: the page begins behind it; "" for the first
}

// List answers a list.
type List struct {
	Names     []string // ascending in byte order, each once
	Next      string   // the After of the next page; "" at the end
	Truncated bool     // the work for the list met its bound: more may have the relation
	Revision  relation.Revision
	Model     string
}

// ListObjects returns exactly the objects of which Check would allow the
// question, of those that the store's tuples name, except for those behind a page
// or a cut. Kinds: those of [Engine.Check], also when one of the objects has no
// answer.
func (e *Engine) ListObjects(ctx context.Context, q ObjectsQuery) (List, error) {
	ev, err := e.ask(ctx, q.Store, &q.Asked)
	if err != nil {
		return List{}, err
	}
	defer ev.release()
	ev.limit = maxListEdges
	typ := ev.model.types[q.Type]
	if typ == nil {
		return List{}, noType("object", q.Type)
	}
	target, err := typ.program(q.Relation)
	if err != nil {
		return List{}, err
	}
	if ev.who, err = ev.askerOf(q.Subject); err != nil {
		return List{}, err
	}
	ev.walk = ev.walk || ev.who.every == 0
	w := ev.surge()
	defer w.ebb()
	ids := w.verified(target, w.objects(target))
	if ev.guarded() || ev.roles.excludes(q.Type) {
		ids = w.judged(target, typ, q.Subject, ids)
	}
	names := ev.names(ids)
	self, _ := relation.SplitSubject(q.Subject)
	if of, _, _ := relation.SplitObject(self); ev.who.object == 0 && ev.who.set && of == q.Type && w.itself(self, q.Subject, target) {
		names = append(names, self)
	}
	return e.list(q.Store, w, names, q.Limit, q.After)
}

// list sorts the names and cuts the page out.
func (e *Engine) list(store relation.StoreID, w *wave, names []string, limit int, after string) (List, error) {
	ev := w.ev
	if w.err != nil {
		return List{}, w.err
	}
	l := List{Revision: e.revision(store, ev.snap), Model: ev.model.model.ID(), Truncated: w.cut}
	w.sort(names)
	if after != "" {
		i, found := slices.BinarySearch(names, after)
		if found {
			i++
		}
		names = names[i:]
	}
	if limit > 0 && len(names) > limit {
		names = names[:limit]
		l.Next = names[limit-1]
	}
	l.Names = names
	return l, nil
}

// itself tells whether an object that no tuple names has the program for a userset
// of its own, which asks.
func (w *wave) itself(object, userset string, prog *program) bool {
	w.ev.same = true
	clear(w.ev.memo)
	return w.asks(0, prog, false) && w.judge(object, userset, prog, 0, yes)
}

func (p *program) itself(userset sym) bool {
	return slices.ContainsFunc(p.includes, func(i include) bool { return i.userset == userset })
}

// names spells the objects, all in one piece of memory: a thousand names were a
// thousand allocations, and these a third of the time that a list took.
func (ev *evaluator) names(ids []uint32) []string {
	const room = 48 // a type and a UUID
	var text strings.Builder
	text.Grow(room * len(ids))
	ends := make([]int, len(ids))
	for i, id := range ids {
		if id > ev.snap.n {
			text.WriteString(ev.name(id))
		} else {
			text.Write(ev.snap.bytes(id))
		}
		ends[i] = text.Len()
	}
	all, begin := text.String(), 0
	out := make([]string, len(ids), len(ids)+1)
	for i, end := range ends {
		out[i], begin = all[begin:end], end
	}
	return out
}

// sort puts names in byte order. All begin alike, with the type, so that a
// comparison of whole strings reads the same bytes again and again: the four
// behind that beginning are sorted as numbers, without any comparison, and decide
// nearly always. Comparing was a fifth of a list of a thousand.
func (w *wave) sort(names []string) {
	if len(names) < 2 {
		return
	}
	alike := len(names[0])
	for _, name := range names[1:] {
		alike = min(alike, len(name))
		for i := range alike {
			if name[i] != names[0][i] {
				alike = i
				break
			}
		}
	}
	w.keys, w.names = w.keys[:0], append(w.names[:0], names...)
	for i, name := range names {
		var head [4]byte // a shorter name is followed by zeros, which no name holds
		copy(head[:], name[alike:])
		w.keys = append(w.keys, uint64(binary.BigEndian.Uint32(head[:]))<<32|uint64(i))
	}
	w.spare = radix(w.keys, slices.Grow(w.spare[:0], len(names))[:len(names)])
	for i := 0; i < len(names); {
		end := i + 1
		for end < len(names) && w.keys[end]>>32 == w.keys[i]>>32 {
			end++
		}
		for n := i; n < end; n++ {
			names[n] = w.names[uint32(w.keys[n])]
		}
		if end-i > 1 {
			slices.Sort(names[i:end])
		}
		i = end
	}
}

// radix sorts keys by their upper halves, a byte at a time from the lowest, with
// room for as many, which it returns.
func radix(keys, room []uint64) []uint64 {
	for shift := 32; shift < 64; shift += 8 {
		var begin [257]int
		for _, k := range keys {
			begin[k>>shift&0xff+1]++
		}
		for i := range 256 {
			begin[i+1] += begin[i]
		}
		for _, k := range keys {
			at := &begin[k>>shift&0xff]
			room[*at] = k
			*at++
		}
		keys, room = room, keys
	}
	return room // after four turns each is where it was
}

// wave is a breadth-first search that follows everything which might grant, and
// marks what is sure. What is not sure is asked one by one, by the evaluator
// that answers Check, in the same snapshot.
type wave struct {
	ev    *evaluator
	found []spot
	seen  set
	keys  []uint64 // memory of sort, as is what follows
	spare []uint64
	names []string
	cut   bool
	err   error
}

// searches keeps the memory of searches for the next ones: growing it anew for each
// list was most of what the collector had to do.
var searches = sync.Pool{New: func() any { return &wave{} }}

// surge begins a search, which ebb ends.
func (ev *evaluator) surge() *wave {
	w := searches.Get().(*wave)
	w.ev = ev
	w.seen.reset()
	return w
}

func (w *wave) ebb() {
	if cap(w.found) > 1<<14 || len(w.seen.slots) > 1<<16 || cap(w.keys) > 1<<14 {
		return // a rare giant need not stay in memory
	}
	clear(w.found) // so that no old model and no name stays reachable
	clear(w.names)
	*w = wave{found: w.found[:0], seen: w.seen, keys: w.keys[:0], spare: w.spare, names: w.names[:0]}
	searches.Put(w)
}

// spot is a program that an object holds, or is asked about.
type spot struct {
	object uint32
	prog   *program
	depth  int32
	sure   bool
}

// stop tells whether the search is over before its end.
func (w *wave) stop() bool { return w.cut || w.err != nil }

func (w *wave) count(edges int) bool {
	ev := w.ev
	before := ev.edges
	if ev.edges += edges; ev.edges > ev.limit {
		w.cut = true
	} else if ev.edges>>12 != before>>12 && ev.ctx.Err() != nil { // now and then
		w.err = ev.ctx.Err()
	}
	return !w.stop()
}

// add takes a spot that was not seen. It reports false when the search must end.
func (w *wave) add(s spot) {
	if w.seen.slots == nil {
		w.seen.reset()
	}
	if s.depth >= maxDepth {
		s.sure = false // Check tells what that means
	}
	if !w.seen.has(s.object, s.prog.id) {
		w.seen.add(s.object, s.prog.id)
		w.found = append(w.found, s)
	}
}

// run calls expand for the start and every spot, first along what is sure, then
// along everything.
func (w *wave) run(start func(sure bool), expand func(at spot, sure bool)) {
	for _, sure := range []bool{true, false} {
		start(sure)
		for i := 0; i < len(w.found) && !w.stop(); i++ {
			if at := w.found[i]; at.sure || !sure {
				expand(at, sure)
			}
		}
	}
}

// objects searches upwards from the asker for what holds the target.
func (w *wave) objects(target *program) []spot {
	ev := w.ev
	r := ev.model.reach(target)
	w.run(func(sure bool) {
		for _, from := range []struct {
			object uint32
			form   sym
		}{{ev.who.object, ev.who.form}, {ev.everyone(ev.who.every), ev.who.every}} {
			if from.object != 0 && from.form != 0 {
				w.rise(ev.in(from.object), from.form, r.named, 0, sure, true)
			}
		}
		if ev.who.set && ev.who.object != 0 {
			for _, p := range r.programs {
				if p.itself(ev.who.form) {
					w.add(spot{ev.who.object, p, 0, true})
				}
			}
		}
	}, func(at spot, sure bool) {
		if rises := r.held[at.prog.id]; len(rises) > 0 {
			w.rise(ev.in(at.object), 0, rises, at.depth+1, sure, at.sure)
		}
		if !sure {
			for _, p := range r.operators[at.prog.id] {
				w.add(spot{at.object, p, at.depth, false})
			}
		}
	})
	return slices.DeleteFunc(w.found, func(s spot) bool { return s.prog != target })
}

// rise follows tuples from a subject to the objects that name it. form is the
// subject's, 0 if the rises' keys say it all.
func (w *wave) rise(nd node, form sym, rises []rise, depth int32, sure, from bool) {
	for i := 0; i < len(nd); {
		key, words, caveats, after := nd.next(i)
		i = after
		plain := key &^ guarded
		if form != 0 && keySubject(key) != form {
			continue
		}
		at, _ := slices.BinarySearchFunc(rises, plain, func(r rise, k uint32) int { return int(int64(r.key) - int64(k)) })
		for ; at < len(rises) && rises[at].key == plain; at++ {
			r := rises[at]
			if !w.count(len(words)) {
				return
			}
			for n, object := range words {
				v := yes
				if caveats == nil && r.condition != "" {
					continue
				}
				if caveats != nil {
					c := w.ev.caveat(caveats[n])
					if c.condition != r.condition {
						continue
					}
					v = w.ev.holds(c)
				}
				if v == yes && from || v > no && !sure {
					w.add(spot{object, r.prog, depth, v == yes && from})
				}
			}
		}
	}
}

// verified returns the objects of the spots that are sure, and of the others
// those that Check allows.
func (w *wave) verified(target *program, spots []spot) []uint32 {
	ids := make([]uint32, 0, len(spots))
	w.ev.cause = nil
	for _, s := range spots {
		if s.sure || w.asks(s.object, target, false) {
			ids = append(ids, s.object)
		}
	}
	return ids
}

// judge tells what policies and exclusive roles leave of a value.
func (w *wave) judge(object, subject string, prog *program, id uint32, v truth) bool {
	if w.stop() {
		return false
	}
	allowed, _, _, err := w.ev.judge(object, subject, prog, id, v)
	switch {
	case err == errEdges:
		w.cut, w.ev.fatal = true, nil
	case err != nil:
		w.err = err
	}
	return allowed && err == nil
}

// judged returns the objects that policies and exclusive roles leave, and those
// that policies add of all objects of the type that the store knows.
func (w *wave) judged(target *program, typ *boundType, subject string, ids []uint32) []uint32 {
	ev := w.ev
	had := make(map[uint32]bool, len(ids))
	for _, id := range ids {
		had[id] = true
	}
	candidates := ids
	if w.permits(target) && ev.who.every != 0 {
		candidates = nil
		for id := uint32(1); id <= ev.snap.n; id++ {
			if ev.snap.form(id) == typ.object {
				candidates = append(candidates, id)
			}
		}
	}
	kept := ids[:0:0]
	for _, id := range candidates {
		if !w.count(1) {
			break
		}
		v := no
		if had[id] {
			v = yes
		}
		if w.judge(ev.name(id), subject, target, id, v) {
			kept = append(kept, id)
		}
	}
	return kept
}

// permits tells whether a policy may allow what relations do not.
func (w *wave) permits(prog *program) bool {
	for _, set := range [...]*policy.Set{w.ev.policies, w.ev.own} {
		if set == nil {
			continue
		}
		if _, permits := set.Candidates(prog.typ, prog.name); permits > 0 {
			return true
		}
	}
	return false
}

// guarded tells whether there are policies.
func (ev *evaluator) guarded() bool { return ev.policies != nil || ev.own != nil }

// asks puts one question to the evaluator.
func (w *wave) asks(object uint32, prog *program, explicit bool) bool {
	if w.stop() {
		return false
	}
	w.ev.fix = nil
	v, _ := w.ev.answer(object, prog, explicit)
	switch err := w.ev.failure(v); {
	case err == errEdges:
		w.cut, w.ev.fatal = true, nil
		return false
	case err != nil:
		w.err = err
	}
	return v == yes && w.err == nil
}

// reach is what a list of objects needs to know of a model: which programs can
// lead to the target, and from where.
type reach struct {
	programs  []*program
	named     []rise       // by key: what a tuple's subject gains
	held      [][]rise     // by the id of a held program, by key
	operators [][]*program // by the id of an operand: what it may grant
}

// rise says that the object of a tuple of the key may hold the program.
type rise struct {
	key       uint32
	prog      *program
	condition string
}

// reach returns it for a target, computed once.
func (b *bound) reach(target *program) *reach {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.reaches[target]; r != nil {
		return r
	}
	r := &reach{held: make([][]rise, len(b.programs)), operators: make([][]*program, len(b.programs)), programs: []*program{target}}
	need := func(p *program) {
		if !slices.Contains(r.programs, p) {
			r.programs = append(r.programs, p)
		}
	}
	for i := 0; i < len(r.programs); i++ {
		p := r.programs[i]
		for _, a := range p.actions {
			up := rise{a.key, p, a.condition}
			if !a.parent {
				r.named = append(r.named, up)
			}
			if a.next != nil {
				need(a.next)
				r.held[a.next.id] = append(r.held[a.next.id], up)
			}
		}
		for _, op := range p.operators {
			// All operands must grant, so the objects of one are enough to look at.
			need(op.operands[0])
			r.operators[op.operands[0].id] = append(r.operators[op.operands[0].id], p)
		}
	}
	byKey := func(a, b rise) int { return int(int64(a.key) - int64(b.key)) }
	slices.SortStableFunc(r.named, byKey)
	for _, list := range r.held {
		slices.SortStableFunc(list, byKey)
	}
	if b.reaches == nil {
		b.reaches = map[*program]*reach{}
	}
	b.reaches[target] = r
	return r
}
