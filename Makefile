# The commands of Brooklet. Each installs what the build needs when it is missing (scripts/install-prerequisites.sh), builds RocksDB
# once into a cache (scripts/rocksdb.sh), and asks nothing.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test chaos simulation lint broker bench-peers compat-clients compat-java hostile prerequisites bench-broker fuzz

target := $(or $(CARGO_TARGET_DIR),$(HOME)/.cache/brooklet/target)
environment := . scripts/env.sh
# Arguments for the demo, the tests and the peers' benchmark, e.g. make demo ARGS="--cluster 127.0.0.1:9092"
ARGS ?=
DATA ?= ./data
LISTEN ?= 127.0.0.1:9092

# $(call first-build,artifact,minutes): says how long it takes when the artifact was never built.
first-build = @test -e "$(target)/$(1)" || echo "brooklet: the first build takes about $(2) minutes on two cores, later ones seconds" >&2

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r name what; do printf '  make %-14s %s\n' "$$name" "$$what"; done

demo: prerequisites ## a year of real flights: stream-table join, aggregates and windows on the embedded broker
	$(call first-build,release/examples/flight_delays,9)
	@$(environment) && cargo run --release --example flight_delays -- $(ARGS)

test: prerequisites ## all tests
	$(call first-build,debug/brooklet,12)
	@$(environment) && cargo test --workspace $(ARGS)

chaos: prerequisites ## kill -9 of application and broker for five minutes, exactly once (BROOKLET_KAFKA=host:port: on that Kafka)
	$(call first-build,debug/brooklet,12)
	@$(environment) && cargo build -p brooklet-cli --features fault-points && cargo build -p brooklet --examples && \
	BROOKLET_CHAOS_SECONDS=$${BROOKLET_CHAOS_SECONDS:-300} BROOKLET_CHAOS_SEED=$${BROOKLET_CHAOS_SEED:-$$((RANDOM + 10))} \
	cargo test -p brooklet --test it -- exactly_once:: power_loss:: --nocapture $(ARGS)

simulation: prerequisites ## stream threads over a simulated cluster, new seeds (BROOKLET_SIM_SEEDS, from BROOKLET_SIM_SEED on)
	$(call first-build,debug/brooklet,12)
	@$(environment) && BROOKLET_SIM_SEEDS=$${BROOKLET_SIM_SEEDS:-500} BROOKLET_SIM_SEED=$${BROOKLET_SIM_SEED:-$$((RANDOM + 100))} \
	cargo test -p brooklet --test it -- simulation::whatever --nocapture $(ARGS)

lint: prerequisites ## formatting, clippy and the documentation, warnings as errors
	$(call first-build,debug/brooklet,12)
	@cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 || rustup component add clippy rustfmt
	@$(environment) && cargo fmt --all --check && cargo lint && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

broker: prerequisites ## the broker as a server: make broker DATA=./data LISTEN=127.0.0.1:9092
	$(call first-build,release/brooklet,9)
	@$(environment) && cargo run --release -p brooklet-cli -- broker --data $(DATA) --listen $(LISTEN)

bench-broker: prerequisites ## our broker and Apache Kafka's under Kafka's own load tools, side by side (needs Java 17 and mvn)
	@for tool in java javac mvn; do command -v $$tool >/dev/null || { echo "brooklet: $$tool is missing; install Java 17 or newer and Maven" >&2; exit 1; }; done
	$(call first-build,release/examples/flight_delays,9)
	@$(environment) && cargo build --release -p brooklet-cli && cargo bench --bench broker -- compare --brooklet "$(target)/release/brooklet" $(ARGS)

bench-peers: prerequisites ## the same workloads here and on the JVM, side by side (needs Java 17 and mvn)
	@for tool in java javac mvn; do command -v $$tool >/dev/null || { echo "brooklet: $$tool is missing; install Java 17 or newer and Maven" >&2; exit 1; }; done
	$(call first-build,release/examples/flight_delays,9)
	@$(environment) && cargo bench --bench peers -- compare $(ARGS)

compat-clients: prerequisites ## clients of five languages against our broker, one tour each (needs Java 17, mvn, Python 3, Node and Go)
	@for tool in java javac mvn python3 node npm go; do command -v $$tool >/dev/null || { echo "brooklet: $$tool is missing; install Java 17 or newer, Maven, Python 3, Node 20 or newer with npm, and Go 1.26 or newer" >&2; exit 1; }; done
	@$(environment) && cargo build --release -p brooklet-cli && tests/clients/run.sh "$(target)/release/brooklet" $(ARGS)

fuzz: prerequisites ## the fuzz targets, five minutes each; ARGS="requests 1800" for one (needs the nightly compiler)
	@$(environment) && scripts/fuzz.sh $(ARGS)

compat-java: prerequisites ## Apache Kafka's own tools, clients and Kafka Streams against our broker and its files (needs Java 17 and mvn)
	@for tool in java mvn; do command -v $$tool >/dev/null || { echo "brooklet: $$tool is missing; install Java 17 or newer and Maven" >&2; exit 1; }; done
	@$(environment) && cargo build --release -p brooklet-cli && scripts/compat-java.sh "$(target)/release/brooklet" $(ARGS)

hostile: prerequisites ## 10,000 connections that misbehave, and one that does not
	@$(environment) && ulimit -n "$$(ulimit -Hn)" && BROOKLET_TEST_CONNECTIONS=$${BROOKLET_TEST_CONNECTIONS:-10000} cargo test -p brooklet-broker --test hostile -- many_connections

prerequisites:
	@scripts/install-prerequisites.sh
