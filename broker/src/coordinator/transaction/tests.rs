//! Transactions through the broker, on a disk that loses what was not synced and a clock that moves when the test says so.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;

use kafka_wire as wire;

use super::*;
use crate::broker::Broker;
use crate::clock::ManualClock;
use crate::config::{BrokerConfig, Drive, Flush};
use crate::disk::{Crash, Fault, SimDisk};
use crate::protocol::{ApiRequest, ErrorCode, RequestContext, message, record_batch};
use crate::replica::Isolation;

mod crashes;
mod protocol;
mod simulation;

const NOW_MS: i64 = 1_700_000_000_000;
const NONE: i16 = 0;

/// No answer: the machine has stopped, or time would have to pass.
const UNANSWERED: i16 = -2;

fn code(code: ErrorCode) -> i16 {
    code.code()
}

/// A broker on a simulated disk.
struct Machine {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    flush: Flush,
    sync_journal_bytes_max: u64,
    broker: Broker,
}

const JOURNAL_BYTES: u64 = 1 << 20;

impl Machine {
    fn new() -> Self {
        Self::with(Flush::Durable)
    }

    fn with(flush: Flush) -> Self {
        Self::with_journal(flush, JOURNAL_BYTES)
    }

    fn with_journal(flush: Flush, sync_journal_bytes_max: u64) -> Self {
        let (disk, clock) = (SimDisk::new(), Arc::new(ManualClock::new(NOW_MS)));
        let broker = open(&disk, &clock, flush, sync_journal_bytes_max);
        Self {
            disk,
            clock,
            flush,
            sync_journal_bytes_max,
            broker,
        }
    }

    /// Each log is synced by itself: so one of them can fail.
    fn without_journal(topics: &[(&str, i32)]) -> Self {
        let machine = Self::with_journal(Flush::Durable, 0);
        machine.create(topics);
        machine
    }

    fn with_topics(topics: &[(&str, i32)]) -> Self {
        let machine = Self::new();
        machine.create(topics);
        machine
    }

    fn create(&self, topics: &[(&str, i32)]) {
        for (name, partition_count) in topics {
            let created =
                self.broker
                    .core()
                    .create_topic(name, *partition_count, BTreeMap::new(), false);
            assert!(created.is_ok(), "{created:?}");
        }
    }

    /// The power goes and comes back.
    fn crash(&mut self, crash: Crash) {
        self.disk = self.disk.crash(crash);
        self.broker = open(
            &self.disk,
            &self.clock,
            self.flush,
            self.sync_journal_bytes_max,
        );
    }

    /// Until nothing is unsynced.
    fn settle(&self) {
        while self.broker.flush_once() > 0 {}
    }

    fn core(&self) -> &Arc<Core> {
        self.broker.core()
    }

    fn state(&self, id: &str) -> Option<Arc<Transaction>> {
        self.core().transactions.describe(self.core(), id)
    }

    fn state_name(&self, id: &str) -> &'static str {
        self.state(id).map_or("-", |state| state.state.name())
    }

    /// Values that a read-committed reader gets, in order; ends at the last stable offset.
    fn committed(&self, topic: &str, index: i32) -> Vec<String> {
        let partition = self.broker.partition(topic, index).unwrap();
        let fetched = partition
            .fetch(0, usize::MAX / 2, Isolation::ReadCommitted)
            .unwrap();
        let mut aborted = fetched.aborted.clone();
        aborted.sort_by_key(|aborted| aborted.first_offset);
        let (mut values, mut scratch) = (Vec::new(), Vec::new());
        let mut dropping = BTreeSet::new();
        for batch in fetched
            .batches
            .iter()
            .flat_map(|bytes| record_batch::batches(bytes))
        {
            aborted.retain(|aborted| {
                let begins = aborted.first_offset <= batch.last_offset();
                if begins {
                    dropping.insert(aborted.producer_id);
                }
                !begins
            });
            if batch.is_control() {
                if batch.end_transaction().is_some_and(|end| !end.commit) {
                    dropping.remove(&batch.producer_id());
                }
                continue;
            }
            if batch.is_transactional() && dropping.contains(&batch.producer_id()) {
                continue;
            }
            for record in batch.records(&mut scratch, 1 << 20).unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
        values
    }

    /// Markers in a partition: producer id, epoch, and whether it commits.
    fn markers(&self, topic: &str, index: i32) -> Vec<(i64, i16, bool)> {
        let partition = self.broker.partition(topic, index).unwrap();
        let fetched = partition
            .fetch(0, usize::MAX / 2, Isolation::ReadUncommitted)
            .unwrap();
        let batches = fetched
            .batches
            .iter()
            .flat_map(|bytes| record_batch::batches(bytes));
        batches
            .filter_map(|batch| {
                let end = batch.end_transaction()?;
                Some((batch.producer_id(), batch.producer_epoch(), end.commit))
            })
            .collect()
    }

    /// A group's offset for partition 0 of a topic, and the code that comes with it.
    fn offset(&self, group: &str, topic: &str, require_stable: bool) -> (i64, i16) {
        let response = call(
            &self.broker,
            2,
            message!(wire::OffsetFetchRequest {
                require_stable: require_stable,
                groups: vec![message!(
                    wire::offset_fetch_request::OffsetFetchRequestGroup {
                        group_id: group.into(),
                        topics: Some(vec![message!(
                            wire::offset_fetch_request::OffsetFetchRequestTopics {
                                name: topic.into(),
                                partition_indexes: vec![0]
                            }
                        )])
                    }
                )]
            }),
        );
        let response = response.unwrap();
        let partition = &response.groups[0].topics[0].partitions[0];
        (partition.committed_offset, partition.error_code)
    }
}

