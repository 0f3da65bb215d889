package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// VerifyOptions says against what a log is checked.
type VerifyOptions struct {
	FS       FS            // default: the operating system's
	Verifier note.Verifier // the log's public key; required
	Since    []byte        // a signed checkpoint that was kept elsewhere, or nil
}

// The kinds of defect.
const (
	DefectDamaged    = "damaged"    // bytes of a block or of a segment's header changed
	DefectMissing    = "missing"    // blocks are gone
	DefectSegment    = "segment"    // a whole segment is gone
	DefectOrder      = "order"      // a block stands where another belongs
	DefectDuplicate  = "duplicate"  // a block is there twice
	DefectForged     = "forged"     // well formed, and not what the trees say
	DefectTail       = "tail"       // the end that a head covers is gone
	DefectHead       = "head"       // the stored head is missing, does not verify or does not fit
	DefectUnrecorded = "unrecorded" // events were dropped without a record
	DefectTile       = "tile"       // a tile does not fit the segments
	maxDefects       = 1000
)

// Defect is one thing that is wrong with a log.
type Defect struct {
	Kind    string  `json:"kind"`
	Segment string  `json:"segment,omitempty"`
	Block   *uint64 `json:"block,omitempty"`
	Text    string  `json:"text"`
}

// Report is what a verification found.
type Report struct {
	Blocks   uint64   `json:"blocks"`
	Events   uint64   `json:"events"`
	Dropped  uint64   `json:"dropped"`   // events of blocks of which retention left the headers
	HeadSize uint64   `json:"head_size"` // blocks that the stored head covers
	Anchored bool     `json:"anchored"`  // a checkpoint kept elsewhere was given and fits
	Defects  []Defect `json:"defects,omitempty"`
	Notes    []string `json:"notes,omitempty"`
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Defects) == 0 }

// Summary says in one line what the report means.
func (r *Report) Summary() string {
	switch {
	case !r.OK():
		return fmt.Sprintf("violated: %d defects in %d blocks", len(r.Defects), r.Blocks)
	case r.Anchored:
		return fmt.Sprintf("consistent and anchored: %d blocks, %d events", r.Blocks, r.Events)
	}
	return fmt.Sprintf("internally consistent, not anchored: %d blocks, %d events", r.Blocks, r.Events)
}

// Verify reads a whole log, offline or beside its running writer, and names
// every defect. It needs memory for one block of each group and for one entry
// of each tenant. The error has kind [fault.Invalid] for options that cannot
// be used and [fault.Unavailable] when the files cannot be read; defects are
// not errors.
func Verify(ctx context.Context, dir string, opts VerifyOptions) (*Report, error) {
	if opts.Verifier == nil {
		return nil, fault.New(fault.Invalid, "verification needs the log's public key")
	}
	if opts.FS == nil {
		opts.FS = OS()
	}
	v := &verifier{fsys: opts.FS, dir: dir, chain: ledger.NewChain(opts.Verifier.Name()), codec: ledger.NewCodec(),
		tree: &ledger.Outer{}, report: &Report{}, dropped: map[string]bool{}, recorded: map[string]bool{}}
	if opts.Since != nil {
		since, err := ledger.ParseCheckpoint(opts.Since, opts.Verifier)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "the checkpoint to compare with is not one of this log", err)
		}
		v.since = &since
	}
	// The head first: a running log only grows after it.
	if err := v.readHead(opts.Verifier); err != nil {
		return nil, err
	}
	files, err := listSegments(opts.FS, dir)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
	}
	for _, f := range files {
		v.lines[f.group].files = append(v.lines[f.group].files, f)
	}
	defer v.close()
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	v.conclude()
	return v.report, nil
}

// verifier walks the three groups in the order of block numbers.
type verifier struct {
	fsys  FS
	dir   string
	chain *ledger.Chain
	codec *ledger.Codec
	tree  *ledger.Outer
	head  *ledger.Checkpoint
	since *ledger.Checkpoint
	lines [groupCount]verifyLine

	report   *Report
	damages  []damage        // found in a file, not yet given a block number
	missing  []span          // holes that a block out of order may still fill
	broken   bool            // the outer tree cannot be computed any more
	dropped  map[string]bool // segments of which only headers are left
	recorded map[string]bool // segments that a log.drop event names
	stop     bool
}

