# ST-TCP gateway. `make demo` shows the main job, `make test` checks it;
# both install what a bare Debian with Go lacks (see deps).
SHELL := /bin/bash
GO    ?= go
BIN   := bin/sttcp
PACKAGES = $(shell $(GO) list ./...)
export CGO_ENABLED ?= 0

# Debian package <- a file that it brings: apt is only asked when one is missing.
DEPS := gcc:/usr/bin/gcc libc6-dev:/usr/include/stdlib.h nftables:/usr/sbin/nft iproute2:/usr/sbin/ip nginx-light:/usr/sbin/nginx \
        redis-server:/usr/bin/redis-server ethtool:/usr/sbin/ethtool

.PHONY: deps build test test-full demo bench bench-failover lint generate clean

deps:
	@missing=""; for d in $(DEPS); do [ -e "$${d#*:}" ] || [ -e "/usr$${d#*:}" ] || missing="$$missing $${d%%:*}"; done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "missing packages:$$missing (run as root: apt-get install$$missing)"; exit 1; }; \
	  echo "installing$$missing"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  printf '#!/bin/sh\nexit 101\n' > /tmp/sttcp-policy-rc.d && chmod +x /tmp/sttcp-policy-rc.d; \
	  made=; [ -e /usr/sbin/policy-rc.d ] || { cp /tmp/sttcp-policy-rc.d /usr/sbin/policy-rc.d; made=1; }; \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } >/tmp/sttcp-apt.log 2>&1; rc=$$?; \
	  [ -z "$$made" ] || rm -f /usr/sbin/policy-rc.d; \
	  [ $$rc = 0 ] || { tail -20 /tmp/sttcp-apt.log; exit $$rc; }; \
	fi

build:
	@mkdir -p bin
	$(GO) build -trimpath -o $(BIN) ./cmd/sttcp

# Root runs everything; elsewhere the tests that need root skip and say so.
# The race detector sees all but the scenarios, whose gateways are programs of
# their own, and the core, which has no goroutines and many steps.
SLOW := sttcp/proxy/stream sttcp/e2e/%
test: deps build lint
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 10m $(filter-out sttcp/e2e $(SLOW),$(PACKAGES))
	STTCP_BIN=$(CURDIR)/$(BIN) $(GO) test -count=1 -timeout 14m $(filter sttcp/e2e $(SLOW),$(PACKAGES))

# The full counts; then the scenarios in a lab without any offloads, and with
# another congestion control.
test-full: deps build lint
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m $(filter-out sttcp/e2e $(SLOW),$(PACKAGES))
	STTCP_BIN=$(CURDIR)/$(BIN) STTCP_LAB=no-offload,cubic $(GO) test -count=1 -timeout 20m sttcp/e2e
	STTCP_BIN=$(CURDIR)/$(BIN) STTCP_LAB=bbr $(GO) test -count=1 -timeout 20m sttcp/e2e
	STTCP_BIN=$(CURDIR)/$(BIN) STTCP_FULL=1 $(GO) test -count=1 -timeout 90m -v $(filter sttcp/e2e $(SLOW),$(PACKAGES)) 2>&1 | grep -vE '^=== (RUN|PAUSE|CONT)'; exit $${PIPESTATUS[0]}

demo: deps build
	@$(BIN) demo

# Whole processes between real hosts, side by side; then the core alone.
bench: deps
	@mkdir -p bin
	$(GO) build -trimpath -o bin/bench ./e2e/bench
	bin/bench throughput
	$(GO) test -run '^$$' -bench . -benchmem ./proxy/stream

# What a client feels when its primary dies.
bench-failover: deps
	@mkdir -p bin
	$(GO) build -trimpath -o bin/bench ./e2e/bench
	bin/bench failover

lint:
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

generate:
	$(GO) generate ./...

clean:
	rm -rf bin
