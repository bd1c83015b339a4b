//! One transactional id as a pure state machine: what a request writes, or why it is refused. No IO, no clock, no chance.
//!
//! ```text
//!            AddPartitions        EndTxn                    markers written
//! EMPTY ──────────────► ONGOING ─────────► PREPARE_COMMIT ─────────► COMPLETE_COMMIT ─┐ AddPartitions: ONGOING
//!   ▲                     │ │  └─────────► PREPARE_ABORT  ─────────► COMPLETE_ABORT  ─┤ InitProducerId: EMPTY
//!   │                     │ └ InitProducerId, time-out: fenced ▲                       │ expired: tombstone
//!   └─────────────────────┼───────────────────────────────────┼───────────────────────┘
//!                         └ EMPTY, COMPLETE_*: an abort of nothing, transaction version 2
//! ```
//!
//! Transaction version 2 (KIP-890) bumps the epoch when a transaction ends, so that a late record of it is fenced at its partition and cannot
//! join the next one. A client that does not know of it (version 0: librdkafka) keeps its epoch from one transaction to the next.
//!
//! ## The epoch's last values
//!
//! Clients get epochs up to 32766. 32767 is left to the coordinator: it must always be able to fence whoever is there. A transaction that
//! ends at 32766 gets another producer id, in force from its COMPLETE on, with epoch 0.

use std::collections::BTreeSet;

use super::records::{State, TopicPartition, Transaction};

/// Why the coordinator refuses. Handlers turn it into Kafka's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// The coordinator cannot write its topic.
    #[error("the coordinator cannot write its topic")]
    CoordinatorNotAvailable,
    /// An empty transactional id, or one that is too long.
    #[error("the transactional id is not valid")]
    InvalidRequest,
    /// `transaction.max.timeout.ms`.
    #[error("the transaction timeout is larger than the broker allows")]
    InvalidTimeout,
    /// The producer id is not that of the transactional id.
    #[error("the producer id is not the one of the transactional id")]
    InvalidProducerIdMapping,
    /// Another instance of the producer has taken over.
    #[error("a newer producer with the same transactional id has fenced this one")]
    ProducerFenced,
    /// The request does not fit the state.
    #[error("the transaction is not in a state that allows this")]
    InvalidState,
    /// The last transaction is still being ended, and took too long to wait for.
    #[error("the previous transaction is still being completed")]
    Concurrent,
    /// The partition is not in the transaction.
    #[error("the partition was not added to the transaction")]
    PartitionNotAdded,
}

/// What is asked of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Begin as its producer: fences those before.
    Init {
        /// How long a transaction may be open.
        timeout_ms: i32,
        /// The producer that asks for a new epoch after an error (KIP-360).
        expected: Option<(i64, i16)>,
    },
    /// Add partitions; begins a transaction if none is open.
    AddPartitions {
        /// Who asks.
        producer_id: i64,
        /// Its epoch.
        producer_epoch: i16,
        /// What to add.
        partitions: BTreeSet<TopicPartition>,
        /// 2 if the epoch is to be bumped at the end.
        client_version: i16,
    },
    /// Commit or abort.
    End {
        /// Who asks.
        producer_id: i64,
        /// Its epoch.
        producer_epoch: i16,
        /// Commit, or abort.
        commit: bool,
        /// 2 if the epoch is to be bumped.
        client_version: i16,
    },
}

/// The producer to go on as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is written.
    Answer(Result<Producer, TransactionError>),
    /// Write this, and answer when it is durable.
    Write(Transaction, Producer),
    /// An open transaction is in the way: write this, which aborts it, and ask again when that is complete.
    Fence(Transaction),
    /// The last transaction is being completed: ask again then.
    Wait,
    /// Ask again with a producer id that nobody has had.
    NeedsProducerId,
}

/// What our own acts, a fence or a time-out, end a transaction as.
pub(super) const SERVER_VERSION: i16 = 2;

fn bumps_epochs(client_version: i16) -> bool {
    client_version >= 2
}

/// No more epochs can be given to clients: the next is the coordinator's own.
fn is_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

fn refuse(error: TransactionError) -> Decision {
    Decision::Answer(Err(error))
}

