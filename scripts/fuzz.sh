#!/usr/bin/env bash
# Runs the fuzz targets (fuzz/README.md): scripts/fuzz.sh [TARGET [SECONDS]]; all of them, 300 seconds each, unless one is named.
set -euo pipefail
cd "$(dirname "$0")/.."
rustup toolchain list | grep -q '^nightly' || { echo "brooklet: fuzzing needs the nightly compiler: rustup toolchain install nightly" >&2; exit 1; }
command -v cargo-fuzz > /dev/null || cargo install cargo-fuzz --locked
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/brooklet/target}/fuzz"
for target in ${1:-requests responses record_batches log_recovery internal_records}; do
  # A batch may be as large as a message; longer inputs find nothing more.
  cargo +nightly fuzz run "$target" -- -max_total_time="${2:-300}" -max_len=8192 -rss_limit_mb=2048 -print_final_stats=1
done
