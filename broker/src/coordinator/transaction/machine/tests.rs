#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use super::super::records::{State, Transaction};
use super::*;

const NOW_MS: i64 = 1000;
const NEW_ID: i64 = 77;

/// Producer 5 with epoch 3, in this state; one that bumps its epochs.
fn at(state: State) -> Transaction {
    let has_partitions = matches!(
        state,
        State::Ongoing | State::PrepareCommit | State::PrepareAbort
    );
    Transaction {
        producer_id: 5,
        previous_producer_id: 5,
        next_producer_id: -1,
        producer_epoch: 3,
        next_producer_epoch: -1,
        last_producer_epoch: 2,
        timeout_ms: 60,
        state,
        partitions: partitions(if has_partitions { &[0] } else { &[] }),
        last_update_ms: 900,
        start_ms: if state == State::Empty { -1 } else { 890 },
        client_version: 2,
    }
}

fn with_epoch(mut transaction: Transaction, epoch: i16) -> Transaction {
    transaction.producer_epoch = epoch;
    transaction
}

fn partitions(indexes: &[i32]) -> BTreeSet<TopicPartition> {
    let topic: Arc<str> = Arc::from("t");
    indexes
        .iter()
        .map(|index| (topic.clone(), *index))
        .collect()
}

fn init(expected: Option<(i64, i16)>) -> Request {
    Request::Init {
        timeout_ms: 70,
        expected,
    }
}

fn add(producer_id: i64, producer_epoch: i16, indexes: &[i32]) -> Request {
    Request::AddPartitions {
        producer_id,
        producer_epoch,
        partitions: partitions(indexes),
        client_version: 2,
    }
}

fn end(producer_id: i64, producer_epoch: i16, commit: bool, client_version: i16) -> Request {
    Request::End {
        producer_id,
        producer_epoch,
        commit,
        client_version,
    }
}

/// A decision in a line: `refused ..`, `ok id/epoch`, `wait`, or what is written and `→` what is answered once it is durable.
fn line(current: Option<&Transaction>, request: &Request) -> String {
    let show = |written: &Transaction| {
        let indexes: Vec<_> = written.partitions.iter().map(|(_, index)| index).collect();
        let next = match written.next_producer_id {
            -1 => String::new(),
            id => format!(" next {id}"),
        };
        format!(
            "{} {}/{} was {}/{}{next} {indexes:?} since {}",
            written.state.name(),
            written.producer_id,
            written.producer_epoch,
            written.previous_producer_id,
            written.last_producer_epoch,
            written.start_ms
        )
    };
    match decide(current, request, None, NOW_MS) {
        Decision::Answer(Err(error)) => format!("refused {error:?}"),
        Decision::Answer(Ok(producer)) => format!("ok {}/{}", producer.id, producer.epoch),
        Decision::Wait => "wait".into(),
        Decision::Fence(written) => format!("fence: {}", show(&written)),
        Decision::NeedsProducerId => match decide(current, request, Some(NEW_ID), NOW_MS) {
            Decision::Write(written, producer) => format!(
                "new id: {} → {}/{}",
                show(&written),
                producer.id,
                producer.epoch
            ),
            other => format!("with a new id: {other:?}"),
        },
        Decision::Write(written, producer) => {
            assert_eq!(written.last_update_ms, NOW_MS);
            format!("{} → {}/{}", show(&written), producer.id, producer.epoch)
        }
    }
}

#[track_caller]
fn check(current: &Transaction, request: Request, expected: &str) {
    assert_eq!(
        line(Some(current), &request),
        expected,
        "{request:?} in {current:?}"
    );
}

#[test]
fn initialising_bumps_the_epoch_and_so_fences_the_one_before() {
    assert_eq!(
        line(None, &init(None)),
        "new id: Empty 77/0 was 77/-1 [] since -1 → 77/0"
    );
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        check(
            &at(state),
            init(None),
            "Empty 5/4 was 5/-1 [] since -1 → 5/4",
        );
    }
    let Decision::Write(bumped, _) = decide(Some(&at(State::Empty)), &init(None), None, NOW_MS)
    else {
        panic!("a bump is written");
    };
    assert_eq!(bumped.timeout_ms, 70);
    for old in [
        add(5, 3, &[0]),
        end(5, 3, true, 0),
        end(5, 3, true, 2),
        init(Some((5, 3))),
    ] {
        check(&bumped, old, "refused ProducerFenced");
    }
}

