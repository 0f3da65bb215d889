package sdk

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// answerAge is how long an answer about a token is taken for the truth. It
	// counts from before the question, so that no token is taken answerAge after
	// it was ended.
	answerAge  = 5 * time.Second
	askLimit   = 5 * time.Second // for one question
	maxAnswers = 4096            // kept; beyond it the cache begins anew
)

// introspection knows which tokens were ended before their time, by asking
// Bulwark. One question about a token is under way at a time.
type introspection struct {
	client *Client
	now    func() time.Time

	mu      sync.Mutex
	answers map[[sha256.Size]byte]*answer // by the hash of the token: what is kept here is no credential
}

// answer is what Bulwark says about one token, or will.
type answer struct {
	asked  time.Time
	done   chan struct{} // closed when the fields below are set
	active bool
	err    error
}

// active reports whether the token, whose signature held, is still good. The
// error is ctx's, or tells why Bulwark cannot be asked.
func (i *introspection) active(ctx context.Context, token string) (bool, error) {
	a := i.about(token)
	select {
	case <-a.done:
		return a.active, a.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// about returns the answer that is young enough, be it still under way, or
// begins a question.
func (i *introspection) about(token string) *answer {
	key := sha256.Sum256([]byte(token))
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	if a := i.answers[key]; a != nil && a.young(now) {
		return a
	}
	i.makeRoom(now)
	a := &answer{asked: now, done: make(chan struct{})}
	i.answers[key] = a
	go func() {
		// Its own time limit: a caller that gives up must not fail the others.
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		defer cancel()
		a.active, a.err = i.client.active(ctx, token)
		if a.err != nil { // no answer: whoever comes next asks again
			i.mu.Lock()
			if i.answers[key] == a {
				delete(i.answers, key)
			}
			i.mu.Unlock()
		}
		close(a.done)
	}()
	return a
}

// young reports whether the answer counts. One from the future is of a clock
// that was set back, and nobody knows its age.
func (a *answer) young(now time.Time) bool {
	age := now.Sub(a.asked)
	return age >= 0 && age < answerAge
}

// makeRoom keeps the cache within its bounds; i.mu is held. Who waits for an
// answer that is dropped here still gets it.
func (i *introspection) makeRoom(now time.Time) {
	if len(i.answers) < maxAnswers {
		return
	}
	for key, a := range i.answers {
		if !a.young(now) {
			delete(i.answers, key)
		}
	}
	if len(i.answers) >= maxAnswers {
		clear(i.answers)
	}
}
