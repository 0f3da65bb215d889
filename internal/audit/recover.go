package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// recovered is what Open finds.
type recovered struct {
	chain   *ledger.Chain
	outer   *outerLog
	groups  [groupCount]group
	unclean bool
	rebuilt bool // the tiles had to be made anew from the segments

	settled   int64 // of the last block
	cutBlocks int   // complete blocks behind a hole, promised to nobody
	cutBytes  int64
}

// gapEvent states what the end of the last run may have lost.
func (f *recovered) gapEvent(l *Log) (ev ledger.Event) {
	ev = l.systemEvent("log.gap", "crash")
	until := ev.Time
	from := until
	if f.settled > 0 {
		from = time.Unix(0, f.settled)
	}
	set := func(class ledger.Class, back time.Duration) {
		window := until.Sub(from.Add(-back))
		ev.Detail[class.String()+"_window_ms"] = strconv.FormatInt(max(window, 0).Milliseconds()+1, 10)
	}
	set(ledger.Check, l.cfg.Linger)
	set(ledger.Allow, l.cfg.Linger)
	set(ledger.Reject, l.cfg.Checkpoint)
	ev.Detail["from"] = from.UTC().Format(time.RFC3339Nano)
	ev.Detail["to"] = until.UTC().Format(time.RFC3339Nano)
	if f.cutBytes > 0 {
		ev.Detail["cut_bytes"] = strconv.FormatInt(f.cutBytes, 10)
		ev.Detail["cut_blocks"] = strconv.Itoa(f.cutBlocks)
	}
	return ev
}

// violation is the one answer of Open to a log that is not whole.
func violation(why string, cause error) error {
	return fault.Wrap(fault.Integrity, "the audit log is not whole: "+why+"; run `bulwark audit verify` and restore the directory before starting", cause)
}

func recoverLog(cfg Config) (*recovered, error) {
	origin := cfg.Signer.Name()
	found := &recovered{chain: ledger.NewChain(origin), outer: newOuterLog(cfg)}
	for g := range found.groups {
		found.groups[g].prevFirst, found.groups[g].prevLast = ledger.NoBlock, ledger.NoBlock
	}
	files, err := listSegments(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
	}
	signed, err := readHead(cfg.FS, cfg.Dir)
	if errors.Is(err, os.ErrNotExist) {
		if len(files) > 0 {
			return nil, violation("its signed head is gone", nil)
		}
		if err := found.outer.checkpoint(); err != nil {
			return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be begun", err)
		}
		return found, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log's signed head cannot be read", err)
	}
	head, err := ledger.ParseCheckpoint(signed, cfg.Verifier)
	if err != nil {
		return nil, violation("its signed head does not verify with this key", err)
	}
	found.outer.head, found.outer.signed = head, signed
	if err := removeTemporary(cfg, filepath.Join(cfg.Dir, "log")); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
	}
	if err := found.read(cfg, files, head); err != nil {
		return nil, err
	}
	return found, nil
}

// read replays the end of the log: from the saved state on, or all of it.
func (f *recovered) read(cfg Config, files []segFile, head ledger.Checkpoint) error {
	chain, newest := loadState(cfg)
	if chain == nil || chain.Next() > head.Size {
		chain = ledger.NewChain(head.Origin)
		chain.Commit()
	} else if err := checkNewest(files, newest); err != nil {
		return err
	}
	if err := checkLinks(cfg, files); err != nil {
		return err
	}
	f.chain = chain
	edge := head.Size - head.Size%ledger.TileWidth
	// From the begun tile on, and from the last block that the state holds, to
	// see how it ended.
	start := min(edge, max(chain.Next(), 1)-1)
	scan, err := f.scan(cfg, files, start, edge)
	if err != nil {
		return err
	}
	if f.chain.Next() < head.Size {
		return violation(fmt.Sprintf("the signed head covers %d blocks, and block %d is missing", head.Size, f.chain.Next()), scan.stopped)
	}
	f.chain.Commit()
	tail := scan.leaves[:min(head.Size-edge, uint64(len(scan.leaves)))]
	if err := f.outer.load(head, tail); err != nil {
		if err := f.rebuild(cfg, files, head); err != nil {
			return err
		}
	}
	for _, leaf := range scan.leaves[len(tail):] {
		f.outer.append(leaf)
	}
	return f.cut(cfg, files, scan)
}

