package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

// echo is a body with every shape that the walker meets.
type echo struct {
	Name  string            `json:"name"`
	Count int               `json:"count,omitempty"`
	List  []echo            `json:"list,omitempty"`
	Free  json.RawMessage   `json:"free,omitempty"`
	Map   map[string]string `json:"map,omitempty"`
	At    time.Time         `json:"at,omitzero"`
}

// serve starts a Mux with one route that echoes, over real TLS.
func serve(t *testing.T, logs io.Writer) *httptest.Server {
	t.Helper()
	m := NewMux(Config{Logger: slog.New(slog.NewTextHandler(logs, nil)), MaxBody: 4 << 10})
	m.Handle("POST /echo/{id}", func(w http.ResponseWriter, r *http.Request) error {
		var in echo
		if err := Decode(r, &in); err != nil {
			return err
		}
		return Send(w, http.StatusOK, in)
	})
	m.Handle("GET /fail/{kind}", func(_ http.ResponseWriter, r *http.Request) error {
		for _, a := range answers {
			if a.kind.String() == r.PathValue("kind") {
				return fault.Wrap(a.kind, "the public text", errors.New("the-private-cause"))
			}
		}
		return errors.New("the-unknown-cause")
	})
	m.Handle("GET /panic", func(http.ResponseWriter, *http.Request) error { panic("the-secret-value") })
	m.Handle("GET /half", func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic("too late")
	})
	m.Handle("GET /query", func(w http.ResponseWriter, r *http.Request) error {
		q, err := Query(r, "limit", "cursor")
		if err != nil {
			return err
		}
		if err := Empty(r); err != nil {
			return err
		}
		return Send(w, http.StatusOK, q)
	})
	m.Handle("GET /who", func(w http.ResponseWriter, r *http.Request) error {
		return Send(w, http.StatusOK, []any{RequestID(r), Source(r).String(), Authorization(r)})
	})
	s := httptest.NewTLSServer(m)
	t.Cleanup(s.Close)
	return s
}

func do(t *testing.T, s *httptest.Server, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := s.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(got)
}

func TestEveryAnswerIsHardened(t *testing.T) {
	t.Parallel()
	s := serve(t, io.Discard)
	seen := map[string]bool{}
	for _, path := range []string{"/query", "/nothing", "/echo/1", "/fail/internal", "/panic", "/query/../query", "//query"} {
		_, h, _ := do(t, s, "GET", path, "", RequestIDHeader, "chosen-by-the-client")
		id := h.Get(RequestIDHeader)
		if !tenant.ValidID(id) || seen[id] {
			t.Errorf("%s: request id %q is not fresh", path, id)
		}
		seen[id] = true
		if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: a security header is missing: %v", path, h)
		}
	}
}

func TestFaultsBecomeProblems(t *testing.T) {
	t.Parallel()
	var logs safeBuffer
	s := serve(t, &logs)
	want := map[string]int{
		"internal": 500, "invalid": 400, "unauthenticated": 401, "denied": 403, "not_found": 404, "conflict": 409,
		"exhausted": 429, "too_large": 413, "unavailable": 503, "integrity": 500, "unsupported": 422, "unknown": 500,
	}
	if len(want) != len(answers)+1 {
		t.Fatal("a kind has no case")
	}
	for i, a := range answers {
		if int(a.kind) != i {
			t.Fatalf("the table is out of order at %s", a.kind)
		}
	}
	for kind, status := range want {
		got, h, body := do(t, s, "GET", "/fail/"+kind, "")
		if got != status || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", kind, got, h.Get("Content-Type"))
		}
		if strings.Contains(body, "cause") {
			t.Errorf("%s: the cause leaked: %s", kind, body)
		}
		if (status == 401) != (h.Get("WWW-Authenticate") != "") || (status == 503 || status == 429) != (h.Get("Retry-After") != "") {
			t.Errorf("%s: hint headers %v", kind, h)
		}
		back := ReadProblem(got, []byte(body))
		if kind != "unknown" && (fault.KindOf(back).String() != kind || fault.Public(back) != "the public text") {
			t.Errorf("%s: read back as %s %q", kind, fault.KindOf(back), fault.Public(back))
		}
	}
	if !strings.Contains(logs.String(), "the-private-cause") {
		t.Error("the cause of our own failure is not in the log")
	}
}

func TestReadProblemOfStrangers(t *testing.T) {
	t.Parallel()
	for body, status := range map[string]int{"": 503, "<html>": 503, "{}": 503, `{"detail":1}`: 503, strings.Repeat("x", maxProblem+1): 503} {
		if err := ReadProblem(status, []byte(body)); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%.20q: %v", body, err)
		}
	}
	err := ReadProblem(403, []byte(`{"type":"urn:bulwark:problem:denied","detail":"no","decision_id":"7"}`))
	if DecisionID(err) != "7" || fault.Public(err) != "no" || fault.KindOf(err) != fault.Denied {
		t.Errorf("%v %q", err, DecisionID(err))
	}
}

