package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
)

// Every command has one or two words, nouns first, and takes --json and -h
// (DESIGN section 5).
func TestEveryCommand(t *testing.T) {
	t.Parallel()
	nouns := strings.Fields("config token tuple role model policy release tenant user service idp audit")
	nouns = append(nouns, strings.Fields("backup restore import diff")...) // then what of
	verbs := strings.Fields("dev init serve version check explain apply invite enrol")
	seen := map[string]bool{}
	for _, c := range commands() {
		words := strings.Fields(c.name)
		alone := len(words) == 1 && (slices.Contains(verbs, words[0]) || words[0] == "token")
		if !alone && (len(words) != 2 || !slices.Contains(nouns, words[0])) {
			t.Errorf("%q does not begin with a noun of the design", c.name)
		}
		if seen[c.name] || c.summary == "" || strings.HasSuffix(c.summary, ".") {
			t.Errorf("%q is there twice, or has no summary, or one that ends like a sentence: %q", c.name, c.summary)
		}
		seen[c.name] = true
		var out, errs bytes.Buffer
		code := run(t.Context(), append(words, "-h"), strings.NewReader(""), &out, &errs)
		if code != exitOK || errs.Len() > 0 || !strings.HasPrefix(out.String(), "usage: bulwark "+c.line()+"\n\n"+c.summary+"\n") {
			t.Errorf("%s -h: exit %d, %s%s", c.name, code, out.String(), errs.String())
		}
		if !strings.Contains(out.String(), "\n  --json ") {
			t.Errorf("%s takes no --json", c.name)
		}
		for _, named := range regexp.MustCompile(`--?[a-z][a-z-]*`).FindAllString(c.args, -1) {
			if !strings.Contains(out.String(), "\n  "+named+" ") {
				t.Errorf("%s names %s in its usage line and has no such flag", c.name, named)
			}
		}
		errs.Reset()
		if code := run(t.Context(), append(words, "--no-such-flag"), strings.NewReader(""), io.Discard, &errs); code != exitFault || !strings.Contains(errs.String(), "there is no flag --no-such-flag\nusage: bulwark "+c.line()) {
			t.Errorf("%s with an unknown flag: exit %d, %s", c.name, code, errs.String())
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	refused := fault.New(fault.Denied, "you may not")
	for _, c := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"done", nil, exitOK, ""},
		{"help", flag.ErrHelp, exitOK, ""},
		{"no", errNo, exitNo, ""},
		{"usage", usageError("one more"), exitFault, "bulwark: one more\nusage: bulwark tuple write A B C [flags]\n"},
		{"refused", refused, exitNo, "bulwark: you may not\n"},
		{"a refused question has no answer", unanswered{refused}, exitFault, "bulwark: you may not\n"},
		{"a question without a server", unanswered{fault.New(fault.Unavailable, "later")}, exitFault, "bulwark: later\n"},
		{"damage", fault.New(fault.Integrity, "broken"), exitNo, "bulwark: broken\n"},
		{"absent", fault.New(fault.NotFound, "no such user"), exitFault, "bulwark: no such user\n"},
		{"a private cause stays private", fault.Wrap(fault.Conflict, "taken", errors.New("row 7")), exitFault, "bulwark: taken\n"},
		{"a defect of ours names its cause", errors.New("nil map"), exitFault, "bulwark: internal error; the request id names the log entry\n  cause: nil map\n"},
		{"not reached", fault.Wrap(fault.Unavailable, "no answer", &url.Error{Op: "Get", URL: "https://h:1/x?code=secret", Err: syscall.ECONNREFUSED}),
			exitFault, "bulwark: no answer\n  nothing listens at https://h:1; is the server running?\n"},
	} {
		var out bytes.Buffer
		code := report(&out, command{name: "tuple write", args: "A B C"}, c.err)
		if code != c.code || out.String() != c.text {
			t.Errorf("%s: exit %d, %q; want %d, %q", c.name, code, out.String(), c.code, c.text)
		}
	}
}