/// Decides a request. `current` is `None` for an id that is not known.
pub fn decide(
    current: Option<&Transaction>,
    request: &Request,
    new_producer_id: Option<i64>,
    now_ms: i64,
) -> Decision {
    match (request, current) {
        (
            Request::Init {
                timeout_ms,
                expected,
            },
            current,
        ) => init(current, *timeout_ms, *expected, new_producer_id, now_ms),
        (_, None) => refuse(TransactionError::InvalidProducerIdMapping),
        (
            Request::AddPartitions {
                producer_id,
                producer_epoch,
                partitions,
                client_version,
            },
            Some(current),
        ) => {
            let by = Producer {
                id: *producer_id,
                epoch: *producer_epoch,
            };
            add_partitions(current, by, partitions, *client_version, now_ms)
        }
        (
            Request::End {
                producer_id,
                producer_epoch,
                commit,
                client_version,
            },
            Some(current),
        ) => {
            let by = Producer {
                id: *producer_id,
                epoch: *producer_epoch,
            };
            if bumps_epochs(*client_version) {
                end_with_bump(
                    current,
                    by,
                    *commit,
                    *client_version,
                    new_producer_id,
                    now_ms,
                )
            } else {
                end_without_bump(current, by, *commit, now_ms)
            }
        }
    }
}

fn init(
    current: Option<&Transaction>,
    timeout_ms: i32,
    expected: Option<(i64, i16)>,
    new_producer_id: Option<i64>,
    now_ms: i64,
) -> Decision {
    let Some(current) = current else {
        // Whatever producer the client believes to be: nothing is left of it, so it cannot be fenced.
        let Some(id) = new_producer_id else {
            return Decision::NeedsProducerId;
        };
        let producer = Producer { id, epoch: 0 };
        return Decision::Write(empty(producer, id, -1, timeout_ms, 0, now_ms), producer);
    };
    match current.state {
        State::PrepareCommit | State::PrepareAbort => return Decision::Wait,
        State::Empty
        | State::Ongoing
        | State::CompleteCommit
        | State::CompleteAbort
        | State::Dead
        | State::PrepareEpochFence => {}
    }
    let is_ours = expected.is_none_or(|(id, epoch)| {
        // A retry of a call that changed the producer id, whose answer was lost, names the id before.
        id == current.producer_id || (id == current.previous_producer_id && is_exhausted(epoch))
    });
    if !is_ours {
        return refuse(TransactionError::ProducerFenced);
    }
    if current.state == State::Ongoing {
        return Decision::Fence(fence(current, now_ms));
    }
    let expected_epoch = expected.map(|(_, epoch)| epoch);
    let renewed = |producer: Producer, last_producer_epoch| {
        let mut next = empty(
            producer,
            current.producer_id,
            last_producer_epoch,
            timeout_ms,
            current.client_version,
            now_ms,
        );
        next.next_producer_epoch = current.next_producer_epoch;
        Decision::Write(next, producer)
    };
    if is_exhausted(current.producer_epoch)
        && expected_epoch.is_none_or(|epoch| epoch == current.producer_epoch)
    {
        let Some(id) = new_producer_id else {
            return Decision::NeedsProducerId;
        };
        let last = expected_epoch.map_or(-1, |_| current.producer_epoch);
        return renewed(Producer { id, epoch: 0 }, last);
    }
    // Not exhausted here: with an expected epoch that differs it is no bump.
    let bumped = Producer {
        id: current.producer_id,
        epoch: current.producer_epoch.saturating_add(1),
    };
    match expected_epoch {
        None => renewed(bumped, -1),
        Some(epoch) if epoch == current.producer_epoch => renewed(bumped, current.producer_epoch),
        // A retry of a call whose answer was lost. Nobody else has begun since, or there would be no last epoch.
        // The coordinator's own epoch is given to nobody.
        Some(epoch)
            if epoch == current.last_producer_epoch && current.producer_epoch < i16::MAX =>
        {
            renewed(
                Producer {
                    id: current.producer_id,
                    epoch: current.producer_epoch,
                },
                current.last_producer_epoch,
            )
        }
        Some(_) => refuse(TransactionError::ProducerFenced),
    }
}

fn empty(
    producer: Producer,
    previous_producer_id: i64,
    last_producer_epoch: i16,
    timeout_ms: i32,
    client_version: i16,
    now_ms: i64,
) -> Transaction {
    Transaction {
        producer_id: producer.id,
        previous_producer_id,
        next_producer_id: -1,
        producer_epoch: producer.epoch,
        next_producer_epoch: -1,
        last_producer_epoch,
        timeout_ms,
        state: State::Empty,
        partitions: BTreeSet::new(),
        last_update_ms: now_ms,
        start_ms: -1,
        client_version,
    }
}

