package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// asker is one gRPC connection, over TLS with a token, to a server that speaks
// OpenFGA's API.
type asker struct {
	api   fga.OpenFGAServiceClient
	token func(context.Context) (string, error)
}

// dial connects to the address.
func dial(addr, ca string, token func(context.Context) (string, error)) (*asker, error) {
	pool, err := readPool(ca)
	if err != nil {
		return nil, err
	}
	a := &asker{token: token}
	conn, err := grpc.NewClient(addr, grpc.WithPerRPCCredentials(a),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool})))
	if err != nil {
		return nil, err
	}
	a.api = fga.NewOpenFGAServiceClient(conn)
	return a, nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (a *asker) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := a.token(ctx)
	return map[string]string{"authorization": "Bearer " + token}, err
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (a *asker) RequireTransportSecurity() bool { return true }

// store makes a store with the model and returns their ids.
func (a *asker) store(ctx context.Context, name, dsl string) (store, model string, err error) {
	made, err := a.api.CreateStore(ctx, &fga.CreateStoreRequest{Name: name})
	if err != nil {
		return "", "", err
	}
	model, err = a.model(ctx, made.GetId(), dsl)
	return made.GetId(), model, err
}

func (a *asker) model(ctx context.Context, store, dsl string) (string, error) {
	m, err := transformer.TransformDSLToProto(dsl)
	if err != nil {
		return "", err
	}
	wrote, err := a.api.WriteAuthorizationModel(ctx, &fga.WriteAuthorizationModelRequest{
		StoreId: store, TypeDefinitions: m.GetTypeDefinitions(), SchemaVersion: m.GetSchemaVersion(), Conditions: m.GetConditions()})
	return wrote.GetAuthorizationModelId(), err
}

