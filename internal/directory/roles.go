package directory

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Roles are the relations of the system model that a person can be given.
var Roles = []string{"operator", "administrator", "access_manager", "policy_author", "approver", "auditor", "key_administrator"}

// inviters are the roles that the system model gives can_invite.
var inviters = []string{"operator", "administrator"}

// EnrolmentLife is how long a code can be used.
const EnrolmentLife = 15 * time.Minute

// SystemObject is the object that admin rights of the tenant are about.
func SystemObject(t tenant.ID) string { return "system:" + t.String() }

// validRole reports whether people of t can hold the role: operators belong to
// the platform.
func validRole(t tenant.ID, role string) bool {
	return slices.Contains(Roles, role) && (role != "operator" || t == tenant.Platform)
}

var errRole = fault.New(fault.Invalid, "there is no such role in this tenant; roles are "+strings.Join(Roles[1:], ", ")+", and operator in the platform")

// Inviter is who makes a code. That the subject may invite in the tenant is for
// the caller of [Directory.Invite] to decide; [Directory.Enrol] asks again. The
// zero subject stands for init, which makes the first operator's code.
type Inviter struct {
	Tenant  tenant.ID
	Subject principal.Subject
}

// Invite makes a one-use code that enrols a person with the role. When the
// inviter acts from the platform into another tenant, only the tenant's first
// administrator can be invited: later the tenant's own people decide. The code
// is returned once and stored as a MAC. Kinds Invalid, Denied.
func (d *Directory) Invite(ctx context.Context, ev ledger.Event, by Inviter, into tenant.ID, role, name string) (code string, e *Enrolment, err error) {
	if !validRole(into, role) {
		return "", nil, errRole
	}
	if name != "" && !ValidAlias(name) {
		return "", nil, errAlias
	}
	outside := by.Tenant != into
	if outside && (by.Tenant != tenant.Platform || role != "administrator") {
		return "", nil, fault.New(fault.Denied, "only a tenant's first administrator can be invited from outside")
	}
	if by.Subject.IsZero() && (outside || role != "operator") {
		return "", nil, fault.New(fault.Invalid, "only the first operator is invited by nobody")
	}
	system, err := d.SystemGraph(into)
	if err != nil {
		return "", nil, err
	}
	var raw [20]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand ends the process instead
	code = strings.ToLower(base32.StdEncoding.EncodeToString(raw[:]))
	mac, err := d.mac(ctx, code)
	if err != nil {
		return "", nil, err
	}
	e = &Enrolment{Tenant: into, ID: tenant.RandomID(), CodeMAC: mac, Role: role, Name: name, InvitedBy: by.Subject.String(), Outside: outside, Expires: d.cfg.Now().Add(EnrolmentLife)}
	ev.Action, ev.Resource, ev.Detail = "enrolment.create", "enrolment:"+e.ID, map[string]string{"role": role}
	_, err = d.mutate(ctx, ev, into, func(tx Tx) error {
		if e.Outside {
			if err := unadministered(tx, system, into); err != nil {
				return err
			}
		}
		return tx.Insert(e)
	})
	if err != nil {
		return "", nil, err
	}
	return code, e, nil
}

// unadministered refuses when the tenant has an administrator. It is asked when
// a code is made and again when it is used: a code kept back must not plant a
// second one.
func unadministered(tx Tx, system relation.StoreID, t tenant.ID) error {
	held, err := tx.Tuples(system, relation.Tuple{Object: SystemObject(t), Relation: "administrator"})
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fault.New(fault.Denied, "the tenant has an administrator, who invites from now on")
	}
	return nil
}

// invited reports whether who made the code may still invite. A code must not
// outlive the rights of its maker, who may have kept it.
func invited(tx Tx, e *Enrolment) (bool, error) {
	if e.InvitedBy == "" {
		return e.Tenant == tenant.Platform && e.Role == "operator", nil
	}
	by, err := principal.ParseSubject(e.InvitedBy)
	if err != nil {
		return false, fault.Wrap(fault.Integrity, "an enrolment names no inviter", err)
	}
	home := e.Tenant
	if e.Outside {
		home = tenant.Platform
	}
	held, err := tx.AdminRoles(home, by)
	return slices.ContainsFunc(held, func(role string) bool { return slices.Contains(inviters, role) }), err
}

func (d *Directory) mac(ctx context.Context, code string) ([]byte, error) {
	key, err := d.cfg.CodeMAC(ctx)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key.Reveal())
	h.Write([]byte("bulwark enrolment code v1\x00"))
	h.Write([]byte(code))
	return h.Sum(nil), nil
}

