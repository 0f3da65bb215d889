package main

import (
	"bytes"
	"fmt"
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/encoding"
)

// Messages of all sizes are what grpc-go's own codec makes of them, also when the
// memory of one before is used again.
func TestCodec(t *testing.T) {
	t.Parallel()
	own, theirs := newCodec(), encoding.GetCodecV2("proto")
	for _, n := range []int{0, 1, 100, 1000, 300, 30_000, 400} {
		m := &fga.ListObjectsResponse{}
		for i := range n {
			m.Objects = append(m.Objects, fmt.Sprintf("document:%036d", i*n))
		}
		got, err := own.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Materialize(), want.Materialize()) {
			t.Errorf("%d names: %d bytes, want %d", n, got.Len(), want.Len())
		}
		got.Free()
		want.Free()
	}
	if own.Name() != "proto" {
		t.Errorf("the codec is called %q", own.Name())
	}
}
