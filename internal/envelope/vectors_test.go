package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"

	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

var update = flag.Bool("update", false, "write the golden files anew")

const golden = "testdata/format1.golden"

// hexBytes is written as hexadecimal in the golden file.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vector struct {
	Name       string            `json:"name"`
	Env        string            `json:"env"`
	Tenant     string            `json:"tenant"`
	Key        string            `json:"key"`
	Version    uint32            `json:"version"`
	Purpose    string            `json:"purpose"`
	Context    map[string]string `json:"context"`
	Plaintext  hexBytes          `json:"plaintext"`
	Salt       hexBytes          `json:"salt"`
	Nonce      hexBytes          `json:"nonce"`
	Info       hexBytes          `json:"info"`
	Commitment hexBytes          `json:"commitment"`
	Blob       hexBytes          `json:"blob"`
}

// vectorKey is the key version of all vectors, the bytes 0 to 31: plainly no
// secret, and made here so that no key lies in the repository.
func vectorKey() secret.Bytes {
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	return secret.New(key)
}

// reference seals by docs/spec/envelope.md with a salt and a nonce of the
// caller's choice. It shares no line with the product: HKDF is written out with
// HMAC, and the cipher takes its nonce. Only tests can choose a nonce.
func reference(key []byte, v *vector) {
	str := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	mac := func(k, data []byte) []byte {
		h := hmac.New(sha256.New, k)
		h.Write(data)
		return h.Sum(nil)
	}
	header := []byte("BWE\x01")
	for _, s := range []string{v.Env, v.Tenant, v.Key} {
		header = append(append(header, byte(len(s))), s...)
	}
	header = binary.BigEndian.AppendUint32(header, v.Version)

	info := slices.Concat(header, str(v.Purpose), binary.BigEndian.AppendUint32(nil, uint32(len(v.Context))))
	var names []string
	for name := range v.Context {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		info = slices.Concat(info, str(name), str(v.Context[name]))
	}

	prk := mac(v.Salt, key)
	t1 := mac(prk, append(bytes.Clone(info), 1))
	t2 := mac(prk, slices.Concat(t1, info, []byte{2}))
	block, err := aes.NewCipher(t2)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	sealed := gcm.Seal(nil, v.Nonce, v.Plaintext, slices.Concat(header, info))
	v.Info, v.Commitment = info, t1
	v.Blob = slices.Concat(header, v.Salt, t1, v.Nonce, sealed)
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	raw, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(raw, &vs); err != nil {
		t.Fatal(err)
	}
	return vs
}

// All later versions must open these blobs.
func TestGoldenVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	vs := readVectors(t)
	if len(vs) < 4 {
		t.Fatalf("only %d vectors", len(vs))
	}
	for _, v := range vs {
		got, err := Open(vectorKey(), v.Purpose, v.Context, v.Blob)
		if err != nil || !bytes.Equal(got.Reveal(), v.Plaintext) {
			t.Errorf("%s: %v", v.Name, err)
		}
		h, err := Parse(v.Blob)
		if want := (Header{v.Env, v.Tenant, v.Key, v.Version}); err != nil || h != want {
			t.Errorf("%s: Parse = %+v, %v; want %+v", v.Name, h, err, want)
		}
		again := v
		reference(vectorKey().Reveal(), &again)
		if !bytes.Equal(again.Blob, v.Blob) || !bytes.Equal(again.Info, v.Info) || !bytes.Equal(again.Commitment, v.Commitment) {
			t.Errorf("%s: the specification's steps give another blob", v.Name)
		}
	}
}

