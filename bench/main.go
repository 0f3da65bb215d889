// Command bench prints Bulwark's numbers beside its peers', measured in one run.
//
// CPU time comes first: this is what holds on a shared machine. Each row is the
// median over interleaved rounds, so that foreign load hits all rows alike. Its
// parts are the gateway, beside a bare, tuned httputil.ReverseProxy with the same
// TLS on both sides and nothing else, the decisions, beside OpenFGA on PostgreSQL,
// and the cost card.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	if len(os.Args) > 1 {
		// The parts that run in processes of their own, so that their CPU can be told apart.
		switch os.Args[1] {
		case "upstream":
			check(runUpstream(os.Args[2:]))
			return
		case "bare":
			check(runBare(os.Args[2:]))
			return
		case "load":
			check(runLoad(os.Args[2:]))
			return
		}
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "interleaved rounds")
	flag.DurationVar(&o.length, "length", 8*time.Second, "of one row of one round")
	flag.IntVar(&o.connections, "connections", 64, "client connections")
	flag.IntVar(&o.tokens, "tokens", 1000, "distinct tokens of the second row")
	flag.BoolVar(&o.card, "card", true, "print the cost card, after the gateway")
	flag.StringVar(&o.parts, "parts", "gateway,decisions", "what to measure")
	flag.BoolVar(&o.quick, "quick", false, "decisions: a smaller graph and fewer questions, and say so")
	flag.StringVar(&o.steps, "steps", "", "decisions: which of check, kinds, batch, all, writes, memory, cold, random, process; empty: all")
	flag.StringVar(&o.openfga, "openfga", "", "program to use as OpenFGA v1.22.1; empty: build it, which takes minutes the first time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // timeout(1) ends us so
	defer stop()
	check(o.run(ctx))
}

type options struct {
	rounds, connections, tokens int
	length                      time.Duration
	card, quick                 bool
	parts, steps, openfga       string
}

func (o *options) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bulwark-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &world{options: o, dir: dir}
	defer w.close()
	if err := w.build(ctx); err != nil {
		return err
	}
	if err := w.open(ctx); err != nil {
		return err
	}
	for part := range strings.SplitSeq(o.parts, ",") {
		var err error
		switch part {
		case "gateway":
			err = w.besideProxy(ctx)
		case "decisions":
			err = w.decide(ctx)
		default:
			err = fmt.Errorf("there is no part %q", part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// besideProxy is the gateway's part.
func (w *world) besideProxy(ctx context.Context) (err error) {
	fmt.Printf("setting up: %d users, each with a token of an external issuer\n", w.tokens)
	if err := w.people(ctx); err != nil {
		return err
	}
	if w.idle, err = w.metric(ctx, "process_resident_memory_bytes"); err != nil {
		return err
	}
	if err := w.gateway(ctx); err != nil {
		return err
	}
	if w.card {
		return w.costCard(ctx)
	}
	return nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
