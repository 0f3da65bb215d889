package authz

import "errors"

// errCircle ends a search that met a question within itself.
var errCircle = errors.New("a question depends on itself")

// fixpoint solves questions whose operands depend on themselves: a group that is
// allowed to its own members, a block list made of those whom it does not block.
// Their value is the well-founded one (Van Gelder, Ross and Schlipf 1991), by
// the alternating fixed point: what is subtracted is read from what is possible
// to find what is certain, and the other way round, until both stay. A value that
// then still differs between the two is undefined.
//
// Most questions are not of this kind. They are answered by plain recursion,
// which gives the same values.
type fixpoint struct {
	order   []question // in the order of their discovery, so that the work is always the same
	value   map[question]truth
	negated map[question]truth // of the round before
	other   truth              // of what that round did not meet: all is possible, nothing is certain

	// A trace must not prove a question by itself. What became yes earlier did
	// not need what became yes later.
	rank  map[question]int // when it became yes
	below int              // for a trace: only what became yes before counts; 0: all
}

// read returns what is known of an operand, and makes it one to be known.
func (x *fixpoint) read(q question, negated bool) truth {
	v, ok := x.value[q]
	if !ok {
		x.value[q] = no
		x.order = append(x.order, q)
	}
	if !negated {
		if v == yes && x.below > 0 && x.rank[q] >= x.below {
			return no
		}
		return v
	}
	if v, ok = x.negated[q]; !ok {
		return x.other
	}
	return v
}

// solve returns the value of a question, and a frame for its trace.
func (ev *evaluator) solve(root question) (truth, *frame) {
	ev.fix = &fixpoint{value: map[question]truth{}, negated: map[question]truth{}}
	possible, high, _ := ev.least(root)
	for {
		ev.fix.negated, ev.fix.other = possible, yes
		certain, low, _ := ev.least(root)
		ev.fix.negated, ev.fix.other = certain, no
		next, top, _ := ev.least(root)
		same := top == high && len(next) == len(possible)
		for q, v := range next {
			same = same && possible[q] == v
		}
		possible, high = next, top
		if !same && ev.fatal == nil {
			continue
		}
		ev.fix.negated, ev.fix.other = possible, yes
		_, _, f := ev.least(root) // the frame and the values for a trace
		switch {
		case ev.fatal != nil:
			return no, f
		case low != high:
			return undefined, f
		}
		return low, f
	}
}

// least returns the least values that fit each other, with what is subtracted
// read from the negated ones.
func (ev *evaluator) least(root question) (map[question]truth, truth, *frame) {
	x := ev.fix
	x.value, x.rank = make(map[question]truth, len(x.order)), map[question]int{}
	for _, q := range x.order {
		x.value[q] = no
	}
	for {
		top, _ := ev.search(root.object, root.prog, root.explicit)
		changed := false
		for i := 0; i < len(x.order); i++ {
			q := x.order[i]
			v, _ := ev.search(q.object, q.prog, q.explicit)
			if v != x.value[q] {
				x.value[q], changed = v, true
				if v == yes {
					x.rank[q] = len(x.rank) + 1
				}
			}
		}
		if !changed || ev.fatal != nil {
			again, f := ev.search(root.object, root.prog, root.explicit)
			return x.value, max(top, again), f
		}
	}
}
