package admin

import (
	"encoding/json"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/release"
	"bulwark.example/internal/trial"
)

// Page is a part of a list. Next is the cursor of the rest, empty at the end.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Paging asks for a part of a list: the first one, or the one at Cursor.
type Paging struct {
	Limit  int // 1 to 1000; zero is 100
	Cursor string
}

// Self tells callers who they are here.
type Self struct {
	Subject string `json:"subject"` // "user:<id>" | "service:<id>"
	Tenant  Tenant `json:"tenant"`
}

// Tenant is a customer, or the platform.
type Tenant struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	State   string    `json:"state"` // "active" | "suspended"
	Stores  []Graph   `json:"stores,omitempty"`
	Created time.Time `json:"created"`
}

// Graph is a default store of a tenant, as the check API names it.
type Graph struct {
	ID          string `json:"id"`
	Application string `json:"application"`
}

// NewTenant asks for a tenant.
type NewTenant struct {
	Name string `json:"name"`
}

// NewInvite asks for a code that enrols a person with a role. Tenant is for
// operators, who invite a tenant's first administrator; it is an id or alias.
type NewInvite struct {
	Tenant string `json:"tenant,omitempty"`
	Role   string `json:"role"`
	Name   string `json:"name,omitempty"` // the person's alias; empty lets the person choose
}

// Invite is the code, shown once. It is worth nothing once the person who made
// it is suspended or may not invite any more.
type Invite struct {
	ID      string    `json:"id"`
	Code    string    `json:"code"`
	Tenant  string    `json:"tenant"`
	Role    string    `json:"role"`
	Expires time.Time `json:"expires"`
}

// Enrol turns a code into a user whose first key is the public JWK.
type Enrol struct {
	Code string          `json:"code"`
	Name string          `json:"name,omitempty"`
	Key  json.RawMessage `json:"key"`
}

// Enrolled is who the code made.
type Enrolled struct {
	Tenant string `json:"tenant"`
	User   string `json:"user"`
	Name   string `json:"name"`
	KID    string `json:"kid"`
}

// NewUser asks for a user. Connection (id or alias) and External link the user
// to a subject of an external issuer; both or none are given.
type NewUser struct {
	Name       string `json:"name"`
	Connection string `json:"connection,omitempty"`
	External   string `json:"external,omitempty"`
}

// User is a person of the tenant. Roles are filled for a single user only.
type User struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	State      string    `json:"state"`
	Connection string    `json:"connection,omitempty"`
	External   string    `json:"external,omitempty"`
	Roles      []string  `json:"roles,omitempty"`
	Created    time.Time `json:"created"`
}

// Role names an admin role.
type Role struct {
	Role string `json:"role"`
}

// NewService asks for a service of the caller's tenant.
type NewService struct {
	Name string `json:"name"`
}

// Service is a program of the tenant.
type Service struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Audience string    `json:"audience"` // URN
	Created  time.Time `json:"created"`
}

// NewKey registers a public JWK. The zero Expires never does.
type NewKey struct {
	Key     json.RawMessage `json:"key"`
	Expires time.Time       `json:"expires,omitzero"`
}

// Key is a public key with which a service authenticates itself.
type Key struct {
	KID     string          `json:"kid"` // RFC 7638 thumbprint
	Key     json.RawMessage `json:"key"`
	Created time.Time       `json:"created"`
	Expires time.Time       `json:"expires,omitzero"`
}

// Grant lets a service get tokens for an audience. On input the audience is a
// URN, a surface, or a service's id or alias; in answers it is the URN.
type Grant struct {
	Audience string   `json:"audience"`
	Scopes   []string `json:"scopes,omitempty"`
	Direct   bool     `json:"direct,omitempty"` // also by client_credentials, not only by exchange
}

