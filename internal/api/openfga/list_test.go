package openfga_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"bulwark.example/internal/api/openfga"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

func listBody(user string) string {
	return `{"type":"note","relation":"reader","user":"` + user + `"}`
}

type objects struct {
	Objects []string `json:"objects"`
}

// many writes n notes that anne owns.
func (w *world) many(store relation.StoreID, n int) []string {
	w.T.Helper()
	var all, parts []string
	for i := range n {
		name := fmt.Sprintf("note:%04d", i)
		all = append(all, name)
		if parts = append(parts, name, "owner", "user:anne"); len(parts) == 300 || i == n-1 {
			w.put(store, parts...)
			parts = nil
		}
	}
	return all
}

// A list comes whole, also beyond OpenFGA's thousand, or in pages of any size
// that hold each object once.
func TestListPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(notes)
	all := w.many(store, 1203)
	header := guardtest.Bearer(w.Token("caller@acme", "authz"))
	path := "/stores/" + string(store) + "/list-objects"
	r := w.send("POST", path, listBody("user:anne"), header)
	if got := read[objects](w, r); !slices.Equal(got.Objects, all) || r.Header.Get(openfga.NextCursorHeader) != "" || r.Header.Get(openfga.TruncatedHeader) != "" {
		t.Errorf("whole: %d objects with %v", len(got.Objects), r.Header)
	}
	ev := w.One(r.Header.Get(web.RequestIDHeader))
	if ev.Action != "decision.list_objects" || ev.Detail["listed"] != "1203" || ev.Detail["asked"] != "user:anne" || ev.Resource != "note:" || ev.Revision.Rev == 0 {
		t.Errorf("recorded as %+v", ev)
	}
	for _, size := range []string{"1", "400", "1203", "1204", "100000"} {
		if size == "1" {
			continue // a page for each is only slow; 100 of them below
		}
		var got []string
		h := header.Clone()
		h.Set(openfga.PageSizeHeader, size)
		for pages := 0; ; pages++ {
			r := w.send("POST", path, listBody("user:anne"), h)
			got = append(got, read[objects](w, r).Objects...)
			next := r.Header.Get(openfga.NextCursorHeader)
			if next == "" {
				break
			}
			if h.Set(openfga.CursorHeader, next); pages > 5 {
				t.Fatal("the pages do not end")
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("in pages of %s: %d objects", size, len(got))
		}
	}
	stream := w.send("POST", "/stores/"+string(store)+"/streamed-list-objects", listBody("user:anne"), header)
	lines := strings.Split(strings.TrimSuffix(stream.Body, "\n"), "\n")
	if len(lines) != 1203 || lines[7] != `{"result":{"object":"note:0007"}}` || stream.Header.Get("Content-Type") != "application/json" {
		t.Errorf("streamed %d lines: %.60s", len(lines), stream.Body)
	}
}

// A page goes on where the one before ended, whatever was written meanwhile,
// and a cursor goes on with its own list only.
func TestListCursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, other := w.free(notes), w.free(notes)
	w.many(store, 4)
	w.many(other, 4)
	call := func(store relation.StoreID, user, size, cursor string) guardtest.Reply {
		t.Helper()
		h := guardtest.Bearer(w.Token("caller@acme", "authz"))
		h.Set(openfga.PageSizeHeader, size)
		if cursor != "" {
			h.Set(openfga.CursorHeader, cursor)
		}
		return w.send("POST", "/stores/"+string(store)+"/list-objects", listBody(user), h)
	}
	first := call(store, "user:anne", "2", "")
	cursor := first.Header.Get(openfga.NextCursorHeader)
	w.put(store, "note:0001a", "owner", "user:anne", "note:0000a", "owner", "user:anne")
	rest := call(store, "user:anne", "9", cursor)
	if got := read[objects](w, rest); strings.Join(got.Objects, " ") != "note:0001a note:0002 note:0003" {
		t.Errorf("the second page is %v", got)
	}
	h := guardtest.Bearer(w.Token("caller@acme", "authz"))
	h.Set(openfga.CursorHeader, cursor)
	for name, r := range map[string]guardtest.Reply{
		"another question": call(store, "user:bob", "2", cursor),
		"another store":    call(other, "user:anne", "2", cursor),
		"a changed byte":   call(store, "user:anne", "2", "X"+cursor[1:]),
		"a shorter one":    call(store, "user:anne", "2", cursor[:20]),
		"a longer one":     call(store, "user:anne", "2", strings.Repeat(cursor, 50)),
		"no page size":     w.send("POST", "/stores/"+string(store)+"/list-objects", listBody("user:anne"), h),
		"a page of none":   call(store, "user:anne", "0", ""),
		"a huge page":      call(store, "user:anne", "100001", ""),
		"no number":        call(store, "user:anne", "x", ""),
	} {
		if refusal(t, r, 400, "validation_error"); t.Failed() {
			t.Fatal(name)
		}
	}
	var header metadata.MD
	users, err := w.grpc.ListUsers(w.as("caller@acme", "bulwark-page-size", "1"), &fga.ListUsersRequest{
		StoreId: string(store), Object: &fga.Object{Type: "note", Id: "0001"}, Relation: "reader", UserFilters: []*fga.UserTypeFilter{{Type: "user"}},
	}, grpc.Header(&header))
	w.Must(err)
	if len(users.GetUsers()) != 1 || len(header.Get("bulwark-next-cursor")) != 0 {
		t.Errorf("users %v with %v", users, header)
	}
}

// A revision that an answer named is good for every later question about the
// store, and for no other.
func TestAtLeast(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, other := w.free(notes), w.free(notes)
	w.many(store, 1)
	r := w.ask("caller@acme", store, "list-objects", listBody("user:anne"))
	revision := r.Header.Get(openfga.RevisionHeader)
	ahead, err := w.Authz.ParseToken(t.Context(), store, revision)
	w.Must(err)
	ahead.Rev += 5
	restored := ahead
	restored.Rev, restored.Epoch = 1, 7
	for name, c := range map[string]struct {
		store  relation.StoreID
		token  string
		status int
		code   string
	}{
		"of another store":  {other, revision, 400, "validation_error"},
		"of the future":     {store, w.Authz.Token(ahead), 503, "unavailable"},
		"of another epoch":  {store, w.Authz.Token(restored), 400, "validation_error"},
		"of another's make": {store, "A" + revision[1:len(revision)-1] + "A", 400, "validation_error"},
		"of nothing":        {store, "", 200, ""},
		"of the past":       {store, revision, 200, ""},
	} {
		for call, body := range map[string]string{
			"list-objects": listBody("user:anne"), "check": `{"tuple_key":` + tuple("user:anne", "reader", "note:0000") + `}`,
			"batch-check": `{"checks":[{"correlation_id":"a","tuple_key":` + tuple("user:anne", "reader", "note:0000") + `}]}`,
			"expand":      `{"tuple_key":{"object":"note:0000","relation":"reader"}}`,
		} {
			h := http.Header{openfga.AtLeastHeader: {c.token}, "Authorization": guardtest.Bearer(w.Token("caller@acme", "authz"))["Authorization"]}
			r := w.send("POST", "/stores/"+string(c.store)+"/"+call, body, h)
			if c.status == 200 && r.Status != 200 {
				t.Errorf("%s, %s: %d %s", name, call, r.Status, r.Body)
			} else if c.status != 200 {
				refusal(t, r, c.status, c.code)
			}
		}
	}
}
