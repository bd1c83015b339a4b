//! Idempotent producers: what a log remembers of each, to refuse gaps and to answer retries with the original offset.
//!
//! Of each producer id: its epoch and its last five batches, as many as a client may have in flight.
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

use std::collections::VecDeque;

use foldhash::HashMap;

use crate::log::AppendError;
use crate::log::segment::BatchFacts;
use crate::protocol::record_batch::{sequence_minus, sequence_plus};

/// Batches remembered of each producer: a client has at most five requests in flight.
const BATCHES_MAX: usize = 5;
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

/// All producers of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProducerStates {
    producers: HashMap<i64, ProducerState>,
}

impl ProducerStates {
    /// Whether a client's batch comes next, or the mark of the batch it repeats.
    pub(super) fn check(&self, batch: &BatchFacts) -> Result<Option<BatchMark>, AppendError> {
        let producer_id = batch.producer_id;
        let Some(state) = self.producers.get(&producer_id) else {
            // Nothing is known, perhaps for retention: any sequence may follow.
            return Ok(None);
        };
        if batch.producer_epoch < state.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id,
                found: batch.producer_epoch,
                current: state.epoch,
            });
        }
        if batch.producer_epoch > state.epoch {
            return match batch.base_sequence {
                0 => Ok(None),
                found => Err(AppendError::OutOfOrderSequence {
                    producer_id,
                    found,
                    want: 0,
                }),
            };
        }
        let repeated = state.batches.iter().find(|mark| {
            mark.first_sequence == batch.base_sequence && mark.last_sequence == batch.last_sequence
        });
        if let Some(mark) = repeated {
            return Ok(Some(*mark));
        }
        let want = state
            .batches
            .back()
            .map_or(0, |last| sequence_plus(last.last_sequence, 1));
        if batch.base_sequence == want {
            Ok(None)
        } else {
            Err(AppendError::OutOfOrderSequence {
                producer_id,
                found: batch.base_sequence,
                want,
            })
        }
    }

    /// Notes a batch that has been appended now. Its own timestamps say nothing of that: they are the producer's.
    pub(super) fn note(&mut self, batch: &BatchFacts, now_ms: i64) {
        if batch.producer_id < 0 || batch.is_control {
            return;
        }
        let state = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| ProducerState {
                epoch: batch.producer_epoch,
                batches: VecDeque::with_capacity(BATCHES_MAX),
                coordinator_epoch: -1,
                transaction_first_offset: None,
                last_append_ms: now_ms,
            });
        if state.epoch != batch.producer_epoch {
            state.epoch = batch.producer_epoch;
            state.batches.clear();
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
    }

    /// Forgets producers that have written nothing for so long.
    pub(super) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, state| {
            state.transaction_first_offset.is_some()
                || now_ms.saturating_sub(state.last_append_ms) < expiration_ms
        });
    }

    pub(super) fn encode_snapshot(&self) -> Vec<u8> {
        let mut producers: Vec<_> = self.producers.iter().collect();
        producers.sort_unstable_by_key(|(id, _)| **id);
        let mut entries = Vec::with_capacity(4 + producers.len() * SNAPSHOT_ENTRY_BYTES);
        entries.extend_from_slice(&(producers.len() as i32).to_be_bytes());
        for (id, state) in producers {
            let last = state.batches.back();
            entries.extend_from_slice(&id.to_be_bytes());
            entries.extend_from_slice(&state.epoch.to_be_bytes());
            entries.extend_from_slice(&last.map_or(-1, |mark| mark.last_sequence).to_be_bytes());
            entries.extend_from_slice(&last.map_or(-1, |mark| mark.last_offset).to_be_bytes());
            entries.extend_from_slice(&last.map_or(0, |mark| mark.offset_delta).to_be_bytes());
            entries.extend_from_slice(&state.last_append_ms.to_be_bytes());
            entries.extend_from_slice(&state.coordinator_epoch.to_be_bytes());
            entries.extend_from_slice(&state.transaction_first_offset.unwrap_or(-1).to_be_bytes());
        }
        let mut snapshot = SNAPSHOT_VERSION.to_be_bytes().to_vec();
        snapshot.extend_from_slice(&crc_fast::crc32_iscsi(&entries).to_be_bytes());
        snapshot.extend_from_slice(&entries);
        snapshot
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
        Some(ProducerStates { producers })
    }
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
        }
    }

    #[test]
    fn the_last_five_batches_are_answered_with_their_offsets_and_no_older_one() {
        let mut states = ProducerStates::default();
        for turn in 0..7 {
            let next = batch(0, turn * 2, 2, i64::from(turn) * 10);
            assert_eq!(states.check(&next).unwrap(), None);
            states.note(&next, 1000);
        }
        for turn in 2..7 {
            let mark = states.check(&batch(0, turn * 2, 2, 999)).unwrap().unwrap();
            assert_eq!(mark.base_offset(), i64::from(turn) * 10);
        }
        assert!(matches!(
            states.check(&batch(0, 2, 2, 999)),
            Err(AppendError::OutOfOrderSequence {
                found: 2,
                want: 14,
                ..
            })
        ));
        // The same start but another length is no repetition.
        assert!(matches!(
            states.check(&batch(0, 12, 3, 999)),
            Err(AppendError::OutOfOrderSequence { .. })
        ));
    }

    #[test]
    fn sequences_wrap() {
        let mut states = ProducerStates::default();
        states.note(&batch(0, i32::MAX - 1, 2, 0), 1000);
        assert_eq!(states.check(&batch(0, 0, 1, 2)).unwrap(), None);
        assert!(states.check(&batch(0, 1, 1, 2)).is_err());
    }

    #[test]
    fn an_epoch_starts_at_zero_and_fences_the_older_one() {
        let mut states = ProducerStates::default();
        states.note(&batch(3, 5, 1, 0), 1000);
        assert!(matches!(
            states.check(&batch(4, 6, 1, 1)),
            Err(AppendError::OutOfOrderSequence { want: 0, .. })
        ));
        assert!(matches!(
            states.check(&batch(2, 6, 1, 1)),
            Err(AppendError::InvalidProducerEpoch {
                found: 2,
                current: 3,
                ..
            })
        ));
        let next = batch(4, 0, 1, 1);
        assert_eq!(states.check(&next).unwrap(), None);
        states.note(&next, 1000);
        assert!(matches!(
            states.check(&batch(3, 6, 1, 1)),
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
        assert!(states.check(&first).unwrap().is_some());
        states.expire(now_ms + 100, 100);
        assert_eq!(states.producers.len(), 0);
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
