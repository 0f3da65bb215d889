package ledger

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/fault"
)

// Checkpoint is the head of a log: https://c2sp.org/tlog-checkpoint.
type Checkpoint struct {
	Origin string // the log's name, which is also the signer's
	Size   uint64 // leaves of the outer tree
	Root   Hash
}

// MaxCheckpoint bounds a signed checkpoint, in bytes.
const MaxCheckpoint = 64 << 10

// Text returns the unsigned body.
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Sign returns the checkpoint as a signed note. The error has kind
// [fault.Internal].
func (c Checkpoint) Sign(s note.Signer) ([]byte, error) {
	b, err := note.Sign(&note.Note{Text: c.Text()}, s)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the checkpoint cannot be signed", err)
	}
	return b, nil
}

// ParseCheckpoint verifies a signed checkpoint and reads it. Further
// signatures (of witnesses) and extension lines are allowed. The error has
// kind [fault.Integrity].
func ParseCheckpoint(signed []byte, v note.Verifier) (Checkpoint, error) {
	var c Checkpoint
	if len(signed) > MaxCheckpoint {
		return c, corrupt("the checkpoint is too large")
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return c, fault.Wrap(fault.Integrity, "the signature of the checkpoint does not verify", err)
	}
	for _, sig := range n.Sigs { // one signature, one form
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return c, corrupt("the signature of the checkpoint is not in canonical form")
		}
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 || lines[0] != v.Name() {
		return c, corrupt("the checkpoint is not one of this log")
	}
	size, err := parseSize(lines[1])
	if err != nil {
		return c, err
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(raw) != len(c.Root) {
		return c, corrupt("the checkpoint has no proper root")
	}
	c.Origin, c.Size = lines[0], size
	copy(c.Root[:], raw)
	return c, nil
}

func parseSize(s string) (uint64, error) {
	size, err := strconv.ParseUint(s, 10, 64)
	if err != nil || size > math.MaxInt64 || strconv.FormatUint(size, 10) != s {
		return 0, corrupt("the checkpoint has no proper size")
	}
	return size, nil
}

// HeadSize returns the size that a checkpoint states, without verifying it:
// for a reader that only needs to know how far to read. The error has kind
// [fault.Integrity].
func HeadSize(signed []byte) (uint64, error) {
	lines := strings.SplitN(string(signed), "\n", 3)
	if len(lines) < 3 {
		return 0, corrupt("the checkpoint has no proper size")
	}
	return parseSize(lines[1])
}
