package authz

import (
	"context"
	"slices"
	"sync"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/policy"
)

// Limits of one question.
const (
	maxDepth  = 25      // hops through usersets and parents of one chain; OpenFGA's
	maxNested = 25      // operators within operators, before they are solved without recursion
	maxEdges  = 1 << 18 // tuples followed
)

var (
	errDepth = fault.New(fault.Exhausted, "the question is nested deeper than 25 levels of groups or parents")
	errEdges = fault.New(fault.Exhausted, "the question leads through too many tuples")
)

// truth is the value of a question. The order matters: a union has the greatest
// value of its operands, an intersection the least.
type truth uint8

const (
	no        truth = iota
	undefined       // it depends on its own negation: never an allow
	unknown         // a condition cannot be evaluated, or a limit is in the way
	yes
)

// not exchanges yes and no; what cannot be told stays so.
func (v truth) not() truth {
	switch v {
	case yes:
		return no
	case no:
		return yes
	}
	return v
}

// asker is the subject of a question in numbers.
type asker struct {
	object uint32 // 0: no tuple names it
	form   sym    // of the subject: user, user:*, team#member
	every  sym    // the form of everyone of its type, for an object
	set    bool   // it is a userset
}

// item asks whether the asker holds the program's relation on the object. The
// items of a question form a tree by parent: the one that grants, followed to
// the root, is the path of grants.
type item struct {
	object uint32
	parent int32 // index; -1 for the root
	step   int32 // of the parent's program that led here
	depth  int32
	prog   *program
}

// grant tells which item was satisfied and how.
type grant struct {
	item   int
	how    how
	step   int    // of the item's program; the include for byItself
	caveat uint32 // of the tuple
	depth  int32  // byGroups: how many usersets are in between
}

type how uint8

const (
	byNothing how = iota
	byTuple
	byEveryone // a wildcard
	byItself   // the userset asked is the object's own relation
	byGroups   // the asker's group set has a userset of the object's tuples
	byOperator
)

// evaluator answers one question at one snapshot. It belongs to one goroutine.
//
// A question is answered by breadth-first search: an object's own tuples are
// tried before anything further away, every (object, relation) is visited once,
// so cycles end, and the depth of an answer is the length of its shortest chain.
// That is all that unions need. The operands of an intersection or exclusion are
// questions of their own, asked where the search meets the operator.
//
// Values other than yes and no come from conditions and from operators. A search
// follows only what is yes; if that finds nothing, it is run again with what is
// unknown counted as yes, then with what is undefined, so that the value does not
// depend on any order and an unknown that changes nothing does no harm.
type evaluator struct {
	snap                        *snapshot
	model                       *bound
	over                        *overlay // nil without contextual tuples
	who                         asker
	same                        bool           // the asker is a userset of the very object asked about, which no tuple names
	asked                       map[string]any // the context for conditions
	ctx                         context.Context
	now                         func() time.Time
	at                          int64       // now, once asked
	policies                    *policy.Set // nil without any
	own                         *policy.Set // the tenant's; nil without any
	roles                       *roleSet    // nil without any
	clash                       *Overlap    // which roles exclude each other, of a deny for that reason
	generous                    bool        // of an assignment: conditions count as met, nothing is subtracted
	verified                    func() policy.Verified
	subjectClaims, objectClaims map[string]any
	groups                      *groupSet
	walk                        bool   // do not use group sets
	warm                        uint32 // of no meaning: what was read to have it near

	frames []*frame
	level  int
	stack  []question // whose answers are being computed
	memo   map[question]truth
	fix    *fixpoint // nil unless questions depend on themselves
	edges  int
	limit  int
	cause  error // why something is unknown: the first reason found
	fatal  error // ends everything
}

// question identifies an operand asked of an object.
type question struct {
	object   uint32
	prog     *program
	explicit bool
}

