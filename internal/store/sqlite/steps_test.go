package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite/powervfs"
	"bulwark.example/internal/tenant"
)

// stepEnv tells a child process in which folder to live and, after a newline,
// in front of which step to end as kill -9 does.
const stepEnv = "BULWARK_TEST_STEP_CHILD"

// steps are the places at which a child can end. They stand where the product
// calls out anyway: SQLite's VFS and its hook in front of each row, the disk of
// the audit log, the outbox, the subscribers, the transaction's function.
type steps struct {
	mu    sync.Mutex
	phase string
	count map[string]int
	stop  string
}

// say writes a line that the parent reads: one write(2), so that what it reads
// had happened.
func say(kind, text string) { _, _ = os.Stdout.WriteString(kind + "\t" + text + "\n") }

// in begins a phase: the same operation is another step there.
func (s *steps) in(phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phase
}

// at is one step. The process ends in front of what follows it.
func (s *steps) at(name string) {
	if s == nil {
		return // a life that nobody stops
	}
	s.mu.Lock() // held for good by who ends the process
	name = s.phase + ": " + name
	if s.count[name]++; s.count[name] > 1 {
		name += fmt.Sprintf(" (%d)", s.count[name])
	}
	say("step", name)
	if name == s.stop {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // it comes on the way back from the kernel
	}
	s.mu.Unlock()
}

// hookRows makes a step of every row that SQLite is about to change.
func (s *steps) hookRows() {
	verbs := map[int32]string{codes.SQLITE_INSERT: "insert into", codes.SQLITE_UPDATE: "update", codes.SQLITE_DELETE: "delete from"}
	driver.RegisterConnectionHook(func(conn driver.ExecQuerierContext, _ string) error {
		hooks := conn.(driver.HookRegisterer)
		hooks.RegisterPreUpdateHook(func(d driver.SQLitePreUpdateData) { s.at("row: " + verbs[d.Op] + " " + d.TableName) })
		hooks.RegisterCommitHook(func() int32 { s.at("commit"); return 0 })
		return nil
	})
}

// The seams of the product, each with a step in front of every call. Nothing is
// really synced: what a killed process wrote is in the kernel's hands, and the
// machine under the test does not lose its power.
type (
	stepFS struct {
		audit.FS
		s *steps
	}
	stepFile struct {
		audit.File
		s    *steps
		name string
	}
	stepOutbox struct {
		audit.Outbox
		s     *steps
		empty chan struct{} // an entry is received after each Done
		busy  *sync.Mutex   // held from the first to the last step of a Done
	}
	stepStore struct {
		directory.Store
		s *steps
	}
)

// base is a file's name without what differs from life to life.
func base(name string) string {
	name = filepath.Base(name)
	if _, err := strconv.Atoi(name); err == nil {
		return "N" // a folder of the test, a tile of the log
	}
	if _, group, ok := strings.Cut(name, "-"); ok && strings.HasSuffix(name, ".seg") {
		return group
	}
	return name
}

func (f stepFS) OpenFile(name string, flag int) (audit.File, error) {
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		f.s.at("log: open " + base(name))
	}
	file, err := f.FS.OpenFile(name, flag)
	return stepFile{file, f.s, base(name)}, err
}

func (f stepFS) Rename(from, to string) error {
	f.s.at("log: rename to " + base(to))
	return f.FS.Rename(from, to)
}

func (f stepFS) Remove(name string) error {
	f.s.at("log: remove " + base(name))
	return f.FS.Remove(name)
}

func (f stepFS) SyncDir(dir string) error {
	f.s.at("log: fsync folder " + base(dir))
	return nil
}

func (f stepFile) WriteAt(b []byte, off int64) (int, error) {
	f.s.at("log: write " + f.name)
	return f.File.WriteAt(b, off)
}

func (f stepFile) Truncate(size int64) error {
	f.s.at("log: truncate " + f.name)
	return f.File.Truncate(size)
}

func (f stepFile) Sync() error {
	f.s.at("log: fdatasync " + f.name)
	return nil
}

func (o stepOutbox) Pending(ctx context.Context, limit int) ([]audit.OutboxEntry, error) {
	entries, err := o.Outbox.Pending(ctx, limit)
	if len(entries) > 0 {
		o.s.at("outbox: read")
	}
	return entries, err
}

func (o stepOutbox) Done(ctx context.Context, seqs []int64) error {
	o.busy.Lock()
	defer o.busy.Unlock()
	o.s.at("outbox: acknowledge")
	err := o.Outbox.Done(ctx, seqs)
	o.s.at("outbox: acknowledged")
	if err == nil {
		o.empty <- struct{}{}
	}
	return err
}

func (d stepStore) Mutate(ctx context.Context, change ledger.Change, fn func(directory.Tx) error) (relation.Revision, error) {
	d.s.at("validated")
	rev, err := d.Store.Mutate(ctx, change, func(tx directory.Tx) error {
		d.s.at("begun")
		err := fn(tx)
		d.s.at("rows written")
		return err
	})
	d.s.at("answered")
	return rev, err
}

