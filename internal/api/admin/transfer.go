package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"bulwark.example/internal/archive"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// The routes that move archives have bounds of their own.
const (
	transferPaths = "/stores/"
	archiveType   = "application/gzip"
	maxArchive    = 1 << 30 // bytes as they are sent: tens of millions of tuples
	transferTime  = 30 * time.Minute
	maxTransfers  = 2 // of a tenant at a time: each keeps an archive on the disk

	maxAllTransfers = 8 // of all tenants

	transferGrace = 30 * time.Second
	transferRate  = 64 << 10
)

// spool is a file without a name, so that nothing is left whatever ends first. An
// archive waits in it: a slow reader does not hold the store's snapshot open,
// and an archive is known to be whole before anything of it is used.
func spool() (*os.File, error) {
	f, err := os.CreateTemp("", "bulwark-archive-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, errSpool(err)
	}
	return f, nil
}

func errSpool(err error) error {
	return fault.Wrap(fault.Unavailable, "the server cannot keep the archive for the time of its transfer; its temporary folder is full or not there", err)
}

// backupStore answers with an archive of one of the tenant's stores. Of a default
// store it holds the model in force; proposals may be another tenant's, and
// policies are the operator's.
func backupStore(s *server, c *call) (answer, error) {
	g, err := s.graph(c, relation.StoreID(c.r.PathValue("store")))
	if err != nil {
		return answer{}, err
	}
	c.about("store:" + string(g.ID))
	leave, err := s.transfers.enter(c.tenant)
	if err != nil {
		return answer{}, err
	}
	f, err := spool()
	if err != nil {
		leave()
		return answer{}, err
	}
	out := answer{drop: func() { _ = f.Close(); leave() }} // it has no name: there is nothing to lose
	h, digest, err := s.copyStore(c.r.Context(), g, f)
	if err != nil {
		return out, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return out, errSpool(err)
	}
	c.record.Event.Revision = relation.Revision{Epoch: h.Epoch, Store: g.ID, Rev: h.Revision}
	c.record.Event.Detail = map[string]string{"digest": digest, "tuples": strconv.Itoa(h.Tuples), "models": strconv.Itoa(h.Models)}
	out.stream = func(_ context.Context, w http.ResponseWriter) error {
		w.Header().Set("Content-Type", archiveType)
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		w.WriteHeader(http.StatusOK)
		_, _ = io.Copy(w, f) // a client that is gone sees that less came than was said
		return nil
	}
	return out, nil
}

// graph is a store that the tenant may know of.
func (s *server) graph(c *call, id relation.StoreID) (*directory.Graph, error) {
	g, err := s.Directory.Graph(c.tenant, id)
	if err == nil && g.Kind == directory.SystemGraph {
		err = fault.New(fault.NotFound, "no such store") // word for word what an absent one gives
	}
	return g, err
}

