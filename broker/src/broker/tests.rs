//! A broker in the process, on a clock and a flusher that move when the test says so.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::mpsc;

use bytes::{Bytes, BytesMut};
use kafka_wire as wire;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::config::Flush;
use crate::disk::{Crash, Disk, Fault, SimDisk};
use crate::protocol::record_batch::{self, Builder};
use crate::protocol::{ErrorCode, message, wire_id};
use crate::replica::Isolation;

mod compaction;
mod failed_logs;
mod streams_groups;
mod sync_journal;
mod transactional_log;

const NOW_MS: i64 = 1_700_000_000_000;

/// A broker in a directory that outlives it.
struct Fixture {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    change: fn(&mut BrokerConfig),
    broker: Option<Broker>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: fn(&mut BrokerConfig)) -> Self {
        let mut fixture = Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(NOW_MS)),
            change,
            broker: None,
        };
        fixture.open();
        fixture
    }

    fn open(&mut self) {
        let mut config = config(self.dir.path(), self.clock.clone());
        (self.change)(&mut config);
        self.broker = Some(Broker::open(config).unwrap());
    }

    /// As a kill would: nothing is closed, nothing is marked.
    fn crash(&mut self) {
        self.broker = None;
        self.open();
    }

    fn restart(&mut self) {
        self.broker().shutdown().unwrap();
        self.broker = None;
        self.open();
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    fn create(&self, name: &str, partition_count: i32) {
        create(self.broker(), name, partition_count, &[]).unwrap();
    }

    fn submit<R: ApiRequest>(&self, request: R) -> mpsc::Receiver<Response> {
        let (sender, receiver) = mpsc::channel();
        let context = RequestContext::in_process("test");
        self.broker().submit(
            &context,
            request.into(),
            Box::new(move |response| sender.send(response).unwrap()),
        );
        receiver
    }

    fn commit(&self, group: &str, topic: &str, offset: i64) -> i16 {
        let response = self
            .broker()
            .call(commit_request(group, topic, offset))
            .unwrap();
        response.topics[0].partitions[0].error_code
    }

    fn committed(&self, group: &str, topic: &str) -> i64 {
        let request = message!(wire::OffsetFetchRequest {
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
        });
        let response = self.broker().call(request).unwrap();
        response.groups[0].topics[0].partitions[0].committed_offset
    }
}

fn config(dir: &Path, clock: Arc<dyn Clock>) -> BrokerConfig {
    let mut config = BrokerConfig::new(dir);
    config.drive = Drive::Manual;
    config.clock = clock;
    config.offsets_topic_partitions = 3;
    config.group_initial_rebalance_delay_ms = 0;
    config
}

fn create(
    broker: &Broker,
    name: &str,
    partition_count: i32,
    configs: &[(&str, &str)],
) -> Result<(), (i16, String)> {
    let configs = configs.iter().map(|(name, value)| {
        message!(wire::create_topics_request::CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into())
        })
    });
    let topic = message!(wire::create_topics_request::CreatableTopic {
        name: name.into(),
        num_partitions: partition_count,
        replication_factor: 1,
        configs: configs.collect(),
    });
    let response = broker
        .call(message!(wire::CreateTopicsRequest {
            topics: vec![topic]
        }))
        .unwrap();
    match response.topics[0].error_code {
        0 => Ok(()),
        code => Err((
            code,
            response.topics[0]
                .error_message
                .as_ref()
                .unwrap()
                .as_str()
                .to_owned(),
        )),
    }
}

fn batch(values: &[&str]) -> BytesMut {
    let mut builder = Builder::new();
    for value in values {
        builder.append(NOW_MS, Some(b"k"), Some(value.as_bytes()), &[]);
    }
    builder.build()
}

fn values(batches: &[Bytes]) -> Vec<String> {
    let mut values = Vec::new();
    let mut scratch = Vec::new();
    for batch in batches
        .iter()
        .flat_map(|bytes| record_batch::batches(bytes))
    {
        for record in batch.records(&mut scratch, 1 << 20).unwrap() {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

fn read_all(broker: &Broker, topic: &str) -> Vec<String> {
    let partition = broker.partition(topic, 0).unwrap();
    let mut offset = partition.log_start_offset();
    let mut all = Vec::new();
    loop {
        let fetched = partition
            .fetch(offset, 1 << 20, Isolation::ReadUncommitted)
            .unwrap();
        assert!(fetched.next_offset <= partition.high_watermark());
        if fetched.batches.is_empty() {
            return all;
        }
        all.extend(values(&fetched.batches));
        offset = fetched.next_offset;
    }
}

fn produce_request(
    topic: &str,
    acks: i16,
    timeout_ms: i32,
    records: BytesMut,
) -> wire::ProduceRequest {
    message!(wire::ProduceRequest {
        acks: acks,
        timeout_ms: timeout_ms,
        topic_data: vec![message!(wire::produce_request::TopicProduceData {
            name: topic.into(),
            partition_data: vec![message!(wire::produce_request::PartitionProduceData {
                index: 0,
                records: Some(records.freeze())
            })]
        })]
    })
}

fn fetch_request(topic: &str, offset: i64, min_bytes: i32, max_wait_ms: i32) -> wire::FetchRequest {
    message!(wire::FetchRequest {
        min_bytes: min_bytes,
        max_wait_ms: max_wait_ms,
        max_bytes: 1 << 20,
        topics: vec![message!(wire::fetch_request::FetchTopic {
            topic: topic.into(),
            partitions: vec![message!(wire::fetch_request::FetchPartition {
                partition: 0,
                current_leader_epoch: -1,
                fetch_offset: offset,
                last_fetched_epoch: -1,
                partition_max_bytes: 1 << 20
            })]
        })]
    })
}

fn commit_request(group: &str, topic: &str, offset: i64) -> wire::OffsetCommitRequest {
    message!(wire::OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![message!(
            wire::offset_commit_request::OffsetCommitRequestTopic {
                name: topic.into(),
                partitions: vec![message!(
                    wire::offset_commit_request::OffsetCommitRequestPartition {
                        partition_index: 0,
                        committed_offset: offset,
                        committed_leader_epoch: -1
                    }
                )]
            }
        )]
    })
}

fn init_producer_id() -> wire::InitProducerIdRequest {
    message!(wire::InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1
    })
}

fn fetched(response: Response) -> wire::fetch_response::PartitionData {
    let Response::Fetch(mut response) = response else {
        panic!("{response:?}")
    };
    response.responses.remove(0).partitions.remove(0)
}

fn produced(response: Response) -> wire::produce_response::PartitionProduceResponse {
    let Response::Produce(mut response) = response else {
        panic!("{response:?}")
    };
    response.responses.remove(0).partition_responses.remove(0)
}

#[test]
fn nobody_reads_what_is_not_on_disk() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    partition.append(batch(&["a", "b"]), NOW_MS).unwrap();
    assert_eq!(
        (partition.high_watermark(), partition.log_end_offset()),
        (0, 2)
    );
    assert!(read_all(fixture.broker(), "t").is_empty());
    assert_eq!(fixture.broker().flush_once(), 1);
    assert_eq!(read_all(fixture.broker(), "t"), ["a", "b"]);
    assert_eq!(fixture.broker().flush_once(), 0);
}

#[test]
fn with_flush_os_the_high_watermark_follows_at_once() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    fixture
        .broker()
        .partition("t", 0)
        .unwrap()
        .append(batch(&["a"]), NOW_MS)
        .unwrap();
    assert_eq!(read_all(fixture.broker(), "t"), ["a"]);
}

#[test]
fn topics_and_records_are_there_after_a_crash_and_after_a_clean_stop() {
    let mut fixture = Fixture::new();
    fixture.create("t", 2);
    let id = fixture.broker().partition("t", 1).unwrap().topic_id();
    for round in 0..4 {
        let partition = fixture.broker().partition("t", 0).unwrap();
        let appended = partition
            .append(batch(&[&round.to_string()]), NOW_MS)
            .unwrap();
        assert_eq!(appended.base_offset, round);
        fixture.broker().flush_once();
        if round % 2 == 0 {
            fixture.crash()
        } else {
            fixture.restart()
        }
        assert_eq!(fixture.broker().partition("t", 1).unwrap().topic_id(), id);
        assert_eq!(read_all(fixture.broker(), "t").len() as i64, round + 1);
    }
    assert!(fixture.broker().partition("t", 2).is_none());
}