// NewInstallation lets a platform service, by id or alias, act in the tenant.
type NewInstallation struct {
	Service string    `json:"service"`
	Scopes  []string  `json:"scopes,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// Installation is a platform service's right to act in the tenant.
type Installation struct {
	Service string    `json:"service"` // id
	Scopes  []string  `json:"scopes,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Created time.Time `json:"created"`
}

// NewConnection trusts an external issuer for the tenant's users.
type NewConnection struct {
	Name     string   `json:"name"`
	Issuer   string   `json:"issuer"`
	Audience string   `json:"audience"`
	Kind     string   `json:"kind"`           // "at+jwt" | "okta" | "entra" | "google"
	Algs     []string `json:"algs,omitempty"` // empty is RS256
}

// Connection is a trusted external issuer.
type Connection struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Issuer   string    `json:"issuer"`
	Audience string    `json:"audience"`
	Kind     string    `json:"kind"`
	Algs     []string  `json:"algs"`
	State    string    `json:"state"`
	Created  time.Time `json:"created"`
}

// Model is a version of an application's model. Lists leave DSL out.
type Model struct {
	ID          string    `json:"id"`
	Application string    `json:"application"`
	Active      bool      `json:"active"`
	DSL         string    `json:"dsl,omitempty"`
	Created     time.Time `json:"created"`
}

// Policies are the guard policies of an application in force. Without any there
// are no files, and no id.
type Policies struct {
	ID          string             `json:"id,omitempty"`
	Application string             `json:"application"`
	Files       []authz.PolicyFile `json:"files"`
	Claims      authz.Claims       `json:"claims,omitzero"`
	Created     time.Time          `json:"created,omitzero"`
}

// ReleaseDraft is all that decides in an application, spelt out, with what proves
// it. Tenants see neither routes nor tests.
type ReleaseDraft struct {
	Release    string             `json:"release,omitempty"` // empty: an installation began with it
	ModelID    string             `json:"model_id"`
	PoliciesID string             `json:"policies_id,omitempty"`
	Model      string             `json:"model"` // OpenFGA DSL
	Policies   []authz.PolicyFile `json:"policies"`
	Claims     authz.Claims       `json:"claims,omitzero"`
	Roles      authz.Roles        `json:"roles,omitzero"`
	Routes     json.RawMessage    `json:"routes,omitempty"`
	Tests      []trial.File       `json:"tests,omitempty"` // that prove it
}

// Application is what is in force. Next is a release that a wave of tenants has
// already.
type Application struct {
	Name        string       `json:"name"`
	Serial      uint64       `json:"serial"` // grows with each change
	Current     ReleaseDraft `json:"current"`
	Next        string       `json:"next,omitempty"`
	Tenants     []string     `json:"tenants,omitempty"` // of the wave
	CanRollBack bool         `json:"can_roll_back"`
}

// NewRelease proposes what is to be in force. What is absent stays as it is; an
// empty list of policies removes them. Claims belong to the policies that come
// with them.
type NewRelease struct {
	Model    *string             `json:"model,omitempty"`
	Policies *[]authz.PolicyFile `json:"policies,omitempty"`
	Claims   *authz.Claims       `json:"claims,omitempty"`
	Roles    *authz.Roles        `json:"roles,omitempty"`
	Routes   *json.RawMessage    `json:"routes,omitempty"`
	Tests    []trial.File        `json:"tests,omitempty"` // none: those of the release in force
	Note     string              `json:"note,omitempty"`
}

// Release is a proposed change. Its id is the digest that a second person
// signs. State is proposed, approved, refused, wave, active or superseded.
type Release struct {
	ID          string       `json:"id"`
	Application string       `json:"application"`
	State       string       `json:"state"`
	Note        string       `json:"note,omitempty"`
	Base        string       `json:"base,omitempty"` // the release that it follows
	Model       string       `json:"model"`
	Policies    string       `json:"policies,omitempty"`
	Proposed    release.Mark `json:"proposed"`
	Approved    release.Mark `json:"approved,omitzero"`
	Refused     release.Mark `json:"refused,omitzero"`

	// Of one release alone, and not in lists.
	Before   *ReleaseDraft   `json:"before,omitempty"`
	After    *ReleaseDraft   `json:"after,omitempty"`
	Outcomes []trial.Outcome `json:"outcomes,omitempty"` // of the tests of After, as they go now
}

