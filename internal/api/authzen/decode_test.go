package authzen

import (
	"encoding/json"
	"strings"
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// Whatever is read from a body is either refused as invalid, or a question of
// well-formed names whose attributes are those that were sent.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"1"}}`,
		`{"subject":{"type":"user","id":"a","properties":{"x":1}},"action":{"name":"read","properties":{"y":null}},"resource":{"type":"r","id":"1","properties":{"z":[{}]}},"context":{"c":1.5},"page":{"limit":2,"token":"YQ"}}`,
		`{"evaluations":[{"subject":{"type":"team","id":"core#member"}},{}],"action":{"name":"a"},"resource":{"type":"r","id":"1"},"options":{"evaluations_semantic":"deny_on_first_deny"}}`,
		`{"subject":{"type":"user:a","id":"b"},"subject_x":1}`, `{"context":{"subject_x":1},"subject":{"type":"u","id":"*","properties":{"x":2}}}`,
		`{"evaluations":null}`, `{"page":{"limit":1e308}}`, `{"page":{"limit":-0.0}}`, `{"a":"\ud800"}`, "{\"\xff\":1}", `{"a":1,"\u0061":2}`, strings.Repeat(`{"context":`, 20), `{"subject":{"type":"` + strings.Repeat("t", 254) + `","id":"x"}}`,
	} {
		f.Add([]byte(s))
	}
	c := &call{store: &directory.Graph{ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := web.Object(raw)
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		m := members(o)
		b, err := m.boxcar()
		if err != nil {
			mustBeInvalid(t, err)
		}
		for _, q := range append(b.items, b.defaults) {
			asked, err := c.query(q)
			if err != nil {
				mustBeInvalid(t, err)
				continue
			}
			mustBeNamed(t, asked, q)
		}
		for _, kind := range []string{"subject", "resource", "action"} {
			q, err := m.question(kind)
			if err != nil {
				mustBeInvalid(t, err)
			} else if _, err := q.attributes(); err != nil {
				mustBeInvalid(t, err)
			}
		}
		if p, err := m.turn(); err != nil {
			mustBeInvalid(t, err)
		} else if _, _, _, ok := opened(p.token, strings.Repeat("x", tokenHash)); ok || p.limit < -1 || p.limit > MaxPage {
			t.Fatalf("%s: %+v", raw, p)
		}
	})
}

func mustBeInvalid(t *testing.T, err error) {
	t.Helper()
	if fault.KindOf(err) != fault.Invalid || statusOf(err) != 400 || fault.Public(err) == "" {
		t.Fatalf("refused with %v", err)
	}
}

func mustBeNamed(t *testing.T, asked authz.Query, q question) {
	t.Helper()
	tuple := relation.Tuple{Object: asked.Object, Relation: asked.Relation, Subject: asked.Subject}
	if err := tuple.Validate(); err != nil {
		t.Fatalf("%v: %v", tuple, err)
	}
	typ, id, _ := relation.SplitObject(asked.Object)
	who, rest, _ := strings.Cut(asked.Subject, ":")
	if typ != q.resource.typ || id != q.resource.id || who != q.subject.typ || rest != q.subject.id || asked.Relation != q.action.id {
		t.Fatalf("%+v became %v", q, tuple)
	}
	if n := len(q.context) + len(q.subject.properties) + len(q.resource.properties) + len(q.action.properties); len(asked.Context) != n || n > MaxAttributes || (asked.Context == nil) != (n == 0) {
		t.Fatalf("%d attributes became %d", n, len(asked.Context))
	}
	if _, err := json.Marshal(asked.Context); err != nil {
		t.Fatal(err)
	}
}

// A token of a page, format 1, byte for byte.
func TestPageTokenForm(t *testing.T) {
	t.Parallel()
	p := paging{limit: 258, question: [tokenHash]byte([]byte("0123456789abcdef"))}
	revision := strings.Repeat("R", tokenRevision)
	token := p.token(revision, "record:1")
	want := "YTAxMjM0NTY3ODlhYmNkZWYAAAEC" + "UlJS" + strings.Repeat("UlJS", 25) + "UnJlY29yZDox"
	if token != want {
		t.Errorf("%s\n%s", token, want)
	}
	limit, rev, last, ok := opened(token, "0123456789abcdef")
	if !ok || limit != 258 || rev != revision || last != "record:1" {
		t.Error(limit, rev, last, ok)
	}
}