// scanned is what the replay saw.
type scanned struct {
	leaves  []ledger.Leaf     // from the edge on
	ends    map[string]int64  // where the last good block of a file ends
	lastOf  map[string]uint64 // last good block of a file
	closing bool              // the last block holds log.close
	stopped error             // what ended the replay, nil at a clean end
	over    map[string]int    // complete blocks of a file behind the end
}

// scan accepts blocks from number start until the first that is missing.
func (f *recovered) scan(cfg Config, files []segFile, start, edge uint64) (*scanned, error) {
	s := &scanned{ends: map[string]int64{}, lastOf: map[string]uint64{}, over: map[string]int{}}
	codec := ledger.NewCodec()
	m := mergeFrom(cfg.FS, cfg.Dir, files, start)
	defer m.close()
	for {
		fr, err := m.next()
		if err != nil {
			if fault.KindOf(err) == fault.Internal && err != io.EOF && err != errTorn {
				return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
			}
			if err != io.EOF && s.stopped == nil {
				s.stopped = err
			}
			return s, nil
		}
		no := fr.block.Leaf.Block
		if s.stopped != nil {
			s.over[fr.file.name]++
			continue
		}
		if no >= f.chain.Next() {
			if _, err := f.chain.Accept(fr.block); err != nil {
				s.stopped = err
				s.over[fr.file.name]++
				continue
			}
			s.closing = closes(codec, fr)
			f.settled = fr.block.Leaf.Settled
		} else if no+1 == f.chain.Next() {
			s.closing = closes(codec, fr)
			f.settled = fr.block.Leaf.Settled
		}
		if no >= edge {
			s.leaves = append(s.leaves, fr.block.Leaf)
		}
		s.ends[fr.file.name] = fr.end
		s.lastOf[fr.file.name] = no
	}
}

// closes reports whether a block holds the event that ends a run.
func closes(codec *ledger.Codec, fr frame) bool {
	if fr.block.Leaf.Classes&(1<<ledger.System) == 0 || len(fr.packed) == 0 {
		return false
	}
	if codec.Unpack(fr.block, fr.packed) != nil {
		return false
	}
	defer func() { fr.block.Payload = nil }()
	raws, err := fr.block.Events()
	if err != nil {
		return false
	}
	for _, raw := range raws {
		if ev, err := ledger.DecodeEvent(raw); err == nil && ev.Class == ledger.System && ev.Action == "log.close" {
			return true
		}
	}
	return false
}

// cut ends every file after its last good block and fills in the groups.
func (f *recovered) cut(cfg Config, files []segFile, s *scanned) error {
	f.unclean = !s.closing
	for i, file := range files {
		g := &f.groups[file.group]
		end, seen := s.ends[file.name]
		lastOfGroup := i+1 == len(files) || files[i+1].group != file.group
		switch {
		case !seen && (file.first < f.chain.Next() && !lastOfGroup || file.headers):
			// before the replayed part, or without events
		case !seen && file.first < f.chain.Next():
			return violation("the segment "+file.name+" cannot be read", s.stopped)
		case !seen:
			f.noteCut(file.size, s.over[file.name])
			if err := cutFile(cfg, file.name, 0); err != nil {
				return fault.Wrap(fault.Unavailable, "the audit log cannot be cut at its end", err)
			}
			continue
		case end < file.size:
			f.noteCut(file.size-end, s.over[file.name])
			if err := cutFile(cfg, file.name, end); err != nil {
				return fault.Wrap(fault.Unavailable, "the audit log cannot be cut at its end", err)
			}
			file.size = end
		}
		if !file.headers {
			g.sealed = append(g.sealed, file)
		}
		g.prevFirst, g.prevLast = file.first, ledger.NoBlock
		if last, ok := s.lastOf[file.name]; ok {
			g.prevLast = last
		}
	}
	return nil
}

