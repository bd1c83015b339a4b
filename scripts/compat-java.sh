#!/usr/bin/env bash
# Apache Kafka's own tools against our broker and its files. Needs Java 17 and mvn; not part of `make test`.
#
#   scripts/compat-java.sh BROOKLET      BROOKLET: the built command, e.g. ~/.cache/brooklet/target/release/brooklet
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
brooklet=$1
port=${PORT:-19192}
server=127.0.0.1:$port
work=$(mktemp -d "${TMPDIR:-/tmp}/brooklet-compat.XXXXXX")
tool() { bash "$here/benches/peers/kafka.sh" tool "$@"; }
failed=0
# check NAME PATTERN COMMAND...: runs the command; its output must contain the pattern.
check() {
  local name=$1 pattern=$2 out
  shift 2
  if out=$("$@" 2>&1) && grep -q -- "$pattern" <<<"$out"; then
    echo "ok      $name"
  else
    echo "FAILED  $name: no \"$pattern\" in:"
    sed 's/^/        /' <<<"$out" | head -20
    failed=$((failed + 1))
  fi
}

"$brooklet" broker --data "$work/data" --listen "$server" 2> "$work/broker.log" &
broker=$!
trap 'kill $broker 2>/dev/null || true; wait $broker 2>/dev/null || true; rm -rf "$work"' EXIT
until (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do
  kill -0 $broker || { cat "$work/broker.log" >&2; exit 1; }
done

check "BrokerApiVersionsCommand" "Produce(0): 0 to" tool org.apache.kafka.tools.BrokerApiVersionsCommand --bootstrap-server "$server"
check "TopicCommand --create" "Created topic numbers" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$server" --create --topic numbers --partitions 2 --config segment.bytes=1048576
check "TopicCommand --list" "numbers" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$server" --list
check "TopicCommand --describe" "PartitionCount: 2" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$server" --describe --topic numbers
check "TopicCommand --alter" "" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$server" --alter --topic numbers --partitions 3
check "ConfigCommand --alter" "Completed" tool kafka.admin.ConfigCommand --bootstrap-server "$server" --alter --entity-type topics --entity-name numbers --add-config retention.ms=-1
check "ProducerPerformance" "50000 records sent" tool org.apache.kafka.tools.ProducerPerformance --topic numbers --num-records 50000 --record-size 100 --throughput -1 --producer-props "bootstrap.servers=$server" acks=all compression.type=lz4
check "ConsumerPerformance" "50000" tool org.apache.kafka.tools.ConsumerPerformance --bootstrap-server "$server" --topic numbers --num-records 50000 --group readers
check "ConsumerGroupCommand --describe" "numbers" tool org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --bootstrap-server "$server" --describe --group readers
check "TopicCommand --create, to be deleted" "Created topic gone" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$server" --create --topic gone
check "TopicCommand --delete" "" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$server" --delete --topic gone

# The files of a broker that was stopped cleanly.
kill $broker
wait $broker || true
for log in "$work"/data/numbers-*/*.log "$work"/data/__consumer_offsets-*/*.log; do
  [ -s "$log" ] || continue
  name=${log#"$work/data/"}
  check "DumpLogSegments $name" "isvalid: true" tool org.apache.kafka.tools.DumpLogSegments --files "$log" --deep-iteration --verify-index-only
  for index in "${log%.log}.index" "${log%.log}.timeindex"; do
    [ -s "$index" ] || continue
    out=$(tool org.apache.kafka.tools.DumpLogSegments --files "$index" --verify-index-only 2>&1) || true
    if grep -qE "Found (mismatch|timestamp mismatch|out of order|index position)" <<<"$out"; then
      echo "FAILED  DumpLogSegments ${index#"$work/data/"}"
      sed 's/^/        /' <<<"$out" | head -20
      failed=$((failed + 1))
    fi
  done
done
[ $failed -eq 0 ] || { echo "$failed failed"; exit 1; }
echo "Apache Kafka's tools find nothing wrong"
