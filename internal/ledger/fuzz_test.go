package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// What decodes is also well-formed CBOR to an independent decoder, and an
// event of our own fields encodes to the same bytes again.
func FuzzDecodeEvent(f *testing.F) {
	events := append(few(f), full(f))
	for i := range events {
		raw, err := AppendEvent(nil, &events[i], saltOf(i))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ev, err := DecodeEvent(raw)
		if err != nil {
			return
		}
		if err := cbor.Wellformed(raw); err != nil {
			t.Fatalf("decoded what is not CBOR: %v", err)
		}
		again, err := AppendEvent(nil, &ev, saltOf(0))
		if err != nil {
			return // more than the encoder writes, such as too many bytes
		}
		twice, err := DecodeEvent(again)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if a, b := mustJSON(t, ev), mustJSON(t, twice); !bytes.Equal(a, b) {
			t.Fatalf("%s\n%s", a, b)
		}
	})
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A frame whose checksum fits, whatever is inside, neither panics nor makes
// more than the format's memory.
func FuzzFrame(f *testing.F) {
	codec := NewCodec()
	_, bs := blocks(f)
	for _, b := range bs {
		f.Add(codec.AppendFrame(nil, b)[FrameHead:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
		frame = binary.BigEndian.AppendUint32(frame, frameSum(frame, body))
		frame = append(frame, body...)
		b, err := decodeFrame(codec, frame)
		if err != nil {
			return
		}
		if len(b.Payload) > MaxPayload {
			t.Fatal("more than the limit")
		}
		_, _ = NewChain(testOrigin).Resume(b)
		_, _ = Prove(b, 0, nil, nil)
		c := NewChain(testOrigin)
		c.Skip(b)
	})
}

func FuzzSegment(f *testing.F) {
	f.Add(Segment{Group: 2, First: 9, PrevFirst: 1, PrevLast: 8, Created: 5}.Marshal())
	f.Add(Segment{Headers: true}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSegment(b)
		if err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Fatal("another form of the same header")
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	signer, verifier := keyPair(f)
	signed, err := Checkpoint{Origin: testOrigin, Size: 5}.Sign(signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b, verifier)
		if err == nil && c.Origin != testOrigin {
			t.Fatal("a checkpoint of another log")
		}
		_, _ = HeadSize(b)
	})
}

func FuzzProof(f *testing.F) {
	_, verifier := keyPair(f)
	f.Add([]byte(`{"format":1,"event":"oA==","event_path":[],"sub_root":"","leaf":"","checkpoint":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Proof
		if json.Unmarshal(b, &p) == nil {
			_, _, _ = p.Verify(verifier)
		}
	})
}

func FuzzChainState(f *testing.F) {
	c, _ := blocks(f)
	f.Add(c.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChain(testOrigin, b)
		if err == nil && !bytes.Equal(c.Marshal(), b) && c.Next() == 0 {
			t.Fatal("another form of the same state")
		}
	})
}
