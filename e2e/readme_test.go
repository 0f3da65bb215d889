package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The README is run as a newcomer does: its text is read, its fenced blocks are
// pasted into a shell line by line, in a fresh copy of the sources. What is put
// in their place is said where it is done: ports alone, because those of the
// README may be taken on the machine that runs the test, and the flags that the
// README's own prose names for a login and a service with private certificates.
func TestReadme(t *testing.T) {
	t.Parallel()
	n := &newcomer{t: t, dir: freshCopy(t), home: t.TempDir()}
	// One after the other, not parallel: both tours are walked in one copy.
	t.Run("two minutes", func(t *testing.T) { n.in(t).twoMinutes() })
	t.Run("fifteen minutes", func(t *testing.T) { n.in(t).fifteenMinutes() })
	t.Run("the line of Go", func(t *testing.T) { n.in(t).lineOfGo() })
}

// newcomer is a person with the sources, a shell and a browser's worth of patience.
type newcomer struct {
	t         testing.TB
	dir, home string
}

func (n *newcomer) in(t testing.TB) *newcomer { return &newcomer{t, n.dir, n.home} }

// freshCopy copies what `make build` needs, as a clone would have it.
func freshCopy(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"cmd", "internal"} {
		copyTree(t, filepath.Join("..", name), filepath.Join(dir, name))
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks returns the fenced blocks of a section of the README in the language.
func blocks(t testing.TB, heading, language string) [][]string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("the README has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var list [][]string
	for _, m := range fence.FindAllStringSubmatch(section, -1) {
		if m[1] == language {
			list = append(list, strings.Split(strings.TrimSpace(m[2]), "\n"))
		}
	}
	return list
}

// terminal starts what stays in its terminal until Ctrl-C.
func (n *newcomer) terminal(line string, env ...string) *process {
	n.t.Helper()
	p := &process{t: n.t, cmd: exec.Command("bash", "-c", line), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = n.dir, n.env(env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C reaches all that the line started
	if err := p.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func() { p.code = p.cmd.Wait(); close(p.done) }()
	n.t.Cleanup(func() { n.ctrlC(p) })
	return p
}

// ctrlC ends what runs in a terminal, and wants a clean end. make has ended what
// it ran when it dies of the same signal.
func (n *newcomer) ctrlC(p *process) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT) // it may have ended
	select {
	case <-p.done:
		if p.code != nil && !(strings.Contains(p.cmd.Args[2], "make ") && p.code.Error() == "signal: interrupt") {
			n.t.Errorf("%v ended with %v: %s", p.cmd.Args, p.code, p.err.String())
		}
	case <-time.After(30 * time.Second):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		n.t.Errorf("%v did not end at Ctrl-C", p.cmd.Args)
	}
}

func (n *newcomer) env(more ...string) []string {
	env := append(os.Environ(), "HOME="+n.home, "XDG_CONFIG_HOME="+filepath.Join(n.home, ".config"), "BULWARK_PROFILE=")
	return append(append(env, n.goFolders()...), more...)
}

// goFolders keeps the build's folders where they are although HOME moves.
func (n *newcomer) goFolders() []string {
	var env []string
	for _, name := range []string{"GOPATH", "GOCACHE", "GOMODCACHE"} {
		b, err := exec.Command("go", "env", name).Output()
		if err != nil {
			n.t.Fatal(err)
		}
		env = append(env, name+"="+strings.TrimSpace(string(b)))
	}
	return env
}

// pasted is what one line did.
type pasted struct {
	line, out, err string
	code           int
}

// paste runs the lines in one shell, one after the other: what a line sets, the
// next ones see. A line that was not reached has the code -1.
func (n *newcomer) paste(lines []string, env ...string) []pasted {
	n.t.Helper()
	results := n.t.TempDir()
	file := func(i int, kind string) string { return filepath.Join(results, fmt.Sprintf("%d.%s", i, kind)) }
	var script strings.Builder
	for i, line := range lines {
		fmt.Fprintf(&script, "{ %s\n} >%s 2>%s </dev/null\necho $? >%s\n", line, file(i, "out"), file(i, "err"), file(i, "code"))
	}
	cmd := exec.CommandContext(n.t.Context(), "bash", "-c", script.String())
	cmd.Dir, cmd.Env = n.dir, n.env(env...)
	if b, err := cmd.CombinedOutput(); err != nil || len(b) > 0 {
		n.t.Fatalf("the shell itself: %v: %s", err, b)
	}
	var all []pasted
	for i, line := range lines {
		p := pasted{line: line, code: -1}
		if b, err := os.ReadFile(file(i, "code")); err == nil {
			_, _ = fmt.Sscan(string(b), &p.code) // stays -1
		}
		for kind, text := range map[string]*string{"out": &p.out, "err": &p.err} {
			b, err := os.ReadFile(file(i, kind))
			if err != nil {
				n.t.Fatal(err)
			}
			*text = string(b)
		}
		all = append(all, p)
	}
	return all
}

// want looks at what a line did.
func (n *newcomer) want(p pasted, code int, texts ...string) {
	n.t.Helper()
	if p.code != code {
		n.t.Errorf("$ %s\nexit %d, want %d\n%s%s", p.line, p.code, code, p.out, p.err)
	}
	for _, text := range texts {
		if !strings.Contains(p.out, text) {
			n.t.Errorf("$ %s\nprinted no %q:\n%s%s", p.line, text, p.out, p.err)
		}
	}
}

func (n *newcomer) twoMinutes() {
	list := blocks(n.t, "Two minutes, on the demo", "")
	if len(list) != 2 || len(list[0]) != 1 || len(list[1]) != 7 {
		n.t.Fatalf("the section has other blocks: %q", list)
	}
	// Free ports: the README's may be taken here.
	line := list[0][0] + ` ARGS="--gateway 127.0.0.1:0 --api 127.0.0.1:0 --grpc 127.0.0.1:0 --ops 127.0.0.1:0"`
	dev := n.terminal(line)
	dev.awaitFor(5*time.Minute, "make dev", func() bool { // it builds first
		return strings.Contains(dev.out.String(), "Ctrl-C stops it")
	})
	got := n.paste(list[1])
	n.want(got[0], 0, "ALLOW", "folder:plans#owner@user:")
	n.want(got[1], 1, "DENY", "folder:plans")
	n.want(got[2], 0, "written document:roadmap#viewer@user:")
	n.want(got[3], 0, "yes\n")
	n.want(got[4], 0, "deleted document:roadmap#viewer@user:")
	n.want(got[5], 0, "tuple.write")
	n.want(got[6], 0, "internally consistent")

	// Every line that it prints works as it stands, too.
	var printed []string
	for line := range strings.Lines(dev.out.String()) {
		if c, ok := strings.CutPrefix(line, "  $ "); ok {
			printed = append(printed, strings.TrimSuffix(c, "\n"))
		}
	}
	if len(printed) < 10 {
		n.t.Errorf("make dev prints %d lines to paste:\n%s", len(printed), dev.out.String())
	}
	for _, p := range n.paste(printed) {
		code := 0
		if strings.Contains(p.line, "explain dave") {
			code = 1
		}
		n.want(p, code)
		if p.err != "" {
			n.t.Errorf("$ %s\nwrote to standard error: %s", p.line, p.err)
		}
	}
	n.ctrlC(dev)
	after := n.paste([]string{"bin/bulwark audit verify"})[0]
	n.want(after, 0, "internally consistent")
	if strings.Contains(after.out, "crash") {
		n.t.Errorf("Ctrl-C on make dev reads like a crash: %s", after.out)
	}
}

// service is the newcomer's own: it keeps the headers of the last request.
func (n *newcomer) service() (url, ca string, last *atomic.Pointer[http.Header]) {
	last = new(atomic.Pointer[http.Header])
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Clone()
		last.Store(&header)
		_, _ = w.Write([]byte("the roadmap\n")) // the gateway may be gone
	}))
	dir := n.t.TempDir()
	ca = filepath.Join(dir, "ca.pem")
	cert := makeCertificate(n.t, ca, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	n.t.Cleanup(srv.Close)
	return srv.URL, ca, last
}

