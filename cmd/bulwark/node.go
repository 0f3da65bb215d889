package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authn"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/config"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// plan is everything that a node is told, by dev's defaults or by the
// operator's file.
type plan struct {
	env, issuer, data string
	dev               bool
	application       string
	root              kms.Root
	outgoing          outgoing.Config
	audit             map[ledger.Class]int64 // budgets in bytes
	keyLife, overlap  time.Duration
	limits            config.Limits
	now               func() time.Time
	log               *slog.Logger
}

// node is the engines of one process, wired. Nothing listens yet.
type node struct {
	plan      plan
	instance  store.Instance
	store     *sqlite.Store
	keyring   *kms.Keyring
	audit     *audit.Log
	logKey    note.Verifier
	directory *directory.Directory
	authz     *authz.Engine
	releases  *release.Registry
	fits      func(authz.Draft) error // whether the gateway can serve by it; nil before there is one
	keys      *sts.Keys
	issuer    *sts.Issuer
	signer    *sts.AssertionSigner
	authn     *authn.Authenticator
	guard     *guard.Guard

	ends chan struct{} // holds a word when a tuple was written that ends

	recorded uint64 // size of the newest head beside the list of logs; of the background once it runs

	stop func() // ends the background work and waits for it
}

// openNode wires the engines over the data folder, in the order in which they
// need each other. The instance must exist.
func openNode(ctx context.Context, p plan) (n *node, err error) {
	n = &node{plan: p, ends: make(chan struct{}, 1), stop: func() {}}
	defer func() {
		if err != nil {
			n.close(context.WithoutCancel(ctx))
		}
	}()
	steps := []func(context.Context) error{
		n.openStore, n.openDirectory, n.openKeys, n.openAudit, n.openDecisions, n.openTokens, n.openGuard,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return n, err
		}
	}
	// Unlocking the root key took 256 MiB (scrypt); without this they stay
	// resident for minutes, on machines that count megabytes.
	debug.FreeOSMemory()
	n.stop = n.background(ctx)
	return n, nil
}

// close ends everything in the reverse order. What is on disk is whole.
func (n *node) close(ctx context.Context) {
	n.stop()
	if n.audit != nil {
		if err := n.audit.Close(ctx); err != nil {
			n.plan.log.Error("the audit log did not close cleanly", "error", err)
		}
		if err := n.recordHead(ctx); err != nil {
			n.plan.log.Error("the last head of the audit log is not in the list of logs", "error", err)
		}
	}
	if n.store != nil {
		if err := n.store.Close(); err != nil {
			n.plan.log.Error("the store did not close cleanly", "error", err)
		}
	}
}

func (n *node) openStore(ctx context.Context) (err error) {
	if n.store, err = sqlite.Open(ctx, sqlite.Config{
		Path: databasePath(n.plan.data), Now: n.plan.now, Logger: n.plan.log, MaxTuples: cmp.Or(n.plan.limits.Tuples, config.DefaultTuples),
	}); err != nil {
		return err
	}
	n.instance, err = n.store.Instance(ctx)
	switch {
	case fault.KindOf(err) == fault.NotFound && err != nil:
		return fault.New(fault.Invalid, "there is no installation in "+n.plan.data+"; make one with `bulwark init`")
	case err != nil:
		return err
	case n.instance.Dev && !n.plan.dev:
		return fault.New(fault.Denied, "this data was made by `bulwark dev`; serve refuses it")
	case !n.instance.Dev && n.plan.dev:
		return fault.New(fault.Denied, "this data was not made by `bulwark dev`; dev refuses it")
	case n.instance.Env != n.plan.env:
		return fault.New(fault.Denied, "this data belongs to the environment "+n.instance.Env)
	}
	return nil
}

func (n *node) openDirectory(ctx context.Context) (err error) {
	n.directory, err = directory.New(ctx, directory.Config{
		Store: n.store.Directory(), Env: n.plan.env, Dev: n.plan.dev, Applications: []string{n.plan.application}, FreeGraphs: n.plan.limits.FreeStores,
		CodeMAC:  func(ctx context.Context) (secret.Bytes, error) { return n.keyring.Derive(ctx, "enrolment-codes") },
		MaxToken: max(sts.MaxTokenLife, authn.MaxExternalLife), Now: n.plan.now,
	})
	if err != nil {
		return err
	}
	n.store.Subscribe(n.apply)
	if _, err := n.directory.Tenant(tenant.Platform); err == nil {
		return nil
	}
	_, err = n.directory.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	return err
}