// Enrol turns a code into a user with the code's role and a first key. Every
// failure gives the same error, kind Denied: a caller learns nothing about codes.
func (d *Directory) Enrol(ctx context.Context, ev ledger.Event, code, name, kid string, public json.RawMessage) (*User, error) {
	refused := fault.New(fault.Denied, "the code is unknown, used or expired; ask for a new one")
	mac, err := d.mac(ctx, strings.ToLower(strings.TrimSpace(code)))
	if err != nil {
		return nil, err
	}
	d.mu.RLock()
	var found *Enrolment
	for _, e := range d.enrolments {
		if hmac.Equal(e.CodeMAC, mac) {
			found = e
		}
	}
	d.mu.RUnlock()
	if found == nil {
		return nil, refused
	}
	if found.Name != "" {
		name = found.Name
	}
	if !ValidAlias(name) {
		return nil, errAlias
	}
	system, err := d.SystemGraph(found.Tenant)
	if err != nil {
		return nil, refused
	}
	now := d.cfg.Now()
	u := &User{Tenant: found.Tenant, ID: tenant.RandomID(), Name: name, State: Active, Created: now}
	subject := principal.Subject{Kind: principal.User, ID: u.ID}
	key := &ClientKey{Tenant: found.Tenant, Subject: subject, KID: kid, Public: public, Created: now}
	ev.Action, ev.Subject, ev.Resource, ev.Detail = "enrolment.use", subject.String(), "enrolment:"+found.ID, map[string]string{"role": found.Role}
	_, err = d.mutate(ctx, ev, found.Tenant, func(tx Tx) error {
		e, err := tx.Enrolment(found.Tenant, found.ID)
		if err != nil || e.UsedBy != "" || !now.Before(e.Expires) {
			return refused
		}
		switch ok, err := invited(tx, e); {
		case err != nil:
			return err
		case !ok:
			return refused
		}
		if e.Outside {
			if err := unadministered(tx, system, found.Tenant); err != nil {
				return err
			}
		}
		e.UsedBy = subject.String()
		if err := tx.Update(e); err != nil {
			return err
		}
		if err := tx.Insert(u); err != nil {
			return err
		}
		if err := tx.Insert(key); err != nil {
			return err
		}
		return d.assign(tx, system, found.Tenant, subject, found.Role)
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// AssignRole gives a person of the tenant an admin role. Outside dev nobody
// holds two (DESIGN rule 7). Kinds Invalid, NotFound, Conflict, Denied.
func (d *Directory) AssignRole(ctx context.Context, ev ledger.Event, t tenant.ID, user, role string) error {
	if !validRole(t, role) {
		return errRole
	}
	u, err := d.ResolveUser(ctx, t, user)
	if err != nil {
		return err
	}
	system, err := d.SystemGraph(t)
	if err != nil {
		return err
	}
	subject := principal.Subject{Kind: principal.User, ID: u.ID}
	ev.Action, ev.Resource, ev.Relation = "role.assign", subject.String(), role
	_, err = d.mutate(ctx, ev, t, func(tx Tx) error { return d.assign(tx, system, t, subject, role) })
	return err
}

func (d *Directory) assign(tx Tx, system relation.StoreID, t tenant.ID, s principal.Subject, role string) error {
	if !d.cfg.Dev {
		held, err := tx.Tuples(system, relation.Tuple{Subject: s.String()})
		if err != nil {
			return err
		}
		if len(held) > 0 {
			return fault.New(fault.Denied, "the person holds an admin role already; every further role is another person's")
		}
	}
	return tx.WriteTuples(system, []relation.Tuple{{Object: SystemObject(t), Relation: role, Subject: s.String()}}, nil)
}

// UnassignRole takes an admin role away. Kind Conflict if the user does not hold it.
func (d *Directory) UnassignRole(ctx context.Context, ev ledger.Event, t tenant.ID, user, role string) error {
	u, err := d.ResolveUser(ctx, t, user)
	if err != nil {
		return err
	}
	system, err := d.SystemGraph(t)
	if err != nil {
		return err
	}
	subject := principal.Subject{Kind: principal.User, ID: u.ID}
	ev.Action, ev.Resource, ev.Relation = "revoke.role", subject.String(), role
	_, err = d.mutate(ctx, ev, t, func(tx Tx) error {
		return tx.WriteTuples(system, nil, []relation.Tuple{{Object: SystemObject(t), Relation: role, Subject: subject.String()}})
	})
	return err
}