fn open(
    disk: &SimDisk,
    clock: &Arc<ManualClock>,
    flush: Flush,
    sync_journal_bytes_max: u64,
) -> Broker {
    let mut config = BrokerConfig::new(Path::new("/data"));
    config.sync_journal_bytes_max = sync_journal_bytes_max;
    config.drive = Drive::Manual;
    config.flush = flush;
    config.clock = clock.clone();
    config.disk = Arc::new(disk.clone());
    config.lock_data_dir = false;
    config.transactions_topic_partitions = 2;
    config.offsets_topic_partitions = 1;
    Broker::open(config).unwrap()
}

/// Submits a request as a client of this transaction version; the answer comes to the receiver.
fn submit<R: ApiRequest>(
    broker: &Broker,
    transaction_version: i16,
    request: R,
) -> mpsc::Receiver<R::Response>
where
    R::Response: Send + 'static,
{
    let (sender, receiver) = mpsc::channel();
    let mut context = RequestContext::in_process("test");
    context.transaction_version = transaction_version;
    context.knows_abortable = transaction_version >= 2;
    broker.submit(
        &context,
        request.into(),
        Box::new(move |response| {
            if let Ok(response) = R::Response::try_from(response) {
                let _ = sender.send(response);
            }
        }),
    );
    receiver
}

/// As `submit`, with as many rounds of syncs as the answer takes; `None` if it does not come.
fn call<R: ApiRequest>(broker: &Broker, transaction_version: i16, request: R) -> Option<R::Response>
where
    R::Response: Send + 'static,
{
    let receiver = submit(broker, transaction_version, request);
    loop {
        if let Ok(response) = receiver.try_recv() {
            return Some(response);
        }
        if broker.flush_once() == 0 {
            return receiver.try_recv().ok();
        }
    }
}

/// A transactional producer that speaks one of the transaction versions.
#[derive(Clone)]
struct Client {
    id: String,
    version: i16,
    producer: Producer,
    sequences: BTreeMap<(String, i32), i32>,
    timeout_ms: i32,
}

impl Client {
    fn new(id: &str, version: i16) -> Self {
        Self {
            id: id.to_owned(),
            version,
            producer: Producer { id: -1, epoch: -1 },
            sequences: BTreeMap::new(),
            timeout_ms: 60_000,
        }
    }

    /// One that is initialised.
    fn start(machine: &Machine, id: &str, version: i16) -> Self {
        let mut client = Self::new(id, version);
        assert_eq!(client.init(machine), NONE);
        client
    }

    fn set_producer(&mut self, producer: Producer) {
        if producer != self.producer {
            self.producer = producer;
            self.sequences.clear();
        }
    }

    fn init(&mut self, machine: &Machine) -> i16 {
        self.init_as(machine, Producer { id: -1, epoch: -1 })
    }

    fn init_request(&self, expected: Producer) -> wire::InitProducerIdRequest {
        message!(wire::InitProducerIdRequest {
            transactional_id: Some(self.id.as_str().into()),
            transaction_timeout_ms: self.timeout_ms,
            producer_id: expected.id,
            producer_epoch: expected.epoch,
        })
    }

    fn init_as(&mut self, machine: &Machine, expected: Producer) -> i16 {
        let request = self.init_request(expected);
        let Some(response) = call(&machine.broker, self.version, request) else {
            return UNANSWERED;
        };
        if response.error_code == NONE {
            self.set_producer(Producer {
                id: response.producer_id,
                epoch: response.producer_epoch,
            });
        }
        response.error_code
    }

