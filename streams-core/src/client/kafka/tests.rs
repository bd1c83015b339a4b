//! Against librdkafka's mock cluster on loopback. It serves produce, fetch, metadata, offsets and groups, but no topic or config
//! administration and no `DescribeGroups`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::*;
use crate::client::record_batch::BatchCursor;
use crate::client::{
    AdminRequest, AdminResponse, ClaimState, CommittedOffset, Completion, Fetched, MemberIdentity,
    OffsetSpec, RecordRef, Slot, TopicHandle, TopicPartition,
};
use crate::clock::{Clock, SystemClock};
use crate::record::Headers;

const PATIENCE: Duration = Duration::from_secs(60);

/// A waker that a test waits on.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Bell {
    /// Calls `step` whenever woken until it returns something. Panics when that takes too long.
    fn until<T>(self: &Arc<Self>, what: &str, mut step: impl FnMut(&Waker) -> Option<T>) -> T {
        let waker = Waker::from(Arc::clone(self));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = step(&waker) {
                return value;
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"));
            let rung = self.rung.lock().unwrap();
            // Woken or not, no longer than this: metadata is asked again by time.
            let (mut rung, _) = self
                .changed
                .wait_timeout_while(rung, left.min(Duration::from_millis(100)), |rung| !*rung)
                .unwrap();
            *rung = false;
        }
    }
}

fn mock(
    topic: &str,
    partitions: i32,
) -> (MockCluster<'static, DefaultProducerContext>, KafkaCluster) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(topic, partitions, 1).unwrap();
    let cluster = KafkaCluster::new(&mock.bootstrap_servers(), []).unwrap();
    (mock, cluster)
}

fn producer(cluster: &KafkaCluster) -> Box<dyn Producer> {
    cluster
        .producer(&ProducerOptions {
            client_id: "test".to_owned(),
            batch_bytes: 16_384,
            linger_ms: 5,
            properties: Vec::new(),
            transaction: None,
        })
        .unwrap()
}

fn consumer(cluster: &KafkaCluster) -> Box<dyn Consumer> {
    let options = ConsumerOptions {
        client_id: "test".to_owned(),
        read_committed: false,
        partition_fetch_bytes_max: 1 << 20,
        properties: vec![("fetch.wait.max.ms".to_owned(), "10".to_owned())],
    };
    cluster.consumer(&options).unwrap()
}

fn complete(producer: &mut dyn Producer) -> Vec<Completion> {
    let mut completions = Vec::new();
    Arc::new(Bell::default()).until("all records are acknowledged", |waker| {
        producer
            .poll(SystemClock.now_ms(), waker, &mut completions)
            .unwrap();
        (producer.pending_records() == 0).then_some(())
    });
    assert_eq!(producer.pending_bytes(), 0);
    completions
}

fn produce(
    producer: &mut dyn Producer,
    topic: TopicHandle,
    partition: i32,
    values: std::ops::Range<i64>,
) {
    for value in values {
        let bytes = value.to_be_bytes();
        let record = RecordRef {
            key: Some(b"k"),
            value: Some(&bytes),
            timestamp: 1000 + value,
            headers: &Headers::default(),
        };
        producer.append(topic, partition, record).unwrap();
    }
}

fn values(batches: &[Bytes], from: i64) -> Vec<(i64, i64)> {
    let mut values = Vec::new();
    for batch in batches {
        let mut cursor = BatchCursor::new(batch.clone()).unwrap();
        cursor.skip_below(from).unwrap();
        while let Some(record) = cursor.next().unwrap() {
            let value = record
                .value
                .and_then(|value| value.first_chunk::<8>().copied())
                .unwrap();
            values.push((record.offset, i64::from_be_bytes(value)));
        }
    }
    values
}

/// Polls until `done` says so of all that has come.
fn fetch(
    consumer: &mut dyn Consumer,
    what: &str,
    done: impl Fn(&[Fetched]) -> bool,
) -> Vec<Fetched> {
    let mut fetched = Vec::new();
    Arc::new(Bell::default()).until(what, |waker| {
        consumer
            .poll(SystemClock.now_ms(), waker, &mut fetched)
            .unwrap();
        done(&fetched).then_some(())
    });
    fetched
}

fn of(fetched: &[Fetched], slot: Slot) -> Vec<Bytes> {
    fetched
        .iter()
        .filter(|fetched| fetched.slot == slot)
        .flat_map(|fetched| fetched.batches.clone())
        .collect()
}