#[test]
fn initialising_aborts_what_is_open_and_waits_until_that_is_complete() {
    // The epoch is bumped to fence, and again by the end: neither is given to anybody.
    check(
        &at(State::Ongoing),
        init(None),
        "fence: PrepareAbort 5/5 was 5/4 [0] since 890",
    );
    check(&at(State::PrepareAbort), init(None), "wait");
    check(&at(State::PrepareCommit), init(None), "wait");
    let Decision::Fence(aborting) = decide(Some(&at(State::Ongoing)), &init(None), None, NOW_MS)
    else {
        panic!("an open transaction is fenced");
    };
    check(
        &complete(&aborting, NOW_MS),
        init(None),
        "Empty 5/6 was 5/-1 [] since -1 → 5/6",
    );
    // Whoever was there is fenced from the moment that this is written.
    check(&aborting, end(5, 3, true, 2), "refused ProducerFenced");
    check(&aborting, end(5, 3, true, 0), "refused ProducerFenced");
    check(&aborting, add(5, 3, &[0]), "refused ProducerFenced");
}

#[test]
fn a_producer_goes_on_after_an_error_with_a_bump_unless_it_was_fenced() {
    let empty = at(State::Empty);
    check(
        &empty,
        init(Some((5, 3))),
        "Empty 5/4 was 5/3 [] since -1 → 5/4",
    );
    // The answer was lost: the same again.
    check(
        &empty,
        init(Some((5, 2))),
        "Empty 5/3 was 5/2 [] since -1 → 5/3",
    );
    check(&empty, init(Some((5, 1))), "refused ProducerFenced");
    check(&empty, init(Some((6, 3))), "refused ProducerFenced");
    // Somebody else has begun since: there is no last epoch.
    let mut taken_over = empty;
    taken_over.last_producer_epoch = -1;
    check(&taken_over, init(Some((5, 2))), "refused ProducerFenced");
    // An id that has expired fences nobody.
    assert_eq!(
        line(None, &init(Some((5, 3)))),
        "new id: Empty 77/0 was 77/-1 [] since -1 → 77/0"
    );
}

#[test]
fn an_exhausted_epoch_gets_another_producer_id() {
    let last = with_epoch(at(State::CompleteCommit), 32766);
    check(
        &last,
        init(None),
        "new id: Empty 77/0 was 5/-1 [] since -1 → 77/0",
    );
    check(
        &last,
        init(Some((5, 32766))),
        "new id: Empty 77/0 was 5/32766 [] since -1 → 77/0",
    );
    // A retry of that, by its old name.
    let mut rotated = with_epoch(at(State::Empty), 0);
    rotated.producer_id = 77;
    rotated.last_producer_epoch = 32766;
    check(
        &rotated,
        init(Some((5, 32766))),
        "Empty 77/0 was 77/32766 [] since -1 → 77/0",
    );
    // A fence needs one more epoch, which no client has.
    let open = with_epoch(at(State::Ongoing), 32766);
    check(
        &open,
        init(None),
        "fence: PrepareAbort 5/32767 was 5/32767 [0] since 890",
    );
    let fenced = with_epoch(at(State::CompleteAbort), 32767);
    check(
        &fenced,
        init(None),
        "new id: Empty 77/0 was 5/-1 [] since -1 → 77/0",
    );
    check(&fenced, init(Some((5, 32766))), "refused ProducerFenced");
    // The end of a transaction, as its client sees it: 32766 and then another id.
    check(
        &open,
        end(5, 32766, true, 2),
        "new id: PrepareCommit 5/32767 was 5/32766 next 77 [0] since 890 → 77/0",
    );
    let mut ending = with_epoch(at(State::PrepareCommit), 32767);
    ending.next_producer_id = 77;
    ending.last_producer_epoch = 32766;
    check(&ending, add(77, 0, &[1]), "wait");
    check(&ending, end(5, 32766, true, 2), "wait");
    let ended = complete(&ending, NOW_MS);
    assert_eq!((ended.producer_id, ended.producer_epoch), (77, 0));
    check(&ended, end(5, 32766, true, 2), "ok 77/0");
    check(&ended, end(5, 32766, false, 2), "refused InvalidState");
    check(
        &ended,
        add(77, 0, &[1]),
        "Ongoing 77/0 was 77/32766 [1] since 1000 → 77/0",
    );
    check(
        &ended,
        add(5, 32766, &[1]),
        "refused InvalidProducerIdMapping",
    );
}

