package admin_test

import (
	"testing"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// Who is put out cannot come back by a code that they made just before.
func TestInviteDiesWithItsMaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	boss, open := w.as("administrator@acme"), admin.NewClient(admin.ClientConfig{URL: w.URL, HTTP: w.Client()})
	_, jwk := publicKey(t)
	used := got[admin.Invite](t)(boss.Invite(ctx, admin.NewInvite{Role: "administrator"}))
	kept := got[admin.Invite](t)(boss.Invite(ctx, admin.NewInvite{Role: "administrator"}))
	got[admin.Enrolled](t)(open.Enrol(ctx, admin.Enrol{Code: used.Code, Name: "bea", Key: jwk}))
	must(t, w.Directory.SetUserState(ctx, ledger.Event{Subject: "system"}, w.Acme.Tenant, w.ID("administrator@acme"), directory.Suspended))
	_, err := open.Enrol(ctx, admin.Enrol{Code: kept.Code, Name: "eve", Key: jwk})
	wantKind(t, err, fault.Denied)
}