// write puts tuples of the drive into the store, 100 at a time by 8 callers.
func (a *asker) write(ctx context.Context, store string, each func(do func(object, relation, user string))) error {
	batches := make(chan []*fga.TupleKey, 8)
	errs := make([]error, 8)
	var failed atomic.Bool
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for b := range batches {
				if errs[i] == nil && !failed.Load() {
					_, errs[i] = a.api.Write(ctx, &fga.WriteRequest{StoreId: store, Writes: &fga.WriteRequestWrites{TupleKeys: b}})
				}
				if errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	var batch []*fga.TupleKey
	each(func(object, relation, user string) {
		batch = append(batch, &fga.TupleKey{Object: object, Relation: relation, User: user})
		if len(batch) == 100 {
			batches <- batch
			batch = nil
		}
	})
	if len(batch) > 0 {
		batches <- batch
	}
	close(batches)
	wg.Wait()
	return errors.Join(errs...)
}

// target is a store on one side, with the drive that it holds.
type target struct {
	name string // of the row
	*asker
	store, model string
	drive        *drive
	cpu          func() (time.Duration, error)
}

// tally is what one row of one round gave.
type tally struct {
	Answers, Wrong, Errors int
	Calls                  int
	Elapsed, CPU           time.Duration
	P50, P99               time.Duration // of a call
	firstErr               error
}

// each is the CPU of one answer.
func (t tally) each() float64 {
	return float64(t.CPU.Nanoseconds()) / 1000 / float64(max(1, t.Answers))
}

// load says how a row asks.
type load struct {
	callers int
	length  time.Duration // 0: until the pool has been asked once
	batch   int           // questions a call; 0: Check
	lists   bool          // ListObjects instead
	repeat  bool          // ask the pool again from its begin, else an empty pool ends the row
}

// pool is a list of questions with the place where the next row goes on.
type pool struct {
	list []question
	next atomic.Int64
}

// take returns up to n questions that nobody has taken.
func (p *pool) take(n int, repeat bool) []question {
	at := int(p.next.Add(int64(n))) - n
	if repeat {
		at %= len(p.list)
	}
	if at >= len(p.list) {
		return nil
	}
	return p.list[at:min(at+n, len(p.list))]
}

// run asks and compares each answer with the oracle's.
func (t *target) run(ctx context.Context, p *pool, l load) (tally, error) {
	if _, err := t.token(ctx); err != nil { // outside of the measured time
		return tally{}, err
	}
	before, err := t.cpu()
	if err != nil {
		return tally{}, err
	}
	parts := make([]tally, l.callers)
	took := make([][]time.Duration, l.callers)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			for unit := i; ctx.Err() == nil && (l.length == 0 || time.Since(began) < l.length); unit += l.callers {
				at := time.Now()
				ok := false
				switch {
				case l.lists:
					ok = t.list(ctx, unit%len(t.drive.units), &parts[i])
				case l.batch > 0:
					ok = t.ask(ctx, p.take(l.batch, l.repeat), &parts[i])
				default:
					ok = t.check(ctx, p.take(1, l.repeat), &parts[i])
				}
				if !ok {
					return
				}
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	wg.Wait()
	sum := tally{Elapsed: time.Since(began)}
	after, err := t.cpu()
	if err != nil {
		return tally{}, err
	}
	sum.CPU = after - before
	for _, part := range parts {
		sum.Answers, sum.Wrong, sum.Errors = sum.Answers+part.Answers, sum.Wrong+part.Wrong, sum.Errors+part.Errors
		if sum.firstErr == nil {
			sum.firstErr = part.firstErr
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	sum.Calls = len(all)
	if len(all) > 0 {
		sum.P50, sum.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	if sum.Answers == 0 {
		return sum, fmt.Errorf("%s: no answers: %v", t.name, errors.Join(sum.firstErr, ctx.Err()))
	}
	return sum, nil
}

func (sum *tally) fail(err error) {
	sum.Errors++
	if sum.firstErr == nil {
		sum.firstErr = err
	}
}

func (sum *tally) judge(got, want bool) {
	sum.Answers++
	if got != want {
		sum.Wrong++
	}
}

func (t *target) check(ctx context.Context, list []question, sum *tally) bool {
	if len(list) == 0 {
		return false
	}
	object, relation, user := t.drive.strings(list[0])
	res, err := t.api.Check(ctx, &fga.CheckRequest{StoreId: t.store, AuthorizationModelId: t.model,
		TupleKey: &fga.CheckRequestTupleKey{Object: object, Relation: relation, User: user}})
	if err != nil {
		sum.fail(err)
		return true
	}
	sum.judge(res.GetAllowed(), list[0].want)
	return true
}

func (t *target) ask(ctx context.Context, list []question, sum *tally) bool {
	if len(list) == 0 {
		return false
	}
	req := &fga.BatchCheckRequest{StoreId: t.store, AuthorizationModelId: t.model}
	for i, q := range list {
		object, relation, user := t.drive.strings(q)
		req.Checks = append(req.Checks, &fga.BatchCheckItem{CorrelationId: strconv.Itoa(i),
			TupleKey: &fga.CheckRequestTupleKey{Object: object, Relation: relation, User: user}})
	}
	res, err := t.api.BatchCheck(ctx, req)
	if err != nil {
		sum.fail(err)
		return true
	}
	for i, q := range list {
		one := res.GetResult()[strconv.Itoa(i)]
		if one == nil || one.GetError() != nil {
			sum.fail(fmt.Errorf("an answer of a batch: %v", one))
			continue
		}
		sum.judge(one.GetAllowed(), q.want)
	}
	return true
}

func (t *target) list(ctx context.Context, unit int, sum *tally) bool {
	user, want := t.drive.lists[unit].user, t.drive.lists[unit].want
	res, err := t.api.ListObjects(ctx, &fga.ListObjectsRequest{StoreId: t.store, AuthorizationModelId: t.model, Type: "document", Relation: "can_view", User: user})
	if err != nil {
		sum.fail(err)
		return true
	}
	got := slices.Sorted(slices.Values(res.GetObjects()))
	sum.judge(slices.Equal(got, want), true)
	return true
}
