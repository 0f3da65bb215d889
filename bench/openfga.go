package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
)

// peer is OpenFGA on a PostgreSQL of its own, in processes whose CPU is read.
type peer struct {
	exe, dir, uri string
	postgres      *exec.Cmd
	plain, cached *fgaServer
	rows          int64 // copied so far
	closers       []func()
}

// fgaServer is one `openfga run`.
type fgaServer struct {
	flags string
	addr  string
	cmd   *exec.Cmd
	*asker
}

// presharedKey is the token of the peer's callers.
const presharedKey = "bench-key-of-36-bytes-as-all-ids-are"

// cacheFlags turn on all that OpenFGA keeps of answers, for a minute.
var cacheFlags = []string{
	"--check-query-cache-enabled", "--check-query-cache-ttl=60s", "--check-iterator-cache-enabled", "--check-iterator-cache-ttl=60s",
	"--list-objects-iterator-cache-enabled", "--list-objects-iterator-cache-ttl=60s", "--check-cache-limit=200000",
}

// postgresSettings are what differs from initdb's.
var postgresSettings = []string{"listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=512MB"}

// openPeer starts PostgreSQL, prepares it and runs OpenFGA twice on it: as it
// comes, and with its caches.
func openPeer(ctx context.Context, w *world) (p *peer, err error) {
	p = &peer{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.exe = w.openfga; p.exe == "" {
		p.exe = w.path("openfga")
		fmt.Fprintln(os.Stderr, "building OpenFGA")
		build := exec.CommandContext(ctx, "go", "build", "-o", p.exe, "github.com/openfga/openfga/cmd/openfga")
		build.Dir, build.Stderr = "openfga", os.Stderr
		if err := build.Run(); err != nil {
			return p, err
		}
	}
	if err := p.openPostgres(ctx); err != nil {
		return p, err
	}
	migrate := exec.CommandContext(ctx, p.exe, "migrate", "--datastore-engine", "postgres", "--datastore-uri", p.uri)
	if out, err := migrate.CombinedOutput(); err != nil {
		return p, fmt.Errorf("openfga migrate: %w: %s", err, out)
	}
	if p.plain, err = p.serve(ctx, w, "default"); err != nil {
		return p, err
	}
	p.cached, err = p.serve(ctx, w, "cached", cacheFlags...)
	return p, err
}

func (p *peer) close() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
}

