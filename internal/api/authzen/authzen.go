// Package authzen is the OpenID AuthZEN Authorization API 1.0, over HTTPS with JSON.
//
// # Words
//
// A subject or resource {type, id} is the object "type:id" of a store, an action's
// name a relation of the resource's type. What a tuple's subject may be, a
// subject here may be too: the id "*" is everyone of the type, and "core#member"
// of the type team is the members of team:core. A search for subjects lists
// single ones and, where all of the type are allowed, the id "*". A search for
// actions goes through all relations of the resource's type: the model does not
// tell those that are meant to be asked from the others.
//
// # Attributes
//
// The members of context are the values of the parameters of the model's
// conditions; a property p of the subject, resource or action is the value of
// the parameter subject_p, resource_p or action_p, as with OpenFGA. They are
// claimed by the caller, and never count as verified. Where OpenFGA lets the
// context win over a property of that name, the question is refused: a value
// that was passed on must not replace one that was looked up.
//
// # Stores
//
// /access/v1/... asks the default store of the token's tenant, if there is
// exactly one; /stores/{store_id}/access/v1/... any store of the tenant but its
// system store. Both are decision points with metadata of their own. Whatever
// the request says, the tenant is the credential's: a store of another tenant
// answers like one that does not exist. The store's active model answers.
//
// # Who may ask
//
// As at the OpenFGA API: a service needs a token for the audience "authz",
// people need can_check in their tenant too; who acts for another needs the scope
// decision.check, decision.batch, decision.list_users, decision.list_objects or
// decision.list_actions.
//
// # Answers
//
// A decision's context holds "reason" ("relation", "no_relation", "invalid",
// another kind of fault), "revision", which is also the header [RevisionHeader],
// with [ExplainHeader] "trace", and of an evaluation without an answer "error"
// with "status" and "message". All evaluations of a request are answered at one
// revision. An evaluation that lacks something, or asks for a type or an action
// that the model lacks, is such an error among others, and 400 alone. What is
// not of the right form is 400 for the whole request. A search for what the model
// lacks is empty, with the "reason" in its context.
//
// A search is complete: without a limit up to 100,000 results come at once, and
// page.next_token leads to the rest. Whoever sends it must repeat the question;
// the limit may be left out. "truncated" in the context, and [TruncatedHeader],
// say that the work for the list met its bound. A search for actions names in
// "unanswered" those that depend on a condition which cannot be evaluated; the
// other searches are refused then.
//
// Errors are a text: 400 for everything that the request would have to change,
// 401, 403, 404 for a store, 405, 500, and 503 to come back later.
package authzen

import (
	"log/slog"
	"net/http"
	"strings"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// The headers beyond AuthZEN's.
const (
	RevisionHeader  = "Bulwark-Revision"  // of an answer: the consistency token
	AtLeastHeader   = "Bulwark-At-Least"  // of a request: a consistency token that the answer must not be older than
	ExplainHeader   = "Bulwark-Explain"   // of a request for decisions: "true" asks for the trace of each
	TruncatedHeader = "Bulwark-Truncated" // of a search: "true" if the work for it met its bound
)

// The bounds of a request.
const (
	MaxBody        = 512 << 10 // bytes
	MaxEvaluations = 50        // of one request
	MaxAttributes  = 1000      // of one question: members of its context and its properties
	MaxPage        = 100_000   // results at once
)

const (
	base          = "/access/v1"
	configuration = "/.well-known/authzen-configuration"
	requestID     = "X-Request-Id"
)

// Config names what the API works with. All fields are needed.
type Config struct {
	Guard     *guard.Guard
	Directory *directory.Directory
	Authz     *authz.Engine
	URL       string // of the API port as clients reach it, without a path
	Logger    *slog.Logger
}

// API answers the contract's requests. It is safe for concurrent use.
type API struct {
	Config
	audience string
	mux      *web.Mux
}

var operations = []operation{
	{"evaluation", "decision.check", evaluation},
	{"evaluations", "decision.batch", evaluations},
	{"search/subject", "decision.list_users", searchSubject},
	{"search/resource", "decision.list_objects", searchResource},
	{"search/action", "decision.list_actions", searchAction},
}

// New returns the API.
func New(cfg Config) *API {
	a := &API{Config: cfg, audience: cfg.Directory.Audience("authz")}
	a.mux = web.NewMux(web.Config{Logger: cfg.Logger, MaxBody: MaxBody, Refuse: refuse})
	for _, op := range operations {
		a.mux.Handle("POST "+base+"/"+op.name, a.serve(op))
		a.mux.Handle("POST /stores/{store_id}"+base+"/"+op.name, a.serve(op))
	}
	a.mux.Handle("GET "+configuration, a.metadata)
	a.mux.Handle("GET "+configuration+"/stores/{store_id}", a.metadata)
	return a
}

// Owns reports whether a path belongs to this contract: those below /access and
// the well-known one, and of those below /stores the ones with access behind the
// store's id.
func Owns(path string) bool {
	if rest, ok := strings.CutPrefix(path, "/stores/"); ok {
		_, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	}
	return path == "/access" || strings.HasPrefix(path, "/access/") || path == configuration || strings.HasPrefix(path, configuration+"/")
}

// ServeHTTP serves what [Owns] names. A client's request identifier comes back
// with every answer, and goes nowhere else.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if id := r.Header.Values(requestID); len(id) > 0 {
		w.Header()[requestID] = id
	}
	a.mux.ServeHTTP(w, r)
}

// point is a policy decision point's metadata.
type point struct {
	ID          string `json:"policy_decision_point"`
	Evaluation  string `json:"access_evaluation_endpoint"`
	Evaluations string `json:"access_evaluations_endpoint"`
	Subject     string `json:"search_subject_endpoint"`
	Action      string `json:"search_action_endpoint"`
	Resource    string `json:"search_resource_endpoint"`
}

// metadata is public, and says nothing about whether the store exists.
func (a *API) metadata(w http.ResponseWriter, r *http.Request) error {
	if _, err := web.Query(r); err != nil {
		return err
	}
	url := a.URL
	if id := r.PathValue("store_id"); id != "" {
		if !tenant.ValidID(id) {
			return fault.New(fault.NotFound, "this is not a store's id")
		}
		url += "/stores/" + id
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	at := url + base
	return web.Send(w, http.StatusOK, point{
		ID: url, Evaluation: at + "/evaluation", Evaluations: at + "/evaluations",
		Subject: at + "/search/subject", Action: at + "/search/action", Resource: at + "/search/resource",
	})
}
