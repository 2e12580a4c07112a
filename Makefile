# One profile (dev) and one target directory serve the demo, the tests and the failpoint tests, so that a crate is
# compiled once. The directory lies outside the clone: clones of this repository share it.
CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/preload_observer/target
export CARGO_TARGET_DIR

# rustup puts cargo here; a shell that was open during the installation does not know it yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Passed to every cargo command. In CI a Cargo.lock that does not fit the manifests is an error.
CARGO_FLAGS ?= $(if $(CI),--locked)
# Passed to `make demo` and `make bench`.
ARGS ?=
# The disk engine of the demo.
ENGINE ?= fjall

# nextest is used when it is installed: it runs each test in a process of its own, and prints a summary.
NEXTEST := $(shell PATH="$(PATH)" cargo nextest --version >/dev/null 2>&1 && echo yes)

# All crates but that on RocksDB, which takes half an hour of processor time to compile.
WORKSPACE = --workspace --exclude engine_rocks
# A build of RocksDB in the target directory; empty when there is none. It is built in the release profile only.
ROCKSDB_BUILD = $(firstword $(wildcard $(CARGO_TARGET_DIR)/release/build/librocksdb-sys-*/out/librocksdb.a))
# 1 uses RocksDB, and compiles it when it is not there yet; 0 does without. By default it is used when it is there.
ROCKSDB ?= $(if $(ROCKSDB_BUILD),1,0)

# What `make bench` measures.
SCENARIO ?= observer
# How long `make stress` runs.
MINUTES ?= 10
# How often `make kill-test` kills.
KILLS ?= 50
# RocksDB is a side of one scenario.
BENCH_ROCKSDB = $(and $(filter cache,$(SCENARIO)),$(filter 1,$(ROCKSDB)))
# How long each fuzz target runs.
FUZZ_SECONDS ?= 600

# How the simulator is called; without SEED it draws seeds that nobody has run yet, and prints them.
SIM_FLAGS = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS))

.DEFAULT_GOAL := help
.PHONY: help setup demo serve sim sim-selftest stress kill-test test test-workspace test-docs test-failpoints test-models check check-format check-clippy check-docs check-monitoring check-page test-rocksdb check-rocksdb has-rocksdb bench fuzz

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## Check for a C compiler and the Rust toolchain, and install what is missing.
	@./scripts/setup.sh

# Not `cargo run -p preload-node`: with all crates selected, third-party crates get the same features as in
# test-workspace. Alone, the node would have fjall and what depends on it compiled a second time.
demo: setup ## Run the demo, ENGINE=fjall or rocksdb; options go into ARGS, for example ARGS=--json.
ifeq ($(ENGINE),rocksdb)
	@./scripts/setup.sh rocksdb
	@cargo build $(CARGO_FLAGS) --release -p preload-node --features rocksdb
	@"$(CARGO_TARGET_DIR)/release/preload-node" demo --engine rocksdb $(ARGS)
else
	@cargo build $(CARGO_FLAGS) $(WORKSPACE) --bin preload-node
	@"$(CARGO_TARGET_DIR)/debug/preload-node" demo --engine $(ENGINE) $(ARGS)
endif

serve: setup ## Run a node of three stores with its status page at http://127.0.0.1:20180; options go into ARGS, for example ARGS="--stores 5".
	@cargo build $(CARGO_FLAGS) $(WORKSPACE) --bin preload-node
	@"$(CARGO_TARGET_DIR)/debug/preload-node" serve $(ARGS)

sim: setup ## Run the simulator on SEEDS=N fresh seeds, or from SEED=S on; VERBOSE=1 counts rare moments, and prints the log of one seed.
	@cargo build $(CARGO_FLAGS) $(WORKSPACE) --bin preload-sim
	@"$(CARGO_TARGET_DIR)/debug/preload-sim" $(SIM_FLAGS) $(if $(SABOTAGE),--sabotage $(SABOTAGE)) $(if $(VERBOSE),--verbose)

sim-selftest: setup ## Break things one at a time, to see that the simulator's checks notice.
	@cargo build $(CARGO_FLAGS) $(WORKSPACE) --bin preload-sim
	@"$(CARGO_TARGET_DIR)/debug/preload-sim" --self-test $(SIM_FLAGS)

stress: setup ## Run a cluster with everything going on at once for MINUTES=10, SEED=S, and compare memory, disk and what was acknowledged.
	@cargo build $(CARGO_FLAGS) $(WORKSPACE) --bin preload-stress
	@"$(CARGO_TARGET_DIR)/debug/preload-stress" --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

kill-test: setup ## Kill a node under load KILLS=50 times, and look for lost writes, stale reads and cold ranges after each.
	PRELOAD_KILLS=$(KILLS) cargo test $(CARGO_FLAGS) -p preload-node --test serve killed_node -- --nocapture

