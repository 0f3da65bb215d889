package admin

import (
	"fmt"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// queryAudit lists the events of the own tenant's chain, the newest first.
func queryAudit(s *server, c *call) (answer, error) {
	q, p, err := c.query("class", "action", "subject", "resource", "decision", "reason", "request", "since", "until")
	if err != nil {
		return answer{}, err
	}
	f := audit.Filter{
		Tenant: c.tenant.String(), Action: q.Get("action"), Subject: q.Get("subject"), Resource: q.Get("resource"),
		Decision: q.Get("decision"), Reason: q.Get("reason"), RequestID: q.Get("request"),
	}
	if q.Has("class") {
		known := false
		if f.Class, known = ledger.ParseClass(q.Get("class")); !known {
			return answer{}, fault.New(fault.Invalid, "class must be mutation, key-use, admin-read, deny, check, allow, reject or system")
		}
	}
	if f.After, err = moment(q.Get("since")); err != nil {
		return answer{}, err
	}
	if f.Before, err = moment(q.Get("until")); err != nil {
		return answer{}, err
	}
	skip, err := parsePlace(p.Cursor)
	if err != nil {
		return answer{}, err
	}
	found := []ledger.Stored{}
	err = audit.Query(c.r.Context(), s.AuditDir, audit.QueryOptions{Filter: f, NewestFirst: true}, func(ev ledger.Stored) bool {
		if !skip.passed(ev) {
			return true
		}
		found = append(found, ev)
		return len(found) <= p.Limit // one more tells that the list goes on
	})
	if err != nil {
		return answer{}, err
	}
	return page(found, p.Limit, spellPlace, func(ev ledger.Stored) ledger.Stored { return ev }), nil
}

func moment(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fault.New(fault.Invalid, "a time is written like 2026-01-31T12:00:00Z")
	}
	return t, nil
}

// place is an event's place in the tenant's chain: the list goes on behind it.
type place struct {
	block, seq uint64
	begun      bool // behind the place, or there is none
}

func spellPlace(ev ledger.Stored) string { return fmt.Sprintf("%d.%d", ev.Block, ev.Seq) }

func parsePlace(text string) (*place, error) {
	key, err := parseCursor(text)
	if err != nil {
		return nil, err
	}
	p := &place{begun: key == ""}
	if p.begun {
		return p, nil
	}
	if n, err := fmt.Sscanf(key, "%d.%d", &p.block, &p.seq); n != 2 || err != nil || key != fmt.Sprintf("%d.%d", p.block, p.seq) {
		return nil, errCursor
	}
	return p, nil
}

// passed reports whether the event lies behind the place. Events come by
// falling block and, within a block, in an order that is the same every time.
func (p *place) passed(ev ledger.Stored) bool {
	switch {
	case p.begun:
		return true
	case ev.Block < p.block:
		p.begun = true // the event at the place is gone: dropped by its budget
		return true
	case ev.Block == p.block && ev.Seq == p.seq:
		p.begun = true
	}
	return false
}
