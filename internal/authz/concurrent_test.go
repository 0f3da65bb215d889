package authz

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Readers ask while a writer changes groups, parents and grants: every answer
// is right for the revision that it names, revisions never go back for one
// reader, and a writer sees its own write. The naive reference says what is
// right, computed before the race begins.
func TestReadersWhileWriting(t *testing.T) {
	t.Parallel()
	m := &refModel{types: []string{"user", "team", "doc"}, defs: map[string]map[string]*refDef{
		"user": {},
		"team": {"member": {allowed: []string{"user", "team#member"}, rewrite: refRewrite{op: "this"}}},
		"doc": {
			"parent": {allowed: []string{"doc"}, rewrite: refRewrite{op: "this"}},
			"viewer": {allowed: []string{"user", "user:*", "team#member"}, rewrite: refRewrite{op: "or", operands: []refRewrite{
				{op: "this"}, {op: "from", relation: "viewer", tupleset: "parent"},
			}}},
		},
	}}
	var candidates, questions []relation.Tuple
	for i := range 4 {
		for j := range 4 {
			candidates = append(candidates,
				tuple(fmt.Sprintf("team:%d#member@team:%d#member", i, j)),
				tuple(fmt.Sprintf("team:%d#member@user:%d", i, j)),
				tuple(fmt.Sprintf("doc:%d#parent@doc:%d", i, j)),
				tuple(fmt.Sprintf("doc:%d#viewer@team:%d#member", i, j)))
			questions = append(questions, tuple(fmt.Sprintf("doc:%d#viewer@user:%d", i, j)))
		}
		candidates = append(candidates, tuple(fmt.Sprintf("doc:%d#viewer@user:*", i)))
	}
	w := newWorld(t, m.dsl())
	rng := rand.New(rand.NewPCG(3, 4))
	const writes = 120
	type step struct{ writes, deletes []relation.Tuple }
	var steps []step
	present := map[relation.Tuple]bool{}
	right := make([][]bool, writes+2) // by revision, by question
	for rev := range right {
		g := &refGraph{m: m}
		for tu := range present {
			g.tuples = append(g.tuples, tu)
		}
		if rev == 0 {
			continue // revisions begin at 1, the empty store
		}
		for _, q := range questions {
			right[rev] = append(right[rev], g.answer(q) == "allow")
		}
		var s step
		for range 1 + rng.IntN(3) {
			tu := candidates[rng.IntN(len(candidates))]
			if len(s.writes)+len(s.deletes) > 0 && (has(s.writes, tu) || has(s.deletes, tu)) {
				continue
			}
			if present[tu] {
				s.deletes = append(s.deletes, tu)
				delete(present, tu)
			} else if len(present) < 24 {
				s.writes = append(s.writes, tu)
				present[tu] = true
			}
		}
		if len(s.writes)+len(s.deletes) == 0 {
			s.writes = tuples(fmt.Sprintf("team:9#member@user:%d", rev)) // touches no question
			present[s.writes[0]] = true
		}
		steps = append(steps, s)
	}
	var wg sync.WaitGroup
	var answers atomic.Int64
	done := make(chan struct{})
	for reader := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(5, uint64(reader)))
			last, asked, seen := uint64(0), 0, map[uint64]bool{}
			for running := true; running || asked < 1000; asked++ {
				select {
				case <-done:
					running = false
				default:
				}
				n := rng.IntN(len(questions))
				q := questions[n]
				d, err := w.Check(context.Background(), Query{Store: w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject, Explain: asked%16 == 0})
				if err != nil {
					t.Errorf("%s: %v", q, err)
					return
				}
				if d.Revision.Rev < last || d.Allowed != right[d.Revision.Rev][n] {
					t.Errorf("%s at revision %d (after %d): %v", q, d.Revision.Rev, last, d.Allowed)
					return
				}
				last, seen[d.Revision.Rev] = d.Revision.Rev, true
				answers.Add(1)
			}
			if len(seen) < writes/10 {
				t.Errorf("reader %d: %d answers at %d revisions only", reader, asked, len(seen))
			}
		})
	}
	for i, s := range steps[:writes] {
		for enough := answers.Load() + 20; answers.Load() < enough && !t.Failed(); {
			runtime.Gosched() // the readers go on
		}
		rev, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: s.writes, Deletes: s.deletes})
		if err != nil || rev.Rev != uint64(i)+2 {
			close(done)
			t.Fatalf("write %d: %v, %v", i, rev, err)
		}
		q := questions[i%len(questions)]
		d, err := w.Check(context.Background(), Query{Store: w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject})
		if err != nil || d.Revision != rev || d.Allowed != right[rev.Rev][i%len(questions)] {
			close(done)
			t.Fatalf("after write %d: %+v, %v", i, d, err)
		}
	}
	close(done)
	wg.Wait()
	if w.Stats().Resyncs != 0 {
		t.Errorf("%+v", w.Stats())
	}
}

func has(list []relation.Tuple, tu relation.Tuple) bool {
	for _, other := range list {
		if other == tu {
			return true
		}
	}
	return false
}

// The model changes under the readers: every answer is right for the model that
// it names.
func TestReadersWhilePublishing(t *testing.T) {
	t.Parallel()
	with := "model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user]\n"
	without := "model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define owner: [user]\n    define viewer: owner\n"
	w := newWorld(t, with, "doc:x#viewer@user:a")
	first, _ := w.ActiveModel("docs")
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				d, err := w.Check(context.Background(), Query{Store: w.store, Object: "doc:x", Relation: "viewer", Subject: "user:a"})
				if err != nil || d.Allowed != (d.Model == first.ID()) {
					t.Errorf("%+v, %v", d, err)
					return
				}
			}
		})
	}
	for i := range 100 {
		if _, err := w.enforce(Draft{Model: []string{without, with}[i%2]}); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
}
