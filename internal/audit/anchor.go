package audit

import (
	"context"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// Extends reports whether the log in dir still begins as a signed checkpoint
// says that was kept elsewhere. It is for a start: it reads tiles, not
// segments, and writes nothing. The error has kind [fault.Integrity] when the
// log was set back or is another, and [fault.Unavailable] when that cannot be
// told.
func Extends(ctx context.Context, dir string, v note.Verifier, kept []byte) error {
	fsys := OS()
	want, err := ledger.ParseCheckpoint(kept, v)
	if err != nil {
		return fault.Wrap(fault.Integrity, "the kept head of the audit log is none of this log's", err)
	}
	signed, err := readHead(fsys, dir)
	if err != nil {
		return fault.Wrap(fault.Integrity, "the audit log has no signed head, and one of it was kept elsewhere", err)
	}
	head, err := ledger.ParseCheckpoint(signed, v)
	if err != nil {
		return err
	}
	if head.Size < want.Size {
		return setBack
	}
	root, err := ledger.RootAt(want.Size, head.Size, head.Root, func(path string) ([]byte, error) {
		return readFile(fsys, filepath.Join(dir, "log", path), 1<<16)
	})
	if err == nil {
		if root != want.Root {
			return setBack
		}
		return nil
	}
	// Tiles are derived from the segments, and may be lost: then those tell.
	r, err := Verify(ctx, dir, VerifyOptions{Verifier: v, Since: kept})
	switch {
	case err != nil:
		return err
	case !r.Anchored:
		return setBack
	}
	return nil
}

var setBack = fault.New(fault.Integrity, "the audit log is not the one whose head was kept elsewhere: it was set back or changed; `bulwark audit verify` and a backup tell what is missing")
