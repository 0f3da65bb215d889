// Package archive is the form of one store outside of Bulwark: what a backup writes, a restore reads.
//
// An archive is gzip over lines of JSON: a header that counts what follows, the
// versions of the model, the assertions, the tenant's own roles and policies, the
// tuples in the order of their keys, and the SHA-256 of all lines before it (docs/spec/archive.md). Both sides
// stream: no more than one tuple is in memory. A [Reader] gives nothing that is
// not as it was written up to there, and only its end says that all of it was:
// whoever stores what it gives reads it to the end once before.
package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Format is what an archive calls itself, Version the newest one that is
// written and read.
const (
	Format  = "bulwark store archive"
	Version = 1
)

// Bounds of what is read, and so of what is written. A line holds a model, whose
// JSON is larger than its text, or a tuple with a condition's context.
const (
	maxHeader  = 4 << 10 // it goes into the audit log, whose events are small
	maxLine    = 4 << 20
	maxModels  = 10_000
	maxSources = 64 << 20 // bytes of all lines between the header and the tuples
	maxTuples  = 1 << 30
)

// Header is the first line.
type Header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`

	Store       relation.StoreID `json:"store"`
	Kind        string           `json:"kind"` // "default" or "free"
	Name        string           `json:"name,omitempty"`
	Application string           `json:"application,omitempty"` // of a default store
	Epoch       uint64           `json:"epoch"`
	Revision    uint64           `json:"revision"` // everything is as it was at this one
	Made        time.Time        `json:"made"`

	Models     int `json:"models"`
	Assertions int `json:"assertions"`
	Roles      int `json:"roles"`
	Policies   int `json:"policies"`
	Tuples     int `json:"tuples"`
}

// Model is one version of the store's model.
type Model struct {
	ID      string    `json:"model"`
	Active  bool      `json:"active"`
	Created time.Time `json:"created"`
	Source  string    `json:"source"`
}

// Assertions are what the answers by one version of the model must be, in the
// form in which the store keeps them.
type Assertions struct {
	Model   string `json:"assertions"`
	Payload []byte `json:"payload"`
}

// Role is a role that the tenant made for a default store, as its engine spells it.
type Role struct {
	Role json.RawMessage `json:"role"`
}

// Policies is a file of the guard policies that the tenant added in a default store.
type Policies struct {
	Name string `json:"policies"`
	Text string `json:"text"`
}

// end is the last line.
type end struct {
	SHA256 string `json:"sha256"`
}

// Writer writes an archive. It belongs to one goroutine.
type Writer struct {
	zip  *gzip.Writer
	out  *bufio.Writer
	sum  hash.Hash
	size tally // of the lines so far
	json *json.Encoder
	last relation.Tuple
	todo [5]int // models, assertions, roles, policies, tuples still to come
}

// tally counts the bytes that pass.
type tally struct {
	w io.Writer
	n int
}

func (t *tally) Write(b []byte) (int, error) {
	n, err := t.w.Write(b)
	t.n += n
	return n, err
}

// NewWriter begins an archive. The header's counts are promises: what follows
// must be as many of each kind, in this order. Kind [fault.TooLarge], here and
// from the methods, for what a [Reader] would refuse.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Format, h.Version = Format, Version
	if h.over() {
		return nil, errTooMuch
	}
	a := &Writer{sum: sha256.New(), todo: [5]int{h.Models, h.Assertions, h.Roles, h.Policies, h.Tuples}}
	a.zip, _ = gzip.NewWriterLevel(w, gzip.BestSpeed) // a level that exists
	a.out = bufio.NewWriterSize(io.MultiWriter(a.zip, a.sum), 64<<10)
	a.size.w = a.out
	a.json = json.NewEncoder(&a.size)
	a.json.SetEscapeHTML(false)
	if err := a.line(h); err != nil {
		return nil, err
	}
	if a.size.n > maxHeader {
		return nil, errTooMuch
	}
	a.size.n = 0
	return a, nil
}

var errTooMuch = fault.New(fault.TooLarge, "the store holds more beside its tuples than an archive can: 64 MiB, 10,000 of each kind, 4 MiB in one piece")

// over reports whether there is more than an archive holds.
func (h Header) over() bool {
	return max(h.Models, h.Assertions, h.Roles, h.Policies) > maxModels || h.Tuples > maxTuples
}

func (a *Writer) line(v any) error {
	if err := a.json.Encode(v); err != nil {
		return fault.Wrap(fault.Unavailable, "the archive cannot be written", err)
	}
	return nil
}

// entry adds a line that is no tuple.
func (a *Writer) entry(kind int, v any) error {
	if err := a.due(kind); err != nil {
		return err
	}
	before := a.size.n
	if err := a.line(v); err != nil {
		return err
	}
	if a.size.n > maxSources || a.size.n-before > maxLine {
		return errTooMuch
	}
	return nil
}

// due takes one of the promised entries.
func (a *Writer) due(kind int) error {
	for i, n := range a.todo {
		if i < kind && n != 0 || i == kind && n == 0 {
			return fault.New(fault.Internal, "an archive gets other entries than its header says")
		}
	}
	a.todo[kind]--
	return nil
}

// Model adds a version of the model.
func (a *Writer) Model(m Model) error { return a.entry(0, m) }

// Assertions adds the assertions of a version of the model.
func (a *Writer) Assertions(s Assertions) error { return a.entry(1, s) }

// Role adds a role of the tenant's own.
func (a *Writer) Role(r Role) error { return a.entry(2, r) }

// Policies adds a file of the tenant's own policies.
func (a *Writer) Policies(p Policies) error { return a.entry(3, p) }

// Tuple adds a tuple. They must come in the order of their keys.
func (a *Writer) Tuple(t relation.Tuple) error {
	if err := a.due(4); err != nil {
		return err
	}
	if !follows(t, a.last) {
		return fault.New(fault.Internal, "the tuples of an archive are not in order")
	}
	a.last = t
	return a.line(t)
}

// Close ends the archive and returns its digest: the SHA-256, in hexadecimal,
// that its last line holds. What it was written to stays open.
func (a *Writer) Close() (digest string, err error) {
	if a.todo != [5]int{} {
		return "", fault.New(fault.Internal, "an archive has fewer entries than its header says")
	}
	if err := a.out.Flush(); err != nil {
		return "", fault.Wrap(fault.Unavailable, "the archive cannot be written", err)
	}
	digest = hex.EncodeToString(a.sum.Sum(nil))
	if err := a.line(end{digest}); err != nil {
		return "", err
	}
	if err := cmp.Or(a.out.Flush(), a.zip.Close()); err != nil {
		return "", fault.Wrap(fault.Unavailable, "the archive cannot be written", err)
	}
	return digest, nil
}

func follows(a, b relation.Tuple) bool {
	return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Relation, b.Relation), cmp.Compare(a.Subject, b.Subject)) > 0
}

// Reader reads an archive. It belongs to one goroutine. Errors have kind
// [fault.Invalid] and say in which line; [fault.Unsupported] for a version that
// is newer than this program. A [fault.Error] of what is read comes back as it is.
type Reader struct {
	Header     Header
	Models     []Model
	Assertions []Assertions
	Roles      []Role
	Policies   []Policies

	size   int // bytes of their lines
	zip    *gzip.Reader
	raw    *bufio.Reader // below zip: nothing may follow it
	in     *bufio.Reader
	sum    hash.Hash
	number int // of the last line
	left   int // tuples still to come
	last   relation.Tuple
	digest string
}

// NewReader reads everything before the tuples.
func NewReader(r io.Reader) (*Reader, error) {
	a := &Reader{raw: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	var err error
	if a.zip, err = gzip.NewReader(a.raw); err != nil {
		return nil, outside(err, fault.Wrap(fault.Invalid, "this is no archive of a store: it is not compressed with gzip", err))
	}
	a.zip.Multistream(false)
	a.in = bufio.NewReaderSize(a.zip, 64<<10)
	if err := a.header(); err != nil {
		return nil, err
	}
	if a.Models, err = entries(a, a.Header.Models, func(m *Model) string { return m.ID }); err != nil {
		return nil, err
	}
	if a.Assertions, err = entries(a, a.Header.Assertions, func(s *Assertions) string { return s.Model }); err != nil {
		return nil, err
	}
	if a.Roles, err = entries(a, a.Header.Roles, func(r *Role) string { return string(r.Role) }); err != nil {
		return nil, err
	}
	if a.Policies, err = entries(a, a.Header.Policies, func(p *Policies) string { return p.Name }); err != nil {
		return nil, err
	}
	a.left = a.Header.Tuples
	return a, nil
}

// entries reads n entries of a kind, each with a name. They stay in memory, all
// that is in their lines at most.
func entries[T any](a *Reader, n int, name func(*T) string) ([]T, error) {
	var all []T
	seen := map[string]bool{}
	for range n {
		raw, err := a.line()
		if err != nil {
			return nil, err
		}
		if a.size += len(raw); a.size > maxSources {
			return nil, fault.New(fault.Invalid, "the archive holds more beside its tuples than 64 MiB")
		}
		var v T
		if err := a.decode(raw, &v); err != nil {
			return nil, err
		}
		switch n := name(&v); {
		case n == "":
			return nil, a.wrong("is not what the header promises", nil)
		case seen[n]:
			return nil, a.wrong("is about what one before it is: it is there twice", nil)
		default:
			seen[n] = true
		}
		all = append(all, v)
	}
	return all, nil
}

// header reads the first line. Its version is looked at before its members:
// another version may have others.
func (a *Reader) header() error {
	raw, err := a.line()
	if err != nil {
		return err
	}
	var what struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(raw, &what); err != nil || what.Format != Format || what.Version < 1 {
		return fault.Wrap(fault.Invalid, "this is no archive of a store", err)
	}
	if what.Version > Version {
		return fault.New(fault.Unsupported, fmt.Sprintf("the archive has version %d, and this program reads up to %d; use a newer one", what.Version, Version))
	}
	if len(raw) > maxHeader {
		return a.wrong("is longer than a header", nil)
	}
	if err := a.decode(raw, &a.Header); err != nil {
		return err
	}
	h := a.Header
	if min(h.Models, h.Assertions, h.Roles, h.Policies, h.Tuples) < 0 || h.over() {
		return a.wrong("counts what no archive holds", nil)
	}
	return nil
}

// line returns the next line, which is valid until the one after it. It takes
// part in the digest.
func (a *Reader) line() ([]byte, error) {
	a.number++
	raw, err := a.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		long := bytes.Clone(raw)
		for err == bufio.ErrBufferFull && len(long) <= maxLine {
			raw, err = a.in.ReadSlice('\n')
			long = append(long, raw...)
		}
		raw = long
	}
	if err != nil {
		return nil, outside(err, a.wrong("is not there whole: the archive is torn or damaged", err))
	}
	return raw, nil
}

func (a *Reader) decode(raw []byte, into any) error {
	a.sum.Write(raw)
	return a.strict(raw, into)
}

func (a *Reader) strict(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil && dec.InputOffset() != int64(len(raw)-1) {
		err = fmt.Errorf("%d bytes follow the value", int64(len(raw)-1)-dec.InputOffset())
	}
	if err != nil {
		return a.wrong("is not what the header promises", err)
	}
	return nil
}

// outside returns err if it is none of the archive's, otherwise what it means.
func outside(err, means error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	return means
}

func (a *Reader) wrong(what string, cause error) error {
	return fault.Wrap(fault.Invalid, fmt.Sprintf("line %d of the archive %s", a.number, what), cause)
}

// Next returns the next tuple; [io.EOF] after the last one, once the digest
// was found to be right. Its form is valid, and its key follows the one before.
func (a *Reader) Next() (relation.Tuple, error) {
	if a.left == 0 {
		return relation.Tuple{}, a.finish()
	}
	raw, err := a.line()
	if err != nil {
		return relation.Tuple{}, err
	}
	var t relation.Tuple
	if err := a.decode(raw, &t); err != nil {
		return relation.Tuple{}, err
	}
	if err := t.Validate(); err != nil {
		return relation.Tuple{}, a.wrong("holds no tuple: "+fault.Public(err), err)
	}
	if !follows(t, a.last) {
		return relation.Tuple{}, a.wrong("holds a tuple out of order", nil)
	}
	a.left--
	a.last = t
	return t, nil
}

// Digest returns the archive's digest once [Reader.Next] has said io.EOF.
func (a *Reader) Digest() string { return a.digest }

func (a *Reader) finish() error {
	if a.digest != "" {
		return io.EOF
	}
	want := hex.EncodeToString(a.sum.Sum(nil))
	raw, err := a.line()
	if err != nil {
		return err
	}
	var e end
	if err := a.strict(raw, &e); err != nil {
		return err
	}
	if e.SHA256 != want {
		return fault.New(fault.Invalid, "the archive's digest is another than that of its lines: it was changed or damaged")
	}
	// The end of the compressed stream has a sum of its own, and nothing follows.
	if n, err := io.Copy(io.Discard, io.LimitReader(a.in, 1)); n != 0 || err != nil {
		return fault.Wrap(fault.Invalid, "something follows the end of the archive, or it is torn", err)
	}
	if _, err := a.raw.ReadByte(); err != io.EOF {
		return fault.Wrap(fault.Invalid, "something follows the end of the archive", err)
	}
	a.digest = want
	return io.EOF
}
