package authz

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
