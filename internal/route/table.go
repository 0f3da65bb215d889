package route

import (
	"slices"
	"strings"

	"bulwark.example/internal/fault"
)

// Table is a set of compiled routes. It is immutable and safe for concurrent use.
type Table struct {
	hosts map[string]*node
	any   *node
}

type node struct {
	literal  map[string]*node
	variable *node
	end      *leaf // the path ends here
	slash    *leaf // the path ends here with a slash
	rest     *leaf // whatever follows
}

// leaf is one pattern under one host.
type leaf struct {
	shape   string // kinds of its segments; the smaller string is more specific
	methods map[string]*compiled
}

type compiled struct {
	route  *Route
	names  []string
	object []part
}

// Compile makes a table.
//
// The most specific pattern wins, segment by segment from the left: a literal
// before {var}, {var} before {rest...}. It wins whatever its methods are: a
// broader pattern never answers for a method that the most specific one does
// not list. Of two equal patterns the one that names the host goes before the
// one for every host, and a named method before "*". {rest...} takes
// everything that follows its slash, also nothing.
//
// Errors have kind [fault.Invalid] and name the route and the reason; routes
// that answer for the same requests are an error that names both.
func Compile(routes []Route) (*Table, error) {
	t := &Table{hosts: map[string]*node{}, any: &node{}}
	ids := map[string]bool{}
	for i := range routes {
		r := routes[i].clone()
		if err := r.check(); err != nil {
			return nil, err
		}
		if ids[r.ID] {
			return nil, fault.New(fault.Invalid, "route "+r.ID+": the id is used twice")
		}
		ids[r.ID] = true
		segments, err := parsePattern(r)
		if err != nil {
			return nil, err
		}
		c := &compiled{route: r}
		for _, s := range segments {
			if s.kind == kindVar || s.kind == kindRest {
				c.names = append(c.names, s.text)
			}
		}
		if r.Require != nil {
			if c.object, err = parseObject(r, segments); err != nil {
				return nil, err
			}
		}
		if err := t.insert(c, segments); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Table) insert(c *compiled, segments []segment) error {
	roots := []*node{t.any}
	if len(c.route.Hosts) > 0 {
		roots = roots[:0]
		for _, h := range c.route.Hosts {
			h = strings.ToLower(h)
			if t.hosts[h] == nil {
				t.hosts[h] = &node{}
			}
			roots = append(roots, t.hosts[h])
		}
	}
	for _, root := range roots {
		l := root.leaf(segments)
		for _, m := range c.route.Methods {
			if other := l.methods[m]; other != nil {
				if other == c {
					return fault.New(fault.Invalid, "route "+c.route.ID+": a host or method is listed twice")
				}
				return fault.New(fault.Invalid, "route "+c.route.ID+": answers for the same requests as route "+
					other.route.ID+": "+m+" "+c.route.Path)
			}
			l.methods[m] = c
		}
	}
	return nil
}

// leaf returns the place of the pattern below n, and makes it if need be.
func (n *node) leaf(segments []segment) *leaf {
	shape := make([]byte, 0, len(segments))
	slot := &n.end
	for _, s := range segments {
		shape = append(shape, s.kind)
		switch s.kind {
		case kindLiteral:
			if n.literal == nil {
				n.literal = map[string]*node{}
			}
			if n.literal[s.text] == nil {
				n.literal[s.text] = &node{}
			}
			n = n.literal[s.text]
			slot = &n.end
		case kindVar:
			if n.variable == nil {
				n.variable = &node{}
			}
			n = n.variable
			slot = &n.end
		case kindRest:
			slot = &n.rest
		case kindSlash:
			slot = &n.slash
		}
	}
	if *slot == nil {
		*slot = &leaf{shape: string(shape), methods: map[string]*compiled{}}
	}
	return *slot
}

// captures are the raw values of a pattern's variables.
type captures struct {
	raw       [MaxVars]string
	n         int
	ambiguous bool
	toggle    bool // look for the path with its trailing slash taken off or put on
}

// Match normalizes the path and finds the route. host is the value of the
// header Host (or :authority), with or without port; rawPath is the path as on
// the wire, without query. The outcome is [BadPath] too when an escape or a
// trailing slash is all that keeps the path from another, more specific route:
// the upstream may well read it as that one.
func (t *Table) Match(host, method, rawPath string) (Bound, Outcome) {
	path, err := Normalize(rawPath)
	if err != nil {
		return Bound{Refusal: err}, BadPath
	}
	if host != "" {
		if host = hostName(host); host == "" {
			return Bound{Path: path}, NoRoute
		}
	}
	var vars captures
	l, other := t.find(host, path, &vars)
	if vars.ambiguous || l != nil && t.slashMatters(host, path, l) {
		return Bound{Refusal: errAmbiguous}, BadPath
	}
	if l == nil {
		return Bound{Path: path}, NoRoute
	}
	c := l.pick(method)
	if c == nil {
		c = other.pick(method)
	}
	if c == nil {
		return Bound{Path: path, Allow: allow(l, other)}, MethodNotAllowed
	}
	b := Bound{Route: c.route, Path: path}
	if len(c.names) > 0 {
		b.Vars = make([]Var, len(c.names))
		for i, name := range c.names {
			b.Vars[i] = Var{name, decode(vars.raw[i])}
		}
	}
	if c.route.Require != nil {
		b.Object = object(c.object, b.Vars)
	}
	return b, Matched
}

// slashMatters reports whether the path would belong to a more specific
// pattern but for a trailing slash that it has or lacks.
func (t *Table) slashMatters(host, path string, l *leaf) bool {
	shape := strings.TrimSuffix(l.shape, string(kindSlash))
	if len(path) == 1 || strings.Trim(shape, string(kindLiteral)) == "" {
		return false // nothing is more specific than literals
	}
	toggled := captures{toggle: true}
	near, _ := t.find(host, path, &toggled)
	return near != nil && strings.TrimSuffix(near.shape, string(kindSlash)) < shape
}

// find returns the most specific pattern, and the one for every host when it
// is as specific as the one that names the host.
func (t *Table) find(host, path string, vars *captures) (l, other *leaf) {
	elsewhere := captures{toggle: vars.toggle}
	l = t.any.find(path[1:], &elsewhere)
	root := t.hosts[host]
	if host == "" || root == nil {
		*vars = elsewhere
		return l, nil
	}
	named := root.find(path[1:], vars)
	vars.ambiguous = vars.ambiguous || elsewhere.ambiguous
	switch {
	case named == nil, l != nil && l.shape < named.shape:
		elsewhere.ambiguous = vars.ambiguous
		*vars = elsewhere
		return l, nil
	case l != nil && l.shape == named.shape:
		return named, l
	}
	return named, nil
}

// find goes down the trie; rest is what follows the last slash.
func (n *node) find(rest string, vars *captures) *leaf {
	if rest == "" {
		if n.slash != nil {
			return n.slash
		}
		return n.tail(rest, vars)
	}
	seg, tail, more := strings.Cut(rest, "/")
	if child := n.literal[seg]; child != nil {
		if l := child.next(tail, more, vars); l != nil {
			return l
		}
	} else if len(n.literal) > 0 && strings.IndexByte(seg, '%') >= 0 && n.literal[decode(seg)] != nil {
		vars.ambiguous = true
		return nil
	}
	if n.variable != nil {
		depth := vars.n
		vars.raw[vars.n] = seg
		vars.n++
		if l := n.variable.next(tail, more, vars); l != nil {
			return l
		}
		vars.n = depth
	}
	return n.tail(rest, vars)
}

func (n *node) next(tail string, more bool, vars *captures) *leaf {
	if vars.toggle && tail == "" {
		more = !more
	}
	if more {
		return n.find(tail, vars)
	}
	return n.end
}

func (n *node) tail(rest string, vars *captures) *leaf {
	if n.rest != nil {
		vars.raw[vars.n] = rest
		vars.n++
	}
	return n.rest
}

func (l *leaf) pick(method string) *compiled {
	if l == nil {
		return nil
	}
	if c := l.methods[method]; c != nil && method != anyMethod {
		return c
	}
	if method == "CONNECT" || method == "TRACE" || !validMethod(method) {
		return nil
	}
	return l.methods[anyMethod]
}

func allow(leaves ...*leaf) string {
	var methods []string
	for _, l := range leaves {
		if l != nil {
			for m := range l.methods {
				if m != anyMethod {
					methods = append(methods, m)
				}
			}
		}
	}
	slices.Sort(methods)
	return strings.Join(slices.Compact(methods), ", ")
}