fn ask(cluster: &KafkaCluster, request: AdminRequest) -> Result<AdminResponse, ClientError> {
    let mut admin = cluster.admin().unwrap();
    let id = admin.submit(request);
    let mut answers = Vec::new();
    Arc::new(Bell::default()).until("the request is answered", |waker| {
        admin.poll(SystemClock.now_ms(), waker, &mut answers);
        answers.pop().map(|(answered, answer)| {
            assert_eq!(answered, id);
            answer
        })
    })
}

#[test]
fn what_is_produced_is_fetched_in_order_with_the_end_offset() {
    let (_mock, cluster) = mock("t", 3);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    assert_eq!(producer.topic("t").unwrap(), topic);
    produce(&mut *producer, topic, 0, 0..5000);
    produce(&mut *producer, topic, 1, 0..10);
    producer.flush(0);
    assert_eq!(producer.pending_records(), 5010);
    let completions = complete(&mut *producer);
    let records = |partition| {
        completions
            .iter()
            .filter(|c| c.partition == partition)
            .map(|c| c.records)
            .sum::<u32>()
    };
    assert_eq!((records(0), records(1)), (5000, 10));
    let last = |partition| {
        completions
            .iter()
            .rfind(|c| c.partition == partition)
            .unwrap()
            .result
            .clone()
            .unwrap()
    };
    assert_eq!((last(0), last(1)), (4999, 9));

    let mut consumer = consumer(&cluster);
    let first = consumer.add(&TopicPartition::new("t", 0), 0).unwrap();
    let second = consumer.add(&TopicPartition::new("t", 1), 4).unwrap();
    let empty = consumer.add(&TopicPartition::new("t", 2), 0).unwrap();
    let ended = |fetched: &[Fetched], slot, end| {
        fetched
            .iter()
            .any(|f| f.slot == slot && f.next_offset == end && f.end_offset == end)
    };
    let fetched = fetch(
        &mut *consumer,
        "all partitions are read to their end",
        |fetched| {
            ended(fetched, first, 5000) && ended(fetched, second, 10) && ended(fetched, empty, 0)
        },
    );
    assert!(
        fetched
            .iter()
            .all(|fetched| fetched.error.is_none() && fetched.end_offset >= fetched.next_offset)
    );
    assert_eq!(
        values(&of(&fetched, first), 0),
        (0..5000).map(|n| (n, n)).collect::<Vec<_>>()
    );
    assert_eq!(
        values(&of(&fetched, second), 4),
        (4..10).map(|n| (n, n)).collect::<Vec<_>>()
    );
    assert!(of(&fetched, empty).is_empty());
}

