//! A disk that is full or broken: the client is told, and only what is touched suffers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use brooklet_broker::disk::{Fault, SimDisk};
use brooklet_broker::protocol::record_batch::Builder;
use brooklet_broker::{Broker, BrokerConfig, Drive, messages as wire};

const STORAGE_ERROR: i16 = 56;

fn open() -> (SimDisk, Broker) {
    let disk = SimDisk::new();
    let mut config = BrokerConfig::new("/data");
    config.disk = Arc::new(disk.clone());
    config.lock_data_dir = false;
    config.drive = Drive::Manual;
    // Each log is synced by itself, so that one can fail.
    config.sync_journal_bytes_max = 0;
    let broker = Broker::open(config).unwrap();
    for topic in ["a", "b"] {
        assert_eq!(create(&broker, topic), 0);
        assert_eq!(produce(&broker, topic), 0);
    }
    (disk, broker)
}

fn create(broker: &Broker, topic: &str) -> i16 {
    let mut creatable = wire::create_topics_request::CreatableTopic::default();
    creatable.name = topic.into();
    creatable.num_partitions = 1;
    creatable.replication_factor = 1;
    let mut request = wire::CreateTopicsRequest::default();
    request.topics = vec![creatable];
    broker.call(request).unwrap().topics[0].error_code
}

/// One record with `acks=all`.
fn produce(broker: &Broker, topic: &str) -> i16 {
    let mut batch = Builder::new();
    batch.append(1_700_000_000_000, None, Some(b"v"), &[]);
    let mut partition = wire::produce_request::PartitionProduceData::default();
    partition.records = Some(batch.build().freeze());
    let mut data = wire::produce_request::TopicProduceData::default();
    data.name = topic.into();
    data.partition_data = vec![partition];
    let mut request = wire::ProduceRequest::default();
    request.acks = -1;
    request.timeout_ms = 1000;
    request.topic_data = vec![data];
    broker.call(request).unwrap().responses[0].partition_responses[0].error_code
}

fn end(broker: &Broker, topic: &str) -> i64 {
    broker.partition(topic, 0).unwrap().high_watermark()
}

/// The value of a sample without labels.
fn sample(broker: &Broker, name: &str) -> String {
    let text = broker.metrics_text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().to_owned()
}

#[test]
fn a_write_that_does_not_fit_is_refused_and_the_next_one_is_taken() {
    let (disk, broker) = open();
    disk.set_fault(Fault::OnceAt(disk.operations()));
    assert_eq!(produce(&broker, "a"), STORAGE_ERROR);
    assert_eq!(produce(&broker, "b"), 0);
    // There is room again.
    assert_eq!(produce(&broker, "a"), 0);
    assert_eq!((end(&broker, "a"), end(&broker, "b")), (2, 2));
    broker.shutdown().unwrap();
}

#[test]
fn a_failed_sync_stops_its_partition_and_no_other() {
    let (disk, broker) = open();
    disk.set_fault(Fault::NextSync);
    assert_eq!(produce(&broker, "a"), STORAGE_ERROR);
    assert_eq!(
        sample(&broker, "kafka_server_replicamanager_offlinereplicacount"),
        "1"
    );
    // The system may have dropped what it could not write: nothing more is taken, and nothing unsynced is shown.
    assert_eq!(produce(&broker, "a"), STORAGE_ERROR);
    assert_eq!(end(&broker, "a"), 1);
    assert_eq!(produce(&broker, "b"), 0);
    assert_eq!(create(&broker, "c"), 0);
    assert_eq!(produce(&broker, "c"), 0);
}

#[test]
fn a_failed_metadata_journal_stops_changes_of_topics_and_no_records() {
    let (disk, broker) = open();
    disk.set_fault(Fault::NextSync);
    assert_eq!(create(&broker, "c"), STORAGE_ERROR);
    assert!(broker.partition("c", 0).is_none());
    assert_eq!(create(&broker, "d"), STORAGE_ERROR);
    for topic in ["a", "b"] {
        assert_eq!(produce(&broker, topic), 0);
    }
}