func (n *newcomer) fifteenMinutes() {
	list := blocks(n.t, "Fifteen minutes, on your own login and service", "")
	if len(list) != 3 || len(list[0]) != 3 {
		n.t.Fatalf("the section has other blocks: %q", list)
	}
	l := newLogin(n.t) // signs with RS256, as logins do that are not told otherwise
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		n.t.Fatal(err)
	}
	l.mu.Lock()
	l.more = []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "r1", Algorithm: "RS256", Use: "sig"}}
	l.mu.Unlock()
	token := func(sub string) string {
		return signWith(n.t, key, "r1", "at+jwt", map[string]any{
			"iss": l.url, "aud": "api://docs", "client_id": "app", "sub": sub, "jti": "j-" + sub, "scope": "read",
			"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
		})
	}
	upstream, upstreamCA, last := n.service()

	// The two ports that stand in the README's lines, replaced by free ones.
	_, gatewayPort, _ := net.SplitHostPort(freeAddr(n.t))
	_, apiPort, _ := net.SplitHostPort(freeAddr(n.t))
	ports := strings.NewReplacer(":8443", ":"+gatewayPort, ":8444", ":"+apiPort)
	env := []string{
		"ISSUER=" + l.url, "AUDIENCE=api://docs", "UPSTREAM=" + upstream, "SUBJECT=00u1a2b3", "TOKEN=" + token("00u1a2b3"),
	}
	// The prose below the block names these three flags for this case; the rest
	// are the ports again.
	list[0][1] += " --allow-loopback --issuer-ca " + l.ca + " --upstream-ca " + upstreamCA +
		" --url https://localhost:" + apiPort + " --gateway 127.0.0.1:" + gatewayPort + " --ops " + freeAddr(n.t) + " --grpc " + freeAddr(n.t)
	got := n.paste(list[0][:2], env...)
	n.want(got[0], 0, "go build")
	n.want(got[1], 0, "This code enrols the operator")
	enrol := regexp.MustCompile(` enrol ([a-z2-7]{32}) `).FindStringSubmatch(got[1].out)
	audience := regexp.MustCompile(`(?m)^urn:bulwark:prod:svc:\w+$`).FindString(got[1].out)
	if enrol == nil || audience == "" {
		n.t.Fatalf("init prints no code to enrol with, or no audience: %s", got[1].out)
	}
	env = append(env, "CODE="+enrol[1])

	serve := n.terminal(list[0][2], env...)
	serve.await("ready", func() bool { return strings.Contains(serve.err.String(), `"msg":"ready"`) })
	var lines []string
	for _, line := range append(list[1], list[2]...) {
		lines = append(lines, ports.Replace(line))
	}
	got = n.paste(lines, env...)
	for _, p := range got {
		n.want(p, 0)
		if p.err != "" && !strings.HasPrefix(p.line, "curl ") { // which shows its progress to a pipe
			n.t.Errorf("$ %s\nwrote to standard error: %s", p.line, p.err)
		}
	}
	answers := map[string]string{
		"CODE\" --api": "enrolled as ", "user create": "user alice is user:", "tuple write": "written document:roadmap#viewer@user:",
		"curl ": "the roadmap\n", "explain ": "ALLOW: user:", "audit verify": "internally consistent",
	}
	for part, text := range answers {
		found := false
		for _, p := range got {
			if strings.Contains(p.line, part) {
				found = true
				n.want(p, 0, text)
			}
		}
		if !found {
			n.t.Errorf("the README has no line with %q any more", part)
		}
	}
	n.reached(last.Load(), audience, apiPort)

	// What the prose says about a person who is no user yet.
	c := newHTTP(n.t, filepath.Join(n.dir, "bulwark", "tls", "ca.pem"))
	r := c.do(n.t, "GET", "https://127.0.0.1:"+gatewayPort+"/documents/roadmap", "", bearer(token("somebody"))...)
	if r.status != 401 || !strings.Contains(r.body, `"reason":"unknown_subject"`) {
		n.t.Errorf("a person who is no user: %d %s", r.status, r.body)
	}
	n.ctrlC(serve)
}

