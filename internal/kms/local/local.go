// Package local is a root key in a file that a passphrase seals.
//
// The file is a short header in clear, then an age file (https://age-encryption.org/v1)
// with a scrypt recipient whose plaintext repeats the header before the key, so
// that an edited header is found out. docs/spec/envelope.md is the
// specification. The opened key stays in memory for the life of the process.
package local

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

const (
	maxFile = 4096

	// Work factors are the logarithm of scrypt's N. 18 is age's default: about
	// a second and 256 MiB. dev's passphrase lies beside the file, so more work
	// would protect nothing; it must be ready in a moment.
	workFactor    = 18
	devWorkFactor = 12
	maxWorkFactor = 20 // a doctored file must not cost more than a GiB

	purposeKEK = "kek"
)

// Root is an opened root key. It is immutable and safe for concurrent use. It
// implements kms.Root.
type Root struct {
	// A closure: fmt prints the unexported fields of a struct without asking
	// their methods, through pointers too, but cannot look into a function.
	key func() secret.Bytes
	header
}

func newRoot(key secret.Bytes, h header) *Root {
	return &Root{func() secret.Bytes { return key }, h}
}

// header is the clear part of the file.
type header struct {
	env         string
	dev         bool
	fingerprint string
}

// Config says what a new root key is for.
type Config struct {
	Env        string // [envelope.ValidEnv]
	Dev        bool   // sealed into the key for good; see DESIGN rule 11
	WorkFactor int    // log2 of scrypt's N, at most 20; 0 is 18, and 12 for dev
}

// Create makes a random root key and seals it into a new file at path, mode
// 0600. When it returns without error, the file and its name are on the disk.
// When it fails or the machine stops, there is a whole file of that name or
// none. An existing file is never overwritten.
//
// Errors: [fault.Conflict] when path exists, [fault.Invalid] for an empty
// passphrase or a Config out of form, [fault.Unavailable] from the file system.
func Create(path string, passphrase secret.Bytes, c Config) (*Root, error) {
	switch {
	case passphrase.Len() == 0:
		return nil, fault.New(fault.Invalid, "the passphrase of the root key is empty")
	case !envelope.ValidEnv(c.Env):
		return nil, fault.New(fault.Invalid, "an environment is 1 to 32 lower-case letters, digits and hyphens")
	case c.WorkFactor < 0 || c.WorkFactor > maxWorkFactor:
		return nil, fault.New(fault.Invalid, "the work factor is at most 20")
	}
	if c.WorkFactor == 0 {
		c.WorkFactor = workFactor
		if c.Dev {
			c.WorkFactor = devWorkFactor
		}
	}
	key := secret.Random(envelope.KeySize)
	name, err := fingerprint(key)
	if err != nil {
		return nil, err
	}
	r := newRoot(key, header{c.Env, c.Dev, name})
	sealed, err := r.seal(passphrase, c.WorkFactor)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the root key cannot be sealed", err)
	}
	if err := writeNew(path, sealed); errors.Is(err, fs.ErrExist) {
		return nil, fault.New(fault.Conflict, "there is a root key file already; it is never overwritten")
	} else if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the root key file cannot be written", err)
	}
	return r, nil
}

// Open opens the file at path.
//
// Errors: [fault.NotFound] when there is no such file, [fault.Denied] for a
// wrong passphrase, [fault.Integrity] for a file that is cut, edited or no
// root key file, [fault.Unavailable] when it cannot be read.
func Open(path string, passphrase secret.Bytes) (*Root, error) {
	raw, err := readCapped(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "there is no root key file; `bulwark init` makes one")
	} else if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the root key file cannot be read", err)
	}
	return open(raw, passphrase)
}

