package openfga

import (
	"strconv"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// store is OpenFGA's word for one. The name of a default store is that of its
// application.
type store struct {
	ID      relation.StoreID `json:"id"`
	Name    string           `json:"name"`
	Created time.Time        `json:"created_at"`
	Updated time.Time        `json:"updated_at"`
	Deleted *time.Time       `json:"deleted_at"` // a default store lives as long as its tenant
}

type storesResponse struct {
	Stores            []store `json:"stores"`
	ContinuationToken string  `json:"continuation_token"`
}

// wire tells about a default store of the caller's tenant. Its times are those
// of the tenant, which it belongs to from the first day of its application on.
func (s *server) wire(c *call, g *directory.Graph) (store, error) {
	t, err := s.Directory.Tenant(c.tenant)
	if err != nil {
		return store{}, err
	}
	return store{ID: g.ID, Name: g.Application, Created: t.Created.UTC(), Updated: t.Created.UTC()}, nil
}

func getStore(s *server, c *call) (any, error) {
	if _, err := web.Query(c.r); err != nil {
		return nil, err
	}
	if err := web.Empty(c.r); err != nil {
		return nil, err
	}
	return s.wire(c, c.store)
}

// listStores lists the default stores of the caller's tenant in order of name.
// The continuation token is the id of the last store that was listed.
func listStores(s *server, c *call) (any, error) {
	q, err := web.Query(c.r, "page_size", "continuation_token", "name")
	if err != nil {
		return nil, err
	}
	if err := web.Empty(c.r); err != nil {
		return nil, err
	}
	size, err := pageSize(q.Get("page_size"))
	if err != nil {
		return nil, err
	}
	out := storesResponse{Stores: []store{}}
	after, name := relation.StoreID(q.Get("continuation_token")), q.Get("name")
	reached := after == ""
	for _, g := range s.Directory.Graphs(c.tenant) {
		switch {
		case g.Kind != directory.DefaultGraph:
		case !reached:
			reached = g.ID == after
		case name != "" && g.Application != name:
		case len(out.Stores) == size:
			out.ContinuationToken = string(out.Stores[size-1].ID)
			return out, nil
		default:
			w, err := s.wire(c, g)
			if err != nil {
				return nil, err
			}
			out.Stores = append(out.Stores, w)
		}
	}
	if !reached {
		return nil, fault.New(fault.Invalid, "the continuation_token was not given out here")
	}
	return out, nil
}

// pageSize reads the size of a page from a query.
func pageSize(text string) (int, error) {
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, errPage
	}
	return n, nil
}
