package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestKill kills dev under load again and again, 10 times here and 200 times in
// `make soak`: what was acknowledged is there, and the log verifies.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 10
	if os.Getenv("SOAK") != "" {
		rounds = 200
	}
	killRounds(t, rounds)
}

// acknowledged is what answers promised.
type acknowledged struct {
	mu      sync.Mutex
	tuples  map[string]bool // objects
	denials map[string]bool // decision ids
}

func (a *acknowledged) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.tuples) + len(a.denials)
}

func killRounds(t *testing.T, rounds int) {
	dir := t.TempDir()
	ack := &acknowledged{tuples: map[string]bool{}, denials: map[string]bool{}}
	for round := range rounds {
		d := startDev(t, dir)
		load := loadUntilKilled(t, d, ack, round)
		enough := ack.size() + 20 + rand.IntN(150)
		d.await("some answers", func() bool { return ack.size() >= enough })
		d.kill()
		load.Wait()
		if out, errs, code := run(t, "audit", "verify", "--data", dir); code != 0 {
			t.Fatalf("round %d: audit verify: exit %d, %s%s", round, code, out, errs)
		}
		if t.Failed() {
			return
		}
	}
	d := startDev(t, dir)
	stored := map[string]bool{}
	var tuples []struct{ Object string }
	if err := json.Unmarshal([]byte(d.cli("tuple", "read", "--object", "document:", "--json")), &tuples); err != nil {
		t.Fatal(err)
	}
	for _, tuple := range tuples {
		stored[tuple.Object] = true
	}
	for object := range ack.tuples {
		if !stored[object] {
			t.Errorf("an acknowledged tuple is lost: %s", object)
		}
	}
	// An export ends at the signed head, which is a second old at most: it is
	// whole when it holds what happened just now, the last drained event too.
	var marker struct {
		DecisionID string `json:"decision_id"`
	}
	d.do("PUT", d.Gateway+"/documents/roadmap", "x", bearer(d.token("carol@acme", "gateway"))...).read(t, &marker)
	var export string
	d.await("the signed head", func() bool {
		export = d.cli("audit", "export", "--as", "admin@acme")
		return strings.Contains(export, marker.DecisionID)
	})
	seen, writes, gaps := map[string]bool{}, 0, 0
	for line := range strings.Lines(export) {
		var e struct{ ID, Action, Class string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if seen[e.ID] {
			t.Errorf("an event is there twice: %s", line)
		}
		seen[e.ID] = true
		if e.Action == "tuple.write" && e.Class == "mutation" {
			writes++
		}
	}
	for id := range ack.denials {
		if !seen[id] {
			t.Errorf("an enforced deny is not in the log: %s", id)
		}
	}
	if writes < len(ack.tuples) || writes < len(stored)-1 {
		t.Errorf("%d events for %d acknowledged and %d stored tuples", writes, len(ack.tuples), len(stored))
	}
	for line := range strings.Lines(d.cli("audit", "export", "--as", "olga@platform", "--class", "system")) {
		if strings.Contains(line, `"crash"`) {
			gaps++
		}
	}
	if gaps != rounds {
		t.Errorf("%d gap records for %d crashes: each must say what may be missing", gaps, rounds)
	}
	t.Logf("%d kills: %d tuples, %d denials were acknowledged", rounds, len(ack.tuples), len(ack.denials))
}

// loadUntilKilled writes tuples and provokes denials until the process is gone.
func loadUntilKilled(t *testing.T, d *dev, ack *acknowledged, round int) *sync.WaitGroup {
	admin, carol := bearer(d.token("admin@acme", "admin")), bearer(d.token("carol@acme", "gateway"))
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				object := fmt.Sprintf("document:r%d-%d-%d", round, worker, i)
				body := `{"writes":[{"object":"` + object + `","relation":"parent","user":"folder:plans"}]}`
				r, err := send(d.http, "POST", d.API+"/admin/v1/tuples", body, append([]string{"Content-Type", "application/json"}, admin...)...)
				if err != nil {
					return // killed
				}
				if r.status != 200 {
					t.Errorf("a write: %d %s", r.status, r.body)
					return
				}
				ack.mu.Lock()
				ack.tuples[object] = true
				ack.mu.Unlock()
			}
		})
		wg.Go(func() {
			for {
				r, err := send(d.http, "PUT", d.Gateway+"/documents/roadmap", "x", carol...)
				if err != nil {
					return // killed
				}
				var p struct {
					DecisionID string `json:"decision_id"`
				}
				if err := json.Unmarshal([]byte(r.body), &p); r.status != 403 || err != nil || p.DecisionID == "" {
					t.Errorf("a denial: %d %s", r.status, r.body)
					return
				}
				ack.mu.Lock()
				ack.denials[p.DecisionID] = true
				ack.mu.Unlock()
			}
		})
		wg.Go(func() {
			for {
				if _, err := send(d.http, "GET", d.Gateway+"/documents/roadmap", "", carol...); err != nil {
					return // killed
				}
			}
		})
	}
	return &wg
}
