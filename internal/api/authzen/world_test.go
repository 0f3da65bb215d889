package authzen_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"bulwark.example/internal/api/authzen"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// origin is where the API says that it is.
const origin = "https://pdp.test"

// world is a node with the API for a door.
type world struct {
	*guardtest.World
	door guardtest.Door
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: guardtest.New(t)}
	w.door = w.Serve(authzen.New(authzen.Config{
		Guard: w.Guard, Directory: w.Directory, Authz: w.Authz, URL: origin, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}))
	return w
}

// free makes a free store of acme with the model, none if it is empty, and the tuples.
func (w *world) free(model string, tuples ...relation.Tuple) relation.StoreID {
	w.T.Helper()
	g, err := w.Directory.CreateGraph(context.Background(), ledger.Event{Subject: "system"}, w.Acme.Tenant, "a free store")
	w.Must(err)
	if model != "" {
		w.publish(g.ID, model)
	}
	w.put(g.ID, tuples...)
	return g.ID
}

func (w *world) change(store relation.StoreID, action string) ledger.Change {
	return ledger.Change{Store: store, Event: ledger.Event{
		ID: tenant.RandomID(), Time: w.Now(), Class: ledger.Mutation, Action: action, Subject: "system", Tenant: w.Acme.Tenant,
	}}
}

func (w *world) publish(store relation.StoreID, model string) {
	w.T.Helper()
	_, _, err := w.Authz.PublishModel(context.Background(), w.change(store, "model.write"), authz.FreeApplication(store), model)
	w.Must(err)
}

func (w *world) put(store relation.StoreID, tuples ...relation.Tuple) {
	w.T.Helper()
	for len(tuples) > 0 {
		n := min(len(tuples), authz.MaxWrite)
		_, err := w.Authz.Write(context.Background(), w.change(store, "tuple.write"), "", authz.Write{Writes: tuples[:n]})
		w.Must(err)
		tuples = tuples[n:]
	}
}

// tuples reads "object#relation@subject", with a condition's name behind a space.
func tuples(texts ...string) []relation.Tuple {
	var out []relation.Tuple
	for _, text := range texts {
		text, condition, _ := strings.Cut(text, " ")
		object, rest, _ := strings.Cut(text, "#")
		rel, subject, _ := strings.Cut(rest, "@")
		out = append(out, relation.Tuple{Object: object, Relation: rel, Subject: subject, Condition: condition})
	}
	return out
}

// ask sends a question about a store as somebody; about the only default store
// if none is named.
func (w *world) ask(who string, store relation.StoreID, call, body string, header ...string) guardtest.Reply {
	w.T.Helper()
	h := guardtest.Bearer(w.Token(who, "authz"))
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = append(h[header[i]], header[i+1])
	}
	return w.door.Send("POST", path(store, call), body, h)
}

func path(store relation.StoreID, call string) string {
	if store != "" {
		return "/stores/" + string(store) + "/access/v1/" + call
	}
	return "/access/v1/" + call
}

// answer is any of the contract's.
type answer struct {
	Decision    *bool    `json:"decision"`
	Evaluations []answer `json:"evaluations"`
	Context     struct {
		Reason     string          `json:"reason"`
		Revision   string          `json:"revision"`
		Trace      json.RawMessage `json:"trace"`
		Truncated  bool            `json:"truncated"`
		Unanswered []string        `json:"unanswered"`
		Error      *struct {
			Status  int    `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	} `json:"context"`
	Page *struct {
		Next  *string `json:"next_token"`
		Count int     `json:"count"`
	} `json:"page"`
	Results []struct{ Type, ID, Name string } `json:"results"`
}

// read takes an answer that must be one.
func (w *world) read(r guardtest.Reply) answer {
	w.T.Helper()
	var a answer
	if err := json.Unmarshal([]byte(r.Body), &a); err != nil || r.Status != 200 || r.Header.Get("Content-Type") != "application/json" {
		w.T.Fatalf("answered %d %s: %v", r.Status, r.Body, err)
	}
	return a
}

// decisions spells decisions: + allowed, - denied, ! no answer.
func (a answer) decisions() string {
	switch {
	case a.Evaluations != nil && a.Decision == nil:
		s := ""
		for _, e := range a.Evaluations {
			s += e.decisions()
		}
		return s
	case a.Decision == nil:
		return "?"
	case a.Context.Error != nil && !*a.Decision:
		return "!"
	case *a.Decision && a.Context.Error == nil:
		return "+"
	case !*a.Decision:
		return "-"
	}
	return "?"
}

// names spells the results of a search.
func (a answer) names() string {
	var all []string
	for _, r := range a.Results {
		if r.Name == "" {
			r.Name = r.Type + ":" + r.ID
		}
		all = append(all, r.Name)
	}
	return strings.Join(all, " ")
}

// refused holds an answer to the contract's form of an error.
func refused(t *testing.T, what string, r guardtest.Reply, status int) {
	t.Helper()
	if r.Status != status || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" || len(r.Body) < 10 || strings.Contains(r.Body, "{") && !strings.Contains(r.Body, "{store_id}") ||
		r.Header.Get(authzen.RevisionHeader) != "" {
		t.Errorf("%s: %d %v %s, want %d", what, r.Status, r.Header, r.Body, status)
	}
}

func bearer(token string) http.Header { return guardtest.Bearer(token) }

// second gives every tenant a default store for one application more, as an
// operator does by naming it.
func (w *world) second(application string) {
	w.T.Helper()
	ctx := context.Background()
	more, err := directory.New(ctx, directory.Config{
		Store: w.Store.Directory(), Env: guardtest.Env, Applications: []string{"docs", application}, MaxToken: sts.MaxTokenLife, Now: w.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.Random(32), nil },
	})
	w.Must(err)
	w.Must(more.EnsureGraphs(ctx))
}
