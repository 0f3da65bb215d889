package ledger

import (
	"encoding/binary"
	"math"

	"golang.org/x/mod/sumdb/tlog"
)

const blockFormat = 1

const (
	leafSize    = 1 + 8 + 4 + 8 + 8 + 8 + 2 + 4 + 32 + 32
	subRootSize = 1 + 16 + 8 + 4 + 32 + 32
)

// Leaf is what the outer tree states of one block. All of a block's header is
// covered by it: the sub-roots through Root.
type Leaf struct {
	Block   uint64 // number, from 0; also the index in the outer tree
	Count   uint32 // events
	Settled int64  // ns since 1970: what the writer was given before (less its linger) is in earlier blocks, or stated as lost
	First   int64  // earliest event, ns since 1970
	Last    int64  // latest event
	Classes uint16 // bit n is set when an event of class n is inside
	Tenants uint32 // number of sub-roots
	Prev    Hash   // leaf hash of the block before, zero for block 0
	Root    Hash   // RFC 6962 tree hash over the sub-roots, ordered by tag
}

// Marshal returns the leaf's bytes, big endian: what the outer tree hashes.
func (l Leaf) Marshal() []byte { return l.append(make([]byte, 0, leafSize)) }

func (l Leaf) append(b []byte) []byte {
	b = append(b, blockFormat)
	b = binary.BigEndian.AppendUint64(b, l.Block)
	b = binary.BigEndian.AppendUint32(b, l.Count)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Settled))
	b = binary.BigEndian.AppendUint64(b, uint64(l.First))
	b = binary.BigEndian.AppendUint64(b, uint64(l.Last))
	b = binary.BigEndian.AppendUint16(b, l.Classes)
	b = binary.BigEndian.AppendUint32(b, l.Tenants)
	b = append(b, l.Prev[:]...)
	return append(b, l.Root[:]...)
}

// Hash returns the RFC 6962 leaf hash.
func (l Leaf) Hash() Hash { return tlog.RecordHash(l.Marshal()) }

// parseLeaf reads what [Leaf.Marshal] wrote. The error has kind [fault.Integrity].
func parseLeaf(b []byte) (Leaf, error) {
	var l Leaf
	if len(b) != leafSize || b[0] != blockFormat {
		return l, corrupt("a block's leaf has an unknown form")
	}
	l.Block = binary.BigEndian.Uint64(b[1:])
	l.Count = binary.BigEndian.Uint32(b[9:])
	l.Settled = int64(binary.BigEndian.Uint64(b[13:]))
	l.First = int64(binary.BigEndian.Uint64(b[21:]))
	l.Last = int64(binary.BigEndian.Uint64(b[29:]))
	l.Classes = binary.BigEndian.Uint16(b[37:])
	l.Tenants = binary.BigEndian.Uint32(b[39:])
	copy(l.Prev[:], b[43:])
	copy(l.Root[:], b[75:])
	if l.Count == 0 || l.Count > MaxBlockEvents || l.Tenants == 0 || l.Tenants > l.Count || l.Block > math.MaxInt64 {
		return l, corrupt("a block's leaf states impossible counts")
	}
	return l, nil
}

// SubRoot is what a block states of one tenant: the link of its chain.
type SubRoot struct {
	Tag   Tag
	First uint64 // sequence number of the tenant's first event in the block
	Count uint32 // its events in the block
	Prev  Hash   // leaf hash of the tenant's sub-root before, zero for its first
	Root  Hash   // RFC 6962 tree hash over its events here, in order of arrival
}

// Marshal returns the sub-root's bytes, big endian: what the block's tree hashes.
func (s SubRoot) Marshal() []byte { return s.append(make([]byte, 0, subRootSize)) }

func (s SubRoot) append(b []byte) []byte {
	b = append(b, blockFormat)
	b = append(b, s.Tag[:]...)
	b = binary.BigEndian.AppendUint64(b, s.First)
	b = binary.BigEndian.AppendUint32(b, s.Count)
	b = append(b, s.Prev[:]...)
	return append(b, s.Root[:]...)
}

// Hash returns the RFC 6962 leaf hash.
func (s SubRoot) Hash() Hash { return tlog.RecordHash(s.Marshal()) }

// parseSubRoot reads what [SubRoot.Marshal] wrote. The error has kind
// [fault.Integrity].
func parseSubRoot(b []byte) (SubRoot, error) {
	var s SubRoot
	if len(b) != subRootSize || b[0] != blockFormat {
		return s, corrupt("a tenant's sub-root has an unknown form")
	}
	copy(s.Tag[:], b[1:])
	s.First = binary.BigEndian.Uint64(b[17:])
	s.Count = binary.BigEndian.Uint32(b[25:])
	copy(s.Prev[:], b[29:])
	copy(s.Root[:], b[61:])
	if s.Count == 0 || s.Count > MaxBlockEvents || s.First > math.MaxInt64 {
		return s, corrupt("a tenant's sub-root states impossible counts")
	}
	return s, nil
}

// Block is up to [MaxBlockEvents] events with their trees.
type Block struct {
	Leaf    Leaf
	Subs    []SubRoot // ordered by tag
	RawSize uint32    // length of the payload
	Payload []byte    // the events, each after its length as a uvarint; nil when dropped by retention
}

// Events returns the bytes of the events in the order of the trees: by tag,
// then by arrival. They alias Payload. The error has kind [fault.Integrity].
func (b *Block) Events() ([][]byte, error) {
	out := make([][]byte, 0, min(b.Leaf.Count, MaxBlockEvents))
	rest := b.Payload
	for len(rest) > 0 {
		n, k := binary.Uvarint(rest)
		if k <= 0 || n == 0 || n > MaxEvent || n > uint64(len(rest)-k) || len(out) == MaxBlockEvents {
			return nil, corrupt("the events of a block are not framed as the format prescribes")
		}
		out = append(out, rest[k:k+int(n)])
		rest = rest[k+int(n):]
	}
	if len(out) != int(b.Leaf.Count) {
		return nil, corrupt("a block does not hold as many events as it states")
	}
	return out, nil
}

// root returns the tree hash over the sub-roots.
func subsRoot(subs []SubRoot) Hash {
	if len(subs) == 1 {
		return subs[0].Hash()
	}
	hashes := make([]Hash, len(subs))
	for i, s := range subs {
		hashes[i] = s.Hash()
	}
	return root(hashes)
}
