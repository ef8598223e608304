# Everything a user or contributor runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
PREFIX ?= /usr/local
N ?= 3
SEEDS ?= 1000
# Always both: with another set of packages what they share would have other features, and be built again.
BUILD := $(CARGO) build --locked --release --bin coracle --bin coracle-hosts

.PHONY: help demo test test-unit sim check images hosts-up hosts-down bench bench-api bench-peers bench-proxy bench-scale bench-schedule profile-scale install clean tools

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: ## the article, start to finish, on this machine
	@scripts/require.sh build docker images proxy
	@$(BUILD)
	@examples/build-images.sh
	@CORACLE=target/release/coracle examples/jenkins/demo.sh

test: ## all tests: unit, property, and whole clusters on the local Docker engine
	@scripts/require.sh build docker images proxy etcd hosts
	@$(BUILD)
	@examples/build-images.sh
	@CORACLE=$(CURDIR)/target/release/coracle scripts/test.sh --workspace

test-unit: ## the tests that need nothing but Rust and protoc
	@scripts/require.sh build
	@scripts/test.sh --workspace --lib --bins

sim: ## a cluster in simulated time under SEEDS seeds (default 1000), or one again with its trace: SEED=7
	@scripts/require.sh build
	@RUSTFLAGS="--cfg tokio_unstable" $(CARGO) run --quiet --locked --profile sim --target-dir target/sim \
		--package coracle-test-sim --example sim -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

check: ## format, lints, documentation
	@scripts/require.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

images: ## the example images, into the local Docker engine
	@scripts/require.sh build docker images
	@examples/build-images.sh

hosts-up: ## a master and N hosts (default 3) on this machine, each with its own engine, until hosts-down
	@scripts/require.sh build docker images proxy hosts
	@$(BUILD)
	@examples/build-images.sh
	@CORACLE=$${CORACLE:-$(CURDIR)/target/release/coracle} target/release/coracle-hosts up --hosts $(N)

hosts-down: ## removes them with everything that belongs to them
	@scripts/require.sh build
	@$(BUILD)
	@target/release/coracle-hosts down

bench: ## measures this tree beside Docker itself; takes some minutes
	@scripts/require.sh build docker images proxy etcd
	@$(BUILD) --bin coracle-bench
	@examples/build-images.sh
	@target/release/coracle-bench all

bench-peers: ## Docker Swarm on this engine beside Coracle; some 3 minutes
	@scripts/require.sh build docker images proxy
	@$(BUILD) --bin coracle-bench
	@examples/build-images.sh
	@target/release/coracle-bench peers $(ARGS)

bench-api: ## measures the master over HTTP; some 6 minutes, ARGS=--full for larger sizes
	@scripts/require.sh build
	@$(BUILD) --bin coracle-bench
	@target/release/coracle-bench api $(ARGS)

bench-proxy: ## measures the service proxy beside HAProxy and docker-proxy; some 13 minutes
	@scripts/require.sh build docker proxy bench-proxy
	@$(BUILD) --bin coracle-bench
	@target/release/coracle-bench proxy $(ARGS)

bench-scale: ## a master under NODES simulated minions with PODS pods; without, up to a million pods in 9 minutes
	@scripts/require.sh build
	@$(BUILD) --bin coracle-bench
	@target/release/coracle-bench scale $(if $(NODES),--nodes $(NODES)) $(if $(PODS),--pods $(PODS)) $(ARGS)

# Frame pointers, so that stacks are whole; a folder of its own, since they change every crate.
profile-scale: ## a flame graph of the master under NODES minions with PODS pods (1000, 30000): target/scale.svg
	@scripts/require.sh build profile
	@$(BUILD) --bin coracle-bench
	@RUSTFLAGS="-C force-frame-pointers=yes" $(CARGO) build --locked --profile profiling --target-dir target/profile --bin coracle
	@CORACLE=target/profile/profiling/coracle target/release/coracle-bench scale --nodes $(or $(NODES),1000) --pods $(or $(PODS),30000) --samples target/scale.perf $(ARGS)
	@scripts/flame-graph.sh target/scale.perf target/scale.svg

bench-schedule: ## measures the scheduler in process; half a minute
	@scripts/require.sh build
	@$(BUILD) --bin coracle-bench
	@target/release/coracle-bench schedule $(ARGS)

install: ## coracle and the link kubecfg, into $(PREFIX)/bin
	@scripts/require.sh build
	$(BUILD)
	install -D target/release/coracle $(DESTDIR)$(PREFIX)/bin/coracle
	ln -sf coracle $(DESTDIR)$(PREFIX)/bin/kubecfg

clean: ## build results
	$(CARGO) clean
