// Package e2e drives the built binary from outside: real processes, real TLS, real files.
package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binaries are built once for all tests, beside each other.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bulwark-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		defer os.RemoveAll(dir)
		for _, b := range []struct{ module, pkg string }{{"..", "./cmd/bulwark"}, {"../examples", "./notes"}, {"../examples", "./billing"}} {
			cmd := exec.Command("go", "build", "-o", dir+"/", b.pkg)
			cmd.Dir, cmd.Stderr = b.module, os.Stderr
			if err := cmd.Run(); err != nil {
				fmt.Fprintln(os.Stderr, "e2e: cannot build", b.pkg, err)
				return 2
			}
		}
		binaries = dir
		return m.Run()
	}())
}

func bulwarkPath() string { return filepath.Join(binaries, "bulwark") }

// state is dev.json.
type state struct {
	Gateway, API, GRPC, Ops, CA, Issuer, Env string
	Tenants                                  map[string]struct{ ID, Store string }
	Users                                    map[string]struct{ ID string }
	Services                                 map[string]struct {
		ID       string
		Owner    string
		ClientID string `json:"client_id"`
		Audience string
		Key      string
	}
}

// process is one running binary. Its output is kept.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  lockedBuffer
	err  lockedBuffer
	done chan struct{}
	code error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a binary until the test ends, when it is asked to stop.
func start(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.code = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%v did not stop within 20 s", p.cmd.Args)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // SIGKILL; it may have ended
	<-p.done
}

// dev is a running `bulwark dev`.
type dev struct {
	*process
	state
	dir  string
	http *http.Client
}

// startDev runs dev over dir on free ports and waits until it is ready.
func startDev(t testing.TB, dir string) *dev {
	t.Helper()
	d := &dev{dir: dir}
	d.process = start(t, bulwarkPath(), "dev", "--data", dir, "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ops", "127.0.0.1:0")
	d.await("dev.json", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "dev.json"))
		return err == nil && json.Unmarshal(b, &d.state) == nil && strings.Contains(d.out.String(), "Ctrl-C")
	})
	d.http = clientFor(t, d.CA)
	return d
}

// await polls until ok or the process is gone or a minute has passed.
func (p *process) await(what string, ok func() bool) {
	p.t.Helper()
	p.awaitFor(time.Minute, what, ok)
}

func (p *process) awaitFor(patience time.Duration, what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.done:
			p.t.Fatalf("waiting for %s: %v ended: %v\n%s%s", what, p.cmd.Args, p.code, p.out.String(), p.err.String())
		case <-deadline:
			p.t.Fatalf("waiting for %s: %v have passed\n%s%s", what, patience, p.out.String(), p.err.String())
		case <-tick.C:
		}
	}
}

func clientFor(t testing.TB, caFile string) *http.Client {
	t.Helper()
	b, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("no certificate in", caFile)
	}
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// run runs the CLI and returns what it printed and its exit code.
func run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return runWith(t, "", nil, args...)
}

func runWith(t testing.TB, stdin string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bulwarkPath(), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	cmd.Env = append(os.Environ(), env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// cli runs the CLI against d and fails the test unless it exits with 0.
func (d *dev) cli(args ...string) string {
	d.t.Helper()
	out, errs, code := run(d.t, append(args, "--data", d.dir)...)
	if code != 0 {
		d.t.Fatalf("bulwark %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// token returns a token of the person for the audience.
func (d *dev) token(as, audience string) string {
	d.t.Helper()
	return strings.TrimSpace(d.cli("token", "--as", as, "--audience", audience))
}

// reply is an HTTP answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends one request. header values come in pairs.
func (d *dev) do(method, url, body string, header ...string) reply {
	d.t.Helper()
	r, err := send(d.http, method, url, body, header...)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, url, err)
	}
	return r
}

func send(c *http.Client, method, url, body string, header ...string) (reply, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b)}, err
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// read decodes the answer's JSON.
func (r reply) read(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("%v in %q", err, r.body)
	}
}

// events returns the audit events of d that match, as `bulwark audit query`
// prints them to the tenant's auditor.
func (d *dev) events(as string, filter ...string) []map[string]any {
	d.t.Helper()
	out := d.cli(append([]string{"audit", "query", "--as", as, "--json", "--limit", "1000"}, filter...)...)
	var list []map[string]any
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		d.t.Fatalf("%v in %q", err, out)
	}
	return list
}

// awaitEvent waits until an event that matches is in the log and returns it.
func (d *dev) awaitEvent(as string, want func(map[string]any) bool, filter ...string) map[string]any {
	d.t.Helper()
	var found map[string]any
	d.await("an audit event", func() bool {
		for _, e := range d.events(as, filter...) {
			if want(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}
