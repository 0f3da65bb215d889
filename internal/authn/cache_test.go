package authn

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"bulwark.example/internal/directory"
)

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 8, 9, 100, 1024} {
		c := newCache(size)
		if len(c.slots) < size || len(c.slots) > 2*size+ways {
			t.Errorf("size %d makes %d slots", size, len(c.slots))
		}
		for i := range 10 * len(c.slots) {
			c.put(&verified{token: fmt.Sprint("token ", i)})
		}
		held := 0
		for i := range c.slots {
			if c.slots[i].Load() != nil {
				held++
			}
		}
		if held > len(c.slots) {
			t.Errorf("%d held", held)
		}
	}
}

func TestCacheKeepsByTheWholeToken(t *testing.T) {
	t.Parallel()
	c := newCache(1024)
	a := &verified{token: "a"}
	c.put(a)
	b := &verified{token: "a"}
	c.put(b)
	if c.get("a") != b {
		t.Error("the newer verification of a token must replace the older")
	}
	// A collision of the hash, made by hand: the token decides.
	x := &verified{token: "x"}
	c.put(x)
	x.token = "y"
	if c.get("x") != nil {
		t.Error("another token was found by its hash alone")
	}
	// A cache that is far from full holds what was put.
	for i := range 256 {
		c.put(&verified{token: fmt.Sprint(i)})
	}
	lost := 0
	for i := range 256 {
		if c.get(fmt.Sprint(i)) == nil {
			lost++
		}
	}
	if lost > 2 {
		t.Errorf("%d of 256 lost in 1,024 slots", lost)
	}
}

// TestNothingBadIsRemembered: refused tokens take no room.
func TestNothingBadIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 100 {
		w.mustRefuse("bad", w.sign(w.own().with(claims{"aud": fmt.Sprint("other", i)})), Audience)
	}
	for i := range w.authn.cache.slots {
		if w.authn.cache.slots[i].Load() != nil {
			t.Fatal("a refused token is in the cache")
		}
	}
}

// TestHitAllocatesNothing keeps the promise of the hot path.
func TestHitAllocatesNothing(t *testing.T) { // not parallel: AllocsPerRun counts for the whole process
	w := newWorld(t)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	for name, token := range map[string]string{"own": w.sign(w.own()), "external": key.sign(at, w.rfc9068("s"))} {
		w.mustPass(name, token)
		in := Input{Authorization: []string{"Bearer " + token}, Audience: gateway}
		ctx := context.Background()
		if n := testing.AllocsPerRun(200, func() {
			if _, err := w.authn.Authenticate(ctx, in); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a hit", name, n)
		}
	}
}

// FuzzAuthorization: no header but the good one gives a principal.
func FuzzAuthorization(f *testing.F) {
	w := newWorld(f)
	good := w.sign(w.own())
	for _, s := range []string{"", "Bearer", "Bearer ", "Bearer " + good, "bearer " + good, "Basic x", good, "Bearer " + good + ".", "Bearer a.b.c", "Bearer " + strings.Repeat(".", 50)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		p, err := w.askAt(gateway, header)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v and %v", p, err)
		}
		if err == nil && header[len("Bearer "):] != good {
			t.Errorf("%q gave %+v", header, p)
		}
	})
}

func benchmark(b *testing.B, tokens []string, w *world) {
	inputs := make([]Input, len(tokens))
	for i, token := range tokens {
		w.mustPass("first", token)
		inputs[i] = Input{Authorization: []string{"Bearer " + token}, Audience: gateway}
	}
	ctx := context.Background()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := w.authn.Authenticate(ctx, inputs[i]); err != nil {
			b.Fatal(err)
		}
		if i++; i == len(inputs) {
			i = 0
		}
	}
}

func BenchmarkHitOwn(b *testing.B) {
	w := newWorld(b)
	benchmark(b, []string{w.sign(w.own())}, w)
}

func BenchmarkHitOwn1000(b *testing.B) {
	w := newWorld(b)
	w.authn.cache = newCache(defaultCacheSize)
	var tokens []string
	for range 1000 {
		tokens = append(tokens, w.sign(w.own()))
	}
	benchmark(b, tokens, w)
}

func BenchmarkHitExternal(b *testing.B) {
	w := newWorld(b)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	benchmark(b, []string{key.sign(at, w.rfc9068("s"))}, w)
}

// BenchmarkHitManyTenants: the questions to the directory, asked at every hit.
func BenchmarkHitAskedAnew(b *testing.B) {
	w := newWorld(b)
	token := w.sign(w.own())
	w.mustPass("first", token)
	in := Input{Authorization: []string{"Bearer " + token}, Audience: gateway}
	b.ReportAllocs()
	for b.Loop() {
		w.authn.cache.get(token).checked.Store(0)
		if _, err := w.authn.Authenticate(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMissOwn(b *testing.B) {
	w := newWorld(b)
	token := w.sign(w.own())
	in := Input{Authorization: []string{"Bearer " + token}, Audience: gateway}
	b.ReportAllocs()
	for b.Loop() {
		w.authn.cache.row(w.authn.cache.hash(token))[0].Store(nil)
		if _, err := w.authn.Authenticate(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMissExternal(b *testing.B) {
	w := newWorld(b)
	key := idpKey{"k", rsaKeys[0]()}
	w.publish(key.public())
	w.link("s")
	token := key.sign(at, w.rfc9068("s"))
	in := Input{Authorization: []string{"Bearer " + token}, Audience: gateway}
	b.ReportAllocs()
	for b.Loop() {
		w.authn.cache.row(w.authn.cache.hash(token))[0].Store(nil)
		if _, err := w.authn.Authenticate(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRefused(b *testing.B) {
	w := newWorld(b)
	for name, header := range map[string][]string{"missing": nil, "garbage": {"Bearer garbage"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.authn.Authenticate(context.Background(), Input{Authorization: header, Audience: gateway}); err == nil {
					b.Fatal("passed")
				}
			}
		})
	}
}

var _ directory.Store = (*rows)(nil)
