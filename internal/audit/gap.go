package audit

import (
	"strconv"
	"time"

	"bulwark.example/internal/ledger"
)

// drop counts events that were lost for one reason.
type drop struct {
	classes     [9]uint64
	first, last time.Time
}

func (w *writer) count(reason string, classes [9]uint64) {
	for c, n := range classes {
		if n > 0 {
			w.drop(reason).classes[c] += n
		}
	}
}

func (w *writer) countItems(reason string, items []item) {
	for i := range items {
		w.drop(reason).classes[items[i].ev.Class] += max(items[i].ev.Count, 1)
	}
}

func (w *writer) drop(reason string) *drop {
	d := w.drops[reason]
	now := w.cfg.Now()
	if d == nil {
		d = &drop{first: now}
		w.drops[reason] = d
	}
	d.last = now
	return d
}

// gapItems are the records of what was lost since the last ones.
func (w *writer) gapItems() []item {
	var out []item
	for reason, d := range w.drops {
		ev := w.log.systemEvent("log.gap", reason)
		for c, n := range d.classes {
			if n > 0 {
				ev.Detail[ledger.Class(c).String()] = strconv.FormatUint(n, 10)
				ev.Count += n
			}
		}
		ev.Detail["from"] = d.first.UTC().Format(time.RFC3339Nano)
		ev.Detail["to"] = d.last.UTC().Format(time.RFC3339Nano)
		out = append(out, item{ev: ev})
	}
	return out
}
