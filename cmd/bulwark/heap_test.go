package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// A small heap may grow to the floor before it is collected.
//
// not parallel: the percentage is the whole process's.
func TestHeapFloor(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	tuner := newHeapTuner()
	runtime.GC()
	tuner.tune()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(goal)
	if got := goal[0].Value.Uint64(); got < heapFloor*3/4 {
		t.Errorf("the heap is collected at %d MiB", got>>20)
	}
	tuner.live[0] = metrics.Sample{Name: "/gc/gogc:percent"}
	metrics.Read(tuner.live)
	if got := int(tuner.live[0].Value.Uint64()); got != tuner.percent {
		t.Errorf("the percentage is %d, and was set to %d", got, tuner.percent)
	}
}
