#!/usr/bin/env bash
# Sees to it that the build finds a C++ compiler, make and libclang, and installs what is missing: with apt-get, dnf or brew, through
# `sudo -n` when not root. Asks nothing: where it cannot install by itself it prints the command to run and fails.
# Rust is the one thing it never installs: it prints rustup's line instead.
#
#   scripts/install-prerequisites.sh            check, and install
#   scripts/install-prerequisites.sh --check    only say what is missing (exit 1 when something is)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf 'brooklet: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# bindgen loads libclang at build time and searches about these places.
have_libclang() {
  local found
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  have ldconfig && ldconfig -p 2>/dev/null | grep -q 'libclang[-.0-9]*\.so' && return 0
  for found in /usr/lib*/libclang*.so* /usr/lib*/*/libclang*.so* /usr/lib*/*/*/libclang*.so* /usr/local/lib*/libclang*.so* \
    /Library/Developer/CommandLineTools/usr/lib/libclang.dylib \
    /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib \
    /usr/local/opt/llvm/lib/libclang.dylib /opt/homebrew/opt/llvm/lib/libclang.dylib; do
    case $found in *libclang-cpp*) continue ;; esac
    [ -e "$found" ] && return 0
  done
  return 1
}

# A distribution's libclang without the compiler's own headers (stddef.h) parses nothing that includes one.
have_libclang_headers() {
  local found
  [ "$(uname -s)" = Linux ] && [ -z "${LIBCLANG_PATH:-}" ] || return 0
  have clang && return 0
  for found in /usr/lib/llvm*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h /usr/local/lib*/clang/*/include/stddef.h; do
    [ -e "$found" ] && return 0
  done
  return 1
}

missing() {
  have c++ || have g++ || have clang++ || echo compiler
  have cc || have gcc || have clang || echo compiler
  have make || echo make
  { have_libclang && have_libclang_headers; } || echo libclang
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo -n "$@"
  else
    return 1
  fi
}

# Names of packages for what is missing: $1 is the package manager, the rest what `missing` printed.
packages() {
  local manager=$1 want
  shift
  for want in "$@"; do
    case $manager:$want in
      apt-get:compiler) echo g++ ;;
      apt-get:libclang) echo libclang-dev ;;
      dnf:compiler) echo gcc-c++ ;;
      dnf:libclang) echo clang-devel ;;
      brew:compiler | brew:libclang) echo llvm ;;
      *:make) echo make ;;
    esac
  done
}

install() {
  local manager=$1
  shift
  say "installing $* with $manager"
  case $manager in
    apt-get)
      as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q >&2 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "$@" >&2
      ;;
    dnf) as_root dnf install -y -q --setopt=install_weak_deps=False "$@" >&2 ;;
    brew) NONINTERACTIVE=1 HOMEBREW_NO_AUTO_UPDATE=1 brew install -q "$@" >&2 ;;
  esac </dev/null
}

check_rust() {
  local wanted found
  if ! have cargo || ! have rustc; then
    say "Rust is missing. Install it, then run this again:"
    say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
    return 1
  fi
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
  found=$(rustc --version | sed 's/^rustc \([0-9]*\.[0-9]*\).*/\1/')
  if [ -n "$wanted" ] && [ "${found#*.}" -lt "${wanted#*.}" ]; then
    say "this is Rust $found; $wanted or newer is needed: rustup update stable"
    return 1
  fi
}

# ~/.cargo/bin is where rustup puts cargo, and a shell started before that does not know it yet.
have cargo || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

gone=()
while IFS= read -r name; do gone+=("$name"); done < <(missing | sort -u)
if [ "${#gone[@]}" -gt 0 ]; then
  if [ "${1:-}" = --check ]; then
    say "missing: ${gone[*]}"
    exit 1
  fi
  manager=
  for name in apt-get dnf brew; do
    if have "$name"; then
      manager=$name
      break
    fi
  done
  if [ -z "$manager" ]; then
    say "missing: ${gone[*]}, and neither apt-get, dnf nor brew is here to install it."
    say "Install a C and C++ compiler (g++ 11 or clang 14 or newer), GNU make and libclang with its headers, then run this again."
    exit 1
  fi
  wanted=()
  while IFS= read -r name; do wanted+=("$name"); done < <(packages "$manager" "${gone[@]}" | sort -u)
  if ! install "$manager" "${wanted[@]}"; then
    say "could not install by itself. Run this, then try again:"
    case $manager in
      brew) say "    brew install ${wanted[*]}" ;;
      *) say "    sudo $manager install ${wanted[*]}" ;;
    esac
    exit 1
  fi
  still=$(missing | sort -u | tr '\n' ' ')
  if [ -n "$still" ]; then
    say "installed ${wanted[*]}, but still missing: $still"
    exit 1
  fi
fi
check_rust
