package transfer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"bulwark.example/internal/fault"
)

// Question asks whether a user has a relation to an object.
type Question struct {
	Key
	Context json.RawMessage `json:"context,omitempty"` // a JSON object, for conditions
}

// Difference is a question to which the two sides answer otherwise.
type Difference struct {
	Question Question        `json:"question"`
	Theirs   Answer          `json:"theirs"`
	Ours     Answer          `json:"ours"`
	Why      json.RawMessage `json:"why,omitempty"` // our explanation: the trace
}

// Comparison is what comes of asking both.
type Comparison struct {
	Asked       int          `json:"asked"`
	Allowed     int          `json:"allowed"`    // by both
	Denied      int          `json:"denied"`     // by both
	Unanswered  int          `json:"unanswered"` // by both
	Differ      int          `json:"differ"`
	Differences []Difference `json:"differences,omitempty"` // the first of them, in the order of the questions
}

const (
	maxDifferences = 100
	askers         = 4 // questions that are asked at a time
)

// Compare puts every question to both stores.
func Compare(ctx context.Context, theirs, ours Store, questions []Question) (Comparison, error) {
	type pair struct{ theirs, ours Answer }
	answers := make([]pair, len(questions))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() {
			for i := range next {
				var err error
				if answers[i].theirs, err = theirs.check(ctx, questions[i], false); err == nil {
					answers[i].ours, err = ours.check(ctx, questions[i], false)
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
feed:
	for i := range questions {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return Comparison{}, context.Cause(ctx)
	}
	out := Comparison{Asked: len(questions)}
	for i, a := range answers {
		switch {
		case (a.theirs.Error == "") != (a.ours.Error == "") || a.theirs.Allowed != a.ours.Allowed:
			out.Differ++
			if len(out.Differences) < maxDifferences {
				out.Differences = append(out.Differences, Difference{Question: questions[i], Theirs: a.theirs, Ours: a.ours})
			}
		case a.ours.Error != "":
			out.Unanswered++
		case a.ours.Allowed:
			out.Allowed++
		default:
			out.Denied++
		}
	}
	for i, d := range out.Differences {
		why, err := ours.check(ctx, d.Question, true)
		if err != nil {
			return Comparison{}, err
		}
		if json.Valid([]byte(why.Resolution)) {
			out.Differences[i].Why = json.RawMessage(why.Resolution)
		}
	}
	return out, nil
}

// Questions reads one question a line: a JSON object as [Question] has it, or
// "object relation user" with a JSON object for conditions behind it, if any.
// Empty lines and those that begin with "//" do not count.
func Questions(r io.Reader) ([]Question, error) {
	var out []Question
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		q, err := question(line)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, fmt.Sprintf("line %d is no question: write object relation user, or a JSON object with these members", n), err)
		}
		out = append(out, q)
	}
	if err := lines.Err(); err != nil {
		return nil, fault.Wrap(fault.Invalid, "the questions cannot be read", err)
	}
	return out, nil
}

func question(line string) (q Question, err error) {
	if strings.HasPrefix(line, "{") {
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&q); err != nil {
			return q, err
		}
		if q.Condition != nil || dec.More() {
			return q, fmt.Errorf("a question has no condition")
		}
	} else {
		head, more, found := strings.Cut(line, "{")
		parts := strings.Fields(head)
		if len(parts) != 3 {
			return q, fmt.Errorf("%d words", len(parts))
		}
		q.Object, q.Relation, q.User = parts[0], parts[1], parts[2]
		if found {
			q.Context = json.RawMessage("{" + more)
		}
	}
	if q.Object == "" || q.Relation == "" || q.User == "" {
		return q, fmt.Errorf("a part is missing")
	}
	if len(q.Context) > 0 && (!json.Valid(q.Context) || bytes.TrimSpace(q.Context)[0] != '{') {
		return q, fmt.Errorf("the context is no JSON object")
	}
	return q, nil
}

// Draw makes n questions from the tuples of the store: about an object that one
// tuple names, a relation of its type in the newest model, and a user whom this
// or another tuple names. All tuples are read; each is drawn as likely as any
// other.
func Draw(ctx context.Context, s Store, n int, random *rand.Rand) ([]Question, error) {
	relations, err := s.relations(ctx)
	if err != nil {
		return nil, err
	}
	var drawn []Key // a reservoir
	seen := 0
	err = s.tuples(ctx, func(keys []Key) error {
		for _, k := range keys {
			if seen++; len(drawn) < n {
				drawn = append(drawn, k)
			} else if i := random.IntN(seen); i < n {
				drawn[i] = k
			}
		}
		return nil
	})
	if err != nil || len(drawn) == 0 {
		return nil, err
	}
	out := make([]Question, n)
	for i := range out {
		k := drawn[i%len(drawn)].bare()
		typ, _, _ := strings.Cut(k.Object, ":")
		if list := relations[typ]; len(list) > 0 && random.IntN(4) > 0 {
			k.Relation = list[random.IntN(len(list))]
		}
		if random.IntN(2) == 0 {
			k.User = drawn[random.IntN(len(drawn))].User
		}
		if object, wild := strings.CutSuffix(k.User, ":*"); wild { // not everybody: somebody
			k.User = object + ":somebody"
		}
		out[i] = Question{Key: k}
	}
	return out, nil
}

// relations are the names of those of each type in the newest model.
func (s *Store) relations(ctx context.Context) (map[string][]string, error) {
	list, err := s.models(ctx, 1)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	if len(list) == 0 {
		return out, nil
	}
	var types []struct {
		Type      string                     `json:"type"`
		Relations map[string]json.RawMessage `json:"relations"`
	}
	if err := json.Unmarshal(list[0].Types, &types); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "a model of "+s.host()+" cannot be read", err)
	}
	for _, t := range types {
		for name := range t.Relations {
			out[t.Type] = append(out[t.Type], name)
		}
		slices.Sort(out[t.Type]) // the same draw every time
	}
	return out, nil
}
