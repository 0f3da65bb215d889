package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dev is sealed: it takes loopback alone and data of its own alone; serve takes
// nothing of dev's.
func TestDevAndServeKeepApart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"--gateway", "0.0.0.0:0"}, {"--api", "[::]:0"}, {"--ops", "10.0.0.1:8445"}, {"--grpc", "192.0.2.1:1"}, {"--gateway", "localhost.example:1"},
	} {
		_, errs, code := run(t, append([]string{"dev", "--data", filepath.Join(dir, "x")}, args...)...)
		if code == 0 || !strings.Contains(errs, "loopback") {
			t.Errorf("dev %v: exit %d, %s", args, code, errs)
		}
	}
	prod := newInstallation(t, nil)
	_, errs, code := run(t, "dev", "--data", filepath.Join(prod.dir, "data"))
	if code != 1 || !strings.Contains(errs, "was not made by `bulwark dev`") {
		t.Errorf("dev over serve's data: exit %d, %s", code, errs)
	}
	if _, err := os.Stat(filepath.Join(prod.dir, "data", "dev")); err == nil {
		t.Error("dev left something in serve's data")
	}

	// serve over dev's data, with dev's own root and passphrase.
	devDir := filepath.Join(dir, "dev-data")
	d := startDev(t, devDir)
	d.stop()
	pass := filepath.Join(dir, "pass")
	b, err := os.ReadFile(filepath.Join(devDir, "dev", "root.pass"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pass, b, 0o600); err != nil {
		t.Fatal(err)
	}
	config := prod.edit(t, "data: data", "data: "+devDir, "passphrase_file: root.pass", "passphrase_file: "+pass)
	_, errs, code = run(t, "serve", "--config", config)
	if code != 1 || !strings.Contains(errs, "bulwark dev") {
		t.Errorf("serve over dev's data: exit %d, %s", code, errs)
	}
}

// The wrong root key is one clear error, and nothing is written.
func TestWrongRoot(t *testing.T) {
	t.Parallel()
	a, b := newInstallation(t, nil), newInstallation(t, nil)
	before := treeDigest(t, filepath.Join(a.dir, "data"))
	config := a.edit(t, "passphrase_file: root.pass", "file: "+filepath.Join(b.dir, "data", "root.sealed")+"\n  passphrase_file: "+filepath.Join(b.dir, "root.pass"))
	out, errs, code := run(t, "serve", "--config", config)
	if code != 1 || strings.Count(strings.TrimSpace(errs), "\n") != 0 || !strings.Contains(errs, "root key") {
		t.Errorf("another installation's root key: exit %d, %s%s", code, out, errs)
	}
	if after := treeDigest(t, filepath.Join(a.dir, "data")); after != before {
		t.Error("a start with the wrong root key changed the data")
	}
	pass := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(pass, []byte("not the passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	config = a.edit(t, "passphrase_file: root.pass", "passphrase_file: "+pass)
	_, errs, code = run(t, "serve", "--config", config)
	if code != 1 || !strings.Contains(errs, "passphrase") || strings.Contains(errs, "not the passphrase") {
		t.Errorf("a wrong passphrase: exit %d, %s", code, errs)
	}
}

func TestPassphraseFileIsRefused(t *testing.T) {
	t.Parallel()
	a := newInstallation(t, nil)
	b, err := os.ReadFile(filepath.Join(a.dir, "root.pass"))
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(a.dir, "data", "root.pass")
	open := filepath.Join(t.TempDir(), "open.pass")
	link := filepath.Join(t.TempDir(), "link.pass")
	for path, mode := range map[string]os.FileMode{inside: 0o600, open: 0o644} {
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(inside, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{inside, open, link} {
		config := a.edit(t, "passphrase_file: root.pass", "passphrase_file: "+path)
		if _, errs, code := run(t, "serve", "--config", config); code == 0 || !strings.Contains(errs, "passphrase") {
			t.Errorf("passphrase in %s: exit %d, %s", path, code, errs)
		}
	}
}

// No private key, token, passphrase or data key is readable in the data folder
// outside of dev/: not as PEM, not as a JWK's "d", not raw.
func TestNoSecretAtRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	var secrets []string
	for _, audience := range []string{"gateway", "authz", "admin"} {
		token := d.token("alice@acme", audience)
		secrets = append(secrets, token, token[strings.LastIndexByte(token, '.')+1:])
		d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(token)...)
	}
	r := d.do("GET", d.Gateway+"/documents/roadmap", "", bearer(d.token("alice@acme", "gateway"))...)
	var saw struct {
		Raw string `json:"bulwark_assertion"`
	}
	r.read(t, &saw)
	secrets = append(secrets, saw.Raw)
	pass, err := os.ReadFile(filepath.Join(dir, "dev", "root.pass"))
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, string(pass))
	code := struct{ Code string }{}
	if err := json.Unmarshal([]byte(d.cli("invite", "--as", "admin@acme", "--role", "auditor", "--json")), &code); err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, code.Code)
	for _, s := range d.Services {
		b, err := os.ReadFile(s.Key)
		if err != nil {
			t.Fatal(err)
		}
		var jwk struct{ D string }
		if err := json.Unmarshal(b, &jwk); err != nil || jwk.D == "" {
			t.Fatalf("%s: %v", s.Key, err)
		}
		secrets = append(secrets, jwk.D, rawBase64(t, jwk.D))
	}
	search := func(when string) {
		t.Helper()
		files := 0
		eachFile(t, dir, func(path string, content []byte) {
			if strings.HasPrefix(path, filepath.Join(dir, "dev")+string(filepath.Separator)) {
				return
			}
			files++
			for _, s := range secrets {
				if strings.Contains(string(content), s) {
					t.Errorf("%s: %s holds a secret of %d bytes", when, path, len(s))
				}
			}
			for _, mark := range []string{"PRIVATE KEY-----", `"d":"`, `"d": "`, "PRIVATE+KEY+", "AGE-SECRET-KEY"} {
				if strings.Contains(string(content), mark) {
					t.Errorf("%s: %s holds %q", when, path, mark)
				}
			}
		})
		if files < 5 {
			t.Errorf("%s: only %d files were searched", when, files)
		}
	}
	search("running")
	d.kill()
	search("after kill -9")
	d = startDev(t, dir)
	d.stop()
	search("after a clean end")
}
