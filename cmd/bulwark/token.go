package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/secret"
)

func tokenCommands() []command {
	return []command{
		{"token", "[--as USER@TENANT] [--audience A]", "print a 5-minute access token", runToken},
		{"token exchange", "--service NAME --audience A [--subject-token TOKEN|-]", "trade what was addressed to a service for a token of another", runExchange},
		{"token revoke", "KIND ID", "end a token, root, session, subject or client before its time", revoke()},
	}
}

// runToken prints the token and nothing else, so that $(bulwark token) works.
func runToken(ctx context.Context, c *call) error {
	var s session
	var audience string
	f := c.flags()
	s.flags(f, "")
	f.StringVar(&audience, "audience", "gateway", "gateway, authz, kms, admin, audit, pep, or a service's name")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	if s.as == "" && r.dev != nil {
		return usageError("in dev, --as USER@TENANT says who, e.g. --as alice@acme")
	}
	token, err := r.token(ctx, audience)
	if err != nil {
		return err
	}
	return c.showToken(token)
}

func (c *call) showToken(token string) error {
	return c.show(map[string]string{"access_token": token}, func(w io.Writer) { fmt.Fprintln(w, token) })
}

// runExchange plays a service's part (RFC 8693) with its key from a file.
func runExchange(ctx context.Context, c *call) error {
	var s session
	var service, keyFile, audience, subject, scope string
	f := c.flags()
	s.flags(f, "admin@acme")
	f.StringVar(&service, "service", "", "in dev the service's name, else its client id")
	f.StringVar(&keyFile, "key", "", "file with the service's private JWK; in dev it is known")
	f.StringVar(&audience, "audience", "", "the service that the new token is for")
	f.StringVar(&subject, "subject-token", "-", "the token or assertion that the service received; - reads it from standard input")
	f.StringVar(&scope, "scope", "", "narrower scope")
	if _, err := c.parse(f, 0, 0); err != nil {
		return err
	}
	if service == "" || audience == "" {
		return usageError("--service and --audience are needed")
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	clientID := service
	if r.dev != nil {
		if svc, ok := r.dev.Services[service]; ok {
			clientID = svc.ClientID
			if keyFile == "" {
				keyFile = svc.Key
			}
		}
	}
	key, err := readKey(keyFile)
	if err != nil {
		return err
	}
	if subject == "-" {
		if subject, err = readLine(c.stdin); err != nil {
			return err
		}
	}
	assertion, err := signAssertion(key, clientID, r.issuer, time.Now())
	if err != nil {
		return err
	}
	form := url.Values{
		"grant_type":            {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
		"subject_token": {subject}, "subject_token_type": {subjectType(subject)}, "audience": {audience},
	}
	if scope != "" {
		form.Set("scope", scope)
	}
	token, err := requestToken(ctx, r.http, r.api, form)
	if err != nil {
		return err
	}
	return c.showToken(token)
}

// subjectType tells our two kinds of subject token apart by their header.
func subjectType(token string) string {
	if u, err := jose.Peek(token); err == nil && u.Header.Is("bulwark-assertion+jwt") {
		return "urn:ietf:params:oauth:token-type:jwt"
	}
	return "urn:ietf:params:oauth:token-type:access_token"
}

func readKey(path string) (jose.PrivateKey, error) {
	if path == "" {
		return jose.PrivateKey{}, usageError("--key FILE is needed: the private JWK of the service, as `bulwark service key` wrote it")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return jose.PrivateKey{}, fault.Wrap(fault.Invalid, "the key file cannot be read: "+path, err)
	}
	return jose.ParsePrivateKey(secret.New(b))
}

func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadString('\n')
	if line = strings.TrimSpace(line); line == "" {
		return "", fault.Wrap(fault.Invalid, "standard input held no token", err)
	}
	return line, nil
}

func revoke() func(context.Context, *call) error {
	return verb[done]{
		as: "admin@acme", least: 2, most: 2,
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said("revoked "+args[0]+" "+args[1], c.Revoke(ctx, admin.NewRevocation{Kind: args[0], Value: args[1]}))
		},
		human: printDone,
	}.run
}