#[test]
fn the_leader_epoch_rises_with_every_unclean_start_and_only_then() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let epoch = |fixture: &Fixture| fixture.broker().partition("t", 0).unwrap().leader_epoch();
    let first = epoch(&fixture);
    fixture.restart();
    assert_eq!(epoch(&fixture), first);
    fixture.crash();
    assert_eq!(epoch(&fixture), first + 1);
}

#[test]
fn what_was_acknowledged_survives_the_power_and_readers_saw_nothing_else() {
    for seed in 0..40 {
        let disk = SimDisk::new();
        let clock: Arc<ManualClock> = Arc::new(ManualClock::new(NOW_MS));
        let open = |disk: &SimDisk| {
            let mut config = config(Path::new("/data"), clock.clone());
            config.disk = Arc::new(disk.clone());
            config.lock_data_dir = false;
            Broker::open(config).unwrap()
        };
        let broker = open(&disk);
        create(&broker, "t", 1, &[]).unwrap();
        let mut acknowledged = Vec::new();
        let mut sent = 0;
        for round in 0..10 {
            let partition = broker.partition("t", 0).unwrap();
            for _ in 0..=(seed + round) % 3 {
                partition
                    .append(batch(&[&sent.to_string()]), NOW_MS)
                    .unwrap();
                sent += 1;
            }
            if (seed + round) % 2 == 0 {
                broker.flush_once();
                acknowledged = read_all(&broker, "t");
            }
            assert_eq!(read_all(&broker, "t"), acknowledged);
        }
        let disk = disk.crash(if seed % 4 == 0 {
            Crash::LoseUnsynced
        } else {
            Crash::Torn { seed }
        });
        drop(broker);
        let broker = open(&disk);
        let found = read_all(&broker, "t");
        assert_eq!(found[..acknowledged.len()], acknowledged, "seed {seed}");
        let expected: Vec<_> = (0..sent).map(|value| value.to_string()).collect();
        assert_eq!(found, expected[..found.len()], "seed {seed}");
    }
}

#[test]
fn a_produce_with_acks_all_is_answered_when_it_is_on_disk() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let answer = fixture.submit(produce_request("t", -1, 1000, batch(&["a"])));
    assert!(answer.try_recv().is_err());
    fixture.broker().flush_once();
    let response = produced(answer.try_recv().unwrap());
    assert_eq!((response.error_code, response.base_offset), (0, 0));
    let answer = fixture.submit(produce_request("t", 1, 1000, batch(&["b"])));
    assert_eq!(produced(answer.try_recv().unwrap()).base_offset, 1);
    let answer = fixture.submit(produce_request("t", 0, 1000, batch(&["c"])));
    assert_eq!(answer.try_recv().unwrap(), Response::Silence);
}

#[test]
fn a_produce_that_is_not_on_disk_in_time_is_answered_so() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let answer = fixture.submit(produce_request("t", -1, 1000, batch(&["a"])));
    assert_eq!(fixture.broker().step(), NOW_MS + 1000);
    fixture.clock.advance(999);
    fixture.broker().step();
    assert!(answer.try_recv().is_err());
    fixture.clock.advance(1);
    fixture.broker().step();
    assert_eq!(
        produced(answer.try_recv().unwrap()).error_code,
        ErrorCode::RequestTimedOut.code()
    );
}

#[test]
fn bad_produces_are_refused_by_code_and_write_nothing() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let code = |request: wire::ProduceRequest| {
        produced(fixture.submit(request).try_recv().unwrap()).error_code
    };
    assert_eq!(
        code(produce_request("nowhere", -1, 1, batch(&["a"]))),
        ErrorCode::UnknownTopicOrPartition.code()
    );
    assert_eq!(
        code(produce_request("t", 2, 1, batch(&["a"]))),
        ErrorCode::InvalidRequiredAcks.code()
    );
    assert_eq!(fixture.commit("g", "t", 0), 0);
    assert_eq!(
        code(produce_request(OFFSETS_TOPIC, -1, 1, batch(&["a"]))),
        ErrorCode::InvalidTopic.code()
    );
    let mut damaged = batch(&["a"]);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(
        code(produce_request("t", -1, 1, damaged)),
        ErrorCode::CorruptMessage.code()
    );
    assert_eq!(
        fixture.broker().partition("t", 0).unwrap().log_end_offset(),
        0
    );
}

#[test]
fn a_retried_batch_of_an_idempotent_producer_is_stored_once() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let id = fixture
        .broker()
        .call(init_producer_id())
        .unwrap()
        .producer_id;
    let idempotent = |sequence| {
        let mut builder = Builder::new().producer(id, 0, sequence);
        builder.append(NOW_MS, None, Some(b"v"), &[]);
        builder.build()
    };
    for (sequence, code, offset) in [
        (0, 0, 0),
        (1, 0, 1),
        (0, 0, 0),
        (1, 0, 1),
        (5, 45, -1),
        (2, 0, 2),
    ] {
        let answer = fixture.submit(produce_request("t", 1, 1000, idempotent(sequence)));
        let response = produced(answer.try_recv().unwrap());
        assert_eq!(
            (response.error_code, response.base_offset),
            (code, offset),
            "sequence {sequence}"
        );
    }
}

#[test]
fn producer_ids_are_never_given_out_twice() {
    let mut fixture = Fixture::new();
    let mut seen = std::collections::HashSet::new();
    for round in 0..6 {
        for _ in 0..700 {
            assert!(
                seen.insert(
                    fixture
                        .broker()
                        .call(init_producer_id())
                        .unwrap()
                        .producer_id
                )
            );
        }
        if round % 2 == 0 {
            fixture.crash()
        } else {
            fixture.restart()
        }
    }
}

#[test]
fn a_fetch_waits_for_bytes_that_are_acknowledged() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let answer = fixture.submit(fetch_request("t", 0, 1, 500));
    fixture
        .broker()
        .partition("t", 0)
        .unwrap()
        .append(batch(&["a"]), NOW_MS)
        .unwrap();
    assert!(answer.try_recv().is_err());
    fixture.broker().flush_once();
    let data = fetched(answer.try_recv().unwrap());
    assert_eq!((data.error_code, data.high_watermark), (0, 1));
    assert_eq!(values(&[data.records.unwrap()]), ["a"]);
}

#[test]
fn a_fetch_that_finds_nothing_is_answered_when_its_time_is_up() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let answer = fixture.submit(fetch_request("t", 0, 1, 500));
    fixture.clock.advance(499);
    fixture.broker().step();
    assert!(answer.try_recv().is_err());
    fixture.clock.advance(1);
    fixture.broker().step();
    let data = fetched(answer.try_recv().unwrap());
    assert_eq!((data.error_code, data.records), (0, Some(Bytes::new())));
    // What it waited on is forgotten.
    fixture
        .broker()
        .partition("t", 0)
        .unwrap()
        .append(batch(&["a"]), NOW_MS)
        .unwrap();
    fixture.broker().flush_once();
    assert!(answer.try_recv().is_err());
}

#[test]
fn a_fetch_for_more_bytes_waits_for_more() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    let size = batch(&["a"]).len() as i32;
    let answer = fixture.submit(fetch_request("t", 0, size + 1, 500));
    let partition = fixture.broker().partition("t", 0).unwrap();
    partition.append(batch(&["a"]), NOW_MS).unwrap();
    assert!(answer.try_recv().is_err());
    partition.append(batch(&["b"]), NOW_MS).unwrap();
    assert_eq!(
        values(&[fetched(answer.try_recv().unwrap()).records.unwrap()]),
        ["a", "b"]
    );
}

#[test]
fn a_fetch_inside_a_batch_returns_the_whole_batch() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    fixture
        .broker()
        .partition("t", 0)
        .unwrap()
        .append(batch(&["a", "b", "c"]), NOW_MS)
        .unwrap();
    let answer = fixture.submit(fetch_request("t", 1, 1, 0));
    assert_eq!(
        values(&[fetched(answer.try_recv().unwrap()).records.unwrap()]),
        ["a", "b", "c"]
    );
}