// reached looks at what the newcomer's service was sent: who asks, in which
// tenant, and an assertion for this service that verifies.
func (n *newcomer) reached(header *http.Header, audience, apiPort string) {
	n.t.Helper()
	if header == nil {
		n.t.Fatal("the request did not reach the service")
	}
	if header.Get("Authorization") != "" {
		n.t.Error("the person's own token reached the service")
	}
	c := newHTTP(n.t, filepath.Join(n.dir, "bulwark", "tls", "ca.pem"))
	r := c.do(n.t, "GET", "https://localhost:"+apiPort+"/.well-known/bulwark-assertion/jwks.json", "")
	var keys jose.JSONWebKeySet
	r.read(n.t, &keys)
	jws, err := jose.ParseSignedCompact(header.Get("Bulwark-Assertion"), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		n.t.Fatalf("the assertion: %v", err)
	}
	payload, err := jws.Verify(&keys)
	if err != nil {
		n.t.Fatalf("the assertion: %v", err)
	}
	var claims struct{ Iss, Aud, Tenant, Sub, Relation, Object string }
	if err := json.Unmarshal(payload, &claims); err != nil {
		n.t.Fatal(err)
	}
	if claims.Iss != "https://localhost:"+apiPort || claims.Aud != audience || claims.Relation != "can_view" || claims.Object != "document:roadmap" ||
		claims.Tenant == "" || claims.Tenant != header.Get("Bulwark-Tenant") || claims.Sub == "" || claims.Sub != header.Get("Bulwark-Subject") {
		n.t.Errorf("the service was told %+v, with %v", claims, *header)
	}
}

// The Go of the README is Go, against the SDK that stands here.
func (n *newcomer) lineOfGo() {
	list := blocks(n.t, "Fifteen minutes, on your own login and service", "go")
	if len(list) != 1 {
		n.t.Fatalf("the section has %d blocks of Go", len(list))
	}
	sdk, err := filepath.Abs("../sdk")
	if err != nil {
		n.t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(sdk, "go.mod"))
	if err != nil {
		n.t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(sdk, "go.sum"))
	if err != nil {
		n.t.Fatal(err)
	}
	dir := n.t.TempDir()
	module := strings.Replace(string(b), "module bulwark.example/sdk", "module service", 1) +
		"\nrequire bulwark.example/sdk v0.0.0\nreplace bulwark.example/sdk => " + sdk + "\n"
	program := "package main\n\nimport (\n\t\"context\"\n\t\"net/http\"\n\n\t\"bulwark.example/sdk\"\n)\n\nfunc main() {\n" +
		"\thandler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { read(r.Context()) })\n\t" +
		strings.Join(list[0], "\n\t") + "\n\t_ = err\n}\n\nfunc read(ctx context.Context) string { return sdk.FromContext(ctx).Tenant }\n"
	for name, text := range map[string]string{"go.mod": module, "go.sum": string(sums), "main.go": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(n.t.Context(), "go", "vet", ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Errorf("the README's Go: %v\n%s\n%s", err, out, program)
	}
}
