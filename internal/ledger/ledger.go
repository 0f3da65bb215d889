// Package ledger is the form of the audit log: events, blocks, trees, proofs.
//
// Everything here is pure: bytes in, bytes out. The package audit does the
// reading and writing. Events are encoded in a small deterministic CBOR
// (RFC 8949 section 4.2.1), gathered into blocks with one RFC 6962 tree each,
// in which every tenant has a subtree of its own; a tenant's subtrees form a
// chain. Every block is one leaf of an outer RFC 6962 tree, whose head is a
// signed C2SP checkpoint. docs/spec/audit.md is the specification.
package ledger

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"

	"bulwark.example/internal/fault"
)

// Hash is a SHA-256 value of a tree.
type Hash = tlog.Hash

// Limits that every reader and writer keeps, so that memory stays bounded
// whatever the bytes say.
const (
	MaxEvent       = 16 << 10 // bytes of one encoded event
	MaxBlockEvents = 512      // events of one block
	MaxPayload     = 2 << 20  // bytes of a block's events, uncompressed
	MaxFrame       = 3 << 20  // bytes of a frame after its length and checksum
)

// Tag names a tenant's chain without naming the tenant: ids are random, so
// that only who knows an id can compute its tag.
type Tag [16]byte

const tagDomain = "bulwark audit tenant tag 1\x00"

// TagOf returns the tag of a tenant in the log that origin names.
func TagOf(origin, tenant string) Tag {
	h := sha256.New()
	h.Write([]byte(tagDomain))
	h.Write([]byte(origin))
	h.Write([]byte{0})
	h.Write([]byte(tenant))
	var t Tag
	copy(t[:], h.Sum(nil))
	return t
}

// corrupt is the one kind of error for stored bytes that do not parse.
func corrupt(text string) error { return fault.New(fault.Integrity, text) }

// root returns the RFC 6962 tree hash of the leaves' hashes.
func root(leaves []Hash) Hash {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	}
	k := split(len(leaves))
	return tlog.NodeHash(root(leaves[:k]), root(leaves[k:]))
}

// path returns the RFC 6962 inclusion path of leaf i, from the leaf upwards.
func path(leaves []Hash, i int) []Hash {
	if len(leaves) <= 1 {
		return nil
	}
	k := split(len(leaves))
	if i < k {
		return append(path(leaves[:k], i), root(leaves[k:]))
	}
	return append(path(leaves[k:], i-k), root(leaves[:k]))
}

// split returns the largest power of two below n, for n > 1.
func split(n int) int {
	k := 1
	for k<<1 < n {
		k <<= 1
	}
	return k
}