#[test]
fn offsets_outside_the_log_and_wrong_epochs_are_told_at_once() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    fixture
        .broker()
        .partition("t", 0)
        .unwrap()
        .append(batch(&["a"]), NOW_MS)
        .unwrap();
    let code = |request: wire::FetchRequest| {
        fetched(fixture.submit(request).try_recv().unwrap()).error_code
    };
    assert_eq!(
        code(fetch_request("t", 2, 1, 500)),
        ErrorCode::OffsetOutOfRange.code()
    );
    assert_eq!(
        code(fetch_request("t", -5, 1, 500)),
        ErrorCode::OffsetOutOfRange.code()
    );
    assert_eq!(
        code(fetch_request("x", 0, 1, 500)),
        ErrorCode::UnknownTopicOrPartition.code()
    );
    let with_epoch = |epoch| {
        let mut request = fetch_request("t", 0, 1, 500);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        request
    };
    let epoch = fixture.broker().partition("t", 0).unwrap().leader_epoch();
    assert_eq!(code(with_epoch(epoch)), 0);
    assert_eq!(
        code(with_epoch(epoch - 1)),
        ErrorCode::FencedLeaderEpoch.code()
    );
    assert_eq!(
        code(with_epoch(epoch + 1)),
        ErrorCode::UnknownLeaderEpoch.code()
    );
    let mut session = fetch_request("t", 0, 1, 500);
    session.session_id = 7;
    session.session_epoch = 1;
    let Response::Fetch(refused) = fixture.submit(session).try_recv().unwrap() else {
        panic!()
    };
    assert_eq!(refused.error_code, ErrorCode::FetchSessionIdNotFound.code());
}

#[test]
fn the_high_watermark_wakes_who_watches() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    let (sender, woken) = mpsc::channel();
    let seen = partition.clone();
    let watch = partition.watch(Arc::new(move || {
        sender.send(seen.high_watermark()).unwrap()
    }));
    partition.append(batch(&["a"]), NOW_MS).unwrap();
    assert!(woken.try_recv().is_err());
    fixture.broker().flush_once();
    assert_eq!(woken.try_recv(), Ok(1));
    drop(watch);
    partition.append(batch(&["b"]), NOW_MS).unwrap();
    fixture.broker().flush_once();
    assert!(woken.try_recv().is_err());
}

#[test]
fn committed_offsets_survive_a_crash_and_a_clean_stop() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    assert_eq!(fixture.committed("g", "t"), -1);
    for offset in 1..6 {
        assert_eq!(fixture.commit("g", "t", offset), 0);
        assert_eq!(fixture.committed("g", "t"), offset);
        if offset % 2 == 0 {
            fixture.crash()
        } else {
            fixture.restart()
        }
        assert_eq!(fixture.committed("g", "t"), offset);
    }
    assert_eq!(
        fixture.commit("g", "nowhere", 1),
        ErrorCode::UnknownTopicOrPartition.code()
    );
    let listed = fixture
        .broker()
        .call(wire::ListGroupsRequest::default())
        .unwrap();
    assert_eq!(
        (
            listed.groups[0].group_id.as_str(),
            listed.groups[0].group_state.as_str()
        ),
        ("g", "Empty")
    );
}

#[test]
fn an_offset_is_not_told_before_it_is_on_disk() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    fixture.commit("g", "t", 1);
    let answer = fixture.submit(commit_request("g", "t", 2));
    assert!(answer.try_recv().is_err());
    assert_eq!(fixture.committed("g", "t"), 1);
    fixture.broker().flush_once();
    assert!(answer.try_recv().is_ok());
    assert_eq!(fixture.committed("g", "t"), 2);
}

#[test]
fn a_commit_that_does_not_fit_into_a_batch_is_refused_so() {
    let fixture = Fixture::new();
    fixture.create("t", 20_000);
    let mut request = commit_request("g", "t", 0);
    let one = request.topics[0].partitions[0].clone();
    request.topics[0].partitions = (0..20_000)
        .map(|index| {
            let mut partition = one.clone();
            partition.partition_index = index;
            partition.committed_metadata = Some("x".repeat(40).into());
            partition
        })
        .collect();
    let response = fixture.broker().call(request).unwrap();
    assert_eq!(
        response.topics[0].partitions[0].error_code,
        ErrorCode::InvalidCommitOffsetSize.code()
    );
    assert_eq!(fixture.committed("g", "t"), -1);
}

#[test]
fn a_group_that_nobody_came_to_is_forgotten() {
    let fixture = Fixture::new();
    let join = message!(wire::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![message!(
            wire::join_group_request::JoinGroupRequestProtocol {
                name: "range".into()
            }
        )]
    });
    assert_eq!(
        fixture.broker().call(join).unwrap().error_code,
        ErrorCode::MemberIdRequired.code()
    );
    assert_eq!(
        fixture
            .broker()
            .call(wire::ListGroupsRequest::default())
            .unwrap()
            .groups
            .len(),
        1
    );
    fixture.clock.advance(10_000);
    fixture.broker().step();
    assert!(
        fixture
            .broker()
            .call(wire::ListGroupsRequest::default())
            .unwrap()
            .groups
            .is_empty()
    );
}

#[test]
fn a_fetch_that_names_a_partition_often_watches_it_once() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let mut request = fetch_request("t", 0, 1, 500);
    let one = request.topics[0].partitions[0].clone();
    request.topics[0].partitions = vec![one; 50_000];
    let answer = fixture.submit(request);
    fixture
        .broker()
        .partition("t", 0)
        .unwrap()
        .append(batch(&["a"]), NOW_MS)
        .unwrap();
    fixture.broker().flush_once();
    assert_eq!(fetched(answer.try_recv().unwrap()).high_watermark, 1);
}

#[test]
fn a_deleted_group_takes_its_offsets_along() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    fixture.commit("g", "t", 1);
    let delete = || {
        message!(wire::DeleteGroupsRequest {
            groups_names: vec!["g".into(), "other".into()]
        })
    };
    let response = fixture.broker().call(delete()).unwrap();
    let codes: Vec<_> = response
        .results
        .iter()
        .map(|result| result.error_code)
        .collect();
    assert_eq!(codes, [0, ErrorCode::GroupIdNotFound.code()]);
    fixture.crash();
    assert_eq!(fixture.committed("g", "t"), -1);
    assert!(
        fixture
            .broker()
            .call(wire::ListGroupsRequest::default())
            .unwrap()
            .groups
            .is_empty()
    );
}

#[test]
fn offsets_are_deleted_one_by_one() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    fixture.create("u", 1);
    fixture.commit("g", "t", 1);
    fixture.commit("g", "u", 2);
    let request = message!(wire::OffsetDeleteRequest {
        group_id: "g".into(),
        topics: vec![message!(
            wire::offset_delete_request::OffsetDeleteRequestTopic {
                name: "t".into(),
                partitions: vec![message!(
                    wire::offset_delete_request::OffsetDeleteRequestPartition {
                        partition_index: 0
                    }
                )]
            }
        )]
    });
    let response = fixture.broker().call(request).unwrap();
    assert_eq!(
        (
            response.error_code,
            response.topics[0].partitions[0].error_code
        ),
        (0, 0)
    );
    assert_eq!(
        (fixture.committed("g", "t"), fixture.committed("g", "u")),
        (-1, 2)
    );
}

#[test]
fn a_member_joins_commits_and_goes_on_after_a_restart() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let join = |member_id: &str| {
        message!(wire::JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            member_id: member_id.into(),
            protocol_type: "consumer".into(),
            protocols: vec![message!(
                wire::join_group_request::JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: Bytes::from_static(b"m")
                }
            )]
        })
    };
    let first = fixture.broker().call(join("")).unwrap();
    assert_eq!(first.error_code, ErrorCode::MemberIdRequired.code());
    let member_id = first.member_id.as_str().to_owned();
    let joined = fixture.broker().call(join(&member_id)).unwrap();
    assert_eq!(
        (
            joined.error_code,
            joined.generation_id,
            joined.leader.as_str(),
            joined.members.len()
        ),
        (0, 1, member_id.as_str(), 1)
    );
    let sync = message!(wire::SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: member_id.as_str().into(),
        assignments: vec![message!(
            wire::sync_group_request::SyncGroupRequestAssignment {
                member_id: member_id.as_str().into(),
                assignment: Bytes::from_static(b"t-0")
            }
        )]
    });
    assert_eq!(fixture.broker().call(sync).unwrap().assignment, "t-0");
    fixture.crash();
    let heartbeat = |generation: i32| {
        message!(wire::HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member_id.as_str().into()
        })
    };
    assert_eq!(fixture.broker().call(heartbeat(1)).unwrap().error_code, 0);
    assert_eq!(
        fixture.broker().call(heartbeat(2)).unwrap().error_code,
        ErrorCode::IllegalGeneration.code()
    );
    let describe = fixture
        .broker()
        .call(message!(wire::DescribeGroupsRequest {
            groups: vec!["g".into()]
        }))
        .unwrap();
    let group = &describe.groups[0];
    assert_eq!(
        (
            group.group_state.as_str(),
            group.protocol_data.as_str(),
            &group.members[0].member_assignment[..]
        ),
        ("Stable", "range", &b"t-0"[..])
    );
    // Nobody else commits for it.
    assert_eq!(
        fixture.commit("g", "t", 5),
        ErrorCode::UnknownMemberId.code()
    );
    let mut own = commit_request("g", "t", 6);
    own.generation_id_or_member_epoch = 1;
    own.member_id = member_id.as_str().into();
    assert_eq!(
        fixture.broker().call(own).unwrap().topics[0].partitions[0].error_code,
        0
    );
    assert_eq!(fixture.committed("g", "t"), 6);
    fixture.clock.advance(10_000);
    fixture.broker().step();
    assert_eq!(
        fixture.broker().call(heartbeat(1)).unwrap().error_code,
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn a_deleted_topic_is_gone_with_its_records_and_offsets_and_can_be_created_again() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    partition.append(batch(&["a"]), NOW_MS).unwrap();
    fixture.broker().flush_once();
    fixture.commit("g", "t", 1);
    let waiting = fixture.submit(fetch_request("t", 1, 1, 60_000));
    let request = message!(wire::DeleteTopicsRequest {
        topics: vec![message!(wire::delete_topics_request::DeleteTopicState {
            name: Some("t".into())
        })]
    });
    assert_eq!(
        fixture.broker().call(request.clone()).unwrap().responses[0].error_code,
        0
    );
    assert_eq!(
        fetched(waiting.try_recv().unwrap()).error_code,
        ErrorCode::UnknownTopicOrPartition.code()
    );
    assert!(partition.append(batch(&["b"]), NOW_MS).is_err());
    assert_eq!(
        fixture.broker().call(request).unwrap().responses[0].error_code,
        ErrorCode::UnknownTopicOrPartition.code()
    );
    fixture.create("t", 1);
    assert_ne!(
        fixture.broker().partition("t", 0).unwrap().topic_id(),
        partition.topic_id()
    );
    fixture.broker().flush_once();
    assert_eq!(fixture.committed("g", "t"), -1);
    fixture.crash();
    assert!(read_all(fixture.broker(), "t").is_empty());
}

