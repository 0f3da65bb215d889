package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

func testHeader() Header {
	return Header{Env: "test", Tenant: tenant.New().String(), Key: "signing", Version: 1}
}

func mustSeal(t testing.TB, key secret.Bytes, h Header, purpose string, context map[string]string, plaintext []byte) []byte {
	t.Helper()
	blob, err := Seal(key, h, purpose, context, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// refused fails the test unless Open gives its one error and no byte.
func refused(t testing.TB, what string, key secret.Bytes, purpose string, context map[string]string, blob []byte) {
	t.Helper()
	got, err := Open(key, purpose, context, blob)
	if err == nil {
		t.Errorf("%s: opened", what)
	} else if !errors.Is(err, errOpen) || err.Error() != "the ciphertext does not open" || fault.KindOf(err) != fault.Invalid {
		t.Errorf("%s: %v: not the one error", what, err)
	}
	if got.Len() != 0 {
		t.Errorf("%s: %d bytes came with the error", what, got.Len())
	}
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	key, h := secret.Random(KeySize), testHeader()
	for _, n := range []int{0, 1, 15, 16, 17, 1024, MaxPlaintext} {
		plaintext := secret.Random(n).Reveal()
		blob := mustSeal(t, key, h, "p", map[string]string{"a": "b"}, plaintext)
		if len(blob) > MaxBlob {
			t.Errorf("%d bytes: a blob of %d is over MaxBlob", n, len(blob))
		}
		got, err := Open(key, "p", map[string]string{"a": "b"}, blob)
		if err != nil || !bytes.Equal(got.Reveal(), plaintext) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if parsed, err := Parse(blob); err != nil || parsed != h {
			t.Errorf("%d bytes: Parse = %+v, %v", n, parsed, err)
		}
		if n >= 16 && bytes.Contains(blob, plaintext[:16]) {
			t.Errorf("%d bytes: the blob holds plaintext", n)
		}
		if bytes.Contains(blob, key.Reveal()[:8]) {
			t.Errorf("%d bytes: the blob holds key bytes", n)
		}
	}
}

// The longest header must fit under MaxBlob and survive the way back.
func TestLimits(t *testing.T) {
	t.Parallel()
	key := secret.Random(KeySize)
	h := Header{strings.Repeat("e", MaxEnv), tenant.New().String(), strings.Repeat("k", MaxKey), 1<<32 - 1}
	purpose := strings.Repeat("p", MaxPurpose)
	context := map[string]string{"": strings.Repeat("v", MaxContext-8)}
	plaintext := make([]byte, MaxPlaintext)
	blob := mustSeal(t, key, h, purpose, context, plaintext)
	if len(blob) != MaxBlob {
		t.Errorf("the longest blob has %d bytes, MaxBlob says %d", len(blob), MaxBlob)
	}
	if _, err := Open(key, purpose, context, blob); err != nil {
		t.Error(err)
	}
	refused(t, "longer than MaxBlob", key, purpose, context, append(blob, 0))

	good := testHeader()
	for _, c := range []struct {
		name      string
		key       secret.Bytes
		h         Header
		purpose   string
		context   map[string]string
		plaintext []byte
		kind      fault.Kind
	}{
		{"no key", secret.Bytes{}, good, "p", nil, nil, fault.Invalid},
		{"short key", secret.Random(31), good, "p", nil, nil, fault.Invalid},
		{"long key", secret.Random(33), good, "p", nil, nil, fault.Invalid},
		{"no env", key, Header{"", good.Tenant, "k", 1}, "p", nil, nil, fault.Invalid},
		{"long env", key, Header{strings.Repeat("e", MaxEnv+1), good.Tenant, "k", 1}, "p", nil, nil, fault.Invalid},
		{"env in capitals", key, Header{"Prod", good.Tenant, "k", 1}, "p", nil, nil, fault.Invalid},
		{"no tenant", key, Header{"e", "", "k", 1}, "p", nil, nil, fault.Invalid},
		{"a tenant's name", key, Header{"e", "acme", "k", 1}, "p", nil, nil, fault.Invalid},
		{"no key name", key, Header{"e", good.Tenant, "", 1}, "p", nil, nil, fault.Invalid},
		{"long key name", key, Header{"e", good.Tenant, strings.Repeat("k", MaxKey+1), 1}, "p", nil, nil, fault.Invalid},
		{"key name of 256", key, Header{"e", good.Tenant, strings.Repeat("k", 256), 1}, "p", nil, nil, fault.Invalid},
		{"key name with NUL", key, Header{"e", good.Tenant, "k\x00", 1}, "p", nil, nil, fault.Invalid},
		{"version 0", key, Header{"e", good.Tenant, "k", 0}, "p", nil, nil, fault.Invalid},
		{"no purpose", key, good, "", nil, nil, fault.Invalid},
		{"long purpose", key, good, strings.Repeat("p", MaxPurpose+1), nil, nil, fault.Invalid},
		{"long context", key, good, "p", map[string]string{"a": strings.Repeat("v", MaxContext-8)}, nil, fault.TooLarge},
		{"long plaintext", key, good, "p", nil, make([]byte, MaxPlaintext+1), fault.TooLarge},
	} {
		if blob, err := Seal(c.key, c.h, c.purpose, c.context, c.plaintext); err == nil || fault.KindOf(err) != c.kind || blob != nil {
			t.Errorf("%s: %v, want kind %v and no blob", c.name, err, c.kind)
		}
	}
	blob = mustSeal(t, key, good, "p", nil, nil)
	refused(t, "short key", secret.Random(16), "p", nil, blob)
	refused(t, "no key", secret.Bytes{}, "p", nil, blob)
	refused(t, "no purpose", key, "", nil, blob)
	refused(t, "long purpose", key, strings.Repeat("p", MaxPurpose+1), nil, blob)
	refused(t, "long context", key, "p", map[string]string{"a": strings.Repeat("v", MaxContext)}, blob)
}

func TestEveryFlippedByteIsRefused(t *testing.T) {
	t.Parallel()
	key := secret.Random(KeySize)
	blob := mustSeal(t, key, testHeader(), "p", map[string]string{"a": "b"}, []byte("plaintext"))
	for i := range blob {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(blob)
			bad[i] ^= mask
			refused(t, fmt.Sprintf("byte %d ^ %#x", i, mask), key, "p", map[string]string{"a": "b"}, bad)
		}
	}
}

func TestEveryOtherLengthIsRefused(t *testing.T) {
	t.Parallel()
	key := secret.Random(KeySize)
	blob := mustSeal(t, key, testHeader(), "p", nil, []byte("plaintext"))
	for n := range blob {
		refused(t, fmt.Sprintf("first %d bytes", n), key, "p", nil, blob[:n:n])
		refused(t, fmt.Sprintf("from byte %d", n+1), key, "p", nil, blob[n+1:])
	}
	refused(t, "nil", key, "p", nil, nil)
	refused(t, "one byte more", key, "p", nil, append(bytes.Clone(blob), 0))
	refused(t, "twice", key, "p", nil, append(bytes.Clone(blob), blob...))
}

// local-kms added lengths in a byte: a length of 255 wrapped past its check.
func TestLengthsOf255(t *testing.T) {
	t.Parallel()
	key := secret.Random(KeySize)
	blob := mustSeal(t, key, testHeader(), "p", nil, []byte("plaintext"))
	for _, i := range []int{0, len(prefix), len(prefix) + 5, len(prefix) + 5 + 27} {
		bad := bytes.Clone(blob)
		bad[i] = 255
		refused(t, fmt.Sprintf("255 at byte %d", i), key, "p", nil, bad)
		refused(t, fmt.Sprintf("255 at byte %d, cut after it", i), key, "p", nil, bad[:i+1])
	}
	refused(t, "255 alone", key, "p", nil, []byte{255})
	refused(t, "all 255", key, "p", nil, bytes.Repeat([]byte{255}, 600))
}

func TestEverythingIsBound(t *testing.T) {
	t.Parallel()
	key, h := secret.Random(KeySize), testHeader()
	context := map[string]string{"table": "users", "row": "17"}
	blob := mustSeal(t, key, h, "field", context, []byte("plaintext"))

	refused(t, "another key version's bytes", secret.Random(KeySize), "field", context, blob)
	refused(t, "another purpose", key, "fiel", context, blob)
	refused(t, "no context", key, "field", nil, blob)
	refused(t, "a missing pair", key, "field", map[string]string{"table": "users"}, blob)
	refused(t, "a further pair", key, "field", map[string]string{"table": "users", "row": "17", "x": ""}, blob)
	refused(t, "another value", key, "field", map[string]string{"table": "users", "row": "18"}, blob)
	refused(t, "another name", key, "field", map[string]string{"table": "users", "Row": "17"}, blob)

	// The same sealed part under another true header: the header is well
	// formed and the key is right, and still it belongs elsewhere.
	_, n, _ := parse(blob)
	for name, other := range map[string]Header{
		"tenant":  {h.Env, tenant.New().String(), h.Key, h.Version},
		"env":     {"prod", h.Tenant, h.Key, h.Version},
		"key":     {h.Env, h.Tenant, "other", h.Version},
		"version": {h.Env, h.Tenant, h.Key, h.Version + 1},
	} {
		moved := append(other.append(nil), blob[n:]...)
		if _, err := Parse(moved); err != nil {
			t.Fatalf("%s: the moved blob must be well formed: %v", name, err)
		}
		refused(t, "moved to another "+name, key, "field", context, moved)
	}
}

func TestContextOrderIsIrrelevant(t *testing.T) {
	t.Parallel()
	key, h := secret.Random(KeySize), testHeader()
	forward, backward := map[string]string{}, map[string]string{}
	for i := range 50 {
		forward[fmt.Sprint("n", i)] = fmt.Sprint(i)
	}
	for i := 49; i >= 0; i-- {
		backward[fmt.Sprint("n", i)] = fmt.Sprint(i)
	}
	for range 20 {
		if _, err := Open(key, "p", backward, mustSeal(t, key, h, "p", forward, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(key, "p", map[string]string{}, mustSeal(t, key, h, "p", nil, nil)); err != nil {
		t.Errorf("nil and the empty context differ: %v", err)
	}
}

// Pairs of (purpose, context) that a joined string would confuse.
func TestEncodingsDoNotCollide(t *testing.T) {
	t.Parallel()
	type bound struct {
		purpose string
		context map[string]string
	}
	all := []bound{
		{"p", map[string]string{"a": "b1:c1:d"}},
		{"p", map[string]string{"a": "b", "c": "d"}},
		{"p", map[string]string{"a": "b", "c1": "d"}},
		{"p", map[string]string{"ab": "", "c": "d"}},
		{"p", map[string]string{"a": "b,c=d"}},
		{"p", map[string]string{"": "a"}},
		{"p", map[string]string{"a": ""}},
		{"pa", map[string]string{"": ""}},
		{"p", map[string]string{"": ""}},
		{"p", nil},
		{"p\x00", nil},
		{"p", map[string]string{"\x00": ""}},
		{"p", map[string]string{"a": "b\x00\x00\x00\x01c\x00\x00\x00\x01d"}},
	}
	key, h := secret.Random(KeySize), testHeader()
	for i, sealed := range all {
		blob := mustSeal(t, key, h, sealed.purpose, sealed.context, nil)
		for j, opened := range all {
			if i == j {
				if _, err := Open(key, opened.purpose, opened.context, blob); err != nil {
					t.Errorf("%q: %v", sealed, err)
				}
				continue
			}
			refused(t, fmt.Sprintf("%q as %q", sealed, opened), key, opened.purpose, opened.context, blob)
		}
	}
	// Fields of the header next to each other.
	a := Header{"e", h.Tenant, "k", 1}
	b := Header{"e1", h.Tenant, "k", 1}
	if bytes.HasPrefix(b.append(nil), a.append(nil)) {
		t.Error("one header is the beginning of another")
	}
}

func TestSaltsAndNoncesDiffer(t *testing.T) {
	t.Parallel()
	key, h := secret.Random(KeySize), testHeader()
	salts, nonces := map[string]bool{}, map[string]bool{}
	for range 2000 {
		blob := mustSeal(t, key, h, "p", nil, nil)
		_, n, _ := parse(blob)
		salts[string(blob[n:n+saltSize])] = true
		nonces[string(blob[n+saltSize+commitmentSize:][:nonceSize])] = true
	}
	if len(salts) != 2000 || len(nonces) != 2000 {
		t.Errorf("of 2000 messages: %d salts, %d nonces", len(salts), len(nonces))
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	key := secret.Random(KeySize)
	context := map[string]string{"canary-name": "canary-value"}
	blob := mustSeal(t, key, testHeader(), "canary-purpose", context, []byte("canary-plaintext"))
	blob[len(blob)-1] ^= 1
	_, err := Open(key, "canary-purpose", context, blob)
	_, err2 := Seal(secret.New([]byte("canary-key")), Header{Env: "canary", Key: "canary"}, "canary-purpose", context, []byte("canary"))
	for _, e := range []error{err, err2} {
		if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, "canary") || strings.Contains(text, hex.EncodeToString(key.Reveal())) {
			t.Errorf("the error tells too much: %s", text)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := vectorKey()
	for _, v := range readVectors(f) {
		f.Add([]byte(v.Blob), v.Purpose, "a", "b")
		f.Add([]byte(v.Blob[:len(v.Blob)/2]), v.Purpose, "a", "b")
	}
	f.Add([]byte{255}, "p", "", "")
	f.Add([]byte(prefix+"\xff"), "p", "", "")
	known := map[string]bool{}
	for _, v := range readVectors(f) {
		known[string(v.Blob)] = true
	}
	f.Fuzz(func(t *testing.T, blob []byte, purpose, name, value string) {
		h, err := Parse(blob)
		if err != nil && !errors.Is(err, errOpen) {
			t.Fatalf("Parse: %v", err)
		}
		if err == nil {
			if again := h.append(nil); !bytes.HasPrefix(blob, again) {
				t.Fatalf("%+v has two clear forms", h)
			}
		}
		opened, openErr := Open(key, purpose, map[string]string{name: value}, blob)
		if openErr == nil && !known[string(blob)] {
			t.Fatal("a blob opened that nobody sealed")
		}
		if openErr != nil && (!errors.Is(openErr, errOpen) || opened.Len() != 0) {
			t.Fatalf("Open: %v", openErr)
		}
		// What this input can be sealed as must open again, and only so.
		sealed, err := Seal(key, Header{"fuzz", tenant.Platform.String(), "k", 1}, purpose, map[string]string{name: value}, blob)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Fatal(err)
			}
			return
		}
		back, err := Open(key, purpose, map[string]string{name: value}, sealed)
		if err != nil || !bytes.Equal(back.Reveal(), blob) {
			t.Fatalf("not the same after Seal and Open: %v", err)
		}
		refused(t, "another context", key, purpose, map[string]string{name: value + "x"}, sealed)
	})
}

func BenchmarkSeal1KiB(b *testing.B) {
	key, h, plaintext := secret.Random(KeySize), testHeader(), make([]byte, 1024)
	context := map[string]string{"table": "users", "row": "17"}
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Seal(key, h, "bench", context, plaintext); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen1KiB(b *testing.B) {
	key, context := secret.Random(KeySize), map[string]string{"table": "users", "row": "17"}
	blob := mustSeal(b, key, testHeader(), "bench", context, make([]byte, 1024))
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(key, "bench", context, blob); err != nil {
			b.Fatal(err)
		}
	}
}
