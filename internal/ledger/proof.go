package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"bulwark.example/internal/fault"
)

// Proof shows that one event is in the log that a checkpoint heads, and where
// in its tenant's chain, without showing any other event. It is made to be
// kept as JSON; byte fields are base64.
type Proof struct {
	Format     int      `json:"format"`
	Event      []byte   `json:"event"`       // encoded, with its salt
	EventIndex int      `json:"event_index"` // in the tenant's subtree
	EventPath  [][]byte `json:"event_path"`
	SubRoot    []byte   `json:"sub_root"`  // [SubRoot.Marshal]
	SubIndex   int      `json:"sub_index"` // in the block's tree
	SubPath    [][]byte `json:"sub_path"`
	Leaf       []byte   `json:"leaf"` // [Leaf.Marshal]
	LeafPath   [][]byte `json:"leaf_path"`
	Checkpoint string   `json:"checkpoint"` // signed note
}

const proofFormat = 1

// Prove makes the proof of event i of the block. leafPath is the block's path
// in the tree of the signed checkpoint. The error has kind [fault.Integrity].
func Prove(b *Block, i int, leafPath []Hash, checkpoint []byte) (*Proof, error) {
	raws, err := b.Events()
	if err != nil {
		return nil, err
	}
	p := &Proof{Format: proofFormat, Leaf: b.Leaf.Marshal(), LeafPath: pack(leafPath), Checkpoint: string(checkpoint)}
	subs := make([]Hash, len(b.Subs))
	first := 0
	for n, s := range b.Subs {
		subs[n] = s.Hash()
		end := first + int(s.Count)
		if end > len(raws) {
			return nil, corrupt("the tenants of a block state more events than it holds")
		}
		if i >= first && i < end {
			leaves := make([]Hash, s.Count)
			for k := range leaves {
				leaves[k] = tlog.RecordHash(raws[first+k])
			}
			p.Event, p.EventIndex, p.EventPath = raws[i], i-first, pack(path(leaves, i-first))
			p.SubRoot, p.SubIndex = s.Marshal(), n
		}
		first = end
	}
	if p.Event == nil {
		return nil, fault.New(fault.Invalid, "the block has no such event")
	}
	p.SubPath = pack(path(subs, p.SubIndex))
	return p, nil
}

// Verify checks the whole way from the event to the signed checkpoint, with
// nothing but the proof and the log's public key. The error has kind
// [fault.Integrity] and names the step that fails.
func (p *Proof) Verify(v note.Verifier) (Stored, Checkpoint, error) {
	fail := func(step string, err error) (Stored, Checkpoint, error) {
		return Stored{}, Checkpoint{}, fault.Wrap(fault.Integrity, "the proof fails: "+step, err)
	}
	if p.Format != proofFormat {
		return Stored{}, Checkpoint{}, fault.New(fault.Unsupported, fmt.Sprintf("a proof of format %d is not known", p.Format))
	}
	cp, err := ParseCheckpoint([]byte(p.Checkpoint), v)
	if err != nil {
		return fail("its checkpoint", err)
	}
	leaf, err := parseLeaf(p.Leaf)
	if err != nil {
		return fail("its block", err)
	}
	sub, err := parseSubRoot(p.SubRoot)
	if err != nil {
		return fail("its tenant's sub-root", err)
	}
	ev, err := DecodeEvent(p.Event)
	if err != nil {
		return fail("its event", err)
	}
	if TagOf(cp.Origin, ev.Tenant.String()) != sub.Tag {
		return fail("the event is of another tenant than the sub-root", nil)
	}
	if err := included(p.EventPath, int64(sub.Count), sub.Root, int64(p.EventIndex), tlog.RecordHash(p.Event)); err != nil {
		return fail("the event is not under its tenant's sub-root", err)
	}
	if err := included(p.SubPath, int64(leaf.Tenants), leaf.Root, int64(p.SubIndex), sub.Hash()); err != nil {
		return fail("the sub-root is not under its block", err)
	}
	if leaf.Block >= cp.Size {
		return fail("the checkpoint does not reach the block", nil)
	}
	if err := included(p.LeafPath, int64(cp.Size), cp.Root, int64(leaf.Block), leaf.Hash()); err != nil {
		return fail("the block is not under the checkpoint", err)
	}
	return Stored{Block: leaf.Block, Seq: sub.First + uint64(p.EventIndex), Raw: p.Event, Event: ev}, cp, nil
}

func included(packed [][]byte, size int64, treeRoot Hash, index int64, leaf Hash) error {
	if index < 0 || index >= size || len(packed) > 64 {
		return corrupt("the position is outside the tree")
	}
	p := make(tlog.RecordProof, len(packed))
	for i, b := range packed {
		if len(b) != len(p[i]) {
			return corrupt("a hash of the path has the wrong length")
		}
		copy(p[i][:], b)
	}
	return tlog.CheckRecord(p, size, treeRoot, index, leaf)
}

func pack(hashes []Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = append([]byte(nil), hashes[i][:]...)
	}
	return out
}
