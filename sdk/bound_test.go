package sdk

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A cache that is full forgets what is too old, or everything: so many tokens
// over TLS would take a minute, so this test is inside.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jose.JSONWebKey{Key: key, KeyID: "k1"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(ClientConfig{Issuer: "https://127.0.0.1:1", ClientID: "notes", Key: jwk}) // where nobody listens
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, c := range map[string]struct{ old, young, kept int }{
		"room for one": {0, maxAnswers - 1, maxAnswers - 1}, "all too old": {maxAnswers, 0, 0},
		"one too old": {1, maxAnswers - 1, maxAnswers - 1}, "none too old": {0, maxAnswers, 0},
	} {
		i := &introspection{client: client, now: func() time.Time { return now }, answers: map[[sha256.Size]byte]*answer{}}
		for k := range c.old + c.young {
			asked := now
			if k < c.old {
				asked = now.Add(-answerAge)
			}
			i.answers[sha256.Sum256(fmt.Append(nil, k))] = &answer{asked: asked}
		}
		a := i.about("one more")
		<-a.done
		if a.err == nil {
			t.Errorf("%s: answered by nobody", name)
		}
		i.mu.Lock()
		if len(i.answers) != c.kept { // the one more had no answer
			t.Errorf("%s: %d are kept, want %d", name, len(i.answers), c.kept)
		}
		i.mu.Unlock()
	}
}