type span struct{ from, to uint64 } // [from, to)

// damage is a place that does not parse. inside says that a block behind it, in
// the same group, was accepted: then it is no torn end, and if no block is
// missing for it, somebody put it there.
type damage struct {
	Defect
	group  int
	inside bool
}

// verifyLine is the way through one group.
type verifyLine struct {
	files  []segFile
	r      *segReader
	front  *frame
	prev   uint64 // first block of the file before
	begun  bool
	atLast bool // the open file is the group's newest
}

func (v *verifier) readHead(key note.Verifier) error {
	signed, err := readHead(v.fsys, v.dir)
	if errors.Is(err, os.ErrNotExist) {
		v.defect(DefectHead, "", nil, "the signed head (log/checkpoint) is missing")
		return nil
	}
	if err != nil && fault.KindOf(err) != fault.Integrity {
		return fault.Wrap(fault.Unavailable, "the signed head cannot be read", err)
	}
	head, err := ledger.ParseCheckpoint(signed, key)
	if err != nil {
		v.defect(DefectHead, "", nil, "the signed head (log/checkpoint): "+fault.Public(err))
		return nil
	}
	v.head, v.report.HeadSize = &head, head.Size
	return nil
}

// covered is how many blocks somebody signed for.
func (v *verifier) covered() uint64 {
	var n uint64
	if v.head != nil {
		n = v.head.Size
	}
	if v.since != nil {
		n = max(n, v.since.Size)
	}
	return n
}

func (v *verifier) defect(kind, segment string, block *uint64, text string) {
	if len(v.report.Defects) < maxDefects {
		v.report.Defects = append(v.report.Defects, Defect{kind, segment, block, text})
	}
}

func (v *verifier) note(format string, args ...any) {
	if len(v.report.Notes) < maxDefects {
		v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, args...))
	}
}

func (v *verifier) run(ctx context.Context) error {
	v.compareHeads()
	for !v.stop {
		if ctx.Err() != nil {
			return fault.Wrap(fault.Unavailable, "the verification was ended", ctx.Err())
		}
		best := -1
		for g := range v.lines {
			if err := v.load(g); err != nil {
				return err
			}
			if f := v.lines[g].front; f != nil && (best < 0 || f.block.Leaf.Block < v.lines[best].front.block.Leaf.Block) {
				best = g
			}
		}
		if best < 0 {
			return nil
		}
		fr := v.lines[best].front
		v.lines[best].front = nil
		v.block(fr)
	}
	return nil
}

// load reads the next good frame of a group and notes what is damaged before it.
func (v *verifier) load(g int) error {
	l := &v.lines[g]
	for l.front == nil {
		if l.r == nil {
			if len(l.files) == 0 {
				return nil
			}
			file := l.files[0]
			l.files = l.files[1:]
			l.atLast = len(l.files) == 0
			r, err := openSegment(v.fsys, v.dir, file)
			if err != nil {
				if err := v.unreadable(l, file, 0, err); err != nil {
					return err
				}
				l.begun, l.prev = true, file.first
				continue
			}
			v.link(l, r)
			l.r = r
		}
		fr, err := l.r.next()
		if err == nil {
			l.front = &fr
			return nil
		}
		if err != io.EOF {
			if err := v.unreadable(l, l.r.file, fr.off, err); err != nil {
				return err
			}
			if fr.end > 0 {
				continue
			}
		}
		l.r.close()
		l.r = nil
	}
	return nil
}

// link compares what a segment says of the one before it.
func (v *verifier) link(l *verifyLine, r *segReader) {
	want := ledger.NoBlock
	if l.begun {
		want = l.prev
	}
	if got := r.head.PrevFirst; got != want && got != ledger.NoBlock {
		name := segName(got, r.file.group, false)
		text := "the segment " + name + ", which stood before " + r.file.name + ", is missing"
		v.damages = append(v.damages, damage{Defect{DefectSegment, name, nil, text}, int(r.file.group), true})
	}
	l.begun, l.prev = true, r.file.first
	if r.file.headers {
		v.dropped[strings.TrimSuffix(r.file.name, ".hdr")+".seg"] = true
	}
}

