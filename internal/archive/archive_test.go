package archive_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/archive"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

var update = flag.Bool("update", false, "write the golden file of the newest version")

// example is what the golden file of version 1 holds.
func example() (archive.Header, []archive.Model, []archive.Assertions, []relation.Tuple) {
	made := time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
	h := archive.Header{
		Format: archive.Format, Version: 1, Store: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Kind: "free", Name: "drive & more",
		Epoch: 3, Revision: 1 << 40, Made: made, Models: 2, Assertions: 1, Roles: 1, Policies: 1, Tuples: 4,
	}
	models := []archive.Model{
		{ID: "01OLD", Created: made.Add(-time.Hour), Source: "model\n  schema 1.1\ntype user\n"},
		{ID: "01NEW", Active: true, Created: made, Source: "model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user with c]\ncondition c(x: int) {\n  x < 3 && \"<\" != '>'\n}\n"},
	}
	assertions := []archive.Assertions{{Model: "01NEW", Payload: []byte(`1{"assertions":[]}`)}}
	tuples := []relation.Tuple{
		{Object: "doc:a", Relation: "viewer", Subject: "team:x#member", Expires: 1_800_000_000_000_000_000},
		{Object: "doc:a", Relation: "viewer", Subject: "user:*"},
		{Object: "doc:a", Relation: "viewer", Subject: "user:ünï<&>"},
		{Object: "doc:b", Relation: "viewer", Subject: "user:b", Condition: "c", Context: `{"x":1,"y":["<"]}`},
	}
	return h, models, assertions, tuples
}

// added is what a tenant added in the store of the golden file.
func added() ([]archive.Role, []archive.Policies) {
	return []archive.Role{{Role: json.RawMessage(`{"name":"reader","type":"doc","relations":["viewer"]}`)}},
		[]archive.Policies{{Name: "a.cedar", Text: "forbid (principal, action, resource);\n"}}
}

func write(t testing.TB, w io.Writer) (digest string) {
	t.Helper()
	h, models, assertions, tuples := example()
	a, err := archive.NewWriter(w, h)
	for _, m := range models {
		err = errors.Join(err, a.Model(m))
	}
	for _, s := range assertions {
		err = errors.Join(err, a.Assertions(s))
	}
	roles, policies := added()
	err = errors.Join(err, a.Role(roles[0]), a.Policies(policies[0]))
	for _, x := range tuples {
		err = errors.Join(err, a.Tuple(x))
	}
	digest, end := a.Close()
	if err = errors.Join(err, end); err != nil {
		t.Fatal(err)
	}
	return digest
}

// whole reads an archive to its end.
func whole(r io.Reader) (*archive.Reader, []relation.Tuple, error) {
	a, err := archive.NewReader(r)
	if err != nil {
		return nil, nil, err
	}
	var tuples []relation.Tuple
	for {
		x, err := a.Next()
		if err == io.EOF {
			return a, tuples, nil
		}
		if err != nil {
			return a, tuples, err
		}
		tuples = append(tuples, x)
	}
}

const golden = "testdata/v1.bulwark"