// copyStore writes an archive of the store.
func (s *server) copyStore(ctx context.Context, g *directory.Graph, w io.Writer) (h archive.Header, digest string, err error) {
	var out *archive.Writer
	begin := func(in authz.Contents) (err error) {
		if g.Kind == directory.DefaultGraph {
			m, err := s.Authz.ModelInForce(g.ID)
			if err != nil {
				return err
			}
			in.Models = []authz.ModelRecord{m}
		}
		var policies []authz.PolicyFile
		if in.Own != nil {
			policies = in.Own.Files
		}
		known := map[string]bool{}
		for _, m := range in.Models {
			known[m.ID] = true
		}
		var asserted []string
		for model := range in.Assertions {
			if known[model] {
				asserted = append(asserted, model)
			}
		}
		slices.Sort(asserted)
		h = archive.Header{
			Store: g.ID, Kind: string(g.Kind), Name: g.Name, Application: g.Application, Epoch: in.Revision.Epoch, Revision: in.Revision.Rev,
			Made: s.Now().UTC(), Models: len(in.Models), Assertions: len(asserted), Roles: len(in.Roles), Policies: len(policies), Tuples: in.Tuples,
		}
		if out, err = archive.NewWriter(w, h); err != nil {
			return err
		}
		for _, m := range in.Models {
			if err := out.Model(archive.Model{ID: m.ID, Active: m.Active, Created: m.Created, Source: m.Source}); err != nil {
				return err
			}
		}
		for _, model := range asserted {
			if err := out.Assertions(archive.Assertions{Model: model, Payload: in.Assertions[model]}); err != nil {
				return err
			}
		}
		for _, r := range in.Roles {
			raw, err := json.Marshal(r)
			if err != nil {
				return fault.Wrap(fault.Internal, "a role does not encode", err)
			}
			if err := out.Role(archive.Role{Role: raw}); err != nil {
				return err
			}
		}
		for _, p := range policies {
			if err := out.Policies(archive.Policies{Name: p.Name, Text: p.Text}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.Copies.CopyGraph(ctx, g.ID, begin, func(t relation.Tuple) error { return out.Tuple(t) }); err != nil {
		return h, "", err
	}
	digest, err = out.Close()
	return h, digest, err
}

// restoreStore fills a store from the archive in the body: a new free store, or an
// empty default one. The archive is read to its end before anything is stored.
func restoreStore(s *server, c *call) (answer, error) {
	q, err := web.Query(c.r, "name", "application")
	if err != nil {
		return answer{}, err
	}
	if c.r.Header.Get("Content-Type") != archiveType {
		return answer{}, fault.New(fault.Invalid, "the body must be an archive, with Content-Type: "+archiveType)
	}
	leave, err := s.transfers.enter(c.tenant)
	if err != nil {
		return answer{}, err
	}
	defer leave()
	f, err := spool()
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = f.Close() }() // it has no name: there is nothing to lose
	if err := s.pace.receive(c, f); err != nil {
		return answer{}, err
	}
	a, err := probe(c.r.Context(), f)
	if err != nil {
		return answer{}, err
	}
	if q.Get("application") != "" {
		if q.Get("name") != "" {
			return answer{}, fault.New(fault.Invalid, "name a new store or an application, not both")
		}
		return s.restoreDefault(c, f, a, q.Get("application"))
	}
	return s.restoreFree(c, f, a, q.Get("name"))
}

// pace is what an upload has to keep. Few may be under way at a time, so a slow
// one must not hold its place for as long as a large one may take.
type pace struct {
	grace time.Duration // at the beginning, and for each piece
	rate  int64         // bytes a second, on average after the first grace
}

// next returns when more has to be there, of an upload that began at begin and of
// which n bytes, no more than an archive's, are there now.
func (p pace) next(begin, now time.Time, n int64) time.Time {
	due := begin.Add(p.grace + time.Duration(n)*time.Second/time.Duration(p.rate))
	if idle := now.Add(p.grace); idle.Before(due) {
		return idle
	}
	return due
}

// receive takes the body over, for as long as it keeps the pace.
func (p pace) receive(c *call, f *os.File) error {
	last, _ := c.r.Context().Deadline() // which web has set on the connection, too
	wake := http.NewResponseController(c.w)
	until := func(t time.Time) { _ = wake.SetReadDeadline(t) } // every real connection can
	var over *http.MaxBytesError
	switch err := copyOver(f, &paced{pace: p, body: c.r.Body, begin: time.Now(), last: last, until: until}); {
	case err == nil:
		return nil // net/http has lifted the deadline with the body's end
	case errors.As(err, &over):
		return fault.New(fault.TooLarge, "the archive is larger than 1 GiB")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Wrap(fault.Exhausted, "the archive comes too slowly for its place, of which there are few; send at least 64 KiB a second", err)
	default:
		return err
	}
}

// paced is a body whose reads end when it falls behind.
type paced struct {
	pace
	body        io.Reader
	begin, last time.Time // by the wall, as the network's deadlines
	n           int64
	until       func(time.Time)
}

func (p *paced) Read(b []byte) (int, error) {
	due := p.next(p.begin, time.Now(), p.n)
	if !p.last.IsZero() && p.last.Before(due) {
		due = p.last
	}
	p.until(due)
	n, err := p.body.Read(b)
	p.n += int64(n)
	return n, err
}

// copyOver tells the body's errors from the disk's.
func copyOver(f *os.File, body io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if _, err := f.Write(buf[:n]); err != nil {
			return errSpool(err)
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fault.Wrap(fault.Invalid, "the body did not arrive whole", err)
		}
	}
}

// probe reads the archive to its end, and leaves it at its beginning.
func probe(ctx context.Context, f *os.File) (*archive.Reader, error) {
	a, err := rewound(ctx, f)
	for err == nil {
		_, err = a.Next()
	}
	if err != io.EOF {
		return nil, err
	}
	return a, nil
}

func rewound(ctx context.Context, f *os.File) (*archive.Reader, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errSpool(err)
	}
	return archive.NewReader(attended{ctx, f})
}

// attended is a spool for as long as somebody waits for what is read of it: a
// small archive may hold a thousand times its size, all of it well formed.
type attended struct {
	ctx context.Context
	f   *os.File
}

func (a attended) Read(b []byte) (int, error) {
	if err := a.ctx.Err(); err != nil {
		return 0, fault.Wrap(fault.Unavailable, "the archive takes too long to read, or nobody waits for it any more", err)
	}
	n, err := a.f.Read(b)
	if err != nil && err != io.EOF {
		err = errSpool(err)
	}
	return n, err
}

// restoredOf begins the answer.
func restoredOf(a *archive.Reader, g relation.StoreID, name string) Restored {
	return Restored{Store: string(g), Name: name, Digest: a.Digest()}
}

