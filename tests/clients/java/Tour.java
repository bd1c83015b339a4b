import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

/** The tour by Apache Kafka's own client: `Tour BOOTSTRAP` prints a line a step (see ../README.md). */
public class Tour {
    interface Step { void run() throws Exception; }

    static final Duration DEADLINE = Duration.ofSeconds(60), POLL = Duration.ofMillis(200);
    static final String NAME = "tour-java-" + UUID.randomUUID().toString().substring(0, 8);
    static final String RECORDS = NAME + ".records", SHARED = NAME + ".shared", INPUT = NAME + ".input", OUTPUT = NAME + ".output", TIMED = NAME + ".timed";
    static final String GROUP = NAME + ".group", COPIERS = NAME + ".copiers";
    static String server;
    static Admin admin;
    static final List<Consumer<String, String>> members = new ArrayList<>();

    static void check(String what, Object got, Object want) {
        if (!Objects.equals(got, want)) throw new AssertionError(what + ": got " + got + ", want " + want);
    }

    static void until(String what, java.util.concurrent.Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + DEADLINE.toNanos();
        while (!condition.call()) if (System.nanoTime() > end) throw new AssertionError("not within " + DEADLINE + ": " + what);
    }

    static Producer<String, String> producer(String... settings) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", server, "linger.ms", "20"));
        for (int at = 0; at < settings.length; at += 2) config.put(settings[at], settings[at + 1]);
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    static Consumer<String, String> consumer(String... settings) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", server, "auto.offset.reset", "earliest", "enable.auto.commit", "false"));
        for (int at = 0; at < settings.length; at += 2) config.put(settings[at], settings[at + 1]);
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    static Consumer<String, String> member(String group, String topic) {
        Consumer<String, String> member = consumer("group.id", group);
        member.subscribe(List.of(topic));
        return member;
    }

    /** Writes records in order and answers the offset of the first. */
    static long write(String topic, int partition, List<String> values, String... settings) throws Exception {
        try (Producer<String, String> producer = producer(settings)) {
            List<java.util.concurrent.Future<RecordMetadata>> sent = new ArrayList<>();
            for (String value : values) sent.add(producer.send(new ProducerRecord<>(topic, partition, "k", value)));
            producer.flush();
            for (var one : sent) one.get();
            return sent.get(0).get().offset();
        }
    }

    /** The records of partition 0 from the offset to the end; there must be `count`. */
    static List<ConsumerRecord<String, String>> read(String topic, int count, long offset, String isolation) throws Exception {
        TopicPartition place = new TopicPartition(topic, 0);
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        try (Consumer<String, String> consumer = consumer("isolation.level", isolation)) {
            consumer.assign(List.of(place));
            consumer.seek(place, offset);
            long end = consumer.endOffsets(List.of(place)).get(place);
            until("the end of " + topic, () -> {
                consumer.poll(POLL).forEach(found::add);
                return consumer.position(place) >= end;
            });
        }
        check("records", found.size(), count);
        return found;
    }

    static List<String> values(List<ConsumerRecord<String, String>> records) {
        return records.stream().map(ConsumerRecord::value).toList();
    }

    static void createTopics() throws Exception {
        List<NewTopic> topics = Stream.of(RECORDS, SHARED, INPUT, OUTPUT, TIMED).map(topic -> new NewTopic(topic, topic.equals(SHARED) ? 4 : 1, (short) 1)).toList();
        admin.createTopics(topics).all().get();
        Map<String, TopicDescription> found = admin.describeTopics(List.of(RECORDS, SHARED)).allTopicNames().get();
        check("partitions", List.of(found.get(RECORDS).partitions().size(), found.get(SHARED).partitions().size()), List.of(1, 4));
        try {
            admin.createTopics(topics.subList(0, 1)).all().get();
        } catch (ExecutionException error) {
            if (error.getCause() instanceof TopicExistsException) return;
            throw error;
        }
        throw new AssertionError("a topic was created twice");
    }

    static void codec(String name) throws Exception {
        List<String> values = IntStream.range(0, 100).mapToObj(n -> (name + " " + n + " ").repeat(50)).toList();
        long first = write(RECORDS, 0, values, "compression.type", name);
        check("values", values(read(RECORDS, 100, first, "read_uncommitted")), values);
    }