#[test]
fn keys_values_timestamps_and_headers_survive() {
    let (_mock, cluster) = mock("t", 1);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    let mut headers = Headers::default();
    headers.push("a", Some(Bytes::from_static(b"1\0")));
    headers.push("a", None);
    headers.push("", Some(Bytes::new()));
    #[expect(clippy::type_complexity)]
    let records: [(Option<&[u8]>, Option<&[u8]>, i64, &Headers); 4] = [
        (None, None, 5, &headers),
        (Some(b""), Some(b""), 6, &Headers::default()),
        (Some(b"k"), None, i64::from(i32::MAX) * 1000, &headers),
        // librdkafka takes 0 for "now"; see `native::produce`.
        (None, Some(b"v"), 0, &Headers::default()),
    ];
    for (key, value, timestamp, headers) in records {
        producer
            .append(
                topic,
                0,
                RecordRef {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            )
            .unwrap();
    }
    complete(&mut *producer);
    let mut consumer = consumer(&cluster);
    let slot = consumer.add(&TopicPartition::new("t", 0), 0).unwrap();
    let fetched = fetch(&mut *consumer, "four records", |fetched| {
        fetched
            .last()
            .is_some_and(|fetched| fetched.next_offset == 4)
    });
    let mut read = Vec::new();
    for batch in of(&fetched, slot) {
        let mut cursor = BatchCursor::new(batch).unwrap();
        while let Some(record) = cursor.next().unwrap() {
            read.push((
                record.key.map(|key| key.to_vec()),
                record.value.map(|value| value.to_vec()),
                record.timestamp,
                record.headers.to_headers().unwrap(),
            ));
        }
    }
    let expected: Vec<_> = records
        .iter()
        .map(|(key, value, timestamp, headers)| {
            (
                key.map(<[u8]>::to_vec),
                value.map(<[u8]>::to_vec),
                (*timestamp).max(1),
                (*headers).clone(),
            )
        })
        .collect();
    assert_eq!(read, expected);
}

#[test]
fn a_paused_partition_keeps_its_place_and_a_sought_one_forgets_what_was_fetched() {
    let (_mock, cluster) = mock("t", 2);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    produce(&mut *producer, topic, 0, 0..100);
    produce(&mut *producer, topic, 1, 0..100);
    complete(&mut *producer);

    let mut consumer = consumer(&cluster);
    let paused = consumer.add(&TopicPartition::new("t", 0), 0).unwrap();
    let read = consumer.add(&TopicPartition::new("t", 1), 0).unwrap();
    consumer.pause(paused);
    let to_100 = |slot| {
        move |fetched: &[Fetched]| {
            fetched
                .iter()
                .any(|f| f.slot == slot && f.next_offset == 100 && f.end_offset == 100)
        }
    };
    let fetched = fetch(&mut *consumer, "the other partition", to_100(read));
    assert!(fetched.iter().all(|fetched| fetched.slot == read));
    consumer.resume(paused);
    let fetched = fetch(&mut *consumer, "the resumed partition", to_100(paused));
    assert_eq!(values(&of(&fetched, paused), 0).len(), 100);

    for offset in [90, 10] {
        consumer.seek(read, offset);
        let fetched = fetch(&mut *consumer, "the sought offset", to_100(read));
        assert_eq!(
            values(&of(&fetched, read), offset),
            (offset..100).map(|n| (n, n)).collect::<Vec<_>>()
        );
    }

    // What is fetched and not returned when it is removed is gone, and its slot is given out again.
    consumer.seek(read, 0);
    consumer.remove(read);
    let again = consumer.add(&TopicPartition::new("t", 1), 50).unwrap();
    assert_eq!(again, read);
    let fetched = fetch(&mut *consumer, "the partition added again", to_100(again));
    assert_eq!(values(&of(&fetched, again), 50).len(), 50);
    assert_eq!(
        fetched.first().unwrap().batches.first().map(|batch| values(
            std::slice::from_ref(batch),
            0
        )[0]
        .0),
        Some(50)
    );
}

#[test]
fn an_offset_outside_the_log_is_an_error_of_its_partition_until_a_seek() {
    let (_mock, cluster) = mock("t", 1);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    produce(&mut *producer, topic, 0, 0..3);
    complete(&mut *producer);
    let mut consumer = consumer(&cluster);
    let slot = consumer.add(&TopicPartition::new("t", 0), 77).unwrap();
    let fetched = fetch(&mut *consumer, "the error", |fetched| {
        fetched.iter().any(|fetched| fetched.error.is_some())
    });
    let error = fetched
        .iter()
        .find_map(|fetched| fetched.error.clone())
        .unwrap();
    assert_eq!(error.kind, ClientErrorKind::OffsetOutOfRange, "{error}");
    assert!(error.message.contains("t-0"), "{error}");
    consumer.seek(slot, 1);
    let fetched = fetch(&mut *consumer, "records again", |fetched| {
        fetched.iter().any(|fetched| fetched.next_offset == 3)
    });
    assert_eq!(values(&of(&fetched, slot), 1), [(1, 1), (2, 2)]);
}

#[test]
fn a_partition_that_is_not_there_is_an_error_of_its_own() {
    let (_mock, cluster) = mock("t", 1);
    let mut consumer = consumer(&cluster);
    let missing = consumer.add(&TopicPartition::new("t", 1), 0).unwrap();
    let there = consumer.add(&TopicPartition::new("t", 0), 0).unwrap();
    let fetched = fetch(&mut *consumer, "the error and the other's end", |fetched| {
        fetched.iter().any(|fetched| fetched.error.is_some())
            && fetched
                .iter()
                .any(|fetched| fetched.slot == there && fetched.end_offset == 0)
    });
    let failed: Vec<_> = fetched
        .iter()
        .filter(|fetched| fetched.error.is_some())
        .collect();
    assert!(
        failed
            .iter()
            .all(|fetched| fetched.slot == missing && fetched.end_offset == -1),
        "{failed:?}"
    );
    assert_eq!(
        failed[0].error.as_ref().unwrap().kind,
        ClientErrorKind::UnknownTopicOrPartition
    );
}

#[test]
fn wrong_partitions_are_refused_when_added() {
    let (_mock, cluster) = mock("t", 1);
    let mut consumer = consumer(&cluster);
    assert_eq!(
        consumer
            .add(&TopicPartition::new("t", 0), -1)
            .unwrap_err()
            .kind,
        ClientErrorKind::Config
    );
    consumer.add(&TopicPartition::new("t", 0), 0).unwrap();
    assert!(
        consumer
            .add(&TopicPartition::new("t", 0), 0)
            .unwrap_err()
            .message
            .contains("already")
    );
    assert!(
        consumer
            .add(&TopicPartition::new("t\0", 0), 0)
            .unwrap_err()
            .message
            .contains("zero byte")
    );
}

#[test]
fn records_beyond_a_full_queue_wait_their_turn() {
    let (_mock, cluster) = mock("t", 1);
    let options = ProducerOptions {
        client_id: "test".to_owned(),
        batch_bytes: 16_384,
        linger_ms: 0,
        properties: vec![("queue.buffering.max.messages".to_owned(), "10".to_owned())],
        transaction: None,
    };
    let mut producer = cluster.producer(&options).unwrap();
    let topic = producer.topic("t").unwrap();
    produce(&mut *producer, topic, 0, 0..1000);
    assert_eq!(producer.pending_records(), 1000);
    let completions = complete(&mut *producer);
    assert_eq!(
        completions
            .iter()
            .map(|completion| completion.records)
            .sum::<u32>(),
        1000
    );
    let mut consumer = consumer(&cluster);
    let slot = consumer.add(&TopicPartition::new("t", 0), 0).unwrap();
    let fetched = fetch(&mut *consumer, "all records", |fetched| {
        fetched.iter().any(|fetched| fetched.next_offset == 1000)
    });
    assert_eq!(
        values(&of(&fetched, slot), 0),
        (0..1000).map(|n| (n, n)).collect::<Vec<_>>()
    );
}

#[test]
fn a_record_that_is_too_large_and_a_partition_that_is_not_there_are_errors() {
    let (_mock, cluster) = mock("t", 1);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    let large = vec![0; 2_000_000];
    let record = RecordRef {
        key: None,
        value: Some(&large),
        timestamp: 1,
        headers: &Headers::default(),
    };
    assert_eq!(
        producer.append(topic, 0, record).unwrap_err().kind,
        ClientErrorKind::TooLarge
    );
    assert_eq!(
        (producer.pending_records(), producer.pending_bytes()),
        (0, 0)
    );
    // Before metadata is there the record waits for it; then it fails, one way or the other.
    let record = RecordRef {
        key: None,
        value: None,
        timestamp: 1,
        headers: &Headers::default(),
    };
    let kind = match producer.append(topic, 7, record) {
        Err(error) => error.kind,
        Ok(()) => complete(&mut *producer).remove(0).result.unwrap_err().kind,
    };
    assert_eq!(kind, ClientErrorKind::UnknownTopicOrPartition);
}

#[test]
fn the_number_of_partitions_comes_without_waiting() {
    let (_mock, cluster) = mock("t", 7);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    assert_eq!(producer.partitions(topic), None);
    let count = Arc::new(Bell::default()).until("the number of partitions", |waker| {
        producer
            .poll(SystemClock.now_ms(), waker, &mut Vec::new())
            .unwrap();
        producer.partitions(topic)
    });
    assert_eq!(count, 7);
}

#[test]
fn offsets_are_listed_committed_and_fetched() {
    let (mock, cluster) = mock("t", 2);
    let mut producer = producer(&cluster);
    let topic = producer.topic("t").unwrap();
    produce(&mut *producer, topic, 1, 0..42);
    complete(&mut *producer);
    let (empty, full, missing) = (
        TopicPartition::new("t", 0),
        TopicPartition::new("t", 1),
        TopicPartition::new("t", 2),
    );

    let specs = vec![
        (
            empty.clone(),
            OffsetSpec::Latest {
                read_committed: false,
            },
        ),
        (full.clone(), OffsetSpec::Earliest),
        (
            full.clone(),
            OffsetSpec::Latest {
                read_committed: true,
            },
        ),
    ];
    let AdminResponse::Offsets(offsets) = ask(&cluster, AdminRequest::ListOffsets(specs)).unwrap()
    else {
        panic!("offsets")
    };
    let offsets: Vec<_> = offsets
        .into_iter()
        .map(|(partition, offset)| (partition, offset.unwrap()))
        .collect();
    assert_eq!(offsets[0], (empty.clone(), 0));
    assert_eq!(offsets[1], (full.clone(), 0));

    let commit = |offset| AdminRequest::CommitOffsets {
        group: "g".to_owned(),
        member: MemberIdentity::simple(),
        offsets: vec![(
            full.clone(),
            CommittedOffset {
                offset,
                metadata: "AQAB".to_owned(),
            },
        )],
    };
    assert!(matches!(
        ask(&cluster, commit(17)).unwrap(),
        AdminResponse::Done
    ));
    let fetch = AdminRequest::FetchOffsets {
        group: "g".to_owned(),
        partitions: vec![empty.clone(), full.clone()],
    };
    let AdminResponse::CommittedOffsets(committed) = ask(&cluster, fetch).unwrap() else {
        panic!("committed offsets")
    };
    assert_eq!(
        committed,
        [
            (empty, None),
            (
                full,
                Some(CommittedOffset {
                    offset: 17,
                    metadata: "AQAB".to_owned()
                })
            )
        ]
    );

    let topics = vec!["t".to_owned()];
    let AdminResponse::Topics(topics) =
        ask(&cluster, AdminRequest::DescribeTopics(topics)).unwrap()
    else {
        panic!("topics")
    };
    assert_eq!(topics, [("t".to_owned(), Some(2))]);
    let request = AdminRequest::ListOffsets(vec![(missing, OffsetSpec::Earliest)]);
    // A partition may still be being created, so it is looked for until the time is over.
    let admin = AdminClient::connect(&mock.bootstrap_servers()).unwrap();
    let AdminResponse::Offsets(offsets) = admin.call(request, Duration::from_secs(1)).unwrap()
    else {
        panic!("offsets")
    };
    assert_eq!(
        offsets[0].1.as_ref().unwrap_err().kind,
        ClientErrorKind::UnknownTopicOrPartition
    );
}

#[test]
fn a_coordinator_that_loads_or_moves_is_asked_again() {
    use rdkafka::types::RDKafkaApiKey;
    use rdkafka_sys::rd_kafka_resp_err_t as Code;

    let (mock, cluster) = mock("t", 1);
    let codes = [
        Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Code::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    mock.request_errors(RDKafkaApiKey::OffsetCommit, &codes);
    let partition = TopicPartition::new("t", 0);
    let commit = |metadata: &str| AdminRequest::CommitOffsets {
        group: "g".to_owned(),
        member: MemberIdentity::simple(),
        offsets: vec![(
            partition.clone(),
            CommittedOffset {
                offset: 1,
                metadata: metadata.to_owned(),
            },
        )],
    };
    assert!(matches!(
        ask(&cluster, commit("")).unwrap(),
        AdminResponse::Done
    ));
    // An error that stays is not.
    mock.request_errors(
        RDKafkaApiKey::OffsetCommit,
        &[Code::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE],
    );
    let error = ask(&cluster, commit("x")).unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::TooLarge);
    assert!(
        error.message.contains("OFFSET_METADATA_TOO_LARGE") && error.message.contains("t-0"),
        "{error}"
    );
}

#[test]
fn a_claim_is_held_and_commits_as_its_member() {
    let (_mock, cluster) = mock("t", 1);
    let mut claim = cluster
        .claim("app", "process-1", &["t".to_owned()])
        .unwrap();
    let member =
        Arc::new(Bell::default()).until("the claim is held", |waker| match claim.poll(0, waker) {
            ClaimState::Held(member) => Some(member),
            ClaimState::Pending => None,
            other => panic!("{other:?}"),
        });
    assert!(!member.member_id.is_empty() && member.generation >= 0);
    let commit = |member: &MemberIdentity| AdminRequest::CommitOffsets {
        group: "app".to_owned(),
        member: member.clone(),
        offsets: vec![(
            TopicPartition::new("t", 0),
            CommittedOffset {
                offset: 5,
                metadata: String::new(),
            },
        )],
    };
    assert!(matches!(
        ask(&cluster, commit(&member)).unwrap(),
        AdminResponse::Done
    ));
    let stranger = MemberIdentity {
        member_id: "stranger".to_owned(),
        ..member
    };
    assert!(ask(&cluster, commit(&stranger)).is_err());
}

#[test]
fn nobody_at_the_address_is_an_error_that_names_it() {
    // Bound and not listened to by anyone who answers: taken from the system, then given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let admin = AdminClient::connect(&format!("127.0.0.1:{port}")).unwrap();
    let error = admin
        .call(AdminRequest::ListTopics, Duration::from_millis(200))
        .unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::Retriable);
    assert!(error.message.contains(&port.to_string()), "{error}");
}

