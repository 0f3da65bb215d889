package ledger

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	"bulwark.example/internal/fault"
)

// FrameHead is the length in bytes of what stands before a frame's body: the
// body's length and a CRC-32C over that length and the body.
const FrameHead = 8

// SegmentHead is the length in bytes of a segment file's header.
const SegmentHead = 8 + 1 + 1 + 8 + 8 + 8 + 8 + 4

// NoBlock is the block number that stands for none.
const NoBlock = ^uint64(0)

// Segment is the header of a segment file. It is there to name what is
// missing; the trees, not the header, say whether the contents are right.
type Segment struct {
	Headers   bool  // retention dropped the events, only the blocks' headers are left
	Group     uint8 // which classes; the writer's business
	First     uint64
	PrevFirst uint64 // first and last block of the group's segment before, NoBlock for none
	PrevLast  uint64
	Created   int64 // ns since 1970
}

const segmentFormat = 1

// Marshal returns the header's [SegmentHead] bytes.
func (s Segment) Marshal() []byte {
	magic := "BWKAUDIT"
	if s.Headers {
		magic = "BWKHEADS"
	}
	b := append(make([]byte, 0, SegmentHead), magic...)
	b = append(b, segmentFormat, s.Group)
	b = binary.BigEndian.AppendUint64(b, s.First)
	b = binary.BigEndian.AppendUint64(b, s.PrevFirst)
	b = binary.BigEndian.AppendUint64(b, s.PrevLast)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Created))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// ParseSegment reads what [Segment.Marshal] wrote. The error has kind
// [fault.Integrity].
func ParseSegment(b []byte) (Segment, error) {
	var s Segment
	if len(b) != SegmentHead || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return s, corrupt("the header of a segment is damaged")
	}
	switch string(b[:8]) {
	case "BWKAUDIT":
	case "BWKHEADS":
		s.Headers = true
	default:
		return s, corrupt("the file is not a segment of an audit log")
	}
	if b[8] != segmentFormat {
		return s, fault.New(fault.Unsupported, "the segment has a format that this version does not know")
	}
	s.Group = b[9]
	s.First = binary.BigEndian.Uint64(b[10:])
	s.PrevFirst = binary.BigEndian.Uint64(b[18:])
	s.PrevLast = binary.BigEndian.Uint64(b[26:])
	s.Created = int64(binary.BigEndian.Uint64(b[34:]))
	return s, nil
}

// Codec writes and reads frames. It is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a codec whose decoder never gives more than [MaxPayload].
func NewCodec() *Codec {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err) // the options are constants
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxPayload),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return &Codec{enc, dec}
}

// AppendFrame appends the block as a frame: length, CRC-32C, leaf, length of
// the events, sub-roots, zstd of the events. A block without payload gives a
// frame that ends after the sub-roots.
func (c *Codec) AppendFrame(dst []byte, b *Block) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, FrameHead)...)
	dst = b.Leaf.append(dst)
	dst = binary.BigEndian.AppendUint32(dst, b.RawSize)
	for _, s := range b.Subs {
		dst = s.append(dst)
	}
	if b.Payload != nil {
		dst = c.enc.EncodeAll(b.Payload, dst)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-FrameHead))
	binary.BigEndian.PutUint32(dst[start+4:], frameSum(dst[start:start+4], dst[start+FrameHead:]))
	return dst
}

func frameSum(length, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, body)
}

// FrameSize reads a frame's head and returns the length of the body that
// follows. The error has kind [fault.Integrity].
func FrameSize(head []byte) (int, error) {
	n := binary.BigEndian.Uint32(head[:4])
	if n < leafSize+4+subRootSize || n > MaxFrame {
		return 0, corrupt("the length of a frame is impossible")
	}
	return int(n), nil
}

// ParseHeader reads the block's header out of the body of a frame and returns
// the compressed payload, which may be empty. It checks no checksum: for a
// reader that skips by what the header says. The error has kind
// [fault.Integrity].
func ParseHeader(body []byte) (*Block, []byte, error) {
	if len(body) < leafSize+4 {
		return nil, nil, corrupt("a frame is too short")
	}
	leaf, err := parseLeaf(body[:leafSize])
	if err != nil {
		return nil, nil, err
	}
	b := &Block{Leaf: leaf, RawSize: binary.BigEndian.Uint32(body[leafSize:])}
	rest := body[leafSize+4:]
	if b.RawSize > MaxPayload || len(rest) < int(leaf.Tenants)*subRootSize {
		return nil, nil, corrupt("the header of a frame is impossible")
	}
	b.Subs = make([]SubRoot, leaf.Tenants)
	for i := range b.Subs {
		if b.Subs[i], err = parseSubRoot(rest[:subRootSize]); err != nil {
			return nil, nil, err
		}
		rest = rest[subRootSize:]
	}
	return b, rest, nil
}

// CheckFrame compares the checksum of a whole frame. The error has kind
// [fault.Integrity].
func CheckFrame(head, body []byte) error {
	if frameSum(head[:4], body) != binary.BigEndian.Uint32(head[4:]) {
		return corrupt("the checksum of a frame does not fit its bytes")
	}
	return nil
}

// Unpack fills the payload of a block from its compressed form. The error has
// kind [fault.Integrity].
func (c *Codec) Unpack(b *Block, packed []byte) error {
	payload, err := c.dec.DecodeAll(packed, make([]byte, 0, b.RawSize))
	if err != nil {
		return fault.Wrap(fault.Integrity, "the events of a block do not unpack", err)
	}
	if len(payload) != int(b.RawSize) || len(payload) == 0 {
		return corrupt("the events of a block have another length than stated")
	}
	b.Payload = payload
	return nil
}