    static void headers() throws Exception {
        List<org.apache.kafka.common.header.Header> wanted = List.of(new RecordHeader("a", "1".getBytes(StandardCharsets.UTF_8)), new RecordHeader("empty", new byte[0]),
            new RecordHeader("null", null), new RecordHeader("a", new byte[] {0, -1}));
        long offset;
        try (Producer<String, String> producer = producer()) {
            offset = producer.send(new ProducerRecord<>(RECORDS, 0, "k", "v", wanted)).get().offset();
        }
        check("headers", List.of(read(RECORDS, 1, offset, "read_uncommitted").get(0).headers().toArray()), wanted);
    }

    static void groupOfTwo() throws Exception {
        for (int partition = 0; partition < 4; partition++) {
            int of = partition;
            write(SHARED, partition, IntStream.range(0, 10).mapToObj(n -> of + " " + n).toList());
        }
        Set<String> found = new HashSet<>();
        for (int n = 0; n < 2; n++) members.add(member(GROUP, SHARED));
        until("two partitions a member and 40 records", () -> {
            for (var member : members) member.poll(POLL).forEach(record -> found.add(record.value()));
            return found.size() == 40 && members.stream().allMatch(member -> member.assignment().size() == 2);
        });
        check("partitions", members.stream().flatMap(member -> member.assignment().stream()).collect(Collectors.toSet()).size(), 4);
    }

    static void describeGroup() throws Exception {
        ConsumerGroupDescription group = admin.describeConsumerGroups(List.of(GROUP)).all().get().get(GROUP);
        check("state and members", group.groupState() + " " + group.members().size(), "Stable 2");
    }

    static void commitAndResume() throws Exception {
        check("members", members.size(), 2);
        for (var member : members) {
            member.commitSync(member.assignment().stream().collect(Collectors.toMap(place -> place, place -> new OffsetAndMetadata(10, "read"))));
        }
        members.forEach(Consumer::close);
        members.clear();
        for (int partition = 0; partition < 4; partition++) write(SHARED, partition, List.of(partition + " more"));
        List<String> found = new ArrayList<>();
        try (Consumer<String, String> member = member(GROUP, SHARED)) {
            until("4 records after the committed ones", () -> {
                member.poll(POLL).forEach(record -> found.add(record.value()));
                return found.size() >= 4;
            });
            TopicPartition place = new TopicPartition(SHARED, 0);
            check("metadata", member.committed(Set.of(place)).get(place).metadata(), "read");
        }
        Collections.sort(found);
        check("records", found, List.of("0 more", "1 more", "2 more", "3 more"));
    }

    static void transactions() throws Exception {
        try (Producer<String, String> producer = producer("transactional.id", NAME + ".a")) {
            producer.initTransactions();
            for (String letter : List.of("c", "a")) {
                producer.beginTransaction();
                for (int n = 0; n < 3; n++) producer.send(new ProducerRecord<>(OUTPUT, 0, "k", letter + n)).get();
                if (letter.equals("c")) producer.commitTransaction(); else producer.abortTransaction();
            }
        }
    }

    static void readUncommitted() throws Exception {
        check("values", values(read(OUTPUT, 6, 0, "read_uncommitted")), List.of("c0", "c1", "c2", "a0", "a1", "a2"));
    }

    static void readCommitted() throws Exception {
        check("values", values(read(OUTPUT, 3, 0, "read_committed")), List.of("c0", "c1", "c2"));
    }

    static void offsetsInATransaction() throws Exception {
        write(INPUT, 0, List.of("0", "1", "2", "3"));
        TopicPartition place = new TopicPartition(INPUT, 0);
        List<String> found = new ArrayList<>();
        try (Consumer<String, String> consumer = member(COPIERS, INPUT); Producer<String, String> producer = producer("transactional.id", NAME + ".b")) {
            until("4 records of the input", () -> {
                consumer.poll(POLL).forEach(record -> found.add(record.value()));
                return found.size() == 4;
            });
            producer.initTransactions();
            for (long offset : List.of(2L, 4L)) {
                producer.beginTransaction();
                producer.send(new ProducerRecord<>(OUTPUT, 0, "k", "copied"));
                producer.sendOffsetsToTransaction(Map.of(place, new OffsetAndMetadata(offset)), consumer.groupMetadata());
                if (offset == 2) producer.commitTransaction(); else producer.abortTransaction();
                // The consumer asks for the stable offset: it waits for the markers.
                check("the group's offset", consumer.committed(Set.of(place)).get(place).offset(), 2L);
            }
        }
    }

