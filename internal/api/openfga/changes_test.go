package openfga_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/web"
)

// The history in pages, by type and from a time on.
func TestReadChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(notes)
	w.put(store, "note:a", "owner", "user:anne", "team:x", "member", "user:bob")
	middle := w.Now()
	w.put(store, "note:b", "owner", "user:anne")
	ctx := w.as("access_manager@acme")
	_, err := w.grpc.Write(ctx, &fga.WriteRequest{StoreId: string(store), Deletes: &fga.WriteRequestDeletes{TupleKeys: []*fga.TupleKeyWithoutCondition{{Object: "note:a", Relation: "owner", User: "user:anne"}}}})
	w.Must(err)
	w.Must(putGuarded(t, w, store))
	all := func(q *fga.ReadChangesRequest) string {
		t.Helper()
		q.StoreId = string(store)
		var got []string
		for {
			page, err := w.grpc.ReadChanges(ctx, q)
			w.Must(err)
			if len(page.GetChanges()) == 0 {
				return strings.Join(got, " ")
			}
			for _, c := range page.GetChanges() {
				sign := map[fga.TupleOperation]string{fga.TupleOperation_TUPLE_OPERATION_WRITE: "+", fga.TupleOperation_TUPLE_OPERATION_DELETE: "-"}[c.GetOperation()]
				got = append(got, sign+c.GetTupleKey().GetObject()+strings.Repeat("?", len(c.GetTupleKey().GetCondition().GetName())))
				if c.GetTimestamp().AsTime().IsZero() {
					t.Error("a change has no time")
				}
			}
			q.ContinuationToken = page.GetContinuationToken()
		}
	}
	for size := int32(1); size <= 100; size += 33 {
		page := wrapperspb.Int32(size)
		if got := all(&fga.ReadChangesRequest{PageSize: page}); got != "+note:a +team:x +note:b -note:a +note:plan??????" {
			t.Errorf("in pages of %d: %s", size, got)
		}
		if got := all(&fga.ReadChangesRequest{PageSize: page, Type: "team"}); got != "+team:x" {
			t.Errorf("of teams: %s", got)
		}
		if got := all(&fga.ReadChangesRequest{PageSize: page, StartTime: timestamppb.New(middle)}); got != "+note:b -note:a +note:plan??????" {
			t.Errorf("from the middle: %s", got)
		}
	}
	first, err := w.grpc.ReadChanges(ctx, &fga.ReadChangesRequest{StoreId: string(store), Type: "team"})
	w.Must(err)
	for name, c := range map[string]struct {
		q    *fga.ReadChangesRequest
		want int
	}{
		"of another type":  {&fga.ReadChangesRequest{Type: "note", ContinuationToken: first.GetContinuationToken()}, int(fga.ErrorCode_query_string_type_continuation_token_mismatch)},
		"no token":         {&fga.ReadChangesRequest{ContinuationToken: "abcd"}, int(fga.ErrorCode_invalid_continuation_token)},
		"a page too large": {&fga.ReadChangesRequest{PageSize: wrapperspb.Int32(101)}, 3},
		"a page of none":   {&fga.ReadChangesRequest{PageSize: wrapperspb.Int32(0)}, 3},
		"the future":       {&fga.ReadChangesRequest{StartTime: timestamppb.New(time.Now().Add(time.Hour))}, 3},
	} {
		c.q.StoreId = string(store)
		if _, err := w.grpc.ReadChanges(ctx, c.q); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := w.get("access_manager@acme", "/stores/"+string(store)+"/changes?page_size=2&type=note&start_time="+middle.Format(time.RFC3339Nano))
	var page struct{ Changes []json.RawMessage }
	if err := json.Unmarshal([]byte(r.Body), &page); err != nil || len(page.Changes) != 2 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	for _, query := range []string{"?page_size=101", "?start_time=yesterday", "?since=1", "?continuation_token=a&continuation_token=b"} {
		if r := w.get("access_manager@acme", "/stores/"+string(store)+"/changes"+query); r.Status != 400 {
			t.Errorf("%s: %d %s", query, r.Status, r.Body)
		}
	}
}

