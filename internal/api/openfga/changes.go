package openfga

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// readChanges lists the history of the store's tuples, oldest first.
func readChanges(ctx context.Context, c *call, q *fga.ReadChangesRequest) (*fga.ReadChangesResponse, error) {
	out, rev, err := c.api.changes(ctx, c.store.ID, q)
	if err != nil {
		return nil, err
	}
	c.tell(rev, "")
	return out, nil
}

func (a *API) changes(ctx context.Context, store relation.StoreID, q *fga.ReadChangesRequest) (*fga.ReadChangesResponse, relation.Revision, error) {
	var none relation.Revision
	size := q.GetPageSize().GetValue()
	if size > maxPage {
		return nil, none, invalid(errors.New("invalid ReadChangesRequest.PageSize: value must be inside range [1, 100]"))
	}
	var since time.Time
	if q.GetStartTime() != nil && q.GetContinuationToken() == "" {
		since = q.GetStartTime().AsTime()
	}
	page, err := a.Authz.ReadChanges(ctx, store, q.GetType(), since, pageSize(size), q.GetContinuationToken())
	switch {
	case err == nil:
	case errors.Is(err, authz.ErrCursorType):
		return nil, none, newCoded(fga.ErrorCode_query_string_type_continuation_token_mismatch, fault.Invalid,
			"The type in the querystring and the continuation token don't match")
	case errors.Is(err, authz.ErrCursor):
		return nil, none, errToken
	case fault.KindOf(err) == fault.Conflict: // a restore undid what the token names
		return nil, none, as(fga.ErrorCode_invalid_continuation_token, err)
	case fault.KindOf(err) == fault.NotFound:
		return nil, none, errNoStore
	default:
		return nil, none, err
	}
	out := &fga.ReadChangesResponse{Changes: make([]*fga.TupleChange, len(page.Changes)), ContinuationToken: page.Next}
	for i, ch := range page.Changes {
		key, err := keyOf(ch.Tuple)
		if err != nil {
			return nil, none, err
		}
		out.Changes[i] = &fga.TupleChange{TupleKey: key, Operation: fga.TupleOperation_TUPLE_OPERATION_WRITE, Timestamp: timestamppb.New(ch.Time)}
		if ch.Delete {
			out.Changes[i].Operation = fga.TupleOperation_TUPLE_OPERATION_DELETE
		}
	}
	return out, page.Revision, nil
}

// Bounds of a watch.
const (
	maxWatch   = time.Hour        // then it ends; a watcher goes on with its token
	heartbeat  = 15 * time.Second // a line without changes, so that both sides know
	lineLimit  = 30 * time.Second // for a line to be taken
	maxWatches = 64               // of a tenant at a time
)

// watch answers with a line for each page of changes and waits for the next
// ones. It ends when the credential does, or the right, or the client leaves.
func (a *API) watch(w http.ResponseWriter, r *http.Request) error {
	in := fromHTTP(r)
	var q fga.ReadChangesRequest
	opened, err := a.admitted(r.Context(), &in)
	if err != nil {
		return err
	}
	leave, err := a.watches.enter(opened)
	if err != nil {
		return err
	}
	defer leave()
	first, more, err := opWatch.serve(r.Context(), a, &in, &q)
	if err != nil {
		return err
	}
	a.headers(&more, w.Header().Set)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	s := stream{api: a, w: w, control: http.NewResponseController(w), in: &in, q: &q}
	s.run(r.Context(), first)
	return nil
}

// admitted asks the guard and records nothing if it allows: what is opened, or
// goes on, has its own record.
func (a *API) admitted(ctx context.Context, in *inbound) (tenant.ID, error) {
	v, _ := a.Guard.Check(ctx, a.question(&opWatch.rule, in))
	if !v.Allowed {
		return tenant.ID{}, refused(&opWatch.rule, v)
	}
	return v.Principal.Tenant, nil
}

// stream is one watch. It belongs to one goroutine.
type stream struct {
	api     *API
	w       http.ResponseWriter
	control *http.ResponseController
	in      *inbound
	q       *fga.ReadChangesRequest
}

func (s *stream) run(ctx context.Context, page *fga.ReadChangesResponse) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	store := relation.StoreID(s.q.GetStoreId())
	for {
		if !s.line(page) {
			return
		}
		s.q.ContinuationToken = page.GetContinuationToken()
		woken := s.api.watches.wait(store) // before the reading, so that nothing falls between
		var err error
		if page, err = s.next(ctx); err == nil && len(page.GetChanges()) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-s.api.watches.ended:
				return
			case <-beat.C:
			case <-woken:
				page, err = s.next(ctx)
			}
		}
		if err != nil {
			s.last(err)
			return
		}
	}
}

// next reads on, as one who still may.
func (s *stream) next(ctx context.Context) (*fga.ReadChangesResponse, error) {
	t, err := s.api.admitted(ctx, s.in)
	if err != nil {
		return nil, err
	}
	g, err := s.api.Directory.Graph(t, relation.StoreID(s.q.GetStoreId()))
	if err != nil {
		return nil, errNoStore
	}
	page, _, err := s.api.changes(ctx, g.ID, s.q)
	return page, err
}

func (s *stream) line(page *fga.ReadChangesResponse) bool {
	body, err := spell(page)
	return err == nil && s.write(`{"result":`, body)
}

// last says why the watch ends.
func (s *stream) last(err error) {
	name, _ := nameOf(err)
	if body, err := json.Marshal(refusal{name, fault.Public(err)}); err == nil {
		s.write(`{"error":`, body)
	}
}

func (s *stream) write(before string, body []byte) bool {
	_ = s.control.SetWriteDeadline(time.Now().Add(lineLimit)) // the network's deadlines are wall clock
	line := append(append([]byte(before), body...), "}\n"...)
	_, err := s.w.Write(line)
	return err == nil && s.control.Flush() == nil
}

// watches wakes who waits for changes of a store, and counts.
type watches struct {
	ended chan struct{}

	mu      sync.Mutex // guards what follows
	over    bool
	waiting map[relation.StoreID]chan struct{}
	open    map[tenant.ID]int
}

func (w *watches) init() {
	w.ended, w.waiting, w.open = make(chan struct{}), map[relation.StoreID]chan struct{}{}, map[tenant.ID]int{}
}

// enter counts a watch of the tenant, and returns what ends it. Kinds Exhausted
// and Unavailable.
func (w *watches) enter(t tenant.ID) (leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
		return nil, fault.New(fault.Unavailable, "this server is about to stop; try again")
	case w.open[t] == maxWatches:
		return nil, newCoded(fga.InternalErrorCode_resource_exhausted, fault.Exhausted, "your tenant has 64 watches open, as many as it may")
	}
	w.open[t]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.open[t]--; w.open[t] == 0 {
			delete(w.open, t)
		}
	}, nil
}

// wait returns what is closed with the next change of the store.
func (w *watches) wait(store relation.StoreID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.waiting[store]
	if ch == nil {
		ch = make(chan struct{})
		w.waiting[store] = ch
	}
	return ch
}

func (w *watches) changed(store relation.StoreID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.waiting[store]; ch != nil {
		close(ch)
		delete(w.waiting, store)
	}
}

func (w *watches) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.over = true
		close(w.ended)
	}
}
