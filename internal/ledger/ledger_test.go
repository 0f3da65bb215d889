package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a committed file, or writes it under -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed; stored logs would not verify any more.\n got %s\nwant %s", name, got, want)
	}
}

func hexLines(parts ...[]byte) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		fmt.Fprintf(&b, "%x\n", p)
	}
	return b.Bytes()
}

const testOrigin = "bulwark.example/audit/test"

func tid(t testing.TB, s string) tenant.ID {
	t.Helper()
	id, err := tenant.Trusted(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// full is an event with every field.
func full(t testing.TB) Event {
	return Event{
		ID: "01J0000000000000000000000E", Time: time.Unix(1790000000, 123456789).UTC(), Class: Deny, Action: "request",
		Tenant: tid(t, "01J0000000000000000000000T"), Subject: "user:01J0000000000000000000000S",
		Actors: []string{"service:01J0000000000000000000000A", "service:01J0000000000000000000000B"}, ClientID: "01J0000000000000000000000C",
		Resource: "document:roadmap", Relation: "can_view", Decision: "deny", Unenforced: true, Reason: "no_relation",
		Route: "documents", RequestID: "01J0000000000000000000000R", DecisionID: "01J0000000000000000000000D", Model: "01J0000000000000000000000M",
		Revision: relation.Revision{Epoch: 1, Store: "01J0000000000000000000000X", Rev: 42}, Source: "192.0.2.0/24", Count: 70000, Status: 404,
		Detail: map[string]string{"b": "2", "a": "1", "longer": "x"},
	}
}

// few are events of three tenants in the order of arrival.
func few(t testing.TB) []Event {
	var out []Event
	for i := range 7 {
		out = append(out, Event{
			ID: fmt.Sprintf("01J000000000000000000000%02d", i), Time: time.Unix(1790000000+int64(i), 0).UTC(), Class: Class(i%3 + 4),
			Tenant: tid(t, fmt.Sprintf("01J0000000000000000000000%d", i%3)), Action: "request", Decision: "deny",
		})
	}
	return out
}

func saltOf(i int) []byte {
	s := sha256.Sum256([]byte{byte(i)})
	return s[:SaltSize]
}

func itemsOf(t testing.TB, c *Chain, events []Event) []Item {
	t.Helper()
	var items []Item
	for i := range events {
		raw, err := AppendEvent(nil, &events[i], saltOf(i))
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, c.ItemOf(&events[i], raw))
	}
	return items
}

// keyPair is a fixed key for golden files only: it guards nothing.
func keyPair(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	seed := sha256.Sum256([]byte("a key for golden files"))
	priv := ed25519.NewKeyFromSeed(seed[:])
	pub := append([]byte{1}, priv.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(testOrigin+"\n"), pub...))
	hash := binary.BigEndian.Uint32(sum[:])
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", testOrigin, hash, base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...))))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(fmt.Sprintf("%s+%08x+%s", testOrigin, hash, base64.StdEncoding.EncodeToString(pub)))
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestEventRoundTrip(t *testing.T) {
	t.Parallel()
	ev := full(t)
	raw, err := AppendEvent(nil, &ev, saltOf(0))
	if err != nil {
		t.Fatal(err)
	}
	small := Event{Class: Allow, Tenant: ev.Tenant}
	rawSmall, err := AppendEvent(nil, &small, nil)
	if err != nil {
		t.Fatal(err)
	}
	hash := tlog.RecordHash(raw)
	golden(t, "event", hexLines(raw, hash[:], rawSmall))
	for _, c := range []struct {
		raw  []byte
		want Event
	}{{raw, ev}, {rawSmall, small}} {
		got, err := DecodeEvent(c.raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(tenant.ID{})); diff != "" {
			t.Error(diff)
		}
	}
	j, err := json.MarshalIndent(Stored{Block: 7, Seq: 3, Event: ev}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "event-json", j)
}

// The bytes are what an independent encoder makes of the same fields under
// RFC 8949's core deterministic rules.
func TestEncodingIsCoreDeterministic(t *testing.T) {
	t.Parallel()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	events := append(few(t), full(t))
	events[0].Action = "broken \xff text"
	for i := range events {
		raw, err := AppendEvent(nil, &events[i], saltOf(i))
		if err != nil {
			t.Fatal(err)
		}
		var m map[uint64]any
		if err := cbor.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		again, err := mode.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, again) {
			t.Errorf("event %d:\n got %x\nwant %x", i, raw, again)
		}
	}
}