#[test]
fn deleted_records_stay_deleted_after_a_crash() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    for value in ["a", "b", "c"] {
        partition.append(batch(&[value]), NOW_MS).unwrap();
    }
    fixture.broker().flush_once();
    let request = |offset| {
        message!(wire::DeleteRecordsRequest {
            topics: vec![message!(wire::delete_records_request::DeleteRecordsTopic {
                name: "t".into(),
                partitions: vec![message!(
                    wire::delete_records_request::DeleteRecordsPartition {
                        partition_index: 0,
                        offset: offset
                    }
                )]
            })]
        })
    };
    let deleted = fixture.broker().call(request(2)).unwrap();
    assert_eq!(
        (
            deleted.topics[0].partitions[0].error_code,
            deleted.topics[0].partitions[0].low_watermark
        ),
        (0, 2)
    );
    fixture.crash();
    assert_eq!(read_all(fixture.broker(), "t"), ["c"]);
    let beyond = fixture.broker().call(request(9)).unwrap();
    assert_eq!(
        beyond.topics[0].partitions[0].error_code,
        ErrorCode::OffsetOutOfRange.code()
    );
    let all = fixture.broker().call(request(-1)).unwrap();
    assert_eq!(all.topics[0].partitions[0].low_watermark, 3);
}

#[test]
fn offsets_are_listed_by_bound_and_by_time() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    for timestamp in [100, 300, 200] {
        let mut builder = Builder::new();
        builder.append(NOW_MS + timestamp, None, Some(b"v"), &[]);
        partition.append(builder.build(), NOW_MS).unwrap();
    }
    let list = |timestamp: i64| {
        let request = message!(wire::ListOffsetsRequest {
            topics: vec![message!(wire::list_offsets_request::ListOffsetsTopic {
                name: "t".into(),
                partitions: vec![message!(wire::list_offsets_request::ListOffsetsPartition {
                    current_leader_epoch: -1,
                    timestamp: timestamp
                })]
            })]
        });
        let response = fixture.broker().call(request).unwrap();
        (
            response.topics[0].partitions[0].error_code,
            response.topics[0].partitions[0].offset,
        )
    };
    assert_eq!(
        [-1, -2, -3, -4, -5].map(list),
        [(0, 3), (0, 0), (0, 1), (0, 0), (0, -1)]
    );
    assert_eq!(
        [0, 101, 301].map(|timestamp| list(NOW_MS + timestamp)),
        [(0, 0), (0, 1), (0, -1)]
    );
    assert_eq!(list(-9).0, ErrorCode::UnsupportedVersion.code());
    let wanted = message!(wire::list_offsets_request::ListOffsetsPartition {
        current_leader_epoch: -1,
        timestamp: -1
    });
    let twice = message!(wire::list_offsets_request::ListOffsetsTopic {
        name: "t".into(),
        partitions: vec![wanted; 2]
    });
    let request = message!(wire::ListOffsetsRequest {
        topics: vec![twice]
    });
    let answered = &fixture.broker().call(request).unwrap().topics[0].partitions;
    assert_eq!(answered.len(), 1);
    assert_eq!(answered[0].error_code, ErrorCode::InvalidRequest.code());
}

#[test]
fn metadata_creates_topics_when_both_sides_allow_it() {
    let fixture = Fixture::with(|config| config.partitions_default = 3);
    let ask = |name: &str, allow: bool| {
        let request = message!(wire::MetadataRequest {
            allow_auto_topic_creation: allow,
            topics: Some(vec![message!(
                wire::metadata_request::MetadataRequestTopic {
                    name: Some(name.into())
                }
            )])
        });
        fixture.broker().call(request).unwrap().topics.remove(0)
    };
    assert_eq!(
        ask("t", false).error_code,
        ErrorCode::UnknownTopicOrPartition.code()
    );
    let created = ask("t", true);
    assert_eq!(
        (
            created.error_code,
            created.partitions.len(),
            created.partitions[2].leader_id
        ),
        (0, 3, 1)
    );
    assert_eq!(
        ask("bad name", true).error_code,
        ErrorCode::InvalidTopic.code()
    );
    let by_id = message!(wire::MetadataRequest {
        topics: Some(vec![message!(
            wire::metadata_request::MetadataRequestTopic {
                name: None,
                topic_id: created.topic_id
            }
        )])
    });
    assert_eq!(
        fixture.broker().call(by_id).unwrap().topics[0].name,
        Some("t".into())
    );
    let all = message!(wire::MetadataRequest { topics: None });
    assert_eq!(fixture.broker().call(all).unwrap().topics.len(), 1);
}

#[test]
fn creating_topics_checks_names_counts_and_configs() {
    let fixture = Fixture::new();
    let broker = fixture.broker();
    let code = |name: &str, count: i32, configs: &[(&str, &str)]| {
        create(broker, name, count, configs).unwrap_err().0
    };
    assert_eq!(code("a b", 1, &[]), ErrorCode::InvalidTopic.code());
    assert_eq!(code("t", 0, &[]), ErrorCode::InvalidPartitions.code());
    assert_eq!(
        code("t", i32::MAX, &[]),
        ErrorCode::InvalidPartitions.code()
    );
    assert_eq!(
        code("t", 1, &[("retention.msec", "1")]),
        ErrorCode::InvalidConfig.code()
    );
    assert_eq!(code(OFFSETS_TOPIC, 1, &[]), ErrorCode::InvalidTopic.code());
    create(broker, "t", -1, &[("retention.ms", "5")]).unwrap();
    assert_eq!(code("t", 1, &[]), ErrorCode::TopicAlreadyExists.code());
    let replicated = message!(wire::create_topics_request::CreatableTopic {
        name: "r".into(),
        num_partitions: 1,
        replication_factor: 3
    });
    let request = message!(wire::CreateTopicsRequest {
        topics: vec![replicated]
    });
    assert_eq!(
        broker.call(request).unwrap().topics[0].error_code,
        ErrorCode::InvalidReplicationFactor.code()
    );
    let checked = message!(wire::create_topics_request::CreatableTopic {
        name: "v".into(),
        num_partitions: 1,
        replication_factor: 1
    });
    let request = message!(wire::CreateTopicsRequest {
        topics: vec![checked],
        validate_only: true
    });
    assert_eq!(broker.call(request).unwrap().topics[0].error_code, 0);
    assert!(broker.partition("v", 0).is_none());
}

