package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTour runs every command that dev prints, as it is printed, and looks at
// what a new user would look at.
func TestTour(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	var commands []string
	for line := range strings.Lines(d.out.String()) {
		if c, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
			commands = append(commands, c)
		}
	}
	if len(commands) != 13 {
		t.Fatalf("dev prints %d commands:\n%s", len(commands), d.out.String())
	}
	shell := func(n int) (string, int) {
		t.Helper()
		cmd := exec.Command("bash", "-c", commands[n])
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // the exit code is looked at
		if errs.Len() > 0 {
			t.Errorf("%s\nwrote to standard error: %s", commands[n], errs.String())
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}

	out, code := shell(0)
	var saw struct{ Tenant, Subject, Relation, Object string }
	if err := json.Unmarshal([]byte(out), &saw); err != nil || code != 0 {
		t.Fatalf("alice: %v, exit %d: %s", err, code, out)
	}
	if saw.Tenant != d.Tenants["acme"].ID || saw.Subject != "user:"+d.Users["alice@acme"].ID || saw.Relation != "can_view" || saw.Object != "document:roadmap" {
		t.Errorf("the upstream was told %+v", saw)
	}
	out, _ = shell(1)
	var refusal struct {
		Status     int
		DecisionID string `json:"decision_id"`
	}
	if err := json.Unmarshal([]byte(out), &refusal); err != nil || refusal.Status != 403 || refusal.DecisionID == "" {
		t.Errorf("carol writes: %s", out)
	}
	for n := 2; n <= 4; n++ {
		if out, _ := shell(n); !strings.Contains(out, `"status":404`) || strings.Contains(out, "decision_id") {
			t.Errorf("%s: %s", commands[n], out)
		}
	}
	out, code = shell(5)
	if code != 0 || !strings.Contains(out, "ALLOW") || !strings.Contains(out, "folder:plans#owner@user:"+d.Users["alice@acme"].ID) {
		t.Errorf("explain for alice, exit %d:\n%s", code, out)
	}
	out, code = shell(6)
	if code != 1 || !strings.Contains(out, "DENY") || !strings.Contains(out, "folder:plans") {
		t.Errorf("explain for dave, exit %d:\n%s", code, out)
	}
	if out, code = shell(7); code != 0 || !strings.Contains(out, "written document:roadmap#viewer@user:"+d.Users["dave@acme"].ID) {
		t.Errorf("tuple write, exit %d: %s", code, out)
	}
	if out, _ = shell(8); !strings.Contains(out, `"relation": "can_view"`) {
		t.Errorf("dave after the grant: %s", out)
	}
	if out, code = shell(9); code != 0 || !strings.Contains(out, "deleted") {
		t.Errorf("tuple delete, exit %d: %s", code, out)
	}
	if out, code = shell(10); code != 0 || strings.Count(out, ".") != 2 {
		t.Errorf("exchange, exit %d: %s", code, out)
	}
	if out, code = shell(11); code != 0 || !strings.Contains(out, "tuple.write") {
		t.Errorf("audit query, exit %d: %s", code, out)
	}
	if out, code = shell(12); code != 0 || !strings.Contains(out, "internally consistent, not anchored") {
		t.Errorf("audit verify, exit %d: %s", code, out)
	}
}

// What a tenant's stranger, another tenant and nobody's document get is the
// same: status, headers and body, apart from the request's own id.
func TestHiddenAndAbsentAreTheSame(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	get := func(as, doc string) reply {
		r := d.do("GET", d.Gateway+"/documents/"+doc, "", bearer(d.token(as, "gateway"))...)
		r.body = strings.ReplaceAll(r.body, r.header.Get("Bulwark-Request-Id"), "ID")
		for _, h := range []string{"Bulwark-Request-Id", "Date"} {
			r.header.Del(h)
		}
		return r
	}
	want := get("dave@acme", "nothing")
	if want.status != 404 {
		t.Fatalf("an absent document: %d %s", want.status, want.body)
	}
	for _, c := range [][2]string{{"dave@acme", "roadmap"}, {"mallory@globex", "roadmap"}, {"mallory@globex", "nothing"}, {"alice@acme", "nothing"}} {
		got := get(c[0], c[1])
		if got.status != want.status || got.body != want.body || !equalHeaders(got.header, want.header) {
			t.Errorf("%s asks for %s: %d %v %s\nwant %d %v %s", c[0], c[1], got.status, got.header, got.body, want.status, want.header, want.body)
		}
	}
}

func equalHeaders(a, b map[string][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if strings.Join(v, "\x00") != strings.Join(b[k], "\x00") {
			return false
		}
	}
	return true
}

// A restart keeps what was written, and the tour works again.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	d.cli("tuple", "write", "document:roadmap", "viewer", "user:@dave")
	alice := d.Users["alice@acme"].ID
	d.stop()
	if _, err := os.Stat(filepath.Join(dir, "dev.json")); err == nil {
		t.Error("dev.json stays after the end: a script would talk to nobody")
	}
	d = startDev(t, dir)
	if d.Users["alice@acme"].ID != alice {
		t.Error("a restart gave alice another id")
	}
	if r := d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(d.token("dave@acme", "gateway"))...); r.status != 200 {
		t.Errorf("dave after the restart: %d %s", r.status, r.body)
	}
	if out := d.cli("audit", "verify"); strings.Contains(out, "crash") {
		t.Errorf("a clean end reads like a crash: %s", out)
	}
}
