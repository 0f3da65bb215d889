package ledger

import (
	"encoding/json"
	"time"
)

var classNames = [...]string{"", "mutation", "key-use", "admin-read", "deny", "check", "allow", "reject", "system"}

// String returns the class's stable name, the empty string for none.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return ""
}

// ParseClass returns the class of that name, also written with an underscore
// ("key_use"); 0 and false if there is none.
func ParseClass(name string) (Class, bool) {
	b := []byte(name)
	for i, c := range b {
		if c == '_' {
			b[i] = '-'
		}
	}
	for i, n := range classNames {
		if i > 0 && n == string(b) {
			return Class(i), true
		}
	}
	return 0, false
}

// Waits reports whether an event of the class is answered only after it is on
// the disk.
func (c Class) Waits() bool {
	switch c {
	case Mutation, KeyUse, AdminRead, Deny, System:
		return true
	}
	return false
}

// Stored is an event as it lies in the log.
type Stored struct {
	Block uint64 // number of its block, which is its leaf in the outer tree
	Seq   uint64 // place in its tenant's chain, from 0
	Raw   []byte // the exact bytes that the trees cover
	Event Event
}

// fields is the stable JSON form of an event.
type fields struct {
	ID         string            `json:"id"`
	Time       string            `json:"time,omitempty"`
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
	Revision   *revision         `json:"revision,omitempty"`
	Source     string            `json:"source,omitempty"`
	Count      uint64            `json:"count,omitempty"`
	Status     int               `json:"status,omitempty"`
	Detail     map[string]string `json:"detail,omitempty"`
}

type revision struct {
	Epoch uint64 `json:"epoch,omitempty"`
	Store string `json:"store,omitempty"`
	Rev   uint64 `json:"rev,omitempty"`
}

func fieldsOf(e *Event) fields {
	f := fields{
		ID: e.ID, Class: e.Class.String(), Action: e.Action, Tenant: e.Tenant.String(),
		Subject: e.Subject, Actors: e.Actors, ClientID: e.ClientID, Resource: e.Resource,
		Relation: e.Relation, Decision: e.Decision, Unenforced: e.Unenforced, Reason: e.Reason,
		Route: e.Route, RequestID: e.RequestID, DecisionID: e.DecisionID, Model: e.Model,
		Source: e.Source, Count: e.Count, Status: e.Status, Detail: e.Detail,
	}
	if !e.Time.IsZero() {
		f.Time = e.Time.UTC().Format(time.RFC3339Nano)
	}
	if r := e.Revision; r.Store != "" || r.Rev != 0 || r.Epoch != 0 {
		f.Revision = &revision{r.Epoch, string(r.Store), r.Rev}
	}
	return f
}

// MarshalJSON writes the stable form: snake_case names, RFC 3339 time in UTC,
// empty fields left out. There is no way back on purpose: see [tenant.ID].
func (e Event) MarshalJSON() ([]byte, error) { return json.Marshal(fieldsOf(&e)) }

// MarshalJSON writes the event's stable form with block and seq in front.
func (s Stored) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Block uint64 `json:"block"`
		Seq   uint64 `json:"seq"`
		fields
	}{s.Block, s.Seq, fieldsOf(&s.Event)})
}