#[test]
fn configs_are_in_force_when_the_change_is_answered_and_after_a_crash() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let alter = |value: &str| {
        message!(wire::IncrementalAlterConfigsRequest {
            resources: vec![message!(
                wire::incremental_alter_configs_request::AlterConfigsResource {
                    resource_type: 2,
                    resource_name: "t".into(),
                    configs: vec![message!(
                        wire::incremental_alter_configs_request::AlterableConfig {
                            name: "max.message.bytes".into(),
                            config_operation: 0,
                            value: Some(value.into())
                        }
                    )]
                }
            )]
        })
    };
    assert_eq!(
        fixture.broker().call(alter("nonsense")).unwrap().responses[0].error_code,
        ErrorCode::InvalidConfig.code()
    );
    assert_eq!(
        fixture.broker().call(alter("10")).unwrap().responses[0].error_code,
        0
    );
    let code = |fixture: &Fixture| {
        let answer = fixture.submit(produce_request("t", 1, 1000, batch(&["a"])));
        produced(answer.try_recv().unwrap()).error_code
    };
    assert_eq!(code(&fixture), ErrorCode::MessageTooLarge.code());
    fixture.crash();
    assert_eq!(code(&fixture), ErrorCode::MessageTooLarge.code());
    let request = message!(wire::DescribeConfigsRequest {
        include_synonyms: true,
        resources: vec![message!(
            wire::describe_configs_request::DescribeConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                configuration_keys: Some(vec!["max.message.bytes".into()])
            }
        )]
    });
    let described = fixture.broker().call(request).unwrap();
    let config = &described.results[0].configs[0];
    assert_eq!(
        (
            config.value.as_ref().unwrap().as_str(),
            config.config_source,
            config.synonyms.len()
        ),
        ("10", 1, 2)
    );
}

#[test]
fn partitions_are_added_and_are_there_after_a_crash() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let request = |count: i32| {
        message!(wire::CreatePartitionsRequest {
            topics: vec![message!(
                wire::create_partitions_request::CreatePartitionsTopic {
                    name: "t".into(),
                    count: count,
                    assignments: None
                }
            )]
        })
    };
    assert_eq!(
        fixture.broker().call(request(3)).unwrap().results[0].error_code,
        0
    );
    assert_eq!(
        fixture.broker().call(request(2)).unwrap().results[0].error_code,
        ErrorCode::InvalidPartitions.code()
    );
    fixture.crash();
    assert!(
        fixture.broker().partition("t", 2).is_some()
            && fixture.broker().partition("t", 3).is_none()
    );
}

#[test]
fn topic_partitions_are_described_in_pages() {
    let fixture = Fixture::new();
    fixture.create("a", 3);
    fixture.create("b", 2);
    let mut request = message!(wire::DescribeTopicPartitionsRequest {
        response_partition_limit: 2
    });
    let mut seen = Vec::new();
    loop {
        let response = fixture.broker().call(request.clone()).unwrap();
        for topic in &response.topics {
            let name = topic.name.as_ref().unwrap().as_str();
            seen.extend(
                topic
                    .partitions
                    .iter()
                    .map(|partition| format!("{name}{}", partition.partition_index)),
            );
        }
        let Some(next) = response.next_cursor else {
            break;
        };
        request.cursor = Some(message!(wire::describe_topic_partitions_request::Cursor {
            topic_name: next.topic_name,
            partition_index: next.partition_index
        }));
    }
    assert_eq!(seen, ["a0", "a1", "a2", "b0", "b1"]);
}

#[test]
fn retention_runs_when_it_is_due() {
    let fixture = Fixture::with(|config| {
        config.flush = Flush::Os;
        config
            .topic_defaults
            .insert("retention.ms".into(), "1000".into());
        config
            .topic_defaults
            .insert("segment.ms".into(), "100".into());
    });
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    for round in 0..3 {
        let mut builder = Builder::new();
        builder.append(
            fixture.clock.now_ms(),
            None,
            Some(round.to_string().as_bytes()),
            &[],
        );
        partition
            .append(builder.build(), fixture.clock.now_ms())
            .unwrap();
        fixture.clock.advance(200);
    }
    assert_eq!(partition.log_start_offset(), 0);
    fixture
        .clock
        .advance(fixture.broker().config().retention_check_interval_ms);
    fixture.broker().step();
    assert!(partition.log_start_offset() > 0);
}

/// Names in a directory of the data that end so.
fn names_ending(fixture: &Fixture, dir: &str, suffix: &str) -> Vec<String> {
    let listed = std::fs::read_dir(fixture.dir.path().join(dir)).unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(suffix)).collect()
}

#[test]
fn what_is_deleted_stays_for_its_delay_under_another_name() {
    let mut fixture = Fixture::with(|config| config.flush = Flush::Os);
    let configs = [("segment.ms", "1"), ("file.delete.delay.ms", "5000")];
    create(fixture.broker(), "t", 1, &configs).unwrap();
    let fill = |fixture: &Fixture| {
        let partition = fixture.broker().partition("t", 0).unwrap();
        for later_ms in [0, 10, 20] {
            let now_ms = fixture.clock.now_ms();
            let mut builder = Builder::new();
            builder.append(now_ms + later_ms, None, Some(b"v"), &[]);
            partition.append(builder.build(), now_ms).unwrap();
        }
    };
    let delete_to = |fixture: &Fixture, offset: i64| {
        delete_records(fixture.broker(), "t", offset);
    };
    fill(&fixture);
    delete_to(&fixture, 2);
    assert_eq!(names_ending(&fixture, "t-0", ".log.deleted").len(), 2);
    assert_eq!(names_ending(&fixture, "t-0", ".log").len(), 1);
    let due_ms = fixture.clock.now_ms() + 5000;
    assert!(fixture.broker().step() <= due_ms);
    fixture.clock.advance(4999);
    fixture.broker().step();
    assert_eq!(names_ending(&fixture, "t-0", ".log.deleted").len(), 2);
    fixture.clock.advance(1);
    fixture.broker().step();
    assert!(names_ending(&fixture, "t-0", ".deleted").is_empty());
    // A start does not wait for the time.
    fill(&fixture);
    delete_to(&fixture, 4);
    assert!(!names_ending(&fixture, "t-0", ".deleted").is_empty());
    fixture.crash();
    assert!(names_ending(&fixture, "t-0", ".deleted").is_empty());
    // A topic obeys the broker's delay, which is Kafka's.
    delete(fixture.broker(), "t");
    assert_eq!(names_ending(&fixture, "", "-delete").len(), 1);
    fixture.create("t", 1);
    fixture.clock.advance(60_000);
    fixture.broker().step();
    assert!(names_ending(&fixture, "", "-delete").is_empty());
    assert_eq!(
        fixture.broker().partition("t", 0).unwrap().log_end_offset(),
        0
    );
}

#[test]
fn with_flush_os_a_topic_may_ask_to_be_synced_sooner() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    let configs = [("flush.messages", "3")];
    create(fixture.broker(), "by-count", 1, &configs).unwrap();
    create(fixture.broker(), "by-time", 1, &[("flush.ms", "100")]).unwrap();
    fixture.create("neither", 1);
    let append = |topic: &str| {
        let partition = fixture.broker().partition(topic, 0).unwrap();
        partition
            .append(batch(&["v"]), fixture.clock.now_ms())
            .unwrap();
        fixture.broker().flush_once();
        partition.checkpoint().unwrap().0
    };
    let recovery_points = |topic: &str| [append(topic), append(topic), append(topic)];
    assert_eq!(recovery_points("by-count"), [0, 0, 3]);
    assert_eq!(recovery_points("neither"), [0, 0, 0]);
    assert_eq!(append("by-time"), 0);
    fixture.clock.advance(100);
    assert_eq!(append("by-time"), 2);
    assert_eq!(append("by-time"), 2);
}