// openPostgres makes a cluster in a folder of its own. PostgreSQL refuses to run
// as root, so that root runs it as the user postgres.
func (p *peer) openPostgres(ctx context.Context) (err error) {
	if p.dir, err = os.MkdirTemp("", "bulwark-bench-postgres-"); err != nil {
		return err
	}
	p.closers = append(p.closers, func() { _ = os.RemoveAll(p.dir) })
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		who, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, err := strconv.ParseUint(who.Uid, 10, 32)
		if err != nil {
			return err
		}
		gid, err := strconv.ParseUint(who.Gid, 10, 32)
		if err != nil {
			return err
		}
		if err := os.Chown(p.dir, int(uid), int(gid)); err != nil {
			return err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(p.dir, "data")
	initdb := exec.CommandContext(ctx, "initdb", "-D", data, "-U", "bench", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
	initdb.SysProcAttr, initdb.Dir = attr, p.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	host, port, _ := strings.Cut(freeAddr(), ":")
	args := []string{"-D", data, "-p", port}
	for _, s := range postgresSettings {
		args = append(args, "-c", s)
	}
	p.postgres = exec.Command("postgres", args...)
	p.postgres.SysProcAttr, p.postgres.Dir = attr, p.dir
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	p.postgres.Stdout, p.postgres.Stderr = log, log
	if err := p.postgres.Start(); err != nil {
		return err
	}
	p.closers = append(p.closers, func() { _ = p.postgres.Process.Signal(os.Interrupt); _ = p.postgres.Wait() }) // SIGINT: fast shutdown
	p.uri = fmt.Sprintf("postgres://bench@%s:%s/postgres?sslmode=disable", host, port)
	for end := time.Now().Add(30 * time.Second); ; {
		if err := p.sql(ctx, "select 1"); err == nil {
			return nil
		} else if time.Now().After(end) {
			return fmt.Errorf("postgres: %w", err)
		}
	}
}

// sql runs a statement.
func (p *peer) sql(ctx context.Context, text string) error {
	out, err := exec.CommandContext(ctx, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", p.uri, "-c", text).CombinedOutput()
	if err != nil {
		return fmt.Errorf("psql: %w: %s", err, out)
	}
	return nil
}

// serve runs one OpenFGA with TLS and a preshared key.
func (p *peer) serve(ctx context.Context, w *world, name string, flags ...string) (*fgaServer, error) {
	s := &fgaServer{addr: freeAddr(), flags: strings.Join(flags, " ")}
	args := append([]string{"run", "--datastore-engine=postgres", "--datastore-uri=" + p.uri, "--grpc-addr=" + s.addr,
		"--grpc-tls-enabled", "--grpc-tls-cert=" + w.certFile, "--grpc-tls-key=" + w.keyFile,
		"--authn-method=preshared", "--authn-preshared-keys=" + presharedKey,
		"--http-enabled=false", "--metrics-enabled=false", "--log-level=error"}, flags...)
	s.cmd = exec.Command(p.exe, args...)
	log, err := os.Create(w.path("openfga-" + name + ".log"))
	if err != nil {
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, func() { _ = s.cmd.Process.Signal(os.Interrupt); _ = s.cmd.Wait() })
	s.asker, err = dial(s.addr, w.caFile, func(context.Context) (string, error) { return presharedKey, nil })
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); ; {
		if _, err = s.asker.api.ListStores(ctx, &fga.ListStoresRequest{}); err == nil {
			return s, nil
		} else if time.Now().After(end) {
			return nil, fmt.Errorf("openfga: %w", err)
		}
	}
}

// load copies tuples into OpenFGA's table: its Write takes 100 at a time, and
// hours for a million. The changelog stays empty, which spares it work.
func (p *peer) load(ctx context.Context, store string, each func(do func(object, relation, user string))) error {
	cmd := exec.CommandContext(ctx, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", p.uri, "-c",
		"COPY tuple (store, object_type, object_id, relation, _user, user_type, ulid, inserted_at) FROM STDIN")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return err
	}
	out := bufio.NewWriterSize(in, 1<<20)
	now := time.Now().UTC().Format("2006-01-02 15:04:05Z")
	each(func(object, relation, user string) {
		typ, id := split(object)
		form := "user"
		if strings.ContainsAny(user, "#*") {
			form = "userset"
		}
		p.rows++
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%026d\t%s\n", store, typ, id, relation, user, form, p.rows, now)
	})
	if err := errors.Join(out.Flush(), in.Close()); err != nil {
		return fmt.Errorf("copy: %w: %s", err, errs.String())
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("copy: %w: %s", err, errs.String())
	}
	return p.sql(ctx, "vacuum analyze tuple")
}

// cpu is the time of OpenFGA's process and of all of PostgreSQL's: its children
// that run, and those that ended.
func (p *peer) cpu(s *fgaServer) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		sum, err := processor(s.cmd.Process.Pid, false)
		if err != nil {
			return 0, err
		}
		main := p.postgres.Process.Pid
		own, err := processor(main, true)
		if err != nil {
			return 0, err
		}
		sum += own
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", main, main))
		if err != nil {
			return 0, err
		}
		for _, text := range strings.Fields(string(list)) {
			pid, err := strconv.Atoi(text)
			if err != nil {
				return 0, err
			}
			if t, err := processor(pid, false); err == nil { // it may have ended since
				sum += t
			}
		}
		return sum, nil
	}
}
