package openfga

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The JavaScript SDK asks the same of us as the Go SDK, and what only it can:
// questions in one batch, and objects in a stream. npm installs it by the lock
// file, which has the hash of each package.
func TestJavaScriptSDK(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/js")); err != nil {
		t.Fatal(err)
	}
	in := func(env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return string(out)
	}
	in(nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	out := in([]string{
		"NODE_EXTRA_CA_CERTS=" + bulwark.CA, "API_URL=" + bulwark.API, "API_TOKEN=" + must(bulwark.token(t.Context()))(t),
	}, "node", "roundtrip.js", must(filepath.Abs("testdata/model.json"))(t))
	if !strings.Contains(out, "the round trip is complete") {
		t.Errorf("it said %q", out)
	}
}
