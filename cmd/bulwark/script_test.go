package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this very binary as the command bulwark.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bulwark": main})
}

// TestScripts runs testdata/script/*.txtar: each is a session at a terminal,
// with exit codes. Beside testscript's own words there are
//
//	exits CODE COMMAND...   runs a command and looks at its exit code
//	until CODE COMMAND...   runs a command again and again till that is its exit code
//	await FILE TEXT         waits until the file holds the text
//	enforce DIR             proposes, approves and activates what a folder describes
//	json PATH [NAME]        reads a value of the last output: with NAME into a variable
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// A Unix socket's name is short, so dev's data stands near the root.
			short, err := os.MkdirTemp("", "bw")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(short) }) // left-overs in a temporary folder harm nobody
			env.Setenv("DATA", filepath.Join(short, "d"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			env.Setenv("BULWARK_PROFILE", "")
			models, err := filepath.Abs("../../docs/models")
			if err != nil {
				return err
			}
			env.Setenv("MODELS", models)
			// An OpenFGA that tells a store's name and refuses everything else.
			peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/stores/odd" {
					w.WriteHeader(http.StatusForbidden)
				}
				_, _ = w.Write([]byte(`{"name":"odd one","message":"no"}`)) // the asker may be gone
			}))
			env.Defer(peer.Close)
			env.Setenv("PEER", peer.URL)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "until": untilExits, "await": await, "json": jsonValue,
			"enforce": enforce,
		},
		RequireExplicitExec: true, RequireUniqueNames: true, ContinueOnError: true,
	})
}

// enforce proposes what a folder describes, has a second person approve it, and
// puts it in force.
func enforce(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: enforce DIR")
	}
	data := ts.Getenv("DATA")
	apply := []string{"bulwark", "apply", "-f", args[0], "--json", "--data", data}
	exits(ts, false, append([]string{"0"}, apply...))
	var out struct{ Applications []struct{ Release string } }
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &out); err != nil || len(out.Applications) != 1 {
		ts.Fatalf("apply printed something else: %v", err)
	}
	exits(ts, false, []string{"0", "bulwark", "release", "approve", out.Applications[0].Release, "--data", data})
	exits(ts, false, append([]string{"0"}, apply...))
	if !strings.Contains(ts.ReadFile("stdout"), `"state": "active"`) {
		ts.Fatalf("%s is not in force", args[0])
	}
}

// exits runs a command whose exit code is part of its answer.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	if code := exitCode(ts, args[1:]); fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func exitCode(ts *testscript.TestScript, args []string) int {
	if err := ts.Exec(args[0], args[1:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		return exit.ExitCode()
	}
	return 0
}

func untilExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until CODE COMMAND...")
	}
	for deadline := time.Now().Add(time.Minute); fmt.Sprint(exitCode(ts, args[1:])) != args[0]; {
		if time.Now().After(deadline) {
			ts.Fatalf("a minute has passed and the exit code was never %s", args[0])
		}
	}
}

// await polls a file that a background process writes.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE TEXT")
	}
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(b), args[1]) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("a minute has passed and %s does not hold %q", args[0], args[1])
		}
	}
}

// jsonValue reads PATH, words and numbers with dots between, in the last standard output.
func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: json PATH [NAME]")
	}
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("the output is not JSON: %v", err)
	}
	for _, step := range strings.Split(args[0], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(at) {
				ts.Fatalf("there is no item %s in a list of %d", step, len(at))
			}
			v = at[i]
		default:
			v = nil
		}
	}
	if v == nil {
		ts.Fatalf("the output has no %s", args[0])
	}
	if len(args) == 2 {
		ts.Setenv(args[1], fmt.Sprint(v))
	}
}