// What a later version adds is passed over, and a sealed field reads as empty.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := mode.Marshal(map[uint64]any{
		0: []any{0, 2}, 4: []any{0, 4}, 6: []any{0, "01J0000000000000000000000T"}, 7: []any{2, []byte("sealed")},
		900: []any{2, []byte{1}}, 901: []any{0, map[string]any{"x": []any{1, -2, "y", true, nil}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := DecodeEvent(raw)
	if err != nil {
		t.Fatal(err)
	}
	if ev.Class != Deny || ev.Subject != "" {
		t.Errorf("got %+v", ev)
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	t.Parallel()
	ev := full(t)
	good, err := AppendEvent(nil, &ev, saltOf(0))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"empty": {}, "trailing": append(bytes.Clone(good), 0), "cut": good[:len(good)-1],
		"indefinite map":  {0xbf, 0xff},
		"no tenant":       mustHex(t, "a1048200"+"04"),
		"long head":       mustHex(t, "a20482001804"+"0682007821"+hex.EncodeToString([]byte("01J0000000000000000000000T"))),
		"keys descending": mustHex(t, "a206820078"+"1a"+hex.EncodeToString([]byte("01J0000000000000000000000T"))+"04820004"),
		"key twice":       mustHex(t, "a204820004"+"04820004"),
		"huge count":      mustHex(t, "bb7fffffffffffffff00"),
		"deep":            append(mustHex(t, "a1190fff8200"), bytes.Repeat([]byte{0x81}, 2000)...),
		"too large":       append([]byte{0xa0}, make([]byte, MaxEvent)...),
	} {
		if _, err := DecodeEvent(raw); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAppendEventRefuses(t *testing.T) {
	t.Parallel()
	big := full(t)
	big.Resource = strings.Repeat("x", MaxEvent)
	if _, err := AppendEvent(nil, &big, nil); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("too large: %v", err)
	}
	if _, err := AppendEvent(nil, &Event{Class: Deny}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no tenant: %v", err)
	}
	if _, err := AppendEvent(nil, &Event{Tenant: tenant.Platform}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no class: %v", err)
	}
}

// Our tree hashes and paths are those of x/mod's tlog.
func TestTreesAreRFC6962(t *testing.T) {
	t.Parallel()
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	var leaves []Hash
	outer := &Outer{}
	tiles := map[string][]byte{}
	keep := func(level int, index uint64, hashes []Hash) {
		var b []byte
		for _, h := range hashes {
			b = append(b, h[:]...)
		}
		tiles[TilePath(level, index, len(hashes))] = b
	}
	if outer.Root() != sha256.Sum256(nil) {
		t.Error("the root of the empty tree is not SHA-256 of nothing")
	}
	for n := range int64(700) {
		data := fmt.Appendf(nil, "leaf %d", n)
		hashes, err := tlog.StoredHashes(n, data, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		leaf := tlog.RecordHash(data)
		leaves = append(leaves, leaf)
		outer.Append(leaf, keep)
		want, err := tlog.TreeHash(n+1, read)
		if err != nil {
			t.Fatal(err)
		}
		if got := outer.Root(); got != want {
			t.Fatalf("root of %d leaves differs", n+1)
		}
		if n%37 != 0 {
			continue
		}
		if root(leaves) != want {
			t.Fatalf("block root of %d leaves differs", n+1)
		}
		for i := int64(0); i <= n; i += 11 {
			if err := tlog.CheckRecord(path(leaves, int(i)), n+1, want, i, leaves[i]); err != nil {
				t.Fatalf("path of %d in %d: %v", i, n+1, err)
			}
		}
	}
	outer.Edge(keep)
	for _, n := range []uint64{0, 255, 256, 511, 512, 699} {
		p, err := ProveLeaf(700, n, outer.Root(), func(path string) ([]byte, error) { return tiles[path], nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, 700, outer.Root(), int64(n), leaves[n]); err != nil {
			t.Errorf("leaf %d: %v", n, err)
		}
	}
	var edge [][]Hash
	for level, w := range Widths(700) {
		b := tiles[TilePath(level, 700>>(8*(level+1)), w)]
		var hs []Hash
		for ; len(b) > 0; b = b[32:] {
			hs = append(hs, Hash(b[:32]))
		}
		edge = append(edge, hs)
	}
	loaded, err := LoadOuter(700, edge)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Root() != outer.Root() {
		t.Error("a loaded tree has another root")
	}
}

func TestTilePath(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"tile/0/000":                 TilePath(0, 0, TileWidth),
		"tile/0/x001/x234/067":       TilePath(0, 1234067, TileWidth),
		"tile/1/x001/000.p/7":        TilePath(1, 1000, 7),
		"tile/entries/999.p/255":     TilePath(-1, 999, 255),
		"tile/entries/x001/x000/000": TilePath(-1, 1000000, TileWidth),
	} {
		if want != got {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// blocks makes two blocks with their golden bytes.
func blocks(t testing.TB) (*Chain, []*Block) {
	c := NewChain(testOrigin)
	var out []*Block
	events := few(t)
	for i, part := range [][]Event{events[:4], events[4:]} {
		b := c.Seal(itemsOf(t, c, part), time.Unix(1790000010+int64(i), 0))
		b.Payload = bytes.Clone(b.Payload)
		out = append(out, b)
	}
	return c, out
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	c, bs := blocks(t)
	var lines [][]byte
	reader := NewChain(testOrigin)
	for _, b := range bs {
		h := b.Leaf.Hash()
		lines = append(lines, b.Payload, b.Leaf.Marshal(), h[:])
		for _, s := range b.Subs {
			lines = append(lines, s.Marshal())
		}
		events, err := reader.Accept(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) != int(b.Leaf.Count) {
			t.Errorf("%d events, want %d", len(events), b.Leaf.Count)
		}
	}
	lines = append(lines, c.Marshal())
	golden(t, "blocks", hexLines(lines...))
	if !bytes.Equal(c.Marshal(), reader.Marshal()) {
		t.Error("writer and reader end in different states")
	}
	again, err := ParseChain(testOrigin, c.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Marshal(), c.Marshal()) {
		t.Error("the state does not survive a round trip")
	}
}

func TestChainRollback(t *testing.T) {
	t.Parallel()
	c := NewChain(testOrigin)
	events := few(t)
	c.Seal(itemsOf(t, c, events[:2]), time.Unix(1, 0))
	c.Commit()
	before := c.Marshal()
	c.Seal(itemsOf(t, c, events), time.Unix(2, 0))
	c.Seal(itemsOf(t, c, events[1:]), time.Unix(3, 0))
	c.Rollback()
	if !bytes.Equal(before, c.Marshal()) {
		t.Error("the rollback left traces")
	}
}

// Whatever is changed in a block, Accept notices.
func TestAcceptNotices(t *testing.T) {
	t.Parallel()
	changes := map[string]func(*Block){
		"number":       func(b *Block) { b.Leaf.Block++ },
		"prev":         func(b *Block) { b.Leaf.Prev[0]++ },
		"root":         func(b *Block) { b.Leaf.Root[0]++ },
		"count":        func(b *Block) { b.Leaf.Count++ },
		"first":        func(b *Block) { b.Leaf.First-- },
		"last":         func(b *Block) { b.Leaf.Last++ },
		"classes":      func(b *Block) { b.Leaf.Classes ^= 1 << Mutation },
		"tenants":      func(b *Block) { b.Leaf.Tenants++ },
		"sub gone":     func(b *Block) { b.Subs = b.Subs[1:] },
		"sub order":    func(b *Block) { b.Subs[0], b.Subs[1] = b.Subs[1], b.Subs[0]; b.Leaf.Root = subsRoot(b.Subs) },
		"sub seq":      func(b *Block) { b.Subs[0].First++; b.Leaf.Root = subsRoot(b.Subs) },
		"sub prev":     func(b *Block) { b.Subs[0].Prev[3]++; b.Leaf.Root = subsRoot(b.Subs) },
		"sub root":     func(b *Block) { b.Subs[0].Root[3]++; b.Leaf.Root = subsRoot(b.Subs) },
		"sub tag":      func(b *Block) { b.Subs[0].Tag[15]++; b.Leaf.Root = subsRoot(b.Subs) },
		"event byte":   func(b *Block) { b.Payload[20]++ },
		"event length": func(b *Block) { b.Payload[0]++ },
		"event gone":   func(b *Block) { n, k := binary.Uvarint(b.Payload); b.Payload = b.Payload[int(n)+k:] },
	}
	for name, change := range changes {
		c := NewChain(testOrigin)
		_, bs := blocks(t)
		if _, err := c.Accept(bs[0]); err != nil {
			t.Fatal(err)
		}
		state := c.Marshal()
		change(bs[1])
		if _, err := c.Accept(bs[1]); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: got %v", name, err)
		}
		if !bytes.Equal(state, c.Marshal()) {
			t.Errorf("%s: a refused block changed the chain", name)
		}
	}
}

// Frames of every earlier version must read; zstd may compress differently.
func TestFrames(t *testing.T) {
	t.Parallel()
	codec := NewCodec()
	_, bs := blocks(t)
	head := Segment{Group: 1, First: 3, PrevFirst: NoBlock, PrevLast: NoBlock, Created: 1790000000}
	var file []byte
	file = append(file, head.Marshal()...)
	for _, b := range bs {
		file = codec.AppendFrame(file, b)
	}
	dropped := *bs[0]
	dropped.Payload = nil
	file = codec.AppendFrame(file, &dropped)
	if *update {
		golden(t, "segment", hexLines(file))
	}
	text, err := os.ReadFile("testdata/segment.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, stored := range [][]byte{file, mustHex(t, strings.TrimSpace(string(text)))} {
		got, err := ParseSegment(stored[:SegmentHead])
		if err != nil || got != head {
			t.Fatalf("segment header: %+v %v", got, err)
		}
		rest := stored[SegmentHead:]
		for i, want := range []*Block{bs[0], bs[1], &dropped} {
			n, err := FrameSize(rest[:FrameHead])
			if err != nil {
				t.Fatal(err)
			}
			b, err := decodeFrame(codec, rest[:FrameHead+n])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, b); diff != "" {
				t.Errorf("frame %d: %s", i, diff)
			}
			rest = rest[FrameHead+n:]
		}
		if len(rest) != 0 {
			t.Error("bytes are left")
		}
	}
}

// decodeFrame does what a reader of whole frames does.
func decodeFrame(codec *Codec, frame []byte) (*Block, error) {
	if len(frame) < FrameHead {
		return nil, corrupt("short")
	}
	n, err := FrameSize(frame[:FrameHead])
	if err != nil || len(frame) != FrameHead+n {
		return nil, corrupt("length")
	}
	if err := CheckFrame(frame[:FrameHead], frame[FrameHead:]); err != nil {
		return nil, err
	}
	b, packed, err := ParseHeader(frame[FrameHead:])
	if err != nil || len(packed) == 0 {
		return b, err
	}
	return b, codec.Unpack(b, packed)
}

// Every single flipped bit of a frame is noticed.
func TestFrameBits(t *testing.T) {
	t.Parallel()
	codec := NewCodec()
	_, bs := blocks(t)
	frame := codec.AppendFrame(nil, bs[0])
	for i := range len(frame) * 8 {
		bad := bytes.Clone(frame)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decodeFrame(codec, bad); err == nil {
			t.Fatalf("bit %d", i)
		}
	}
}

func TestCheckpointAndProof(t *testing.T) {
	t.Parallel()
	signer, verifier := keyPair(t)
	_, bs := blocks(t)
	outer := &Outer{}
	tiles := map[string][]byte{}
	for _, b := range bs {
		outer.Append(b.Leaf.Hash(), nil)
	}
	outer.Edge(func(level int, index uint64, hashes []Hash) {
		var b []byte
		for _, h := range hashes {
			b = append(b, h[:]...)
		}
		tiles[TilePath(level, index, len(hashes))] = b
	})
	head := Checkpoint{Origin: testOrigin, Size: outer.Size(), Root: outer.Root()}
	signed, err := head.Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "checkpoint", signed)
	parsed, err := ParseCheckpoint(signed, verifier)
	if err != nil || parsed != head {
		t.Fatalf("%+v %v", parsed, err)
	}
	if n, err := HeadSize(signed); err != nil || n != 2 {
		t.Errorf("size %d %v", n, err)
	}
	p, err := ProveLeaf(head.Size, 1, head.Root, func(path string) ([]byte, error) { return tiles[path], nil })
	if err != nil {
		t.Fatal(err)
	}
	for i := range int(bs[1].Leaf.Count) {
		proof, err := Prove(bs[1], i, p, signed)
		if err != nil {
			t.Fatal(err)
		}
		ev, cp, err := proof.Verify(verifier)
		if err != nil || cp != head || ev.Block != 1 {
			t.Fatalf("event %d: %+v %v", i, ev, err)
		}
		if i == 0 {
			j, err := json.MarshalIndent(proof, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "proof", j)
			tampered(t, j, verifier)
		}
	}
}

// tampered changes each value of a proof in turn.
func tampered(t *testing.T, proof []byte, v note.Verifier) {
	changes := []func(*Proof){
		func(p *Proof) { p.Event[len(p.Event)-1]++ },
		func(p *Proof) { p.EventIndex++ },
		func(p *Proof) { p.EventIndex = -1 },
		func(p *Proof) { p.SubRoot[40]++ },
		func(p *Proof) { p.SubRoot[20]++ },
		func(p *Proof) { p.SubIndex++ },
		func(p *Proof) { p.SubPath[0][0]++ },
		func(p *Proof) { p.SubPath = p.SubPath[:0] },
		func(p *Proof) { p.Leaf[8]++ },
		func(p *Proof) { p.Leaf[15]++ },
		func(p *Proof) { p.LeafPath[0] = p.LeafPath[0][1:] },
		func(p *Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n2\n", "\n3\n", 1) },
		func(p *Proof) { p.Checkpoint = "" },
		func(p *Proof) { p.Format = 2 },
	}
	for i, change := range changes {
		var p Proof
		if err := json.Unmarshal(proof, &p); err != nil {
			t.Fatal(err)
		}
		change(&p)
		if _, _, err := p.Verify(v); err == nil {
			t.Errorf("change %d is not noticed", i)
		}
	}
}

func TestClassNames(t *testing.T) {
	t.Parallel()
	for c := Mutation; c <= System; c++ {
		if got, ok := ParseClass(c.String()); !ok || got != c {
			t.Errorf("%d: %q", c, c)
		}
	}
	if c, ok := ParseClass("key_use"); !ok || c != KeyUse {
		t.Error("an underscore is allowed")
	}
	if _, ok := ParseClass(""); ok {
		t.Error("no class has no name")
	}
}
