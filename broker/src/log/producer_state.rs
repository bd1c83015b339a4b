//! Producers: what a log remembers of each, to refuse gaps, to answer retries with the original offset, and to know what is transactional.
//!
//! Of each producer id: its epoch and its last five batches, as many as a client may have in flight; where its open transaction began, and
//! the epoch of the coordinator that ended its last one.
//!
//! ## Transactions
//! 1. A transaction begins here with its producer's first transactional batch. Only who has asked its coordinator may write that one: a
//!    [`VerificationGuard`] is taken before the coordinator is asked, and is void once a marker has come, so that an answer that is out of
//!    date begins nothing. Without this a late batch would open a transaction that nobody ends.
//! 2. While it is open its first offset holds back the last stable offset.
//! 3. A marker ends it. Its first offset holds the last stable offset back until the marker is below the high watermark (`completed`).
//!
//! Snapshot file, `%020d.snapshot`, the state before the offset of its name; big-endian:
//!
//! ```text
//! 0 version i16 = 1
//! 2 CRC-32C u32 of everything from byte 6
//! 6 count   i32, then for each producer, 46 bytes:
//!   producer id i64, epoch i16, last sequence i32, last offset i64, offset delta i32, time of the last append i64,
//!   coordinator epoch i32, first offset of the open transaction i64 (-1: none)
//! ```
//!
//! It holds the last batch only: after a restart a retry of an older one, written before the snapshot, is out of order, as with Kafka.

use std::collections::{BTreeMap, VecDeque};

use foldhash::HashMap;

use crate::log::segment::BatchFacts;
use crate::log::{AppendError, AppendOrigin};
use crate::protocol::record_batch::{EndTransaction, sequence_minus, sequence_plus};

/// Batches remembered of each producer: a client has at most five requests in flight.
const BATCHES_MAX: usize = 5;
/// Leave to begin a transaction that is given and not used. Each is a producer whose coordinator is being asked at this moment; what is
/// forgotten beyond that is the oldest, which nobody comes back for.
const VERIFICATIONS_MAX: usize = 4096;
const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_HEADER_BYTES: usize = 10;
const SNAPSHOT_ENTRY_BYTES: usize = 46;

/// A batch that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchMark {
    first_sequence: i32,
    last_sequence: i32,
    pub(super) last_offset: i64,
    offset_delta: i32,
    pub(super) timestamp: i64,
}

impl BatchMark {
    pub(super) fn base_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ProducerState {
    epoch: i16,
    batches: VecDeque<BatchMark>,
    coordinator_epoch: i32,
    transaction_first_offset: Option<i64>,
    /// When it last wrote to the log, or the log was recovered: what it expires by.
    last_append_ms: i64,
}

impl ProducerState {
    fn new(epoch: i16, now_ms: i64) -> Self {
        ProducerState {
            epoch,
            batches: VecDeque::with_capacity(BATCHES_MAX),
            coordinator_epoch: -1,
            transaction_first_offset: None,
            last_append_ms: now_ms,
        }
    }

    fn repeated(&self, batch: &BatchFacts) -> Option<BatchMark> {
        let same = |mark: &&BatchMark| {
            mark.first_sequence == batch.base_sequence && mark.last_sequence == batch.last_sequence
        };
        let marks = Some(&self.batches).filter(|_| self.epoch == batch.producer_epoch)?;
        marks.iter().find(same).copied()
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }
}

/// Ends a producer's transaction on a partition: what the coordinator, or an administrator in its place, writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Aborted if not.
    pub commit: bool,
    pub coordinator_epoch: i32,
    /// The feature level `transaction.version`. From 2 on each transaction has its own epoch: a marker's is above that of its batches.
    pub transaction_version: i16,
}

/// Leave to begin a transaction here, once its coordinator has agreed. Void when a marker of the producer, or its first batch, has been
/// written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard(u64);

/// A producer that was asked about and has not written yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verification {
    guard: VerificationGuard,
    epoch: i16,
    /// The lowest first sequence that was asked about: a later batch must not overtake it.
    lowest_sequence: i32,
    transaction_version: i16,
    begun_ms: i64,
}

