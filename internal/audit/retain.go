package audit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"bulwark.example/internal/ledger"
)

// budget returns the bytes that the sealed segments of a group may take; 0
// means all of them are kept.
func (c Config) budget(g int) int64 {
	switch g {
	case groupAllow:
		return c.Budgets[ledger.Check] + c.Budgets[ledger.Allow]
	case groupReject:
		return c.Budgets[ledger.Reject]
	}
	var sum int64
	for _, class := range []ledger.Class{ledger.Mutation, ledger.KeyUse, ledger.AdminRead, ledger.Deny} {
		if c.Budgets[class] == 0 {
			return 0
		}
		sum += c.Budgets[class]
	}
	return sum
}

// retain drops the oldest sealed segments of each group that is over its
// budget, allow first.
func (w *writer) retain() {
	for _, id := range [...]int{groupAllow, groupReject, groupDurable} {
		budget := w.cfg.budget(id)
		if budget <= 0 {
			continue
		}
		g := &w.groups[id]
		var sum int64
		for _, f := range g.sealed {
			sum += f.size
		}
		for sum > budget && len(g.sealed) > 0 && !w.broken {
			// Only what a signed head covers: the head is what proves later
			// that the dropped events were there.
			f := g.sealed[0]
			headers, info, err := stripSegment(w.cfg, w.codec, f)
			if err == nil && info.last >= w.outer.head.Size {
				return
			}
			if err == nil {
				err = w.dropSegment(f, headers, info)
			}
			if err != nil {
				w.cfg.Logger.Error("a segment of the audit log cannot be dropped", "segment", f.name, "error", err.Error())
				return
			}
			sum -= f.size
			g.sealed = g.sealed[1:]
		}
	}
}

type stripped struct {
	last   uint64
	blocks int
	events uint64
}

// stripSegment reads a segment and returns it without its events.
func stripSegment(cfg Config, codec *ledger.Codec, f segFile) ([]byte, stripped, error) {
	var info stripped
	r, err := openSegment(cfg.FS, cfg.Dir, f)
	if err != nil {
		return nil, info, err
	}
	defer r.close()
	head := r.head
	head.Headers = true
	out := head.Marshal()
	for {
		fr, err := r.next()
		if err == io.EOF {
			return out, info, nil
		}
		if err != nil {
			return nil, info, err
		}
		out = codec.AppendFrame(out, fr.block)
		info.last = fr.block.Leaf.Block
		info.blocks++
		info.events += uint64(fr.block.Leaf.Count)
	}
}

// dropSegment replaces a segment by its headers. The order makes a crash
// harmless: the headers are durable, then the record, then the events go.
func (w *writer) dropSegment(f segFile, headers []byte, info stripped) error {
	path := filepath.Join(w.cfg.Dir, segName(f.first, f.group, true))
	if err := replaceFile(w.cfg.FS, path, headers, true); err != nil {
		return err
	}
	if err := w.cfg.FS.SyncDir(w.cfg.Dir); err != nil {
		return err
	}
	ev := w.log.systemEvent("log.drop", "retention")
	ev.Resource = "segment:" + f.name
	ev.Count = info.events
	ev.Detail["first_block"] = strconv.FormatUint(f.first, 10)
	ev.Detail["last_block"] = strconv.FormatUint(info.last, 10)
	ev.Detail["blocks"] = strconv.Itoa(info.blocks)
	if _, err := w.writeGroup(groupDurable, []item{{ev: ev}}); err != nil {
		w.fail(&round{}, err)
		return err
	}
	if err := w.commit(); err != nil {
		w.fail(&round{}, err)
		return err
	}
	if err := w.cfg.FS.Remove(filepath.Join(w.cfg.Dir, f.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