func putGuarded(t *testing.T, w *world, store relation.StoreID) error {
	t.Helper()
	_, err := w.grpc.Write(w.as("access_manager@acme"), &fga.WriteRequest{StoreId: string(store), Writes: &fga.WriteRequestWrites{TupleKeys: []*fga.TupleKey{guarded(t)}}})
	return err
}

// watcher reads a watch line by line.
type watcher struct {
	*bufio.Scanner
	t    testing.TB
	body io.Closer
	resp *http.Response
}

type watched struct {
	Result struct {
		Changes []struct {
			Key       relation.Tuple `json:"tuple_key"`
			Operation string         `json:"operation"`
		} `json:"changes"`
		Token string `json:"continuation_token"`
	} `json:"result"`
	Error struct{ Code, Message string } `json:"error"`
}

func (w *world) watch(ctx context.Context, store relation.StoreID, token, query string) *watcher {
	w.T.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", w.door.URL+"/stores/"+string(store)+"/watch"+query, nil)
	w.Must(err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := w.door.Client().Do(r)
	w.Must(err)
	w.T.Cleanup(func() { _ = resp.Body.Close() })
	return &watcher{bufio.NewScanner(resp.Body), w.T, resp.Body, resp}
}

// next waits for a line that says something.
func (r *watcher) next() watched {
	r.t.Helper()
	for {
		if !r.Scan() {
			r.t.Fatalf("the watch ended: %v", r.Err())
		}
		var line watched
		if err := json.Unmarshal(r.Bytes(), &line); err != nil {
			r.t.Fatalf("%v: %s", err, r.Text())
		}
		if len(line.Result.Changes) > 0 || line.Error.Code != "" {
			return line
		}
	}
}

// A watch tells what was written before, then what is written, in order and
// once; it goes on from a token.
func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, other := w.free(notes), w.free(notes)
	w.put(store, "note:a", "owner", "user:anne", "team:x", "member", "user:bob")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	token := w.Token("access_manager@acme", "authz")
	r := w.watch(ctx, store, token, "")
	if r.resp.StatusCode != 200 || r.resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%d %v", r.resp.StatusCode, r.resp.Header)
	}
	ev := w.One(r.resp.Header.Get(web.RequestIDHeader))
	if ev.Class != ledger.AdminRead || ev.Action != "tuple.watch" || ev.Resource != "store:"+string(store) {
		t.Errorf("recorded as %+v", ev)
	}
	first := r.next()
	if len(first.Result.Changes) != 2 || first.Result.Changes[0].Key.Object != "note:a" || first.Result.Changes[0].Operation != "TUPLE_OPERATION_WRITE" {
		t.Fatalf("began with %+v", first)
	}
	w.put(other, "note:z", "owner", "user:anne") // wakes nobody
	var got []string
	for i := range 30 {
		w.put(store, fmt.Sprintf("note:%d", i), "owner", "user:anne")
	}
	var resume string
	for len(got) < 30 {
		line := r.next()
		for _, c := range line.Result.Changes {
			got = append(got, c.Key.Object)
		}
		if resume == "" {
			resume = line.Result.Token
		}
	}
	for i, name := range got {
		if name != fmt.Sprintf("note:%d", i) {
			t.Fatalf("the change %d is %s", i, name)
		}
	}
	again := w.watch(ctx, store, token, "?type=note&continuation_token="+typed(w, store))
	w.put(store, "team:y", "member", "user:bob")
	w.put(store, "note:last", "owner", "user:anne")
	if line := again.next(); line.Result.Changes[0].Key.Object != "note:last" {
		t.Errorf("of notes: %+v", line)
	}
	from := w.watch(ctx, store, token, "?continuation_token="+resume)
	if line := from.next(); line.Result.Changes[0].Key.Object == "note:a" {
		t.Errorf("resumed with %+v", line)
	}
	for _, query := range []string{"?page_size=1", "?continuation_token=x", "?type=a:b"} {
		if r := w.get("access_manager@acme", "/stores/"+string(store)+"/watch"+query); r.Status != 400 {
			t.Errorf("%s: %d %s", query, r.Status, r.Body)
		}
	}
	refusal(t, w.send("POST", "/stores/"+string(store)+"/watch", "", guardtest.Bearer(token)), 405, "unimplemented")
	refusal(t, w.get("caller@acme", "/stores/"+string(store)+"/watch"), 403, "forbidden")
}