    static long offset(OffsetSpec spec) throws Exception {
        TopicPartition place = new TopicPartition(TIMED, 0);
        return admin.listOffsets(Map.of(place, spec)).partitionResult(place).get().offset();
    }

    static void offsetsByTime() throws Exception {
        long base = System.currentTimeMillis() - 100_000;
        try (Producer<String, String> producer = producer()) {
            for (int n = 0; n < 5; n++) producer.send(new ProducerRecord<>(TIMED, 0, base + n * 1000, "k", String.valueOf(n))).get();
        }
        TopicPartition place = new TopicPartition(TIMED, 0);
        try (Consumer<String, String> consumer = consumer()) {
            OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(place, base + 2500)).get(place);
            check("offset and time", List.of(found.offset(), found.timestamp()), List.of(3L, base + 3000));
            check("after the last", consumer.offsetsForTimes(Map.of(place, base + 9000)).get(place), null);
        }
        check("first, end and latest", List.of(offset(OffsetSpec.earliest()), offset(OffsetSpec.latest()), offset(OffsetSpec.maxTimestamp())), List.of(0L, 5L, 4L));
    }

    static String topicConfig(String key) throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TIMED);
        return admin.describeConfigs(List.of(topic)).all().get().get(topic).get(key).value();
    }

    static void describeConfig() throws Exception {
        check("cleanup.policy", topicConfig("cleanup.policy"), "delete");
    }

    static void alterConfig() throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TIMED);
        admin.incrementalAlterConfigs(Map.of(topic, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "86400000"), AlterConfigOp.OpType.SET)))).all().get();
        check("retention.ms", topicConfig("retention.ms"), "86400000");
    }

    static Set<String> listed() throws Exception {
        return admin.listGroups().all().get().stream().map(GroupListing::groupId).collect(Collectors.toSet());
    }

    static void listGroups() throws Exception {
        check("groups", listed().containsAll(List.of(GROUP, COPIERS)), true);
    }

    static void deleteGroup() throws Exception {
        admin.deleteConsumerGroups(List.of(GROUP)).all().get();
        check("still there", listed().contains(GROUP), false);
    }

    static void deleteRecords() throws Exception {
        admin.deleteRecords(Map.of(new TopicPartition(TIMED, 0), RecordsToDelete.beforeOffset(2))).all().get();
        check("first", offset(OffsetSpec.earliest()), 2L);
        check("first record", read(TIMED, 3, 2, "read_uncommitted").get(0).offset(), 2L);
    }

    static void deleteTopics() throws Exception {
        List<String> mine = List.of(RECORDS, SHARED, INPUT, OUTPUT, TIMED);
        admin.deleteTopics(mine).all().get();
        until("the topics are gone", () -> Collections.disjoint(admin.listTopics().names().get(), mine));
    }

    public static void main(String[] arguments) {
        server = arguments[0];
        admin = Admin.create(Map.of("bootstrap.servers", server));
        Map<String, Step> steps = new LinkedHashMap<>();
        steps.put("create topics", Tour::createTopics);
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) steps.put("codec " + codec, () -> codec(codec));
        steps.put("headers", Tour::headers);
        steps.put("group of two members", Tour::groupOfTwo);
        steps.put("describe group", Tour::describeGroup);
        steps.put("commit and resume", Tour::commitAndResume);
        steps.put("transactions, one committed, one aborted", Tour::transactions);
        steps.put("read uncommitted", Tour::readUncommitted);
        steps.put("read committed", Tour::readCommitted);
        steps.put("offsets in a transaction", Tour::offsetsInATransaction);
        steps.put("offsets by time", Tour::offsetsByTime);
        steps.put("describe config", Tour::describeConfig);
        steps.put("alter config", Tour::alterConfig);
        steps.put("list groups", Tour::listGroups);
        steps.put("delete group", Tour::deleteGroup);
        steps.put("delete records", Tour::deleteRecords);
        steps.put("delete topics", Tour::deleteTopics);
        int failed = 0;
        for (var step : steps.entrySet()) {
            try {
                step.getValue().run();
                System.out.println("ok " + step.getKey());
            } catch (Exception | AssertionError error) {
                failed++;
                System.out.println(("FAILED " + step.getKey() + ": " + error).replace('\n', ' '));
            }
        }
        admin.close();
        System.exit(failed > 0 ? 1 : 0);
    }
}