// frame is the memory of one search.
type frame struct {
	queue    []item
	seen     set
	hops     []hop
	floor    truth // what counts as yes
	doubts   [yes]bool
	deep     bool // a grant was beyond the depth limit
	explicit bool // a tuple for everyone does not count
	grant    grant
}

// hop is a group of tuples to follow.
type hop struct {
	action *action
	words  []uint32
}

var evaluators = sync.Pool{New: func() any { return &evaluator{} }}

func newEvaluator(ctx context.Context, s *snapshot, model *bound, now func() time.Time) *evaluator {
	ev := evaluators.Get().(*evaluator)
	ev.ctx, ev.snap, ev.model, ev.now, ev.limit = ctx, s, model, now, maxEdges
	return ev
}

// release makes the evaluator fit for the next question.
func (ev *evaluator) release() {
	for _, f := range ev.frames {
		if cap(f.queue) > 1<<12 {
			return // a rare giant need not stay in memory
		}
		clear(f.queue) // so that no old model stays reachable
		clear(f.hops[:cap(f.hops)])
		f.queue, f.hops, f.grant = f.queue[:0], f.hops[:0], grant{}
	}
	if len(ev.memo) > 0 {
		clear(ev.memo)
	}
	*ev = evaluator{frames: ev.frames, stack: ev.stack[:0], memo: ev.memo}
	evaluators.Put(ev)
}

// out and in return the edges of an entity in one direction.
func (ev *evaluator) out(id uint32) node {
	if ev.over != nil {
		if nd, ok := ev.over.out[id]; ok {
			return nd
		}
	}
	return ev.snap.out.node(id)
}

func (ev *evaluator) in(id uint32) node {
	if ev.over != nil {
		if nd, ok := ev.over.in[id]; ok {
			return nd
		}
	}
	return ev.snap.in.node(id)
}

// answer is search, for questions that may depend on themselves.
func (ev *evaluator) answer(object uint32, prog *program, explicit bool) (truth, *frame) {
	v, f := ev.search(object, prog, explicit)
	if ev.fatal != errCircle {
		return v, f
	}
	ev.fatal, ev.cause, ev.stack, ev.level = nil, nil, ev.stack[:0], 0
	clear(ev.memo)
	return ev.solve(question{object, prog, explicit})
}

// search answers a question, and leaves how in the frame until the next one.
func (ev *evaluator) search(object uint32, prog *program, explicit bool) (truth, *frame) {
	if ev.level == len(ev.frames) {
		ev.frames = append(ev.frames, &frame{queue: make([]item, 0, 2*few)})
	}
	f := ev.frames[ev.level]
	ev.level++
	f.explicit, f.deep, f.doubts = explicit, false, [yes]bool{}
	v := yes
	for ; v > no; v-- {
		if v < yes && !f.doubts[v] {
			continue
		}
		f.floor = v
		if ev.pass(f, object, prog) || ev.fatal != nil {
			break
		}
		if v == yes && f.deep {
			if v = unknown; ev.cause == nil {
				ev.cause = errDepth
			}
			break
		}
	}
	ev.level--
	if ev.fatal != nil {
		v = no
	}
	return v, f
}

// pass runs the search with what is at least the frame's floor counted as yes.
func (ev *evaluator) pass(f *frame, object uint32, prog *program) bool {
	f.queue = append(f.queue[:0], item{object: object, parent: -1, prog: prog})
	if ev.edges++; ev.edges > ev.limit { // so that questions without tuples end, too
		ev.fatal = errEdges
	}
	for i := 0; i < len(f.queue); i++ {
		if ev.try(f, i) {
			f.grant.item = i
			if f.floor < yes || f.queue[i].depth+f.grant.depth < maxDepth {
				return true
			}
			f.deep = true
		}
		if ev.fatal != nil {
			return false
		}
	}
	return false
}