// unreadable notes a place that does not parse. At the end of a group's newest
// segment, behind what is signed for, it is what a crash leaves.
func (v *verifier) unreadable(l *verifyLine, file segFile, off int64, err error) error {
	text := fmt.Sprintf("%s at byte %d: ", file.name, off)
	switch {
	case err == errTorn:
		text += "the file ends inside a block"
	case fault.KindOf(err) == fault.Integrity || fault.KindOf(err) == fault.Unsupported:
		text += fault.Public(err)
	default:
		return fault.Wrap(fault.Unavailable, "the audit log cannot be read (it may have changed meanwhile; try again)", err)
	}
	if err == errTorn && l.atLast && v.chain.Next() >= v.covered() {
		v.note("%s; nothing signed is behind it", text)
		return nil
	}
	v.damages = append(v.damages, damage{Defect{DefectDamaged, file.name, nil, text}, int(file.group), false})
	return nil
}

// block takes the next block in the order of the files.
func (v *verifier) block(fr *frame) {
	n, next := fr.block.Leaf.Block, v.chain.Next()
	switch {
	case n < next:
		v.outOfOrder(n, fr)
		return
	case n > next && next >= v.covered():
		v.note("block %d is not there while later ones are; nothing from it on is signed for, and a start cuts it off", next)
		v.stop = true
		return
	case n > next:
		v.hole(next, n)
	}
	for i := range v.damages {
		v.damages[i].inside = v.damages[i].inside || v.damages[i].group == int(fr.file.group)
	}
	var events []ledger.Stored
	err := v.unpack(fr)
	if err == nil {
		if n == next {
			events, err = v.chain.Accept(fr.block)
		} else {
			events, err = v.chain.Resume(fr.block)
		}
	}
	if err != nil {
		v.defect(DefectForged, fr.file.name, &n, fmt.Sprintf("%s at byte %d: %s", fr.file.name, fr.off, fault.Public(err)))
		v.chain.Skip(fr.block)
	}
	v.chain.Commit()
	v.report.Blocks++
	v.take(fr, events)
	if !v.broken {
		v.tree.Append(fr.block.Leaf.Hash(), v.compareTile)
		v.compareHeads()
	}
}

func (v *verifier) unpack(fr *frame) error {
	if fr.file.headers {
		if len(fr.packed) > 0 {
			return fault.New(fault.Integrity, fmt.Sprintf("block %d holds events where only headers belong", fr.block.Leaf.Block))
		}
		return nil
	}
	if len(fr.packed) == 0 {
		return fault.New(fault.Integrity, fmt.Sprintf("the events of block %d are gone", fr.block.Leaf.Block))
	}
	return v.codec.Unpack(fr.block, fr.packed)
}

func (v *verifier) take(fr *frame, events []ledger.Stored) {
	if fr.file.headers {
		v.report.Dropped += uint64(fr.block.Leaf.Count)
		return
	}
	v.report.Events += uint64(len(events))
	for i := range events {
		ev := &events[i].Event
		if ev.Class == ledger.System && ev.Action == "log.drop" {
			v.recorded[strings.TrimPrefix(ev.Resource, "segment:")] = true
		}
	}
}

// hole handles blocks [from, to) that no file has at this place.
func (v *verifier) hole(from, to uint64) {
	v.broken = true
	if len(v.damages) == 0 {
		v.missing = append(v.missing, span{from, to})
		return
	}
	for _, d := range v.damages {
		d.Block = &from
		d.Text += "; " + blocks(from, to) + " cannot be read"
		v.defect(d.Kind, d.Segment, d.Block, d.Text)
	}
	v.damages = nil
}

func blocks(from, to uint64) string {
	if to-from == 1 {
		return fmt.Sprintf("block %d", from)
	}
	return fmt.Sprintf("blocks %d to %d", from, to-1)
}