func TestRoutesAreExact(t *testing.T) {
	t.Parallel()
	s := serve(t, io.Discard)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/query", 200}, {"HEAD", "/query", 200}, {"POST", "/query", 405}, {"GET", "/echo/1", 405}, {"BREW", "/query", 405},
		{"GET", "/", 404}, {"GET", "/query/", 404}, {"GET", "//query", 404}, {"GET", "/x/../query", 404}, {"GET", "/./query", 404},
		{"POST", "/echo", 404}, {"POST", "/echo/1/2", 404},
	} {
		got, h, body := do(t, s, c.method, c.path, "")
		if got != c.want {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, got, c.want, body)
		}
		if got == 405 && h.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
		if got >= 400 && h.Get("Content-Type") != "application/problem+json" && c.method != "HEAD" {
			t.Errorf("%s %s: %s", c.method, c.path, h.Get("Content-Type"))
		}
	}
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	s := serve(t, io.Discard)
	deep := strings.Repeat(`{"list":[`, 20) + strings.Repeat(`]}`, 20)
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"good":                 {`{"name":"x","count":3,"list":[{"name":"y"}],"free":{"Any":[1]},"map":{"a":"b"},"at":"2026-01-02T03:04:05Z"}`, 200},
		"good pair":            {`{"name":"\ud83d\ude00"}`, 200},
		"good lines":           {`{"name":"a\nb\tc"}`, 200},
		"good escape":          {`{"name":"\\ud800"}`, 200},
		"empty":                {``, 400},
		"not json":             {`name=x`, 400},
		"array":                {`[]`, 400},
		"string":               {`"x"`, 400},
		"null":                 {`null`, 400},
		"null member":          {`{"name":null}`, 400},
		"open":                 {`{"name":"x"`, 400},
		"open list":            {`{"list":[`, 400},
		"two values":           {`{"name":"x"}{}`, 400},
		"trailing":             {`{"name":"x"} x`, 400},
		"unknown":              {`{"naem":"x"}`, 400},
		"unknown within":       {`{"list":[{"naem":"x"}]}`, 400},
		"other case":           {`{"Name":"x"}`, 400},
		"repeated":             {`{"name":"x","name":"y"}`, 400},
		"repeated by escape":   {`{"name":"x","\u006eame":"y"}`, 400},
		"repeated within free": {`{"free":{"a":1,"a":2}}`, 400},
		"repeated in map":      {`{"map":{"a":"1","a":"2"}}`, 400},
		"wrong type":           {`{"name":3}`, 400},
		"wrong list":           {`{"list":{}}`, 400},
		"float":                {`{"count":1.5}`, 400},
		"huge number":          {`{"count":1e400}`, 400},
		"deep":                 {deep, 400},
		"deep free":            {`{"free":` + strings.Repeat(`[`, 20) + strings.Repeat(`]`, 20) + `}`, 400},
		"not utf-8":            {"{\"name\":\"\xff\"}", 400},
		"overlong":             {"{\"name\":\"\xc0\xaf\"}", 400},
		"lone high":            {`{"name":"\ud800"}`, 400},
		"lone low":             {`{"name":"\udc00x"}`, 400},
		"two highs":            {`{"name":"\ud800\ud800"}`, 400},
		"control":              {`{"name":"a\u0000b"}`, 400},
		"raw control":          {"{\"name\":\"a\x01b\"}", 400},
		"c1 control":           {`{"name":"\u0085"}`, 400},
		"control in name":      {`{"map":{"a\u0007":"b"}}`, 400},
		"bad time":             {`{"at":"yesterday"}`, 400},
		"too large":            {`{"name":"` + strings.Repeat("x", 5<<10) + `"}`, 413},
	} {
		got, _, body := do(t, s, "POST", "/echo/1", c.body, "Content-Type", "application/json")
		if got != c.want {
			t.Errorf("%s: %d, want %d: %s", name, got, c.want, body)
		}
	}
	for name, header := range map[string][]string{
		"form": {"Content-Type", "application/x-www-form-urlencoded"}, "none": {"Content-Type", ""},
		"gzip": {"Content-Type", "application/json", "Content-Encoding", "gzip"},
	} {
		r, _ := http.NewRequest("POST", s.URL+"/echo/1", strings.NewReader(`{}`))
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
}

// Object takes what Unmarshal takes and, beside it, any member and null.
func TestObject(t *testing.T) {
	t.Parallel()
	m, err := Object([]byte(`{"a":null,"B":[1.5,null,{"c":"d"}],"b":true}`))
	if err != nil || fmt.Sprint(m) != "map[B:[1.5 <nil> map[c:d]] a:<nil> b:true]" {
		t.Errorf("%v, %v", m, err)
	}
	for _, body := range []string{
		``, `null`, `[]`, `"x"`, `3`, `{`, `{}{}`, `{} x`, `{"a":1,"a":1}`, `{"x":{"a":1,"\u0061":2}}`, `{"a":1e400}`, `{"a":NaN}`,
		`{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{"a":"\u0000"}`, `{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`,
	} {
		if m, err := Object([]byte(body)); err == nil || fault.KindOf(err) != fault.Invalid || m != nil {
			t.Errorf("%s: %v, %v", body, m, err)
		}
	}
}