// try looks for a grant among the item's own tuples and operators, and queues
// what else they lead to.
func (ev *evaluator) try(f *frame, at int) bool {
	it := f.queue[at]
	f.grant = grant{}
	if ev.who.set && (it.object == ev.who.object && (it.object != 0 || ev.same)) {
		for n := range it.prog.includes {
			if it.prog.includes[n].userset == ev.who.form {
				f.grant = grant{how: byItself, step: n}
				return true
			}
		}
	}
	f.hops = f.hops[:0]
	if ev.tuples(f, it) {
		return true
	}
	for n := range it.prog.operators {
		if v := ev.operator(&it.prog.operators[n], it.object, f.explicit); v >= f.floor {
			f.grant = grant{how: byOperator, step: int(it.prog.operators[n].step)}
			return true
		} else {
			f.doubts[v] = true
		}
	}
	for n := range f.hops {
		h := &f.hops[n]
		next := h.action.next
		if h.action.parent || ev.walk || f.explicit || !ev.model.flat.has(next.userset) {
			ev.follow(f, at, it.depth, h, h.words)
		} else if ev.belongs(f, at, it.depth, h) {
			return true
		}
	}
	return false
}

// tuples walks the object's edges and the program's actions, both in the order
// of keys. It notes where to go on in the frame's hops.
func (ev *evaluator) tuples(f *frame, it item) bool {
	actions := it.prog.actions
	for i, nd := 0, ev.out(it.object); i < len(nd); {
		key, words, caveats, after := nd.next(i)
		i = after
		if key&guarded != 0 {
			if ev.guardedTuples(f, it, key&^guarded, words, caveats) {
				return true
			}
			continue
		}
		for len(actions) > 0 && actions[0].key < key {
			actions = actions[1:]
		}
		for n := 0; n < len(actions) && actions[n].key == key; n++ {
			a := &actions[n]
			if a.condition != "" {
				continue
			}
			if !a.parent {
				if how := ev.named(f, key, words); how != byNothing {
					f.grant = grant{how: how, step: int(a.step)}
					return true
				}
			}
			if a.next != nil {
				f.hops = append(f.hops, hop{a, words})
			}
		}
	}
	return false
}

// named reports whether the words of a key name the asker, or everyone.
func (ev *evaluator) named(f *frame, key uint32, words []uint32) how {
	switch keySubject(key) {
	case ev.who.form:
		if ev.who.object != 0 && holds(words, ev.who.object) {
			return byTuple
		}
	case ev.who.every:
		if !f.explicit {
			return byEveryone
		}
	}
	return byNothing
}

// guardedTuples does the same for tuples with caveats, each on its own.
func (ev *evaluator) guardedTuples(f *frame, it item, key uint32, words, caveats []uint32) bool {
	actions := it.prog.actions
	from, ok := slices.BinarySearchFunc(actions, key, func(a action, k uint32) int { return int(int64(a.key) - int64(k)) })
	if !ok {
		return false
	}
	for from > 0 && actions[from-1].key == key {
		from--
	}
	for n := range words {
		guard := ev.caveat(caveats[n])
		for a := from; a < len(actions) && actions[a].key == key; a++ {
			act := &actions[a]
			if act.condition != guard.condition {
				continue
			}
			how := byNothing
			if !act.parent {
				how = ev.named(f, key, words[n:n+1])
			}
			if how == byNothing && act.next == nil {
				continue
			}
			if v := ev.holds(guard); v < f.floor {
				f.doubts[v] = true
				continue
			}
			if how != byNothing {
				f.grant = grant{how: how, step: int(act.step), caveat: caveats[n]}
				return true
			}
			ev.edges++
			f.hops = append(f.hops, hop{act, words[n : n+1]})
		}
	}
	return false
}

