package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// eventFilters are the parameters by which events are chosen.
var eventFilters = []string{"class", "action", "subject", "resource", "decision", "reason", "request", "since", "until"}

// eventFilter reads them; the tenant is the caller's own.
func eventFilter(c *call, q url.Values) (f audit.Filter, err error) {
	f = audit.Filter{
		Tenant: c.tenant.String(), Action: q.Get("action"), Subject: q.Get("subject"), Resource: q.Get("resource"),
		Decision: q.Get("decision"), Reason: q.Get("reason"), RequestID: q.Get("request"),
	}
	if q.Has("class") {
		known := false
		if f.Class, known = ledger.ParseClass(q.Get("class")); !known {
			return f, fault.New(fault.Invalid, "class must be mutation, key-use, admin-read, deny, check, allow, reject or system")
		}
	}
	if f.After, err = moment(q.Get("since")); err != nil {
		return f, err
	}
	f.Before, err = moment(q.Get("until"))
	return f, err
}

// An export ends within this time, so that no answer outlives a proxy's
// patience; the client goes on from the block that the trailer names.
const exportTime = 20 * time.Second

// The trailers of an export.
const (
	nextTrailer = "Bulwark-Next-Block" // where to go on
	moreTrailer = "Bulwark-More"       // "true" while the log goes on behind it
)

// exportAudit streams the own tenant's events as NDJSON, in the order of the
// log, from a block on. With follow it waits for more until its time is up.
func exportAudit(s *server, c *call) (answer, error) {
	q, err := web.Query(c.r, append([]string{"from", "follow"}, eventFilters...)...)
	if err != nil {
		return answer{}, err
	}
	f, err := eventFilter(c, q)
	if err != nil {
		return answer{}, err
	}
	opts := audit.ExportOptions{Filter: f, Follow: q.Get("follow") == "true"}
	if q.Has("from") {
		if opts.From, err = strconv.ParseUint(q.Get("from"), 10, 63); err != nil {
			return answer{}, fault.New(fault.Invalid, "from is the number of a block")
		}
	}
	return answer{stream: func(ctx context.Context, w http.ResponseWriter) error {
		leave, err := s.readers.enter(c.tenant)
		if err != nil {
			return err
		}
		defer leave()
		ctx, cancel := context.WithTimeout(ctx, exportTime)
		defer cancel()
		h := w.Header()
		h.Set("Content-Type", "application/x-ndjson")
		h.Set("Trailer", nextTrailer+", "+moreTrailer)
		w.WriteHeader(http.StatusOK)
		out := flusher{w, http.NewResponseController(w)}
		next, err := audit.Export(ctx, s.AuditDir, opts, out)
		if err != nil {
			// Half a page is out: only cutting the connection tells the client.
			s.Logger.ErrorContext(ctx, "an export broke off", "error", err)
			panic(http.ErrAbortHandler)
		}
		h.Set(nextTrailer, strconv.FormatUint(next, 10))
		h.Set(moreTrailer, strconv.FormatBool(opts.Follow || ctx.Err() != nil))
		return nil
	}}, nil
}

// flusher sends each line as it comes, so that a follower sees it.
type flusher struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

// proveEvent proves that an event of the own tenant is in the signed log. What
// belongs to another tenant answers like what does not exist.
func proveEvent(s *server, c *call) (answer, error) {
	id := c.r.PathValue("event")
	c.about("event:" + id)
	if !tenant.ValidID(id) {
		return answer{}, errNoEvent
	}
	leave, err := s.readers.enter(c.tenant)
	if err != nil {
		return answer{}, err
	}
	defer leave()
	p, err := audit.Prove(c.r.Context(), s.AuditDir, c.tenant.String(), id, nil, s.LogKey)
	if fault.KindOf(err) == fault.NotFound && err != nil {
		return answer{}, errNoEvent // word for word what a foreign event gives
	}
	if err != nil {
		return answer{}, err
	}
	ev, _, err := p.Verify(s.LogKey)
	if err != nil {
		return answer{}, err
	}
	if ev.Event.Tenant != c.tenant {
		return answer{}, errNoEvent
	}
	return ok(p), nil
}

var errNoEvent = fault.New(fault.NotFound, "no such event under the signed head; a new event is there within a second")

// Checkpoint is the log's newest signed head (C2SP signed note), to be kept
// elsewhere.
type Checkpoint struct {
	Checkpoint string `json:"checkpoint"`
}

func getCheckpoint(s *server, _ *call) (answer, error) {
	head := s.Audit.Head()
	if head == nil {
		return answer{}, fault.New(fault.Unavailable, "the log has no signed head yet; try again in a second")
	}
	return ok(Checkpoint{string(head)}), nil
}

// queryAudit lists the events of the own tenant's chain, the newest first.
func queryAudit(s *server, c *call) (answer, error) {
	q, p, err := c.query(eventFilters...)
	if err != nil {
		return answer{}, err
	}
	leave, err := s.readers.enter(c.tenant)
	if err != nil {
		return answer{}, err
	}
	defer leave()
	f, err := eventFilter(c, q)
	if err != nil {
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

// maxReaders is how many readings of the log one tenant may have at a time: each
// may walk all of it.
const maxReaders = 4

// readers counts what the tenants have running of one kind. It is safe for
// concurrent use.
type readers struct {
	most, all int    // of one tenant, and of all together at a time
	does      string // what the tenant does, for the refusal

	mu  sync.Mutex
	of  map[tenant.ID]int
	sum int
}

func newReaders(most, all int, does string) readers {
	return readers{most: most, all: all, does: does, of: map[tenant.ID]int{}}
}

// enter begins one; leave ends it. Kind Exhausted when the tenant has enough of
// them.
func (r *readers) enter(t tenant.ID) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sum == r.all {
		return nil, fault.New(fault.Exhausted, "others are doing the same, as many as may at a time; try again")
	}
	if r.of[t] == r.most {
		return nil, fault.New(fault.Exhausted, "your tenant "+r.does+" several times already; wait for one to end")
	}
	r.of[t]++
	r.sum++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sum--
		if r.of[t]--; r.of[t] == 0 {
			delete(r.of, t)
		}
	}, nil
}