// apply hands a committed change to every engine that holds a view of it. It
// runs on the store's writer, in the order of commits.
func (n *node) apply(b store.Batch) {
	for _, e := range b.Entries {
		err := n.directory.Apply(e.Kind, e.Key, e.Payload)
		if n.keyring != nil {
			err = errors.Join(err, n.keyring.Apply(e.Kind, e.Key))
		}
		if n.authz != nil {
			err = errors.Join(err, n.authz.ApplyEntry(e.Kind, e.Key, e.Payload))
		}
		if n.releases != nil {
			err = errors.Join(err, n.releases.Apply(e.Kind, e.Key, e.Payload))
		}
		if n.keys != nil {
			err = errors.Join(err, n.keys.Apply(e.Kind, e.Key, e.Payload))
		}
		if err != nil {
			n.plan.log.Error("a change cannot be taken over", "store", b.Store, "revision", b.Rev, "kind", e.Kind, "error", err)
		}
	}
	if n.authz != nil {
		n.authz.Apply(b.Store, b.Rev, b.Writes, b.Deletes)
	}
	n.watchEnds(b)
	if n.audit != nil {
		n.audit.Wake()
	}
}

func (n *node) openKeys(ctx context.Context) (err error) {
	n.keyring, err = kms.Open(ctx, kms.Config{
		Root: n.plan.root, Store: n.store.Keys(), Env: n.plan.env, Dev: n.plan.dev,
		Fingerprint: n.instance.RootFingerprint, Now: n.plan.now,
	})
	if err != nil {
		return err
	}
	// A stop between a tenant and its key is healed here.
	for _, t := range n.directory.Tenants() {
		if err := n.ensureKEK(ctx, t.Tenant); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) ensureKEK(ctx context.Context, t tenant.ID) error {
	system, err := n.directory.SystemGraph(t)
	if err != nil {
		return err
	}
	return n.keyring.CreateKEK(ctx, t, system)
}

func (n *node) openAudit(ctx context.Context) error {
	dir := auditPath(n.plan.data)
	signer, verifier, line, err := n.openLogKey(ctx, dir)
	if err != nil {
		return err
	}
	n.logKey = verifier
	kept, err := n.listLog(ctx, line)
	if err != nil {
		return err
	}
	if kept != nil { // before anything is appended, which would make a log that was set back longer
		if err := audit.Extends(ctx, dir, verifier, kept); err != nil {
			return err
		}
	}
	n.audit, err = audit.Open(ctx, audit.Config{
		Dir: dir, Now: n.plan.now, Signer: signer, Verifier: verifier,
		Instance: n.instance.ID, Budgets: n.plan.audit, Logger: n.plan.log,
	})
	if err != nil {
		return err
	}
	return n.recordHead(ctx)
}

// logOrigin begins the name of every log (the origin line of its checkpoints);
// the id of the node that keeps it follows.
const logOrigin = "bulwark.example/log/"

func (n *node) logNode() string { return strings.TrimPrefix(n.logKey.Name(), logOrigin) }

// listLog puts this node's log into the append-only list of logs, and returns
// the newest head of it that the list has. A log that was begun anew, because
// its folder was lost, is another log: that is said, and stands in the list.
func (n *node) listLog(ctx context.Context, publicKey string) (kept []byte, err error) {
	logs, err := n.store.AuditLogs(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range logs {
		if l.Node == n.logNode() {
			n.recorded = l.Size
			return l.Head, nil
		}
	}
	for _, l := range logs {
		n.plan.log.Error("this node begins an audit log, and the store knows of another; if its folder was lost or removed, find out why",
			"begun", n.logKey.Name(), "known", l.Origin, "blocks", l.Size)
	}
	return nil, n.store.AddAuditLog(ctx, store.AuditLog{
		Node: n.logNode(), Origin: n.logKey.Name(), PublicKey: publicKey, Created: n.plan.now(),
	})
}

// recordHead writes the log's signed head beside the list of logs, where it
// outlives this node's disk. It is done seldom, at the start and at the end:
// each head is a row for good.
func (n *node) recordHead(ctx context.Context) error {
	signed := n.audit.Head()
	if signed == nil {
		return nil
	}
	size, err := ledger.HeadSize(signed)
	if err != nil || size == n.recorded {
		return err
	}
	if err := n.store.AddAuditHead(ctx, n.logNode(), size, signed); err != nil {
		return err
	}
	n.recorded = size
	return nil
}

const logKeyFile = "log.key" // sealed under the platform's key

// openLogKey opens the key that signs this node's log, or makes one. It is sealed
// as the signer's and the verifier's line of C2SP signed-note. The verifier's
// stands beside the segments in clear too, so that `bulwark audit verify`
// needs no key of ours.
func (n *node) openLogKey(ctx context.Context, dir string) (signer note.Signer, verifier note.Verifier, vkey string, err error) {
	scope := kms.Scope{Tenant: tenant.Platform, Key: "audit-log", Purpose: "log-signing-key", Context: map[string]string{"instance": n.instance.ID}}
	var both []byte
	blob, err := os.ReadFile(filepath.Join(dir, logKeyFile))
	switch {
	case err == nil:
		plain, err := n.keyring.Decrypt(ctx, scope, blob)
		if err != nil {
			return nil, nil, "", err
		}
		both = plain.Reveal()
	case errors.Is(err, fs.ErrNotExist):
		if both, err = n.makeLogKey(ctx, dir, scope); err != nil {
			return nil, nil, "", err
		}
	default:
		return nil, nil, "", fault.Wrap(fault.Unavailable, "the audit log's key cannot be read", err)
	}
	skey, vkey, _ := strings.Cut(string(both), "\n")
	signer, errSigner := note.NewSigner(skey)
	verifier, errVerifier := note.NewVerifier(vkey)
	if err := errors.Join(errSigner, errVerifier); err != nil {
		return nil, nil, "", fault.Wrap(fault.Integrity, "the audit log's key is damaged", err)
	}
	return signer, verifier, vkey, writeDurable(filepath.Join(dir, audit.VerifierFile), []byte(vkey+"\n"))
}

func (n *node) makeLogKey(ctx context.Context, dir string, scope kms.Scope) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log's folder cannot be made", err)
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, logOrigin+tenant.RandomID())
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the audit log's key cannot be made", err)
	}
	both := []byte(skey + "\n" + vkey)
	blob, err := n.keyring.Encrypt(ctx, scope, secret.New(bytes.Clone(both)))
	if err != nil {
		return nil, err
	}
	return both, writeDurable(filepath.Join(dir, logKeyFile), blob)
}

