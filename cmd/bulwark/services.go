package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/fault"
)

func createService() func(context.Context, *call) error {
	return verb[admin.Service]{
		as: "admin@acme", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Service, error) {
			return c.CreateService(ctx, admin.NewService{Name: args[0]})
		},
		human: func(w io.Writer, s admin.Service) {
			fmt.Fprintf(w, "service %s is %s\naudience %s\n", s.Name, s.ID, s.Audience)
		},
	}.run
}

func listServices() func(context.Context, *call) error {
	return list("admin@acme", "NAME ID STATE AUDIENCE", (*admin.Client).Services, func(s admin.Service) []string {
		return []string{s.Name, s.ID, s.State, s.Audience}
	})
}

func grantAudience() func(context.Context, *call) error {
	var in admin.Grant
	var scope string
	return verb[admin.Grant]{
		as: "admin@acme", least: 2, most: 2,
		flags: func(f *flag.FlagSet) {
			f.BoolVar(&in.Direct, "direct", false, "also without anybody's token (client_credentials)")
			f.StringVar(&scope, "scope", "", "scopes, separated by spaces")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Grant, error) {
			in.Audience, in.Scopes = args[1], strings.Fields(scope)
			return c.GrantAudience(ctx, args[0], in)
		},
		human: func(w io.Writer, g admin.Grant) { fmt.Fprintln(w, "granted", g.Audience) },
	}.run
}

// expiry adds --expires: a duration from now; without it there is no end.
func expiry(f *flag.FlagSet, t *time.Time, what string) {
	f.Func("expires", what+", e.g. 720h; without it there is no end", func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New("not a duration like 720h")
		}
		*t = time.Now().Add(d).UTC()
		return nil
	})
}

// makeKey writes the private half first: a public key without its private half
// is only clutter, the reverse would be a lost key.
func makeKey() func(context.Context, *call) error {
	var out string
	var in admin.NewKey
	return verb[admin.Key]{
		as: "admin@acme", least: 1, most: 1,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&out, "out", "", "file for the private JWK, mode 0600; never overwritten")
			expiry(f, &in.Expires, "how long the key is taken")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Key, error) {
			if out == "" {
				return admin.Key{}, usageError("--out FILE is needed")
			}
			if _, err := os.Stat(out); err == nil {
				return admin.Key{}, fault.New(fault.Conflict, "the file exists and is not overwritten: "+out)
			}
			_, private, public, err := newKeyPair()
			if err != nil {
				return admin.Key{}, err
			}
			if err := writeDurable(out, append(private, '\n')); err != nil {
				return admin.Key{}, err
			}
			in.Key = public
			k, err := c.AddKey(ctx, args[0], in)
			if err != nil {
				_ = os.Remove(out) // the key was never registered
			}
			return k, err
		},
		human: func(w io.Writer, k admin.Key) { fmt.Fprintf(w, "key %s; the private half is in %s\n", k.KID, out) },
	}.run
}

func listKeys() func(context.Context, *call) error {
	return verb[[]admin.Key]{
		as: "admin@acme", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) ([]admin.Key, error) {
			return all(func(p admin.Paging) (admin.Page[admin.Key], error) { return c.Keys(ctx, args[0], p) })
		},
		human: func(w io.Writer, keys []admin.Key) {
			table(w, "KID CREATED EXPIRES", keys, func(k admin.Key) []string { return []string{k.KID, when(k.Created), when(k.Expires)} })
		},
	}.run
}

func revokeKey() func(context.Context, *call) error {
	return verb[done]{
		as: "admin@acme", least: 2, most: 2,
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said("revoked key "+args[1], c.RevokeKey(ctx, args[0], args[1]))
		},
		human: printDone,
	}.run
}

func revokeAudience() func(context.Context, *call) error {
	return verb[done]{
		as: "admin@acme", least: 2, most: 2,
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said("took "+args[1]+" from "+args[0], c.RevokeAudience(ctx, args[0], args[1]))
		},
		human: printDone,
	}.run
}

func install() func(context.Context, *call) error {
	var in admin.NewInstallation
	var scope string
	return verb[admin.Installation]{
		as: "admin@acme", least: 1, most: 1,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&scope, "scope", "", "upper bound of scopes, separated by spaces")
			expiry(f, &in.Expires, "how long it may act here")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Installation, error) {
			in.Service, in.Scopes = args[0], strings.Fields(scope)
			return c.Install(ctx, in)
		},
		human: func(w io.Writer, i admin.Installation) { fmt.Fprintln(w, "installed", i.Service) },
	}.run
}

func listInstallations() func(context.Context, *call) error {
	return list("admin@acme", "SERVICE CREATED EXPIRES", (*admin.Client).Installations, func(i admin.Installation) []string {
		return []string{i.Service, when(i.Created), when(i.Expires)}
	})
}

func createConnection() func(context.Context, *call) error {
	var in admin.NewConnection
	var algs string
	return verb[admin.Connection]{
		as: "admin@acme", least: 1, most: 1,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&in.Issuer, "issuer", "", "https URL of the issuer, as its tokens spell it")
			f.StringVar(&in.Audience, "audience", "", "the audience that the issuer writes into access tokens for you")
			f.StringVar(&in.Kind, "kind", "at+jwt", "at+jwt, okta, entra or google")
			f.StringVar(&algs, "algs", "RS256", "signature algorithms, separated by commas")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Connection, error) {
			in.Name, in.Algs = args[0], strings.Split(algs, ",")
			return c.CreateConnection(ctx, in)
		},
		human: func(w io.Writer, k admin.Connection) { fmt.Fprintf(w, "connection %s is %s\n", k.Name, k.ID) },
	}.run
}

func listConnections() func(context.Context, *call) error {
	return list("admin@acme", "NAME ISSUER AUDIENCE KIND STATE", (*admin.Client).Connections, func(k admin.Connection) []string {
		return []string{k.Name, k.Issuer, k.Audience, k.Kind, k.State}
	})
}
