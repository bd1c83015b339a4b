"""The tour by kafka-python, pure Python: `tour.py BOOTSTRAP` prints a line a step (see ../README.md)."""

import sys
import time
import uuid

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

SERVER = sys.argv[1]
NAME = "tour-python-" + uuid.uuid4().hex[:8]
RECORDS, SHARED, INPUT, OUTPUT, TIMED = (f"{NAME}.{part}" for part in ("records", "shared", "input", "output", "timed"))
GROUP, COPIERS = f"{NAME}.group", f"{NAME}.copiers"
DEADLINE_SECONDS = 60
admin = KafkaAdminClient(bootstrap_servers=SERVER)
members = []


def check(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def until(what, condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}")


def write(topic, values, partition=0, **settings):
    """Writes records in order and answers the offset of the first."""
    producer = KafkaProducer(bootstrap_servers=SERVER, acks="all", linger_ms=20, **settings)
    sent = [producer.send(topic, value, key=b"k", partition=partition) for value in values]
    producer.flush()
    first = sent[0].get(DEADLINE_SECONDS).offset
    producer.close()
    return first


def read(topic, count, offset=0, isolation="read_uncommitted"):
    """`count` records of partition 0 from `offset`, and whatever else is there with them."""
    place, found = TopicPartition(topic, 0), []
    consumer = KafkaConsumer(bootstrap_servers=SERVER, isolation_level=isolation, auto_offset_reset="earliest")
    consumer.assign([place])
    consumer.seek(place, offset)
    end = consumer.end_offsets([place])[place]

    def done():
        for batch in consumer.poll(200).values():
            found.extend(batch)
        return consumer.position(place) >= end

    until(f"{count} records of {topic}, found {len(found)}", done)
    consumer.close()
    check("records", len(found), count)
    return found


def join(group, topic):
    """A member of the group. It knows the topic before it subscribes: a leader that learns of it while it assigns (kafka-python 3.0.12)
    hands out nothing and takes the new metadata for what it has assigned by, on Apache Kafka too."""
    member = KafkaConsumer(bootstrap_servers=SERVER, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False)
    member.partitions_for_topic(topic)
    member.subscribe([topic])
    return member


def create_topics():
    topics = [NewTopic(name, 4 if name == SHARED else 1, 1) for name in (RECORDS, SHARED, INPUT, OUTPUT, TIMED)]
    admin.create_topics(topics)
    found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics([RECORDS, SHARED])}
    check("partitions", found, {RECORDS: 1, SHARED: 4})
    try:
        admin.create_topics(topics[:1])
    except TopicAlreadyExistsError:
        return
    raise AssertionError("a topic was created twice")


def codec(name):
    values = [f"{name} {n} ".encode() * 50 for n in range(100)]
    first = write(RECORDS, values, compression_type=None if name == "none" else name)
    check("values", [record.value for record in read(RECORDS, 100, first)], values)


def headers():
    producer = KafkaProducer(bootstrap_servers=SERVER)
    wanted = [("a", b"1"), ("empty", b""), ("a", b"\x00\xff")]
    offset = producer.send(RECORDS, b"v", headers=wanted, partition=0).get(DEADLINE_SECONDS).offset
    producer.close()
    check("headers", [(key, value) for key, value in read(RECORDS, 1, offset)[0].headers], wanted)


def group_of_two():
    for partition in range(4):
        write(SHARED, [f"{partition} {n}".encode() for n in range(10)], partition)
    found = set()
    for _ in range(2):
        members.append(join(GROUP, SHARED))

    def shared():
        for member in members:
            for batch in member.poll(100).values():
                found.update(record.value for record in batch)
        return len(found) == 40 and [len(member.assignment()) for member in members] == [2, 2]

    until("two partitions a member and 40 records", shared)
    check("partitions", {place.partition for member in members for place in member.assignment()}, {0, 1, 2, 3})


def describe_group():
    group = admin.describe_groups([GROUP])[GROUP]
    check("state", group["group_state"], "Stable")
    check("members", len(group["members"]), 2)


def commit_and_resume():
    for member in members:
        member.commit({place: OffsetAndMetadata(10, "read", -1) for place in member.assignment()})
        member.close()
    members.clear()
    for partition in range(4):
        write(SHARED, [f"{partition} more".encode()], partition)
    found = []
    member = join(GROUP, SHARED)

    def resumed():
        for batch in member.poll(200).values():
            found.extend(record.value for record in batch)
        return len(found) >= 4

    until("4 records after the committed ones", resumed)
    check("records", sorted(found), [f"{partition} more".encode() for partition in range(4)])
    check("metadata", member.committed(TopicPartition(SHARED, 0), metadata=True).metadata, "read")
    member.close()


def transaction():
    producer = KafkaProducer(bootstrap_servers=SERVER, transactional_id=f"{NAME}.a")
    producer.init_transactions()
    for end, values in ((producer.commit_transaction, (b"c0", b"c1", b"c2")), (producer.abort_transaction, (b"a0", b"a1", b"a2"))):
        producer.begin_transaction()
        for value in values:
            producer.send(OUTPUT, value, partition=0)
        producer.flush()
        end()
    producer.close()