/// A transaction that a marker has just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndedTransaction {
    pub(super) producer_id: i64,
    pub(super) first_offset: i64,
    /// Of the marker.
    pub(super) last_offset: i64,
    pub(super) commit: bool,
    /// The first offset of the oldest transaction still open, else the offset after the marker.
    pub(super) last_stable_offset: i64,
}

/// What is known of a producer: for DescribeProducers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 if no batch of this epoch is known.
    pub last_sequence: i32,
    /// When it last wrote, or the log was recovered.
    pub last_append_ms: i64,
    /// Of the coordinator that ended its last transaction; -1 if none has.
    pub coordinator_epoch: i32,
    /// Of the first batch of its open transaction.
    pub transaction_first_offset: Option<i64>,
}

/// All producers of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProducerStates {
    producers: HashMap<i64, ProducerState>,
    /// Open transactions: first offset → producer.
    open: BTreeMap<i64, i64>,
    /// Transactions whose marker is not yet below the high watermark: first offset → marker's offset.
    completed: BTreeMap<i64, i64>,
    verifications: HashMap<i64, Verification>,
    /// Guards that are not used, in the order in which they were given → producer.
    unused_guards: BTreeMap<u64, i64>,
    guards_given: u64,
}

impl ProducerStates {
    /// Whether a batch may be appended, or the mark of the batch it repeats. A coordinator's batches have no sequences to check.
    pub(super) fn check(
        &self,
        batch: &BatchFacts,
        origin: AppendOrigin,
        guard: Option<VerificationGuard>,
    ) -> Result<Option<BatchMark>, AppendError> {
        let producer_id = batch.producer_id;
        let state = self.producers.get(&producer_id);
        let is_client = origin == AppendOrigin::Client;
        if is_client && let Some(mark) = state.and_then(|state| state.repeated(batch)) {
            return Ok(Some(mark));
        }
        let verification = if batch.is_transactional
            && !self.is_open(producer_id, batch.producer_epoch)
        {
            let verification = self.verifications.get(&producer_id);
            if guard.is_none() || verification.map(|found| found.guard) != guard {
                return Err(AppendError::InvalidTxnState {
                    producer_id,
                    reason: "has no open transaction here, and none that its coordinator has agreed to",
                });
            }
            verification
        } else {
            None
        };
        if let Some(state) = state
            && batch.producer_epoch < state.epoch
        {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id,
                found: batch.producer_epoch,
                current: state.epoch,
            });
        }
        if is_client {
            let out_of_order = |want| AppendError::OutOfOrderSequence {
                producer_id,
                found: batch.base_sequence,
                want,
            };
            if let Some(verification) = verification {
                let is_unknown = state.is_none_or(|state| state.batches.is_empty());
                if verification.transaction_version >= 2 && is_unknown && batch.base_sequence != 0 {
                    return Err(out_of_order(0));
                }
                if batch.base_sequence > verification.lowest_sequence {
                    return Err(out_of_order(verification.lowest_sequence));
                }
            }
            // Of an unknown producer, perhaps for retention, any sequence may follow.
            let want = state.map(|state| match state.batches.back() {
                Some(last) if state.epoch == batch.producer_epoch => {
                    sequence_plus(last.last_sequence, 1)
                }
                _ => 0,
            });
            if let Some(want) = want
                && batch.base_sequence != want
            {
                return Err(out_of_order(want));
            }
        }
        let has_open = state.is_some_and(|state| state.transaction_first_offset.is_some());
        if has_open && !batch.is_transactional {
            return Err(AppendError::InvalidTxnState {
                producer_id,
                reason: "has an open transaction here and wrote a batch outside of it",
            });
        }
        Ok(None)
    }

    /// Whether a marker may be written.
    pub(super) fn check_marker(&self, marker: &Marker) -> Result<(), AppendError> {
        let producer_id = marker.producer_id;
        let Some(state) = self.producers.get(&producer_id) else {
            return Ok(());
        };
        let is_old = if marker.transaction_version >= 2 {
            // The same epoch again, and nothing is open: the marker is there, and its answer was lost.
            let is_retry =
                marker.producer_epoch == state.epoch && state.transaction_first_offset.is_none();
            marker.producer_epoch <= state.epoch && !is_retry
        } else {
            marker.producer_epoch < state.epoch
        };
        if is_old {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id,
                found: marker.producer_epoch,
                current: state.epoch,
            });
        }
        if marker.coordinator_epoch < state.coordinator_epoch {
            return Err(AppendError::CoordinatorFenced {
                producer_id,
                found: marker.coordinator_epoch,
                current: state.coordinator_epoch,
            });
        }
        Ok(())
    }

    /// Asks for leave to begin a transaction; `None` if it has begun, so that none is needed.
    pub(super) fn begin_verification(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
        transaction_version: i16,
        now_ms: i64,
    ) -> Option<VerificationGuard> {
        if self.is_open(producer_id, producer_epoch) {
            return None;
        }
        if self.verifications.len() >= VERIFICATIONS_MAX
            && !self.verifications.contains_key(&producer_id)
            && let Some((_, oldest)) = self.unused_guards.pop_first()
        {
            self.verifications.remove(&oldest);
        }
        let guards_given = &mut self.guards_given;
        let unused_guards = &mut self.unused_guards;
        let verification = self.verifications.entry(producer_id).or_insert_with(|| {
            *guards_given += 1;
            unused_guards.insert(*guards_given, producer_id);
            Verification {
                guard: VerificationGuard(*guards_given),
                epoch: producer_epoch,
                lowest_sequence: base_sequence,
                transaction_version,
                begun_ms: now_ms,
            }
        });
        if producer_epoch > verification.epoch {
            verification.epoch = producer_epoch;
            verification.lowest_sequence = base_sequence;
        } else if producer_epoch == verification.epoch {
            verification.lowest_sequence = verification.lowest_sequence.min(base_sequence);
        }
        Some(verification.guard)
    }

    fn is_open(&self, producer_id: i64, producer_epoch: i16) -> bool {
        self.producers.get(&producer_id).is_some_and(|state| {
            state.transaction_first_offset.is_some() && state.epoch == producer_epoch
        })
    }

    /// Notes a batch that has been appended now; returns the transaction that it ended. Its own timestamps say nothing of when that was:
    /// they are the producer's.
    pub(super) fn note(&mut self, batch: &BatchFacts, now_ms: i64) -> Option<EndedTransaction> {
        if batch.producer_id < 0 {
            return None;
        }
        if batch.is_transactional
            && !self.verifications.is_empty()
            && let Some(used) = self.verifications.remove(&batch.producer_id)
        {
            self.unused_guards.remove(&used.guard.0);
        }
        if batch.is_control {
            let Some(marker) = batch.marker else {
                // Emptied by the cleaner, which keeps it for the epoch.
                let state = self
                    .producers
                    .entry(batch.producer_id)
                    .or_insert_with(|| ProducerState::new(batch.producer_epoch, now_ms));
                state.set_epoch(batch.producer_epoch);
                return None;
            };
            return self.note_marker(batch, marker, now_ms);
        }
        let state = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| ProducerState::new(batch.producer_epoch, now_ms));
        state.set_epoch(batch.producer_epoch);
        if batch.is_transactional && state.transaction_first_offset.is_none() {
            state.transaction_first_offset = Some(batch.base_offset);
            self.open.insert(batch.base_offset, batch.producer_id);
        }
        if state.batches.len() == BATCHES_MAX {
            state.batches.pop_front();
        }
        state.batches.push_back(BatchMark {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence,
            last_offset: batch.last_offset,
            // It came from an i32.
            offset_delta: (batch.last_offset - batch.base_offset) as i32,
            timestamp: batch.max_timestamp,
        });
        state.last_append_ms = now_ms;
        None
    }

    fn note_marker(
        &mut self,
        batch: &BatchFacts,
        marker: EndTransaction,
        now_ms: i64,
    ) -> Option<EndedTransaction> {
        let state = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| ProducerState::new(batch.producer_epoch, now_ms));
        state.set_epoch(batch.producer_epoch);
        state.coordinator_epoch = marker.coordinator_epoch;
        state.last_append_ms = now_ms;
        // A marker without a transaction here holds nothing back and hides nothing.
        let first_offset = state.transaction_first_offset.take()?;
        let last_offset = batch.last_offset;
        self.open.remove(&first_offset);
        self.completed.insert(first_offset, last_offset);
        let oldest_open = self.open.first_key_value().map(|(offset, _)| *offset);
        Some(EndedTransaction {
            producer_id: batch.producer_id,
            first_offset,
            last_offset,
            commit: marker.commit,
            last_stable_offset: oldest_open.unwrap_or(last_offset + 1),
        })
    }

    /// The high watermark has advanced: what ended below it holds nothing back any more.
    pub(super) fn release_completed(&mut self, high_watermark: i64) {
        if !self.completed.is_empty() {
            self.completed
                .retain(|_, last_offset| *last_offset >= high_watermark);
        }
    }

    /// The first offset of a transaction that is open, or whose end is not yet below the high watermark.
    pub(super) fn first_unstable_offset(&self) -> Option<i64> {
        let open = self.open.first_key_value().map(|(offset, _)| *offset);
        let completed = self.completed.first_key_value().map(|(offset, _)| *offset);
        match (open, completed) {
            (Some(open), Some(completed)) => Some(open.min(completed)),
            (open, completed) => open.or(completed),
        }
    }

    /// What is known of one producer.
    pub(super) fn producer(&self, producer_id: i64) -> Option<Producer> {
        let state = self.producers.get(&producer_id)?;
        Some(Producer {
            producer_id,
            producer_epoch: state.epoch,
            last_sequence: state.batches.back().map_or(-1, |mark| mark.last_sequence),
            last_append_ms: state.last_append_ms,
            coordinator_epoch: state.coordinator_epoch,
            transaction_first_offset: state.transaction_first_offset,
        })
    }

    /// What is known of all, by id.
    pub(super) fn producers(&self) -> Vec<Producer> {
        let mut ids: Vec<_> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.producer(id)).collect()
    }

    /// Of each producer: its id, its epoch, and the last offset of its last batch of data, if one is known.
    pub(super) fn last_batches(&self) -> impl Iterator<Item = (i64, i16, Option<i64>)> {
        self.producers.iter().map(|(id, state)| {
            let last = state.batches.back().map(|mark| mark.last_offset);
            (*id, state.epoch, last)
        })
    }

    /// Forgets producers that have written nothing for so long, but none with an open transaction.
    pub(super) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, state| {
            state.transaction_first_offset.is_some()
                || now_ms.saturating_sub(state.last_append_ms) < expiration_ms
        });
        self.verifications
            .retain(|_, verification| now_ms.saturating_sub(verification.begun_ms) < expiration_ms);
        let verifications = &self.verifications;
        self.unused_guards
            .retain(|_, producer_id| verifications.contains_key(producer_id));
    }

    pub(super) fn encode_snapshot(&self) -> Vec<u8> {
        encode(
            self.producers
                .iter()
                .map(|(id, state)| (*id, state))
                .collect(),
            i64::MAX,
        )
    }

    /// What batches below `offset` say that those from there on do not, when they are all that is left; `None` if that is nothing. Of the older
    /// transactions only those are told that are open now: what is gone of the others hides nothing.
    pub(super) fn encode_snapshot_before(&self, offset: i64) -> Option<Vec<u8>> {
        let is_before = |state: &ProducerState| {
            let first = state.batches.front();
            first.is_none_or(|first| first.last_offset < offset)
        };
        let producers = self.producers.iter().map(|(id, state)| (*id, state));
        let before: Vec<_> = producers.filter(|(_, state)| is_before(state)).collect();
        (!before.is_empty()).then(|| encode(before, offset))
    }

    /// `None` if the bytes are not a whole snapshot.
    pub(super) fn decode_snapshot(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes };
        if i16::from_be_bytes(reader.take()?) != SNAPSHOT_VERSION {
            return None;
        }
        let crc = u32::from_be_bytes(reader.take()?);
        if crc_fast::crc32_iscsi(reader.rest) != crc {
            return None;
        }
        let count = usize::try_from(i32::from_be_bytes(reader.take()?)).ok()?;
        if bytes.len()
            != SNAPSHOT_HEADER_BYTES.checked_add(count.checked_mul(SNAPSHOT_ENTRY_BYTES)?)?
        {
            return None;
        }
        let mut producers = HashMap::default();
        let mut open = BTreeMap::new();
        for _ in 0..count {
            let id = i64::from_be_bytes(reader.take()?);
            let epoch = i16::from_be_bytes(reader.take()?);
            let last_sequence = i32::from_be_bytes(reader.take()?);
            let last_offset = i64::from_be_bytes(reader.take()?);
            let offset_delta = i32::from_be_bytes(reader.take()?);
            let timestamp = i64::from_be_bytes(reader.take()?);
            let coordinator_epoch = i32::from_be_bytes(reader.take()?);
            let first_offset = i64::from_be_bytes(reader.take()?);
            let mut batches = VecDeque::with_capacity(BATCHES_MAX);
            if last_sequence >= 0 {
                let first_sequence = sequence_minus(last_sequence, offset_delta);
                batches.push_back(BatchMark {
                    first_sequence,
                    last_sequence,
                    last_offset,
                    offset_delta,
                    timestamp,
                });
            }
            let transaction_first_offset = Some(first_offset).filter(|offset| *offset >= 0);
            if let Some(first_offset) = transaction_first_offset {
                open.insert(first_offset, id);
            }
            producers.insert(
                id,
                ProducerState {
                    epoch,
                    batches,
                    coordinator_epoch,
                    transaction_first_offset,
                    last_append_ms: timestamp,
                },
            );
        }
        Some(ProducerStates {
            producers,
            open,
            ..ProducerStates::default()
        })
    }
}

