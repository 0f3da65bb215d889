package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

func TestQuery(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.SegmentBytes = 2 << 10
	start := time.Now().Truncate(time.Second)
	now := start
	cfg.Now = func() time.Time { return now }
	l := open(t, cfg)
	acme, globex := tenant.New(), tenant.New()
	subject := "user:" + tenant.RandomID()
	request := tenant.RandomID()
	for i := range 60 {
		ev := deny(acme)
		ev.Time = start.Add(time.Duration(i) * time.Second)
		switch i % 3 {
		case 1:
			ev.Tenant, ev.Class, ev.Decision = globex, ledger.Allow, "allow"
		case 2:
			ev.Subject, ev.Resource = subject, "document:budget"
		}
		if i == 30 {
			ev.RequestID = request
		}
		if err := l.Append(context.Background(), ev); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	for name, c := range map[string]struct {
		f    audit.Filter
		want int
	}{
		"tenant":    {audit.Filter{Tenant: globex.String()}, 20},
		"class":     {audit.Filter{Class: ledger.Deny}, 40},
		"subject":   {audit.Filter{Subject: subject}, 20},
		"resource":  {audit.Filter{Resource: "document:budget", Tenant: acme.String()}, 20},
		"decision":  {audit.Filter{Decision: "allow"}, 20},
		"reason":    {audit.Filter{Reason: "no_relation"}, 60},
		"request":   {audit.Filter{RequestID: request}, 1},
		"after":     {audit.Filter{After: start.Add(50 * time.Second), Reason: "no_relation"}, 10},
		"before":    {audit.Filter{Before: start.Add(10 * time.Second), Reason: "no_relation"}, 10},
		"action":    {audit.Filter{Action: "log.open"}, 1},
		"elsewhere": {audit.Filter{Tenant: globex.String(), Class: ledger.Deny}, 0},
		"unknown":   {audit.Filter{Tenant: tenant.RandomID()}, 0},
	} {
		n := 0
		query(t, cfg, c.f, func(ledger.Stored) { n++ })
		if n != c.want {
			t.Errorf("%s: %d events, want %d", name, n, c.want)
		}
	}
	var got []time.Time
	err := audit.Query(context.Background(), cfg.Dir, audit.QueryOptions{Filter: audit.Filter{Class: ledger.Deny}, NewestFirst: true, Limit: 25},
		func(ev ledger.Stored) bool { got = append(got, ev.Event.Time); return true })
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 25 || !slices.IsSortedFunc(got, func(a, b time.Time) int { return b.Compare(a) }) || !got[0].Equal(start.Add(59*time.Second)) {
		t.Errorf("newest first: %v", got)
	}
}

func TestProve(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	for _, id := range s.ids {
		p, err := audit.Prove(context.Background(), s.cfg.Dir, "", id, nil, s.cfg.Verifier)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again ledger.Proof
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		ev, cp, err := again.Verify(s.cfg.Verifier)
		if err != nil || ev.Event.ID != id || ev.Block >= cp.Size {
			t.Errorf("%s: %+v %v", id, ev, err)
		}
	}
	if _, err := audit.Prove(context.Background(), s.cfg.Dir, "", tenant.RandomID(), nil, s.cfg.Verifier); fault.KindOf(err) != fault.NotFound {
		t.Errorf("unknown id: %v", err)
	}
	if _, err := audit.Prove(context.Background(), s.cfg.Dir, tenant.New().String(), s.ids[0], nil, s.cfg.Verifier); fault.KindOf(err) != fault.NotFound {
		t.Errorf("another tenant's event: %v", err)
	}
}

// A proof and a verification of a log that is being written.
func TestReadWhileWriting(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.SegmentBytes, cfg.Checkpoint = 8<<10, 2*time.Millisecond
	l := open(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, class := range []ledger.Class{ledger.Allow, ledger.Deny} {
				ev := deny(tenant.Platform)
				ev.Class = class
				_ = l.Append(context.Background(), ev)
			}
		}
	}()
	for range 20 {
		ev := deny(tenant.New())
		ev.ID = tenant.RandomID()
		if err := l.Append(context.Background(), ev); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool {
			_, err := audit.Prove(context.Background(), cfg.Dir, ev.Tenant.String(), ev.ID, nil, cfg.Verifier)
			if err != nil && fault.KindOf(err) != fault.NotFound && fault.KindOf(err) != fault.Integrity {
				t.Fatal(err)
			}
			return err == nil
		})
		r, err := audit.Verify(context.Background(), cfg.Dir, audit.VerifyOptions{Verifier: cfg.Verifier, Since: l.Head()})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() || !r.Anchored {
			t.Fatalf("%+v", r)
		}
	}
	cancel()
	<-done
	closeLog(t, l)
}

func TestExportFollow(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.SegmentBytes, cfg.Checkpoint = 2<<10, 2*time.Millisecond
	l := open(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w := io.Pipe()
	exported := make(chan uint64, 1)
	go func() {
		next, err := audit.Export(ctx, cfg.Dir, audit.ExportOptions{Follow: true, Poll: 2 * time.Millisecond, Filter: audit.Filter{Class: ledger.Deny}}, w)
		if err != nil {
			t.Error(err)
		}
		exported <- next
		_ = w.Close()
	}()
	lines := bufio.NewScanner(r)
	var last uint64
	for range 100 {
		ev := deny(tenant.New())
		ev.ID = tenant.RandomID()
		if err := l.Append(context.Background(), ev); err != nil {
			t.Fatal(err)
		}
		l.Reject(ledger.Event{Reason: "expired"})
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		var got struct {
			Block  uint64 `json:"block"`
			Seq    uint64 `json:"seq"`
			ID     string `json:"id"`
			Tenant string `json:"tenant"`
			Class  string `json:"class"`
		}
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.ID != ev.ID || got.Tenant != ev.Tenant.String() || got.Class != "deny" || got.Block < last {
			t.Fatalf("got %s", lines.Text())
		}
		last = got.Block
	}
	cancel()
	next := <-exported
	closeLog(t, l)
	// A second export goes on where the first ended: nothing twice.
	var rest bytes.Buffer
	if _, err := audit.Export(context.Background(), cfg.Dir, audit.ExportOptions{From: next, Filter: audit.Filter{Class: ledger.Deny}}, &rest); err != nil {
		t.Fatal(err)
	}
	if rest.Len() > 0 {
		t.Errorf("exported again: %s", rest.String())
	}
	var tail bytes.Buffer
	if err := audit.Tail(context.Background(), cfg.Dir, 3, audit.ExportOptions{Filter: audit.Filter{Class: ledger.Deny}}, &tail); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(tail.Bytes(), []byte("\n")); n != 3 {
		t.Errorf("tail gave %d lines", n)
	}
}
