package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"bulwark.example/internal/tenant"
)

// Item is one encoded event on its way into a block.
type Item struct {
	Tag   Tag
	Raw   []byte
	Time  int64 // ns since 1970
	Class Class
}

// head is the end of one tenant's chain.
type head struct {
	next uint64
	last Hash
}

// Chain is the running state that blocks extend: the next number, the hash of
// the last leaf and the end of every tenant's chain. The writer extends it
// with [Chain.Seal], a reader checks blocks against it with [Chain.Accept].
// Both can be taken back to the last [Chain.Commit]. It is not safe for
// concurrent use.
type Chain struct {
	origin string
	next   uint64
	prev   Hash
	heads  map[Tag]head

	committed struct {
		next uint64
		prev Hash
	}
	undo  map[Tag]head // what heads held at the last commit; next 0 means absent
	loose bool         // a defect lies behind: tenants' links cannot be judged

	tags    map[tenant.ID]Tag // cache
	payload []byte
}

// NewChain returns the chain of an empty log of that origin.
func NewChain(origin string) *Chain {
	return &Chain{origin: origin, heads: map[Tag]head{}, undo: map[Tag]head{}, tags: map[tenant.ID]Tag{}}
}

// Next returns the number of the block that comes next: how many there are.
func (c *Chain) Next() uint64 { return c.next }

// Tag returns the tag of a tenant in this log.
func (c *Chain) Tag(id tenant.ID) Tag {
	t, ok := c.tags[id]
	if !ok {
		if len(c.tags) >= 1<<16 {
			clear(c.tags)
		}
		t = TagOf(c.origin, id.String())
		c.tags[id] = t
	}
	return t
}

// Seal makes the next block of 1 to [MaxBlockEvents] items and extends the
// chain; settled is the leaf's Settled. It reorders items by tag. The block's payload is overwritten by the
// next call.
func (c *Chain) Seal(items []Item, settled time.Time) *Block {
	slices.SortStableFunc(items, func(a, b Item) int { return bytes.Compare(a.Tag[:], b.Tag[:]) })
	b := &Block{Leaf: Leaf{
		Block: c.next, Count: uint32(len(items)), Settled: settled.UnixNano(),
		First: items[0].Time, Last: items[0].Time, Prev: c.prev,
	}}
	hashes := make([]Hash, len(items))
	payload := c.payload[:0]
	for i := range items {
		it := &items[i]
		hashes[i] = tlog.RecordHash(it.Raw)
		payload = binary.AppendUvarint(payload, uint64(len(it.Raw)))
		payload = append(payload, it.Raw...)
		b.Leaf.First = min(b.Leaf.First, it.Time)
		b.Leaf.Last = max(b.Leaf.Last, it.Time)
		b.Leaf.Classes |= classBit(it.Class)
	}
	for i := 0; i < len(items); {
		k := i + 1
		for k < len(items) && items[k].Tag == items[i].Tag {
			k++
		}
		h := c.heads[items[i].Tag]
		b.Subs = append(b.Subs, SubRoot{Tag: items[i].Tag, First: h.next, Count: uint32(k - i), Prev: h.last, Root: root(hashes[i:k])})
		i = k
	}
	c.payload, b.Payload, b.RawSize = payload, payload, uint32(len(payload))
	b.Leaf.Tenants = uint32(len(b.Subs))
	b.Leaf.Root = subsRoot(b.Subs)
	c.extend(b)
	return b
}

func classBit(c Class) uint16 {
	if c > 15 {
		return 0
	}
	return 1 << c
}

func (c *Chain) extend(b *Block) {
	for _, s := range b.Subs {
		if _, noted := c.undo[s.Tag]; !noted {
			c.undo[s.Tag] = c.heads[s.Tag]
		}
		c.heads[s.Tag] = head{s.First + uint64(s.Count), s.Hash()}
	}
	c.next = b.Leaf.Block + 1
	c.prev = b.Leaf.Hash()
}

// Commit makes the present state the one that [Chain.Rollback] returns to.
func (c *Chain) Commit() {
	clear(c.undo)
	c.committed.next, c.committed.prev = c.next, c.prev
}

// Rollback forgets every block since the last [Chain.Commit].
func (c *Chain) Rollback() {
	for tag, h := range c.undo {
		if h.next == 0 {
			delete(c.heads, tag)
		} else {
			c.heads[tag] = h
		}
	}
	clear(c.undo)
	c.next, c.prev = c.committed.next, c.committed.prev
}

// Accept checks a block that was read against the chain, extends the chain
// and returns the decoded events; none for a block whose payload retention
// dropped. The error names the defect and has kind [fault.Integrity]; the
// chain is then unchanged.
func (c *Chain) Accept(b *Block) ([]Stored, error) {
	l := b.Leaf
	if l.Block != c.next {
		return nil, corrupt(fmt.Sprintf("found block %d where %d belongs", l.Block, c.next))
	}
	if l.Prev != c.prev {
		return nil, corrupt(fmt.Sprintf("block %d does not follow from the block before", l.Block))
	}
	return c.check(b)
}

// Resume accepts a block behind a defect: number and previous hash are taken
// as the block states them, and from then on the links of tenants' chains are
// not judged.
func (c *Chain) Resume(b *Block) ([]Stored, error) {
	c.loose = true
	return c.check(b)
}

