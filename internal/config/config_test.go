package config

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
)

const reference = "../../docs/operate/config.yaml"

// The reference file is a working file, and it shows every key.
func TestReferenceFileIsComplete(t *testing.T) {
	t.Parallel()
	if _, err := Load(reference); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ.PkgPath() != reflect.TypeFor[Config]().PkgPath() {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := f.Tag.Get("yaml")
			if key == "" || !strings.Contains(string(text), key+":") {
				t.Errorf("%s.%s: the key %q is not in the reference file", typ.Name(), f.Name, key)
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[Config]())
}

const good = `
version: 1
env: prod
issuer: https://auth.example.com
data: /srv/data
tls: {gateway: {cert: a, key: b}, api: {cert: a, key: b}}
root: {passphrase_fd: 3}
upstreams: {notes: {url: "https://127.0.0.1:9443", service: notes}}
routes: [{id: r, methods: [GET], path: /x, upstream: notes, timeout: 5s, max_body: 1MiB}]
`

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte(good), "/etc/bulwark")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen.Gateway != DefaultGateway || c.Root.File != "/srv/data/root.sealed" || c.TLS.API.Cert != "/etc/bulwark/a" ||
		c.Routes[0].MaxBody != 1<<20 || c.Application != "app" {
		t.Errorf("defaults are wrong: %+v", c)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown key", "env: prod", "env: prod\ntenannt: x", "there is no key tenannt here"},
		{"twice", "env: prod", "env: prod\nenv: test", "already defined"},
		{"two documents", "env: prod", "env: prod\n---\nenv: x", "one document"},
		{"no version", "version: 1\n", "", "version: write"},
		{"a later version", "version: 1", "version: 2", "version: write"},
		{"dev", "env: prod", "env: dev", "env:"},
		{"env", "env: prod", "env: Pr-od", "env:"},
		{"plain issuer", "https://auth.example.com", "http://auth.example.com", "issuer:"},
		{"issuer with path", "https://auth.example.com", "https://auth.example.com/", "issuer:"},
		{"no data", "data: /srv/data", "", "data:"},
		{"listen name", "env: prod", "env: prod\nlisten: {gateway: \"localhost:1\"}", "listen.gateway"},
		{"no root source", "{passphrase_fd: 3}", "{}", "exactly one"},
		{"two root sources", "{passphrase_fd: 3}", "{passphrase_fd: 3, passphrase_file: x}", "exactly one"},
		{"half a pair", "api: {cert: a, key: b}", "api: {cert: a}", "tls.api"},
		{"http upstream", "https://127.0.0.1:9443", "http://10.0.0.1:80", "plaintext"},
		{"rebound name", "https://127.0.0.1:9443", "http://127.0.0.1.evil.example:80", "plaintext"},
		{"upstream path", "https://127.0.0.1:9443", "https://127.0.0.1:9443/x", "scheme://host:port"},
		{"upstream user", "https://127.0.0.1:9443", "https://u:p@127.0.0.1:9443", "scheme://host:port"},
		{"no such upstream", "upstream: notes", "upstream: nots", `"nots" is not listed`},
		{"duration", "timeout: 5s", "timeout: 5", "not a duration"},
		{"negative", "timeout: 5s", "timeout: -5s", "not a duration"},
		{"negative number", "env: prod", "env: prod\nlimits: {tuples: -1}", "limits.tuples: -1 is not a number from 1"},
		{"number", "env: prod", "env: prod\nlimits: {proposals: many}", "line"},
		{"size", "max_body: 1MiB", "max_body: 1MB", "not a size"},
		{"half a requirement", "upstream: notes, timeout", "upstream: notes, require: {relation: x}, timeout", "relation and an object"},
		{"not YAML", "env: prod", "\tenv: prod", "line"},
	} {
		text := strings.Replace(good, c.from, c.to, 1)
		_, err := Parse([]byte(text), "/")
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want kind Invalid with %q", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	if text, err := os.ReadFile(reference); err == nil {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text, "/")
		if err == nil && (c.Env == "dev" || c.Data == "" || !strings.HasPrefix(c.Issuer, "https://")) {
			t.Errorf("accepted: %q", text)
		}
	})
}

// A file of each version stays readable, with the same meaning. The golden file
// is what Parse made of version1.yaml when that version was new.
func TestVersionsStayReadable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/version1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text, "/etc/bulwark")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/version1.golden")
	if err != nil {
		t.Fatal(err)
	}
	var want Config // keys that came later have no value in the old file
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, c); diff != "" {
		t.Error(diff)
	}
}
