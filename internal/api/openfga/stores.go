package openfga

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// nameOfStore is the name of a free store, or the application of a default one.
func nameOfStore(g *directory.Graph) string {
	if g.Kind == directory.FreeGraph {
		return g.Name
	}
	return g.Application
}

// createdAt is when a store was made. A default store that is older than the
// record of that belongs to its tenant from the first day.
func (c *call) createdAt(g *directory.Graph) (*timestamppb.Timestamp, error) {
	if !g.Created.IsZero() {
		return timestamppb.New(g.Created), nil
	}
	t, err := c.api.Directory.Tenant(c.tenant)
	if err != nil {
		return nil, err
	}
	return timestamppb.New(t.Created), nil
}

func createStore(ctx context.Context, c *call, q *fga.CreateStoreRequest) (*fga.CreateStoreResponse, error) {
	g, err := c.api.Directory.CreateGraph(ctx, c.event(), c.tenant, q.GetName())
	if err != nil {
		if fault.KindOf(err) == fault.Exhausted {
			err = as(fga.ErrorCode_exceeded_entity_limit, err)
		}
		return nil, err
	}
	made := timestamppb.New(g.Created)
	return &fga.CreateStoreResponse{Id: string(g.ID), Name: g.Name, CreatedAt: made, UpdatedAt: made}, nil
}

// event is what commits with a change of the directory, which names what it is
// about.
func (c *call) event() ledger.Event {
	e := c.begun
	e.Class, e.Time = ledger.Mutation, c.api.Now()
	return e
}

func deleteStore(ctx context.Context, c *call, _ *fga.DeleteStoreRequest) (*fga.DeleteStoreResponse, error) {
	err := c.api.Directory.DeleteGraph(ctx, c.event(), c.tenant, c.store.ID)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			err = errNoStore // deleted meanwhile
		}
		return nil, err
	}
	return &fga.DeleteStoreResponse{}, nil
}

func getStore(_ context.Context, c *call, _ *fga.GetStoreRequest) (*fga.GetStoreResponse, error) {
	made, err := c.createdAt(c.store)
	if err != nil {
		return nil, err
	}
	return &fga.GetStoreResponse{Id: string(c.store.ID), Name: nameOfStore(c.store), CreatedAt: made, UpdatedAt: made}, nil
}

// listStores lists the default stores by application, then the free ones from
// the oldest to the newest.
func listStores(_ context.Context, c *call, q *fga.ListStoresRequest) (*fga.ListStoresResponse, error) {
	list := slices.DeleteFunc(c.api.Directory.Graphs(c.tenant), func(g *directory.Graph) bool {
		return g.Kind == directory.SystemGraph || q.GetName() != "" && nameOfStore(g) != q.GetName()
	})
	if token := q.GetContinuationToken(); token != "" {
		after, err := openStoreToken(token)
		if err != nil {
			return nil, err
		}
		at, found := slices.BinarySearchFunc(list, after, compareStores)
		if found {
			at++
		}
		list = list[at:]
	}
	out := &fga.ListStoresResponse{}
	if size := pageSize(q.GetPageSize().GetValue()); len(list) > size {
		list = list[:size]
		out.ContinuationToken = storeToken(list[size-1])
	}
	for _, g := range list {
		made, err := c.createdAt(g)
		if err != nil {
			return nil, err
		}
		out.Stores = append(out.Stores, &fga.Store{Id: string(g.ID), Name: nameOfStore(g), CreatedAt: made, UpdatedAt: made})
	}
	return out, nil
}

// compareStores orders as [directory.Directory.Graphs] does.
func compareStores(a, b *directory.Graph) int {
	if a.Kind != b.Kind {
		return strings.Compare(string(a.Kind), string(b.Kind)) // default before free
	}
	c := strings.Compare(a.Application, b.Application)
	if a.Kind == directory.FreeGraph {
		c = cmp.Or(c, a.Created.Compare(b.Created))
	}
	return cmp.Or(c, cmp.Compare(a.ID, b.ID))
}

// The place of a store in the list is its kind, its application, the time of its
// making and its id, so that a list goes on behind a store that was deleted.
func storeToken(g *directory.Graph) string {
	return spellToken("s", strings.Join([]string{string(g.Kind), g.Application, strconv.FormatInt(g.Created.UnixNano(), 10), string(g.ID)}, "\n"))
}

func openStoreToken(token string) (*directory.Graph, error) {
	last, err := openToken("s", token)
	parts := strings.Split(last, "\n")
	if err != nil || len(parts) != 4 {
		return nil, errToken
	}
	created, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return nil, errToken
	}
	return &directory.Graph{
		Kind: directory.GraphKind(parts[0]), Application: parts[1], Created: time.Unix(0, created), ID: relation.StoreID(parts[3]),
	}, nil
}
