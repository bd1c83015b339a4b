import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.*;

/**
 * A Kafka Streams application, exactly once, whose instances may be killed at any moment, and the check of what it wrote.
 *
 *   EosCheck create BOOTSTRAP NAME                 creates the topics of NAME
 *   EosCheck load BOOTSTRAP NAME RECORDS RATE      writes numbered records, so many a second
 *   EosCheck run BOOTSTRAP NAME PROTOCOL DIR       one instance (classic or streams), until it is killed
 *   EosCheck verify BOOTSTRAP NAME                 waits until all input is committed; output read committed must have every record once
 *   EosCheck open BOOTSTRAP TOPIC ID               begins a transaction, writes one record to partition 0, and is gone
 *   EosCheck stable BOOTSTRAP TOPIC                where partition 0 ends for a read-committed reader
 *   EosCheck copies BOOTSTRAP INPUT OUTPUT         what a read-committed reader finds in OUTPUT must be INPUT exactly, in order, by partition
 */
public class EosCheck {
  static final int PARTITIONS = 4, KEYS = 100;

  public static void main(String[] a) throws Exception {
    String bootstrap = a[1], name = a[2];
    switch (a[0]) {
      case "create": create(bootstrap, name); break;
      case "load": load(bootstrap, name, Integer.parseInt(a[3]), Integer.parseInt(a[4])); break;
      case "run": run(bootstrap, name, a[3], a[4]); break;
      case "verify": verify(bootstrap, name); break;
      case "open": open(bootstrap, name, a[3]); break;
      case "stable": stable(bootstrap, name); break;
      case "copies": copies(bootstrap, name, a[3]); break;
      default: throw new IllegalArgumentException(a[0]);
    }
    System.exit(0);
  }

