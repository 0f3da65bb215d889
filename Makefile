# Two commands matter: `make dev` runs Bulwark, `make test` runs all that CI runs.
.PHONY: build dev test soak suites bench fuzz vuln

GO ?= go

build:
	$(GO) build -o bin/bulwark ./cmd/bulwark

dev: build
	exec bin/bulwark dev $(ARGS)

test:
	GO=$(GO) bash .ci/stages

# The long runs at full length.
soak:
	SOAK=1 GO=$(GO) bash .ci/stages

# OpenFGA's own suites, its Go and JavaScript SDKs and an import of a live OpenFGA.
# Needs Node and npm; builds OpenFGA, which takes some ten minutes of CPU once.
suites:
	$(GO) -C e2e/openfga test -count=1 -vet=off -timeout 40m .

bench:
	cd bench && $(GO) run . $(ARGS)

# Each fuzz target in turn; FUZZTIME is per target.
FUZZTIME ?= 1m
fuzz:
	GO=$(GO) FUZZTIME=$(FUZZTIME) bash .ci/fuzz

# Needs the vulnerability database from the network, which CI does not have.
vuln:
	$(GO) -C tools build -o ../bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	bin/govulncheck ./...