    /// What a client of version 0 does before it writes.
    fn add(&self, machine: &Machine, topic: &str, index: i32) -> i16 {
        let request = message!(wire::AddPartitionsToTxnRequest {
            transactions: vec![message!(
                wire::add_partitions_to_txn_request::AddPartitionsToTxnTransaction {
                    transactional_id: self.id.as_str().into(),
                    producer_id: self.producer.id,
                    producer_epoch: self.producer.epoch,
                    topics: vec![message!(
                        wire::add_partitions_to_txn_request::AddPartitionsToTxnTopic {
                            name: topic.into(),
                            partitions: vec![index]
                        }
                    )]
                }
            )]
        });
        call(&machine.broker, self.version, request).map_or(UNANSWERED, |response| {
            response.results_by_transaction[0].topic_results[0].results_by_partition[0]
                .partition_error_code
        })
    }

    fn produce(&self, topic: &str, index: i32, value: &str) -> wire::ProduceRequest {
        let key = (topic.to_owned(), index);
        let sequence = self.sequences.get(&key).copied().unwrap_or(0);
        let mut builder = Builder::new()
            .producer(self.producer.id, self.producer.epoch, sequence)
            .transactional();
        builder.append(NOW_MS, Some(b"k"), Some(value.as_bytes()), &[]);
        message!(wire::ProduceRequest {
            transactional_id: Some(self.id.as_str().into()),
            acks: -1,
            timeout_ms: 1000,
            topic_data: vec![message!(wire::produce_request::TopicProduceData {
                name: topic.into(),
                partition_data: vec![message!(wire::produce_request::PartitionProduceData {
                    index: index,
                    records: Some(builder.build().freeze())
                })]
            })]
        })
    }

    /// Writes, without adding the partition.
    fn write(&mut self, machine: &Machine, topic: &str, index: i32, value: &str) -> i16 {
        let request = self.produce(topic, index, value);
        let Some(response) = call(&machine.broker, self.version, request) else {
            return UNANSWERED;
        };
        let code = response.responses[0].partition_responses[0].error_code;
        if code == NONE {
            *self.sequences.entry((topic.to_owned(), index)).or_insert(0) += 1;
        }
        code
    }

    /// Writes a record as its version does.
    fn send(&mut self, machine: &Machine, topic: &str, index: i32, value: &str) -> i16 {
        if self.version < 2 {
            let code = self.add(machine, topic, index);
            if code != NONE {
                return code;
            }
        }
        self.write(machine, topic, index, value)
    }

    fn commit_offset(&self, group: &str, topic: &str, offset: i64) -> wire::TxnOffsetCommitRequest {
        message!(wire::TxnOffsetCommitRequest {
            transactional_id: self.id.as_str().into(),
            group_id: group.into(),
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch,
            generation_id_or_member_epoch: -1,
            topics: vec![message!(
                wire::txn_offset_commit_request::TxnOffsetCommitRequestTopic {
                    name: topic.into(),
                    partitions: vec![message!(
                        wire::txn_offset_commit_request::TxnOffsetCommitRequestPartition {
                            partition_index: 0,
                            committed_offset: offset,
                        }
                    )]
                }
            )]
        })
    }

    fn send_offset(&self, machine: &Machine, group: &str, topic: &str, offset: i64) -> i16 {
        if self.version < 2 {
            let request = message!(wire::AddOffsetsToTxnRequest {
                transactional_id: self.id.as_str().into(),
                producer_id: self.producer.id,
                producer_epoch: self.producer.epoch,
                group_id: group.into(),
            });
            let code = call(&machine.broker, self.version, request)
                .map_or(UNANSWERED, |response| response.error_code);
            if code != NONE {
                return code;
            }
        }
        let request = self.commit_offset(group, topic, offset);
        call(&machine.broker, self.version, request).map_or(UNANSWERED, |response| {
            response.topics[0].partitions[0].error_code
        })
    }

    fn end_request(&self, commit: bool) -> wire::EndTxnRequest {
        message!(wire::EndTxnRequest {
            transactional_id: self.id.as_str().into(),
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch,
            committed: commit,
        })
    }

    fn end(&mut self, machine: &Machine, commit: bool) -> i16 {
        let request = self.end_request(commit);
        let Some(response) = call(&machine.broker, self.version, request) else {
            return UNANSWERED;
        };
        if response.error_code == NONE && self.version >= 2 {
            self.set_producer(Producer {
                id: response.producer_id,
                epoch: response.producer_epoch,
            });
        }
        response.error_code
    }
}