// TestGolden: what version 1 wrote is read for ever, and is what is written now.
func TestGolden(t *testing.T) {
	t.Parallel()
	var now bytes.Buffer
	digest := write(t, &now)
	if *update {
		if err := os.WriteFile(golden, now.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	a, tuples, err := whole(bytes.NewReader(kept))
	if err != nil {
		t.Fatal(err)
	}
	h, models, assertions, want := example()
	roles, policies := added()
	if d := cmp.Diff(roles, a.Roles) + cmp.Diff(policies, a.Policies); d != "" {
		t.Errorf("what the tenant added is read as something else:\n%s", d)
	}
	if d := cmp.Diff(h, a.Header) + cmp.Diff(models, a.Models) + cmp.Diff(assertions, a.Assertions) + cmp.Diff(want, tuples); d != "" {
		t.Errorf("the golden file is read as something else:\n%s", d)
	}
	if a.Digest() != digest || digest == "" {
		t.Errorf("the digest is %s, the golden file's %s", digest, a.Digest())
	}
	if d := cmp.Diff(unzip(t, kept), unzip(t, now.Bytes())); d != "" {
		t.Errorf("the same store is written in another way:\n%s", d)
	}
	if _, err := a.Next(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func unzip(t testing.TB, b []byte) string {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// zips are reused: each takes a megabyte.
var zips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.NoCompression) // a level that exists
	return z
}}

func zip(text string) []byte {
	var b bytes.Buffer
	z := zips.Get().(*gzip.Writer)
	defer zips.Put(z)
	z.Reset(&b)
	_, _ = z.Write([]byte(text)) // to memory
	_ = z.Close()
	return b.Bytes()
}

// TestTorn: an archive that ends anywhere but at its end is refused.
func TestTorn(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	write(t, &b)
	for n := range b.Len() {
		if _, _, err := whole(bytes.NewReader(b.Bytes()[:n])); err == nil || fault.KindOf(err) != fault.Invalid {
			t.Fatalf("%d of %d bytes are read as a whole archive: %v", n, b.Len(), err)
		}
	}
	for _, more := range []string{"x", b.String(), "\x1f\x8b"} {
		if _, _, err := whole(strings.NewReader(b.String() + more)); err == nil || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%d bytes may follow the end: %v", len(more), err)
		}
	}
	text := unzip(t, b.Bytes())
	for i := 0; i < len(text); i += 3 {
		if _, _, err := whole(bytes.NewReader(zip(text[:i]))); err == nil || fault.KindOf(err) != fault.Invalid {
			t.Fatalf("the text is read although it ends after %d of %d bytes: %v", i, len(text), err)
		}
	}
}

// TestEdited: no byte of the text can be another, in a well compressed file too.
func TestEdited(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	write(t, &b)
	text := unzip(t, b.Bytes())
	for i := range text {
		for _, c := range []byte{text[i] ^ 1, " 0\""[i%3]} {
			if c == text[i] {
				continue
			}
			edited := text[:i] + string(c) + text[i+1:]
			if _, _, err := whole(bytes.NewReader(zip(edited))); err == nil {
				t.Fatalf("byte %d may be %q instead of %q", i, c, text[i])
			}
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	write(t, &b)
	text := unzip(t, b.Bytes())
	lines := strings.SplitAfter(text, "\n")
	first := lines[0]
	for name, c := range map[string]struct {
		raw  []byte
		kind fault.Kind
		text string
	}{
		"nothing":          {nil, fault.Invalid, "not compressed with gzip"},
		"text":             {[]byte(text), fault.Invalid, "not compressed with gzip"},
		"other JSON":       {zip("{}\n"), fault.Invalid, "no archive of a store"},
		"a newer one":      {zip(strings.Replace(first, `"version":1`, `"version":2,"more":true`, 1)), fault.Unsupported, "version 2"},
		"a strange name":   {zip(strings.Replace(first, `"kind"`, `"kinds"`, 1)), fault.Invalid, "line 1 of the archive"},
		"negative":         {zip(strings.Replace(first, `"tuples":4`, `"tuples":-4`, 1)), fault.Invalid, "line 1 of the archive counts"},
		"a bad tuple":      {zip(strings.Replace(text, `user:*"`, `user:* "`, 1)), fault.Invalid, "line 8 of the archive holds no tuple: the user must be"},
		"out of order":     {zip(strings.Join([]string{lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[7], lines[6], lines[8], lines[9], lines[10]}, "")), fault.Invalid, "line 8 of the archive holds a tuple out of order"},
		"twice":            {zip(strings.Join([]string{lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6], lines[6], lines[8], lines[9], lines[10]}, "")), fault.Invalid, "line 8 of the archive holds a tuple out of order"},
		"assertions twice": {zip(strings.Replace(strings.Join([]string{lines[0], lines[1], lines[2], lines[3], lines[3]}, ""), `"assertions":1`, `"assertions":2`, 1)), fault.Invalid, "line 5 of the archive is about what one before it is"},
		"endless line":     {zip(strings.Replace(first, `"name":"`, `"name":"`+strings.Repeat("x", 5<<20), 1)), fault.Invalid, "line 1 of the archive is not there whole"},
		"other digest":     {zip(strings.Replace(text, `{"sha256":"`, `{"sha256":"0`, 1)), fault.Invalid, "digest is another"},
	} {
		_, _, err := whole(bytes.NewReader(c.raw))
		if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(fault.Public(err), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPromises: a writer that gets something else than its header says fails.
func TestPromises(t *testing.T) {
	t.Parallel()
	a, b := relation.Tuple{Object: "d:a", Relation: "r", Subject: "u:a"}, relation.Tuple{Object: "d:b", Relation: "r", Subject: "u:a"}
	for name, do := range map[string]func(*archive.Writer) error{
		"too few":       func(w *archive.Writer) error { _, err := w.Close(); return err },
		"too many":      func(w *archive.Writer) error { return errors.Join(w.Tuple(a), w.Tuple(b), w.Tuple(b)) },
		"out of order":  func(w *archive.Writer) error { return errors.Join(w.Tuple(b), w.Tuple(a)) },
		"twice":         func(w *archive.Writer) error { return errors.Join(w.Tuple(a), w.Tuple(a)) },
		"a model":       func(w *archive.Writer) error { return w.Model(archive.Model{}) },
		"a role":        func(w *archive.Writer) error { return w.Role(archive.Role{}) },
		"policies":      func(w *archive.Writer) error { return w.Policies(archive.Policies{}) },
		"an assertion":  func(w *archive.Writer) error { return w.Assertions(archive.Assertions{}) },
		"a late header": func(w *archive.Writer) error { return errors.Join(w.Tuple(a), w.Model(archive.Model{})) },
	} {
		w, err := archive.NewWriter(io.Discard, archive.Header{Tuples: 2})
		if err != nil {
			t.Fatal(err)
		}
		if do(w) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzReader: no input harms, and what is read whole is what was written.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	write(f, &b)
	text := unzip(f, b.Bytes())
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add(strings.ReplaceAll(text, "doc:a", "doc:"))
	f.Add("{}\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		a, tuples, err := whole(bytes.NewReader(zip(text)))
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.Unsupported {
				t.Fatalf("kind %v: %v", k, err)
			}
			return
		}
		var again bytes.Buffer
		w, err := archive.NewWriter(&again, a.Header)
		for _, m := range a.Models {
			err = errors.Join(err, w.Model(m))
		}
		for _, s := range a.Assertions {
			err = errors.Join(err, w.Assertions(s))
		}
		for _, r := range a.Roles {
			err = errors.Join(err, w.Role(r))
		}
		for _, p := range a.Policies {
			err = errors.Join(err, w.Policies(p))
		}
		for _, x := range tuples {
			err = errors.Join(err, w.Tuple(x))
		}
		if _, end := w.Close(); errors.Join(err, end) != nil {
			t.Fatal(errors.Join(err, end))
		}
		_, same, err := whole(&again)
		if err != nil || cmp.Diff(tuples, same) != "" {
			t.Fatalf("read again: %v\n%s", err, cmp.Diff(tuples, same))
		}
	})
}

// TestBounds: what is no tuple is in memory together, so whatever of it is long
// counts: names as well as texts. What a reader would not take is not written.
func TestBounds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3<<20)
	line := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw) + "\n"
	}
	const many = 22 // of 3 MiB
	h := archive.Header{Format: archive.Format, Version: archive.Version, Models: many}
	text := line(h)
	for i := range many {
		text += line(archive.Model{ID: strconv.Itoa(i) + long})
	}
	_, err := archive.NewReader(bytes.NewReader(zip(text)))
	if err == nil || !strings.Contains(fault.Public(err), "holds more beside its tuples than 64 MiB") {
		t.Errorf("long ids are read: %v", err)
	}
	w, err := archive.NewWriter(io.Discard, h)
	for range many {
		err = errors.Join(err, w.Model(archive.Model{ID: long}))
	}
	if fault.KindOf(err) != fault.TooLarge {
		t.Errorf("long ids are written: %v", err)
	}
	head := archive.Header{Format: archive.Format, Version: archive.Version, Store: relation.StoreID(strings.Repeat("x", 5<<10))}
	if _, err := archive.NewReader(bytes.NewReader(zip(line(head)))); err == nil || !strings.Contains(fault.Public(err), "line 1 of the archive is longer than a header") {
		t.Errorf("a header of 5 KiB is read: %v", err)
	}
	if _, err := archive.NewWriter(io.Discard, archive.Header{Models: 10_001}); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("an archive is begun that nobody can read: %v", err)
	}
	w, err = archive.NewWriter(io.Discard, archive.Header{Policies: 1})
	if err := errors.Join(err, w.Policies(archive.Policies{Name: "a", Text: long + long})); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("a line is written that nobody can read: %v", err)
	}
}

// TestInterrupted: what ends the reading from outside does not look like damage.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	write(t, &b)
	over := fault.New(fault.Unavailable, "nobody waits any more")
	for _, n := range []int{0, 100, b.Len() / 2} {
		_, _, err := whole(io.MultiReader(bytes.NewReader(b.Bytes()[:n]), iotest.ErrReader(over)))
		if !errors.Is(err, over) || fault.KindOf(err) != fault.Unavailable {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