// typed is a token at the end of the notes' history.
func typed(w *world, store relation.StoreID) string {
	w.T.Helper()
	q := &fga.ReadChangesRequest{StoreId: string(store), Type: "note"}
	for {
		page, err := w.grpc.ReadChanges(w.as("access_manager@acme"), q)
		w.Must(err)
		if len(page.GetChanges()) == 0 {
			return q.GetContinuationToken()
		}
		q.ContinuationToken = page.GetContinuationToken()
	}
}

// A watch ends with what let it begin, before another change gets out.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	ctx, by := context.Background(), ledger.Event{Subject: "system"}
	for name, c := range map[string]struct {
		end  func(*world, relation.StoreID) error
		code string
	}{
		"the role": {func(w *world, _ relation.StoreID) error {
			return w.Directory.UnassignRole(ctx, by, w.Acme.Tenant, w.ID("auditor@acme"), "auditor")
		}, "forbidden"},
		"the person": {func(w *world, _ relation.StoreID) error {
			return w.Directory.SetUserState(ctx, by, w.Acme.Tenant, w.ID("auditor@acme"), directory.Suspended)
		}, "unauthenticated"},
		"the token": {func(w *world, _ relation.StoreID) error {
			w.Advance(sts.MaxTokenLife + time.Minute)
			w.Directory.Confirm()
			return nil
		}, "unauthenticated"},
		"the store": {func(w *world, store relation.StoreID) error {
			_, err := w.grpc.DeleteStore(w.as("administrator@acme"), &fga.DeleteStoreRequest{StoreId: string(store)})
			return err
		}, "store_id_not_found"},
		"the server": {func(w *world, _ relation.StoreID) error { w.api.Drain(); return nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			store := w.free(notes)
			r := w.watch(ctx, store, w.Token("auditor@acme", "authz"), "")
			w.put(store, "note:a", "owner", "user:anne")
			if line := r.next(); len(line.Result.Changes) != 1 {
				t.Fatalf("began with %+v", line)
			}
			w.Must(c.end(w, store))
			if name != "the store" && name != "the server" {
				w.put(store, "note:b", "owner", "user:anne")
			}
			if c.code == "" {
				for r.Scan() {
					t.Errorf("after the end: %s", r.Text())
				}
				refusal(t, w.get("auditor@acme", "/stores/"+string(store)+"/watch"), 503, "unavailable")
				return
			}
			if line := r.next(); line.Error.Code != c.code || line.Error.Message == "" || len(line.Result.Changes) > 0 {
				t.Errorf("ended with %+v", line)
			}
			if r.Scan() {
				t.Errorf("after the end: %s", r.Text())
			}
		})
	}
}

// A tenant may watch so often and no more, and others still may.
func TestTooManyWatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(notes)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	token := w.Token("auditor@acme", "authz")
	for range 64 {
		if r := w.watch(ctx, store, token, ""); r.resp.StatusCode != 200 {
			t.Fatal(r.resp.StatusCode)
		}
	}
	r := w.get("auditor@acme", "/stores/"+string(store)+"/watch")
	refusal(t, r, 429, "resource_exhausted")
	if r := w.watch(ctx, w.graph("globex"), w.Token("auditor@globex", "authz"), ""); r.resp.StatusCode != 200 {
		t.Error(r.resp.StatusCode)
	}
}
