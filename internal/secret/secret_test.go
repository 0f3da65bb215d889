package secret

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const canary = "canary-5f1c"

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	s := New([]byte(canary))
	type hidden struct{ key Bytes }
	holder := struct {
		Name   string
		Key    Bytes
		Ptr    *Bytes
		inner  hidden
		behind *hidden
		list   []Bytes
		byName map[string]Bytes
	}{"k", s, &s, hidden{s}, &hidden{s}, []Bytes{s}, map[string]Bytes{"k": s}}

	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", holder)
		fmt.Fprintf(&out, verb+"\n", &s)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", s, "holder", holder)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s, "holder", holder)
	j, _ := json.Marshal(holder)
	x, _ := xml.Marshal(holder)
	var g bytes.Buffer
	_ = gob.NewEncoder(&g).Encode(struct{ Key Bytes }{s})

	all := out.String() + log.String() + string(j) + string(x) + g.String()
	for _, shape := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary))} {
		if strings.Contains(all, shape) {
			t.Errorf("the secret is printed as %q in:\n%s", shape, all)
		}
	}
}

func TestEqualAndDestroy(t *testing.T) {
	t.Parallel()
	a, b := Random(32), Random(32)
	if a.Equal(b) || !a.Equal(New(bytes.Clone(a.Reveal()))) {
		t.Error("Equal is wrong")
	}
	if a.Equal(New(a.Reveal()[:31])) {
		t.Error("secrets of different length are equal")
	}
	a.Destroy()
	if !bytes.Equal(a.Reveal(), make([]byte, 32)) {
		t.Error("Destroy left bytes")
	}
}
