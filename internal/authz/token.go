package authz

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// A revision token, format 1: base64url of
//
//	1 | epoch (8, big endian) | rev (8) | store (26) | HMAC-SHA-256 (first 16 bytes)
//
// The MAC covers a domain string and all bytes before it.
const (
	tokenVersion = 1
	storeLen     = 26
	tokenBody    = 1 + 8 + 8 + storeLen
	tokenMAC     = 16 // RFC 2104 section 5: no less than half of the hash
	tokenDomain  = "bulwark revision token 1\x00"
)

// strict refuses encodings other than the one that Token gives.
var strict = base64.RawURLEncoding.Strict()

// Token spells a revision for a caller to keep: the consistency token.
func (e *Engine) Token(rev relation.Revision) string {
	b := make([]byte, 0, tokenBody+tokenMAC)
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, rev.Epoch)
	b = binary.BigEndian.AppendUint64(b, rev.Rev)
	var store [storeLen]byte
	copy(store[:], rev.Store)
	b = append(b, store[:]...)
	return strict.EncodeToString(append(b, e.tokenMAC(b)...))
}

// ParseToken returns the revision that the token names. It must be one of this
// store's past: kind [fault.Invalid] for a token that is not ours or of another
// store, [fault.Conflict] for one of an earlier epoch (a restore undid it),
// [fault.Unavailable] for a revision that this process has not reached, and the
// errors of loading the store.
func (e *Engine) ParseToken(ctx context.Context, store relation.StoreID, token string) (relation.Revision, error) {
	rev, err := e.openToken(token)
	if err != nil {
		return relation.Revision{}, err
	}
	if rev.Store != store {
		return relation.Revision{}, fault.New(fault.Invalid, "the revision token belongs to another store")
	}
	if rev.Epoch != e.cfg.Epoch {
		return relation.Revision{}, fault.New(fault.Conflict, "the revision token is older than the last restore; read again without it")
	}
	_, snap, err := e.snapshot(ctx, store)
	if err != nil {
		return relation.Revision{}, err
	}
	if rev.Rev > snap.rev {
		return relation.Revision{}, fault.New(fault.Unavailable, "the revision is not here yet; try again")
	}
	return rev, nil
}

// openToken checks form and MAC.
func (e *Engine) openToken(token string) (relation.Revision, error) {
	wrong := fault.New(fault.Invalid, "this is not a revision token")
	if len(token) != strict.EncodedLen(tokenBody+tokenMAC) {
		return relation.Revision{}, wrong
	}
	b, err := strict.DecodeString(token)
	if err != nil || len(b) != tokenBody+tokenMAC || b[0] != tokenVersion {
		return relation.Revision{}, wrong
	}
	body, mac := b[:tokenBody], b[tokenBody:]
	if !hmac.Equal(mac, e.tokenMAC(body)) {
		return relation.Revision{}, wrong
	}
	id := string(body[17:])
	if !tenant.ValidID(id) {
		return relation.Revision{}, wrong
	}
	return relation.Revision{
		Epoch: binary.BigEndian.Uint64(body[1:]),
		Rev:   binary.BigEndian.Uint64(body[9:]),
		Store: relation.StoreID(id),
	}, nil
}

func (e *Engine) tokenMAC(body []byte) []byte {
	h := hmac.New(sha256.New, e.cfg.MAC.Reveal())
	h.Write([]byte(tokenDomain))
	h.Write(body)
	return h.Sum(nil)[:tokenMAC]
}