// life is a store, an engine that holds a view of it, and an audit log, as a
// node wires them.
type life struct {
	dir       string
	code      string
	verifier  note.Verifier
	disk      *powervfs.Disk
	steps     *steps
	store     *Store
	directory *directory.Directory
	log       *audit.Log
	outbox    stepOutbox
	drained   chan struct{}
	end       context.CancelFunc
}

// lead opens a life in the folder. What the lives of a folder share is in its
// file secrets: the log's key and the code.
func lead(dir string, s *steps) (*life, error) {
	ctx := context.Background()
	secrets, err := os.ReadFile(filepath.Join(dir, "secrets"))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(secrets), "\n")
	l := &life{dir: dir, code: lines[2], steps: s, drained: make(chan struct{})}
	signer, err := note.NewSigner(lines[0])
	if err != nil {
		return nil, err
	}
	if l.verifier, err = note.NewVerifier(lines[1]); err != nil {
		return nil, err
	}
	if l.disk, err = powervfs.New(dir); err != nil {
		return nil, err
	}
	l.disk.Fail(func(op powervfs.Op, name string) int32 {
		s.at(fmt.Sprint("store: ", op, " ", filepath.Base(name)))
		return 0
	})
	if l.store, err = Open(ctx, Config{Path: filepath.Join(dir, "bulwark.db"), VFS: dir}); err != nil {
		return nil, err
	}
	l.directory, err = directory.New(ctx, directory.Config{
		Store: stepStore{l.store.Directory(), s}, Env: "test", Applications: []string{"docs"}, MaxToken: time.Minute, Now: time.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.New([]byte("the same for all lives")), nil },
	})
	if err != nil {
		return nil, err
	}
	l.store.Subscribe(func(b store.Batch) {
		s.at("published")
		for _, e := range b.Entries {
			if err := l.directory.Apply(e.Kind, e.Key, e.Payload); err != nil {
				say("error", err.Error())
			}
		}
		s.at("engine has it")
		if l.log != nil {
			l.log.Wake()
		}
	})
	// No head is signed meanwhile: that would happen at a moment of its own.
	l.log, err = audit.Open(ctx, audit.Config{Dir: filepath.Join(dir, "audit"), FS: stepFS{audit.OS(), s}, Now: time.Now, Signer: signer, Verifier: l.verifier, Instance: "test", Checkpoint: time.Hour})
	if err != nil {
		return nil, err
	}
	l.outbox = stepOutbox{l.store.Outbox(), s, make(chan struct{}, 8), &sync.Mutex{}}
	drain, cancel := context.WithCancel(ctx)
	l.end = cancel
	go func() {
		defer close(l.drained)
		_ = l.log.Drain(drain, l.outbox) // nil always
	}()
	return l, nil
}

// settle waits until the outbox is empty.
func (l *life) settle() error {
	for {
		left, err := l.outbox.Outbox.Pending(context.Background(), 1)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			// The rows may be gone while Done has yet to return: its last step
			// belongs to this phase.
			l.outbox.busy.Lock()
			defer l.outbox.busy.Unlock()
			return nil
		}
		l.log.Wake()
		<-l.outbox.empty
	}
}

// deny refuses one request as the guard does, and says so.
func (l *life) deny() error {
	rec, err := l.log.Begin(ledger.Event{Action: "request", Tenant: tenant.Platform})
	if err != nil {
		return err
	}
	l.steps.at("opened")
	rec.Event.Class, rec.Event.Decision, rec.Event.Reason = ledger.Deny, "deny", "no_relation"
	l.steps.at("decided")
	if err := rec.Close(context.Background()); err != nil {
		return err
	}
	say("denied", rec.Event.ID)
	l.steps.at("answered")
	return nil
}

func (l *life) close() error {
	l.end()
	<-l.drained
	if err := l.log.Close(context.Background()); err != nil {
		return err
	}
	if err := l.store.Close(); err != nil {
		return err
	}
	if l.disk != nil { // else this is the second call
		l.disk.Close()
		l.disk = nil
	}
	return nil
}

// enrol makes the change: a user, a key, a role and a code that is used up.
func (l *life) enrol() error {
	l.steps.at("asked")
	u, err := l.directory.Enrol(context.Background(), ledger.Event{}, l.code, "", "kid", []byte(`{}`))
	if err == nil {
		say("enrolled", u.ID)
	}
	return err
}

// stepChild is the child's whole life: begin, deny, change, deny, end.
func stepChild(told string) {
	dir, stop, _ := strings.Cut(told, "\n")
	s := &steps{phase: "start", count: map[string]int{}, stop: stop}
	if err := s.live(dir); err != nil {
		say("error", err.Error())
		os.Exit(1)
	}
	say("end", "")
}

func (s *steps) live(dir string) error {
	s.hookRows()
	l, err := lead(dir, s)
	if err != nil {
		return err
	}
	if err := l.settle(); err != nil { // what the life before left
		return err
	}
	for _, part := range []struct {
		phase string
		do    func() error
	}{
		{"deny", l.deny},
		{"change", func() error {
			if err := l.enrol(); err != nil && fault.KindOf(err) != fault.Denied {
				return err // denied is a code that the life before has used
			}
			return l.settle()
		}},
		{"deny again", l.deny},
		{"end", l.close},
	} {
		s.in(part.phase)
		if err := part.do(); err != nil {
			return err
		}
	}
	return nil
}