func (f *recovered) noteCut(bytes int64, blocks int) {
	f.unclean = true
	f.cutBytes += bytes
	f.cutBlocks += blocks
}

// rebuild makes the outer tree anew from the headers of all blocks.
func (f *recovered) rebuild(cfg Config, files []segFile, head ledger.Checkpoint) error {
	f.rebuilt = true
	cfg.Logger.Warn("the tiles of the audit log are made anew from the segments")
	outer := newOuterLog(cfg)
	outer.head, outer.signed = f.outer.head, f.outer.signed
	m := mergeFrom(cfg.FS, cfg.Dir, files, 0)
	defer m.close()
	for outer.tree.Size() < head.Size {
		fr, err := m.next()
		if err != nil || fr.block.Leaf.Block != outer.tree.Size() {
			return violation(fmt.Sprintf("block %d is missing", outer.tree.Size()), err)
		}
		outer.append(fr.block.Leaf)
		if len(outer.pending) > 64 {
			for _, t := range outer.pending {
				if err := outer.writeFull(t); err != nil {
					return fault.Wrap(fault.Unavailable, "the tiles of the audit log cannot be written", err)
				}
			}
			outer.pending = nil
		}
	}
	if outer.tree.Root() != head.Root {
		return violation("its blocks are not those that the signed head covers", nil)
	}
	f.outer = outer
	return nil
}

// checkLinks compares what each segment says of the one before it.
func checkLinks(cfg Config, files []segFile) error {
	for i, file := range files {
		r, err := openSegment(cfg.FS, cfg.Dir, file)
		if err != nil {
			if i+1 == len(files) || files[i+1].group != file.group {
				continue // the last of a group may be torn; the replay judges it
			}
			return violation("the segment "+file.name+" cannot be read", err)
		}
		prev := r.head.PrevFirst
		r.close()
		first := i == 0 || files[i-1].group != file.group
		if first && prev != ledger.NoBlock || !first && prev != files[i-1].first {
			return violation("the segment before "+file.name+" is missing", nil)
		}
	}
	return nil
}

// The saved state: magic, the first block of each group's newest segment,
// CRC-32C, the chain. It is derived, and is believed only if it fits.
const stateMagic = "BWKSTAT1"

func statePath(cfg Config) string { return filepath.Join(cfg.Dir, "state") }

func saveState(w *writer) {
	b := []byte(stateMagic)
	for id := range w.groups {
		g := &w.groups[id]
		newest := g.prevFirst
		if g.file != nil {
			newest = g.first
		}
		b = binary.BigEndian.AppendUint64(b, newest)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	b = append(b, w.chain.Marshal()...)
	if err := replaceFile(w.cfg.FS, statePath(w.cfg), b, false); err != nil {
		w.cfg.Logger.Warn("the audit log's state cannot be saved; the next start reads all of it", "error", err.Error())
	}
}

func loadState(cfg Config) (*ledger.Chain, [groupCount]uint64) {
	var newest [groupCount]uint64
	const fixed = len(stateMagic) + 8*groupCount + 4
	b, err := readFile(cfg.FS, statePath(cfg), math.MaxInt32)
	if err != nil || len(b) < fixed || string(b[:len(stateMagic)]) != stateMagic ||
		crc32.ChecksumIEEE(b[:fixed-4]) != binary.BigEndian.Uint32(b[fixed-4:]) {
		return nil, newest
	}
	chain, err := ledger.ParseChain(cfg.Signer.Name(), b[fixed:])
	if err != nil {
		return nil, newest
	}
	for g := range newest {
		newest[g] = binary.BigEndian.Uint64(b[len(stateMagic)+8*g:])
	}
	return chain, newest
}

// checkNewest says whether the segments that the state knows of are there.
func checkNewest(files []segFile, newest [groupCount]uint64) error {
	for g, first := range newest {
		if first == ledger.NoBlock {
			continue
		}
		found := false
		for _, f := range files {
			found = found || f.group == g && f.first == first
		}
		if !found {
			return violation("the segment "+segName(first, g, false)+" is missing", nil)
		}
	}
	return nil
}
