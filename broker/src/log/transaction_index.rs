//! `.txnindex`: the aborted transactions whose markers lie in a segment, so that a read-committed reader knows what to skip.
//!
//! An entry is 34 bytes, big-endian, in the order of the markers:
//! `{version i16 = 0, producer id i64, first offset i64, last offset i64, last stable offset i64}`. The first offset is that of the
//! transaction's first batch, perhaps in an earlier segment; the last one is the marker's. The last stable offset is the one right after the
//! transaction ended: the first offset of the oldest transaction that was still open, else the offset after the marker.
//!
//! Which are told with a read of `[start, end)`: those with `last offset >= start` and `first offset < end`, from the segment of `start` on.
//! A later entry cannot matter once one's last stable offset is at or above `end`: what was still open began there or later.
//!
//! ## In memory, not searched on disk
//! A log keeps the entries of all its segments in memory: 32 bytes for each transaction that was aborted and is still retained. Kafka reads
//! the file with each fetch. Segments without aborts have neither file nor memory.

use std::sync::Arc;

use crate::log::index_file::IndexEntry;
use crate::log::producer_state::EndedTransaction;

const VERSION: i16 = 0;

/// An aborted transaction, as its index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AbortedTransactionEntry {
    pub(super) producer_id: i64,
    pub(super) first_offset: i64,
    /// Of the marker.
    pub(super) last_offset: i64,
    /// When the marker was written.
    pub(super) last_stable_offset: i64,
}

impl From<EndedTransaction> for AbortedTransactionEntry {
    fn from(ended: EndedTransaction) -> Self {
        AbortedTransactionEntry {
            producer_id: ended.producer_id,
            first_offset: ended.first_offset,
            last_offset: ended.last_offset,
            last_stable_offset: ended.last_stable_offset,
        }
    }
}

/// An aborted transaction, as a reader is told: batches of this producer from this offset on are skipped until its abort marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

impl IndexEntry for AbortedTransactionEntry {
    const BYTES: usize = 34;

    fn key(&self) -> i64 {
        self.last_offset
    }

    fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&VERSION.to_be_bytes());
        buffer.extend_from_slice(&self.producer_id.to_be_bytes());
        buffer.extend_from_slice(&self.first_offset.to_be_bytes());
        buffer.extend_from_slice(&self.last_offset.to_be_bytes());
        buffer.extend_from_slice(&self.last_stable_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<2>()?;
        let (producer_id, rest) = rest.split_first_chunk::<8>()?;
        let (first_offset, rest) = rest.split_first_chunk::<8>()?;
        let (last_offset, rest) = rest.split_first_chunk::<8>()?;
        let entry = AbortedTransactionEntry {
            producer_id: i64::from_be_bytes(*producer_id),
            first_offset: i64::from_be_bytes(*first_offset),
            last_offset: i64::from_be_bytes(*last_offset),
            last_stable_offset: i64::from_be_bytes(rest.try_into().ok()?),
        };
        let is_sound = i16::from_be_bytes(*version) == VERSION
            && entry.producer_id >= 0
            && entry.first_offset >= 0
            && entry.first_offset < entry.last_offset;
        is_sound.then_some(entry)
    }
}

/// Those of a segment that may concern a read from `start` on: shared, not copied.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    segments: Vec<Arc<[AbortedTransactionEntry]>>,
    start: i64,
}

impl Candidates {
    pub(super) fn new(start: i64) -> Self {
        Candidates {
            segments: Vec::new(),
            start,
        }
    }

    /// Takes the entries of the next segment. `end_max` is an end that the read will not pass; false if no later segment matters.
    pub(super) fn add(&mut self, entries: &Arc<[AbortedTransactionEntry]>, end_max: i64) -> bool {
        let Some(last) = entries.last() else {
            return true;
        };
        if last.last_offset >= self.start {
            self.segments.push(Arc::clone(entries));
        }
        last.last_stable_offset < end_max
    }

    /// Takes those of the active segment, which are copied, as far as a read to `end_max` may need them.
    pub(super) fn add_growing(&mut self, entries: &[AbortedTransactionEntry], end_max: i64) {
        let first = entries.partition_point(|entry| entry.last_offset < self.start);
        let rest = entries.get(first..).unwrap_or_default();
        let count = rest.partition_point(|entry| entry.last_stable_offset < end_max) + 1;
        let wanted = rest.get(..count).unwrap_or(rest);
        if !wanted.is_empty() {
            self.segments.push(wanted.into());
        }
    }

    /// Those that a reader of `[start, end)` has to know, in the order of their markers.
    pub(super) fn concerning(&self, end: i64) -> Vec<AbortedTransaction> {
        let mut found = Vec::new();
        for entries in &self.segments {
            let first = entries.partition_point(|entry| entry.last_offset < self.start);
            for entry in entries.get(first..).unwrap_or_default() {
                if entry.first_offset < end {
                    found.push(AbortedTransaction {
                        producer_id: entry.producer_id,
                        first_offset: entry.first_offset,
                    });
                }
                if entry.last_stable_offset >= end {
                    return found;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_has_kafka_s_34_bytes() {
        let entry = AbortedTransactionEntry {
            producer_id: 1,
            first_offset: 2,
            last_offset: 3,
            last_stable_offset: 4,
        };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let mut expected = vec![0, 0];
        for number in 1..=4u8 {
            expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, number]);
        }
        assert_eq!(bytes, expected);
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_and_only_whole(producer_id in 0i64.., first_offset in 0i64..1 << 40, length in 1i64..1000, stable in 0i64..) {
            let entry = AbortedTransactionEntry { producer_id, first_offset, last_offset: first_offset + length, last_stable_offset: stable };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(AbortedTransactionEntry::decode(&bytes), Some(entry));
            for length in 0..bytes.len() {
                prop_assert_eq!(AbortedTransactionEntry::decode(bytes.get(..length).unwrap()), None);
            }
        }

        #[test]
        fn any_bytes_are_an_entry_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let found = AbortedTransactionEntry::decode(&bytes);
            prop_assert!(found.is_none() || bytes.len() == AbortedTransactionEntry::BYTES);
        }
    }
}
