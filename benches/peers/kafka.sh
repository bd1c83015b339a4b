#!/usr/bin/env bash
# A real Apache Kafka (KRaft, one node) and its tools, from Maven Central, on loopback. Needs Java 17 and mvn.
#
#   kafka.sh start [PORT]        start a broker (default 19092), data under $PEERS_DIR/kraft-PORT; waits until it answers
#   kafka.sh stop  [PORT]        stop the broker that start started
#   kafka.sh tool CLASS ARGS...  run a class of the Kafka jars, e.g. org.apache.kafka.tools.ProducerPerformance
#   kafka.sh bench ARGS...       run PeerBench (Kafka Streams workloads), see README.md
#   kafka.sh eos ARGS...         run EosCheck (an exactly-once application and the check of its output), see its head
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${PEERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/brooklet-peers}
mkdir -p "$dir"
if ! [ -d "$dir/lib" ] || ! cmp -s "$here/pom.xml" "$dir/pom.xml"; then
  cp "$here/pom.xml" "$dir/pom.xml"; rm -rf "${dir:?}/lib"
  (cd "$dir" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib >&2)
fi
for program in PeerBench EosCheck; do
  if [ "$here/$program.java" -nt "$dir/classes/$program.class" ]; then
    mkdir -p "$dir/classes" && javac -cp "$dir/lib/*" -d "$dir/classes" "$here/$program.java"
  fi
done
# shellcheck disable=SC2086 # JAVA_OPTS is a list
run_java() { local exec=; [ "$1" != exec ] || { exec=exec; shift; }; $exec java ${JAVA_OPTS:--Xms1g -Xmx3g} -Dorg.slf4j.simpleLogger.defaultLogLevel="${LOG:-error}" -cp "$dir/classes:$dir/lib/*" "$@"; }

case "${1:-}" in
  start)
    port=${2:-19092}; data="$dir/kraft-$port"; mkdir -p "$data"
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "something listens on 127.0.0.1:$port already" >&2; exit 1; fi
    cat > "$data/server.properties" <<PROPS
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$data/logs
num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
PROPS
    [ -d "$data/logs" ] || run_java kafka.tools.StorageTool format -t "$(run_java kafka.tools.StorageTool random-uuid | tail -1)" -c "$data/server.properties" > "$data/format.log" 2>&1
    JAVA_OPTS="${BROKER_JAVA_OPTS:--Xms2g -Xmx2g}" LOG=warn
    # shellcheck disable=SC2086
    nohup java $JAVA_OPTS -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$dir/lib/*" kafka.Kafka "$data/server.properties" > "$data/broker.log" 2>&1 &
    echo $! > "$data/pid"
    for _ in $(seq 120); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && { echo "Apache Kafka on 127.0.0.1:$port"; exit 0; }; sleep 0.5; done
    echo "the broker did not answer; see $data/broker.log" >&2; exit 1 ;;
  stop) port=${2:-19092}; kill "$(cat "$dir/kraft-$port/pid")" ;;
  # In the place of this shell, so that who kills it kills the program.
  tool) shift; run_java exec "$@" ;;
  bench) shift; run_java exec PeerBench "$@" ;;
  eos) shift; run_java exec EosCheck "$@" ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