  static void create(String bootstrap, String name) throws Exception {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
      admin.createTopics(List.of(new NewTopic(name + "-in", PARTITIONS, (short) 1), new NewTopic(name + "-out", PARTITIONS, (short) 1), new NewTopic(name + "-counts", PARTITIONS, (short) 1))).all().get();
    }
  }

  static void load(String bootstrap, String name, int records, int rate) throws Exception {
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap, "delivery.timeout.ms", "300000"), new StringSerializer(), new StringSerializer())) {
      long begin = System.nanoTime();
      for (int i = 0; i < records; i++) {
        producer.send(new ProducerRecord<>(name + "-in", i % PARTITIONS, "key " + i % KEYS, Integer.toString(i)), (m, e) -> { if (e != null) { e.printStackTrace(); System.exit(1); } });
        long ahead = begin + (long) (i * 1e9 / rate) - System.nanoTime();
        if (ahead > 1_000_000) Thread.sleep(ahead / 1_000_000);
      }
    }
  }

  static void open(String bootstrap, String topic, String id) throws Exception {
    KafkaProducer<String, String> producer = new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap, "transactional.id", id, "transaction.timeout.ms", "900000"), new StringSerializer(), new StringSerializer());
    producer.initTransactions();
    producer.beginTransaction();
    System.out.println("open from offset " + producer.send(new ProducerRecord<>(topic, 0, "key", "never committed")).get().offset());
    // Not closed: that would abort it.
  }

  static void stable(String bootstrap, String topic) throws Exception {
    TopicPartition first = new TopicPartition(topic, 0);
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
      var ends = admin.listOffsets(Map.of(first, OffsetSpec.latest()), new ListOffsetsOptions(IsolationLevel.READ_COMMITTED));
      System.out.println("ends at " + ends.partitionResult(first).get().offset());
    }
  }

  static void run(String bootstrap, String name, String protocol, String dir) throws Exception {
    StreamsBuilder builder = new StreamsBuilder();
    KStream<String, String> in = builder.stream(name + "-in", Consumed.with(Serdes.String(), Serdes.String()));
    in.to(name + "-out", Produced.with(Serdes.String(), Serdes.String()));
    // Through a repartition topic, a store and its changelog.
    in.groupBy((k, v) -> "again " + k, Grouped.with(Serdes.String(), Serdes.String())).count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("counts").withCachingDisabled())
      .toStream().to(name + "-counts", Produced.with(Serdes.String(), Serdes.Long()));
    Properties c = new Properties();
    c.put("application.id", name); c.put("bootstrap.servers", bootstrap); c.put("processing.guarantee", "exactly_once_v2"); c.put("state.dir", dir);
    c.put("replication.factor", 1); c.put("group.protocol", protocol); c.put("consumer.auto.offset.reset", "earliest"); c.put("producer.transaction.timeout.ms", 10000);
    if (protocol.equals("classic")) c.put("consumer.session.timeout.ms", 6000);
    KafkaStreams streams = new KafkaStreams(builder.build(), c);
    streams.setUncaughtExceptionHandler(e -> { e.printStackTrace(); return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.REPLACE_THREAD; });
    streams.start();
    while (true) Thread.sleep(1000);
  }

  static List<TopicPartition> partitions(Consumer<?, ?> consumer, String topic) {
    List<TopicPartition> all = new ArrayList<>(); for (var p : consumer.partitionsFor(topic)) all.add(new TopicPartition(topic, p.partition())); return all;
  }

  /** All that a read-committed reader finds, by partition. */
  static Map<Integer, List<ConsumerRecord<String, byte[]>>> read(String bootstrap, String topic) {
    Map<Integer, List<ConsumerRecord<String, byte[]>>> found = new TreeMap<>();
    try (KafkaConsumer<String, byte[]> consumer = new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrap, "isolation.level", "read_committed", "auto.offset.reset", "earliest"), new StringDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> all = partitions(consumer, topic); consumer.assign(all); consumer.seekToBeginning(all);
      Map<TopicPartition, Long> ends = consumer.endOffsets(all);
      while (!all.stream().allMatch(p -> consumer.position(p) >= ends.get(p))) for (var r : consumer.poll(Duration.ofMillis(200))) found.computeIfAbsent(r.partition(), p -> new ArrayList<>()).add(r);
    }
    return found;
  }

  static String text(ConsumerRecord<String, byte[]> r) { return new String(r.value()); }

  static void verify(String bootstrap, String name) throws Exception {
    long deadline = System.nanoTime() + 180_000_000_000L;
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
      while (true) {
        Map<TopicPartition, OffsetSpec> ask = new HashMap<>(); for (String t : List.of(name + "-in", name + "-counts-repartition")) for (int p = 0; p < PARTITIONS; p++) ask.put(new TopicPartition(t.equals(name + "-in") ? t : name + "-counts-repartition", p), OffsetSpec.latest());
        long left = 0;
        try {
          var ends = admin.listOffsets(ask, new ListOffsetsOptions(IsolationLevel.READ_COMMITTED)).all().get();
          var committed = admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get();
          // A partition may end with a marker, which no offset is committed behind.
          for (var e : ends.entrySet()) { var c = committed.get(e.getKey()); long missing = e.getValue().offset() - (c == null ? 0 : c.offset()); if (missing > 1) left += missing; }
        } catch (ExecutionException e) { left = -1; }
        if (left == 0) break;
        if (System.nanoTime() > deadline) { System.out.println("FAILED: still " + left + " records to be processed"); System.exit(1); }
        Thread.sleep(500);
      }
    }
    copies(bootstrap, name + "-in", name + "-out");
    // Every key's count goes up by one, each number once.
    Map<String, Long> counts = new HashMap<>(); long records = 0;
    for (var list : read(bootstrap, name + "-counts").values()) for (var r : list) {
      long count = new LongDeserializer().deserialize("", r.value()), before = counts.getOrDefault(r.key(), 0L); records++;
      if (count != before + 1) { System.out.println("FAILED: count of " + r.key() + " went from " + before + " to " + count); System.exit(1); }
      counts.put(r.key(), count);
    }
    long inputs = read(bootstrap, name + "-in").values().stream().mapToLong(List::size).sum();
    if (records != inputs) { System.out.println("FAILED: " + records + " counts of " + inputs + " records"); System.exit(1); }
    System.out.println("exactly once: " + inputs + " records, " + records + " counts");
  }

  static void copies(String bootstrap, String input, String output) {
    var in = read(bootstrap, input); var out = read(bootstrap, output); long records = 0;
    for (int p : in.keySet()) {
      // A partitioner may spread them otherwise: then all of one input must be in one order over the output's partitions.
      List<String> want = in.get(p).stream().map(EosCheck::text).toList();
      Set<String> wanted = new HashSet<>(want); List<String> got = new ArrayList<>();
      for (var list : out.values()) for (var r : list) if (wanted.contains(text(r))) got.add(text(r));
      if (!(in.size() == 1 || out.size() == in.size()) || got.size() != want.size() || !new HashSet<>(got).equals(wanted)) { System.out.println("FAILED: " + output + " has " + got.size() + " of the " + want.size() + " records of " + input + "-" + p); System.exit(1); }
      Map<String, Integer> at = new HashMap<>(); for (int i = 0; i < want.size(); i++) at.put(want.get(i), i);
      for (var list : out.values()) { int last = -1; for (var r : list) { Integer i = at.get(text(r)); if (i == null) continue; if (i <= last) { System.out.println("FAILED: " + output + "-" + r.partition() + " at " + r.offset() + " is out of order"); System.exit(1); } last = i; } }
      records += want.size();
    }
    System.out.println(output + " is " + input + " exactly: " + records + " records");
  }
}