#[test]
fn partitions_begin_a_transaction_and_join_one() {
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        check(
            &at(state),
            add(5, 3, &[1, 2]),
            "Ongoing 5/3 was 5/2 [1, 2] since 1000 → 5/3",
        );
    }
    check(
        &at(State::Ongoing),
        add(5, 3, &[1]),
        "Ongoing 5/3 was 5/2 [0, 1] since 890 → 5/3",
    );
    check(&at(State::Ongoing), add(5, 3, &[0]), "ok 5/3");
    check(&at(State::PrepareCommit), add(5, 3, &[0]), "wait");
    check(&at(State::PrepareAbort), add(5, 3, &[0]), "wait");
    check(
        &at(State::Ongoing),
        add(5, 2, &[0]),
        "refused ProducerFenced",
    );
    check(
        &at(State::Ongoing),
        add(5, 4, &[0]),
        "refused ProducerFenced",
    );
    check(
        &at(State::Ongoing),
        add(6, 3, &[0]),
        "refused InvalidProducerIdMapping",
    );
    assert_eq!(
        line(None, &add(5, 3, &[0])),
        "refused InvalidProducerIdMapping"
    );
}

#[test]
fn a_partition_is_verified_only_while_its_transaction_is_open() {
    let by = |id, epoch| Producer { id, epoch };
    let zero = ("t".into(), 0);
    let verify =
        |state, by, partition: &TopicPartition| super::verify(Some(&at(state)), by, partition);
    assert_eq!(verify(State::Ongoing, by(5, 3), &zero), Ok(()));
    assert_eq!(
        verify(State::Ongoing, by(5, 3), &("t".into(), 1)),
        Err(TransactionError::PartitionNotAdded)
    );
    assert_eq!(
        verify(State::CompleteCommit, by(5, 3), &zero),
        Err(TransactionError::PartitionNotAdded)
    );
    assert_eq!(
        verify(State::PrepareCommit, by(5, 3), &zero),
        Err(TransactionError::Concurrent)
    );
    assert_eq!(
        verify(State::Ongoing, by(5, 2), &zero),
        Err(TransactionError::ProducerFenced)
    );
    assert_eq!(
        verify(State::Ongoing, by(6, 3), &zero),
        Err(TransactionError::InvalidProducerIdMapping)
    );
}

#[test]
fn ending_a_transaction_bumps_the_epoch_of_clients_that_know_of_it() {
    let open = at(State::Ongoing);
    check(
        &open,
        end(5, 3, true, 2),
        "PrepareCommit 5/4 was 5/3 [0] since 890 → 5/4",
    );
    check(
        &open,
        end(5, 3, false, 2),
        "PrepareAbort 5/4 was 5/3 [0] since 890 → 5/4",
    );
    check(
        &open,
        end(5, 3, true, 0),
        "PrepareCommit 5/3 was 5/2 [0] since 890 → 5/3",
    );
    check(
        &open,
        end(5, 3, false, 0),
        "PrepareAbort 5/3 was 5/2 [0] since 890 → 5/3",
    );
    for version in [0, 2] {
        check(&open, end(5, 2, true, version), "refused ProducerFenced");
        check(&open, end(5, 4, true, version), "refused ProducerFenced");
        check(
            &open,
            end(6, 3, true, version),
            "refused InvalidProducerIdMapping",
        );
        assert_eq!(
            line(None, &end(5, 3, true, version)),
            "refused InvalidProducerIdMapping"
        );
    }
}

