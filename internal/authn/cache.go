package authn

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// ways is how many tokens share one place of the cache before one must go.
const ways = 8

// cache remembers verifications by the exact token. It is a table of a fixed
// size, written and read without locks: a token's hash names a row of eight
// slots, and a new token takes a slot of its own row, so that the size is
// bounded whatever comes. Only good tokens enter. What a slot holds is compared
// with the whole token: the hash decides nothing.
type cache struct {
	seed  maphash.Seed // random: nobody can aim at a row
	mask  uint64
	slots []atomic.Pointer[verified]
	clock atomic.Uint64
}

// newCache makes room for about size tokens.
func newCache(size int) *cache {
	rows := uint64(1) << bits.Len64(uint64(max(size-1, 0)/ways))
	return &cache{seed: maphash.MakeSeed(), mask: rows - 1, slots: make([]atomic.Pointer[verified], rows*ways)}
}

func (c *cache) hash(token string) uint64 { return maphash.String(c.seed, token) }

func (c *cache) row(hash uint64) []atomic.Pointer[verified] {
	i := (hash & c.mask) * ways
	return c.slots[i : i+ways]
}

// get returns the verification of the token, nil if there is none.
func (c *cache) get(token string) *verified {
	hash := c.hash(token)
	row := c.row(hash)
	for i := range row {
		if v := row[i].Load(); v != nil && v.hash == hash && v.token == token {
			return v
		}
	}
	return nil
}

// put takes the token's own slot, a free one, or that of whoever's turn it is.
// Two goroutines that put at once may waste a slot; that costs a verification.
func (c *cache) put(v *verified) {
	v.hash = c.hash(v.token)
	row := c.row(v.hash)
	free := -1
	for i := range row {
		switch old := row[i].Load(); {
		case old != nil && old.token == v.token:
			row[i].Store(v)
			return
		case old == nil && free < 0:
			free = i
		}
	}
	if free < 0 {
		free = int(c.clock.Add(1) % ways)
	}
	row[free].Store(v)
}