// Activation names the tenants of a wave; none: all tenants, now and later.
type Activation struct {
	Tenants []string `json:"tenants,omitempty"`
}

// NewRehearsal asks what a release or a proposal would change for the tenants,
// or for all. Decisions is how many recorded decisions are asked again, the newest
// first; 0 means 100,000.
type NewRehearsal struct {
	Release   string      `json:"release,omitempty"`
	Proposal  *NewRelease `json:"proposal,omitempty"`
	Tenants   []string    `json:"tenants,omitempty"`
	Decisions int         `json:"decisions,omitempty"`
}

// Finding is a line of a rehearsal: the plan first, what it finds, and the sum
// last. A rehearsal that breaks off ends with an error.
type Finding struct {
	Plan   *Planned           `json:"plan,omitempty"`
	Orphan *release.Orphan    `json:"orphan,omitempty"`
	Flip   *release.Flip      `json:"flip,omitempty"`
	Sum    *release.Rehearsal `json:"sum,omitempty"`
	Error  string             `json:"error,omitempty"`
}

// Planned is what is rehearsed: the digest that it has or would get, what it
// changes, and how its tests go.
type Planned struct {
	Release  string          `json:"release"`
	Changes  bool            `json:"changes"` // false: this is in force already, proven by the same tests
	Before   ReleaseDraft    `json:"before"`
	After    ReleaseDraft    `json:"after"`
	Outcomes []trial.Outcome `json:"outcomes"`
}

// Tuple says that the user, or whom it stands for, has the relation to the
// object. One with a condition of the model counts where that holds, one that
// expires until then. Where a tuple is to be deleted, object, relation and user
// name it.
type Tuple struct {
	Object    string         `json:"object"`
	Relation  string         `json:"relation"`
	Subject   string         `json:"user"`
	Condition string         `json:"condition,omitempty"`
	Context   map[string]any `json:"context,omitempty"` // values of the condition's parameters
	Expires   time.Time      `json:"expires,omitzero"`
}

// String returns "object#relation@user".
func (t Tuple) String() string { return t.Object + "#" + t.Relation + "@" + t.Subject }

// TupleChange writes and deletes tuples in one step. Subjects of the types user
// and service are ids, or aliases written as user:@alice.
type TupleChange struct {
	Application string  `json:"application,omitempty"`
	Writes      []Tuple `json:"writes,omitempty"`
	Deletes     []Tuple `json:"deletes,omitempty"`
}

// TuplesChanged tells what was changed, with aliases resolved, and the
// consistency token of the change.
type TuplesChanged struct {
	Revision string  `json:"revision"`
	Writes   []Tuple `json:"writes"`
	Deletes  []Tuple `json:"deletes"`
}

// TupleFilter selects tuples; empty fields select all. Object and Subject may
// be a type with its colon.
type TupleFilter struct {
	Application, Object, Relation, Subject string
}

// Restored is a store that was filled from an archive, with the consistency token
// of its first moment. LeftOut counts tuples that the model in force of a default
// store does not take, of which First is one. Roles and policies are the tenant's
// own: they come into a default store alone. Exclusive names at most ten who could
// hold two exclusive roles of its application, and are denied what they could not
// hold together; where it is ExclusiveUnclear there may be more. Assertions of
// models that the application does not have are left out. A new store is Unguarded if policies or
// exclusive roles decide in the one of the archive: in a free store none do.
type Restored struct {
	Store      string `json:"store"`
	Name       string `json:"name"` // of a default store: its application
	Revision   string `json:"revision"`
	Digest     string `json:"digest"` // of the archive
	Models     int    `json:"models"`
	Assertions int    `json:"assertions"`
	Roles      int    `json:"roles"`
	Policies   int    `json:"policies"`
	Tuples     int    `json:"tuples"`
	Unguarded  bool   `json:"unguarded,omitempty"`
	LeftOut    int    `json:"left_out,omitempty"`
	First      string `json:"first_left_out,omitempty"`

	AssertionsLeftOut int      `json:"assertions_left_out,omitempty"`
	Exclusive         []string `json:"exclusive,omitempty"`
	ExclusiveUnclear  bool     `json:"exclusive_unclear,omitempty"`
}