#[test]
fn flush_ms_is_looked_at_on_a_schedule_and_not_only_by_appends() {
    let fixture = Fixture::with(|config| {
        config.flush = Flush::Os;
        config.checkpoint_interval_ms = 1_000_000;
        config.flush_scheduler_interval_ms = 100;
    });
    create(fixture.broker(), "slow", 1, &[("flush.ms", "350")]).unwrap();
    fixture.create("as-the-schedule", 1);
    let never = i64::MAX.to_string();
    create(fixture.broker(), "never", 1, &[("flush.ms", &never)]).unwrap();
    let partition = |topic: &str| fixture.broker().partition(topic, 0).unwrap();
    let topics = ["slow", "as-the-schedule", "never"];
    let append = || {
        for topic in topics {
            let now_ms = fixture.clock.now_ms();
            partition(topic).append(batch(&["v"]), now_ms).unwrap();
        }
    };
    let recovery_points = || topics.map(|topic| partition(topic).checkpoint().unwrap().0);
    let pass = |duration_ms: i64| {
        fixture.clock.advance(duration_ms);
        assert!(fixture.broker().step() <= fixture.clock.now_ms() + 100);
        recovery_points()
    };
    append();
    assert_eq!(pass(99), [0, 0, 0]);
    assert_eq!(pass(1), [0, 1, 0]);
    append();
    assert_eq!(pass(100), [0, 2, 0]);
    // It would be 400 ms old at the next look.
    assert_eq!(pass(100), [2, 2, 0]);
    // What came after the sync has its own time.
    append();
    assert_eq!(pass(100), [2, 3, 0]);
    assert_eq!(pass(100), [2, 3, 0]);
    assert_eq!(pass(100), [3, 3, 0]);
    // Without a schedule nobody looks, as in Kafka.
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    create(fixture.broker(), "t", 1, &[("flush.ms", "1")]).unwrap();
    let partition = fixture.broker().partition("t", 0).unwrap();
    let now_ms = fixture.clock.now_ms();
    partition.append(batch(&["v"]), now_ms).unwrap();
    fixture.clock.advance(10_000);
    fixture.broker().step();
    assert_eq!(partition.checkpoint().unwrap().0, 0);
}

#[test]
fn a_topic_s_batches_are_compressed_at_its_level() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    let stored_bytes = |topic: &str, codec: &str, level: (&str, &str)| {
        create(
            fixture.broker(),
            topic,
            1,
            &[("compression.type", codec), level],
        )
        .unwrap();
        let partition = fixture.broker().partition(topic, 0).unwrap();
        let mut builder = Builder::new();
        for number in 0..5000_u32 {
            let value = (number * number % 1000).to_string();
            builder.append(NOW_MS, None, Some(value.as_bytes()), &[]);
        }
        partition.append(builder.build(), NOW_MS).unwrap();
        partition.size_bytes()
    };
    for (codec, low, high) in [("gzip", "1", "9"), ("zstd", "-50", "19")] {
        let name = format!("compression.{codec}.level");
        let low = stored_bytes(&format!("{codec}-low"), codec, (&name, low));
        let high = stored_bytes(&format!("{codec}-high"), codec, (&name, high));
        assert!(high < low, "{codec}: {high} {low}");
    }
    let refused = create(
        fixture.broker(),
        "lz4",
        1,
        &[("compression.lz4.level", "12")],
    );
    assert!(format!("{refused:?}").contains("compression.lz4.level"));
}

#[test]
fn after_shutdown_nothing_is_accepted() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let waiting = fixture.submit(fetch_request("t", 0, 1, 60_000));
    fixture.broker().shutdown().unwrap();
    assert!(waiting.try_recv().is_ok());
    assert!(
        fixture
            .broker()
            .partition("t", 0)
            .unwrap()
            .append(batch(&["a"]), NOW_MS)
            .is_err()
    );
    assert_eq!(
        create(fixture.broker(), "u", 1, &[]).unwrap_err().0,
        ErrorCode::KafkaStorageError.code()
    );
    fixture.broker().shutdown().unwrap();
}

#[test]
fn threads_share_fsyncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path());
    config.offsets_topic_partitions = 1;
    let broker = Broker::open(config.clone()).unwrap();
    create(&broker, "t", 2, &[]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..50 {
                    let mut request = produce_request("t", -1, 30_000, batch(&["v"]));
                    request.topic_data[0].partition_data[0].index = round % 2;
                    let response = broker.call(request).unwrap();
                    let partition = &response.responses[0].partition_responses[0];
                    assert_eq!(partition.error_code, 0);
                    let high_watermark = broker.partition("t", round % 2).unwrap().high_watermark();
                    assert!(partition.base_offset < high_watermark);
                }
            });
        }
    });
    let ends = |broker: &Broker| {
        [0, 1].map(|index| broker.partition("t", index).unwrap().high_watermark())
    };
    assert_eq!(ends(&broker), [100, 100]);
    assert!(matches!(
        Broker::open(config.clone()),
        Err(BrokerError::Locked { .. })
    ));
    broker.shutdown().unwrap();
    drop(broker);
    assert_eq!(ends(&Broker::open(config).unwrap()), [100, 100]);
}

fn open_on(disk: &SimDisk, clock: &Arc<ManualClock>) -> Broker {
    open_with_journal(disk, clock, 1 << 20)
}

/// With a sync journal of this size. Without one each log is synced by itself: so one of them can fail.
fn open_with_journal(disk: &SimDisk, clock: &Arc<ManualClock>, bytes_max: u64) -> Broker {
    let mut config = config(Path::new("/data"), clock.clone());
    config.sync_journal_bytes_max = bytes_max;
    config.disk = Arc::new(disk.clone());
    config.lock_data_dir = false;
    Broker::open(config).unwrap()
}

fn append_many(broker: &Broker, topic: &str, count: usize) {
    let partition = broker.partition(topic, 0).unwrap();
    for value in 0..count {
        partition
            .append(batch(&[&value.to_string()]), NOW_MS)
            .unwrap();
    }
    broker.flush_once();
}

fn delete(broker: &Broker, topic: &str) {
    let request = message!(wire::DeleteTopicsRequest {
        topics: vec![message!(wire::delete_topics_request::DeleteTopicState {
            name: Some(topic.into())
        })]
    });
    let response = broker.call(request).unwrap();
    assert_eq!(response.responses[0].error_code, 0);
}

fn delete_records(broker: &Broker, topic: &str, offset: i64) {
    let request = message!(wire::DeleteRecordsRequest {
        topics: vec![message!(wire::delete_records_request::DeleteRecordsTopic {
            name: topic.into(),
            partitions: vec![message!(
                wire::delete_records_request::DeleteRecordsPartition {
                    partition_index: 0,
                    offset: offset
                }
            )]
        })]
    });
    let response = broker.call(request).unwrap();
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
}

#[test]
fn a_topic_created_anew_inherits_no_log_start_from_the_deleted_one() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    append_many(fixture.broker(), "t", 8);
    delete_records(fixture.broker(), "t", 6);
    delete(fixture.broker(), "t");
    fixture.create("t", 1);
    append_many(fixture.broker(), "t", 3);
    fixture.crash();
    assert_eq!(read_all(fixture.broker(), "t"), ["0", "1", "2"]);
}

#[test]
fn a_topic_created_anew_begins_at_zero_though_the_start_noted_another_log() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    append_many(fixture.broker(), "t", 8);
    delete_records(fixture.broker(), "t", 6);
    fixture.restart();
    delete(fixture.broker(), "t");
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    assert_eq!(
        (partition.log_start_offset(), partition.log_end_offset()),
        (0, 0)
    );
}

#[test]
fn a_deletion_cut_short_anywhere_leaves_the_topic_or_nothing() {
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let history = |disk: &SimDisk| {
        let broker = open_on(disk, &clock);
        create(&broker, "t", 2, &[]).unwrap();
        append_many(&broker, "t", 8);
        delete_records(&broker, "t", 6);
        let response = broker.call(commit_request("g", "t", 7)).unwrap();
        assert_eq!(response.topics[0].partitions[0].error_code, 0);
        broker
    };
    let delete_request = || {
        message!(wire::DeleteTopicsRequest {
            topics: vec![message!(wire::delete_topics_request::DeleteTopicState {
                name: Some("t".into())
            })]
        })
    };
    let disk = SimDisk::new();
    let broker = history(&disk);
    let first = disk.operations();
    delete(&broker, "t");
    broker.flush_once();
    let last = disk.operations();
    assert!(last > first);
    for stop in first..=last {
        for how in [
            Crash::KeepAll,
            Crash::LoseUnsynced,
            Crash::Torn { seed: stop },
        ] {
            let disk = SimDisk::new();
            let broker = history(&disk);
            disk.set_fault(crate::disk::Fault::StopAt(stop));
            broker.call(delete_request()).unwrap();
            broker.flush_once();
            let disk = disk.crash(how);
            drop(broker);
            let broker = open_on(&disk, &clock);
            if broker.partition("t", 0).is_some() {
                assert_eq!(read_all(&broker, "t"), ["6", "7"], "{stop} {how:?}");
                continue;
            }
            let names = disk.list(Path::new("/data")).unwrap();
            assert!(
                !names.iter().any(|entry| entry.name.starts_with("t-")),
                "{stop} {how:?}: {names:?}"
            );
            create(&broker, "t", 2, &[]).unwrap();
            let offsets = broker
                .core
                .groups
                .with_offsets("g", |offsets| offsets.is_some());
            assert!(!offsets, "{stop} {how:?}");
            append_many(&broker, "t", 3);
            let disk = disk.crash(Crash::LoseUnsynced);
            drop(broker);
            let broker = open_on(&disk, &clock);
            assert_eq!(read_all(&broker, "t"), ["0", "1", "2"], "{stop} {how:?}");
        }
    }
}

