package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// The groups: one sequence of segment files each, so that retention can drop
// whole files of the cheap classes. Numbers are persisted.
const (
	groupDurable = 0 // mutation, key-use, admin-read, deny, system
	groupAllow   = 1 // check, allow
	groupReject  = 2 // reject
	groupCount   = 3
)

var groupNames = [groupCount]string{"durable", "allow", "reject"}

// segFile is a segment file, or the headers that retention left of one.
type segFile struct {
	name    string
	first   uint64
	group   int
	headers bool
	size    int64
	skip    int64 // where reading begins, 0 for the first block
}

func segName(first uint64, group int, headers bool) string {
	ext := "seg"
	if headers {
		ext = "hdr"
	}
	return fmt.Sprintf("%012d-%s.%s", first, groupNames[group], ext)
}

func parseSegName(name string) (segFile, bool) {
	for g := range groupNames {
		for _, headers := range []bool{false, true} {
			var first uint64
			if _, err := fmt.Sscanf(name, "%d-", &first); err == nil && name == segName(first, g, headers) {
				return segFile{name: name, first: first, group: g, headers: headers}, true
			}
		}
	}
	return segFile{}, false
}

// listSegments returns the files of a log's directory, ordered by group and
// first block. Where a segment and its headers are both there (a drop that a
// crash interrupted), the segment counts.
func listSegments(fsys FS, dir string) ([]segFile, error) {
	infos, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []segFile
	whole := map[string]bool{}
	for _, in := range infos {
		if f, ok := parseSegName(in.Name); ok {
			f.size = in.Size
			files = append(files, f)
			whole[in.Name] = true
		}
	}
	kept := files[:0]
	for _, f := range files {
		if f.headers && whole[strings.TrimSuffix(f.name, ".hdr")+".seg"] {
			continue
		}
		kept = append(kept, f)
	}
	sortFiles(kept)
	return kept, nil
}

// errTorn says that a file ends inside a frame.
var errTorn = errors.New("the file ends inside a block")

// frame is one block as it lies in a file. Its bytes are valid until the next
// read of the same reader.
type frame struct {
	block  *ledger.Block // header only; Payload is nil
	packed []byte
	file   segFile
	off    int64
	end    int64
}

// segReader reads one file forwards.
type segReader struct {
	file segFile
	f    File
	head ledger.Segment
	off  int64
	size int64
	buf  []byte
}

// openSegment opens a file and reads its header. A file too short for a
// header gives errTorn.
func openSegment(fsys FS, dir string, file segFile) (*segReader, error) {
	f, err := fsys.OpenFile(filepath.Join(dir, file.name), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &segReader{file: file, f: f}
	if r.size, err = f.Size(); err == nil {
		err = r.readHead()
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return r, nil
}

func (r *segReader) readHead() error {
	if r.size < ledger.SegmentHead {
		return errTorn
	}
	b := make([]byte, ledger.SegmentHead)
	if _, err := r.f.ReadAt(b, 0); err != nil {
		return err
	}
	h, err := ledger.ParseSegment(b)
	if err != nil {
		return err
	}
	if h.First != r.file.first || int(h.Group) != r.file.group || h.Headers != r.file.headers {
		return fault.New(fault.Integrity, "the header of a segment does not fit the file's name")
	}
	r.head, r.off = h, max(ledger.SegmentHead, r.file.skip)
	return nil
}

func (r *segReader) close() { _ = r.f.Close() }

// next reads a frame. At the end it returns io.EOF, inside a frame errTorn;
// neither moves the reader. A damaged frame gives an error of kind Integrity
// with the frame's bounds where they are known (end > off), and moves on.
func (r *segReader) next() (frame, error) {
	fr := frame{file: r.file, off: r.off}
	if r.off == r.size {
		return fr, io.EOF
	}
	if r.size-r.off < ledger.FrameHead {
		return fr, errTorn
	}
	var head [ledger.FrameHead]byte
	if _, err := r.f.ReadAt(head[:], r.off); err != nil {
		return fr, err
	}
	n, err := ledger.FrameSize(head[:])
	if err != nil {
		return fr, err
	}
	end := r.off + ledger.FrameHead + int64(n)
	if end > r.size {
		return fr, errTorn
	}
	if cap(r.buf) < n {
		r.buf = make([]byte, n+n/4)
	}
	body := r.buf[:n]
	if _, err := r.f.ReadAt(body, r.off+ledger.FrameHead); err != nil {
		return fr, err
	}
	fr.end = end
	r.off = end
	if err := ledger.CheckFrame(head[:], body); err != nil {
		return fr, err
	}
	fr.block, fr.packed, err = ledger.ParseHeader(body)
	return fr, err
}

// stream reads the files of one group in order.
type stream struct {
	fsys  FS
	dir   string
	files []segFile
	r     *segReader
}

// next returns the next frame of the group; io.EOF after the last file. A file
// that ends torn gives errTorn once and then the stream goes on with the next
// file.
func (s *stream) next() (frame, error) {
	for {
		if s.r == nil {
			if len(s.files) == 0 {
				return frame{}, io.EOF
			}
			file := s.files[0]
			s.files = s.files[1:]
			r, err := openSegment(s.fsys, s.dir, file)
			if err != nil {
				return frame{file: file}, err
			}
			s.r = r
		}
		fr, err := s.r.next()
		switch {
		case err == nil:
			return fr, nil
		case err == io.EOF:
			s.close()
			continue
		case fr.end == 0: // torn, unreadable or without bounds: the rest of the file is lost
			s.close()
		}
		return fr, err
	}
}

func (s *stream) close() {
	if s.r != nil {
		s.r.close()
		s.r = nil
	}
}

// merged reads all groups in the order of block numbers.
type merged struct {
	streams [groupCount]*stream
	front   [groupCount]frame
	errs    [groupCount]error
	loaded  [groupCount]bool
}

// mergeFrom returns the blocks from number start on, with possibly a few
// before it.
func mergeFrom(fsys FS, dir string, files []segFile, start uint64) *merged {
	m := &merged{}
	for g := range m.streams {
		m.streams[g] = &stream{fsys: fsys, dir: dir}
	}
	for i, f := range files {
		if i+1 < len(files) && files[i+1].group == f.group && files[i+1].first <= start {
			continue
		}
		s := m.streams[f.group]
		s.files = append(s.files, f)
	}
	return m
}

// next returns the frame with the lowest number. An error of one group is
// returned only when no other group has a block to give.
func (m *merged) next() (frame, error) {
	best := -1
	for g, s := range m.streams {
		if !m.loaded[g] {
			m.front[g], m.errs[g] = s.next()
			m.loaded[g] = true
		}
		if m.errs[g] == nil && (best < 0 || m.front[g].block.Leaf.Block < m.front[best].block.Leaf.Block) {
			best = g
		}
	}
	if best >= 0 {
		m.loaded[best] = false
		return m.front[best], nil
	}
	var failed error
	for g := range m.streams {
		if m.errs[g] != io.EOF && failed == nil {
			failed = m.errs[g]
		}
	}
	if failed == nil {
		failed = io.EOF
	}
	return frame{}, failed
}

func (m *merged) close() {
	for _, s := range m.streams {
		s.close()
	}
}