#[test]
fn an_end_that_is_asked_again_is_answered_again_and_the_other_one_is_refused() {
    // With a bump the retry has the epoch before.
    check(&at(State::PrepareCommit), end(5, 2, true, 2), "wait");
    check(
        &at(State::PrepareCommit),
        end(5, 2, false, 2),
        "refused InvalidState",
    );
    check(&at(State::PrepareAbort), end(5, 2, false, 2), "wait");
    check(
        &at(State::PrepareAbort),
        end(5, 2, true, 2),
        "refused InvalidState",
    );
    check(&at(State::CompleteCommit), end(5, 2, true, 2), "ok 5/3");
    check(
        &at(State::CompleteCommit),
        end(5, 2, false, 2),
        "refused InvalidState",
    );
    check(&at(State::CompleteAbort), end(5, 2, false, 2), "ok 5/3");
    check(
        &at(State::CompleteAbort),
        end(5, 2, true, 2),
        "refused InvalidState",
    );
    check(
        &at(State::Empty),
        end(5, 2, false, 2),
        "refused ProducerFenced",
    );
    // Without, the same.
    check(&at(State::PrepareCommit), end(5, 3, true, 0), "wait");
    check(
        &at(State::PrepareCommit),
        end(5, 3, false, 0),
        "refused InvalidState",
    );
    check(&at(State::PrepareAbort), end(5, 3, false, 0), "wait");
    check(
        &at(State::PrepareAbort),
        end(5, 3, true, 0),
        "refused InvalidState",
    );
    check(&at(State::CompleteCommit), end(5, 3, true, 0), "ok 5/3");
    check(
        &at(State::CompleteCommit),
        end(5, 3, false, 0),
        "refused InvalidState",
    );
    check(&at(State::CompleteAbort), end(5, 3, false, 0), "ok 5/3");
    check(
        &at(State::CompleteAbort),
        end(5, 3, true, 0),
        "refused InvalidState",
    );
}

#[test]
fn aborting_nothing_bumps_the_epoch_and_committing_nothing_is_refused() {
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        check(
            &at(state),
            end(5, 3, false, 2),
            "PrepareAbort 5/4 was 5/3 [] since 1000 → 5/4",
        );
        check(&at(state), end(5, 3, true, 2), "refused InvalidState");
    }
    check(
        &at(State::Empty),
        end(5, 3, false, 0),
        "refused InvalidState",
    );
    check(
        &at(State::Empty),
        end(5, 3, true, 0),
        "refused InvalidState",
    );
    // The next call while the last transaction is being completed.
    check(&at(State::PrepareCommit), end(5, 3, false, 2), "wait");
}

#[test]
fn a_complete_transaction_has_no_partitions_and_the_state_that_was_prepared() {
    for (from, to) in [
        (State::PrepareCommit, State::CompleteCommit),
        (State::PrepareAbort, State::CompleteAbort),
    ] {
        let ended = complete(&at(from), NOW_MS);
        assert_eq!(ended.state, to);
        assert!(ended.partitions.is_empty());
        assert_eq!((ended.producer_id, ended.producer_epoch), (5, 3));
        assert_eq!(ended.start_ms, 890);
    }
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_fenced() {
    let open = at(State::Ongoing);
    assert_eq!(times_out_at_ms(&open), Some(950));
    assert_eq!(time_out(&open, 950), None);
    let aborting = time_out(&open, 951).unwrap();
    assert_eq!(
        (aborting.state, aborting.producer_epoch),
        (State::PrepareAbort, 5)
    );
    assert_eq!(aborting.partitions, open.partitions);
    check(&aborting, end(5, 3, true, 2), "refused ProducerFenced");
    for state in State::ALL {
        if state != State::Ongoing {
            assert_eq!(time_out(&at(state), i64::MAX), None);
        }
    }
}

#[test]
fn an_id_expires_only_without_an_open_transaction() {
    for state in State::ALL {
        let idle = matches!(
            state,
            State::Empty | State::CompleteCommit | State::CompleteAbort
        );
        assert_eq!(is_expired(&at(state), 100, 1000), idle, "{state:?}");
        assert!(!is_expired(&at(state), 101, 1000), "{state:?}");
    }
}