#[test]
fn a_broker_that_talks_nonsense_is_an_error_and_no_panic() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // Each connection gets one answer: too long a frame, another's answer, noise of the right length.
        let answers: [&[u8]; 3] = [
            &[0x7f, 0xff, 0xff, 0xff],
            &[0, 0, 0, 4, 9, 9, 9, 9],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        ];
        for answer in answers.iter().cycle() {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok() {
                let _ = stream.write_all(answer);
                // Until the other side has seen enough.
                let _ = stream.read(&mut request);
            }
        }
    });
    let admin = AdminClient::connect(&address.to_string()).unwrap();
    let error = admin
        .call(AdminRequest::ListTopics, Duration::from_secs(2))
        .unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::Retriable);
}

#[test]
fn sasl_and_tls_are_refused_by_the_wire_client_only() {
    let properties = [("security.protocol".to_owned(), "SASL_SSL".to_owned())];
    let cluster = KafkaCluster::new("127.0.0.1:9092", properties).unwrap();
    let error = cluster.admin().err().unwrap();
    assert_eq!(error.kind, ClientErrorKind::Config);
    assert!(
        error.message.contains("security.protocol=SASL_SSL"),
        "{error}"
    );
    assert!(cluster.claim("a", "p", &[]).is_err());
    // A password is not repeated.
    let cluster = KafkaCluster::new(
        "127.0.0.1:9092",
        [("sasl.password".to_owned(), "secret".to_owned())],
    )
    .unwrap();
    let error = cluster.admin().err().unwrap();
    assert!(
        error.message.contains("sasl.password") && !error.message.contains("secret"),
        "{error}"
    );
}