/// Whether this is the producer of the id. While a transaction is being completed, also the one that it will have then.
fn check(current: &Transaction, by: Producer) -> Result<(), TransactionError> {
    let is_next = current.state.is_prepared()
        && current.next_producer_id != -1
        && by.id == current.next_producer_id
        && by.epoch == 0;
    if is_next {
        Ok(())
    } else if by.id != current.producer_id {
        Err(TransactionError::InvalidProducerIdMapping)
    } else if by.epoch != current.producer_epoch {
        Err(TransactionError::ProducerFenced)
    } else {
        Ok(())
    }
}

fn add_partitions(
    current: &Transaction,
    by: Producer,
    partitions: &BTreeSet<TopicPartition>,
    client_version: i16,
    now_ms: i64,
) -> Decision {
    if let Err(error) = check(current, by) {
        return refuse(error);
    }
    let start_ms = match current.state {
        State::PrepareCommit | State::PrepareAbort => return Decision::Wait,
        State::Ongoing if partitions.is_subset(&current.partitions) => {
            return Decision::Answer(Ok(by));
        }
        State::Ongoing => current.start_ms,
        State::Empty | State::CompleteCommit | State::CompleteAbort => now_ms,
        State::Dead | State::PrepareEpochFence => {
            return refuse(TransactionError::InvalidProducerIdMapping);
        }
    };
    let mut next = current.clone();
    next.previous_producer_id = current.producer_id;
    next.state = State::Ongoing;
    next.partitions.extend(partitions.iter().cloned());
    next.start_ms = start_ms;
    next.last_update_ms = now_ms;
    next.client_version = client_version;
    Decision::Write(next, by)
}

/// Whether a partition is in the open transaction of this producer: a client that adds partitions itself has to have done it (KIP-890).
pub fn verify(
    current: Option<&Transaction>,
    by: Producer,
    partition: &TopicPartition,
) -> Result<(), TransactionError> {
    let current = current.ok_or(TransactionError::InvalidProducerIdMapping)?;
    check(current, by)?;
    if current.state.is_prepared() {
        return Err(TransactionError::Concurrent);
    }
    if current.state == State::Ongoing && current.partitions.contains(partition) {
        Ok(())
    } else {
        Err(TransactionError::PartitionNotAdded)
    }
}

fn prepared(commit: bool) -> State {
    if commit {
        State::PrepareCommit
    } else {
        State::PrepareAbort
    }
}

fn end_without_bump(current: &Transaction, by: Producer, commit: bool, now_ms: i64) -> Decision {
    if by.id != current.producer_id {
        return refuse(TransactionError::InvalidProducerIdMapping);
    }
    if by.epoch != current.producer_epoch {
        return refuse(TransactionError::ProducerFenced);
    }
    match (current.state, commit) {
        (State::Ongoing, _) => {
            let mut next = current.clone();
            next.previous_producer_id = current.producer_id;
            next.next_producer_id = -1;
            next.state = prepared(commit);
            next.last_update_ms = now_ms;
            next.client_version = 0;
            Decision::Write(next, by)
        }
        (State::PrepareCommit, true) | (State::PrepareAbort, false) => Decision::Wait,
        (State::CompleteCommit, true) | (State::CompleteAbort, false) => Decision::Answer(Ok(by)),
        _ => refuse(TransactionError::InvalidState),
    }
}

