#!/usr/bin/env bash
# Builds RocksDB once into a cached static library and prints the variables that make the `rocksdb` crate link it:
#
#   eval "$(scripts/rocksdb.sh)"
#
# The sources are those of the librocksdb-sys package that Cargo.lock names, with its definitions, but compiled as 8 large units
# instead of 343 small ones, since most of the time goes into parsing the same headers: minutes instead of a third of an hour.
# docs/decisions/0002-rocksdb-build.md has the figures.
#
# Prints nothing, so that cargo builds the crate's sources by itself, where this does not apply: not Linux with glibc on x86-64 or
# aarch64, another compiler than g++, cross-compiling, or RocksDB already chosen by ROCKSDB_LIB_DIR or ROCKSDB_COMPILE.
# Two runs at once share one build (the second waits), and an interrupted one goes on with the units that are left.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
units=8
unit_memory_kib=2200000
cache=${XDG_CACHE_HOME:-$HOME/.cache}/brooklet
say() { printf 'brooklet: %s\n' "$*" >&2; }

# What this library is built for, or failure where the crate's own build is the right one.
architecture() {
  [ -z "${ROCKSDB_COMPILE:-}${CARGO_BUILD_TARGET:-}" ] || return 1
  # A shell may still name the library of the version before.
  case ${ROCKSDB_LIB_DIR:-} in '' | "$cache"/*) ;; *) return 1 ;; esac
  [ "$(uname -s)" = Linux ] && getconf GNU_LIBC_VERSION >/dev/null 2>&1 || return 1
  case ${CXX:-g++} in g++ | */g++ | g++-[0-9]* | */g++-[0-9]*) ;; *) return 1 ;; esac
  command -v "${CXX:-g++}" >/dev/null && command -v flock >/dev/null && command -v split >/dev/null || return 1
  case $(uname -m) in
    x86_64) echo "${ROCKSDB_MARCH:-x86-64-v2}" ;; # SSE 4.2 for CRCs: any x86 server since 2009
    aarch64) echo "${ROCKSDB_MARCH:-armv8-a+crc+crypto}" ;; # used after asking the processor
    *) return 1 ;;
  esac
}

version() { # of a package, as Cargo.lock names it
  sed -n "/^name = \"$1\"\$/{n;s/^version = \"\(.*\)\"\$/\1/p;q;}" "$root/Cargo.lock"
}

sources() { # the folder of a package's sources; downloads them if need be
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  cargo metadata --format-version 1 --locked --filter-platform "$host" --manifest-path "$root/Cargo.toml" |
    grep -o "\"manifest_path\":\"[^\"]*/$1[^\"/]*/Cargo.toml\"" | sed 's/^"manifest_path":"//; s#/Cargo.toml"$##' | head -n 1
}

# Definitions and flags follow librocksdb-sys' build script for Linux with the feature lz4. The cache's name below says version,
# architecture and optimisation: a change of any other flag here needs a new word in it.
compile() {
  local unit=$1 began=$SECONDS
  "${CXX:-g++}" "${flags[@]}" -c "$unit" -o "$unit.o.new"
  mv "$unit.o.new" "$unit.o"
  say "RocksDB: $(find "$building" -name 'unit*.o' | wc -l) of $units compiled (${unit##*/} in $((SECONDS - began)) s)"
}

build() {
  local rocksdb lz4 list jobs part
  rocksdb=$(sources librocksdb-sys)
  lz4=$(sources lz4-sys)
  [ -f "$rocksdb/rocksdb_lib_sources.txt" ] && [ -d "$lz4/liblz4/lib" ] || {
    say "RocksDB: the sources of librocksdb-sys and lz4-sys are not where cargo says"
    return 1
  }
  flags=(-std=c++20 -O2 -g0 -fPIC -w "-march=$march" -include cstdint
    -DNDEBUG=1 -DLZ4=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX
    -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
    "-I$rocksdb/rocksdb/include" "-I$rocksdb/rocksdb" "-I$rocksdb" "-I$lz4/liblz4/lib")
  [ "$(uname -m)" != x86_64 ] || flags+=(-mpclmul)
  mkdir -p "$building"
  list=$building/sources
  grep -v util/build_version.cc "$rocksdb/rocksdb_lib_sources.txt" >"$list"
  split -n "l/$units" -d -a 1 "$list" "$building/unit"
  for part in "$building"/unit[0-9]; do sed 's|.*|#include "rocksdb/&"|' "$part" >"$part.cc"; done

  jobs=$(($(awk '/MemAvailable/ { print $2 }' /proc/meminfo) / unit_memory_kib))
  [ "$jobs" -le "$(nproc)" ] || jobs=$(nproc)
  [ "$jobs" -ge 1 ] || jobs=1
  say "building RocksDB ${release} once, $jobs units at a time: about 4 minutes on two cores"
  "${CXX:-g++}" "${flags[@]}" -c "$rocksdb/build_version.cc" -o "$building/version.cc.o"
  run_all "$jobs"
  ar crs "$building/librocksdb.a" "$building"/*.cc.o
  mkdir -p "$library"
  mv "$building/librocksdb.a" "$library/librocksdb.a"
  rm -rf "$building"
}

# Compiles what has no object yet, $1 units at a time.
run_all() {
  local jobs=$1 unit running=0
  for unit in "$building"/unit*.cc; do
    [ ! -f "$unit.o" ] || continue
    if [ "$running" -ge "$jobs" ]; then
      wait -n
      running=$((running - 1))
    fi
    compile "$unit" &
    running=$((running + 1))
  done
  while [ "$running" -gt 0 ]; do
    wait -n
    running=$((running - 1))
  done
}

march=$(architecture) || exit 0
release=$(version librocksdb-sys)
release=${release##*+}
[ -n "$release" ] || exit 0 # the lock file names no RocksDB: nothing to build
library=$cache/rocksdb-$release-$march-O2
building=$library.building

if [ ! -f "$library/librocksdb.a" ]; then
  mkdir -p "$cache"
  exec 9>"$library.lock"
  flock -n 9 || {
    say "RocksDB: another run is building it; waiting"
    flock 9
  }
  if [ ! -f "$library/librocksdb.a" ]; then
    # In a process group of its own, so that whatever ends the build ends its compilers too.
    set -m
    build >&2 &
    group=$!
    trap 'trap - INT TERM; kill -- "-$group" 2>/dev/null; exit 130' INT TERM
    if ! wait "$group"; then
      kill -- "-$group" 2>/dev/null || true
      say "RocksDB: this build failed; cargo will use the crate's own (about 20 minutes on two cores)"
      exit 0
    fi
  fi
fi
printf "export ROCKSDB_LIB_DIR='%s' ROCKSDB_STATIC=1\n" "$library"