// outOfOrder handles a block that comes after its place.
func (v *verifier) outOfOrder(n uint64, fr *frame) {
	for i, s := range v.missing {
		if n < s.from || n >= s.to {
			continue
		}
		v.defect(DefectOrder, fr.file.name, &n, fmt.Sprintf("%s at byte %d: block %d stands after a later block: blocks were swapped", fr.file.name, fr.off, n))
		rest := v.missing[:i:i]
		for _, part := range []span{{s.from, n}, {n + 1, s.to}} {
			if part.from < part.to {
				rest = append(rest, part)
			}
		}
		v.missing = append(rest, v.missing[i+1:]...)
		return
	}
	v.defect(DefectDuplicate, fr.file.name, &n, fmt.Sprintf("%s at byte %d: block %d is there a second time", fr.file.name, fr.off, n))
}

// compareHeads checks the root at the size of each head.
func (v *verifier) compareHeads() {
	for _, h := range []struct {
		cp   *ledger.Checkpoint
		name string
	}{{v.head, "the stored signed head"}, {v.since, "the checkpoint kept elsewhere"}} {
		if h.cp != nil && h.cp.Size == v.tree.Size() && h.cp.Root != v.tree.Root() {
			v.defect(DefectHead, "", nil, fmt.Sprintf("the first %d blocks are not those that %s covers", h.cp.Size, h.name))
		}
	}
	if v.since != nil && v.since.Size == v.tree.Size() && v.since.Root == v.tree.Root() {
		v.report.Anchored = true
	}
}

// compareTile checks a full tile against the one that is stored.
func (v *verifier) compareTile(level int, index uint64, hashes []ledger.Hash) {
	size := uint64(ledger.TileWidth)
	for range level {
		size *= ledger.TileWidth
	}
	if v.head == nil || (index+1)*size > v.head.Size {
		return
	}
	path := ledger.TilePath(level, index, ledger.TileWidth)
	data, err := readFile(v.fsys, filepath.Join(v.dir, "log", path), 1<<16)
	if err != nil || !bytes.Equal(data, tileData(hashes)) {
		v.defect(DefectTile, "", nil, "log/"+path+" does not fit the segments")
	}
}

// conclude names what is only known at the end.
func (v *verifier) conclude() {
	for _, s := range v.missing {
		from := s.from
		v.defect(DefectMissing, "", &from, blocks(s.from, s.to)+": removed; later blocks are there")
	}
	next := v.chain.Next()
	named := false
	for _, d := range v.damages {
		if next >= v.covered() && !d.inside {
			v.note("%s; nothing signed is behind it", d.Text)
			continue
		}
		if next < v.covered() {
			d.Block, named = &next, true
			d.Text += "; " + blocks(next, v.covered()) + " cannot be read"
		}
		v.defect(d.Kind, d.Segment, d.Block, d.Text)
	}
	if v.head != nil && next < v.head.Size && !named {
		v.defect(DefectTail, "", &next, fmt.Sprintf("the signed head covers %d blocks and the segments end before block %d: the tail was cut", v.head.Size, next))
	}
	if v.since != nil {
		if v.head != nil && v.head.Size < v.since.Size {
			v.defect(DefectTail, "", nil, fmt.Sprintf("the stored head covers %d blocks, fewer than the %d of the checkpoint kept elsewhere: the log was set back", v.head.Size, v.since.Size))
		}
		if next < v.since.Size && (v.head == nil || next >= v.head.Size) {
			v.defect(DefectTail, "", &next, fmt.Sprintf("the checkpoint kept elsewhere covers %d blocks and the segments end before block %d: the tail was cut", v.since.Size, next))
		}
	}
	for name := range v.dropped {
		if !v.recorded[name] {
			v.defect(DefectUnrecorded, name, nil, "the events of "+name+" were dropped without a record in the log")
		}
	}
	if v.since == nil && v.report.OK() {
		v.note("no checkpoint from elsewhere was given: a cut behind the newest head cannot be seen")
	}
}

func (v *verifier) close() {
	for g := range v.lines {
		if r := v.lines[g].r; r != nil {
			r.close()
		}
	}
}
