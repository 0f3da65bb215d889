package local

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

var _ kms.Root = (*Root)(nil)

var update = flag.Bool("update", false, "write the golden files anew")

func passphrase(s string) secret.Bytes { return secret.New([]byte(s)) }

// fast makes scrypt cheap: what it costs is tested once, by the golden file.
func fast(env string, dev bool) Config { return Config{Env: env, Dev: dev, WorkFactor: 1} }

func mustCreate(t testing.TB, path, pass string, c Config) *Root {
	t.Helper()
	r, err := Create(path, passphrase(pass), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantKind(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("%s: %v, want kind %v", what, err, kind)
	}
}

func TestCreateAndOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "root.key")
	made := mustCreate(t, path, "correct horse", fast("prod-1", true))
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files instead of one: %v", len(entries), entries)
	}
	opened, err := Open(path, passphrase("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	if !opened.key().Equal(made.key()) || opened.header != made.header {
		t.Errorf("opened %+v, made %+v", opened.header, made.header)
	}
	if opened.Env() != "prod-1" || !opened.Dev() || len(opened.Fingerprint()) != 32 {
		t.Errorf("env %q dev %v fingerprint %q", opened.Env(), opened.Dev(), opened.Fingerprint())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, shape := range []string{string(made.key().Reveal()[:8]), hex.EncodeToString(made.key().Reveal()[:8]), "correct horse"} {
		if bytes.Contains(raw, []byte(shape)) {
			t.Errorf("the file holds %q", shape)
		}
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "root.key")
	var made, refused int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := Create(path, passphrase("p"), fast("e", false))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if fault.KindOf(err) == fault.Conflict {
				refused++
			}
		})
	}
	wg.Wait()
	if made != 1 || refused != 7 {
		t.Errorf("%d made and %d refused of 8", made, refused)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Create(path, passphrase("q"), fast("e", false))
	wantKind(t, "again", err, fault.Conflict)
	dangling := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), dangling); err != nil {
		t.Fatal(err)
	}
	_, err = Create(dangling, passphrase("q"), fast("e", false))
	wantKind(t, "through a dangling link", err, fault.Conflict)
	if _, err := os.Stat(filepath.Join(dir, "elsewhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a link was followed")
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("temporary files are left: %v", entries)
	}
	_, err = Create(filepath.Join(dir, "absent", "root.key"), passphrase("q"), fast("e", false))
	wantKind(t, "no directory", err, fault.Unavailable)
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.key")
	for what, c := range map[string]Config{
		"no env": {}, "env with a newline": {Env: "a\ndev: true"}, "work factor 21": {Env: "e", WorkFactor: 21}, "work factor -1": {Env: "e", WorkFactor: -1},
	} {
		_, err := Create(path, passphrase("p"), c)
		wantKind(t, what, err, fault.Invalid)
	}
	_, err := Create(path, secret.Bytes{}, fast("e", false))
	wantKind(t, "no passphrase", err, fault.Invalid)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a refused Create left a file")
	}
}

