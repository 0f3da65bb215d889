package ledger

import (
	"math"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Format is the version of the event encoding that this code writes.
const Format = 1

// SaltSize is the length in bytes of an event's salt. The salt is part of the
// encoded bytes, so that nobody can guess an event from its leaf hash.
const SaltSize = 16

// FieldClass says how a field of an event may be kept. Numbers are persisted.
type FieldClass uint8

// The field classes. A secret field is sealed bytes; none is written yet.
const (
	Keep      FieldClass = 0 // says nothing about a person
	Pseudonym FieldClass = 1 // the random id of a person or of a thing
	Secret    FieldClass = 2 // sealed under the subject's key, erasable
)

// The fields' numbers. They are persisted: never reuse one.
const (
	fieldFormat     = 0
	fieldSalt       = 1
	fieldID         = 2
	fieldTime       = 3
	fieldClass      = 4
	fieldAction     = 5
	fieldTenant     = 6
	fieldSubject    = 7
	fieldActors     = 8
	fieldClient     = 9
	fieldResource   = 10
	fieldRelation   = 11
	fieldDecision   = 12
	fieldUnenforced = 13
	fieldReason     = 14
	fieldRoute      = 15
	fieldRequest    = 16
	fieldDecisionID = 17
	fieldModel      = 18
	fieldRevision   = 19
	fieldSource     = 20
	fieldCount      = 21
	fieldStatus     = 22
	fieldDetail     = 23
)

const (
	maxActors = 8
	maxDetail = 32
)

// encoder appends fields and counts them.
type encoder struct {
	b []byte
	n uint64
}

func (e *encoder) field(key uint64, class FieldClass) {
	e.n++
	e.b = appendHead(e.b, majorUint, key)
	e.b = append(e.b, majorArray<<5|2, byte(class))
}

func (e *encoder) text(key uint64, class FieldClass, s string) {
	if s != "" {
		e.field(key, class)
		e.b = appendText(e.b, s)
	}
}

func (e *encoder) uint(key uint64, class FieldClass, n uint64) {
	if n != 0 {
		e.field(key, class)
		e.b = appendHead(e.b, majorUint, n)
	}
}

// AppendEvent appends the encoding of ev to dst: a map from field number to
// [field class, value], keys ascending, empty fields left out, the time in
// nanoseconds since 1970 UTC. The same event and salt give the same bytes.
// A nil salt leaves the salt out: that is the form for an event that waits in
// a database; what enters a block always has one.
//
// The error has kind [fault.TooLarge] over [MaxEvent] and [fault.Invalid] for
// an event without tenant or class.
func AppendEvent(dst []byte, ev *Event, salt []byte) ([]byte, error) {
	if ev.Tenant.IsZero() || ev.Class == 0 {
		return dst, fault.New(fault.Invalid, "an audit event needs a tenant and a class")
	}
	if len(ev.Actors) > maxActors || len(ev.Detail) > maxDetail {
		return dst, fault.New(fault.TooLarge, "an audit event has too many actors or details")
	}
	start := len(dst)
	// The map's head is one byte below 24 fields and two from then on; leave
	// room for two, and close the gap if one is enough.
	e := encoder{b: append(dst, 0, 0)}
	e.uint(fieldFormat, Keep, Format)
	if len(salt) > 0 {
		e.field(fieldSalt, Keep)
		e.b = append(appendHead(e.b, majorBytes, uint64(len(salt))), salt...)
	}
	e.text(fieldID, Keep, ev.ID)
	if ns := ev.Time.UnixNano(); !ev.Time.IsZero() && ns > 0 {
		e.uint(fieldTime, Keep, uint64(ns))
	}
	e.uint(fieldClass, Keep, uint64(ev.Class))
	e.text(fieldAction, Keep, ev.Action)
	e.text(fieldTenant, Keep, ev.Tenant.String())
	e.text(fieldSubject, Pseudonym, ev.Subject)
	if len(ev.Actors) > 0 {
		e.field(fieldActors, Pseudonym)
		e.b = appendHead(e.b, majorArray, uint64(len(ev.Actors)))
		for _, a := range ev.Actors {
			e.b = appendText(e.b, a)
		}
	}
	e.text(fieldClient, Keep, ev.ClientID)
	e.text(fieldResource, Pseudonym, ev.Resource)
	e.text(fieldRelation, Keep, ev.Relation)
	e.text(fieldDecision, Keep, ev.Decision)
	if ev.Unenforced {
		e.field(fieldUnenforced, Keep)
		e.b = append(e.b, cborTrue)
	}
	e.text(fieldReason, Keep, ev.Reason)
	e.text(fieldRoute, Keep, ev.Route)
	e.text(fieldRequest, Keep, ev.RequestID)
	e.text(fieldDecisionID, Keep, ev.DecisionID)
	e.text(fieldModel, Keep, ev.Model)
	if r := ev.Revision; r != (relation.Revision{}) {
		e.field(fieldRevision, Keep)
		e.b = appendHead(e.b, majorArray, 3)
		e.b = appendHead(e.b, majorUint, r.Epoch)
		e.b = appendText(e.b, string(r.Store))
		e.b = appendHead(e.b, majorUint, r.Rev)
	}
	e.text(fieldSource, Pseudonym, ev.Source)
	e.uint(fieldCount, Keep, ev.Count)
	e.uint(fieldStatus, Keep, uint64(max(ev.Status, 0)))
	if len(ev.Detail) > 0 {
		e.field(fieldDetail, Keep)
		e.b = appendTextMap(e.b, ev.Detail)
	}
	if e.n < 24 {
		e.b[start+1] = majorMap<<5 | byte(e.n)
		e.b = append(e.b[:start], e.b[start+1:]...)
	} else {
		e.b[start], e.b[start+1] = majorMap<<5|24, byte(e.n)
	}
	if len(e.b)-start > MaxEvent {
		return dst[:start], fault.New(fault.TooLarge, "an audit event is larger than 16 KiB")
	}
	return e.b, nil
}

// DecodeEvent reads what [AppendEvent] wrote, this format or a later one:
// fields that it does not know are checked for form and left in raw, and a
// known field of class [Secret] reads as empty. The error has kind
// [fault.Integrity].
func DecodeEvent(raw []byte) (Event, error) {
	var ev Event
	if len(raw) > MaxEvent {
		return ev, corrupt("an event is larger than the format allows")
	}
	d := &decoder{b: raw}
	n := d.count(majorMap)
	last := -1
	for range n {
		key := d.uint()
		if d.err != nil || key > math.MaxInt32 || int(key) <= last {
			d.fail()
			break
		}
		last = int(key)
		if d.expect(majorArray) != 2 {
			d.fail()
		}
		if FieldClass(d.uint()) == Secret {
			d.bytes()
			continue
		}
		decodeField(d, &ev, key)
	}
	if d.err == nil && (len(d.b) > 0 || ev.Tenant.IsZero() || ev.Class == 0) {
		d.fail()
	}
	if d.err != nil {
		return Event{}, d.err
	}
	return ev, nil
}

func decodeField(d *decoder, ev *Event, key uint64) {
	switch key {
	case fieldFormat:
		if d.uint() == 0 {
			d.fail()
		}
	case fieldSalt:
		d.bytes()
	case fieldID:
		ev.ID = d.text()
	case fieldTime:
		ns := d.uint()
		if ns == 0 || ns > math.MaxInt64 { // no time is no field
			d.fail()
		}
		ev.Time = time.Unix(0, int64(ns)).UTC()
	case fieldClass:
		c := d.uint()
		if c == 0 || c > math.MaxUint8 {
			d.fail()
		}
		ev.Class = Class(c)
	case fieldAction:
		ev.Action = d.text()
	case fieldTenant:
		// Trusted: the bytes come out of our own log, and a decoded event is
		// shown or compared, never used to choose whose data to open.
		id, err := tenant.Trusted(d.text())
		if err != nil {
			d.fail()
		}
		ev.Tenant = id
	case fieldSubject:
		ev.Subject = d.text()
	case fieldActors:
		ev.Actors = d.texts(maxActors)
	case fieldClient:
		ev.ClientID = d.text()
	case fieldResource:
		ev.Resource = d.text()
	case fieldRelation:
		ev.Relation = d.text()
	case fieldDecision:
		ev.Decision = d.text()
	case fieldUnenforced:
		ev.Unenforced = d.bool()
	default:
		decodeRest(d, ev, key)
	}
}

func decodeRest(d *decoder, ev *Event, key uint64) {
	switch key {
	case fieldReason:
		ev.Reason = d.text()
	case fieldRoute:
		ev.Route = d.text()
	case fieldRequest:
		ev.RequestID = d.text()
	case fieldDecisionID:
		ev.DecisionID = d.text()
	case fieldModel:
		ev.Model = d.text()
	case fieldRevision:
		if d.expect(majorArray) != 3 {
			d.fail()
		}
		ev.Revision.Epoch = d.uint()
		ev.Revision.Store = relation.StoreID(d.text())
		ev.Revision.Rev = d.uint()
	case fieldSource:
		ev.Source = d.text()
	case fieldCount:
		ev.Count = d.uint()
	case fieldStatus:
		n := d.uint()
		if n > math.MaxInt32 {
			d.fail()
		}
		ev.Status = int(n)
	case fieldDetail:
		ev.Detail = d.textMap(maxDetail)
	default:
		d.skip(8)
	}
}