func TestQueryIsStrict(t *testing.T) {
	t.Parallel()
	s := serve(t, io.Discard)
	for query, want := range map[string]int{
		"": 200, "limit=3": 200, "limit=3&cursor=x": 200,
		"limt=3": 400, "limit=3&limit=4": 400, "limit=%ff": 400, "limit=%zz": 400, "cursor=%00": 400, "limit=1;cursor=2": 400,
	} {
		if got, _, body := do(t, s, "GET", "/query?"+query, ""); got != want {
			t.Errorf("%q: %d, want %d: %s", query, got, want, body)
		}
	}
	if got, _, _ := do(t, s, "GET", "/query", "{}"); got != 400 {
		t.Errorf("a body where none belongs: %d", got)
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	t.Parallel()
	var logs safeBuffer
	s := serve(t, &logs)
	status, h, body := do(t, s, "GET", "/panic", "", "Authorization", "Bearer the-token")
	if status != 500 || !strings.Contains(body, h.Get(RequestIDHeader)) {
		t.Errorf("%d %s", status, body)
	}
	text := logs.String()
	if !strings.Contains(text, h.Get(RequestIDHeader)) || !strings.Contains(text, "web_test.go") {
		t.Errorf("the log does not lead to the place: %s", text)
	}
	if strings.Contains(text+body, "the-secret-value") || strings.Contains(text, "the-token") {
		t.Errorf("the panic's value or the credential leaked: %s", text)
	}
	resp, err := s.Client().Get(s.URL + "/half")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looked like a whole one")
	}
}

func TestWhoAsks(t *testing.T) {
	t.Parallel()
	s := serve(t, io.Discard)
	_, h, body := do(t, s, "GET", "/who", "", "Authorization", "Bearer a", "Authorization", "Bearer b", "X-Forwarded-For", "203.0.113.9")
	want := fmt.Sprintf("[%q,\"127.0.0.1\",[\"Bearer a\",\"Bearer b\"]]\n", h.Get(RequestIDHeader))
	if body != want {
		t.Errorf("got %s want %s", body, want)
	}
}

func TestSlowBodyEnds(t *testing.T) {
	t.Parallel()
	m := NewMux(Config{Logger: slog.New(slog.DiscardHandler), Timeout: 50 * time.Millisecond})
	m.Handle("POST /echo", func(w http.ResponseWriter, r *http.Request) error {
		var in echo
		return Decode(r, &in)
	})
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	body, feed := io.Pipe()
	t.Cleanup(func() { _ = feed.Close() })
	go func() { _, _ = feed.Write([]byte(`{"name":`)) }() // and never the rest
	r, _ := http.NewRequest("POST", s.URL+"/echo", body)
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.Client().Do(r)
	if err != nil {
		return // the connection was cut: as good as an answer
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != 400 {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	l := NewLimiter(LimiterConfig{Burst: 2, Refill: time.Second, Networks: 3, Now: func() time.Time { return now }})
	ask := func(s string) bool { return l.Allow(netip.MustParseAddr(s)) }
	if !ask("192.0.2.1") || !ask("192.0.2.2") || ask("192.0.2.3") {
		t.Error("one /24 is not one client")
	}
	if !ask("2001:db8::1") || !ask("::ffff:198.51.100.1") {
		t.Error("another network pays for the first")
	}
	if !ask("203.0.113.1") || !ask("203.0.112.1") || ask("203.0.111.1") {
		t.Error("networks beyond the memory do not share a bucket")
	}
	if len(l.buckets) > 4 {
		t.Errorf("%d buckets", len(l.buckets))
	}
	now = now.Add(time.Second)
	if !ask("192.0.2.1") || ask("192.0.2.1") {
		t.Error("the refill is not one a second")
	}
	now = now.Add(time.Hour)
	if !ask("203.0.110.1") || len(l.buckets) > 3 {
		t.Error("full buckets are not forgotten")
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"x","list":[{"count":1}]}`, `{"free":[{"a":null}]}`, `{"name":"\ud83d\ude00\ud800"}`, `{"a":1,"a":2}`, `{"name":"x"}}`, "{\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v echo
		if Unmarshal(raw, &v) != nil {
			return
		}
		// What was accepted says the same thing to every reader.
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var w echo
		if err := Unmarshal(again, &w); err != nil {
			t.Fatalf("%q was read and %q was not: %v", raw, again, err)
		}
		third, _ := json.Marshal(w)
		if !bytes.Equal(again, third) {
			t.Fatalf("%q %q", again, third)
		}
	})
}
