package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// outerLog keeps the outer tree in the layout of https://c2sp.org/tlog-tiles
// below DIR/log. All of it but the signed head can be rebuilt from the
// segments. Full tiles are made durable before the head that needs them;
// partial ones are written anew after every start.
type outerLog struct {
	cfg      Config
	dir      string
	tree     *ledger.Outer
	bundle   []byte            // the begun entry bundle
	pending  []tile            // full tiles that are not on the disk yet
	partials []string          // files of the last head's edge
	dirs     map[string]bool   // directories that are durable
	head     ledger.Checkpoint // the last one written
	signed   []byte
}

type tile struct {
	path string
	data []byte
}

func newOuterLog(cfg Config) *outerLog {
	return &outerLog{cfg: cfg, dir: filepath.Join(cfg.Dir, "log"), tree: &ledger.Outer{}, dirs: map[string]bool{}}
}

// append adds the leaf of a durable block.
func (o *outerLog) append(leaf ledger.Leaf) {
	o.bundle = ledger.AppendEntry(o.bundle, leaf)
	o.tree.Append(leaf.Hash(), func(level int, index uint64, hashes []ledger.Hash) {
		o.pending = append(o.pending, tile{ledger.TilePath(level, index, ledger.TileWidth), tileData(hashes)})
	})
	if n := o.tree.Size(); n%ledger.TileWidth == 0 {
		o.pending = append(o.pending, tile{ledger.TilePath(-1, n/ledger.TileWidth-1, ledger.TileWidth), o.bundle})
		o.bundle = nil
	}
}

func tileData(hashes []ledger.Hash) []byte {
	b := make([]byte, 0, len(hashes)*len(ledger.Hash{}))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// checkpoint writes the tiles of the present tree and then its signed head.
func (o *outerLog) checkpoint() error {
	for len(o.pending) > 0 {
		if err := o.writeFull(o.pending[0]); err != nil {
			return err
		}
		o.pending = o.pending[1:]
	}
	partials, err := o.writeEdge()
	if err != nil {
		return err
	}
	head := ledger.Checkpoint{Origin: o.cfg.Signer.Name(), Size: o.tree.Size(), Root: o.tree.Root()}
	signed, err := head.Sign(o.cfg.Signer)
	if err != nil {
		return err
	}
	if err := replaceFile(o.cfg.FS, filepath.Join(o.dir, "checkpoint"), signed, true); err != nil {
		return err
	}
	if err := o.cfg.FS.SyncDir(o.dir); err != nil {
		return err
	}
	o.head, o.signed = head, signed
	o.dropPartials(partials)
	return nil
}

func (o *outerLog) writeFull(t tile) error {
	path := filepath.Join(o.dir, t.path)
	dir := filepath.Dir(path)
	if err := o.cfg.FS.MkdirAll(dir); err != nil {
		return err
	}
	if err := replaceFile(o.cfg.FS, path, t.data, true); err != nil {
		return err
	}
	// The entry of the file, and of each directory that may be new, up to
	// log/ itself, which is synced with the head.
	for d := dir; d != o.dir; d = filepath.Dir(d) {
		if err := o.cfg.FS.SyncDir(d); err != nil {
			return err
		}
		if o.dirs[d] {
			break
		}
		o.dirs[d] = true
	}
	return nil
}

func (o *outerLog) writeEdge() ([]string, error) {
	var edge []tile
	o.tree.Edge(func(level int, index uint64, hashes []ledger.Hash) {
		edge = append(edge, tile{ledger.TilePath(level, index, len(hashes)), tileData(hashes)})
	})
	if n := o.tree.Size(); n%ledger.TileWidth != 0 {
		edge = append(edge, tile{ledger.TilePath(-1, n/ledger.TileWidth, int(n%ledger.TileWidth)), o.bundle})
	}
	var paths []string
	for _, t := range edge {
		path := filepath.Join(o.dir, t.path)
		if err := o.cfg.FS.MkdirAll(filepath.Dir(path)); err != nil {
			return nil, err
		}
		if err := replaceFile(o.cfg.FS, path, t.data, false); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// dropPartials removes the edge of the head before, which nobody needs now.
func (o *outerLog) dropPartials(now []string) {
	keep := map[string]bool{}
	for _, p := range now {
		keep[p] = true
	}
	for _, p := range o.partials {
		if keep[p] {
			continue
		}
		_ = o.cfg.FS.Remove(p)
		_ = o.cfg.FS.Remove(filepath.Dir(p)) // fails while other partials are inside
	}
	o.partials = now
}

// readHead reads and verifies the stored head of a log; the error wraps
// os.ErrNotExist when there is none.
func readHead(fsys FS, dir string) ([]byte, error) {
	return readFile(fsys, filepath.Join(dir, "log", "checkpoint"), ledger.MaxCheckpoint)
}

// load makes the tree of the size of the stored head from full tiles and the
// leaf hashes of the blocks from the last multiple of 256 on.
func (o *outerLog) load(head ledger.Checkpoint, tail []ledger.Leaf) error {
	var levels [][]ledger.Hash
	below := head.Size
	for level, width := range ledger.Widths(head.Size) {
		hashes := make([]ledger.Hash, 0, width)
		if level == 0 {
			if len(tail) != width {
				return fault.New(fault.Integrity, "blocks at the end of the audit log are missing")
			}
			for _, leaf := range tail {
				hashes = append(hashes, leaf.Hash())
				o.bundle = ledger.AppendEntry(o.bundle, leaf)
			}
		} else {
			// Every hash of this level is the root of a full tile one below.
			for i := below - uint64(width); i < below; i++ {
				h, err := o.tileRoot(level-1, i)
				if err != nil {
					return err
				}
				hashes = append(hashes, h)
			}
		}
		levels = append(levels, hashes)
		below /= ledger.TileWidth
	}
	tree, err := ledger.LoadOuter(head.Size, levels)
	if err != nil {
		return err
	}
	if tree.Root() != head.Root {
		return fault.New(fault.Integrity, "the tiles of the audit log do not fit its signed head")
	}
	o.tree = tree
	return nil
}

func (o *outerLog) tileRoot(level int, index uint64) (ledger.Hash, error) {
	const width = len(ledger.Hash{})
	data, err := readFile(o.cfg.FS, filepath.Join(o.dir, ledger.TilePath(level, index, ledger.TileWidth)), ledger.TileWidth*int64(width))
	if err != nil {
		return ledger.Hash{}, err
	}
	if len(data) != ledger.TileWidth*width {
		return ledger.Hash{}, fault.New(fault.Integrity, "a tile of the audit log is cut short")
	}
	var t ledger.Outer
	for ; len(data) > 0; data = data[width:] {
		t.Append(ledger.Hash(data[:width]), nil)
	}
	return t.Root(), nil
}

// prepareDir makes the directories of a log, durably: a segment whose log/ is
// gone would read as a log whose head was removed.
func prepareDir(cfg Config) error {
	if err := cfg.FS.MkdirAll(filepath.Join(cfg.Dir, "log")); err != nil {
		return err
	}
	if err := cfg.FS.SyncDir(cfg.Dir); err != nil {
		return err
	}
	return cfg.FS.SyncDir(filepath.Dir(cfg.Dir))
}

// removeTemporary clears what an interrupted replaceFile left.
func removeTemporary(cfg Config, dir string) error {
	infos, err := cfg.FS.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, in := range infos {
		if strings.HasSuffix(in.Name, ".tmp") {
			if err := cfg.FS.Remove(filepath.Join(dir, in.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