def read_uncommitted():
    check("values", [record.value for record in read(OUTPUT, 6)], [b"c0", b"c1", b"c2", b"a0", b"a1", b"a2"])


def read_committed():
    check("values", [record.value for record in read(OUTPUT, 3, isolation="read_committed")], [b"c0", b"c1", b"c2"])


def offsets_in_a_transaction():
    write(INPUT, [b"0", b"1", b"2", b"3"])
    place = TopicPartition(INPUT, 0)
    consumer = join(COPIERS, INPUT)
    found = []

    def assigned():
        for batch in consumer.poll(200).values():
            found.extend(batch)
        return len(found) == 4

    until("4 records of the input", assigned)
    producer = KafkaProducer(bootstrap_servers=SERVER, transactional_id=f"{NAME}.b")
    producer.init_transactions()
    for end, offset in ((producer.commit_transaction, 2), (producer.abort_transaction, 4)):
        producer.begin_transaction()
        producer.send(OUTPUT, b"copied", partition=0)
        producer.send_offsets_to_transaction({place: OffsetAndMetadata(offset, "", -1)}, consumer.group_metadata())
        end()
        # A commit is answered before its markers are written.
        until("the group's offset is 2", lambda: place in (found := admin.list_group_offsets([COPIERS])[COPIERS]) and found[place].offset == 2)
    producer.close()
    consumer.close()


def offsets_by_time():
    base = int(time.time() * 1000) - 100_000
    producer = KafkaProducer(bootstrap_servers=SERVER)
    for n in range(5):
        producer.send(TIMED, str(n).encode(), partition=0, timestamp_ms=base + n * 1000).get(DEADLINE_SECONDS)
    producer.close()
    place = TopicPartition(TIMED, 0)
    consumer = KafkaConsumer(bootstrap_servers=SERVER)
    found = consumer.offsets_for_times({place: base + 2500})[place]
    check("offset and time", (found.offset, found.timestamp), (3, base + 3000))
    check("after the last", consumer.offsets_for_times({place: base + 9000})[place], None)
    check("first and end", (consumer.beginning_offsets([place])[place], consumer.end_offsets([place])[place]), (0, 5))
    consumer.close()


def topic_config(key):
    resource = ConfigResource(ConfigResourceType.TOPIC, TIMED)
    return admin.describe_configs([resource], config_filter="all")["topic"][TIMED][key]["value"]


def describe_config():
    check("cleanup.policy", topic_config("cleanup.policy"), "delete")


def alter_config():
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TIMED, {"retention.ms": "86400000"})])
    check("retention.ms", topic_config("retention.ms"), "86400000")


def list_groups():
    found = {group["group_id"] for group in admin.list_groups()}
    check("groups", {GROUP, COPIERS} - found, set())


def delete_group():
    result = admin.delete_groups([GROUP])
    check("result", {str(key): str(value) for key, value in result.items()}, {GROUP: "OK"})
    check("still there", GROUP in {group["group_id"] for group in admin.list_groups()}, False)


def delete_records():
    admin.delete_records({TopicPartition(TIMED, 0): 2})
    check("offsets", [record.offset for record in read(TIMED, 3, 2)], [2, 3, 4])
    consumer = KafkaConsumer(bootstrap_servers=SERVER)
    check("first", consumer.beginning_offsets([TopicPartition(TIMED, 0)]), {TopicPartition(TIMED, 0): 2})
    consumer.close()


def delete_topics():
    mine = [RECORDS, SHARED, INPUT, OUTPUT, TIMED]
    admin.delete_topics(mine)
    until("the topics are gone", lambda: not set(mine) & set(admin.list_topics()))


STEPS = [
    ("create topics", create_topics),
    *((f"codec {name}", lambda name=name: codec(name)) for name in ("none", "gzip", "snappy", "lz4", "zstd")),
    ("headers", headers),
    ("group of two members", group_of_two),
    ("describe group", describe_group),
    ("commit and resume", commit_and_resume),
    ("transactions, one committed, one aborted", transaction),
    ("read uncommitted", read_uncommitted),
    ("read committed", read_committed),
    ("offsets in a transaction", offsets_in_a_transaction),
    ("offsets by time", offsets_by_time),
    ("describe config", describe_config),
    ("alter config", alter_config),
    ("list groups", list_groups),
    ("delete group", delete_group),
    ("delete records", delete_records),
    ("delete topics", delete_topics),
]
failed = 0
for step, action in STEPS:
    try:
        action()
        print(f"ok {step}", flush=True)
    except Exception as error:  # A step's failure is its line; the tour goes on.
        failed += 1
        print(f"FAILED {step}: {type(error).__name__} {error}".replace("\n", " "), flush=True)
admin.close()
sys.exit(1 if failed else 0)
