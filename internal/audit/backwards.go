package audit

import (
	"io"

	"bulwark.example/internal/ledger"
)

// backward reads the blocks of some groups from the newest to the oldest.
type backward struct {
	fsys  FS
	dir   string
	codec *ledger.Codec
	lines [groupCount]backLine
	until uint64 // blocks from this number on are passed over
}

// backLine is one group's way back.
type backLine struct {
	files   []segFile // not opened yet, the next one last
	r       *segReader
	offsets []int64 // of the frames of r not given yet
	front   frame
	loaded  bool
	err     error
}

// backwards returns a reader of the groups whose bits are set.
func backwards(fsys FS, dir string, files []segFile, groups int) *backward {
	b := &backward{fsys: fsys, dir: dir, codec: ledger.NewCodec(), until: ledger.NoBlock}
	for _, f := range files {
		if groups&(1<<f.group) != 0 {
			b.lines[f.group].files = append(b.lines[f.group].files, f)
		}
	}
	return b
}

// next returns the frame with the highest number, io.EOF after the first
// block. What a crash or a running writer left incomplete at a segment's end
// is passed over.
func (b *backward) next() (frame, error) {
	best := -1
	for g := range b.lines {
		l := &b.lines[g]
		if !l.loaded {
			l.front, l.err = b.read(l)
			l.loaded = true
		}
		if l.err != nil && l.err != io.EOF {
			return frame{}, l.err
		}
		if l.err == nil && (best < 0 || l.front.block.Leaf.Block > b.lines[best].front.block.Leaf.Block) {
			best = g
		}
	}
	if best < 0 {
		return frame{}, io.EOF
	}
	b.lines[best].loaded = false
	return b.lines[best].front, nil
}

func (b *backward) read(l *backLine) (frame, error) {
	for {
		for len(l.offsets) > 0 {
			l.r.off = l.offsets[len(l.offsets)-1]
			l.offsets = l.offsets[:len(l.offsets)-1]
			fr, err := l.r.next()
			if err != nil || fr.block.Leaf.Block < b.until {
				return fr, err
			}
		}
		if l.r != nil {
			l.r.close()
			l.r = nil
		}
		if len(l.files) == 0 {
			return frame{}, io.EOF
		}
		file := l.files[len(l.files)-1]
		l.files = l.files[:len(l.files)-1]
		r, err := openSegment(b.fsys, b.dir, file)
		if err == errTorn {
			continue
		}
		if err != nil {
			return frame{}, err
		}
		l.r = r
		if l.offsets, err = r.offsets(l.offsets[:0]); err != nil {
			return frame{}, err
		}
	}
}

func (b *backward) close() {
	for g := range b.lines {
		if r := b.lines[g].r; r != nil {
			r.close()
		}
	}
}

// offsets returns where the complete frames of the file begin.
func (r *segReader) offsets(out []int64) ([]int64, error) {
	var head [ledger.FrameHead]byte
	for off := int64(ledger.SegmentHead); r.size-off >= ledger.FrameHead; {
		if _, err := r.f.ReadAt(head[:], off); err != nil {
			return nil, err
		}
		n, err := ledger.FrameSize(head[:])
		if err != nil {
			return nil, err
		}
		end := off + ledger.FrameHead + int64(n)
		if end > r.size {
			break
		}
		out = append(out, off)
		off = end
	}
	return out, nil
}
