// Package route binds a request to one route of the operator.
//
// It is pure, so that the gateway, the protocols that ask for a decision on
// somebody else's request, and the command that tests routes give one answer.
// Everything ambiguous is refused: see [Normalize] for paths and [Compile] for
// patterns.
package route

import (
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Route is what the operator says about some requests: where they go, and what
// must hold first. A Route in a [Table] is immutable.
type Route struct {
	ID       string        // unique; letters, digits, '-', '_' and '.'
	Hosts    []string      // exact names without port, in any case; none means every host
	Methods  []string      // upper case; "*" alone means every method but CONNECT and TRACE
	Path     string        // "/documents/{id}", "/files/{rest...}"
	Upstream string        // the name of the upstream
	Require  *Requirement  // nil: an authenticated principal is enough
	Explain  bool          // the reason of each decision goes into its audit event
	Timeout  time.Duration // for the whole exchange with the upstream; 0 means the gateway's default
	MaxBody  int64         // bytes of request body; 0 means the gateway's default
}

// Requirement is the relation that the principal must have to the object that
// the path names.
type Requirement struct {
	Application string // whose model and default stores decide
	Relation    string
	Object      string // a template over the path's variables: "document:{id}"
	Visible     string // who has this relation gets 403 for a refusal, everyone else 404; empty: always 404
}

// Var is one variable of a pattern with its decoded value.
type Var struct{ Name, Value string }

// Bound is a request tied to its route.
type Bound struct {
	Route *Route
	Path  string // canonical, and what is forwarded
	Vars  []Var
	// Object is what the requirement speaks about. On a route with a
	// requirement it is empty when the path's variables make no valid object
	// id: such a request is answered as one for an absent object.
	Object string

	Refusal error  // with [BadPath]: what is wrong with the path
	Allow   string // with [MethodNotAllowed]: the value of the header Allow
}

// Outcome says how matching ended. The zero Outcome is no match.
type Outcome uint8

// The outcomes.
const (
	NoRoute Outcome = iota
	Matched
	BadPath
	MethodNotAllowed
)

// Limits on patterns.
const (
	MaxVars     = 8
	maxID       = 64
	anyMethod   = "*"
	maxHostName = 253
)

func (r *Route) check() error {
	if !validID(r.ID) {
		return fault.New(fault.Invalid, "route "+quote(r.ID)+": the id must be 1 to 64 letters, digits, '-', '_' or '.'")
	}
	bad := func(reason string) error { return fault.New(fault.Invalid, "route "+r.ID+": "+reason) }
	for _, h := range r.Hosts {
		if !validHost(strings.ToLower(h)) {
			return bad("the host " + quote(h) + " must be an exact name or address without port")
		}
	}
	if len(r.Methods) == 0 {
		return bad("no method is named; \"*\" means every method")
	}
	for _, m := range r.Methods {
		switch {
		case m == anyMethod && len(r.Methods) > 1:
			return bad("the method \"*\" must stand alone")
		case m == "CONNECT" || m == "TRACE":
			return bad("the method " + m + " is never forwarded")
		case m != anyMethod && !validMethod(m):
			return bad("the method " + quote(m) + " must be upper-case letters")
		}
	}
	switch {
	case r.Upstream == "":
		return bad("no upstream is named")
	case r.Timeout < 0:
		return bad("the timeout is negative")
	case r.MaxBody < 0:
		return bad("the body limit is negative")
	}
	if q := r.Require; q != nil {
		switch {
		case q.Application == "":
			return bad("the requirement names no application")
		case !relation.ValidRelation(q.Relation):
			return bad("the required relation " + quote(q.Relation) + " is not a relation's name")
		case q.Visible != "" && !relation.ValidRelation(q.Visible):
			return bad("the visible relation " + quote(q.Visible) + " is not a relation's name")
		}
	}
	return nil
}

func validID(s string) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for i := range len(s) {
		if !unreserved(s[i]) || s[i] == '~' {
			return false
		}
	}
	return true
}

func validMethod(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && s[i] != '-' {
			return false
		}
	}
	return true
}

// hostName returns the host of a Host header in lower case without its port,
// the empty string when it is none. It allocates only for upper case.
func hostName(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') {
		for j := i + 1; j < len(host); j++ {
			if host[j] < '0' || host[j] > '9' {
				return ""
			}
		}
		host = host[:i]
	}
	host = strings.ToLower(host)
	if !validHost(host) {
		return ""
	}
	return host
}

// validHost accepts a lower-case DNS name, an IPv4 address, or an IPv6 address
// in brackets. "example.com." is another spelling, so it is refused.
func validHost(host string) bool {
	if host == "" || len(host) > maxHostName {
		return false
	}
	if host[0] == '[' {
		if host[len(host)-1] != ']' || len(host) < 4 {
			return false
		}
		for i := 1; i < len(host)-1; i++ {
			if c := host[i]; (unhex(c) < 0) && c != ':' && c != '.' {
				return false
			}
		}
		return true
	}
	for i := range len(host) {
		c := host[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
		case c == '-':
			if i == 0 || i == len(host)-1 {
				return false
			}
		case c == '.':
			if i == 0 || i == len(host)-1 || host[i-1] == '.' {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// clone keeps a table independent of what its maker does afterwards.
func (r Route) clone() *Route {
	r.Hosts = slices.Clone(r.Hosts)
	r.Methods = slices.Clone(r.Methods)
	if r.Require != nil {
		q := *r.Require
		r.Require = &q
	}
	return &r
}

func quote(s string) string { return "\"" + s + "\"" }
