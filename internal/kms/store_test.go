package kms_test

import (
	"context"
	"io"
	"sync"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// testStore stands in until the SQLite store offers Keys.
type testStore struct {
	platform relation.StoreID
	mu       sync.Mutex
	keks     []kms.KEK
	vers     []kms.Version
	events   []ledger.Event
}

func newStore(testing.TB) *testStore {
	return &testStore{platform: relation.StoreID(tenant.RandomID())}
}

func (s *testStore) addTenant(testing.TB) (tenant.ID, relation.StoreID) {
	return tenant.New(), relation.StoreID(tenant.RandomID())
}
func (s *testStore) keys() kms.Store { return s }
func (s *testStore) pending(testing.TB) []ledger.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]ledger.Event(nil), s.events...)
}

func (s *testStore) LoadTenantKeys(_ context.Context, t tenant.ID) (out kms.TenantKeys, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keks {
		if k.Tenant == t {
			out.KEKs = append(out.KEKs, k)
		}
	}
	for _, v := range s.vers {
		if v.Tenant == t {
			out.Versions = append(out.Versions, v)
		}
	}
	return out, nil
}

func (s *testStore) Mutate(_ context.Context, c ledger.Change, fn func(kms.Tx) error) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keks, vers := len(s.keks), len(s.vers)
	if err := fn((*testTx)(s)); err != nil {
		s.keks, s.vers = s.keks[:keks], s.vers[:vers]
		return relation.Revision{}, err
	}
	c.Event.Revision.Store = c.Store
	s.events = append(s.events, c.Event)
	return relation.Revision{Store: c.Store}, nil
}

type testTx testStore

func (s *testTx) PutKEK(k kms.KEK) error {
	for _, o := range s.keks {
		if o.Tenant == k.Tenant && o.ID == k.ID && o.Version == k.Version {
			return fault.New(fault.Conflict, "exists")
		}
	}
	s.keks = append(s.keks, k)
	return nil
}

func (s *testTx) PutVersion(v kms.Version) error {
	for _, o := range s.vers {
		if o.Tenant == v.Tenant && o.Key == v.Key && o.Version == v.Version {
			return fault.New(fault.Conflict, "exists")
		}
	}
	s.vers = append(s.vers, v)
	return nil
}

// files writes what the store has on disk.
func (s *testStore) files(testing.TB, io.Writer) {}
