package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/sdk"
)

// existing is a check that a service has already: an HTTP server of its own.
func existing(t *testing.T) (sdk.CheckFunc, *api) {
	t.Helper()
	a := newAPI(t)
	a.on("/allowed", 200, "yes")
	return func(ctx context.Context, _, _, _, object string) (bool, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL+"/allowed", nil)
		if err != nil {
			return false, err
		}
		res, err := a.Client().Do(r)
		if err != nil {
			return false, err
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New("the existing check is away")
		}
		return string(body) == "yes", err
	}, a
}

// shadowed is a check with a shadow, and the servers of both.
type shadowed struct {
	*sdk.Shadowed
	theirs, ours *api

	mu   sync.Mutex
	said []sdk.Disagreement
}

func newShadow(t *testing.T, cfg sdk.ShadowConfig) *shadowed {
	t.Helper()
	s := &shadowed{}
	check, theirs := existing(t)
	s.theirs, s.ours = theirs, newAPI(t)
	s.answers(200, `{"allowed":true}`)
	client, _ := newClient(t, s.ours, &clock{began: time.Now()})
	if cfg.Report == nil && cfg.Logger == nil {
		cfg.Report = func(d sdk.Disagreement) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.said = append(s.said, d)
		}
	}
	s.Shadowed = sdk.Shadow(check, client, cfg)
	return s
}

// answers sets what Bulwark says.
func (s *shadowed) answers(status int, body string) {
	s.ours.handle("/stores/s1/check", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Bulwark-Revision", "token of a revision")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the asker may be gone
	})
}

func (s *shadowed) ask(t *testing.T) (bool, error) {
	return s.Check(t.Context(), acme, alice, "can_view", "document:roadmap")
}

