#!/usr/bin/env bash
# Apache Kafka's own tools, clients and Kafka Streams against our broker and its files. Needs Java 17 and mvn; not part of `make test`.
#
#   scripts/compat-java.sh BROOKLET [SECTION...]
#
# BROOKLET is the built command, e.g. ~/.cache/brooklet/target/release/brooklet. Sections, all of them unless some are named:
#   tools        the command line tools, one by one
#   verifiable   VerifiableProducer and VerifiableConsumer, classic and consumer groups
#   compaction   LogCompactionTester
#   copier       TransactionalMessageCopier with random aborts while the broker is killed with -9 every few seconds
#   streams      an exactly-once Kafka Streams application, two instances of which one is killed, with both group protocols
#   smoke        Kafka Streams' own smoke tests
#   files        DumpLogSegments on every file that the others left behind
# SECONDS_OF_KILLS (default 300) is how long the copier runs; WORK a directory for all that is written, e.g. one that a failed run has left.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
brooklet=$1
shift
sections=" ${*:-tools verifiable compaction copier streams smoke files} "
port=${PORT:-19192}
server=127.0.0.1:$port
work=${WORK:-$(mktemp -d "${TMPDIR:-/tmp}/brooklet-compat.XXXXXX")}
kafka=org.apache.kafka.tools
failed=0
broker=
data=$work/data
processes=()
tool() { JAVA_OPTS="-Xms64m -Xmx1g" bash "$here/benches/peers/kafka.sh" tool "$@"; }
eos() { JAVA_OPTS="-Xms64m -Xmx1g" bash "$here/benches/peers/kafka.sh" eos "$@"; }