func TestReachHint(t *testing.T) {
	t.Parallel()
	at := func(err error) error {
		return fault.Wrap(fault.Unavailable, "x", &url.Error{Op: "Post", URL: "https://user:word@h:1/path?code=secret#f", Err: err})
	}
	for want, err := range map[string]error{
		"":                        fault.New(fault.Unavailable, "not about a connection"),
		"not signed by a CA":      at(x509.UnknownAuthorityError{}),
		"is for another name":     at(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}),
		"or not valid now":        at(x509.CertificateInvalidError{Reason: x509.Expired}),
		"is not known":            at(&net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}),
		"nothing listens":         at(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}),
		"no answer came in time":  at(context.DeadlineExceeded),
		"no connection was made ": at(errors.New("something else")),
	} {
		got := reachHint(err)
		if !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
		if want != "" && !strings.Contains(got, "https://h:1") || strings.Contains(got, "secret") || strings.Contains(got, "word") || strings.Contains(got, "path") {
			t.Errorf("the hint names more or less than the host: %q", got)
		}
	}
}

// Flags stand before, between and after the arguments; behind "--" nothing is a flag.
func TestParse(t *testing.T) {
	t.Parallel()
	const kid = "-bj5U7JJnz8_dzF1_c1S7wb9b0QebnvIEi6p8ljoRfo"
	for _, c := range []struct {
		given, plain []string
		json         bool
		bad          string
	}{
		{given: []string{"a", "b"}, plain: []string{"a", "b"}},
		{given: []string{"--json", "a", "b"}, plain: []string{"a", "b"}, json: true},
		{given: []string{"a", "-json", "b"}, plain: []string{"a", "b"}, json: true},
		{given: []string{"a", "b", "--json=true"}, plain: []string{"a", "b"}, json: true},
		{given: []string{"a", "--", "--json"}, plain: []string{"a", "--json"}},
		{given: []string{"--", "-x", "-h"}, plain: []string{"-x", "-h"}},
		{given: []string{"a", "-"}, plain: []string{"a", "-"}},
		{given: []string{"a", kid, "--json"}, plain: []string{"a", kid}, json: true},
		{given: []string{"-" + kid[:42], "a"}, plain: []string{"-" + kid[:42], "a"}},
		{given: []string{"a", kid + "x"}, bad: "there is no flag --" + kid[1:] + "x"},
		{given: []string{"a"}, bad: "tuple write takes 2 arguments, not 1"},
		{given: []string{"a", "b", "c"}, bad: "tuple write takes 2 arguments, not 3"},
		{given: []string{"a", "b", "--jsn"}, bad: "there is no flag --jsn"},
		{given: []string{"a", "b", "--json=perhaps"}, bad: `invalid boolean value "perhaps" for -json: parse error`},
	} {
		call := &call{command: command{name: "tuple write"}, given: c.given, stdout: io.Discard}
		plain, err := call.parse(call.flags(), 2, 2)
		if c.bad != "" {
			var bad usageError
			if !errors.As(err, &bad) || err.Error() != c.bad {
				t.Errorf("%q: %v, want %q", c.given, err, c.bad)
			}
			continue
		}
		if err != nil || !slices.Equal(plain, c.plain) || call.json != c.json {
			t.Errorf("%q: %q, json %v, %v; want %q, %v", c.given, plain, call.json, err, c.plain, c.json)
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	var got []string
	for _, c := range [][2]int{{0, 0}, {1, 1}, {3, 3}, {1, 2}, {1, -1}} {
		got = append(got, arguments(c[0], c[1]))
	}
	want := []string{"flags alone and no arguments", "one argument", "3 arguments", "1 to 2 arguments", "one argument or more"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{"720h": true, "1s": true, "0": false, "0s": false, "-5h": false, "soon": false, "": false, "30d": false} {
		var at time.Time
		f := flag.NewFlagSet("x", flag.ContinueOnError)
		f.SetOutput(io.Discard)
		expiry(f, &at, "how long")
		err := f.Parse([]string{"--expires", text})
		if (err == nil) != good || at.IsZero() == good || good && !at.After(time.Now().Add(-time.Second)) {
			t.Errorf("--expires %q: %v, %v", text, at, err)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain/path.pem": "plain/path.pem", "": "''", "two words": "'two words'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "a;b": "'a;b'", "*": "'*'", "#x": "'#x'", "a\tb": "'a\tb'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestSubjectName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"alice": "user:@alice", "@alice": "user:@alice", "user:@alice": "user:@alice", "user:4B": "user:4B", "team:x#member": "team:x#member", "service:4B": "service:4B",
	} {
		if got := subjectName(in); got != want {
			t.Errorf("subjectName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestValidProfile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"default": true, "a.b_c-1": true, "": false, ".hidden": false, "..": false, "a/b": false, "../x": false, "A": false, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, "a\x00": false,
	} {
		if validProfile(name) != want {
			t.Errorf("validProfile(%q) = %v", name, !want)
		}
	}
}

func TestThisMachine(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "": false, "0.0.0.0": false, "10.0.0.1": false, "localhost.example": false} {
		if thisMachine(host) != want {
			t.Errorf("thisMachine(%q) = %v", host, !want)
		}
	}
}

// What init cannot write into a file is said in the words of its flags.
func TestInFlags(t *testing.T) {
	t.Parallel()
	err := inFlags(fault.New(fault.Invalid, "config: env: short\nconfig: issuer: https\nconfig: listen.ops: x\nconfig: upstreams.main: url\nconfig: routes.a: b"))
	if got, want := fault.Public(err), "--env: short\n--url: https\n--ops: x\n--upstream: url\nconfig: routes.a: b"; got != want || fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v %q, want %q", fault.KindOf(err), got, want)
	}
}

// init's certificates are for this machine: that is said where the URL is another's.
func TestInitSaysWhoseCertificates(t *testing.T) {
	t.Parallel()
	for api, want := range map[string]bool{"https://localhost:8444": false, "https://[::1]:8444": false, "https://bulwark.example": true} {
		var out bytes.Buffer
		(&initResult{API: api, Code: "code", CA: "a b/ca.pem"}).print(&out, initOptions{dir: "a b", tenant: "acme"})
		if got := strings.Contains(out.String(), "put those of bulwark.example in their place"); got != want {
			t.Errorf("%s: %s", api, out.String())
		}
		if !strings.Contains(out.String(), "--ca 'a b/ca.pem'") {
			t.Errorf("a path with a space is not ready to paste: %s", out.String())
		}
	}
}

func TestTokenFault(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]fault.Kind{
		"invalid_grant": fault.Denied, "invalid_target": fault.Denied, "unauthorized_client": fault.Denied, "something_new": fault.Denied,
		"invalid_request": fault.Invalid, "invalid_scope": fault.Invalid, "server_error": fault.Unavailable, "temporarily_unavailable": fault.Unavailable,
	} {
		if got := tokenFault(code); got != want {
			t.Errorf("tokenFault(%s) = %v, want %v", code, got, want)
		}
	}
}

// A socket's name has a bound that a folder's has not.
func TestSocketPath(t *testing.T) {
	t.Parallel()
	short, long := socketPath("/srv/d"), socketPath("/"+strings.Repeat("long/", 40))
	if short != "/srv/d/dev/token.sock" || len(long) >= 108 || long == socketPath("/"+strings.Repeat("long/", 41)) {
		t.Errorf("%s, %s", short, long)
	}
}

// The lines of a follower arrive in any pieces, and each is printed once.
func TestLineWriter(t *testing.T) {
	t.Parallel()
	line := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"time":"2026-01-31T12:00:00Z","class":"deny","action":"request","subject":"user:x"}`+"\n", id)
	}
	text := line("seen") + line("a") + line("b")
	for _, size := range []int{1, 7, len(text)} {
		var out bytes.Buffer
		w := &lineWriter{w: &out, seen: "seen"}
		for piece := range slices.Chunk([]byte(text), size) {
			if n, err := w.Write(piece); err != nil || n != len(piece) {
				t.Fatal(n, err)
			}
		}
		if got := strings.Count(out.String(), "2026-01-31T12:00:00.000Z  deny "); got != 2 {
			t.Errorf("in pieces of %d: %d lines: %s", size, got, out.String())
		}
	}
	if _, err := (&lineWriter{w: io.Discard}).Write([]byte("<html>\n")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("what is no event: %v", err)
	}
}
