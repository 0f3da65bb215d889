package admin

import (
	"net/http"
	"time"
)

// Row is a row of the table as tests outside see it.
type Row struct {
	Effect, Method, Pattern, Action, Relation string
	Platform                                  bool
}

// Table returns the contract.
func Table() []Row {
	var out []Row
	for _, rt := range table() {
		out = append(out, Row{string(rt.effect), rt.method, rt.pattern, rt.action, rt.relation, rt.platform})
	}
	return out
}

// NewHooked returns a handler with one route, for people with can_invite, that
// calls do after the guard let the request in and then answers a secret.
func NewHooked(cfg Config, effect string, do func()) http.Handler {
	s := &server{Config: cfg}
	m := newMux(cfg)
	for _, rt := range table() {
		if string(rt.effect) == effect {
			rt.method, rt.pattern, rt.relation, rt.platform = "POST", "/hook", "can_invite", false
			rt.handle = func(*server, *call) (answer, error) {
				do()
				return ok("the answer"), nil
			}
			m.Handle("POST "+Base+"/hook", s.guarded(rt))
			break
		}
	}
	return m
}

// NewPaced returns a server with another pace of uploads.
func NewPaced(cfg Config, grace time.Duration, rate int64) http.Handler {
	s := newServer(cfg)
	s.pace = pace{grace, rate}
	return s.handler()
}

// Due returns how long after its beginning an upload has to go on, of which n
// bytes were there so long after it.
func Due(after time.Duration, n int64) time.Duration {
	var begin time.Time
	return pace{transferGrace, transferRate}.next(begin, begin.Add(after), n).Sub(begin)
}
