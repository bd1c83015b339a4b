//! Logs that fail under the clients in this process, on a simulated disk and a clock that stands.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use brooklet_broker::clock::ManualClock;
use brooklet_broker::disk::{Fault, SimDisk};
use brooklet_broker::messages::create_topics_request::CreatableTopic;
use brooklet_broker::messages::delete_topics_request::DeleteTopicState;
use brooklet_broker::messages::{CreateTopicsRequest, DeleteTopicsRequest};
use brooklet_broker::{Clock as _, Drive};
use brooklet_streams_core::client::record_batch::BatchCursor;
use brooklet_streams_core::client::{
    Completion, RecordRef, TopicHandle, TransactionOptions, TransactionRequest,
};
use brooklet_streams_core::record::Headers;

use super::*;

const NOW_MS: i64 = 1_700_000_000_000;
/// Longer than a failed log waits for its next try in the first half minute.
const SECOND_MS: i64 = 1_000;

struct World {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    cluster: EmbeddedCluster,
}

impl World {
    fn new() -> Self {
        let (disk, clock) = (SimDisk::new(), Arc::new(ManualClock::new(NOW_MS)));
        let mut config = BrokerConfig::new("/broker");
        config.drive = Drive::Manual;
        config.clock = clock.clone();
        config.disk = Arc::new(disk.clone());
        config.lock_data_dir = false;
        // Each log is synced by itself: so one of them can fail.
        config.sync_journal_bytes_max = 0;
        config.transactions_topic_partitions = 1;
        config.offsets_topic_partitions = 1;
        let world = World {
            disk,
            clock,
            cluster: EmbeddedCluster {
                broker: Broker::open(config).unwrap(),
                name: "test".to_owned(),
            },
        };
        world.create();
        world
    }

    fn create(&self) {
        let mut topic = CreatableTopic::default();
        topic.name = "lines".into();
        topic.num_partitions = 1;
        topic.replication_factor = 1;
        let mut request = CreateTopicsRequest::default();
        request.topics = vec![topic];
        let answer = self.cluster.broker.call(request).unwrap();
        assert_eq!(answer.topics[0].error_code, 0);
    }

    fn delete(&self) {
        let mut topic = DeleteTopicState::default();
        topic.name = Some("lines".into());
        let mut request = DeleteTopicsRequest::default();
        request.topics = vec![topic];
        self.cluster.broker.call(request).unwrap();
    }

    /// A producer that sends each record at once.
    fn producer(&self, transactional: bool) -> (Box<dyn Producer>, TopicHandle) {
        let options = ProducerOptions {
            client_id: "writer".to_owned(),
            batch_bytes: 1,
            linger_ms: 0,
            properties: Vec::new(),
            transaction: transactional.then(|| TransactionOptions {
                transactional_id: "writer".to_owned(),
                timeout_ms: 60_000,
                group: "group".to_owned(),
            }),
        };
        let mut producer = self.cluster.producer(&options).unwrap();
        let topic = producer.topic("lines").unwrap();
        // It knows the time from here on.
        assert!(self.poll(&mut *producer).is_empty());
        (producer, topic)
    }

    fn reader(&self, read_committed: bool) -> Reader {
        let options = ConsumerOptions {
            client_id: "reader".to_owned(),
            read_committed,
            partition_fetch_bytes_max: 1 << 20,
            properties: Vec::new(),
        };
        let mut consumer = self.cluster.consumer(&options).unwrap();
        consumer.add(&TopicPartition::new("lines", 0), 0).unwrap();
        Reader {
            consumer,
            seen: Vec::new(),
        }
    }

    fn poll(&self, producer: &mut dyn Producer) -> Vec<Completion> {
        let mut completions = Vec::new();
        producer
            .poll(self.clock.now_ms(), Waker::noop(), &mut completions)
            .unwrap();
        completions
    }

    /// The broker's threads do what there is, and time passes.
    fn pass(&self, ms: i64) {
        self.cluster.broker.flush_once();
        self.cluster.broker.step();
        self.clock.advance(ms);
        self.cluster.broker.step();
        self.cluster.broker.flush_once();
    }

    /// The answer to a step of a transaction, if it comes in time.
    fn end(
        &self,
        producer: &mut dyn Producer,
        request: TransactionRequest,
    ) -> Option<Result<(), ClientError>> {
        producer.submit_transaction(request);
        (0..20).find_map(|_| {
            self.pass(0);
            producer.poll_transaction(self.clock.now_ms(), Waker::noop())
        })
    }
}

