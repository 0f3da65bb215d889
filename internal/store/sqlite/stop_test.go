package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// lived is what a child said before its end.
type lived struct {
	steps    []string
	enrolled bool
	denied   []string
	ended    bool // by itself
}

// runChild lets a child live in the folder until the step.
func runChild(t *testing.T, dir, stop string) lived {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stepEnv+"="+dir+"\n"+stop)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output() // an error where it was stopped
	var l lived
	for line := range strings.Lines(string(out)) {
		kind, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		switch kind {
		case "step":
			l.steps = append(l.steps, text)
		case "enrolled":
			l.enrolled = true
		case "denied":
			l.denied = append(l.denied, text)
		case "end":
			l.ended = true
		default:
			t.Fatalf("the child says %q", line)
		}
	}
	if l.ended != (err == nil) || l.ended != (stop == "") || !l.ended && l.steps[len(l.steps)-1] != stop {
		t.Fatalf("stopped at %q: %v, ended %v, %v", stop, err, l.ended, l.steps)
	}
	return l
}

// newBase is a folder with a tenant and a code that enrols its first person.
func newBase(t *testing.T) string {
	t.Helper()
	ctx := context.Background()
	dir := filepath.Dir(place(t))
	private, public, err := note.GenerateKey(rand.Reader, "log.example/node")
	if err != nil {
		t.Fatal(err)
	}
	write := func(code string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "secrets"), []byte(private+"\n"+public+"\n"+code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	s, err := Open(ctx, Config{Path: filepath.Join(dir, "bulwark.db")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateInstance(ctx, instance()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := lead(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.directory.CreatePlatform(ctx, ledger.Event{Subject: "system"}); err != nil {
		t.Fatal(err)
	}
	acme, err := l.directory.CreateTenant(ctx, ledger.Event{Subject: "system"}, "acme")
	if err != nil {
		t.Fatal(err)
	}
	olga, err := l.directory.CreateUser(ctx, ledger.Event{}, tenant.Platform, "olga", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.directory.AssignRole(ctx, ledger.Event{}, tenant.Platform, olga.ID, "operator"); err != nil {
		t.Fatal(err)
	}
	by := directory.Inviter{Tenant: tenant.Platform, Subject: principal.Subject{Kind: principal.User, ID: olga.ID}}
	code, _, err := l.directory.Invite(ctx, ledger.Event{}, by, acme.Tenant, "administrator", "admin")
	if err != nil {
		t.Fatal(err)
	}
	write(code)
	if err := l.settle(); err != nil {
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Dir(place(t))
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(to, "bulwark.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chmod(f, 0o600); err != nil { // CopyFS gives more
			t.Fatal(err)
		}
	}
	return to
}

// inspection is what a folder holds after its last life.
type inspection struct {
	enrolled bool
	gaps     int
}

// inspect opens the folder and holds it against what its lives said: a change
// is there as a whole and with its event, or not at all, and every event is in
// the log once.
func inspect(dir string, lives ...lived) (found inspection, err error) {
	ctx := context.Background()
	l, err := lead(dir, nil)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.settle(); err != nil {
		return found, err
	}
	acme := l.directory.Tenants()[0] // by name; the platform is the other
	if found.enrolled, err = inspectRows(l, acme.Tenant); err != nil {
		return found, err
	}
	shards := map[relation.StoreID]uint64{}
	for _, t := range l.directory.Tenants() {
		head, err := l.store.Head(ctx, t.System)
		if err != nil {
			return found, err
		}
		shards[t.System] = head.Rev
	}
	if err := inspectLog(l, &found, shards, lives); err != nil {
		return found, err
	}
	report, err := audit.Verify(ctx, filepath.Join(dir, "audit"), audit.VerifyOptions{Verifier: l.verifier, Since: l.log.Head()})
	if err != nil {
		return found, err
	}
	if !report.OK() || !report.Anchored {
		return found, fmt.Errorf("%s: %+v", report.Summary(), report.Defects)
	}
	// What is not there can be done now, and what is there cannot be done again.
	_, err = l.directory.Enrol(ctx, ledger.Event{}, l.code, "", "kid", []byte(`{}`))
	if found.enrolled && fault.KindOf(err) == fault.Denied {
		return found, nil
	}
	if found.enrolled {
		return found, errors.New("a used code was good again")
	}
	return found, err
}

// inspectRows counts the rows of the change.
func inspectRows(l *life, acme tenant.ID) (enrolled bool, err error) {
	ctx := context.Background()
	var users, keys, roles, used int
	for query, n := range map[string]*int{
		"SELECT count(*) FROM users WHERE tenant_id = ?":                        &users,
		"SELECT count(*) FROM client_keys WHERE tenant_id = ?":                  &keys,
		"SELECT count(*) FROM tuples WHERE tenant_id = ?":                       &roles,
		"SELECT count(*) FROM enrolments WHERE tenant_id = ? AND used_by <> ''": &used,
	} {
		if err := l.store.row(ctx, query, []any{acme.String()}, n); err != nil {
			return false, err
		}
	}
	if users > 1 || keys != users || roles != users || used != users {
		return false, fmt.Errorf("half of a change: %d users, %d keys, %d roles, %d used codes", users, keys, roles, used)
	}
	return users == 1, nil
}

// inspectLog reads every event: that of each revision of the shards and of each
// acknowledged denial, and none twice.
func inspectLog(l *life, found *inspection, shards map[relation.StoreID]uint64, lives []lived) error {
	seen, revs, uses := map[string]int{}, map[relation.Revision]int{}, 0
	err := audit.Query(context.Background(), filepath.Join(l.dir, "audit"), audit.QueryOptions{}, func(s ledger.Stored) bool {
		seen[s.Event.ID]++
		switch {
		case s.Event.Class == ledger.Mutation:
			revs[s.Event.Revision]++
			if s.Event.Action == "enrolment.use" {
				uses++
			}
		case s.Event.Action == "log.gap":
			found.gaps++
		}
		return true
	})
	if err != nil {
		return err
	}
	total := 0
	for shard, head := range shards {
		for rev := uint64(1); rev <= head; rev++ {
			if n := revs[relation.Revision{Epoch: 1, Store: shard, Rev: rev}]; n != 1 {
				return fmt.Errorf("revision %d is in the log %d times", rev, n)
			}
			total++
		}
	}
	if len(revs) != total || (uses == 1) != found.enrolled {
		return fmt.Errorf("%d revisions in the log, %d in the store; the code was used %d times, the user is there: %v", len(revs), total, uses, found.enrolled)
	}
	for id, n := range seen {
		if n != 1 {
			return fmt.Errorf("the event %s is there %d times", id, n)
		}
	}
	for _, v := range lives {
		if v.enrolled && !found.enrolled {
			return errors.New("an acknowledged change is lost")
		}
		for _, id := range v.denied {
			if seen[id] != 1 {
				return errors.New("an acknowledged denial is lost")
			}
		}
	}
	return nil
}

// namedSteps must be among the steps of a life: the way of a change from the
// call to the log, and of a denial.
var namedSteps = []string{
	"deny: opened", "deny: decided", "deny: log: write durable.seg", "deny: log: fdatasync durable.seg", "deny: answered",
	"change: asked", "change: validated", "change: begun",
	"change: row: insert into users", "change: row: insert into client_keys", "change: row: insert into tuples", "change: row: update enrolments",
	"change: rows written", "change: row: update head", "change: row: insert into changelog", "change: row: insert into outbox",
	"change: commit", "change: store: write bulwark.db-wal", "change: store: sync bulwark.db-wal",
	"change: published", "change: engine has it", "change: answered",
	"change: outbox: read", "change: log: write durable.seg", "change: log: fdatasync durable.seg",
	"change: outbox: acknowledge", "change: row: delete from outbox", "change: commit (2)", "change: outbox: acknowledged",
	"end: log: rename to checkpoint",
}

// worth leaves out the middle of a row of writes to one file: of their twenty
// the first, the second and the last are worth a process.
func worth(steps []string) []string {
	name := func(i int) string {
		if i < 0 || i >= len(steps) {
			return ""
		}
		s, _, _ := strings.Cut(steps[i], " (")
		return s
	}
	var out []string
	for i, step := range steps {
		if name(i) != name(i-1) || name(i) != name(i-2) || name(i) != name(i+1) {
			out = append(out, step)
		}
	}
	return out
}

// A process is stopped in front of every step of a denial, of a change and of
// its end. Whatever the step, the change and its event are there both or
// neither, once, and what was acknowledged is there.
func TestStopBetweenSteps(t *testing.T) {
	// Not parallel: a child on its way between fork and exec holds the locks of
	// stores that tests beside this one close and open again.
	base := newBase(t)
	whole := copyOf(t, base)
	full := runChild(t, whole, "")
	if found, err := inspect(whole, full); err != nil || found != (inspection{enrolled: true}) {
		t.Fatalf("a whole life: %+v, %v", found, err)
	}
	for _, name := range namedSteps {
		if !slices.Contains(full.steps, name) {
			t.Errorf("no life has the step %q", name)
		}
	}
	t.Logf("%d steps: %s", len(full.steps), strings.Join(full.steps, "; "))
	commit, published := slices.Index(full.steps, "change: commit"), slices.Index(full.steps, "change: published")
	stops := worth(full.steps)
	if testing.Short() { // the race detector looks at no child
		stops = namedSteps
	}
	t.Logf("a process is stopped at %d of them", len(stops))
	for i, stop := range full.steps {
		if !slices.Contains(stops, stop) {
			continue
		}
		t.Run(stop, func(t *testing.T) {
			t.Parallel()
			dir := copyOf(t, base)
			found, err := inspect(dir, runChild(t, dir, stop))
			if err != nil {
				t.Fatal(err)
			}
			if i <= commit && found.enrolled || i >= published && !found.enrolled {
				t.Errorf("the change is there: %v", found.enrolled)
			}
			if phase, _, _ := strings.Cut(stop, ":"); phase != "start" && phase != "end" && found.gaps != 1 {
				t.Errorf("%d records of the stop", found.gaps)
			}
		})
	}
}

// The life after a stop is stopped itself, in front of each of its steps: what
// it repairs and what it drains is neither lost nor there twice.
func TestStopInTheLifeAfter(t *testing.T) {
	// Not parallel: a child on its way between fork and exec holds the locks of
	// stores that tests beside this one close and open again.
	if testing.Short() {
		t.Log("short: the second life is not stopped")
		return
	}
	base := newBase(t)
	for _, first := range []string{
		"change: published",                  // the outbox has the event, the log does not
		"change: log: fdatasync durable.seg", // the log may have it
		"change: outbox: acknowledge",        // both have it
	} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			stopped := copyOf(t, base)
			one := runChild(t, stopped, first)
			second := runChild(t, copyOf(t, stopped), "")
			steps := slices.DeleteFunc(worth(second.steps), func(step string) bool { return !strings.HasPrefix(step, "start: ") })
			t.Logf("%d steps: %s", len(steps), strings.Join(steps, "; "))
			for _, stop := range steps {
				t.Run(stop, func(t *testing.T) {
					t.Parallel()
					dir := copyOf(t, stopped)
					found, err := inspect(dir, one, runChild(t, dir, stop))
					if err != nil || !found.enrolled {
						t.Errorf("%+v, %v", found, err)
					}
				})
			}
		})
	}
}