// Skip extends the chain by what a block states of itself, unchecked: after
// its defect was reported.
func (c *Chain) Skip(b *Block) {
	c.loose = true
	c.extend(b)
}

func (c *Chain) check(b *Block) ([]Stored, error) {
	l := b.Leaf
	if len(b.Subs) != int(l.Tenants) || subsRoot(b.Subs) != l.Root {
		return nil, corrupt(fmt.Sprintf("the root of block %d is not that of its tenants", l.Block))
	}
	var total uint32
	for i, s := range b.Subs {
		if i > 0 && bytes.Compare(b.Subs[i-1].Tag[:], s.Tag[:]) >= 0 {
			return nil, corrupt(fmt.Sprintf("the tenants of block %d are out of order", l.Block))
		}
		if h := c.heads[s.Tag]; !c.loose && (h.next != s.First || h.last != s.Prev) {
			return nil, corrupt(fmt.Sprintf("in block %d the chain of a tenant is broken", l.Block))
		}
		total += s.Count
	}
	if total != l.Count {
		return nil, corrupt(fmt.Sprintf("block %d does not count its events right", l.Block))
	}
	var out []Stored
	if b.Payload != nil {
		var err error
		if out, err = c.checkEvents(b); err != nil {
			return nil, err
		}
	}
	c.extend(b)
	return out, nil
}

func (c *Chain) checkEvents(b *Block) ([]Stored, error) {
	raws, err := b.Events()
	if err != nil {
		return nil, err
	}
	out := make([]Stored, len(raws))
	hashes := make([]Hash, len(raws))
	bounds := Leaf{First: 1<<63 - 1}
	for i, raw := range raws {
		ev, err := DecodeEvent(raw)
		if err != nil {
			return nil, err
		}
		hashes[i] = tlog.RecordHash(raw)
		out[i] = Stored{Block: b.Leaf.Block, Raw: raw, Event: ev}
		ns := eventTime(&ev)
		bounds.First, bounds.Last = min(bounds.First, ns), max(bounds.Last, ns)
		bounds.Classes |= classBit(ev.Class)
	}
	if bounds.First != b.Leaf.First || bounds.Last != b.Leaf.Last || bounds.Classes != b.Leaf.Classes {
		return nil, corrupt(fmt.Sprintf("block %d states other times or classes than its events", b.Leaf.Block))
	}
	i := 0
	for _, s := range b.Subs {
		k := i + int(s.Count)
		if root(hashes[i:k]) != s.Root {
			return nil, corrupt(fmt.Sprintf("an event in block %d is not what was written", b.Leaf.Block))
		}
		for n := i; n < k; n++ {
			out[n].Seq = s.First + uint64(n-i)
			if c.Tag(out[n].Event.Tenant) != s.Tag {
				return nil, corrupt(fmt.Sprintf("an event in block %d lies in another tenant's chain", b.Leaf.Block))
			}
		}
		i = k
	}
	return out, nil
}

// eventTime is the time that the encoding holds, 0 for none.
func eventTime(ev *Event) int64 {
	if ev.Time.IsZero() {
		return 0
	}
	return max(ev.Time.UnixNano(), 0)
}

// ItemOf returns the item of an encoded event.
func (c *Chain) ItemOf(ev *Event, raw []byte) Item {
	return Item{Tag: c.Tag(ev.Tenant), Raw: raw, Time: eventTime(ev), Class: ev.Class}
}

const chainFormat = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Marshal returns the state as bytes with a checksum: derived data, so that a
// start need not read the whole log.
func (c *Chain) Marshal() []byte {
	b := make([]byte, 0, 64+len(c.heads)*56)
	b = append(b, "BWKCHAIN"...)
	b = append(b, chainFormat)
	b = binary.BigEndian.AppendUint64(b, c.next)
	b = append(b, c.prev[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.heads)))
	tags := slices.SortedFunc(maps.Keys(c.heads), func(a, b Tag) int { return cmp.Or(bytes.Compare(a[:], b[:])) })
	for _, t := range tags {
		h := c.heads[t]
		b = append(b, t[:]...)
		b = binary.BigEndian.AppendUint64(b, h.next)
		b = append(b, h.last[:]...)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// ParseChain reads what [Chain.Marshal] wrote. The error has kind
// [fault.Integrity]; the caller then reads the log from its start.
func ParseChain(origin string, b []byte) (*Chain, error) {
	const fixed, each = 8 + 1 + 8 + 32 + 4, 16 + 8 + 32
	if len(b) < fixed+4 || string(b[:8]) != "BWKCHAIN" || b[8] != chainFormat ||
		crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, corrupt("the saved state of the audit log does not parse")
	}
	c := NewChain(origin)
	c.next = binary.BigEndian.Uint64(b[9:])
	copy(c.prev[:], b[17:])
	n := int(binary.BigEndian.Uint32(b[49:]))
	rest := b[fixed : len(b)-4]
	if n*each != len(rest) {
		return nil, corrupt("the saved state of the audit log does not parse")
	}
	for ; len(rest) > 0; rest = rest[each:] {
		var t Tag
		var h head
		copy(t[:], rest)
		h.next = binary.BigEndian.Uint64(rest[16:])
		copy(h.last[:], rest[24:])
		c.heads[t] = h
	}
	c.Commit()
	return c, nil
}
