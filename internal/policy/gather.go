package policy

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"

	"bulwark.example/internal/fault"
)

// bucket gathers what a question about one relation of one type needs.
type bucket struct {
	action   cedar.EntityUID
	resource *typ
	lists    candidates
	count    int
	asks     []string
	slots    []slot // what the candidates read

	// records holds cedar.RecordMap, empty. One pool for all buckets would hand
	// small questions the maps of large ones, which a record copies as they are.
	records sync.Pool
}

// maxSlots bounds the attributes of all buckets together, each 24 bytes: what
// an unscoped policy reads counts for every relation of every type.
const maxSlots = 500_000

// gather makes the buckets of all questions.
func (c *compiler) gather() error {
	slots := 0
	for _, name := range sortedKeys(c.types) {
		t := c.types[name]
		for _, r := range t.relations {
			b := c.bucket(t, r)
			if slots += len(b.slots); slots > maxSlots {
				return fault.New(fault.TooLarge, "the policies read too many attributes for too many questions; narrow their scopes")
			}
			c.set.pairs[Grant{name, r}] = b
		}
	}
	return nil
}

func (c *compiler) bucket(t *typ, rel string) *bucket {
	q := question{cedar.NewEntityUID("Action", cedar.String(rel)), t.cedar}
	b := &bucket{action: q.action, resource: t, lists: c.index.find(q)}
	b.count = b.lists.len()
	all := sum{map[read]bool{}, map[string]bool{}}
	for _, list := range b.lists {
		if len(list) > 0 {
			s := c.sum(list)
			maps.Copy(all.reads, s.reads)
			maps.Copy(all.asks, s.asks)
		}
	}
	for _, a := range sortedKeys(all.asks) {
		if slices.Contains(t.relations, a) {
			b.asks = append(b.asks, a)
		}
	}
	for r := range all.reads {
		b.slots = append(b.slots, c.shared(r, t))
	}
	slices.SortFunc(b.slots, func(x, y slot) int { return strings.Compare(string(x.key), string(y.key)) })
	return b
}

// sum is what a list of policies reads and asks. Lists are shared by many
// buckets, so it is made once, under the address of the list's first member.
type sum struct {
	reads map[read]bool
	asks  map[string]bool
}

func (c *compiler) sum(list []*entry) *sum {
	if s := c.sums[&list[0]]; s != nil {
		return s
	}
	s := &sum{map[read]bool{}, map[string]bool{}}
	for _, e := range list {
		maps.Copy(s.reads, e.reads)
		for _, a := range e.asks {
			s.asks[a] = true
		}
	}
	c.sums[&list[0]] = s
	return s
}

type slotKey struct {
	read read
	typ  string
}

// shared returns the slot that all questions about the type share.
func (c *compiler) shared(r read, t *typ) slot {
	key := slotKey{r, t.name}
	s, ok := c.slots[key]
	if !ok {
		s = c.slot(r, t)
		c.slots[key] = s
	}
	return s
}