func writeVectors(t *testing.T) {
	fill := func(b byte, n int) hexBytes { return bytes.Repeat([]byte{b}, n) }
	long := map[string]string{}
	for i := range 26 {
		long[string(rune('z'-i))] = string(rune('a' + i))
	}
	vs := []vector{
		{Name: "empty plaintext, no context", Env: "dev", Tenant: tenant.Platform.String(), Key: "k", Version: 1, Purpose: "p", Plaintext: hexBytes{}, Salt: fill(0xa0, 32), Nonce: fill(0xb0, 12)},
		{Name: "one pair", Env: "dev", Tenant: tenant.Platform.String(), Key: "k", Version: 1, Purpose: "p", Context: map[string]string{"a": "b"}, Plaintext: hexBytes("hello"), Salt: fill(0xa1, 32), Nonce: fill(0xb1, 12)},
		{Name: "the tenant's own key, later version", Env: "prod-eu-1", Tenant: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Key: "documents/title", Version: 4294967295, Purpose: "field", Context: map[string]string{"table": "documents", "row": "roadmap", "": ""}, Plaintext: hexBytes("Zürich"), Salt: fill(0xa2, 32), Nonce: fill(0xb2, 12)},
		{Name: "pairs are sorted by bytes", Env: "dev", Tenant: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Key: "k", Version: 2, Purpose: "p", Context: long, Plaintext: fill(0xcc, 100), Salt: fill(0xa3, 32), Nonce: fill(0xb3, 12)},
		{Name: "colons in a value", Env: "dev", Tenant: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Key: "k", Version: 2, Purpose: "p", Context: map[string]string{"a": "b1:c1:d"}, Plaintext: hexBytes("x"), Salt: fill(0xa4, 32), Nonce: fill(0xb4, 12)},
	}
	for i := range vs {
		reference(vectorKey().Reveal(), &vs[i])
	}
	out, err := json.MarshalIndent(vs, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(golden, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// An invisible salamander: one AES-GCM ciphertext whose tag is right under two
// keys (Dodis, Grubbs, Ristenpart, Woodage: Fast Message Franking, CRYPTO
// 2018). Crafting it is a linear equation over GF(2^128). The test shows that
// GCM by itself takes it under both keys, and that the envelope does not.
func TestSalamanderIsRefused(t *testing.T) {
	t.Parallel()
	h := testHeader()
	keys := []secret.Bytes{secret.Random(KeySize), secret.Random(KeySize)}
	salt, nonce := secret.Random(saltSize).Reveal(), secret.Random(nonceSize).Reveal()

	header := h.append(nil)
	var aeads []cipher.AEAD
	var blocks []cipher.Block
	var commitments [][]byte
	var aad []byte
	for _, key := range keys {
		okm := referenceOKM(key.Reveal(), salt, appendInfo(nil, header, "p", nil))
		block, err := aes.NewCipher(okm[commitmentSize:])
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		blocks, aeads, commitments = append(blocks, block), append(aeads, aead), append(commitments, okm[:commitmentSize])
		d, err := derive(key, header, salt, "p", nil)
		if err != nil {
			t.Fatal(err)
		}
		aad = d.aad(header)
	}

	sealed := salamander(blocks[0], blocks[1], nonce, aad)
	for i, aead := range aeads {
		if _, err := aead.Open(nil, nonce, sealed, aad); err != nil {
			t.Fatalf("the salamander is not one: key %d: %v", i, err)
		}
	}
	for i := range keys {
		blob := slices.Concat(header, salt, commitments[i], nonce, sealed)
		if _, err := Open(keys[i], "p", nil, blob); err != nil {
			t.Errorf("under the key that it commits to, the blob must open: %v", err)
		}
		refused(t, "the other key", keys[1-i], "p", nil, blob)
	}
	mixed := slices.Concat(header, salt, commitments[0][:16], commitments[1][16:], nonce, sealed)
	refused(t, "half a commitment each", keys[0], "p", nil, mixed)
	refused(t, "half a commitment each", keys[1], "p", nil, mixed)
}

func referenceOKM(key, salt, info []byte) []byte {
	mac := func(k, data []byte) []byte {
		h := hmac.New(sha256.New, k)
		h.Write(data)
		return h.Sum(nil)
	}
	prk := mac(salt, key)
	t1 := mac(prk, append(bytes.Clone(info), 1))
	return append(bytes.Clone(t1), mac(prk, slices.Concat(t1, info, []byte{2}))...)
}

// salamander returns one 16-byte ciphertext block with a tag that is right
// under both ciphers: GHASH is linear, so the block C solves
// C·H1² ⊕ T1 = C·H2² ⊕ T2, where Ti holds all that does not depend on C.
func salamander(b1, b2 cipher.Block, nonce, aad []byte) []byte {
	side := func(b cipher.Block) (square, rest gf) {
		hash := encryptBlock(b, make([]byte, 16))
		h := load(hash)
		y := gf{}
		padded := append(bytes.Clone(aad), make([]byte, (16-len(aad)%16)%16)...)
		for i := 0; i < len(padded); i += 16 {
			y = mul(y.xor(load(padded[i:i+16])), h)
		}
		lengths := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(len(aad))*8), 128)
		// tag = ((y ⊕ C)·H ⊕ lengths)·H ⊕ E(counter 1)
		square = mul(h, h)
		rest = mul(y, square).xor(mul(load(lengths), h)).xor(load(encryptBlock(b, append(bytes.Clone(nonce), 0, 0, 0, 1))))
		return square, rest
	}
	s1, r1 := side(b1)
	s2, r2 := side(b2)
	c := mul(r1.xor(r2), inverse(s1.xor(s2)))
	tag := mul(c, s1).xor(r1)
	return append(c.store(), tag.store()...)
}

func encryptBlock(b cipher.Block, in []byte) []byte {
	out := make([]byte, 16)
	b.Encrypt(out, in)
	return out
}

// gf is an element of GCM's field in GCM's bit order (SP 800-38D section 6.3).
type gf struct{ hi, lo uint64 }

func load(b []byte) gf {
	return gf{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a gf) store() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.hi), a.lo)
}

func (a gf) xor(b gf) gf { return gf{a.hi ^ b.hi, a.lo ^ b.lo} }

func mul(a, b gf) gf {
	var z gf
	for i := range 128 {
		bit := a.hi >> (63 - i%64) & 1
		if i >= 64 {
			bit = a.lo >> (127 - i) & 1
		}
		if bit == 1 {
			z = z.xor(b)
		}
		carry := b.lo & 1
		b.lo = b.lo>>1 | b.hi<<63
		b.hi >>= 1
		if carry == 1 {
			b.hi ^= 0xe1 << 56
		}
	}
	return z
}

// inverse is a^(2^128-2).
func inverse(a gf) gf {
	result := gf{1 << 63, 0} // one
	for range 127 {
		a = mul(a, a)
		result = mul(result, a)
	}
	return result
}
