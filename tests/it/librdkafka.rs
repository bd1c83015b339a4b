//! librdkafka against our broker, in what the stream crates do not ask of it: groups whose members the broker assigns (KIP-848), and offsets of a
//! group in a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use brooklet::prelude::Cluster;
use brooklet::topics::{self, NewTopic};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::programs::{Program, free_port, start_broker_with};

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(20);

/// A broker whose consumer groups are quick.
fn start(data: &Path) -> (Program, String) {
    let port = free_port();
    let quick = [
        "group.consumer.min.heartbeat.interval.ms=20",
        "group.consumer.heartbeat.interval.ms=50",
        "group.consumer.assignment.interval.ms=0",
    ];
    let arguments: Vec<&str> = quick.iter().flat_map(|set| ["--config", set]).collect();
    let broker = start_broker_with(data, port, &arguments);
    (broker, format!("127.0.0.1:{port}"))
}

fn create(address: &str, topic: &str, partitions: i32) {
    let cluster = Cluster::kafka(address);
    topics::create(&cluster, &[NewTopic::new(topic, partitions)]).unwrap();
}

/// With a transactional id, which is initialised, or without.
pub(crate) fn producer(address: &str, transactional_id: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    if let Some(id) = transactional_id {
        config.set("transactional.id", id);
    }
    let producer: BaseProducer = config.create().unwrap();
    if transactional_id.is_some() {
        producer.init_transactions(LIMIT).unwrap();
    }
    producer
}

/// Sends, and waits until it is acknowledged.
pub(crate) fn send(producer: &BaseProducer, topic: &str, partition: i32, values: &[String]) {
    for value in values {
        let record = BaseRecord::<(), String>::to(topic).partition(partition);
        producer.send(record.payload(value)).unwrap();
    }
    producer.flush(LIMIT).unwrap();
}

/// Reads committed records, and commits nothing by itself.
fn consumer(address: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", group)
        .set("group.protocol", "consumer")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap()
}

/// Values of a partition that a reader of committed records gets, from its beginning: so many.
pub(crate) fn committed(address: &str, topic: &str, count: usize) -> Vec<String> {
    let reader = consumer(address, "reader");
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning)
        .unwrap();
    reader.assign(&from).unwrap();
    let mut values = Vec::new();
    until("the committed records are read", || {
        values.extend(next(&reader).map(|(_, _, value)| value));
        values.len() == count
    });
    values
}

/// Partition, offset and value of the next record, if one comes soon.
fn next(consumer: &BaseConsumer) -> Option<(i32, i64, String)> {
    let message = consumer.poll(PATIENCE)?.unwrap();
    let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
    Some((message.partition(), message.offset(), value))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
    }
}

fn assigned(consumer: &BaseConsumer) -> BTreeSet<i32> {
    let assignment = consumer.assignment().unwrap();
    let elements = assignment.elements();
    elements.iter().map(|element| element.partition()).collect()
}

/// What the group has committed of these partitions.
fn offsets(consumer: &BaseConsumer, topic: &str, partitions: i32) -> Vec<Offset> {
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        asked.add_partition(topic, partition);
    }
    let found = consumer.committed_offsets(asked, LIMIT).unwrap();
    let elements = found.elements();
    elements.iter().map(|element| element.offset()).collect()
}

#[test]
fn members_of_the_consumer_protocol_share_partitions_and_leave_their_offsets() {
    const PARTITIONS: i32 = 4;
    const RECORDS: usize = 10;
    let data = tempfile::tempdir().unwrap();
    let (_broker, address) = start(data.path());
    create(&address, "shared", PARTITIONS);
    let producer = producer(&address, None);
    for partition in 0..PARTITIONS {
        let values: Vec<_> = (0..RECORDS).map(|n| format!("{partition}-{n}")).collect();
        send(&producer, "shared", partition, &values);
    }
    let members = [consumer(&address, "g"), consumer(&address, "g")];
    let mut seen = [BTreeMap::new(), BTreeMap::new()];
    let mut read = |index: usize| {
        if let Some((partition, offset, value)) = next(&members[index]) {
            assert_eq!(value, format!("{partition}-{offset}"));
            let of_partition: &mut BTreeSet<i64> = seen[index].entry(partition).or_default();
            of_partition.insert(offset);
        }
        let has_read = |partition: &i32| {
            let of_partition = seen[index].get(partition);
            of_partition.is_some_and(|offsets| offsets.len() == RECORDS)
        };
        let assigned = assigned(&members[index]);
        (assigned.len(), assigned.iter().all(has_read))
    };
    members[0].subscribe(&["shared"]).unwrap();
    until("one member has read everything", || {
        read(0) == (PARTITIONS as usize, true)
    });
    members[1].subscribe(&["shared"]).unwrap();
    until("two members have read half of it each", || {
        let (first, second) = (read(0), read(1));
        first == (2, true) && second == (2, true)
    });
    let halves = [assigned(&members[0]), assigned(&members[1])];
    assert!(halves[0].is_disjoint(&halves[1]), "{halves:?}");
    for member in &members {
        member.commit_consumer_state(CommitMode::Sync).unwrap();
    }
    drop(members);
    let later = consumer(&address, "g");
    let all = vec![Offset::Offset(RECORDS as i64); PARTITIONS as usize];
    assert_eq!(offsets(&later, "shared", PARTITIONS), all);
}

#[test]
fn offsets_in_a_transaction_count_when_it_commits_and_come_from_members_only() {
    let data = tempfile::tempdir().unwrap();
    let (_broker, address) = start(data.path());
    create(&address, "in", 1);
    create(&address, "out", 1);
    let values: Vec<_> = (0..5).map(|number| number.to_string()).collect();
    send(&producer(&address, None), "in", 0, &values);
    let copier = consumer(&address, "copiers");
    copier.subscribe(&["in"]).unwrap();
    let mut copied = Vec::new();
    until("the input is read", || {
        copied.extend(next(&copier).map(|(_, _, value)| value));
        copied.len() == values.len()
    });
    let transactional = producer(&address, Some("copier"));
    let metadata = copier.group_metadata().unwrap();
    let mut position = TopicPartitionList::new();
    position
        .add_partition_offset("in", 0, Offset::Offset(5))
        .unwrap();
    let begin = |suffix: &str| {
        transactional.begin_transaction().unwrap();
        let of_transaction: Vec<_> = copied
            .iter()
            .map(|value| format!("{value}{suffix}"))
            .collect();
        send(&transactional, "out", 0, &of_transaction);
        transactional.send_offsets_to_transaction(&position, &metadata, LIMIT)
    };
    begin(" aborted").unwrap();
    transactional.abort_transaction(LIMIT).unwrap();
    assert_eq!(offsets(&copier, "in", 1), [Offset::Invalid]);
    begin("").unwrap();
    transactional.commit_transaction(LIMIT).unwrap();
    assert_eq!(offsets(&copier, "in", 1), [Offset::Offset(5)]);
    assert_eq!(committed(&address, "out", 5), values);
    // One that has left the group is a zombie.
    copier.unsubscribe();
    drop(copier);
    assert!(begin(" of a zombie").is_err());
    transactional.abort_transaction(LIMIT).unwrap();
    send(&producer(&address, None), "out", 0, &["end".to_owned()]);
    assert_eq!(committed(&address, "out", 6).last().unwrap(), "end");
}
