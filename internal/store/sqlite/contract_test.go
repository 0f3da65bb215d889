package sqlite

import (
	"path/filepath"
	"testing"

	"bulwark.example/internal/store/storetest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB, place string) storetest.Store {
		return open(t, Config{Path: filepath.Join(place, "bulwark.db")})
	})
}