// operator returns the value of an intersection or exclusion on the object.
func (ev *evaluator) operator(op *operator, object uint32, explicit bool) truth {
	if op.except {
		v := ev.ask(question{object, op.operands[0], explicit}, false)
		if v > no && ev.fatal == nil && !ev.generous {
			v = min(v, ev.ask(question{object, op.operands[1], false}, true).not())
		}
		return v
	}
	v, named := yes, no
	for _, operand := range op.operands {
		if v = min(v, ev.ask(question{object, operand, false}, false)); v == no || ev.fatal != nil {
			return no
		}
	}
	if !explicit {
		return v
	}
	for _, operand := range op.operands { // one of them must name the asker
		named = max(named, ev.ask(question{object, operand, true}, false))
	}
	return min(v, named)
}

// ask answers an operand's question, once. negated tells that the operand is
// subtracted.
func (ev *evaluator) ask(q question, negated bool) truth {
	if ev.fix != nil {
		return ev.fix.read(q, negated)
	}
	if v, ok := ev.memo[q]; ok {
		return v
	}
	if len(ev.stack) == maxNested || slices.Contains(ev.stack, q) {
		ev.fatal = errCircle
		return no
	}
	ev.stack = append(ev.stack, q)
	v, _ := ev.search(q.object, q.prog, q.explicit)
	ev.stack = ev.stack[:len(ev.stack)-1]
	if ev.memo == nil {
		ev.memo = map[question]truth{}
	}
	ev.memo[q] = v
	return v
}

// belongs tests a userset's tuples against the asker's group set.
func (ev *evaluator) belongs(f *frame, at int, depth int32, h *hop) bool {
	if ev.groups == nil {
		if ev.groups = ev.snap.groupsOf(ev.model, ev.who); ev.groups == nil {
			ev.walk = true
			ev.follow(f, at, depth, h, h.words)
			return false
		}
	}
	objects, infos := ev.groups.of(h.action.next.userset)
	if ev.edges += min(len(h.words), len(objects)); ev.edges > ev.limit {
		ev.fatal = errEdges
		return false
	}
	if len(h.words) <= len(objects) {
		for _, w := range h.words {
			if n, ok := place(objects, w); ok && ev.member(f, at, depth, h, w, infos[n]) {
				return true
			}
		}
		return false
	}
	for n, w := range objects {
		if holds(h.words, w) && ev.member(f, at, depth, h, w, infos[n]) {
			return true
		}
	}
	return false
}

// member takes a userset of the object's tuples that the asker's group set has.
func (ev *evaluator) member(f *frame, at int, depth int32, h *hop, word, info uint32) bool {
	through := 1 + int32(info>>1)
	switch {
	case info&1 == 0:
		ev.follow(f, at, depth, h, []uint32{word}) // only the walk can tell
	case f.floor < yes || depth+through < maxDepth:
		f.grant = grant{how: byGroups, step: int(h.action.step), depth: through}
		return true
	default:
		f.deep = true
	}
	return false
}

// follow queues the subjects of tuples.
func (ev *evaluator) follow(f *frame, at int, depth int32, h *hop, words []uint32) {
	if ev.edges += len(words); ev.edges > ev.limit {
		ev.fatal = errEdges
		return
	}
	if len(words) > 1<<10 && ev.ctx.Err() != nil {
		ev.fatal = ev.ctx.Err()
		return
	}
	for _, w := range words {
		if !f.visited(w, h.action.next) {
			f.visit(item{object: w, parent: int32(at), step: h.action.step, depth: depth + 1, prog: h.action.next})
		}
	}
}

// few is how many items a linear search beats a set for.
const few = 16

func (f *frame) visited(object uint32, p *program) bool {
	if len(f.queue) <= few {
		for i := range f.queue {
			if f.queue[i].object == object && f.queue[i].prog == p {
				return true
			}
		}
		return false
	}
	return f.seen.has(object, p.id)
}

func (f *frame) visit(it item) {
	f.queue = append(f.queue, it)
	if len(f.queue) == few+1 {
		f.seen.reset()
		for i := range few {
			f.seen.add(f.queue[i].object, f.queue[i].prog.id)
		}
	}
	if len(f.queue) > few {
		f.seen.add(it.object, it.prog.id)
	}
}
