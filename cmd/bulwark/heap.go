package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is how large the heap may grow before it is collected, however
// little of it is alive. Most stores are small: a node that holds 15 MB and
// answers ten thousand questions a second would collect ten times a second.
const heapFloor = 128 << 20

// heapTuner keeps the collector's percentage where the floor asks for, after
// each collection. What an operator says by GOGC or GOMEMLIMIT stands.
type heapTuner struct {
	live    []metrics.Sample
	percent int
}

// keepHeapFloor begins the tuning. It ends with the process.
func keepHeapFloor() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	newHeapTuner().watch()
}

func newHeapTuner() *heapTuner {
	return &heapTuner{live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}, percent: 100}
}

// watch calls tune after the next collection, which finds the object unused.
func (t *heapTuner) watch() {
	runtime.AddCleanup(new([16]byte), func(t *heapTuner) {
		t.tune()
		t.watch()
	}, t)
}

// tune sets the percentage at which the heap's goal is the floor, 100 at least.
func (t *heapTuner) tune() {
	metrics.Read(t.live)
	live := max(1<<20, t.live[0].Value.Uint64())
	percent := max(100, int(heapFloor*100/live)-100)
	if math.Abs(float64(percent-t.percent)) < float64(t.percent)/8 {
		return // setting it stops the world
	}
	t.percent = percent
	debug.SetGCPercent(percent)
}