// TestShadowAnswersAsTheExistingCheck: whatever Bulwark says.
func TestShadowAnswersAsTheExistingCheck(t *testing.T) {
	t.Parallel()
	s := newShadow(t, sdk.ShadowConfig{})
	q := sdk.Disagreement{Tenant: acme, Subject: alice, Relation: "can_view", Object: "document:roadmap"}
	for name, c := range map[string]struct {
		theirs, ours string
		status       [2]int // of theirs, of ours
		want         sdk.ShadowCounters
		said         bool
	}{
		"both allow":        {"yes", `{"allowed":true}`, [2]int{200, 200}, sdk.ShadowCounters{Agreed: 1}, false},
		"both deny":         {"no", `{"allowed":false}`, [2]int{200, 200}, sdk.ShadowCounters{Agreed: 1}, false},
		"only theirs":       {"yes", `{"allowed":false}`, [2]int{200, 200}, sdk.ShadowCounters{Disagreed: 1}, true},
		"only ours":         {"no", `{"allowed":true}`, [2]int{200, 200}, sdk.ShadowCounters{Disagreed: 1}, true},
		"ours is away":      {"yes", `{}`, [2]int{200, 503}, sdk.ShadowCounters{Failed: 1}, true},
		"ours refuses":      {"no", `{"allowed":true,"message":"no"}`, [2]int{200, 400}, sdk.ShadowCounters{Failed: 1}, true},
		"theirs is away":    {"", `{"allowed":true}`, [2]int{500, 200}, sdk.ShadowCounters{Skipped: 1}, false},
		"both are away":     {"", `{}`, [2]int{500, 503}, sdk.ShadowCounters{Skipped: 1}, false},
		"ours is not valid": {"yes", `<html>`, [2]int{200, 200}, sdk.ShadowCounters{Failed: 1}, true},
	} {
		s.theirs.on("/allowed", c.status[0], c.theirs)
		s.answers(c.status[1], c.ours)
		before := s.Counters()
		s.said = nil
		ok, err := s.ask(t)
		if ok != (c.theirs == "yes") || (err != nil) != (c.status[0] != 200) {
			t.Errorf("%s: answered %v %v", name, ok, err)
		}
		s.Wait()
		after := s.Counters()
		got := sdk.ShadowCounters{
			Agreed: after.Agreed - before.Agreed, Disagreed: after.Disagreed - before.Disagreed, Failed: after.Failed - before.Failed,
			Skipped: after.Skipped - before.Skipped, Dropped: after.Dropped - before.Dropped,
		}
		if got != c.want {
			t.Errorf("%s: counted %+v, want %+v", name, got, c.want)
		}
		if !c.said {
			if len(s.said) != 0 {
				t.Errorf("%s: said %+v", name, s.said)
			}
			continue
		}
		want := q
		want.Existing, want.Ours = c.theirs == "yes", got.Disagreed == 1 && c.theirs != "yes"
		if len(s.said) != 1 || (s.said[0].OursErr != nil) != (got.Failed == 1) {
			t.Fatalf("%s: said %+v", name, s.said)
		}
		if got.Disagreed == 1 {
			want.Revision = "token of a revision"
		}
		s.said[0].OursErr = nil
		if d := cmp.Diff(want, s.said[0]); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestShadowNeverDelays: a Bulwark that hangs takes the places that there are and
// not one question's time; what found no place is counted.
func TestShadowNeverDelays(t *testing.T) {
	t.Parallel()
	s := newShadow(t, sdk.ShadowConfig{Concurrency: 3, Timeout: time.Hour})
	release := make(chan struct{})
	s.ours.handle("/stores/s1/check", func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = io.WriteString(w, `{"allowed":true}`)
	})
	for range 20 { // each would wait for ever
		if ok, err := s.ask(t); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if c := s.Counters(); c != (sdk.ShadowCounters{Dropped: 17}) {
		t.Errorf("counted %+v", c)
	}
	close(release)
	s.Wait()
	if c := s.Counters(); c != (sdk.ShadowCounters{Dropped: 17, Agreed: 3}) {
		t.Errorf("counted %+v", c)
	}
}

// TestShadowOutlivesTheRequest: the request's end does not end the question, its
// own time does.
func TestShadowOutlivesTheRequest(t *testing.T) {
	t.Parallel()
	s := newShadow(t, sdk.ShadowConfig{})
	release := make(chan struct{})
	s.ours.handle("/stores/s1/check", func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = io.WriteString(w, `{"allowed":true}`)
	})
	ctx, over := context.WithCancel(t.Context())
	if ok, err := s.Check(ctx, acme, alice, "can_view", "document:roadmap"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	over()
	close(release)
	s.Wait()
	if c := s.Counters(); c.Agreed != 1 {
		t.Errorf("counted %+v", c)
	}

	hasty := newShadow(t, sdk.ShadowConfig{Timeout: time.Millisecond})
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	hasty.ours.handle("/stores/s1/check", func(http.ResponseWriter, *http.Request) { <-hang })
	if ok, err := hasty.ask(t); !ok || err != nil {
		t.Fatal(ok, err)
	}
	hasty.Wait()
	if c := hasty.Counters(); c.Failed != 1 || len(hasty.said) != 1 {
		t.Errorf("counted %+v", c)
	}
}

// TestShadowSurvives: a report that panics, and a check that does.
func TestShadowSurvives(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	s := newShadow(t, sdk.ShadowConfig{Logger: logger, Report: func(sdk.Disagreement) { panic("of the report") }})
	s.answers(200, `{"allowed":false}`)
	for range 20 { // more than there are places
		if ok, err := s.ask(t); !ok || err != nil {
			t.Fatal(ok, err)
		}
		s.Wait()
	}
	if c := s.Counters(); c.Disagreed != 20 || !strings.Contains(log.String(), "of the report") {
		t.Errorf("counted %+v, logged %s", c, log.String())
	}
	client, _ := newClient(t, s.ours, &clock{began: time.Now()})
	panics := sdk.Shadow(func(context.Context, string, string, string, string) (bool, error) { panic("of the check") }, client, sdk.ShadowConfig{})
	func() {
		defer func() {
			if p := recover(); p != "of the check" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, _ = panics.Check(t.Context(), acme, alice, "can_view", "document:roadmap")
	}()
	panics.Wait()
	if c := panics.Counters(); c.Skipped != 1 {
		t.Errorf("counted %+v", c)
	}
}

// TestShadowLogs: without a Report the log says it, question and revision.
func TestShadowLogs(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := newShadow(t, sdk.ShadowConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.answers(200, `{"allowed":false}`)
	if ok, err := s.ask(t); !ok || err != nil {
		t.Fatal(ok, err)
	}
	s.Wait()
	for _, want := range []string{"level=WARN", "subject=" + alice, "relation=can_view", "object=document:roadmap", "existing=true", "ours=false", "token of a revision"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s: %s", want, log.String())
		}
	}
}

// TestCheckInNamedStore: a tenant with two stores is asked in the named one.
func TestCheckInNamedStore(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.on("/stores", 200, `{"stores":[{"id":"s1"},{"id":"s2"}]}`)
	a.on("/stores/s2/check", 200, `{"allowed":true}`)
	_, key := newClient(t, a, &clock{began: time.Now()})
	stores := map[string]string{acme: "s2"}
	client, err := sdk.NewClient(sdk.ClientConfig{Issuer: a.URL, ClientID: notes, Key: privateJWK(t, key, "k1"), HTTP: a.Client(), Stores: stores})
	must(t, err)
	stores[acme] = "s3" // the caller's own afterwards
	if ok, err := client.Check(t.Context(), acme, alice, "can_view", "document:roadmap"); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := client.Check(t.Context(), "another", alice, "can_view", "document:roadmap"); ok || err == nil || !strings.Contains(err.Error(), "ClientConfig.Stores") {
		t.Error(ok, err)
	}
}