// Each defect has one clear error, and none tells a byte of the file.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "root.key")
	made := mustCreate(t, path, "correct horse", fast("prod", false))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, file []byte, pass string, kind fault.Kind, text string) {
		t.Helper()
		r, err := open(file, passphrase(pass))
		wantKind(t, what, err, kind)
		if r != nil {
			t.Errorf("%s: a root came with the error", what)
		}
		if err == nil {
			return
		}
		if err.Error() != text {
			t.Errorf("%s: %q, want %q", what, err, text)
		}
		if strings.Contains(err.Error(), "horse") || strings.Contains(err.Error(), hex.EncodeToString(made.key().Reveal()[:4])) {
			t.Errorf("%s: the error tells too much: %v", what, err)
		}
	}
	edit := func(old, new string) []byte {
		t.Helper()
		out := bytes.Replace(raw, []byte(old), []byte(new), 1)
		if bytes.Equal(out, raw) {
			t.Fatalf("%q is not in the file", old)
		}
		return out
	}
	const (
		wrong   = "the passphrase does not open the root key file"
		form    = "this is not a root key file, or its beginning is damaged"
		cut     = "the root key file is damaged or cut"
		changed = "the root key file's first lines are not those that were sealed with the key"
	)
	check("wrong passphrase", raw, "correct hors", fault.Denied, wrong)
	check("no passphrase", raw, "", fault.Denied, wrong)
	check("empty file", nil, "correct horse", fault.Integrity, form)
	check("another file", []byte("-----BEGIN PRIVATE KEY-----\n\nx"), "correct horse", fault.Integrity, form)
	check("header alone", raw[:strings.Index(string(raw), "\n\n")+2], "correct horse", fault.Integrity, cut)
	check("another environment", edit("env: prod", "env: test"), "correct horse", fault.Integrity, changed)
	check("dev", edit("dev: false", "dev: true"), "correct horse", fault.Integrity, changed)
	check("another fingerprint", edit(made.Fingerprint(), strings.Repeat("0", 32)), "correct horse", fault.Integrity, changed)
	check("a later format", edit("bulwark-root/1", "bulwark-root/2"), "correct horse", fault.Integrity, form)
	check("capitals", edit("dev: false", "dev: False"), "correct horse", fault.Integrity, form)
	check("a further line", edit("dev: false\n", "dev: false\ndev: true\n"), "correct horse", fault.Integrity, form)
	check("CRLF", []byte(strings.ReplaceAll(string(raw[:80]), "\n", "\r\n")+string(raw[80:])), "correct horse", fault.Integrity, form)
	check("a byte more", append(bytes.Clone(raw), 0), "correct horse", fault.Integrity, cut)
	check("far too long", append(bytes.Clone(raw), make([]byte, maxFile)...), "correct horse", fault.Integrity, cut)

	for i := range raw {
		if _, err := open(raw[:i], passphrase("correct horse")); err == nil {
			t.Errorf("the first %d of %d bytes open", i, len(raw))
		} else if k := fault.KindOf(err); k != fault.Integrity {
			t.Errorf("the first %d bytes: %v", i, err)
		}
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := open(bad, passphrase("correct horse")); err == nil {
			t.Errorf("with byte %d flipped it opens", i)
		} else if k := fault.KindOf(err); k != fault.Integrity && k != fault.Denied {
			t.Errorf("byte %d: %v", i, err)
		}
	}

	_, err = Open(filepath.Join(dir, "absent"), passphrase("p"))
	wantKind(t, "no file", err, fault.NotFound)
	_, err = Open(dir, passphrase("p"))
	wantKind(t, "a directory", err, fault.Unavailable)
}

// Whoever knows the passphrase can seal anything; it still has to fit.
func TestSealedPartOutOfForm(t *testing.T) {
	t.Parallel()
	r := mustCreate(t, filepath.Join(t.TempDir(), "root.key"), "p", fast("prod", false))
	head := r.header.String()
	for what, c := range map[string]struct {
		sealed string
		head   string
	}{
		"nothing":        {"", head},
		"a short key":    {head + string(r.key().Reveal()[:31]), head},
		"a long key":     {head + string(r.key().Reveal()) + "x", head},
		"another key":    {head + strings.Repeat("k", 32), head},
		"no header":      {string(r.key().Reveal()), head},
		"another header": {strings.Replace(head, "prod", "test", 1) + string(r.key().Reveal()), head},
		"a megabyte":     {head + strings.Repeat("k", 1<<20), head},
	} {
		recipient, err := age.NewScryptRecipient("p")
		if err != nil {
			t.Fatal(err)
		}
		recipient.SetWorkFactor(1)
		file := bytes.NewBufferString(c.head)
		w, err := age.Encrypt(file, recipient)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, c.sealed); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = open(file.Bytes(), passphrase("p"))
		wantKind(t, what, err, fault.Integrity)
	}
}

// The work that a file asks for is bounded before it is done.
func TestDoctoredWorkFactor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.key")
	mustCreate(t, path, "p", fast("e", false))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte("-> scrypt "))
	end := at + bytes.IndexByte(raw[at:], '\n')
	if !bytes.HasSuffix(raw[:end], []byte(" 1")) {
		t.Fatalf("not age's form any more: %q", raw[at:end])
	}
	for _, factor := range []string{"21", "30", "64", "99999999999999999999"} {
		doctored := append(append(bytes.Clone(raw[:end-1]), factor...), raw[end:]...)
		_, err := open(doctored, passphrase("p"))
		wantKind(t, "work factor "+factor, err, fault.Integrity)
	}
}