func open(raw []byte, passphrase secret.Bytes) (*Root, error) {
	h, n, ok := parse(raw)
	if !ok {
		return nil, fault.New(fault.Integrity, "this is not a root key file, or its beginning is damaged")
	}
	if passphrase.Len() == 0 {
		return nil, errPassphrase
	}
	identity, err := age.NewScryptIdentity(string(passphrase.Reveal()))
	if err != nil {
		return nil, errPassphrase
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	// age's own errors stay out of ours: they quote the file.
	plain, err := age.Decrypt(bytes.NewReader(raw[n:]), identity)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, errPassphrase
	} else if err != nil {
		return nil, errDamaged
	}
	// One byte more than expected, so that the end of the file is verified.
	opened, err := io.ReadAll(io.LimitReader(plain, int64(n+envelope.KeySize+1)))
	defer clear(opened)
	if err != nil || len(opened) < envelope.KeySize {
		return nil, errDamaged
	}
	inside, key := opened[:len(opened)-envelope.KeySize], secret.New(bytes.Clone(opened[len(opened)-envelope.KeySize:]))
	name, err := fingerprint(key)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(inside, raw[:n]) || name != h.fingerprint {
		return nil, fault.New(fault.Integrity, "the root key file's first lines are not those that were sealed with the key")
	}
	return newRoot(key, h), nil
}

var (
	errPassphrase = fault.New(fault.Denied, "the passphrase does not open the root key file")
	errDamaged    = fault.New(fault.Integrity, "the root key file is damaged or cut")
)

// seal returns the whole file.
func (r *Root) seal(passphrase secret.Bytes, work int) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(string(passphrase.Reveal()))
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(work)
	head := r.header.String()
	out := bytes.NewBufferString(head)
	w, err := age.Encrypt(out, recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write([]byte(head)); err != nil {
		return nil, err
	}
	if _, err := w.Write(r.key().Reveal()); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Wrap seals a KEK. It implements kms.Root; errors are those of [envelope.Seal].
func (r *Root) Wrap(_ context.Context, plaintext secret.Bytes, aad map[string]string) ([]byte, error) {
	return envelope.Seal(r.key(), r.blobHeader(), purposeKEK, aad, plaintext.Reveal())
}

// Unwrap opens what Wrap gave for the same aad; the error is that of [envelope.Open].
func (r *Root) Unwrap(_ context.Context, wrapped []byte, aad map[string]string) (secret.Bytes, error) {
	return envelope.Open(r.key(), purposeKEK, aad, wrapped)
}

// blobHeader names the root key in what it wraps. The root belongs to the
// platform; the KEK's tenant is in the aad.
func (r *Root) blobHeader() envelope.Header {
	return envelope.Header{Env: r.env, Tenant: tenant.Platform.String(), Key: "root-" + r.fingerprint, Version: 1}
}

// Fingerprint returns 32 hexadecimal digits that name the key and tell nothing
// about it.
func (r *Root) Fingerprint() string { return r.fingerprint }

// Env returns the environment that the key was made for.
func (r *Root) Env() string { return r.env }

// Dev reports whether the key was made by `bulwark dev`.
func (r *Root) Dev() bool { return r.dev }

// String names the key without showing it.
func (r *Root) String() string { return "root key " + r.fingerprint }

// fingerprint derives the name by HKDF-SHA-256 with an info that no envelope has.
func fingerprint(key secret.Bytes) (string, error) {
	b, err := hkdf.Key(sha256.New, key.Reveal(), nil, "BWF\x01", 16)
	if err != nil {
		return "", fault.Wrap(fault.Internal, "key derivation failed", err)
	}
	return hex.EncodeToString(b), nil
}

// String is the clear part: five lines, the last one empty.
func (h header) String() string {
	return fmt.Sprintf("bulwark-root/1\nenv: %s\ndev: %t\nfingerprint: %s\n\n", h.env, h.dev, h.fingerprint)
}

// parse reads the clear part and returns its length. There is one way to write
// a header: whatever String would not write is refused.
func parse(raw []byte) (h header, n int, ok bool) {
	head, _, found := strings.Cut(string(raw[:min(len(raw), maxFile)]), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) != 4 {
		return header{}, 0, false
	}
	h.env = strings.TrimPrefix(lines[1], "env: ")
	h.dev = lines[2] == "dev: true"
	h.fingerprint = strings.TrimPrefix(lines[3], "fingerprint: ")
	digits, err := hex.DecodeString(h.fingerprint)
	if err != nil || len(digits) != 16 || !envelope.ValidEnv(h.env) || h.String() != head+"\n\n" {
		return header{}, 0, false
	}
	return h, len(head) + 2, true
}

func readCapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// writeNew puts the bytes under a temporary name, syncs them and links them to
// path: link fails where rename would replace. The temporary name begins with
// a dot; one that a stopped machine leaves behind is sealed like the file.
func writeNew(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".root-*") // O_EXCL, mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name()), syncDir(dir)) }()
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