struct Reader {
    consumer: Box<dyn Consumer>,
    seen: Vec<String>,
}

impl Reader {
    /// Reads what is there.
    fn poll(&mut self, world: &World) -> Result<(), ClientError> {
        let mut fetched = Vec::new();
        let now_ms = world.clock.now_ms();
        self.consumer.poll(now_ms, Waker::noop(), &mut fetched)?;
        for fetched in fetched {
            if let Some(error) = fetched.error
                && error.kind != ClientErrorKind::Retriable
            {
                return Err(error);
            }
            for batch in fetched.batches {
                let mut cursor = BatchCursor::new(batch).unwrap();
                while let Some(record) = cursor.next().unwrap() {
                    let value = record.value.unwrap().to_vec();
                    self.seen.push(String::from_utf8(value).unwrap());
                }
            }
        }
        Ok(())
    }
}

fn write(producer: &mut dyn Producer, topic: TopicHandle, value: &str) {
    let headers = Headers::default();
    let record = RecordRef {
        key: None,
        value: Some(value.as_bytes()),
        timestamp: NOW_MS,
        headers: &headers,
    };
    producer.append(topic, 0, record).unwrap();
}

fn offsets(completions: Vec<Completion>) -> Vec<i64> {
    completions
        .into_iter()
        .map(|completion| completion.result.unwrap())
        .collect()
}

#[test]
fn writer_and_reader_go_on_in_the_log_that_is_opened_anew() {
    let world = World::new();
    let (mut producer, topic) = world.producer(false);
    let mut readers = [world.reader(false), world.reader(true)];
    write(&mut *producer, topic, "a");
    world.pass(0);
    assert_eq!(offsets(world.poll(&mut *producer)), [0]);
    world.disk.set_fault(Fault::NextSync);
    write(&mut *producer, topic, "b");
    write(&mut *producer, topic, "c");
    world.cluster.broker.flush_once();
    // Behind those that are to be written again.
    write(&mut *producer, topic, "d");
    assert!(world.poll(&mut *producer).is_empty());
    write(&mut *producer, topic, "e");
    for reader in &mut readers {
        reader.poll(&world).unwrap();
        assert_eq!(reader.seen, ["a"]);
    }
    world.pass(SECOND_MS);
    assert_eq!(producer.pending_records(), 4);
    assert!(world.poll(&mut *producer).is_empty(), "not on disk yet");
    world.pass(0);
    assert_eq!(offsets(world.poll(&mut *producer)), [1, 2, 3, 4]);
    assert_eq!(
        (producer.pending_records(), producer.pending_bytes()),
        (0, 0)
    );
    for reader in &mut readers {
        reader.poll(&world).unwrap();
        assert_eq!(reader.seen, ["a", "b", "c", "d", "e"]);
    }
}

#[test]
fn a_transaction_on_a_log_that_fails_is_undone_and_the_next_one_goes_through() {
    let world = World::new();
    let (mut producer, topic) = world.producer(true);
    let mut reader = world.reader(true);
    world
        .end(&mut *producer, TransactionRequest::Initialize)
        .unwrap()
        .unwrap();
    write(&mut *producer, topic, "a");
    // Asked for, added, appended.
    world.poll(&mut *producer);
    world.cluster.broker.flush_once();
    world.poll(&mut *producer);
    world.disk.set_fault(Fault::NextSync);
    world.cluster.broker.flush_once();
    let mut completions = world.poll(&mut *producer);
    let error = completions.remove(0).result.unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::Retriable, "{error}");
    assert!(error.message.starts_with("lines-0: "), "{error}");
    world
        .end(&mut *producer, TransactionRequest::Abort)
        .unwrap()
        .unwrap();

    // The log has failed still: the batch waits for it.
    write(&mut *producer, topic, "b");
    world.poll(&mut *producer);
    world.pass(0);
    assert!(world.poll(&mut *producer).is_empty());
    assert_eq!(producer.pending_records(), 1);
    world.pass(SECOND_MS);
    for _ in 0..5 {
        world.poll(&mut *producer);
        world.pass(SECOND_MS);
    }
    assert_eq!(producer.pending_records(), 0);
    world
        .end(&mut *producer, TransactionRequest::Commit)
        .unwrap()
        .unwrap();
    world.pass(SECOND_MS);
    reader.poll(&world).unwrap();
    assert_eq!(reader.seen, ["b"]);
}

