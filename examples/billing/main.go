// Command billing is an example service that other services call with a token for it alone.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"bulwark.example/examples/internal/listen"
	"bulwark.example/sdk"
)

func main() {
	log.SetFlags(0)
	var o listen.Options
	o.Flags()
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		log.Fatal("billing: ", err)
	}
}

func run(ctx context.Context, o *listen.Options) error {
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
	// Callers come with tokens of their own, past the gateway: Introspect refuses
	// them within 5 seconds after what they were derived from was revoked.
	verifier, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: o.Issuer, Audience: o.Audience, HTTP: client, Introspect: bulwark})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /invoices/{id}", func(w http.ResponseWriter, r *http.Request) {
		// Who asks, and through whom: the actor is the service that called.
		p := sdk.FromContext(r.Context())
		w.Header().Set("Content-Type", "application/json")
		err := json.NewEncoder(w).Encode(map[string]any{
			"invoice": r.PathValue("id"), "tenant": p.Tenant, "subject": p.Subject, "actors": p.Actors, "scopes": p.Scopes,
		})
		if err != nil {
			log.Print(err)
		}
	})
	return o.Serve(ctx, verifier.Middleware(mux))
}