// RestoreInto says where an archive goes: into a new free store of the name (of
// the archive's where there is none), or into the tenant's default store of the
// application, which must be empty.
type RestoreInto struct{ Name, Application string }

// Question asks for an explained decision about a subject of the tenant. Context
// is what the asker claims, for conditions; contextual tuples count for this
// question as if they were stored.
type Question struct {
	Application string `json:"application,omitempty"`
	Subject     string `json:"subject"`
	Relation    string `json:"relation"`
	Object      string `json:"object"`
	Visible     string `json:"visible,omitempty"` // the relation that a route would ask for visibility

	Model      string         `json:"model,omitempty"` // id of the version to answer by; empty: the one in force
	Context    map[string]any `json:"context,omitempty"`
	Contextual []Tuple        `json:"contextual,omitempty"`
}

// Explained is a decision with its reason.
type Explained struct {
	Subject  string       `json:"subject"` // aliases resolved
	Relation string       `json:"relation"`
	Object   string       `json:"object"`
	Allowed  bool         `json:"allowed"`
	Reason   string       `json:"reason"`
	Model    string       `json:"model"`
	Revision string       `json:"revision"`
	Trace    *authz.Trace `json:"trace"`
	Drawing  string       `json:"drawing"` // the trace for people
}

// NewRevocation ends tokens of the tenant before their time. Kind is token
// (a jti), root (a root_jti), session (a sid), subject (user:<id>,
// service:<id>, or an alias as in tuples) or client (a client id).
type NewRevocation struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// EventFilter selects audit events of the tenant; empty fields select all.
type EventFilter struct {
	Class, Action, Subject, Resource, Decision, Reason string

	Request      string    // id of a request or of a decision
	Since, Until time.Time // not before Since, before Until
}

// Event is one entry of the tenant's audit chain, as [ledger.Event] spells it.
type Event struct {
	Block      uint64            `json:"block"`
	Seq        uint64            `json:"seq"` // place in the tenant's chain
	ID         string            `json:"id"`
	Time       time.Time         `json:"time,omitzero"`
	Class      string            `json:"class"`
	Action     string            `json:"action,omitempty"`
	Tenant     string            `json:"tenant"`
	Subject    string            `json:"subject,omitempty"`
	Actors     []string          `json:"actors,omitempty"`
	ClientID   string            `json:"client_id,omitempty"`
	Resource   string            `json:"resource,omitempty"`
	Relation   string            `json:"relation,omitempty"`
	Decision   string            `json:"decision,omitempty"`
	Unenforced bool              `json:"unenforced,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	Route      string            `json:"route,omitempty"`
	RequestID  string            `json:"request_id,omitempty"`
	DecisionID string            `json:"decision_id,omitempty"`
	Model      string            `json:"model,omitempty"`
	Revision   EventRevision     `json:"revision,omitzero"`
	Source     string            `json:"source,omitempty"`
	Count      uint64            `json:"count,omitempty"`
	Status     int               `json:"status,omitempty"`
	Detail     map[string]string `json:"detail,omitempty"`
}

// EventRevision is the revision that decided, or that a change made.
type EventRevision struct {
	Epoch uint64 `json:"epoch,omitempty"`
	Store string `json:"store,omitempty"`
	Rev   uint64 `json:"rev,omitempty"`
}