#[test]
fn a_commit_on_its_way_does_not_outlive_its_topic() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let _committed = fixture.submit(commit_request("g", "t", 7));
    delete(fixture.broker(), "t");
    fixture.broker().flush_once();
    fixture.broker().flush_once();
    assert_eq!(fixture.committed("g", "t"), -1);
}

#[test]
fn checkpoints_are_not_written_once_the_logs_are_closed() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    append_many(fixture.broker(), "t", 3);
    delete_records(fixture.broker(), "t", 2);
    fixture.broker().shutdown().unwrap();
    assert!(matches!(
        fixture.broker().core.write_log_start_offsets(),
        Err(BrokerError::Closed)
    ));
}

#[test]
fn a_stop_acknowledges_what_is_written() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let answer = fixture.submit(produce_request("t", -1, 1000, batch(&["a"])));
    assert!(answer.try_recv().is_err());
    fixture.broker().shutdown().unwrap();
    assert_eq!(produced(answer.try_recv().unwrap()).error_code, 0);
}

#[test]
fn a_write_that_cannot_be_undone_fails_who_waits_for_earlier_ones() {
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let disk = SimDisk::new();
    let broker = open_on(&disk, &clock);
    create(&broker, "t", 1, &[]).unwrap();
    let (sender, answer) = mpsc::channel();
    broker.submit(
        &RequestContext::in_process("test"),
        produce_request("t", -1, 1000, batch(&["a"])).into(),
        Box::new(move |response| sender.send(response).unwrap()),
    );
    assert!(answer.try_recv().is_err());
    disk.set_fault(crate::disk::Fault::StopAt(disk.operations()));
    let partition = broker.partition("t", 0).unwrap();
    partition.append(batch(&["b"]), NOW_MS).unwrap_err();
    broker.flush_once();
    assert!(partition.has_failed());
    assert_eq!(
        produced(answer.try_recv().unwrap()).error_code,
        ErrorCode::KafkaStorageError.code()
    );
}

#[test]
fn a_fetch_waits_for_no_more_than_it_could_get_and_no_longer_than_a_minute() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    append_many(fixture.broker(), "t", 1);
    let mut request = fetch_request("t", 0, i32::MAX, 1000);
    request.max_bytes = 10;
    let answer = fixture.submit(request);
    assert!(
        !fetched(answer.try_recv().unwrap())
            .records
            .unwrap()
            .is_empty()
    );
    let answer = fixture.submit(fetch_request("t", 1, 1, i32::MAX));
    fixture.clock.advance(59_999);
    fixture.broker().step();
    assert!(answer.try_recv().is_err());
    fixture.clock.advance(1);
    fixture.broker().step();
    assert_eq!(fetched(answer.try_recv().unwrap()).error_code, 0);
}

#[test]
fn a_refused_join_leaves_no_group() {
    let fixture = Fixture::new();
    let join = message!(wire::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 1,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![message!(
            wire::join_group_request::JoinGroupRequestProtocol {
                name: "range".into()
            }
        )]
    });
    assert_eq!(
        fixture.broker().call(join).unwrap().error_code,
        ErrorCode::InvalidSessionTimeout.code()
    );
    let listed = fixture
        .broker()
        .call(wire::ListGroupsRequest::default())
        .unwrap();
    assert!(listed.groups.is_empty());
}

#[test]
fn what_is_named_again_is_answered_once() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let broker = fixture.broker();
    let topic = message!(wire::metadata_request::MetadataRequestTopic {
        name: Some("t".into())
    });
    let metadata = message!(wire::MetadataRequest {
        topics: Some(vec![topic; 3])
    });
    assert_eq!(broker.call(metadata).unwrap().topics.len(), 1);
    let groups = message!(wire::DescribeGroupsRequest {
        groups: vec!["g".into(), "h".into(), "g".into()]
    });
    assert_eq!(broker.call(groups).unwrap().groups.len(), 2);
    let resource = message!(wire::describe_configs_request::DescribeConfigsResource {
        resource_type: 2,
        resource_name: "t".into()
    });
    let configs = message!(wire::DescribeConfigsRequest {
        resources: vec![resource; 3]
    });
    assert_eq!(broker.call(configs).unwrap().results.len(), 1);
    let group = message!(wire::offset_fetch_request::OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: Some(vec![message!(
            wire::offset_fetch_request::OffsetFetchRequestTopics {
                name: "t".into(),
                partition_indexes: vec![0, 1, 0, 0]
            }
        )])
    });
    let offsets = message!(wire::OffsetFetchRequest {
        groups: vec![group; 2]
    });
    let response = broker.call(offsets).unwrap();
    assert_eq!(response.groups.len(), 1);
    assert_eq!(response.groups[0].topics[0].partitions.len(), 2);
}

#[test]
fn a_request_for_too_many_partitions_creates_none() {
    let fixture = Fixture::new();
    let topic = |name: &str| {
        message!(wire::create_topics_request::CreatableTopic {
            name: name.into(),
            num_partitions: 50_001,
            replication_factor: 1,
        })
    };
    let request = message!(wire::CreateTopicsRequest {
        topics: vec![topic("t"), topic("u")]
    });
    let response = fixture.broker().call(request).unwrap();
    for topic in &response.topics {
        assert_eq!(topic.error_code, ErrorCode::PolicyViolation.code());
    }
    assert!(fixture.broker().partition("t", 0).is_none());
}

fn consumer_heartbeat(
    member_id: &str,
    member_epoch: i32,
    owned: Option<Vec<i32>>,
    topic_id: uuid::Uuid,
) -> wire::ConsumerGroupHeartbeatRequest {
    let joins = member_epoch == 0;
    message!(wire::ConsumerGroupHeartbeatRequest {
        group_id: "g".into(),
        member_id: member_id.into(),
        member_epoch: member_epoch,
        rebalance_timeout_ms: if joins { 60_000 } else { -1 },
        subscribed_topic_names: joins.then(|| vec!["t".into()]),
        topic_partitions: owned.map(|partitions| {
            let of_topic = message!(wire::consumer_group_heartbeat_request::TopicPartitions {
                topic_id: wire_id(topic_id),
                partitions: partitions,
            });
            Some(of_topic)
                .filter(|of| !of.partitions.is_empty())
                .into_iter()
                .collect()
        }),
    })
}

fn group_type(fixture: &Fixture) -> (String, String) {
    let listed = fixture
        .broker()
        .call(wire::ListGroupsRequest::default())
        .unwrap();
    let group = &listed.groups[0];
    (
        group.group_type.as_str().to_owned(),
        group.group_state.as_str().to_owned(),
    )
}

#[test]
fn a_consumer_group_goes_on_after_a_crash_and_commits_by_epoch() {
    let mut fixture = Fixture::new();
    fixture.create("t", 2);
    let topic_id = fixture.broker().core.topic("t").unwrap().id;
    let joined = fixture
        .broker()
        .call(consumer_heartbeat("a", 0, Some(Vec::new()), topic_id))
        .unwrap();
    assert_eq!(joined.error_code, 0, "{:?}", joined.error_message);
    let assigned = &joined.assignment.as_ref().unwrap().topic_partitions;
    assert_eq!(assigned[0].partitions, [0, 1]);
    fixture.crash();
    let epoch = joined.member_epoch;
    let told = fixture
        .broker()
        .call(consumer_heartbeat("a", epoch, None, topic_id))
        .unwrap();
    assert_eq!(
        (told.error_code, told.member_epoch, told.assignment),
        (0, epoch, None)
    );
    assert_eq!(
        group_type(&fixture),
        ("consumer".to_owned(), "Stable".to_owned())
    );
    let commit = |epoch: i32| {
        let mut commit = commit_request("g", "t", 6);
        commit.generation_id_or_member_epoch = epoch;
        commit.member_id = "a".into();
        let answer = fixture.broker().call(commit).unwrap();
        answer.topics[0].partitions[0].error_code
    };
    assert_eq!(commit(epoch), 0);
    assert_eq!(commit(epoch + 1), ErrorCode::StaleMemberEpoch.code());
    // Version 8 of the request has generations only: no member of this group may have sent it, and no group is known to be missing.
    let commit_of_old = |group: &str| {
        let mut commit = commit_request(group, "t", 7);
        commit.generation_id_or_member_epoch = epoch;
        commit.member_id = "a".into();
        let mut context = RequestContext::in_process("test");
        context.knows_member_epochs = false;
        let (sent, received) = mpsc::channel();
        let reply = Box::new(move |response| sent.send(response).unwrap());
        fixture.broker().submit(&context, commit.into(), reply);
        let Response::OffsetCommit(answer) = received.recv().unwrap() else {
            unreachable!("the answer to a commit");
        };
        answer.topics[0].partitions[0].error_code
    };
    assert_eq!(commit_of_old("g"), ErrorCode::UnsupportedVersion.code());
    assert_eq!(commit_of_old("no"), ErrorCode::IllegalGeneration.code());
    assert_eq!(fixture.committed("g", "t"), 6);
    let described = fixture
        .broker()
        .call(message!(wire::ConsumerGroupDescribeRequest {
            group_ids: vec!["g".into(), "other".into()]
        }))
        .unwrap();
    let group = &described.groups[0];
    assert_eq!(
        (group.group_epoch, group.assignor_name.as_str()),
        (epoch, "uniform")
    );
    assert_eq!(
        group.members[0].assignment,
        group.members[0].target_assignment
    );
    assert_eq!(
        described.groups[1].error_code,
        ErrorCode::GroupIdNotFound.code()
    );
    let left = fixture
        .broker()
        .call(consumer_heartbeat("a", -1, None, topic_id))
        .unwrap();
    assert_eq!(left.error_code, 0);
    fixture.restart();
    assert_eq!(
        group_type(&fixture),
        ("consumer".to_owned(), "Empty".to_owned())
    );
}

