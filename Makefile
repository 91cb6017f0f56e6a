# make help lists what there is to make.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

GOARCH   ?= $(shell go env GOARCH)
GOOS     ?= $(shell go env GOOS)
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
AGENTS   := internal/agents/bin
# The agent is the same bytes from the same source: no build ids, no paths.
GOBUILD  := CGO_ENABLED=0 go build -trimpath -buildvcs=false
STATIC   := -ldflags '-s -w -buildid='
CACHE    := $(CURDIR)/.cache
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
ERRCHECK    := github.com/kisielk/errcheck@v1.30.0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
# The binding of Virtualization.framework is cgo.
build: agents ## bin/vzcompose, with the agents in it
	$(if $(filter darwin,$(GOOS)),$(subst CGO_ENABLED=0,CGO_ENABLED=1,$(GOBUILD)),$(GOBUILD)) -ldflags '-s -w -X github.com/vzcompose/vzcompose/internal/cli.version=$(VERSION)' -o bin/vzcompose ./cmd/vzcompose
ifeq ($(GOOS),darwin)
	codesign --force --entitlements vmm/vz/vz.entitlements -s - bin/vzcompose
endif

.PHONY: agents
agents: ## the agents for linux/amd64 and linux/arm64
	@for arch in amd64 arm64; do \
	  GOOS=linux GOARCH=$$arch $(GOBUILD) $(STATIC) -o $(AGENTS)/vzagent-linux-$$arch ./cmd/vzagent || exit 1; \
	done

.PHONY: deps
deps: ## install what a machine lacks: QEMU, a kernel package, busybox
	@test/deps.sh $(CACHE)

.PHONY: demo
demo: deps build ## bring up examples/hello, show it, take it down
	@test/demo.sh $(CACHE)

.PHONY: test
test: unit e2e ## unit tests with -race, then end-to-end tests in real machines

# The scripts of internal/cli are some thousand processes, each with little of its
# own in it: the detector only makes them slow. What they run has its own tests.
.PHONY: unit
unit: agents ## unit tests with -race
	go test -race -timeout 10m $$(go list ./... | grep -v -e /test/e2e -e '/internal/cli$$')
	go test -timeout 10m ./internal/cli
	cd test/composetest && go vet ./... && go test ./...

# Counted are the processes that tests start, too: shims, switches and commands. A
# package's figure is of all tests, not of its own alone.
.PHONY: cover
cover: agents ## statements that unit tests run, by package, with their child processes
	@mkdir -p $(CACHE)
	go test -timeout 20m -coverpkg=./... -coverprofile=$(CACHE)/cover.out $$(go list ./... | grep -v /test/e2e) >/dev/null
	@awk 'NR > 1 { n[$$1] = $$2; if ($$3 > hit[$$1]) hit[$$1] = $$3 } \
	  END { for (b in n) { p = b; sub("/[^/]*$$", "", p); all[p] += n[b]; if (hit[b]) got[p] += n[b] } \
	    for (p in all) printf "%5.1f %%  %s\n", 100 * got[p] / all[p], p }' $(CACHE)/cover.out | sort -k3

.PHONY: conformance
conformance: ## docs/conformance.md, from the last e2e and e2e-booted
	go run ./tools/conformance $(CACHE) docs/conformance.md

.PHONY: e2e
e2e: deps build ## end-to-end tests in real machines: restored ones; then booted ones, where they differ
	VZCOMPOSE_E2E=$(CACHE) go test -count=1 -timeout 35m -v ./test/e2e 2>&1 | test/summary.sh
	VZCOMPOSE_COLD=1 VZCOMPOSE_E2E=$(CACHE) go test -count=1 -timeout 35m -v -run '^($(BOOTED))$$' ./test/e2e 2>&1 | test/summary.sh

# A machine that was booted differs from one that was restored in how it comes to
# be (kernel, console, clock, disks, interfaces, shares, the first process), and
# in how it is lost. What happens in it after that is the same.
BOOTED := TestHello|TestKernelOfOneContainer|TestConformDeclared|TestConformDiagnosis|TestConformInit|TestConformLife|TestConformNested|TestConformNetwork|TestConformRunning|TestConformShares|TestConformVsock

