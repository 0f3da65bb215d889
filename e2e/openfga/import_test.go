package openfga

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peer is a running OpenFGA with a store.
type peer struct {
	t               *testing.T
	url, key, store string
	keyFile         string
}

// startPeer builds OpenFGA as this module requires it and runs it, in memory, for
// who has the key.
func startPeer(t *testing.T) *peer {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "openfga")
	build := exec.Command("go", "build", "-o", program, "github.com/openfga/openfga/cmd/openfga")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build openfga: %v\n%s", err, out)
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ok(t, err)
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	p := &peer{t: t, key: fmt.Sprint("key-", rand.Uint64()), keyFile: filepath.Join(dir, "key")}
	ok(t, os.WriteFile(p.keyFile, []byte(p.key+"\n"), 0o600))
	addr := free()
	p.url = "http://" + addr
	var said bytes.Buffer
	cmd := exec.Command(program, "run", "--datastore-engine", "memory", "--http-addr", addr, "--grpc-addr", free(),
		"--playground-enabled=false", "--metrics-enabled=false", "--log-level", "warn", "--authn-method", "preshared", "--authn-preshared-keys", p.key)
	cmd.Stdout, cmd.Stderr = &said, &said
	ok(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Log(said.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; {
		res, err := http.Get(p.url + "/healthz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(end) {
			t.Fatalf("openfga was not ready within a minute: %v", err)
		}
	}
	var made struct{ ID string }
	p.post("/stores", map[string]any{"name": "theirs"}, &made)
	p.store = made.ID
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send posts and returns the error of the other side.
func (p *peer) send(path string, in, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.url+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+p.key)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(body, out)
	}
	return err
}

func (p *peer) post(path string, in, out any) {
	p.t.Helper()
	ok(p.t, p.send(path, in, out))
}

// model puts testdata/model.json into force there.
func (p *peer) model(name string) {
	p.t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	ok(p.t, err)
	p.post("/stores/"+p.store+"/authorization-models", json.RawMessage(raw), nil)
}

type fgaKey struct {
	User      string         `json:"user"`
	Relation  string         `json:"relation"`
	Object    string         `json:"object"`
	Condition *fgaConditions `json:"condition,omitempty"`
}

type fgaConditions struct {
	Name    string         `json:"name"`
	Context map[string]any `json:"context"`
}

func (p *peer) change(writes, deletes []fgaKey) error {
	in := map[string]any{}
	if len(writes) > 0 {
		in["writes"] = map[string]any{"tuple_keys": writes, "on_duplicate": "ignore"}
	}
	if len(deletes) > 0 {
		in["deletes"] = map[string]any{"tuple_keys": deletes, "on_missing": "ignore"}
	}
	return p.send("/stores/"+p.store+"/write", in, nil)
}

// churn writes a tuple, or deletes it: also where it stands under another
// condition, which refuses the write.
func (p *peer) churn(random *rand.Rand) error {
	k := drawnKey(random)
	err := p.change([]fgaKey{k}, nil)
	if err != nil && strings.HasPrefix(err.Error(), "409") || random.IntN(4) == 0 {
		k.Condition = nil
		err = p.change(nil, []fgaKey{k})
	}
	return err
}

func drawnKey(random *rand.Rand) fgaKey {
	user, doc := fmt.Sprint("user:u", random.IntN(50)), fmt.Sprint("document:d", random.IntN(120))
	folder, team := fmt.Sprint("folder:f", random.IntN(25)), fmt.Sprint("team:t", random.IntN(8), "#member")
	switch random.IntN(8) {
	case 0:
		return fgaKey{User: user, Relation: "member", Object: strings.TrimSuffix(team, "#member")}
	case 1:
		return fgaKey{User: team, Relation: "viewer", Object: folder}
	case 2:
		return fgaKey{User: folder, Relation: "parent", Object: doc}
	case 3:
		return fgaKey{User: user, Relation: "banned", Object: doc}
	case 4:
		return fgaKey{User: user, Relation: "viewer", Object: folder, Condition: &fgaConditions{"near", map[string]any{"limit": random.IntN(3)}}}
	case 5:
		return fgaKey{User: "user:*", Relation: "viewer", Object: doc}
	}
	return fgaKey{User: user, Relation: "viewer", Object: doc}
}

// run runs the command with the peer's flags, and returns what it printed.
func (p *peer) run(words ...string) (string, int) {
	p.t.Helper()
	cmd := exec.Command(bulwark.program, append(words, "--url", p.url, "--store", p.store, "--api-token-file", p.keyFile, "--data", bulwark.dir)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() == 2 {
		p.t.Fatalf("%v: %s", words, said.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestImportOfLiveOpenFGA: a store with two models and some thousand changes comes
// over while it is written to; then 4,000 questions have equal answers. What is
// written later makes a difference, until it is followed.
func TestImportOfLiveOpenFGA(t *testing.T) {
	t.Parallel()
	p := startPeer(t)
	p.model("moved-old.json")
	p.model("moved.json")
	random := rand.New(rand.NewPCG(7, 7))
	for range 1500 {
		ok(t, p.churn(random))
	}
	stop, wrote := make(chan struct{}), make(chan error, 1)
	go func() {
		mine := rand.New(rand.NewPCG(8, 8))
		for {
			err := p.churn(mine)
			select {
			case <-stop:
				wrote <- err
				return
			default:
			}
			if err != nil {
				wrote <- err
				return
			}
		}
	}()
	state := filepath.Join(t.TempDir(), "state.json")
	out, code := p.run("import", "openfga", "--state", state, "--json")
	close(stop)
	ok(t, <-wrote)
	var report struct {
		Store                    string
		Models                   map[string]string
		Tuples, Changes, Skipped int
	}
	ok(t, json.Unmarshal([]byte(out), &report))
	if code != 0 || report.Tuples < 800 || report.Changes == 0 || report.Skipped != 0 || len(report.Models) != 2 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	t.Logf("imported: %d tuples, %d changes", report.Tuples, report.Changes)
	// The writer went on a little longer than the import.
	if out, code := p.run("import", "openfga", "--state", state); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	out, code = p.run("diff", "openfga", "--ours", report.Store, "--sample", "4000")
	if code != 0 {
		t.Fatalf("the answers differ: %s", out)
	}
	t.Log(strings.TrimSpace(out))

	questions := filepath.Join(t.TempDir(), "questions")
	ok(t, os.WriteFile(questions, []byte("document:new can_view user:u1\nfolder:near viewer user:u1 {\"distance\": 1}\ndocument:new no_relation user:u1\n"), 0o600))
	ok(t, p.change([]fgaKey{
		{User: "user:u1", Relation: "viewer", Object: "document:new"},
		{User: "user:u1", Relation: "viewer", Object: "folder:near", Condition: &fgaConditions{"near", map[string]any{"limit": 2}}},
	}, nil))
	if out, code = p.run("diff", "openfga", "--ours", report.Store, "--questions", questions); code != 1 || !strings.Contains(out, "3 questions: 2 differ; alike: 0 allowed, 0 denied, 1 without an answer") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if out, code = p.run("import", "openfga", "--state", state); code != 0 || !strings.Contains(out, " 2 changes followed") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if out, code = p.run("diff", "openfga", "--ours", report.Store, "--questions", questions); code != 0 || !strings.Contains(out, "alike: 2 allowed") {
		t.Errorf("exit code %d: %s", code, out)
	}
}