#[test]
fn a_live_group_changes_its_protocol_and_back() {
    let mut fixture = Fixture::new();
    fixture.create("t", 2);
    let topic_id = fixture.broker().core.topic("t").unwrap().id;
    let mut metadata = BytesMut::new();
    let subscription = message!(wire::ConsumerProtocolSubscription {
        topics: vec!["t".into()]
    });
    let version = kafka_wire_core::ApiVersion::new(1);
    wire::encode_consumer_protocol_subscription(&mut metadata, &subscription, version).unwrap();
    let metadata = metadata.freeze();
    let join = |member_id: &str| {
        message!(wire::JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 60_000,
            member_id: member_id.into(),
            protocol_type: "consumer".into(),
            protocols: vec![message!(
                wire::join_group_request::JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: metadata.clone()
                }
            )]
        })
    };
    let first = fixture.broker().call(join("")).unwrap();
    let classic = first.member_id.as_str().to_owned();
    assert_eq!(fixture.broker().call(join(&classic)).unwrap().error_code, 0);
    let everything =
        crate::protocol::encode_consumer_assignment(vec![("t".to_owned(), vec![0, 1])], 1);
    let sync = |generation: i32, assignment: Option<Bytes>| {
        let assignments = assignment.into_iter().map(|assignment| {
            message!(wire::sync_group_request::SyncGroupRequestAssignment {
                member_id: classic.as_str().into(),
                assignment: assignment,
            })
        });
        message!(wire::SyncGroupRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: classic.as_str().into(),
            assignments: assignments.collect(),
        })
    };
    let heartbeat = |generation: i32| {
        message!(wire::HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: classic.as_str().into()
        })
    };
    let synced = fixture.broker().call(sync(1, Some(everything))).unwrap();
    assert_eq!(synced.error_code, 0);

    // A member of the other protocol joins: it gets nothing before the first has given something up.
    let joined = fixture
        .broker()
        .call(consumer_heartbeat("b", 0, Some(Vec::new()), topic_id))
        .unwrap();
    assert_eq!(joined.error_code, 0, "{:?}", joined.error_message);
    assert!(joined.assignment.unwrap().topic_partitions.is_empty());
    assert_eq!(
        group_type(&fixture),
        ("consumer".to_owned(), "Reconciling".to_owned())
    );
    fixture.crash();
    let told = fixture.broker().call(heartbeat(1)).unwrap();
    assert_eq!(told.error_code, ErrorCode::RebalanceInProgress.code());
    // It says that it has nothing any more, and gets its half.
    let again = fixture.broker().call(join(&classic)).unwrap();
    assert_eq!(
        (again.error_code, again.generation_id),
        (0, joined.member_epoch)
    );
    let synced = fixture
        .broker()
        .call(sync(again.generation_id, None))
        .unwrap();
    let (partitions, _) = crate::protocol::consumer_assignment(&synced.assignment).unwrap();
    assert_eq!(partitions[0].1.len(), 1);
    let told = fixture
        .broker()
        .call(consumer_heartbeat("b", joined.member_epoch, None, topic_id))
        .unwrap();
    let got = &told.assignment.unwrap().topic_partitions[0].partitions;
    assert!(got.len() == 1 && *got != partitions[0].1);
    assert_eq!(
        group_type(&fixture),
        ("consumer".to_owned(), "Stable".to_owned())
    );

    // The last member of the consumer protocol leaves.
    let left = fixture
        .broker()
        .call(consumer_heartbeat("b", -1, None, topic_id))
        .unwrap();
    assert_eq!(left.error_code, 0);
    assert_eq!(
        group_type(&fixture),
        ("classic".to_owned(), "PreparingRebalance".to_owned())
    );
    let told = fixture
        .broker()
        .call(heartbeat(again.generation_id))
        .unwrap();
    assert_ne!(told.error_code, ErrorCode::UnknownMemberId.code());
    fixture.crash();
    assert_eq!(group_type(&fixture).0, "classic");
    let again = fixture.broker().call(join(&classic)).unwrap();
    assert_eq!((again.error_code, again.members.len()), (0, 1));
}

#[test]
fn offsets_expire_and_take_their_group_along() {
    let mut fixture = Fixture::with(|config| {
        config.offsets_retention_ms = 10_000;
        config.offsets_retention_check_interval_ms = 1000;
    });
    fixture.create("t", 1);
    fixture.broker().step();
    assert_eq!(fixture.commit("g", "t", 5), 0);
    fixture.clock.advance(9_000);
    fixture.broker().step();
    fixture.broker().flush_once();
    assert_eq!(fixture.committed("g", "t"), 5);
    fixture.clock.advance(1_000);
    fixture.broker().step();
    fixture.broker().flush_once();
    assert_eq!(fixture.committed("g", "t"), -1);
    let groups = |fixture: &Fixture| {
        let listed = fixture.broker().call(wire::ListGroupsRequest::default());
        listed.unwrap().groups.len()
    };
    assert_eq!(groups(&fixture), 0);
    fixture.crash();
    assert_eq!((fixture.committed("g", "t"), groups(&fixture)), (-1, 0));
}

#[test]
fn offsets_are_committed_and_fetched_by_topic_id() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let id = fixture.broker().core.topic("t").unwrap().id;
    let mut context = RequestContext::in_process("test");
    context.topics_by_id = true;
    let ask = |request: Request| {
        let (sender, receiver) = mpsc::channel();
        let answer = Box::new(move |response| sender.send(response).unwrap());
        fixture.broker().submit(&context, request, answer);
        fixture.broker().flush_once();
        receiver.try_recv().unwrap()
    };
    let commit = |id: uuid::Uuid| {
        let mut commit = commit_request("g", "", 7);
        commit.topics[0].topic_id = wire_id(id);
        match ask(commit.into()) {
            Response::OffsetCommit(answer) => answer.topics[0].partitions[0].error_code,
            other => unreachable!("{other:?}"),
        }
    };
    assert_eq!(commit(id), 0);
    assert_eq!(commit(uuid::Uuid::max()), ErrorCode::UnknownTopicId.code());
    let asked = [uuid::Uuid::max(), id].map(|id| {
        message!(wire::offset_fetch_request::OffsetFetchRequestTopics {
            topic_id: wire_id(id),
            partition_indexes: vec![0],
        })
    });
    let fetch = message!(wire::OffsetFetchRequest {
        groups: vec![message!(
            wire::offset_fetch_request::OffsetFetchRequestGroup {
                group_id: "g".into(),
                topics: Some(asked.into()),
                member_epoch: -1,
            }
        )]
    });
    let Response::OffsetFetch(fetched) = ask(fetch.into()) else {
        unreachable!("another answer");
    };
    let mut found: Vec<_> = fetched.groups[0]
        .topics
        .iter()
        .map(|topic| {
            let partition = &topic.partitions[0];
            (
                crate::protocol::id_of(topic.topic_id) == id,
                partition.error_code,
                partition.committed_offset,
            )
        })
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [(false, ErrorCode::UnknownTopicId.code(), -1), (true, 0, 7)]
    );
}