func TestWrapIsBound(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	r := mustCreate(t, filepath.Join(dir, "a"), "p", fast("e", false))
	other := mustCreate(t, filepath.Join(dir, "b"), "p", fast("e", false))
	kek := secret.Random(32)
	aad := map[string]string{"tenant": tenant.New().String(), "version": "1"}
	wrapped, err := r.Wrap(ctx, kek, aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Unwrap(ctx, wrapped, aad); err != nil || !got.Equal(kek) {
		t.Errorf("Unwrap: %v", err)
	}
	if h, err := envelope.Parse(wrapped); err != nil || h.Key != "root-"+r.Fingerprint() {
		t.Errorf("the wrap does not name its root: %+v, %v", h, err)
	}
	if bytes.Contains(wrapped, kek.Reveal()[:8]) {
		t.Error("the wrap holds key bytes")
	}
	for what, try := range map[string]func() (secret.Bytes, error){
		"another tenant": func() (secret.Bytes, error) {
			return r.Unwrap(ctx, wrapped, map[string]string{"tenant": tenant.New().String(), "version": "1"})
		},
		"no aad":       func() (secret.Bytes, error) { return r.Unwrap(ctx, wrapped, nil) },
		"another root": func() (secret.Bytes, error) { return other.Unwrap(ctx, wrapped, aad) },
	} {
		if got, err := try(); fault.KindOf(err) != fault.Invalid || got.Len() != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestRootDoesNotPrintItsKey(t *testing.T) {
	t.Parallel()
	r := mustCreate(t, filepath.Join(t.TempDir(), "a"), "p", fast("e", false))
	var out bytes.Buffer
	holder := struct{ root Root }{*r}
	pointer := struct{ root *Root }{r}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+"\n", r, *r, holder, pointer)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "root", r, "value", *r, "holder", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "root", r, "value", *r, "holder", holder)
	key := r.key().Reveal()
	for _, shape := range []string{
		string(key[:8]), hex.EncodeToString(key[:8]), strings.ToUpper(hex.EncodeToString(key[:8])), strings.Trim(fmt.Sprint(key[:6]), "[]"),
		strings.Trim(fmt.Sprintf("%#v", key[:6])[6:], "{}"), strings.Trim(fmt.Sprintf("%x", key[:6]), "[]"),
	} {
		if strings.Contains(out.String(), shape) {
			t.Errorf("the root key is printed as %q", shape)
		}
	}
}

const (
	goldenFile = "testdata/root1.golden"
	goldenKEK  = "testdata/kek1.golden"
	goldenPass = "test vector"
)

// All later versions must open this file and what its key wrapped. Its key is
// the bytes 0 to 31 and its passphrase stands above: plainly no secrets.
func TestGoldenFile(t *testing.T) {
	t.Parallel()
	aad := map[string]string{"env": "golden", "tenant": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "kek": "kek", "version": "1", "store": "01BX5ZZKBKACTAV9WEVGEMMVRZ"}
	key := make([]byte, envelope.KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	if *update {
		name, err := fingerprint(secret.New(key))
		if err != nil {
			t.Fatal(err)
		}
		r := newRoot(secret.New(key), header{"golden", true, name})
		file, err := r.seal(passphrase(goldenPass), devWorkFactor)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := r.Wrap(t.Context(), secret.New(bytes.Repeat([]byte{0x4b}, envelope.KeySize)), aad)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{goldenFile: file, goldenKEK: []byte(hex.EncodeToString(wrapped) + "\n")} {
			if err := os.WriteFile(name, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := Open(goldenFile, passphrase(goldenPass))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.key().Reveal(), key) || r.Env() != "golden" || !r.Dev() || r.Fingerprint() != "987a84cffadb10bf95ddc9fb76e5f1a0" {
		t.Errorf("env %q dev %v fingerprint %q", r.Env(), r.Dev(), r.Fingerprint())
	}
	text, err := os.ReadFile(goldenKEK)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	kek, err := r.Unwrap(context.Background(), wrapped, aad)
	if err != nil || !bytes.Equal(kek.Reveal(), bytes.Repeat([]byte{0x4b}, envelope.KeySize)) {
		t.Errorf("Unwrap: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	golden, err := os.ReadFile(goldenFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte("bulwark-root/1\nenv: e\ndev: true\nfingerprint: 00000000000000000000000000000000\n\n"))
	f.Add([]byte("\n\n\n\n\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, n, ok := parse(raw)
		if ok && (h.String() != string(raw[:n]) || !envelope.ValidEnv(h.env)) {
			t.Fatalf("%q was read as %+v", raw, h)
		}
		if !ok && (n != 0 || h != header{}) {
			t.Fatal("a refused file left something")
		}
	})
}

// dev must be ready within 3 s: opening the root may take 150 ms of it.
func BenchmarkOpenDev(b *testing.B)     { benchmarkOpen(b, Config{Env: "e", Dev: true}) }
func BenchmarkOpenDefault(b *testing.B) { benchmarkOpen(b, Config{Env: "e"}) }

func benchmarkOpen(b *testing.B, c Config) {
	path := filepath.Join(b.TempDir(), "root.key")
	mustCreate(b, path, "correct horse", c)
	for b.Loop() {
		if _, err := Open(path, passphrase("correct horse")); err != nil {
			b.Fatal(err)
		}
	}
}
