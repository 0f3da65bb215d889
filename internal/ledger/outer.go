package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"bulwark.example/internal/fault"
)

// TileWidth is the number of hashes of a full tile of
// https://c2sp.org/tlog-tiles.
const TileWidth = 1 << tileHeight

const tileHeight = 8

// Outer is the outer tree, of which it holds only the right edge: the partial
// tile of each level. It is not safe for concurrent use.
type Outer struct {
	size   uint64
	levels [][]Hash
}

// Size returns the number of leaves.
func (o *Outer) Size() uint64 { return o.size }

// Append adds a leaf hash. full is called for each tile that became complete,
// lowest level first, with its level, index and hashes.
func (o *Outer) Append(leaf Hash, full func(level int, index uint64, hashes []Hash)) {
	o.size++
	index := o.size
	for level := 0; ; level++ {
		if level == len(o.levels) {
			o.levels = append(o.levels, make([]Hash, 0, TileWidth))
		}
		index /= TileWidth
		o.levels[level] = append(o.levels[level], leaf)
		if len(o.levels[level]) < TileWidth {
			return
		}
		if full != nil {
			full(level, index-1, o.levels[level])
		}
		leaf = root(o.levels[level])
		o.levels[level] = o.levels[level][:0]
	}
}

// Edge calls partial for each tile at the right edge that is begun, with its
// level, index and hashes.
func (o *Outer) Edge(partial func(level int, index uint64, hashes []Hash)) {
	n := o.size
	for level, hashes := range o.levels {
		n /= TileWidth
		if len(hashes) > 0 {
			partial(level, n, hashes)
		}
	}
}

// Widths returns how many hashes the begun tile of each level has in a tree of
// that size.
func Widths(size uint64) []int {
	var w []int
	for ; size > 0; size /= TileWidth {
		w = append(w, int(size%TileWidth))
	}
	return w
}

// LoadOuter makes the tree of that size from the begun tile of each level.
func LoadOuter(size uint64, levels [][]Hash) (*Outer, error) {
	widths := Widths(size)
	if len(widths) != len(levels) {
		return nil, corrupt("the tiles do not fit the size of the log")
	}
	o := &Outer{size: size}
	for i, w := range widths {
		if len(levels[i]) != w {
			return nil, corrupt("the tiles do not fit the size of the log")
		}
		o.levels = append(o.levels, append(make([]Hash, 0, TileWidth), levels[i]...))
	}
	return o, nil
}

// Root returns the RFC 6962 tree hash.
func (o *Outer) Root() Hash {
	var h Hash
	found := false
	for _, hashes := range o.levels {
		// The begun tile of a level is a sequence of perfect subtrees, the
		// largest leftmost: fold them from the right.
		for n := len(hashes); n > 0; {
			k := n & -n
			sub := root(hashes[n-k : n])
			if found {
				h = tlog.NodeHash(sub, h)
			} else {
				h, found = sub, true
			}
			n -= k
		}
	}
	if !found {
		return root(nil)
	}
	return h
}

// TilePath returns the path of a tile below the log's prefix by
// https://c2sp.org/tlog-tiles; level -1 is an entry bundle, width
// [TileWidth] a full one.
func TilePath(level int, index uint64, width int) string {
	name := "entries"
	if level >= 0 {
		name = fmt.Sprint(level)
	}
	n := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		n = fmt.Sprintf("x%03d/%s", index%1000, n)
	}
	p := "tile/" + name + "/" + n
	if width < TileWidth {
		p += fmt.Sprintf(".p/%d", width)
	}
	return p
}

// AppendEntry appends a leaf's bytes to an entry bundle: a big-endian uint16
// length, then the bytes.
func AppendEntry(bundle []byte, leaf Leaf) []byte {
	return leaf.append(append(bundle, byte(leafSize>>8), byte(leafSize&0xff)))
}

// ProveLeaf returns the inclusion path of leaf n in the tree of that size and
// root, with tiles that read fetches by path. The tiles are checked against
// the root on the way. The error has kind [fault.Integrity] when they do not
// fit, [fault.Invalid] when n is outside.
func ProveLeaf(size, n uint64, treeRoot Hash, read func(path string) ([]byte, error)) ([]Hash, error) {
	if n >= size {
		return nil, fault.New(fault.Invalid, "the leaf is outside the tree")
	}
	r := tlog.TileHashReader(tlog.Tree{N: int64(size), Hash: treeRoot}, tileReader(read))
	p, err := tlog.ProveRecord(int64(size), int64(n), r)
	if err != nil {
		return nil, fault.Wrap(fault.Integrity, "the tiles of the log do not fit its head", err)
	}
	return p, nil
}

// RootAt returns the root that the tree had at the earlier size, with tiles that
// read fetches by path, checked against the root of the present size. The error
// has kind [fault.Integrity] when they do not fit.
func RootAt(size, now uint64, nowRoot Hash, read func(path string) ([]byte, error)) (Hash, error) {
	if size > now {
		return Hash{}, fault.New(fault.Invalid, "the tree was never of that size")
	}
	r := tlog.TileHashReader(tlog.Tree{N: int64(now), Hash: nowRoot}, tileReader(read))
	root, err := tlog.TreeHash(int64(size), r)
	if err != nil {
		return Hash{}, fault.Wrap(fault.Integrity, "the tiles of the log do not fit its head", err)
	}
	return root, nil
}

type tileReader func(path string) ([]byte, error)

func (tileReader) Height() int                     { return tileHeight }
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := r(TilePath(t.L, uint64(t.N), t.W))
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}