#[test]
fn settings_go_to_the_client_they_are_for_under_its_names() {
    let cluster: Vec<_> = [
        ("consumer.fetch.max.wait.ms", "7"),
        ("producer.compression.type", "lz4"),
        ("group.id", "mine"),
        ("enable.auto.commit", "true"),
        ("client.rack", "r1"),
        ("value.serializer", "x"),
        ("admin.retries", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let options = ConsumerOptions {
        client_id: "c".to_owned(),
        read_committed: true,
        partition_fetch_bytes_max: 1 << 20,
        properties: Vec::new(),
    };
    let settings = consumer_settings("h:1", &options, &cluster);
    let value = |settings: &[(String, String)], name: &str| {
        settings
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    for (name, expected) in [
        ("bootstrap.servers", Some("h:1")),
        ("isolation.level", Some("read_committed")),
        ("fetch.wait.max.ms", Some("7")),
        ("client.rack", Some("r1")),
        ("enable.auto.commit", Some("false")),
        ("group.id", None),
        ("compression.type", None),
        ("value.serializer", None),
        ("retries", None),
    ] {
        assert_eq!(value(&settings, name).as_deref(), expected, "{name}");
    }
    let options = ProducerOptions {
        client_id: "c".to_owned(),
        batch_bytes: 1,
        linger_ms: 100,
        properties: vec![("acks".to_owned(), "1".to_owned())],
        transaction: None,
    };
    let settings = producer_settings("h:1", &options, &cluster);
    for (name, expected) in [
        ("compression.type", "lz4"),
        ("linger.ms", "5"),
        ("acks", "all"),
        ("enable.idempotence", "true"),
    ] {
        assert_eq!(value(&settings, name).as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn an_unknown_setting_is_named() {
    let cluster = KafkaCluster::new(
        "127.0.0.1:9092",
        [("no.such.setting".to_owned(), "1".to_owned())],
    )
    .unwrap();
    let options = ProducerOptions {
        client_id: "c".to_owned(),
        batch_bytes: 1,
        linger_ms: 0,
        properties: Vec::new(),
        transaction: None,
    };
    let error = cluster.producer(&options).err().unwrap();
    assert_eq!(error.kind, ClientErrorKind::Config);
    assert!(error.message.contains("no.such.setting"), "{error}");
}
