// Command notes is an example service: documents of many customers behind Bulwark's gateway.
//
// It shows the four things that a service does with the sdk: verify what
// arrives (and ask whether a token was ended before its time), take the tenant from the principal alone, ask for a decision that
// the gateway has not made, and call another service on behalf of the one who
// asks.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"bulwark.example/examples/internal/listen"
	"bulwark.example/sdk"
)

func main() {
	log.SetFlags(0)
	var o listen.Options
	var billing, billingAudience string
	o.Flags()
	flag.StringVar(&billing, "billing", "", "URL of the billing service")
	flag.StringVar(&billingAudience, "billing-audience", "billing", "its audience: URN or alias")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o, billing, billingAudience); err != nil {
		log.Fatal("notes: ", err)
	}
}

func run(ctx context.Context, o *listen.Options, billing, billingAudience string) error {
	client, err := o.HTTP()
	if err != nil {
		return err
	}
	key, err := os.ReadFile(o.Key)
	if err != nil {
		return err
	}
	bulwark, err := sdk.NewClient(sdk.ClientConfig{Issuer: o.Issuer, ClientID: o.ClientID, Key: key, HTTP: client})
	if err != nil {
		return err
	}
	verifier, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: o.Issuer, Audience: o.Audience, HTTP: client, Introspect: bulwark})
	if err != nil {
		return err
	}
	n := &notes{bulwark: bulwark, http: client, billing: billing, billingAudience: billingAudience, documents: map[place]string{}}
	return o.Serve(ctx, verifier.Middleware(n.routes()))
}

// place is where a document lies. The tenant leads every key.
type place struct{ tenant, id string }

type notes struct {
	bulwark                  *sdk.Client
	http                     *http.Client
	billing, billingAudience string

	mu        sync.Mutex
	documents map[place]string
}

func (n *notes) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /documents/{id}", n.may("can_view", n.read))
	mux.HandleFunc("PUT /documents/{id}", n.may("can_edit", n.write))
	mux.HandleFunc("GET /documents/{id}/invoice", n.may("can_view", n.invoice))
	mux.HandleFunc("GET /may/{relation}/{id}", n.ask)
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) { answer(w, sdk.FromContext(r.Context())) })
	return mux
}

// may serves h to those who have the relation to the document. The gateway has
// decided for what came through it, on routes that ask for it. A caller with a
// token for this service came past it, so we ask.
func (n *notes) may(relation string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, document := sdk.FromContext(r.Context()), "document:"+r.PathValue("id")
		if !p.Decided(relation, document) {
			yes, err := n.bulwark.Check(r.Context(), p.Tenant, p.Subject, relation, document)
			if err != nil {
				log.Print(err)
				http.Error(w, "no decision", http.StatusBadGateway)
				return
			}
			if !yes {
				http.Error(w, "no such document", http.StatusNotFound)
				return
			}
		}
		h(w, r)
	}
}

func (n *notes) read(w http.ResponseWriter, r *http.Request) {
	p := sdk.FromContext(r.Context())
	n.mu.Lock()
	text := n.documents[place{p.Tenant, r.PathValue("id")}]
	n.mu.Unlock()
	answer(w, map[string]any{"id": r.PathValue("id"), "text": text, "principal": p})
}

func (n *notes) write(w http.ResponseWriter, r *http.Request) {
	p := sdk.FromContext(r.Context())
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "the document is too large", http.StatusRequestEntityTooLarge)
		return
	}
	n.mu.Lock()
	n.documents[place{p.Tenant, r.PathValue("id")}] = string(text)
	n.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// invoice asks billing, as the one who asks us.
func (n *notes) invoice(w http.ResponseWriter, r *http.Request) {
	token, err := n.bulwark.Exchange(r.Context(), sdk.FromContext(r.Context()), n.billingAudience, nil)
	var refused *sdk.OAuthError
	if errors.As(err, &refused) {
		http.Error(w, refused.Code, http.StatusForbidden)
		return
	}
	if err != nil {
		log.Print(err)
		http.Error(w, "billing cannot be asked now", http.StatusBadGateway)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.billing+"/invoices/"+r.PathValue("id"), nil)
	if err != nil {
		http.Error(w, "billing cannot be asked now", http.StatusBadGateway)
		return
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := n.http.Do(req)
	if err != nil {
		log.Print(err)
		http.Error(w, "billing cannot be asked now", http.StatusBadGateway)
		return
	}
	defer func() { _ = res.Body.Close() }() // nothing was written; a failed close loses nothing
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(res.Body, 1<<20)) // the client may be gone
}

// ask tells what the one who asks may do, for a page that greys out a button.
func (n *notes) ask(w http.ResponseWriter, r *http.Request) {
	p := sdk.FromContext(r.Context())
	yes, err := n.bulwark.Check(r.Context(), p.Tenant, p.Subject, r.PathValue("relation"), "document:"+r.PathValue("id"))
	if err != nil {
		log.Print(err)
		http.Error(w, "no decision", http.StatusBadGateway)
		return
	}
	answer(w, map[string]bool{"allowed": yes})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print(fmt.Errorf("answer: %w", err))
	}
}
