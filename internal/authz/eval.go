package authz

import (
	"context"
	"slices"
	"sync"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
)

// Limits of one question.
const (
	maxDepth = 25      // hops through usersets and tuples; OpenFGA's
	maxEdges = 1 << 18 // tuples followed
)

var (
	errDepth = fault.New(fault.Exhausted, "the question is nested deeper than 25 levels of groups or parents")
	errEdges = fault.New(fault.Exhausted, "the question leads through too many tuples")
)

// asker is the subject of a question in numbers.
type asker struct {
	object uint32 // 0: no tuple names it
	rel    sym    // plain, wildcard, or the relation of a userset
	typ    sym
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
	item    int
	how     how
	step    int // by tuple, by wildcard
	include int // itself
}

type how uint8

const (
	byNothing how = iota
	byTuple
	byEveryone // a wildcard
	byItself   // the userset asked is the object's own relation
)

// evaluator answers one question by breadth-first search: an object's own
// tuples are tried before anything further away, every (object, relation) is
// visited once, so cycles end, and the depth of an answer is the length of its
// shortest chain. No partial "no" is ever remembered beyond the question.
//
// A union needs nothing more than this. Intersection and exclusion will run
// their operands as questions of their own.
type evaluator struct {
	snap  *snapshot
	who   asker
	queue []item
	seen  set // of the queue's items; used only beyond a few
	edges int
	rec   *recorder // nil unless the caller wants to know why
}

var evaluators = sync.Pool{New: func() any { return &evaluator{queue: make([]item, 0, 64)} }}

func newEvaluator(s *snapshot, who asker) *evaluator {
	ev := evaluators.Get().(*evaluator)
	ev.snap, ev.who = s, who
	return ev
}

// release makes the evaluator fit for the next question.
func (ev *evaluator) release() {
	if cap(ev.queue) > 1<<12 {
		return // a rare giant need not stay in memory
	}
	clear(ev.queue) // so that no old model stays reachable
	*ev = evaluator{queue: ev.queue[:0], seen: ev.seen}
	evaluators.Put(ev)
}

// run answers the question. selfSame tells that the asker is a userset of the
// root object, which matters when no tuple names that object.
func (ev *evaluator) run(ctx context.Context, object uint32, prog *program, selfSame bool) (grant, bool, error) {
	ev.queue = append(ev.queue, item{object: object, parent: -1, prog: prog})
	limited := false
	for i := 0; i < len(ev.queue); i++ {
		it := ev.queue[i]
		if i&1023 == 1023 && ctx.Err() != nil {
			return grant{}, false, ctx.Err()
		}
		if usersetAsked := ev.who.rel != plain && ev.who.rel != wildcard; usersetAsked {
			if (i == 0 && selfSame) || (it.object != 0 && it.object == ev.who.object) {
				for n := range it.prog.includes {
					if it.prog.includes[n].rel == ev.who.rel {
						return grant{item: i, how: byItself, include: n}, true, nil
					}
				}
			}
		}
		own := ev.snap.edges(it.object)
		for n := range it.prog.steps {
			st := &it.prog.steps[n]
			if st.op != schema.Direct {
				continue
			}
			if h := ev.probe(own, st); h != byNothing {
				return grant{item: i, how: h, step: n}, true, nil
			}
		}
		if len(own) == 0 && ev.rec == nil {
			continue
		}
		for n := range it.prog.steps {
			tooDeep, err := ev.follow(i, own, n)
			if err != nil {
				return grant{}, false, err
			}
			limited = limited || tooDeep
		}
	}
	if limited {
		return grant{}, false, errDepth
	}
	return grant{}, false, nil
}

// probe looks for a tuple that grants at once.
func (ev *evaluator) probe(own edges, st *step) how {
	switch who := ev.who; who.rel {
	case plain:
		if who.object != 0 && slices.Contains(st.plain, who.typ) && own.holds(edgeKey(st.rel, plain), who.object) {
			return byTuple
		}
		fallthrough
	case wildcard:
		if slices.Contains(st.every, who.typ) && own.holds(edgeKey(st.rel, wildcard), uint32(who.typ)) {
			return byEveryone
		}
	default:
		if who.object != 0 && st.next(who.typ, who.rel) != nil && own.holds(edgeKey(st.rel, who.rel), who.object) {
			return byTuple
		}
	}
	return byNothing
}

// follow queues what a step leads to. tooDeep tells that the depth limit kept
// something out that was not visited before.
func (ev *evaluator) follow(at int, own edges, n int) (tooDeep bool, err error) {
	it := ev.queue[at]
	st := &it.prog.steps[n]
	led := 0
	for _, key := range st.keys {
		srel := keySubject(key)
		for _, word := range own.group(key) {
			if ev.edges++; ev.edges > maxEdges {
				return false, errEdges
			}
			next := st.next(ev.snap.entity(word).typ, srel)
			if next == nil || ev.visited(word, next) {
				continue
			}
			if it.depth+1 == maxDepth {
				tooDeep = true
				continue
			}
			ev.visit(item{object: word, parent: int32(at), step: int32(n), depth: it.depth + 1, prog: next})
			led++
		}
	}
	if ev.rec != nil {
		ev.rec.note(ev, at, n, own, led)
	}
	return tooDeep, nil
}

// few is how many items a linear search beats a set for.
const few = 16

func (ev *evaluator) visited(object uint32, p *program) bool {
	if len(ev.queue) <= few {
		for i := range ev.queue {
			if ev.queue[i].object == object && ev.queue[i].prog == p {
				return true
			}
		}
		return false
	}
	return ev.seen.has(object, p.id)
}

func (ev *evaluator) visit(it item) {
	ev.queue = append(ev.queue, it)
	if len(ev.queue) == few+1 {
		ev.seen.reset()
		for i := range few {
			ev.seen.add(ev.queue[i].object, ev.queue[i].prog.id)
		}
	}
	if len(ev.queue) > few {
		ev.seen.add(it.object, it.prog.id)
	}
}

// set is an open-addressing set of (object, program). An entry counts only with
// the current stamp, so that emptying costs nothing and memory is used again.
type set struct {
	slots []setSlot
	n     int
	stamp uint32
}

type setSlot struct{ object, program, stamp uint32 }

func (s *set) reset() {
	if s.slots == nil {
		s.slots = make([]setSlot, 8*few)
	}
	if s.stamp++; s.stamp == 0 { // after 2^32 questions old stamps would come back
		clear(s.slots)
		s.stamp = 1
	}
	s.n = 0
}

// slot returns where the pair is, or the free place for it.
func (s *set) slot(object, program uint32) *setSlot {
	h := (uint64(object)<<32 | uint64(program)) * 0x9e3779b97f4a7c15 // Fibonacci hashing, Knuth 6.4
	mask := uint64(len(s.slots) - 1)
	for i := h >> 32 & mask; ; i = (i + 1) & mask {
		at := &s.slots[i]
		if at.stamp != s.stamp || (at.object == object && at.program == program) {
			return at
		}
	}
}

func (s *set) has(object, program uint32) bool { return s.slot(object, program).stamp == s.stamp }

// add must be called for a pair that the set does not have.
func (s *set) add(object, program uint32) {
	if 2*(s.n+1) > len(s.slots) {
		old := s.slots
		s.slots = make([]setSlot, 2*len(old))
		for _, at := range old {
			if at.stamp == s.stamp {
				*s.slot(at.object, at.program) = at
			}
		}
	}
	*s.slot(object, program) = setSlot{object, program, s.stamp}
	s.n++
}
