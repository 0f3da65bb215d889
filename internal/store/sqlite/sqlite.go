// Package sqlite is the embedded store: one file, one writer, many readers.
//
// # The one way to change something
//
// Every change goes through mutate. A single goroutine owns the writing
// connection; it merges the callers that wait into one transaction, each in a
// savepoint of its own:
//
//	BEGIN IMMEDIATE
//	  SAVEPOINT  fn  head+1  changelog  outbox  RELEASE     caller 1
//	  SAVEPOINT  fn  fails   ROLLBACK TO        RELEASE     caller 2: no revision is used
//	  ...
//	COMMIT                                                  one fsync for all of them
//	subscribers see the batches, in order
//	callers get their answers
//
// A revision is thus visible only with all before it, an event exists exactly
// when its change does, and what was acknowledged survives a power cut
// (synchronous=FULL). If COMMIT fails everyone in the transaction gets the
// error and nothing is delivered; the connection is opened anew for the next.
// Such a change is not visible and the next commit overwrites what it left; only
// a crash before that can bring it back, with its event and changelog.
//
// # Where a change belongs
//
// Records belong to the shard of their owner's system store, tuples to their
// own. A change that touches anything of another shard fails as a whole.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/store"
)

const (
	busyTimeout     = 5 * time.Second
	checkpointPages = 1000
	journalLimit    = 64 << 20 // bytes that the WAL keeps after a checkpoint
	groupCallers    = 256      // most callers that share a transaction
	groupBytes      = 4 << 20  // payload bytes after which a transaction takes no more callers
)

// Config says where the store is. Path is required.
type Config struct {
	Path    string           // of the database file; its directory must exist
	Now     func() time.Time // nil is time.Now; stamps events that have no time
	Logger  *slog.Logger     // nil discards
	Readers int              // reading connections; 0 is twice the processors, at least 4

	MaxTuples int // that a tenant may have in all its stores together; 0: no bound

	// VFS names a registered SQLite VFS through which every byte goes; empty
	// is the system's. Tests of power loss plug in here.
	VFS string

	unsafeSync string // PRAGMA synchronous, for the test that proves FULL is needed
	checkpoint int    // WAL pages after which a commit also checkpoints; 0 is checkpointPages
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	cfg   Config
	lock  *os.File
	write *sql.DB
	read  *sql.DB

	mu    sync.Mutex // guards stmts
	stmts map[string]*sql.Stmt

	subscribers subscribers
	queue       chan *request // unbuffered: whoever sends knows that the writer has it
	stop        chan struct{} // closed by Close: take no more
	stopped     chan struct{} // closed by the writer when it is done
	closing     sync.Once
	epoch       atomic.Uint64 // 0 until there is an instance

	counters struct{ mutations, refused, lost, commits, largest atomic.Uint64 }
}

// Open opens the store, and makes or migrates it when needed. The error has
// kind Conflict when another process has it open, Invalid when the file or its
// directory is open to others or is no store of ours, Unsupported when a newer
// version wrote it, Integrity when it is damaged, else Unavailable or Internal.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Readers == 0 {
		cfg.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if cfg.checkpoint == 0 {
		cfg.checkpoint = checkpointPages
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the store's path is not usable", err)
	}
	cfg.Path = path
	lock, err := acquire(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, lock: lock,
		stmts: map[string]*sql.Stmt{},
		queue: make(chan *request), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(translate(err, "the store"), s.release())
	}
	go s.run()
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	var err error
	if s.write, err = connect(s.cfg.dsn(false), 1); err != nil {
		return err
	}
	if s.read, err = connect(s.cfg.dsn(true), s.cfg.Readers); err != nil {
		return err
	}
	switch in, err := s.Instance(ctx); {
	case err == nil:
		s.epoch.Store(in.Epoch)
	case fault.KindOf(err) != fault.NotFound:
		return err
	}
	return nil
}

// Close answers the callers that the writer already has, refuses the others
// with kind Unavailable and closes the file. Further calls do nothing.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		close(s.stop)
		<-s.stopped
		err = translate(s.release(), "the store")
	})
	return err
}

// release closes what is open, readers first: the last connection to close
// checkpoints, which a reading one may not.
func (s *Store) release() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(append(errs, unlock(s.lock))...)
}

// Counters returns what the store did since it was opened.
func (s *Store) Counters() store.Counters {
	c := &s.counters
	return store.Counters{
		Mutations: c.mutations.Load(), Refused: c.refused.Load(), Lost: c.lost.Load(),
		Commits: c.commits.Load(), Largest: c.largest.Load(),
	}
}

// acquire takes the lock that keeps a second writer out, in this process or
// another, and makes the files with a mode that shows them to nobody else.
// SQLite gives its journal the mode of the database file.
func acquire(path string) (*os.File, error) {
	dir := filepath.Dir(path)
	switch info, err := os.Stat(dir); {
	case err != nil || !info.IsDir():
		return nil, fault.Wrap(fault.Invalid, "the store's directory does not exist; create it with mode 0700", err)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fault.New(fault.Invalid, "others can write to the store's directory; give it mode 0700")
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the store's lock file does not open", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fault.Wrap(fault.Conflict, "another process has the store open; end it first", err)
	}
	if err := create(dir, path); err != nil {
		_ = unlock(lock)
		return nil, err
	}
	return lock, nil
}

// unlock gives the lock back at once. Closing the file alone leaves it to the
// last copy of the descriptor, and a process that is being forked at the moment
// has one until it executes.
func unlock(lock *os.File) error {
	return errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_UN), lock.Close())
}

func create(dir, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			return fault.Wrap(fault.Unavailable, "the store's file does not open", err)
		case !info.Mode().IsRegular():
			return fault.New(fault.Invalid, "the store's path is not a file")
		case info.Mode().Perm()&0o077 != 0:
			return fault.New(fault.Invalid, "others can reach the store's file; give it mode 0600")
		}
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, "the store's file cannot be created", err)
	}
	if err := f.Close(); err != nil {
		return fault.Wrap(fault.Unavailable, "the store's file cannot be created", err)
	}
	// The name must survive a power cut, as the commits in the file will.
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, "the store's directory cannot be synced", err)
	}
	return nil
}