test: test-workspace test-docs test-failpoints ## Run all tests.

test-workspace: setup ## Run unit, integration and process tests.
ifeq ($(NEXTEST),yes)
	cargo nextest run $(CARGO_FLAGS) $(WORKSPACE)
else
	cargo test $(CARGO_FLAGS) $(WORKSPACE) --all-targets
endif

test-docs: setup ## Run the examples in the documentation.
	cargo test $(CARGO_FLAGS) $(WORKSPACE) --doc

# All crates are selected, although only one test binary is built, so that third-party crates get the same features as
# in test-workspace and are not compiled again. The failpoint registry is process-wide, hence one test at a time where a
# process runs several.
test-failpoints: setup ## Run the failpoint tests.
ifeq ($(NEXTEST),yes)
	cargo nextest run $(CARGO_FLAGS) $(WORKSPACE) --features preload_observer/failpoints,preload-node/failpoints --test failpoints
else
	cargo test $(CARGO_FLAGS) $(WORKSPACE) --features preload_observer/failpoints,preload-node/failpoints --test failpoints -- --test-threads=1
endif

# One crate, in builds of their own: with these features nothing but the models works.
test-models: setup ## Play small scenes of the region cache's threads in every order (loom), and in thousands (shuttle).
	cargo test $(CARGO_FLAGS) -p in_memory_engine --features loom --lib models::
	cargo test $(CARGO_FLAGS) -p in_memory_engine --features shuttle --lib models::

check: check-format check-clippy check-docs ## Check format, lints and documentation. Edits nothing.

check-format: setup ## Check the format.
	cargo fmt --all --check

check-clippy: setup ## Run clippy on all targets, with and without failpoints; check the plugin without default features.
	cargo clippy $(CARGO_FLAGS) $(WORKSPACE) --all-targets -- -D warnings
	cargo clippy $(CARGO_FLAGS) $(WORKSPACE) --all-targets --features preload_observer/failpoints,preload-node/failpoints -- -D warnings
	cargo check $(CARGO_FLAGS) -p preload_observer --no-default-features

check-docs: setup ## Build the documentation without warnings.
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) $(WORKSPACE) --no-deps

test-rocksdb: setup ## Run the engines' conformance suite on RocksDB and open a node's on it; compile RocksDB before if it is not there yet.
	@./scripts/setup.sh rocksdb
ifeq ($(NEXTEST),yes)
	cargo nextest run $(CARGO_FLAGS) --release -p engine_rocks
else
	cargo test $(CARGO_FLAGS) --release -p engine_rocks
endif
	cargo test $(CARGO_FLAGS) --release -p server --features rocksdb --lib engine::

check-rocksdb: setup ## Run clippy and rustdoc on what is compiled with RocksDB.
	@./scripts/setup.sh rocksdb
	cargo clippy $(CARGO_FLAGS) --release -p engine_rocks -p preload-bench -p preload-node -p server \
		--features preload-bench/rocksdb,preload-node/rocksdb --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --release -p engine_rocks --no-deps

has-rocksdb:
	@[ -n "$(ROCKSDB_BUILD)" ]

check-monitoring: ## Check the alerts of docs/monitoring and run their unit tests; needs promtool, and installs it if it may.
	@./scripts/check_monitoring.sh

# With failpoints, because one check holds a snapshot back; the same build as for test-failpoints.
check-page: setup ## Drive the status page of a real node in headless Chromium; says that it is skipped when there is none to be had.
	@cargo build $(CARGO_FLAGS) $(WORKSPACE) --features preload-node/failpoints --bin preload-node
	@if command -v python3 >/dev/null; then python3 -B scripts/check_page.py "$(CARGO_TARGET_DIR)/debug/preload-node" $(ARGS); \
	else echo 'check-page: SKIPPED, nothing was checked: there is no python3'; fi

bench: setup ## Run a benchmark, SCENARIO=observer, transfer, raftstore or cache (with RocksDB if it is built, or ROCKSDB=1); options go into ARGS.
	@$(if $(BENCH_ROCKSDB),./scripts/setup.sh rocksdb)
	@cargo run $(CARGO_FLAGS) --release -p preload-bench $(if $(BENCH_ROCKSDB),--features rocksdb) -- $(SCENARIO) $(ARGS)

fuzz: setup ## Run each fuzz target for FUZZ_SECONDS; needs nightly Rust and cargo-fuzz. What it finds goes to fuzz/corpus.
	@for target in answer interceptor; do \
		mkdir -p fuzz/corpus/$$target; \
		cargo +nightly fuzz run $$target --target-dir "$(CARGO_TARGET_DIR)/fuzz" fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
