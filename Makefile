SHELL := /bin/bash
# The toolchain of go.mod, also where the go command would take another.
export GOTOOLCHAIN := $(shell sed -n 's/^toolchain //p' go.mod)
export CGO_ENABLED ?= 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X causeway/daemon.version=$(VERSION)

# Debian packages that the tests talk to: real origins, clients, browsers.
PACKAGES := nginx-light curl chromium python3-doc openssl iproute2 nftables iptables gcc libc6-dev \
	wordpress wordpress-theme-twentytwentythree mediawiki php-fpm php-cli php-sqlite3 mariadb-server-core \
	testssl.sh sslscan \
	apache2-doc python-django-doc debian-reference-zh-cn debian-policy bind9-doc bind9 bind9-dnsutils
# What the benchmarks need besides.
BENCH_PACKAGES := nginx-light nghttp2-client openssl iproute2 nftables iperf3 haproxy libnginx-mod-stream varnish
BENCH_WAN_PACKAGES := nginx-light haproxy chromium wordpress iproute2
FUZZTIME ?= 5s

.PHONY: build test vet lint unit race own-go fuzz e2e bench bench-wan dev deps clean

build:
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/causeway ./cmd/causeway

# Everything that must pass, on a fresh Debian with Go: what it needs is
# installed when root runs it, and listed otherwise.
test: deps lint race own-go fuzz e2e
	@echo "make test: all passed"

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	go mod tidy -diff
	go vet ./...
	go tool staticcheck ./...

# The quick loop: no race detector, no real peers.
unit:
	go test $$(go list ./... | grep -v /e2e)

# With the race detector; and without it what is too long with it.
race:
	CGO_ENABLED=1 go test -race $$(go list ./... | grep -v /e2e)
	go test ./rewrite

# README's first command as a newcomer runs it, with the Go that the machine
# has: net/http is not the same in all of them.
own-go:
	env -u GOTOOLCHAIN go test ./link ./daemon
	env -u GOTOOLCHAIN timeout 120 go run ./cmd/causeway demo --once

# Each fuzz target for a short while; FUZZTIME=10m make fuzz for a long one.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "fuzz $$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; done; done

# The whole binary against real peers: nginx, curl, Chromium, network namespaces.
e2e: deps build
	CAUSEWAY=$(CURDIR)/bin/causeway go test -count=1 -timeout 25m -v ./e2e | grep -Ev '^=== (RUN|PAUSE|CONT|NAME)' ; exit $${PIPESTATUS[0]}

bench: build
	@$(MAKE) --no-print-directory deps PACKAGES="$(BENCH_PACKAGES)"
	go test -run '^$$' -bench . -benchmem ./rewrite
	go test -run '^$$' -bench . ./nft
	go test -run '^$$' -bench . ./cache
	go test -run '^$$' -bench . -benchtime 3x ./cert
	CAUSEWAY=$(CURDIR)/bin/causeway go test -run '^$$' -bench . -skip WAN -benchtime 1x -timeout 30m ./e2e

# Beside the usual recipe, over a line of 200 ms and 50 Mbit/s that loses 0, 1,
# 2 %: as root, ten minutes. WAN_RUNS=1 for a quick look.
bench-wan: build
	@$(MAKE) --no-print-directory deps PACKAGES="$(BENCH_WAN_PACKAGES)"
	CAUSEWAY=$(CURDIR)/bin/causeway go test -run '^$$' -bench WAN -benchtime 1x -timeout 60m ./e2e

dev: build
	bin/causeway demo --log

deps:
	@missing=; for p in $(PACKAGES); do \
	  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "The tests need these Debian packages:$$missing"; echo "  sudo apt-get install$$missing"; exit 1; fi; fi

clean:
	rm -rf bin
