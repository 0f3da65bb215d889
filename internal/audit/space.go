package audit

import (
	"strings"

	"bulwark.example/internal/ledger"
)

// The priorities of disk space, most urgent first.
const (
	priorityRevoke = iota
	priorityMutation
	priorityKeyUse
	priorityDeny
	priorityRest
)

// priority says in which order classes lose the disk when it fills (DESIGN
// 6.5). Revoking and suspending come first: they end somebody's access.
func priority(ev *ledger.Event) int {
	switch ev.Class {
	case ledger.System:
		return priorityRevoke
	case ledger.Mutation:
		if urgent(ev.Action) { // not the refusal of one: anybody can ask
			return priorityRevoke
		}
		return priorityMutation
	case ledger.KeyUse:
		return priorityKeyUse
	case ledger.Deny:
		return priorityDeny
	}
	return priorityRest
}

func urgent(action string) bool {
	return strings.HasPrefix(action, "revoke") || strings.HasPrefix(action, "suspend") ||
		strings.HasSuffix(action, ".revoke") || strings.HasSuffix(action, ".suspend")
}

// levelFor says which priorities free bytes admit.
func levelFor(free, reserve int64) int32 {
	switch {
	case free >= reserve:
		return priorityRest
	case free >= reserve/4*3:
		return priorityDeny
	case free >= reserve/2:
		return priorityKeyUse
	case free >= reserve/4:
		return priorityMutation
	}
	return priorityRevoke
}
