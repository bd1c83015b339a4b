//! Transactions as the broker's clients see the log: fetch, offsets, markers and producers.

use super::*;
use crate::log::{AppendError, AppendOrigin, Marker};
use crate::replica::{Partition, PartitionError};

fn transactional(producer_id: i64, epoch: i16, sequence: i32, value: &str) -> BytesMut {
    let mut builder = Builder::new()
        .producer(producer_id, epoch, sequence)
        .transactional();
    builder.append(NOW_MS, Some(b"k"), Some(value.as_bytes()), &[]);
    builder.build()
}

/// As the coordinator's agreement would have it.
fn append(partition: &Arc<Partition>, producer_id: i64, epoch: i16, sequence: i32, value: &str) {
    let guard = partition
        .begin_verification(producer_id, epoch, sequence, 2, NOW_MS)
        .unwrap();
    let batch = transactional(producer_id, epoch, sequence, value);
    let (_, wake) = partition
        .append_verified(batch, AppendOrigin::Client, guard, NOW_MS)
        .unwrap();
    wake.wake();
}

fn end(partition: &Arc<Partition>, producer_id: i64, epoch: i16, commit: bool) -> i64 {
    let marker = Marker {
        producer_id,
        producer_epoch: epoch,
        commit,
        coordinator_epoch: 0,
        transaction_version: 2,
    };
    let (appended, wake) = partition.append_marker(marker, NOW_MS).unwrap();
    wake.wake();
    appended.last_offset
}

fn committed(mut request: wire::FetchRequest) -> wire::FetchRequest {
    request.isolation_level = 1;
    request
}

fn write_markers(
    epoch: i16,
    coordinator_epoch: i32,
    partition: i32,
) -> wire::WriteTxnMarkersRequest {
    use wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
    message!(wire::WriteTxnMarkersRequest {
        markers: vec![message!(WritableTxnMarker {
            producer_id: 7,
            producer_epoch: epoch,
            transaction_result: false,
            coordinator_epoch: coordinator_epoch,
            transaction_version: 1,
            topics: vec![message!(WritableTxnMarkerTopic {
                name: "t".into(),
                partition_indexes: vec![partition],
            })],
        })],
    })
}

#[test]
fn a_committed_fetch_waits_for_the_marker_to_be_durable_and_names_what_is_aborted() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    append(&partition, 7, 0, 0, "aborted");
    append(&partition, 8, 0, 0, "kept");
    fixture.broker().flush_once();
    let waiting = fixture.submit(committed(fetch_request("t", 0, 1, 1000)));
    assert!(waiting.try_recv().is_err(), "both are undecided");
    let plain = fetched(
        fixture
            .submit(fetch_request("t", 0, 1, 0))
            .try_recv()
            .unwrap(),
    );
    assert_eq!(values(&[plain.records.unwrap()]), ["aborted", "kept"]);
    assert_eq!(plain.aborted_transactions, None);
    assert_eq!((plain.high_watermark, plain.last_stable_offset), (2, 0));
    end(&partition, 7, 1, false);
    end(&partition, 8, 1, true);
    assert!(waiting.try_recv().is_err(), "the markers are not on disk");
    assert_eq!(partition.last_stable_offset(), 0);
    fixture.broker().flush_once();
    let data = fetched(waiting.try_recv().unwrap());
    assert_eq!((data.high_watermark, data.last_stable_offset), (4, 4));
    let aborted = data.aborted_transactions.unwrap();
    assert_eq!(
        aborted
            .iter()
            .map(|found| (found.producer_id, found.first_offset))
            .collect::<Vec<_>>(),
        [(7, 0)]
    );
    let after = fetched(
        fixture
            .submit(committed(fetch_request("t", 3, 1, 0)))
            .try_recv()
            .unwrap(),
    );
    assert_eq!(after.aborted_transactions, Some(Vec::new()));
    let in_process = partition
        .fetch(0, 1 << 20, Isolation::ReadCommitted)
        .unwrap();
    assert_eq!(in_process.aborted.len(), 1);
}

