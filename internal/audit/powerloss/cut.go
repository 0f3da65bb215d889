package powerloss

import (
	"math/rand/v2"
	"slices"
)

// PowerCut ends the process and leaves what a disk may hold then, chosen by r.
func (d *Disk) PowerCut(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
	d.used = 0
	d.root = d.survive(d.root, r)
}

func (d *Disk) survive(n *node, r *rand.Rand) *node {
	if !n.dir {
		data := surviveFile(n, r)
		d.used += int64(len(data))
		return &node{data: data, durable: slices.Clone(data)}
	}
	out := newDir()
	for name, child := range n.kept {
		out.kept[name] = child
	}
	// A directory's changes reach the disk in order up to some point, as with
	// a journal, or each by itself, which is all that POSIX promises.
	until, ordered := r.IntN(len(n.unsynced)+1), r.IntN(2) == 0
	for i, c := range n.unsynced {
		if ordered && i < until || !ordered && r.IntN(2) == 0 {
			apply(out.kept, c)
		}
	}
	names := make([]string, 0, len(out.kept))
	for name := range out.kept {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed gives one image
	for _, name := range names {
		out.kept[name] = d.survive(out.kept[name], r)
		out.entries[name] = out.kept[name]
	}
	return out
}

func apply(entries map[string]*node, c entryChange) {
	for name, n := range c {
		if n == nil {
			delete(entries, name)
		} else {
			entries[name] = n
		}
	}
}

const page = 4096

func surviveFile(n *node, r *rand.Rand) []byte {
	switch r.IntN(4) {
	case 0: // nothing of it
		return slices.Clone(n.durable)
	case 1: // all of it
		return replay(n.durable, n.pending)
	case 2: // the first changes, and a part of the next
		k := r.IntN(len(n.pending) + 1)
		out := replay(n.durable, n.pending[:k])
		if k < len(n.pending) && len(n.pending[k].data) > 0 {
			c := n.pending[k]
			out = replay(out, []change{{c.off, c.data[:r.IntN(len(c.data))]}})
		}
		return out
	}
	// Any of the touched pages, in any order, old or new or garbage.
	whole := replay(n.durable, n.pending)
	if r.IntN(2) == 0 && len(whole) > len(n.durable) {
		whole = whole[:len(n.durable)+r.IntN(len(whole)-len(n.durable)+1)]
	}
	for _, c := range n.pending {
		for p := c.off / page * page; p < c.off+int64(len(c.data)); p += page {
			tearPage(whole, n.durable, p, r)
		}
	}
	return whole
}

func tearPage(whole, durable []byte, p int64, r *rand.Rand) {
	if p >= int64(len(whole)) {
		return
	}
	dst := whole[p:min(p+page, int64(len(whole)))]
	old := make([]byte, len(dst))
	if p < int64(len(durable)) {
		copy(old, durable[p:])
	}
	switch r.IntN(4) {
	case 0:
		copy(dst, old)
	case 1: // torn inside the page, but never in front of what was there
		at := r.IntN(len(dst) + 1)
		copy(dst[at:], old[at:])
	case 2:
		for i := range dst {
			if p+int64(i) >= int64(len(durable)) {
				dst[i] = byte(r.Uint32())
			}
		}
	}
}

func replay(base []byte, changes []change) []byte {
	out := slices.Clone(base)
	for _, c := range changes {
		out = put(out, c)
	}
	return out
}

func put(out []byte, c change) []byte {
	if c.data == nil {
		if c.off <= int64(len(out)) {
			return out[:c.off:c.off]
		}
		return append(out, make([]byte, c.off-int64(len(out)))...)
	}
	if end := c.off + int64(len(c.data)); end > int64(len(out)) {
		out = append(out, make([]byte, end-int64(len(out)))...)
	}
	copy(out[c.off:], c.data)
	return out
}
