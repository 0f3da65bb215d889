package audit

import (
	"errors"
	"os"
	"path/filepath"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// badFile is a segment that a failure left with bytes behind its durable end.
type badFile struct {
	segFile
	durable int64
}

// fail goes back to the last commit: nothing written since then counts, and
// the files that were touched since are cut there before the log goes on.
// After a failed fdatasync the page cache may hold what the disk does not.
func (w *writer) fail(r *round, cause error) {
	w.cfg.Logger.Error("the audit log cannot be written", "error", cause.Error())
	w.chain.Rollback()
	w.leaves = w.leaves[:0]
	w.count("write_failed", w.since)
	clear(w.since[:])
	w.settled = w.keptSettled
	for id := range w.groups {
		g := &w.groups[id]
		if !g.dirty {
			continue
		}
		if g.file != nil {
			_ = g.file.Close()
			g.bad = append(g.bad, badFile{g.segFile, g.durable})
		}
		if g.durable > ledger.SegmentHead {
			g.prevFirst, g.prevLast = g.first, g.kept
		}
		g.file, g.dirty, g.fresh = nil, false, false
	}
	w.broken = true
	w.refuse(r, cause)
}

// refuse answers a round that cannot be written.
func (w *writer) refuse(r *round, cause error) {
	err := fault.Wrap(fault.Unavailable, errBroken, cause)
	for i := range r.waiting {
		r.waiting[i].w.done(err)
	}
	if w.broken {
		w.log.level.Store(priorityRevoke)
	}
	w.countItems("write_failed", r.buffered)
	w.countItems("write_failed", r.rejected)
	r.waiting, r.buffered, r.rejected = nil, nil, nil
}

// repair cuts the files that a failure left, durably, so that no block of
// theirs can come back beside a later one of the same number.
func (w *writer) repair() error {
	for id := range w.groups {
		g := &w.groups[id]
		for len(g.bad) > 0 {
			b := g.bad[0]
			if err := cutFile(w.cfg, b.name, b.durable); err != nil {
				return err
			}
			if b.durable > ledger.SegmentHead {
				b.size = b.durable
				g.sealed = append(g.sealed, b.segFile)
			}
			g.bad = g.bad[1:]
		}
	}
	w.broken = false
	w.cfg.Logger.Info("the audit log can be written again")
	return nil
}

// cutFile makes a segment end at size, durably; without a block it goes.
func cutFile(cfg Config, name string, size int64) error {
	path := filepath.Join(cfg.Dir, name)
	if size <= ledger.SegmentHead {
		if err := cfg.FS.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return cfg.FS.SyncDir(cfg.Dir)
	}
	f, err := cfg.FS.OpenFile(path, os.O_RDWR)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