#[test]
fn with_flush_os_the_marker_is_stable_at_once() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    append(&partition, 7, 0, 0, "a");
    assert_eq!(
        (partition.high_watermark(), partition.last_stable_offset()),
        (1, 0)
    );
    end(&partition, 7, 1, true);
    assert_eq!(partition.last_stable_offset(), 2);
    append(&partition, 7, 1, 0, "b");
    assert_eq!(
        (partition.high_watermark(), partition.last_stable_offset()),
        (3, 2)
    );
}

#[test]
fn offsets_are_listed_as_far_as_the_isolation_shows() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    partition.append(batch(&["a"]), NOW_MS).unwrap();
    append(&partition, 7, 0, 0, "open");
    let list = |timestamp: i64, isolation_level: i8| {
        let request = message!(wire::ListOffsetsRequest {
            isolation_level: isolation_level,
            topics: vec![message!(wire::list_offsets_request::ListOffsetsTopic {
                name: "t".into(),
                partitions: vec![message!(wire::list_offsets_request::ListOffsetsPartition {
                    current_leader_epoch: -1,
                    timestamp: timestamp,
                })],
            })],
        });
        let mut response = fixture.broker().call(request).unwrap();
        response.topics.remove(0).partitions.remove(0)
    };
    let epoch = partition.leader_epoch();
    for (timestamp, isolation, expected) in [
        (-1, 0, (0, 2, epoch)),
        (-1, 1, (0, 1, epoch)),
        (-2, 1, (0, 0, epoch)),
        (-4, 1, (0, 0, epoch)),
        (-5, 0, (0, -1, -1)),
        (-6, 0, (0, -1, -1)),
        (-7, 0, (ErrorCode::UnsupportedVersion.code(), -1, -1)),
    ] {
        let found = list(timestamp, isolation);
        assert_eq!(
            (found.error_code, found.offset, found.leader_epoch),
            expected,
            "{timestamp}, {isolation}"
        );
    }
    // What is undecided is not found by its time either.
    partition
        .append_verified(
            {
                let mut builder = Builder::new().producer(7, 0, 1).transactional();
                builder.append(NOW_MS + 50, None, Some(b"v"), &[]);
                builder.build()
            },
            AppendOrigin::Client,
            None,
            NOW_MS,
        )
        .unwrap()
        .1
        .wake();
    assert_eq!(
        (list(NOW_MS + 10, 0).offset, list(NOW_MS + 10, 1).offset),
        (2, -1)
    );
    assert_eq!((list(-3, 0).offset, list(-3, 1).offset), (2, -1));
}

#[test]
fn a_late_batch_opens_no_transaction_once_its_marker_has_come() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    let write = |guard| {
        partition
            .append_verified(
                transactional(7, 0, 0, "late"),
                AppendOrigin::Client,
                guard,
                NOW_MS,
            )
            .map(|(appended, wake)| {
                wake.wake();
                appended.base_offset
            })
    };
    let refused = |result: Result<i64, PartitionError>| {
        matches!(
            result,
            Err(PartitionError::Append(AppendError::InvalidTxnState {
                producer_id: 7,
                ..
            }))
        )
    };
    assert!(refused(write(None)), "nobody was asked");
    let guard = partition.begin_verification(7, 0, 0, 2, NOW_MS).unwrap();
    assert!(guard.is_some());
    // The coordinator agrees, and its time-out ends the transaction before the batch comes.
    end(&partition, 7, 0, false);
    assert!(refused(write(guard)));
    let guard = partition.begin_verification(7, 0, 0, 2, NOW_MS).unwrap();
    assert_eq!(write(guard).unwrap(), 1);
    assert_eq!(
        partition.begin_verification(7, 0, 1, 2, NOW_MS).unwrap(),
        None,
        "it is open"
    );
    assert_eq!(partition.open_transaction(7), Some(1));
    // A retry needs no leave and is answered with its offset.
    assert_eq!(write(None).unwrap(), 1);
}

