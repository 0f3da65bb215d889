package oidc_test

import (
	"testing"

	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// The client's own signature is part of these numbers, as it is of the work.
func BenchmarkClientCredentials(b *testing.B) {
	c := newChain(b)
	c.grant(tenant.Platform, "notes", "billing", true, "read")
	for b.Loop() {
		c.token(c.as(c.notes.ID, "grant_type", "client_credentials", "tenant", "acme", "audience", "billing"))
	}
}

func BenchmarkExchange(b *testing.B) {
	c := newChain(b)
	token := c.mint(c.notes.ID, 0, "read")
	for b.Loop() {
		c.token(c.exchange(c.notes, token, sts.TypeAccessToken, "billing"))
	}
}
