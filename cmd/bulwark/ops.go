package main

import (
	"log"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// opsHandler answers the platform that runs Bulwark: alive, ready, metrics.
func (s *server) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, true) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.node.directory.Fresh()) })
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(
		collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)}),
	), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &nodeCollector{s})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

func answer(w http.ResponseWriter, ok bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("no\n")) // the asker may be gone
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// nodeCollector reads the engines' own counters when it is asked.
type nodeCollector struct{ s *server }

var (
	descBuild     = prometheus.NewDesc("bulwark_build_info", "The version that runs.", []string{"version"}, nil)
	descMutations = prometheus.NewDesc("bulwark_store_mutations_total", "Committed changes.", nil, nil)
	descCommits   = prometheus.NewDesc("bulwark_store_commits_total", "Transactions that reached the disk.", nil, nil)
	descLoads     = prometheus.NewDesc("bulwark_decisions_loads_total", "Stores loaded into memory, by what was enough for it: rows, or an image with the changes since.", []string{"from"}, nil)
	descImages    = prometheus.NewDesc("bulwark_decisions_images_total", "Images of stores: written, failed to be written, refused when a store was loaded.", []string{"result"}, nil)
	descPlaintext = prometheus.NewDesc("bulwark_gateway_plaintext_requests_total", "Requests sent in clear under an exception.", []string{"upstream"}, nil)
)

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descBuild
	ch <- descMutations
	ch <- descCommits
	ch <- descLoads
	ch <- descImages
	ch <- descPlaintext
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	counters := c.s.node.store.Counters()
	ch <- prometheus.MustNewConstMetric(descBuild, prometheus.GaugeValue, 1, version())
	ch <- prometheus.MustNewConstMetric(descMutations, prometheus.CounterValue, float64(counters.Mutations))
	ch <- prometheus.MustNewConstMetric(descCommits, prometheus.CounterValue, float64(counters.Commits))
	stats := c.s.node.authz.Stats()
	for from, n := range map[string]uint64{"image": stats.ImageLoads, "rows": stats.Loads - min(stats.Loads, stats.ImageLoads)} {
		ch <- prometheus.MustNewConstMetric(descLoads, prometheus.CounterValue, float64(n), from)
	}
	for result, n := range map[string]uint64{"written": stats.ImageWrites, "failed": stats.ImageFailures, "refused": stats.ImageRefusals} {
		ch <- prometheus.MustNewConstMetric(descImages, prometheus.CounterValue, float64(n), result)
	}
	if c.s.gateway == nil {
		return
	}
	for name, n := range c.s.gateway.PlaintextCounts() {
		ch <- prometheus.MustNewConstMetric(descPlaintext, prometheus.CounterValue, float64(n.Sent), name)
	}
}

// version is the module's version, as the linker recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "unreleased"
	}
	return info.Main.Version
}

// quiet sends what net/http says about broken connections to the debug level:
// it is noise, and holds addresses.
func quiet(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