.PHONY: e2e-booted
e2e-booted: deps build ## all end-to-end tests in booted machines; for docs/conformance.md
	VZCOMPOSE_COLD=1 VZCOMPOSE_E2E=$(CACHE) go test -count=1 -timeout 40m -v ./test/e2e 2>&1 | test/summary.sh

# SEED and FAULTS choose: make storm SEED=7 FAULTS=1000
SEED ?= 1
FAULTS ?= 1000
.PHONY: storm
storm: deps build ## kill processes of a stack that works, FAULTS times (1000)
	STORM_SEED=$(SEED) STORM_FAULTS=$(FAULTS) VZCOMPOSE_E2E=$(CACHE) go test -count=1 -timeout 0 -run '^TestStorm$$' -v ./test/e2e 2>&1 | test/summary.sh

ROUNDS ?= 10000
.PHONY: races
races: agents ## commands that meet, and are killed, ROUNDS times (10000), without machines
	go test -count=1 -timeout 0 -run '^TestRaces$$' ./internal/cli -races $(ROUNDS) -seed $(SEED)

.PHONY: check
check: format vet lint imports darwin platforms test ## all that CI runs

.PHONY: format
format: ## is everything gofmt'ed?
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "gofmt would change: $$bad"; exit 1; fi

.PHONY: vet
vet:
	go vet ./...

.PHONY: lint
lint: ## staticcheck
	go run $(STATICCHECK) ./...

.PHONY: imports
imports: ## the import rule
	go test ./internal/arch

# A twin of the binding without cgo stands in for it. The checkers are built for
# this host before the environment is that of another.
.PHONY: darwin
darwin: ## type-check, build, vet and check for macOS
	go run ./tools/darwincheck ./...
	@mkdir -p $(CACHE)/twin $(CACHE)/bin && go run ./tools/vzstub $(CACHE)/twin
	@GOBIN=$(CACHE)/bin go install $(STATICCHECK) && GOBIN=$(CACHE)/bin go install $(ERRCHECK)
	@for arch in arm64 amd64; do \
	  export GOWORK=$(CACHE)/twin/go.work GOOS=darwin GOARCH=$$arch CGO_ENABLED=0; \
	  go build -o /dev/null ./cmd/vzcompose && go vet ./... && \
	  for p in ./vmm/vz ./vmm/vmmtest ./test/e2e; do go test -c -o /dev/null $$p || exit 1; done || exit 1; \
	done
	@export GOWORK=$(CACHE)/twin/go.work GOOS=darwin GOARCH=arm64 CGO_ENABLED=0; \
	$(CACHE)/bin/staticcheck ./vmm/... ./cmd/vzcompose ./internal/cli ./internal/engine && $(CACHE)/bin/errcheck -ignoretests -blank=false ./vmm/vz

.PHONY: platforms
platforms: agents ## does the whole tree build where it is to run?
	@for p in linux/amd64 linux/arm64; do GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 go build ./... || exit 1; done
	@mkdir -p $(CACHE)/twin && go run ./tools/vzstub $(CACHE)/twin
	@for arch in amd64 arm64; do GOWORK=$(CACHE)/twin/go.work GOOS=darwin GOARCH=$$arch CGO_ENABLED=0 go build ./... || exit 1; done

.PHONY: bench
bench: deps build ## what an up costs, in ratios within one run
	VZCOMPOSE_E2E=$(CACHE) VZCOMPOSE_BENCH=1 go test -count=1 -timeout 40m -run TestBench -v ./test/e2e
	$(MAKE) bench-compare

# COMPARE is more flags: COMPARE="-rounds 1 -sizes 1,10"
.PHONY: bench-compare
bench-compare: deps build ## vzcompose, bare QEMU, docker and podman in turns
	@bench/compare/deps.sh $(CACHE)
	go build -o $(CACHE)/bin/compare ./bench/compare
	$(CACHE)/bin/compare -vzcompose bin/vzcompose -cache $(CACHE) $(COMPARE)

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	@grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | sed 's/^func //'); do \
	    echo "$$dir $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$dir || exit 1; \
	  done; \
	done

.PHONY: clean
clean: ## remove what make made
	rm -rf bin .cache $(AGENTS)/vzagent-*
