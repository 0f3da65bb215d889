package transfer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/transfer"
)

// hostile is a server that answers each path below its store as it likes.
func hostile(t *testing.T, answer func(path string, n int64) any) transfer.Store {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/stores/"), "/")
		_ = json.NewEncoder(w).Encode(answer(path, n.Add(1)))
	}))
	t.Cleanup(s.Close)
	return transfer.Store{URL: s.URL, ID: "x", HTTP: s.Client()}
}

type object map[string]any

// TestEndlessServers: a server that leads in a circle, or gives more than anyone
// can keep, is left.
func TestEndlessServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tuple := object{"key": object{"object": "doc:a", "relation": "viewer", "user": "user:a"}}
	models := object{"authorization_models": []object{{"id": "m", "schema_version": "1.1", "type_definitions": []object{
		{"type": "user"}, {"type": "doc", "relations": object{"viewer": object{"this": object{}}}, "metadata": object{"relations": object{"viewer": object{"directly_related_user_types": []object{{"type": "user"}}}}}},
	}}}}
	circle := func(n int64) string { return fmt.Sprint("place ", n%3) }
	big := strings.Repeat("x", 3<<20)
	for name, c := range map[string]struct {
		answer func(path string, n int64) any
		text   string
	}{
		"tuples in a circle": {func(path string, n int64) any {
			if path == "read" {
				return object{"tuples": []object{tuple}, "continuation_token": circle(n)}
			}
			return models
		}, "again and again"},
		"changes in a circle": {func(path string, n int64) any {
			switch path {
			case "read":
				return object{}
			case "changes":
				return object{"changes": []object{{"tuple_key": tuple["key"], "operation": "TUPLE_OPERATION_WRITE"}}, "continuation_token": circle(n)}
			}
			return models
		}, "again and again"},
		"models in a circle": {func(path string, n int64) any {
			return object{"authorization_models": models["authorization_models"], "continuation_token": circle(n)}
		}, "again and again"},
		"endless models": {func(path string, n int64) any {
			return object{"authorization_models": []object{{"id": fmt.Sprint(n), "type_definitions": big}}, "continuation_token": fmt.Sprint(n)}
		}, "more models than can be kept"},
		"a change that is neither": {func(path string, n int64) any {
			switch path {
			case "read":
				return object{}
			case "changes":
				return object{"changes": []object{{"tuple_key": tuple["key"], "operation": "TUPLE_OPERATION_OTHER"}}, "continuation_token": "a"}
			}
			return models
		}, "neither written nor deleted"},
	} {
		m := w.into(hostile(t, c.answer))
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if err := m.Copy(ctx); err == nil || !strings.Contains(fault.Public(err), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// TestAnswerThatNeverEnds: a body that stops arriving is no answer.
func TestAnswerThatNeverEnds(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"name":`))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	store := transfer.Store{URL: s.URL, ID: "x", HTTP: s.Client(), Patience: 50 * time.Millisecond}
	if _, _, err := store.Info(context.Background()); fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), "did not arrive whole") {
		t.Errorf("%v", err)
	}
}

// TestFollowsModels: a model that was written there is in force here, too, before
// any tuple needs it: it may take rights away.
func TestFollowsModels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.source(strings.Replace(model, "viewer but not banned", "viewer", 1))
	both := []relation.Tuple{{Object: "doc:a", Relation: "viewer", Subject: "user:a"}, {Object: "doc:a", Relation: "banned", Subject: "user:a"}}
	w.write(from, both, nil)
	m := w.into(from)
	w.Must(m.Copy(context.Background()))
	allowed := func() bool {
		t.Helper()
		d, err := w.Authz.Check(context.Background(), authz.Query{Store: relation.StoreID(m.To.ID), Object: "doc:a", Relation: "can_view", Subject: "user:a"})
		w.Must(err)
		return d.Allowed
	}
	if !allowed() {
		t.Fatal("the first model denies")
	}
	_, _, err := w.Authz.PublishModel(context.Background(), w.change(from), authz.FreeApplication(relation.StoreID(from.ID)), model)
	w.Must(err)
	w.Must(m.CatchUp(context.Background()))
	if allowed() {
		t.Error("the newer model did not come over")
	}
}

// TestModelWhoseWriteFailed: a newer model that could not be written at first is
// written when the page is replayed, and nothing is skipped for it.
func TestModelWhoseWriteFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.source(model)
	m := w.into(from)
	w.Must(m.Copy(context.Background()))
	_, _, err := w.Authz.PublishModel(context.Background(), w.change(from), authz.FreeApplication(relation.StoreID(from.ID)), later)
	w.Must(err)
	tool := relation.Tuple{Object: "tool:x", Relation: "user", Subject: "user:a"}
	w.write(from, []relation.Tuple{tool}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	m.To.HTTP = between{w.door.Client(), func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/authorization-models") {
			cancel() // as if we were away
		}
	}}
	if err := m.CatchUp(ctx); err == nil {
		t.Fatal("nothing failed")
	}
	m.To.HTTP = w.door.Client()
	w.Must(m.CatchUp(context.Background()))
	if all := w.all(m.To); len(all) != 1 || all[0] != tool || m.Report.Skipped != 0 {
		t.Errorf("here is %v, the report is %+v", all, m.Report)
	}
}

// TestSkipsAreRemembered: a run that goes on where another ended does not say that
// everything is here when the first one left something out.
func TestSkipsAreRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.source(later)
	w.write(from, []relation.Tuple{{Object: "tool:x", Relation: "user", Subject: "user:a"}}, nil)
	_, _, err := w.Authz.PublishModel(context.Background(), w.change(from), authz.FreeApplication(relation.StoreID(from.ID)), model)
	w.Must(err)
	m := w.into(from)
	var saved transfer.State
	m.Save = func(s transfer.State) error { saved = s; return nil }
	w.Must(m.Copy(context.Background()))
	again := &transfer.Import{From: from, To: m.To, Now: time.Now, State: saved}
	w.Must(again.Copy(context.Background()))
	if m.Report.Skipped != 2 || again.Report.Skipped != 2 {
		t.Errorf("skipped %d, and then %d", m.Report.Skipped, again.Report.Skipped)
	}
}