#[test]
fn an_administrator_ends_a_hanging_transaction_and_sees_it_gone() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    append(&partition, 7, 3, 0, "hangs");
    let producers = || {
        use wire::describe_producers_request::TopicRequest;
        let request = message!(wire::DescribeProducersRequest {
            topics: vec![message!(TopicRequest {
                name: "t".into(),
                partition_indexes: vec![0, 9],
            })],
        });
        let mut response = fixture.broker().call(request).unwrap();
        let partitions = &mut response.topics[0].partitions;
        assert_eq!(
            partitions[1].error_code,
            ErrorCode::UnknownTopicOrPartition.code()
        );
        let producer = partitions[0].active_producers.remove(0);
        (
            (
                producer.producer_id,
                producer.producer_epoch,
                producer.last_sequence,
            ),
            (
                producer.coordinator_epoch,
                producer.current_txn_start_offset,
                producer.last_timestamp,
            ),
        )
    };
    assert_eq!(producers(), ((7, 3, 0), (-1, 0, NOW_MS)));
    let code = |response: Response| {
        let Response::WriteTxnMarkers(response) = response else {
            panic!("{response:?}")
        };
        response.markers[0].topics[0].partitions[0].error_code
    };
    let abort = fixture.submit(write_markers(3, 5, 0));
    assert!(abort.try_recv().is_err(), "the marker is not on disk");
    fixture.broker().flush_once();
    assert_eq!(code(abort.try_recv().unwrap()), 0);
    assert_eq!(producers(), ((7, 3, 0), (5, -1, NOW_MS)));
    assert_eq!(partition.last_stable_offset(), 2);
    for (request, expected) in [
        (write_markers(2, 5, 0), ErrorCode::InvalidProducerEpoch),
        (
            write_markers(3, 4, 0),
            ErrorCode::TransactionCoordinatorFenced,
        ),
        (write_markers(3, 5, 9), ErrorCode::UnknownTopicOrPartition),
        (write_markers(-1, 5, 0), ErrorCode::InvalidRequest),
    ] {
        assert_eq!(
            code(fixture.submit(request).try_recv().unwrap()),
            expected.code()
        );
    }
}

#[test]
fn a_killed_broker_knows_its_open_transactions_again() {
    let mut fixture = Fixture::new();
    fixture.create("t", 1);
    let partition = fixture.broker().partition("t", 0).unwrap();
    append(&partition, 7, 0, 0, "open");
    append(&partition, 8, 0, 0, "aborted");
    end(&partition, 8, 1, false);
    fixture.broker().flush_once();
    drop(partition);
    fixture.crash();
    let partition = fixture.broker().partition("t", 0).unwrap();
    assert_eq!(
        (partition.high_watermark(), partition.last_stable_offset()),
        (3, 0)
    );
    assert_eq!(
        (partition.open_transaction(7), partition.open_transaction(8)),
        (Some(0), None)
    );
    assert_eq!(
        (partition.producer_epoch(8), partition.producer_epoch(9)),
        (Some(1), None)
    );
    end(&partition, 7, 1, true);
    fixture.broker().flush_once();
    let fetched = partition
        .fetch(0, 1 << 20, Isolation::ReadCommitted)
        .unwrap();
    assert_eq!((fetched.next_offset, fetched.aborted.len()), (4, 1));
}

#[test]
fn records_are_not_deleted_by_request_where_the_policy_is_to_compact() {
    let fixture = Fixture::with(|config| config.flush = Flush::Os);
    for (name, policy, code) in [
        ("d", "delete", ErrorCode::None),
        ("c", "compact", ErrorCode::PolicyViolation),
        ("b", "compact,delete", ErrorCode::None),
    ] {
        create(fixture.broker(), name, 1, &[("cleanup.policy", policy)]).unwrap();
        fixture
            .broker()
            .partition(name, 0)
            .unwrap()
            .append(batch(&["a"]), NOW_MS)
            .unwrap();
        use wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
        let request = message!(wire::DeleteRecordsRequest {
            topics: vec![message!(DeleteRecordsTopic {
                name: name.into(),
                partitions: vec![message!(DeleteRecordsPartition {
                    partition_index: 0,
                    offset: 1
                })],
            })],
        });
        let response = fixture.broker().call(request).unwrap();
        assert_eq!(
            response.topics[0].partitions[0].error_code,
            code.code(),
            "{policy}"
        );
    }
}