#[test]
fn what_finds_no_room_is_written_when_there_is_some() {
    let world = World::new();
    let (mut producer, topic) = world.producer(false);
    let mut reader = world.reader(false);
    world.disk.set_fault(Fault::Full);
    write(&mut *producer, topic, "a");
    write(&mut *producer, topic, "b");
    for _ in 0..10 {
        assert!(world.poll(&mut *producer).is_empty());
        world.pass(SECOND_MS);
    }
    world.disk.clear_fault();
    for _ in 0..3 {
        world.poll(&mut *producer);
        world.pass(SECOND_MS);
    }
    assert_eq!(producer.pending_records(), 0);
    reader.poll(&world).unwrap();
    assert_eq!(reader.seen, ["a", "b"]);
}

#[test]
fn a_disk_that_does_not_come_back_is_named_to_writer_and_reader() {
    let world = World::new();
    let (mut producer, topic) = world.producer(false);
    let mut reader = world.reader(false);
    write(&mut *producer, topic, "a");
    world.pass(0);
    assert_eq!(offsets(world.poll(&mut *producer)), [0]);
    world.disk.set_fault(Fault::StopAt(world.disk.operations()));
    write(&mut *producer, topic, "b");
    let (mut waited_ms, mut refused, mut told) = (0, None, None);
    while refused.is_none() || told.is_none() {
        world.pass(SECOND_MS);
        waited_ms += SECOND_MS;
        refused = refused.or(world.poll(&mut *producer).pop());
        told = told.or(reader.poll(&world).err());
        if waited_ms <= FAILED_PATIENCE_MS {
            assert!(refused.is_none() && told.is_none(), "it might come back");
        }
        assert!(
            waited_ms <= FAILED_PATIENCE_MS + 5 * SECOND_MS,
            "in silence"
        );
    }
    let refused = refused.unwrap().result.unwrap_err();
    assert_eq!(refused.kind, ClientErrorKind::Retriable, "{refused}");
    let told = told.unwrap();
    assert_eq!(told.kind, ClientErrorKind::Fatal, "{told}");
    for error in [refused, told] {
        let begin = "lines-0: the broker's log has failed and has not come back for 30 s";
        assert!(error.message.starts_with(begin), "{error}");
    }
    assert_eq!(producer.pending_records(), 0);
}

/// A marker that cannot be written holds back what is committed.
#[test]
fn a_reader_of_what_is_committed_is_told_when_the_disk_stops_before_the_marker() {
    let mut told = 0;
    for operation in 0..12 {
        let world = World::new();
        let (mut producer, topic) = world.producer(true);
        let mut reader = world.reader(true);
        world
            .end(&mut *producer, TransactionRequest::Initialize)
            .unwrap()
            .unwrap();
        write(&mut *producer, topic, "a");
        for _ in 0..3 {
            world.poll(&mut *producer);
            world.pass(0);
        }
        assert_eq!(producer.pending_records(), 0);
        let last = world.disk.operations() + operation;
        world.disk.set_fault(Fault::StopAt(last));
        let ended = world.end(&mut *producer, TransactionRequest::Commit);
        let mut error = None;
        for _ in 0..=(FAILED_PATIENCE_MS / SECOND_MS) + 1 {
            world.pass(SECOND_MS);
            error = error.or(reader.poll(&world).err());
        }
        if matches!(ended, Some(Ok(()))) {
            assert_ne!(error.is_some(), !reader.seen.is_empty(), "{operation}");
            told += usize::from(error.is_some());
        }
    }
    assert_ne!(told, 0, "none of them stopped between outcome and marker");
}

#[test]
fn a_topic_that_is_deleted_is_missed_and_one_made_anew_is_written_to() {
    let world = World::new();
    let (mut producer, topic) = world.producer(false);
    world.delete();
    write(&mut *producer, topic, "a");
    let error = world.poll(&mut *producer).remove(0).result.unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::UnknownTopicOrPartition);
    world.create();
    write(&mut *producer, topic, "b");
    world.poll(&mut *producer);
    world.pass(0);
    assert_eq!(offsets(world.poll(&mut *producer)), [0]);
}