// origin is what the restore's event tells of the archive.
func origin(a *archive.Reader) map[string]string {
	return map[string]string{"digest": a.Digest(), "from": string(a.Header.Store), "from_revision": strconv.FormatUint(a.Header.Revision, 10)}
}

func (s *server) restoreFree(c *call, f *os.File, a *archive.Reader, name string) (answer, error) {
	for _, known := range []string{a.Header.Name, a.Header.Application} {
		if name == "" {
			name = known
		}
	}
	r := authz.Restored{Assertions: map[string][]byte{}}
	for _, m := range a.Models {
		r.Models = append(r.Models, authz.ModelRecord{ID: m.ID, Source: m.Source, Active: m.Active, Created: m.Created})
	}
	for _, as := range a.Assertions {
		r.Assertions[as.Model] = as.Payload
	}
	ctx := c.r.Context()
	if err := r.Check(ctx); err != nil {
		return answer{}, err
	}
	again, err := rewound(ctx, f)
	if err != nil {
		return answer{}, err
	}
	r.Next = again.Next
	step := c.event() // of what surrounds the restore, each an event of its own
	step.ID, step.Time = "", s.Now()
	g, err := s.Directory.CreateGraph(ctx, step, c.tenant, name)
	if err != nil {
		return answer{}, err
	}
	change := s.change(c, g.ID, "store:"+string(g.ID))
	change.Event.Detail = origin(a)
	rev, n, err := s.Authz.Restore(ctx, change, r)
	if err == nil && again.Digest() != a.Digest() {
		err = fault.New(fault.Internal, "the archive changed while it was read")
	}
	if err != nil {
		// Whatever ended the restore must not keep half a store alive.
		step.Time = s.Now()
		if end := s.Directory.DeleteGraph(context.WithoutCancel(ctx), step, c.tenant, g.ID); end != nil {
			s.Logger.ErrorContext(ctx, "a store that was restored in part cannot be deleted", "store", g.ID, "error", end)
		}
		return answer{}, err
	}
	out := restoredOf(a, g.ID, g.Name)
	out.Revision, out.Models, out.Assertions, out.Tuples = s.Authz.Token(rev), len(a.Models), len(a.Assertions), n
	out.Unguarded = s.judged(c, a)
	return created(out), nil
}

// judged reports whether more than the model decides in the store of the archive.
func (s *server) judged(c *call, a *archive.Reader) bool {
	if len(a.Policies) > 0 || a.Header.Application == "" {
		return len(a.Policies) > 0
	}
	if p, ok := s.Authz.Policies(a.Header.Application); ok && len(p.Files) > 0 {
		return true
	}
	store, err := s.Directory.DefaultGraph(c.tenant, a.Header.Application)
	if err != nil {
		return false // no such application here
	}
	roles, _, err := s.Authz.Roles(c.r.Context(), store)
	return err == nil && len(roles.Exclusive) > 0
}

func (s *server) restoreDefault(c *call, f *os.File, a *archive.Reader, name string) (answer, error) {
	app, err := s.application(c, name)
	if err != nil {
		return answer{}, err
	}
	if a.Header.Application != app {
		return answer{}, fault.New(fault.Invalid, "the archive is not one of a store of the application "+app+"; it can be restored into a new store")
	}
	store, err := s.Directory.DefaultGraph(c.tenant, app)
	if err != nil {
		return answer{}, err
	}
	again, err := rewound(c.r.Context(), f)
	if err != nil {
		return answer{}, err
	}
	change := s.change(c, store, "store:"+string(store))
	change.Event.Detail = origin(a)
	whole := authz.Whole{Next: again.Next, Assertions: map[string][]byte{}}
	for _, as := range a.Assertions {
		whole.Assertions[as.Model] = as.Payload
	}
	for _, r := range a.Roles {
		var role authz.Role
		if err := web.Unmarshal(r.Role, &role); err != nil {
			return answer{}, fault.Wrap(fault.Invalid, "the archive holds a role that cannot be read: "+fault.Public(err), err)
		}
		whole.Roles = append(whole.Roles, role)
	}
	for _, p := range a.Policies {
		whole.Policies = append(whole.Policies, authz.PolicyFile{Name: p.Name, Text: p.Text})
	}
	in, err := s.Authz.RestoreWhole(c.r.Context(), s.Copies, change, whole)
	if err != nil {
		return answer{}, err
	}
	out := restoredOf(a, store, app)
	out.Revision, out.Tuples, out.LeftOut, out.Roles, out.Policies = s.Authz.Token(in.Revision), in.Tuples, len(in.LeftOut), len(whole.Roles), len(whole.Policies)
	if len(in.LeftOut) > 0 {
		out.First = in.LeftOut[0].String()
	}
	out.Assertions, out.AssertionsLeftOut = in.Assertions, len(in.Unknown)
	for _, o := range in.Overlaps {
		out.Exclusive = append(out.Exclusive, o.Error())
	}
	out.ExclusiveUnclear = in.Unclear
	return created(out), nil
}
