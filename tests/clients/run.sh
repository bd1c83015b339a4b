#!/usr/bin/env bash
# One tour of Kafka's features by the clients of five languages against our broker. Not part of `make test`.
#
#   tests/clients/run.sh BROOKLET [LANGUAGE...]     BROOKLET: the built command; LANGUAGE: java python node go rust (default: all)
#
# All five write the table docs/reference/clients.md; a choice of languages only prints. With BROOKLET_KAFKA=host:port the tours go
# to that cluster instead, to see whether it is the tour that is wrong.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
brooklet=$1
shift
languages=("$@")
[ $# -gt 0 ] || languages=(java python node go rust)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/brooklet/clients
jars=${PEERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/brooklet-peers}/lib
seconds=${BROOKLET_TOUR_SECONDS:-600}
mkdir -p "$cache"
work=$(mktemp -d "${TMPDIR:-/tmp}/brooklet-clients.XXXXXX")
broker=
trap '[ -z "$broker" ] || { kill $broker 2>/dev/null || true; wait $broker 2>/dev/null || true; }; rm -rf "$work"' EXIT

need() {
  command -v "$1" >/dev/null || { echo "brooklet: $1 is missing; the tour in $2 needs it" >&2; exit 1; }
}
# $(prepare LANGUAGE): dependencies in the cache, the versions those of the lock files. Each sets the tour's command and its client's name.
prepare_java() {
  need java Java; need javac Java; need mvn Java
  bash "$root/benches/peers/kafka.sh" tool org.apache.kafka.tools.BrokerApiVersionsCommand --version >/dev/null
  mkdir -p "$cache/java"
  javac -cp "$jars/*" -d "$cache/java" "$here/java/Tour.java"
  command=(java -Xmx256m -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$cache/java:$jars/*" Tour)
  client="Java: kafka-clients $(basename "$jars"/kafka-clients-*[0-9].jar .jar | sed 's/kafka-clients-//')"
}
prepare_python() {
  need python3 Python
  [ -x "$cache/python/bin/pip" ] || python3 -m venv "$cache/python"
  "$cache/python/bin/pip" install -q --disable-pip-version-check -r "$here/python/requirements.txt"
  command=("$cache/python/bin/python" "$here/python/tour.py")
  client="Python: kafka-python $(sed -n 's/^kafka-python==//p' "$here/python/requirements.txt")"
}
prepare_node() {
  need node Node; need npm Node
  mkdir -p "$cache/node"
  cp "$here/node/package.json" "$here/node/package-lock.json" "$here/node/tour.js" "$cache/node"
  (cd "$cache/node" && npm ci --ignore-scripts --no-audit --no-fund --silent)
  command=(node "$cache/node/tour.js")
  client="Node: kafkajs $(sed -n 's/.*"kafkajs": "\(.*\)".*/\1/p' "$here/node/package.json")"
}
prepare_go() {
  need go Go
  (cd "$here/go" && GOCACHE="$cache/go/build" GOFLAGS=-mod=readonly go build -o "$cache/go/tour" .)
  command=("$cache/go/tour")
  client="Go: franz-go $(sed -n 's/.*franz-go v\(.*\)/\1/p' "$here/go/go.mod")"
}
prepare_rust() {
  need cargo Rust
  CARGO_TARGET_DIR="$cache/rust" cargo build --quiet --locked --manifest-path "$here/rust/Cargo.toml"
  command=("$cache/rust/debug/tour")
  # The crate of the bindings names the library it bundles after the plus.
  client="Rust: rdkafka $(sed -n '/^name = "rdkafka"$/{n;s/version = "\(.*\)"/\1/p}' "$here/rust/Cargo.lock"), librdkafka $(sed -n 's/^version = "4\..*+\(.*\)"/\1/p' "$here/rust/Cargo.lock")"
}

# A port that was free a moment ago: should another take it, the broker says so and the run ends.
server=${BROOKLET_KAFKA:-}
if [ -z "$server" ]; then
  port=$((20000 + RANDOM % 10000))
  while (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  server=127.0.0.1:$port
  "$brooklet" broker --data "$work/data" --listen "$server" --config group.initial.rebalance.delay.ms=0 2> "$work/broker.log" &
  broker=$!
  until (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 $broker 2>/dev/null || { cat "$work/broker.log" >&2; exit 1; }
  done
fi

failed=0
clients=()
for language in "${languages[@]}"; do
  declare -F "prepare_$language" >/dev/null || { echo "brooklet: no tour in $language; there are java, python, node, go and rust" >&2; exit 2; }
  "prepare_$language"
  clients+=("$client")
  echo "$client"
  status=0
  timeout "$seconds" "${command[@]}" "$server" > "$work/$language.tour" || status=$?
  sed 's/^/  /' "$work/$language.tour"
  if [ $status -ne 0 ]; then
    failed=$((failed + 1))
    echo "  the tour ended with status $status"
  fi
done

# The table: the steps of the first tour are the rows, and every tour must have them all, in this order.
steps() { sed 's/^[^ ]* //; s/: .*//' "$1"; }
for language in "${languages[@]}"; do
  cmp -s <(steps "$work/${languages[0]}.tour") <(steps "$work/$language.tour") || { echo "the tour in $language has other steps than that in ${languages[0]}"; failed=$((failed + 1)); }
done
if [ $# -eq 0 ] && [ -n "$broker" ]; then
  {
    echo "# Clients"
    echo
    echo "What the clients of five languages do against the broker: one scripted tour, written by \`make compat-clients\`"
    echo "(the tours are in [tests/clients](../../tests/clients/README.md))."
    echo
    printf '| step |'; printf ' %s |' "${clients[@]}"; echo
    printf '|---|'; printf -- '---|%.0s' "${clients[@]}"; echo
    steps "$work/${languages[0]}.tour" | while read -r step; do
      printf '| %s |' "$step"
      for language in "${languages[@]}"; do
        printf ' %s |' "$(grep -F " $step" "$work/$language.tour" | head -1 | sed 's/^FAILED [^:]*: /failed: /; s/^absent [^:]*: /absent: /; s/^ok .*/ok/; s/|/\//g')"
      done
      echo
    done
  } > "$root/docs/reference/clients.md"
fi
[ $failed -eq 0 ] || { echo "$failed failed"; exit 1; }
echo "every client did the whole tour"