# The broker as a server; SETTINGS are its own.
start() {
  "$brooklet" broker --data "$data" --listen "$server" "${settings[@]}" 2>> "$work/broker.log" &
  broker=$!
  until (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do
    kill -0 $broker || { tail -20 "$work/broker.log" >&2; exit 1; }
  done
}
stop() {
  [ -z "$broker" ] || { kill "$broker" && wait "$broker"; } || true
  broker=
}
ended() {
  local process
  for process in "${processes[@]}"; do pkill -P "$process" 2> /dev/null || true; kill "$process" 2> /dev/null || true; done
  stop
  if [ $failed -eq 0 ]; then rm -rf "$work"; else echo "what is left: $work" >&2; fi
}
trap ended EXIT
settings=(--config group.initial.rebalance.delay.ms=0 --config log.segment.bytes=1048576 --config log.cleaner.backoff.ms=1000 --config log.cleaner.min.cleanable.ratio=0.01)

# say NAME [OUTPUT]: a passed check, or with an output a failed one.
say() {
  if [ $# -eq 1 ]; then echo "ok      $1"; else
    echo "FAILED  $1"
    head -30 <<< "$2" | sed 's/^/        /'
    failed=$((failed + 1))
  fi
}
# check NAME PATTERN COMMAND...: the command must succeed and its output contain the pattern.
check() {
  local name=$1 pattern=$2 out
  shift 2
  if out=$("$@" 2>&1) && grep -q -- "$pattern" <<< "$out"; then say "$name"; else say "$name: no \"$pattern\" in what it printed" "$out"; fi
}
# lacks NAME PATTERN COMMAND...: it must succeed without the pattern in its output.
lacks() {
  local name=$1 pattern=$2 out
  shift 2
  if out=$("$@" 2>&1) && ! grep -q -- "$pattern" <<< "$out"; then say "$name"; else say "$name: failed, or \"$pattern\" is in what it printed" "$out"; fi
}
wants() { [[ $sections == *" $1 "* ]]; }
create() { tool $kafka.TopicCommand --bootstrap-server "$server" --create --topic "$1" --partitions "$2" "${@:3}"; }

start

if wants tools; then
  at=(--bootstrap-server "$server")
  check "BrokerApiVersionsCommand" "Produce(0): 0 to" tool $kafka.BrokerApiVersionsCommand "${at[@]}"
  check "TopicCommand --create" "Created topic numbers" create numbers 2 --config segment.bytes=1048576
  check "TopicCommand --list" "numbers" tool $kafka.TopicCommand "${at[@]}" --list
  check "TopicCommand --describe" "PartitionCount: 2" tool $kafka.TopicCommand "${at[@]}" --describe --topic numbers
  check "TopicCommand --alter" "" tool $kafka.TopicCommand "${at[@]}" --alter --topic numbers --partitions 3
  check "ConfigCommand --alter" "Completed" tool kafka.admin.ConfigCommand "${at[@]}" --alter --entity-type topics --entity-name numbers --add-config retention.ms=-1
  check "ConfigCommand --describe" "retention.ms=-1" tool kafka.admin.ConfigCommand "${at[@]}" --describe --entity-type topics --entity-name numbers
  check "ConfigCommand --describe, broker" "log.segment.bytes" tool kafka.admin.ConfigCommand "${at[@]}" --describe --all --entity-type brokers --entity-name 1
  check "ConfigCommand --alter, group" "Completed" tool kafka.admin.ConfigCommand "${at[@]}" --alter --entity-type groups --entity-name readers --add-config consumer.session.timeout.ms=50000
  check "ProducerPerformance" "50000 records sent" tool $kafka.ProducerPerformance --topic numbers --num-records 50000 --record-size 100 --throughput -1 --producer-props "bootstrap.servers=$server" acks=all compression.type=lz4
  check "ProducerPerformance, transactions" "20000 records sent" tool $kafka.ProducerPerformance --topic numbers --num-records 20000 --record-size 100 --throughput -1 --transactional-id performance --transaction-duration-ms 100 --producer-props "bootstrap.servers=$server"
  check "ConsumerPerformance" ", 50[0-9][0-9][0-9], " tool $kafka.ConsumerPerformance "${at[@]}" --topic numbers --num-records 50000 --group readers
  check "EndToEndLatency" "Percentiles" tool $kafka.EndToEndLatency "${at[@]}" --topic numbers --num-records 200 --producer-acks all --record-size 100
  check "GetOffsetShell" "numbers:" tool $kafka.GetOffsetShell "${at[@]}" --topic numbers
  check "ConsumerGroupCommand --describe" "numbers" tool $kafka.consumer.group.ConsumerGroupCommand "${at[@]}" --describe --group readers
  check "ConsumerGroupCommand --list --state" "readers" tool $kafka.consumer.group.ConsumerGroupCommand "${at[@]}" --list --state
  check "ConsumerGroupCommand --reset-offsets" "readers" tool $kafka.consumer.group.ConsumerGroupCommand "${at[@]}" --reset-offsets --to-earliest --group readers --topic numbers --execute
  check "GroupsCommand --list" "readers" tool $kafka.GroupsCommand "${at[@]}" --list
  check "ConsumerGroupCommand --delete" "successful" tool $kafka.consumer.group.ConsumerGroupCommand "${at[@]}" --delete --group readers
  transactions() { tool $kafka.TransactionsCommand "${at[@]}" "$@"; }
  check "TransactionsCommand list" "performance" transactions list
  check "TransactionsCommand describe" "performance" transactions describe --transactional-id performance
  check "TransactionsCommand describe-producers" "ProducerId" transactions describe-producers --topic numbers --partition 0
  # Of a producer that is gone, while the coordinator still waits for it.
  create hung 1 > /dev/null
  check "a transaction is left open" "open from offset 0" eos open "$server" hung terminated
  check "TransactionsCommand describe, open" "Ongoing" transactions describe --transactional-id terminated
  lacks "TransactionsCommand find-hanging, none" "hung" transactions find-hanging --broker-id 1 --max-transaction-timeout 0
  check "TransactionsCommand forceTerminateTransaction" "" transactions forceTerminateTransaction --transactionalId terminated
  check "TransactionsCommand describe, terminated" "Empty" transactions describe --transactional-id terminated
  # One that the coordinator knows nothing of, as after its log was lost: a batch without AddPartitionsToTxn is refused, so that no client can
  # make one. The last record is committed after it, and not seen before it ends.
  check "another transaction is left open" "open from offset 2" eos open "$server" hung forgotten
  check "VerifiableProducer, after it" '"sent":1,' tool $kafka.VerifiableProducer --bootstrap-server "$server" --topic hung --max-messages 1 --acks -1
  stop
  rm -r "$data"/__transaction_state-*
  start
  lacks "TransactionsCommand list, forgotten" "forgotten" transactions list
  check "TransactionsCommand find-hanging" "^hung[[:space:]]*0[[:space:]].*[[:space:]]2[[:space:]]" transactions find-hanging --broker-id 1 --max-transaction-timeout 0
  check "TransactionsCommand describe-producers, hanging" "[[:space:]]2[[:space:]]*$" transactions describe-producers --topic hung --partition 0
  check "the last stable offset, hanging" "ends at 2" eos stable "$server" hung
  check "TransactionsCommand abort" "" transactions abort --topic hung --partition 0 --start-offset 2
  lacks "TransactionsCommand find-hanging, aborted" "hung" transactions find-hanging --broker-id 1 --max-transaction-timeout 0
  lacks "TransactionsCommand describe-producers, aborted" "[[:space:]]2[[:space:]]*$" transactions describe-producers --topic hung --partition 0
  check "the last stable offset, aborted" "ends at 5" eos stable "$server" hung
  check "FeatureCommand describe" "transaction.version" tool $kafka.FeatureCommand "${at[@]}" describe
  check "LogDirsCommand" "numbers-0" tool $kafka.LogDirsCommand "${at[@]}" --describe --topic-list numbers
  check "MetadataQuorumCommand" "LeaderId" tool $kafka.MetadataQuorumCommand "${at[@]}" describe --status
  check "ClusterTool cluster-id" "Cluster ID" tool $kafka.ClusterTool cluster-id "${at[@]}"
  check "LeaderElectionCommand" "" tool $kafka.LeaderElectionCommand "${at[@]}" --election-type preferred --all-topic-partitions
  echo '{"partitions":[{"topic":"numbers","partition":0,"offset":10}],"version":1}' > "$work/delete.json"
  check "DeleteRecordsCommand" "low_watermark: 10" tool $kafka.DeleteRecordsCommand "${at[@]}" --offset-json-file "$work/delete.json"
  check "TopicCommand --create, to be deleted" "Created topic gone" create gone 1
  check "TopicCommand --delete" "" tool $kafka.TopicCommand "${at[@]}" --delete --topic gone
fi

if wants verifiable; then
  check "VerifiableProducer" '"sent":5000,' tool $kafka.VerifiableProducer --bootstrap-server "$server" --topic verified --max-messages 5000 --throughput -1
  for protocol in classic consumer; do
    check "VerifiableConsumer, $protocol groups" '"name":"records_consumed"' tool $kafka.VerifiableConsumer --bootstrap-server "$server" --topic verified --group-id "verified-$protocol" --group-protocol $protocol --max-messages 5000 --reset-policy earliest
  done
fi

if wants compaction; then
  out=$(tool $kafka.LogCompactionTester --bootstrap-server "$server" --messages 300000 --duplicates 5 --topics 3 --percent-deletes 10 --sleep 20 2>&1) || true
  reduction=$(sed -n 's/.*(\(-\{0,1\}[0-9.]*\)% reduction).*/\1/p' <<< "$out")
  if grep -q "Data verification is completed" <<< "$out" && grep -q " 0 mismatches" <<< "$out" && [[ $reduction =~ ^[1-9] ]]; then say "LogCompactionTester: a reduction of $reduction %"; else say "LogCompactionTester" "$out"; fi
fi

# Kills the broker and starts it again every few seconds, until the seconds are over.
kills() {
  local until=$((SECONDS + $1))
  killed=0
  while [ $SECONDS -lt $until ]; do
    sleep $((2 + RANDOM % 4))
    kill -9 $broker
    wait $broker 2> /dev/null || true
    killed=$((killed + 1))
    start
  done
}

if wants copier; then
  records=${COPIER_RECORDS:-60000}
  create copied-in 1 > /dev/null
  create copied-out 1 > /dev/null
  tool $kafka.VerifiableProducer --bootstrap-server "$server" --topic copied-in --max-messages "$records" --throughput -1 > /dev/null
  until=$((SECONDS + ${SECONDS_OF_KILLS:-300}))
  # A copier that meets a dead broker for too long ends: another goes on where its group has committed.
  (
    copies=0
    while [ $SECONDS -lt $until ] || [ $copies -lt 1 ]; do
      if tool $kafka.TransactionalMessageCopier --broker-list "$server" --transactional-id copier --consumer-group copier --input-topic copied-in --output-topic copied-out --input-partition 0 \
        --transaction-size 25 --transaction-timeout 10000 --enable-random-aborts --group-mode --max-messages "$records" >> "$work/copier.log" 2>&1; then copies=$((copies + 1)); fi
      grep -q '"remaining":0' "$work/copier.log" && break
    done
  ) &
  processes+=($!)
  kills "${SECONDS_OF_KILLS:-300}"
  # The rest without kills.
  for _ in $(seq 10); do
    JAVA_OPTS= timeout 120 bash "$here/benches/peers/kafka.sh" tool $kafka.TransactionalMessageCopier --broker-list "$server" --transactional-id copier --consumer-group copier --input-topic copied-in --output-topic copied-out --input-partition 0 \
      --transaction-size 200 --transaction-timeout 10000 --enable-random-aborts --group-mode >> "$work/copier.log" 2>&1 || true
    grep -q '"remaining":0' "$work/copier.log" && break
  done
  check "TransactionalMessageCopier under $killed kills" "copied-out is copied-in exactly" eos copies "$server" copied-in copied-out
fi

if wants streams; then
  for protocol in classic streams; do
    name=eos-$protocol
    eos create "$server" "$name"
    eos run "$server" "$name" $protocol "$work/state-a" > "$work/$name-a.log" 2>&1 &
    one=$!
    eos run "$server" "$name" $protocol "$work/state-b" > "$work/$name-b.log" 2>&1 &
    other=$!
    processes+=($one $other)
    eos load "$server" "$name" 30000 1000 > "$work/$name-load.log" 2>&1 &
    load=$!
    sleep 12
    pkill -9 -P $other || true
    sleep 8
    eos run "$server" "$name" $protocol "$work/state-b" >> "$work/$name-b.log" 2>&1 &
    processes+=($!)
    wait $load
    check "Kafka Streams, exactly once, $protocol protocol, one of two instances killed" "exactly once:" eos verify "$server" "$name"
    for process in "${processes[@]}"; do pkill -P "$process" 2> /dev/null || true; done
  done
fi

# until_found SECONDS PATTERN FILE: waits until the pattern is in the file.
until_found() {
  local until=$((SECONDS + $1))
  until grep -q -- "$2" "$3" 2> /dev/null; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.5
  done
}

# RelationalSmokeTest as Kafka's own system test runs it: each process is an application of its own, and all write the same. While the driver still
# produces, the first is killed with -9 and the second ended; a third, started between, has to catch up.
relational() {
  local protocol=$1 id apps=() logs=$work/relational-$protocol
  for topic in in-article:3 in-comment:5 out-augmented-article:3 out-augmented-comment:5; do create ${topic%:*} ${topic#*:} > /dev/null; done
  mkdir -p "$logs"
  application() {
    LOG=info tool org.apache.kafka.streams.tests.RelationalSmokeTest application "$server" processor$1 exactly_once_v2 $protocol "$work/state-relational-$protocol-$1" > "$logs/processor$1.log" 2>&1 &
    apps[$1]=$!
    processes+=($!)
  }
  started() { until_found 90 "Streams has started" "$logs/processor$1.log"; }
  application 1
  application 2
  if started 1 && started 2; then
    LOG=info tool org.apache.kafka.streams.tests.RelationalSmokeTest driver "$server" > "$logs/driver.log" 2>&1 &
    local driver=$!
    processes+=($driver)
    sleep 20
    pkill -9 -P ${apps[1]} || true
    application 3
    if started 3; then pkill -P ${apps[2]} || true; fi
    until_found 240 "Smoke test complete" "$logs/driver.log" || true
    pkill -P $driver || true
  fi
  for id in "${!apps[@]}"; do pkill -P ${apps[id]} || true; done
  if grep -q "Smoke test complete: passed" "$logs/driver.log" && started 3; then say "RelationalSmokeTest, exactly once, $protocol protocol"; else say "RelationalSmokeTest, exactly once, $protocol protocol" "$(tail -qn 10 "$logs"/*.log | cut -c1-300)"; fi
}

if wants smoke; then
  for protocol in classic streams; do
    name="StreamsSmokeTest, exactly once, $protocol protocol"
    for attempt in 1 2 3; do
      # They have their own names of topics and of the application: each run gets a broker with nothing in it.
      stop
      data=$work/data-$protocol-$attempt
      start
      for topic in data echo max min min-suppressed min-raw sum sws-raw sws-suppressed dif cnt avg wcnt tagg fk; do create $topic 5 > /dev/null; done
      printf 'bootstrap.servers=%s\nstate.dir=%s\nprocessing.guarantee=exactly_once_v2\ngroup.protocol=%s\nreplication.factor=1\nacks=all\n' "$server" "$work/smoke-$protocol-$attempt" $protocol > "$work/smoke-$protocol.properties"
      tool org.apache.kafka.streams.tests.StreamsSmokeTest "$work/smoke-$protocol.properties" process > "$work/smoke-process-$protocol-$attempt.log" 2>&1 &
      process=$!
      processes+=($process)
      out=$(JAVA_OPTS="-Xmx1g" timeout 600 bash "$here/benches/peers/kafka.sh" tool org.apache.kafka.streams.tests.StreamsSmokeTest "$work/smoke-$protocol.properties" run 2>&1) || true
      pkill -P $process || true
      wait $process || true
      if grep -q "SUCCESS" <<< "$out" && ! grep -q "FAILURE" <<< "$out"; then
        say "$name"
      elif [ $attempt -lt 3 ] && raced=$(grep -o "Offset for partition .* is larger than topic endOffset: .*" <<< "$out"); then
        # The test's own race, see docs/reference/kafka-tools.md: nothing is verified by then, so all of it is done again.
        echo "again   $name: $raced, which is the test's own race"
        continue
      else
        say "$name" "$(tail -25 <<< "$out")"
      fi
      break
    done
    relational $protocol
    for topic in brokerCompatibilitySourceTopic brokerCompatibilitySinkTopic; do create $topic 1 > /dev/null; done
    check "BrokerCompatibilityTest, $protocol protocol" "close Kafka Streams" timeout 120 bash "$here/benches/peers/kafka.sh" tool org.apache.kafka.streams.tests.BrokerCompatibilityTest "$work/smoke-$protocol.properties" exactly_once_v2
  done
fi

# dump WANTED OPTIONS...: DumpLogSegments over the files named on standard input, fifty in a JVM. What it prints of each must contain WANTED and
# nothing that complains.
dump() {
  local wanted=$1 files out bad
  shift
  while mapfile -t -n 50 files && [ ${#files[@]} -gt 0 ]; do
    out=$(tool $kafka.DumpLogSegments --files "$(IFS=,; echo "${files[*]}")" "$@" 2>&1) || out+=$'\nFAILED'
    bad=$(awk -v wanted="$wanted" '
      function close_file() { if (file != "" && wanted != "" && !found) print "no \"" wanted "\" in " file; file = ""; found = 0 }
      /^Dumping / { close_file(); file = $2; next }
      { if (wanted != "" && index($0, wanted)) found = 1 }
      /isvalid: false|[Ee]xception|^FAILED|[Uu]nknown|Found (mismatch|timestamp mismatch|out of order|index position)/ { print file ": " $0 }
      END { close_file() }' <<< "$out")
    if [ -n "$bad" ] || [ "$(grep -c '^Dumping ' <<< "$out")" -ne ${#files[@]} ]; then say "DumpLogSegments $*" "${bad:-$out}"; fi
    dumped=$((dumped + ${#files[@]}))
  done
}

if wants files; then
  # The files of a broker that was stopped cleanly.
  stop
  dumped=0
  files() { find "$work"/data* -type f -size +0 ! -path '*__cluster*' "$@" | sort; }
  dump "isvalid: true" --deep-iteration < <(files -name '*.log' ! -path '*/__consumer_offsets-*' ! -path '*/__transaction_state-*')
  dump "isvalid: true" --deep-iteration --offsets-decoder < <(files -name '*.log' -path '*/__consumer_offsets-*')
  dump "isvalid: true" --deep-iteration --transaction-log-decoder < <(files -name '*.log' -path '*/__transaction_state-*')
  dump "" --verify-index-only < <(files '(' -name '*.index' -o -name '*.timeindex' -o -name '*.txnindex' ')')
  dump "" < <(files -name '*.snapshot')
  echo "        $dumped files dumped"
  [ $dumped -gt 0 ] || say "DumpLogSegments" "there were no files"
fi

[ $failed -eq 0 ] || { echo "$failed failed"; exit 1; }
echo "Apache Kafka's tools, clients and Streams find nothing wrong"