func (n *node) openDecisions(ctx context.Context) error {
	mac, err := n.keyring.Derive(ctx, "revision-tokens")
	if err != nil {
		return err
	}
	n.authz, err = authz.New(ctx, authz.Config{
		Store: n.store.Tuples(), Archive: n.store.Archive(), Images: n.store.Images(), Logger: n.plan.log, MAC: mac, Epoch: n.instance.Epoch, Memory: int64(n.plan.limits.Memory), Now: n.plan.now,
		Application: func(id relation.StoreID) (string, bool) {
			g, err := n.directory.GraphByID(id)
			if err != nil {
				return "", false
			}
			switch g.Kind {
			case directory.SystemGraph:
				return authz.System, true
			case directory.FreeGraph:
				return authz.FreeApplication(id), true
			}
			return g.Application, true
		},
	})
	if err != nil {
		return err
	}
	n.releases, err = release.Open(ctx, release.Config{
		Store: n.store.Releases(), Engine: n.authz, Now: n.plan.now,
		Fits: func(d authz.Draft) error {
			if n.fits == nil {
				return nil
			}
			return n.fits(d)
		},
	})
	if err != nil {
		return err
	}
	return n.directory.EnsureGraphs(ctx)
}

func (n *node) openTokens(ctx context.Context) error {
	platform, err := n.directory.SystemGraph(tenant.Platform)
	if err != nil {
		return err
	}
	n.keys, err = sts.OpenKeys(ctx, sts.KeysConfig{
		Store: n.store.Tokens(), Sealer: n.keyring, Platform: platform,
		Overlap: n.plan.overlap, Period: n.plan.keyLife, Now: n.plan.now,
	})
	if err != nil {
		return err
	}
	n.issuer, err = sts.New(ctx, sts.Config{
		Issuer: n.plan.issuer, Dev: n.plan.dev, Directory: n.directory, Keys: n.keys, Audit: n.audit, Now: n.plan.now,
	})
	return err
}

func (n *node) openGuard(ctx context.Context) (err error) {
	platform, err := n.directory.SystemGraph(tenant.Platform)
	if err != nil {
		return err
	}
	n.signer, err = sts.NewAssertionSigner(ctx, sts.AssertionConfig{Issuer: n.plan.issuer, Store: n.store.Tokens(), Platform: platform, Now: n.plan.now})
	if err != nil {
		return err
	}
	fetch := outgoing.Tenant(n.plan.outgoing)
	n.authn = authn.New(authn.Config{
		Env: n.plan.env, Issuer: n.plan.issuer, Keys: n.keys, Directory: n.directory, Fetch: fetch.Get, Now: n.plan.now,
	})
	n.guard = guard.New(guard.Config{
		Audit: n.audit, Authn: n.authn, Authz: n.authz, Directory: n.directory, Assertions: n.signer, Now: n.plan.now,
	})
	return nil
}

func databasePath(data string) string { return filepath.Join(data, "bulwark.db") }
func auditPath(data string) string    { return filepath.Join(data, "audit") }
