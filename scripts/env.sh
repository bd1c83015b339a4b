# shellcheck shell=bash
# What a build of Brooklet needs in the environment; every command of the Makefile sources it, and so can your shell:
#
#   . scripts/env.sh
#
# - CARGO_TARGET_DIR outside the clone, so that a fresh clone reuses what another one compiled.
# - ROCKSDB_LIB_DIR, ROCKSDB_STATIC: the cached RocksDB, built on the first call (scripts/rocksdb.sh).
# - LIBCLANG_PATH, where brew installed libclang out of bindgen's sight.

command -v cargo >/dev/null 2>&1 || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export PATH
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/brooklet/target}"

if [ -z "${LIBCLANG_PATH:-}" ] && [ -e /opt/homebrew/opt/llvm/lib/libclang.dylib ]; then
  export LIBCLANG_PATH=/opt/homebrew/opt/llvm/lib
fi

# The status is rocksdb.sh's: an interrupted build must not go on to cargo.
brooklet_rocksdb=$("$(dirname "${BASH_SOURCE[0]:-$0}")/rocksdb.sh") && eval "$brooklet_rocksdb"
