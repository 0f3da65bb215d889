package ledger

import (
	"net/netip"
	"time"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Class decides how an event is kept (DESIGN 6.5). Numbers are persisted.
type Class uint8

// The classes. The first four wait for the disk and fail closed.
const (
	Mutation  Class = 1 // a change, committed with its event
	KeyUse    Class = 2 // a key was used on somebody's behalf
	AdminRead Class = 3 // an administrator read something
	Deny      Class = 4 // an enforced refusal of a verified principal
	Check     Class = 5 // an answer to a client that asks our PDP
	Allow     Class = 6 // a request let through
	Reject    Class = 7 // a refusal without a verified principal, aggregated
	System    Class = 8 // the log about itself: gaps, drops, open, close; waits
)

// Event is one entry of the audit log. It holds ids only: no name, address or
// free text, so that it can be kept whole. Every string field is an id, a code
// of a closed set, or a name from the operator's own configuration.
type Event struct {
	ID         string // random, [tenant.RandomID]
	Time       time.Time
	Class      Class
	Action     string    // what was asked, as noun.verb: "request", "tuple.write", "token.issue"
	Tenant     tenant.ID // whose chain it joins; the platform's for rejects
	Subject    string    // "user:<id>" | "service:<id>"
	Actors     []string  // nearest first
	ClientID   string
	Resource   string // "document:roadmap", "user:<id>"
	Relation   string
	Decision   string // "allow", "deny" or empty where nothing was decided
	Unenforced bool   // true only for a verdict of a route in observe mode
	Reason     string // code of a closed set: "no_relation", "token_expired"
	Route      string
	RequestID  string
	DecisionID string
	Model      string
	Revision   relation.Revision // of the graph that decided, or that the mutation made
	Source     string            // source prefix of a reject, e.g. "192.0.2.0/24"
	Count      uint64            // how many this event stands for; 0 reads as 1
	Status     int               // answer's HTTP status where there was one
	Detail     map[string]string // further ids and codes, few
}

// Change is what a mutating transaction states about itself: the shard whose
// revision it bumps and the event that commits with it.
type Change struct {
	Store relation.StoreID
	Event Event
}

// Network names the network of an address, for [Event.Source]: /24 for IPv4,
// /48 for IPv6; empty for the zero Addr. The whole address would be a personal
// datum, and a whole network is what one client can take addresses from.
func Network(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	bits := 48
	if a = a.Unmap(); a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // never fails: the sizes fit the families
	return p.String()
}