/// The bytes of a snapshot at an offset.
fn encode(mut producers: Vec<(i64, &ProducerState)>, offset: i64) -> Vec<u8> {
    producers.sort_unstable_by_key(|(id, _)| *id);
    let mut entries = Vec::with_capacity(4 + producers.len() * SNAPSHOT_ENTRY_BYTES);
    entries.extend_from_slice(&(producers.len() as i32).to_be_bytes());
    for (id, state) in producers {
        let mut batches = state.batches.iter().rev();
        let last = batches.find(|mark| mark.last_offset < offset);
        let first_offset = state.transaction_first_offset;
        let first_offset = first_offset.filter(|first_offset| *first_offset < offset);
        entries.extend_from_slice(&id.to_be_bytes());
        entries.extend_from_slice(&state.epoch.to_be_bytes());
        entries.extend_from_slice(&last.map_or(-1, |mark| mark.last_sequence).to_be_bytes());
        entries.extend_from_slice(&last.map_or(-1, |mark| mark.last_offset).to_be_bytes());
        entries.extend_from_slice(&last.map_or(0, |mark| mark.offset_delta).to_be_bytes());
        entries.extend_from_slice(&state.last_append_ms.to_be_bytes());
        entries.extend_from_slice(&state.coordinator_epoch.to_be_bytes());
        entries.extend_from_slice(&first_offset.unwrap_or(-1).to_be_bytes());
    }
    let mut snapshot = SNAPSHOT_VERSION.to_be_bytes().to_vec();
    snapshot.extend_from_slice(&crc_fast::crc32_iscsi(&entries).to_be_bytes());
    snapshot.extend_from_slice(&entries);
    snapshot
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    fn batch(epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchFacts {
        BatchFacts {
            base_offset,
            last_offset: base_offset + i64::from(count) - 1,
            size_bytes: 100,
            leader_epoch: 0,
            max_timestamp: 1000,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence,
            last_sequence: sequence_plus(base_sequence, count - 1),
            is_control: false,
            is_transactional: false,
            marker: None,
        }
    }

    #[test]
    fn the_last_five_batches_are_answered_with_their_offsets_and_no_older_one() {
        let mut states = ProducerStates::default();
        for turn in 0..7 {
            let next = batch(0, turn * 2, 2, i64::from(turn) * 10);
            assert_eq!(check(&states, &next).unwrap(), None);
            states.note(&next, 1000);
        }
        for turn in 2..7 {
            let mark = check(&states, &batch(0, turn * 2, 2, 999))
                .unwrap()
                .unwrap();
            assert_eq!(mark.base_offset(), i64::from(turn) * 10);
        }
        assert!(matches!(
            check(&states, &batch(0, 2, 2, 999)),
            Err(AppendError::OutOfOrderSequence {
                found: 2,
                want: 14,
                ..
            })
        ));
        // The same start but another length is no repetition.
        assert!(matches!(
            check(&states, &batch(0, 12, 3, 999)),
            Err(AppendError::OutOfOrderSequence { .. })
        ));
    }

    #[test]
    fn sequences_wrap() {
        let mut states = ProducerStates::default();
        states.note(&batch(0, i32::MAX - 1, 2, 0), 1000);
        assert_eq!(check(&states, &batch(0, 0, 1, 2)).unwrap(), None);
        assert!(check(&states, &batch(0, 1, 1, 2)).is_err());
    }

    #[test]
    fn an_epoch_starts_at_zero_and_fences_the_older_one() {
        let mut states = ProducerStates::default();
        states.note(&batch(3, 5, 1, 0), 1000);
        assert!(matches!(
            check(&states, &batch(4, 6, 1, 1)),
            Err(AppendError::OutOfOrderSequence { want: 0, .. })
        ));
        assert!(matches!(
            check(&states, &batch(2, 6, 1, 1)),
            Err(AppendError::InvalidProducerEpoch {
                found: 2,
                current: 3,
                ..
            })
        ));
        let next = batch(4, 0, 1, 1);
        assert_eq!(check(&states, &next).unwrap(), None);
        states.note(&next, 1000);
        assert!(matches!(
            check(&states, &batch(3, 6, 1, 1)),
            Err(AppendError::InvalidProducerEpoch { .. })
        ));
    }

    #[test]
    fn a_producer_expires() {
        let mut states = ProducerStates::default();
        states.note(&batch(0, 0, 1, 0), 1000);
        states.expire(1000 + 99, 100);
        assert_eq!(states.producers.len(), 1);
        states.expire(1000 + 100, 100);
        assert_eq!(states.producers.len(), 0);
    }

    #[test]
    fn a_producer_of_old_events_lives_as_long_as_it_writes() {
        let mut states = ProducerStates::default();
        let first = batch(0, 0, 1, 0);
        let now_ms = 1_700_000_000_000;
        states.note(&first, now_ms);
        let mut states = ProducerStates::decode_snapshot(&states.encode_snapshot()).unwrap();
        states.expire(now_ms + 99, 100);
        assert!(check(&states, &first).unwrap().is_some());
        states.expire(now_ms + 100, 100);
        assert_eq!(states.producers.len(), 0);
    }

    fn check(
        states: &ProducerStates,
        batch: &BatchFacts,
    ) -> Result<Option<BatchMark>, AppendError> {
        states.check(batch, AppendOrigin::Client, None)
    }

    fn transactional(epoch: i16, base_sequence: i32, base_offset: i64) -> BatchFacts {
        BatchFacts {
            is_transactional: true,
            ..batch(epoch, base_sequence, 1, base_offset)
        }
    }

    fn marker_facts(epoch: i16, commit: bool, coordinator_epoch: i32, offset: i64) -> BatchFacts {
        BatchFacts {
            is_control: true,
            is_transactional: true,
            marker: Some(EndTransaction {
                commit,
                coordinator_epoch,
            }),
            ..batch(epoch, -1, 1, offset)
        }
    }

    /// A producer with epoch 3 and a batch, whose transaction is open, or was ended by a coordinator of epoch 2.
    fn states(is_open: bool) -> ProducerStates {
        let mut states = ProducerStates::default();
        states.note(&transactional(3, 0, 0), 1000);
        if !is_open {
            states.note(&marker_facts(3, true, 2, 1), 1000);
        }
        states
    }

    #[test]
    fn markers_are_fenced_by_epoch_as_their_transaction_version_has_it() {
        // (transaction version, epoch, is a transaction open) → is it old?
        for (version, epoch, is_open, is_old) in [
            (0, 2, true, true),
            (0, 3, true, false),
            (1, 2, true, true),
            (1, 3, true, false),
            (1, 3, false, false),
            (1, 4, true, false),
            (2, 2, true, true),
            (2, 3, true, true),
            (2, 4, true, false),
            // Its answer was lost and it comes again.
            (2, 3, false, false),
            (2, 2, false, true),
        ] {
            let marker = Marker {
                producer_id: 7,
                producer_epoch: epoch,
                commit: true,
                coordinator_epoch: 2,
                transaction_version: version,
            };
            let result = states(is_open).check_marker(&marker);
            let found = matches!(
                result,
                Err(AppendError::InvalidProducerEpoch { current: 3, .. })
            );
            assert_eq!(
                found, is_old,
                "version {version}, epoch {epoch}, open {is_open}"
            );
            assert_eq!(
                result.is_ok(),
                !is_old,
                "version {version}, epoch {epoch}, open {is_open}"
            );
        }
    }

    #[test]
    fn a_marker_of_an_older_coordinator_is_fenced_and_of_an_unknown_producer_taken() {
        let marker = |producer_id, coordinator_epoch| Marker {
            producer_id,
            producer_epoch: 4,
            commit: false,
            coordinator_epoch,
            transaction_version: 2,
        };
        let states = states(false);
        assert!(matches!(
            states.check_marker(&marker(7, 1)),
            Err(AppendError::CoordinatorFenced {
                found: 1,
                current: 2,
                ..
            })
        ));
        assert!(states.check_marker(&marker(7, 2)).is_ok());
        assert!(states.check_marker(&marker(8, 0)).is_ok());
    }

    #[test]
    fn sequences_follow_the_transaction_version_where_nothing_is_known() {
        // (transaction version, first sequence, what was asked about first) → is it out of order?
        for (version, sequence, asked, is_out_of_order) in [
            (1, 0, 0, false),
            (1, 5, 5, false),
            (2, 0, 0, false),
            (2, 5, 5, true),
            // A later batch does not overtake the one that was asked about first.
            (1, 5, 4, true),
        ] {
            let mut states = ProducerStates::default();
            let guard = states.begin_verification(7, 0, asked, version, 1000);
            let result = states.check(&transactional(0, sequence, 0), AppendOrigin::Client, guard);
            assert_eq!(
                matches!(result, Err(AppendError::OutOfOrderSequence { .. })),
                is_out_of_order,
                "version {version}, sequence {sequence} after {asked}"
            );
            assert_eq!(result.is_ok(), !is_out_of_order);
        }
    }

    #[test]
    fn a_transaction_begins_with_leave_and_is_not_mixed() {
        let mut states = states(false);
        let refused = |result: Result<Option<BatchMark>, AppendError>| {
            matches!(
                result,
                Err(AppendError::InvalidTxnState { producer_id: 7, .. })
            )
        };
        for origin in [AppendOrigin::Client, AppendOrigin::Coordinator] {
            assert!(refused(states.check(&transactional(3, 1, 2), origin, None)));
        }
        let guard = states.begin_verification(7, 3, 1, 1, 1000);
        assert!(guard.is_some());
        assert_eq!(
            states.begin_verification(7, 3, 1, 1, 1000),
            guard,
            "two requests share it"
        );
        let next = transactional(3, 1, 2);
        assert_eq!(
            states.check(&next, AppendOrigin::Client, guard).unwrap(),
            None
        );
        // An old epoch is refused with leave too.
        assert!(matches!(
            states.check(&transactional(2, 1, 2), AppendOrigin::Client, guard),
            Err(AppendError::InvalidProducerEpoch { .. })
        ));
        states.note(&next, 1000);
        assert_eq!(states.begin_verification(7, 3, 2, 1, 1000), None);
        // The next one needs none; one outside the transaction is refused; another epoch needs its own.
        let inside = transactional(3, 2, 3);
        assert_eq!(
            states.check(&inside, AppendOrigin::Client, None).unwrap(),
            None
        );
        let outside = BatchFacts {
            is_transactional: false,
            ..inside
        };
        assert!(refused(states.check(&outside, AppendOrigin::Client, None)));
        assert!(refused(states.check(
            &transactional(4, 0, 3),
            AppendOrigin::Client,
            None
        )));
        // Used leave is void.
        states.note(&marker_facts(3, false, 2, 3), 1000);
        assert!(refused(states.check(&inside, AppendOrigin::Client, guard)));
    }

    #[test]
    fn a_coordinator_s_batches_have_no_sequences_but_an_epoch() {
        let states = states(true);
        for sequence in [0, 0, 5] {
            let found = states.check(
                &transactional(3, sequence, 1),
                AppendOrigin::Coordinator,
                None,
            );
            assert_eq!(found.unwrap(), None);
        }
        let mut states = states;
        let guard = states.begin_verification(7, 2, 0, 1, 1000);
        assert!(matches!(
            states.check(&transactional(2, 0, 1), AppendOrigin::Coordinator, guard),
            Err(AppendError::InvalidProducerEpoch { .. })
        ));
    }

    #[test]
    fn what_is_unstable_is_open_or_ended_at_or_above_the_high_watermark() {
        let mut states = ProducerStates::default();
        states.note(&transactional(0, 0, 5), 1000);
        let other = BatchFacts {
            producer_id: 8,
            ..transactional(0, 0, 6)
        };
        states.note(&other, 1000);
        assert_eq!(states.first_unstable_offset(), Some(5));
        let ended = states.note(&marker_facts(1, false, 0, 7), 1000).unwrap();
        assert_eq!(
            (
                ended.first_offset,
                ended.last_offset,
                ended.last_stable_offset
            ),
            (5, 7, 6)
        );
        for (high_watermark, unstable) in [(7, Some(5)), (8, Some(6))] {
            states.release_completed(high_watermark);
            assert_eq!(states.first_unstable_offset(), unstable);
        }
        // A marker where nothing is open ends nothing.
        assert_eq!(states.note(&marker_facts(1, false, 0, 8), 1000), None);
        let end_other = BatchFacts {
            producer_id: 8,
            ..marker_facts(0, true, 0, 9)
        };
        assert_eq!(
            states.note(&end_other, 1000).unwrap().last_stable_offset,
            10
        );
        states.release_completed(10);
        assert_eq!(states.first_unstable_offset(), None);
    }

    #[test]
    fn of_leave_that_nobody_uses_the_oldest_is_forgotten() {
        let mut states = ProducerStates::default();
        let count = VERIFICATIONS_MAX as i64;
        let mut begin = |producer_id: i64| states.begin_verification(producer_id, 0, 0, 1, 1000);
        let first = begin(7);
        let second = begin(8);
        for producer_id in 100..100 + count - 2 {
            begin(producer_id);
        }
        assert_eq!(begin(7), first, "it is there, and takes no other place");
        begin(50);
        let first_batch = transactional(0, 0, 10);
        let second_batch = BatchFacts {
            producer_id: 8,
            ..first_batch
        };
        let check = |states: &ProducerStates, batch: &BatchFacts, guard| {
            states.check(batch, AppendOrigin::Client, guard)
        };
        assert!(
            check(&states, &first_batch, first).is_err(),
            "it was forgotten"
        );
        assert_eq!(check(&states, &second_batch, second).unwrap(), None);
        states.note(&second_batch, 1000);
        assert_eq!(states.verifications.len(), VERIFICATIONS_MAX - 1);
        assert_eq!(states.unused_guards.len(), VERIFICATIONS_MAX - 1);
        states.expire(5000, 1000);
        assert!(states.verifications.is_empty() && states.unused_guards.is_empty());
    }

    #[test]
    fn a_producer_with_an_open_transaction_does_not_expire_and_unused_leave_does() {
        let mut states = states(true);
        let guard = states.begin_verification(9, 0, 0, 2, 1000);
        states.expire(1_000_000, 100);
        assert_eq!(states.producers().len(), 1);
        let late = BatchFacts {
            producer_id: 9,
            ..transactional(0, 0, 1)
        };
        assert!(states.check(&late, AppendOrigin::Client, guard).is_err());
        states.note(&marker_facts(3, true, 0, 1), 1000);
        states.expire(1_000_000, 100);
        assert_eq!(states.producers(), []);
    }

    proptest! {
        #[test]
        fn a_snapshot_reads_back_with_the_last_batch(
            producers in prop::collection::vec((0i64..1000, 0i16..9, 0i32..=i32::MAX, 1i32..50, 0i64..1 << 40), 0..20),
            at in any::<prop::sample::Index>(), byte in 1u8..,
        ) {
            let mut states = ProducerStates::default();
            for (id, epoch, sequence, count, offset) in producers {
                states.note(&BatchFacts { producer_id: id, ..batch(epoch, sequence, count, offset) }, 1000);
            }
            let mut expected = states.clone();
            for state in expected.producers.values_mut() {
                state.batches = state.batches.back().copied().into_iter().collect();
            }
            let mut bytes = states.encode_snapshot();
            prop_assert_eq!(ProducerStates::decode_snapshot(&bytes), Some(expected));
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
            prop_assert_eq!(ProducerStates::decode_snapshot(&bytes), None);
            prop_assert_eq!(ProducerStates::decode_snapshot(&bytes[..at]), None);
        }
    }
}
