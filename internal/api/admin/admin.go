// Package admin is the admin API: the server with the client of one contract.
//
// The table below is the contract; docs/spec/admin-openapi.yaml describes it and
// a test compares the two. Every route but the one open door passes the guard
// for the audience "admin" and needs a relation on the system object of the
// caller's own tenant. The tenant is always the credential's: no path, body or
// query can name another, and what belongs to another tenant answers like what
// does not exist. Operators have the platform's routes and nothing else.
//
// What is recorded: a change commits with one audit event, the one that the
// guard began. A refused or failed change is an event of class deny whose reason
// is the kind of the fault. A read is of class admin-read and on the disk
// before the answer leaves. An event that cannot be written is a refusal.
package admin

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// effect says what a route does to the world.
type effect string

const (
	reads   effect = "reads"
	changes effect = "changes"
	opens   effect = "opens" // the door without a credential
)

// route is one row of the contract.
type route struct {
	effect   effect
	method   string
	pattern  string // below Base
	action   string // noun.verb: the audit log's action and OpenAPI's operationId
	relation string // needed on the own tenant's system object; empty: being authenticated
	platform bool   // only principals of the platform
	handle   func(*server, *call) (answer, error)
}

// Base is the path that all routes begin with.
const Base = "/admin/v1"

func table() []route {
	const own, platform = false, true
	return []route{
		{reads, "GET", "/self", "self.get", "", own, getSelf},

		{changes, "POST", "/tenants", "tenant.create", "can_create_tenant", platform, createTenant},
		{reads, "GET", "/tenants", "tenant.list", "can_create_tenant", platform, listTenants},
		{reads, "GET", "/tenants/{tenant}", "tenant.get", "can_create_tenant", platform, getTenant},
		{changes, "POST", "/tenants/{tenant}/suspend", "tenant.suspend", "can_suspend", platform, suspendTenant},
		{changes, "POST", "/tenants/{tenant}/resume", "tenant.resume", "can_create_tenant", platform, resumeTenant},

		{changes, "POST", "/invites", "invite.create", "can_invite", own, createInvite},
		{opens, "POST", "/enrolments", "enrolment.use", "", own, enrol},

		{changes, "POST", "/users", "user.create", "can_manage_users", own, createUser},
		{reads, "GET", "/users", "user.list", "can_read_users", own, listUsers},
		{reads, "GET", "/users/{user}", "user.get", "can_read_users", own, getUser},
		{changes, "POST", "/users/{user}/suspend", "user.suspend", "can_suspend", own, suspendUser},
		{changes, "POST", "/users/{user}/resume", "user.resume", "can_manage_users", own, resumeUser},
		{changes, "POST", "/users/{user}/roles", "role.assign", "can_invite", own, assignRole},
		{changes, "DELETE", "/users/{user}/roles/{role}", "role.revoke", "can_suspend", own, revokeRole},

		{changes, "POST", "/services", "service.create", "can_manage_services", own, createService},
		{reads, "GET", "/services", "service.list", "can_manage_services", own, listServices},
		{reads, "GET", "/services/{service}", "service.get", "can_manage_services", own, getService},
		{changes, "POST", "/services/{service}/suspend", "service.suspend", "can_suspend", own, suspendService},
		{changes, "POST", "/services/{service}/resume", "service.resume", "can_manage_services", own, resumeService},
		{changes, "POST", "/services/{service}/keys", "service_key.add", "can_manage_services", own, addKey},
		{reads, "GET", "/services/{service}/keys", "service_key.list", "can_manage_services", own, listKeys},
		{changes, "DELETE", "/services/{service}/keys/{kid}", "service_key.revoke", "can_suspend", own, revokeKey},
		{changes, "POST", "/services/{service}/audiences", "audience.grant", "can_manage_services", own, grantAudience},
		{changes, "DELETE", "/services/{service}/audiences/{audience}", "audience.revoke", "can_suspend", own, revokeAudience},
		{reads, "GET", "/services/{service}/audiences", "audience.list", "can_manage_services", own, listAudiences},

		{changes, "POST", "/installations", "installation.create", "can_install", own, install},
		{reads, "GET", "/installations", "installation.list", "can_install", own, listInstallations},
		{changes, "DELETE", "/installations/{service}", "installation.revoke", "can_suspend", own, uninstall},

		{changes, "POST", "/connections", "connection.create", "can_manage_connections", own, createConnection},
		{reads, "GET", "/connections", "connection.list", "can_manage_connections", own, listConnections},
		{changes, "POST", "/connections/{connection}/suspend", "connection.suspend", "can_suspend", own, suspendConnection},
		{changes, "POST", "/connections/{connection}/resume", "connection.resume", "can_manage_connections", own, resumeConnection},

		{reads, "GET", "/models", "model.list", "can_read_model", own, listModels},
		{reads, "GET", "/models/{model}", "model.get", "can_read_model", own, getModel},

		{reads, "GET", "/applications/{application}", "application.get", "can_read_model", own, getApplication},
		{reads, "GET", "/applications/{application}/policies", "policy.read", "can_read_model", own, readPolicies},
		{changes, "POST", "/applications/{application}/releases", "release.propose", "can_propose_release", platform, proposeRelease},
		{reads, "GET", "/applications/{application}/releases", "release.list", "can_read_release", platform, listReleases},
		{reads, "GET", "/applications/{application}/releases/{release}", "release.get", "can_read_release", platform, getRelease},
		{reads, "POST", "/applications/{application}/rehearsals", "release.rehearse", "can_rehearse_release", platform, rehearse},
		{changes, "POST", "/applications/{application}/releases/{release}/approve", "release.approve", "can_approve_release", platform, word((*release.Registry).Approve)},
		{changes, "POST", "/applications/{application}/releases/{release}/refuse", "release.refuse", "can_refuse_release", platform, word((*release.Registry).Refuse)},
		{changes, "POST", "/applications/{application}/releases/{release}/activate", "release.activate", "can_activate_release", platform, activateRelease},
		{changes, "POST", "/applications/{application}/rollback", "release.rollback", "can_roll_back_release", platform, rollBack},

		{changes, "PUT", "/applications/{application}/own-policies", "own_policy.publish", "can_publish_own_policies", own, publishOwnPolicies},
		{reads, "GET", "/applications/{application}/own-policies", "own_policy.read", "can_read_roles", own, readOwnPolicies},

		{reads, "GET", "/roles", "object_role.list", "can_read_roles", own, listObjectRoles},
		{changes, "PUT", "/roles/{type}/{role}", "object_role.define", "can_define_roles", own, defineObjectRole},
		{changes, "DELETE", "/roles/{type}/{role}", "object_role.delete", "can_define_roles", own, deleteObjectRole},
		{reads, "GET", "/assignments", "assignment.list", "can_read_tuples", own, listAssignments},
		{changes, "POST", "/assignments", "assignment.create", "can_write_tuples", own, assignObjectRole},
		{changes, "POST", "/assignments/revoke", "assignment.revoke", "can_write_tuples", own, revokeObjectRole},

		{changes, "POST", "/tuples", "tuple.write", "can_write_tuples", own, writeTuples},
		{reads, "GET", "/tuples", "tuple.read", "can_read_tuples", own, readTuples},
		{reads, "GET", "/stores/{store}/backup", "store.backup", "can_read_tuples", own, backupStore},
		{changes, "POST", "/stores/restore", "store.restore", "can_write_tuples", own, restoreStore},
		{reads, "POST", "/explain", "decision.explain", "can_explain", own, explain},

		{reads, "GET", "/audit/events", "audit.query", "can_read_audit", own, queryAudit},
		{reads, "GET", "/audit/export", "audit.export", "can_read_audit", own, exportAudit},
		{reads, "GET", "/audit/proofs/{event}", "audit.prove", "can_read_audit", own, proveEvent},
		{reads, "GET", "/audit/checkpoint", "audit.checkpoint", "can_read_audit", own, getCheckpoint},
		{changes, "POST", "/revocations", "credential.revoke", "can_suspend", own, revoke},
	}
}