fn end_with_bump(
    current: &Transaction,
    by: Producer,
    commit: bool,
    client_version: i16,
    new_producer_id: Option<i64>,
    now_ms: i64,
) -> Decision {
    // The bump tells a retry from the next call, which has the epoch that the first answer brought.
    let is_retry_of_bump =
        by.id == current.producer_id && by.epoch.checked_add(1) == Some(current.producer_epoch);
    let is_retry_of_overflow = by.id == current.previous_producer_id
        && by.epoch == i16::MAX - 1
        && current.producer_epoch == 0
        && by.id != current.producer_id;
    let now = Producer {
        id: current.producer_id,
        epoch: current.producer_epoch,
    };
    match current.state {
        State::PrepareCommit | State::PrepareAbort if is_retry_of_bump => {
            return if current.state == prepared(commit) {
                Decision::Wait
            } else {
                refuse(TransactionError::InvalidState)
            };
        }
        State::CompleteCommit | State::CompleteAbort
            if is_retry_of_bump || is_retry_of_overflow =>
        {
            return if (current.state == State::CompleteCommit) == commit {
                Decision::Answer(Ok(now))
            } else {
                refuse(TransactionError::InvalidState)
            };
        }
        _ => {}
    }
    if let Err(error) = check(current, by) {
        return refuse(error);
    }
    match current.state {
        State::PrepareCommit | State::PrepareAbort => return Decision::Wait,
        State::Ongoing => {}
        // Nothing was written, but the client may have sent what has not arrived: the bump fences it.
        State::Empty | State::CompleteCommit | State::CompleteAbort if !commit => {}
        State::Empty
        | State::CompleteCommit
        | State::CompleteAbort
        | State::Dead
        | State::PrepareEpochFence => return refuse(TransactionError::InvalidState),
    }
    let next_producer_id = if is_exhausted(current.producer_epoch) {
        match new_producer_id {
            Some(id) => id,
            None => return Decision::NeedsProducerId,
        }
    } else {
        -1
    };
    let next = end(current, commit, client_version, next_producer_id, now_ms);
    let producer = match next_producer_id {
        -1 => Producer {
            id: next.producer_id,
            epoch: next.producer_epoch,
        },
        id => Producer { id, epoch: 0 },
    };
    Decision::Write(next, producer)
}

/// The end of a transaction with a bumped epoch.
fn end(
    current: &Transaction,
    commit: bool,
    client_version: i16,
    next_producer_id: i64,
    now_ms: i64,
) -> Transaction {
    let mut next = current.clone();
    next.previous_producer_id = current.producer_id;
    next.next_producer_id = next_producer_id;
    next.producer_epoch = current.producer_epoch.saturating_add(1);
    next.last_producer_epoch = current.producer_epoch;
    next.state = prepared(commit);
    if current.state != State::Ongoing {
        next.start_ms = now_ms;
    }
    next.last_update_ms = now_ms;
    next.client_version = client_version;
    next
}

/// Aborts an open transaction over its producer's head: nobody is given the epoch that it ends with.
fn fence(current: &Transaction, now_ms: i64) -> Transaction {
    let mut fenced = current.clone();
    fenced.producer_epoch = current.producer_epoch.saturating_add(1);
    end(&fenced, false, SERVER_VERSION, -1, now_ms)
}

/// Every marker is durable.
pub fn complete(current: &Transaction, now_ms: i64) -> Transaction {
    assert!(
        current.state.is_prepared(),
        "a transaction in state {} has no markers to wait for",
        current.state.name()
    );
    let mut next = current.clone();
    next.previous_producer_id = current.producer_id;
    next.state = if current.state == State::PrepareCommit {
        State::CompleteCommit
    } else {
        State::CompleteAbort
    };
    if bumps_epochs(current.client_version) && current.next_producer_id != -1 {
        next.producer_id = current.next_producer_id;
        next.producer_epoch = 0;
    }
    next.next_producer_id = -1;
    next.partitions.clear();
    next.last_update_ms = now_ms;
    next
}

/// When an open transaction is aborted; `None` if none is open.
pub fn times_out_at_ms(current: &Transaction) -> Option<i64> {
    (current.state == State::Ongoing).then(|| {
        current
            .start_ms
            .saturating_add(i64::from(current.timeout_ms))
    })
}

/// The abort of a transaction that has been open for too long; `None` if it has not.
pub fn time_out(current: &Transaction, now_ms: i64) -> Option<Transaction> {
    times_out_at_ms(current)
        .filter(|due_ms| *due_ms < now_ms)
        .map(|_| fence(current, now_ms))
}

/// Whether an id that has begun no transaction for so long is forgotten.
pub fn is_expired(current: &Transaction, expiration_ms: i64, now_ms: i64) -> bool {
    match current.state {
        State::Empty | State::CompleteCommit | State::CompleteAbort => {
            current.last_update_ms.saturating_add(expiration_ms) <= now_ms
        }
        State::Ongoing
        | State::PrepareCommit
        | State::PrepareAbort
        | State::Dead
        | State::PrepareEpochFence => false,
    }
}

#[cfg(test)]
mod tests;
