package oidc

import (
	"errors"
	"net/http"
	"slices"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/web"
)

func origin(r *http.Request, route string) sts.Origin {
	return sts.Origin{RequestID: web.RequestID(r), Route: route, Source: ledger.Network(web.Source(r))}
}

// read reads the form; a bad one is refused with its event.
func (s *Server) read(r *http.Request, o sts.Origin) (form, error) {
	f, err := readForm(r)
	var b *bad
	if errors.As(err, &b) {
		return nil, s.cfg.STS.RejectRequest(o, b.code, b.reason, b.text)
	}
	return f, err
}

func (s *Server) authenticate(r *http.Request, f form, o sts.Origin) (*sts.Client, error) {
	return s.cfg.STS.AuthenticateClient(r.Context(), sts.ClientAuth{
		ClientID: f.get("client_id"), AssertionType: f.get("client_assertion_type"), Assertion: f.get("client_assertion"), Origin: o,
	})
}

// token answers POST /oauth2/token.
func (s *Server) token(w http.ResponseWriter, r *http.Request) error {
	o := origin(r, "token")
	f, err := s.read(r, o)
	if err != nil {
		return err
	}
	c := &call{grant: f.get("grant_type"), form: f, origin: o}
	if c.grant == grantPerson {
		// The assertion is the credential; a client beside it would be a second.
		if f.get("client_assertion") != "" || f.get("client_id") != "" {
			return s.cfg.STS.RejectRequest(o, sts.InvalidRequest, "client_methods", "a person's assertion comes without a client")
		}
	} else {
		if c.client, err = s.authenticate(r, f, o); err != nil {
			return err
		}
		if !slices.Contains(grantTypes(), c.grant) {
			code, reason := sts.UnsupportedGrant, "grant_unsupported"
			if c.grant == "" {
				code, reason = sts.InvalidRequest, "grant_missing"
			}
			return s.cfg.STS.DenyRequest(r.Context(), c.client, code, reason, "the grant_type must be one that discovery lists")
		}
	}
	body, err := s.engine.run(r.Context(), c)
	if err != nil {
		return err
	}
	return web.Send(w, http.StatusOK, body)
}

// introspect answers POST /oauth2/introspect (RFC 7662).
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) error {
	c, token, err := s.about(r, "introspect")
	if err != nil {
		return err
	}
	in, err := s.cfg.STS.Introspect(r.Context(), c, token)
	if err != nil {
		return err
	}
	return web.Send(w, http.StatusOK, in)
}

// revoke answers POST /oauth2/revoke (RFC 7009).
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) error {
	c, token, err := s.about(r, "revoke")
	if err != nil {
		return err
	}
	if err := s.cfg.STS.Revoke(r.Context(), c, token); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// about reads a request about a token. token_type_hint is a hint: there is one
// type of token here.
func (s *Server) about(r *http.Request, route string) (*sts.Client, string, error) {
	o := origin(r, route)
	f, err := s.read(r, o)
	if err != nil {
		return nil, "", err
	}
	c, err := s.authenticate(r, f, o)
	if err != nil {
		return nil, "", err
	}
	token := f.get("token")
	if token == "" {
		return nil, "", s.cfg.STS.DenyRequest(r.Context(), c, sts.InvalidRequest, "token_missing", "token is required")
	}
	return c, token, nil
}