// Keys gives a tenant its key-encryption key. Doing it twice is doing it once.
type Keys interface {
	CreateKEK(ctx context.Context, t tenant.ID, system relation.StoreID) error
}

// Config names what the server works with. All fields are needed.
type Config struct {
	Guard     *guard.Guard
	Directory *directory.Directory
	Authz     *authz.Engine
	Copies    authz.Copies // what backups are made from
	Releases  *release.Registry
	Keys      Keys
	Audit     *audit.Log
	AuditDir  string        // of the log: where queries read
	LogKey    note.Verifier // of the log: proofs are made against its signed head
	Logger    *slog.Logger
	Now       func() time.Time
}

type server struct {
	Config
	door      *web.Limiter
	readers   readers
	transfers readers // backups and restores
	pace      pace    // of uploads
}

// New returns the server: a handler for every path below [Base].
func New(cfg Config) http.Handler { return newServer(cfg).handler() }

func newServer(cfg Config) *server {
	return &server{Config: cfg, door: web.NewLimiter(web.LimiterConfig{
		Burst: 10, Refill: 6 * time.Second, Networks: 4096, Now: cfg.Now,
	}), readers: newReaders(maxReaders, math.MaxInt, "reads the audit log"), transfers: newReaders(maxTransfers, maxAllTransfers, "backs up or restores stores"), pace: pace{transferGrace, transferRate}}
}

func (s *server) handler() http.Handler {
	cfg := s.Config
	// What is larger or takes longer than the rest, by the beginning of its path.
	rest := newMux(cfg)
	special := map[string]*web.Mux{
		transferPaths: web.NewMux(web.Config{Logger: cfg.Logger, MaxBody: maxArchive, Timeout: transferTime}),
		releasePaths:  web.NewMux(web.Config{Logger: cfg.Logger, MaxBody: maxRelease, Timeout: rehearsalTime}),
	}
	muxOf := func(path string) *web.Mux {
		for prefix, m := range special {
			if strings.HasPrefix(path, prefix) {
				return m
			}
		}
		return rest
	}
	for _, rt := range table() {
		serve := s.guarded(rt)
		if rt.effect == opens {
			serve = s.open(rt)
		}
		muxOf(rt.pattern).Handle(rt.method+" "+Base+rt.pattern, serve)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		muxOf(strings.TrimPrefix(r.URL.Path, Base)).ServeHTTP(w, r)
	})
}

func newMux(cfg Config) *web.Mux { return web.NewMux(web.Config{Logger: cfg.Logger}) }
