//! What the first walk learns of the dirty section, so that the second need not read there what it can know.
//!
//! 1. Of each key the last offset ([`OffsetMap`]).
//! 2. Which offsets are *superseded*: when a key comes again, the map has its older offset at hand. So the second walk asks a bit, not the table.
//! 3. Which offsets are *unusual*, without a key or without a value: these must be looked at one by one.
//!
//! A batch of the dirty section with neither stays as it is, and one that is all superseded goes, without a record of it being read again. The
//! clean section's records are looked up by their keys: they were not walked before.
//!
//! ## Bits for offsets, of bounded number
//! The two sets take a quarter of a byte for each dirty offset, where the table takes 22 bytes for each key; but offsets may have gaps, and keys
//! may come a thousand times. So the sets have at most a sixteenth of the memory, and end there: behind that end records are looked up by
//! their keys. This costs time and nothing else.

use crate::log::cleaner::CleaningLimits;
use crate::log::cleaner::offset_map::{KeyHash, OffsetMap, Put};
use crate::log::cleaner::offset_set::OffsetSet;
use crate::protocol::record_batch::{BatchHeader, RecordHead};

/// The sets' share of the memory.
const SETS_SHARE: usize = 16;

/// How many keys are hashed before they are looked up, so that the waits for memory overlap. More do not get faster.
pub(super) const KEYS_AT_ONCE: usize = 64;

#[derive(Debug)]
pub(super) struct DirtySection {
    map: OffsetMap,
    superseded: OffsetSet,
    unusual: OffsetSet,
    /// Hashed, and not yet put into the map.
    pending: Vec<(KeyHash, i64)>,
    /// Everything up to and including this one is accounted for when the pending ones are.
    walked_to: i64,
}

/// What the second walk has to do with a batch of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// No record goes.
    AllStay,
    /// No record stays.
    NoneStays,
    /// Ask for each offset: [`DirtySection::is_superseded`].
    AtOffsets,
    /// Ask for each key: [`DirtySection::last_offset`].
    AtKeys,
}

impl DirtySection {
    /// For a dirty section of so many offsets, of which none is without room if memory suffices.
    pub(super) fn new(first_dirty_offset: i64, offsets: u64, limits: &CleaningLimits) -> Self {
        let set_bytes_max = limits.map_bytes_max / SETS_SHARE / 2;
        let set_offsets = offsets.min(set_bytes_max as u64 * 8);
        let superseded = OffsetSet::new(first_dirty_offset, set_offsets);
        let unusual = OffsetSet::new(first_dirty_offset, set_offsets);
        let sets_bytes = superseded.size_bytes() + unusual.size_bytes();
        let map = OffsetMap::new(
            offsets,
            limits.map_bytes_max.saturating_sub(sets_bytes),
            limits.map_load_percent,
            limits.seed,
        );
        DirtySection {
            map,
            superseded,
            unusual,
            pending: Vec::with_capacity(KEYS_AT_ONCE),
            walked_to: -1,
        }
    }

    /// Notes a record; offsets rise from call to call. `false` if the map is full: the walk has gone as far as it can.
    #[inline]
    #[must_use]
    pub(super) fn note(&mut self, record: &RecordHead<'_>) -> bool {
        if record.key.is_none() || record.value.is_none() {
            self.unusual.insert(record.offset);
        }
        let Some(key) = record.key else {
            return true;
        };
        self.pending.push((self.map.hash(key), record.offset));
        self.pending.len() < KEYS_AT_ONCE || self.put_pending()
    }

    /// All records up to and including this offset were noted, or are of no account.
    pub(super) fn advance_to(&mut self, offset: i64) {
        self.walked_to = self.walked_to.max(offset);
    }

    /// Ends the walk. `false` if the map is full.
    #[must_use]
    pub(super) fn finish(&mut self) -> bool {
        self.put_pending()
    }

    fn put_pending(&mut self) -> bool {
        let hashes = self.pending.iter().map(|(hash, _)| *hash);
        self.map.touch(hashes);
        for (hash, offset) in self.pending.drain(..) {
            match self.map.put(hash, offset) {
                Put::First => {}
                Put::Supersedes(before) => self.superseded.insert(before),
                Put::Full => return false,
            }
        }
        self.map.advance_to(self.walked_to);
        true
    }

    /// The last offset that is accounted for, -1 before any: of records above it nothing is known.
    pub(super) fn latest_offset(&self) -> i64 {
        self.map.latest_offset()
    }

    /// What to do with a batch of data.
    pub(super) fn look(&self, batch: &BatchHeader<'_>) -> Look {
        let known = self.superseded.range();
        let offsets = batch.base_offset()..batch.last_offset() + 1;
        if offsets.start < known.start
            || offsets.end > known.end
            || batch.last_offset() > self.latest_offset()
        {
            return Look::AtKeys;
        }
        let superseded = self.superseded.count(offsets.clone());
        if i64::try_from(superseded) == Ok(batch.record_count().into()) {
            Look::NoneStays
        } else if superseded == 0 && self.unusual.count(offsets) == 0 {
            Look::AllStay
        } else {
            Look::AtOffsets
        }
    }

    /// Whether a later record of the map has the key of the one at this offset.
    #[inline]
    pub(super) fn is_superseded(&self, offset: i64) -> bool {
        self.superseded.contains(offset)
    }

    /// The last offset of a key.
    #[inline]
    pub(super) fn last_offset(&self, key: KeyHash) -> Option<i64> {
        self.map.get(key)
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        self.map.hash(key)
    }

    /// These keys will be looked up.
    #[inline]
    pub(super) fn touch(&self, keys: impl Iterator<Item = KeyHash>) {
        self.map.touch(keys);
    }

    pub(super) fn keys(&self) -> usize {
        self.map.len()
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.map.size_bytes() + self.superseded.size_bytes() + self.unusual.size_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::record_batch::{Builder, RecordBatch};

    proptest! {
        /// Batches of records, each a key (none in one of ten) and whether it has a value. However little memory there is, a bit says what the
        /// key says, and a batch that need not be looked at is one where each record would have said the same.
        #[test]
        fn bits_and_keys_agree(
            batches in prop::collection::vec(prop::collection::vec((0u8..30, 0u8..10), 1..20), 1..40),
            map_bytes_max in prop::sample::select(vec![0usize, 600, 2000, 1 << 20]),
        ) {
            let first_dirty = 1000;
            let mut bytes = Vec::new();
            let mut offset = first_dirty;
            for records in &batches {
                let mut builder = Builder::new().base_offset(offset);
                for (key, kind) in records {
                    let key = Some([*key]).filter(|_| *kind != 0);
                    let value = Some(b"v".as_slice()).filter(|_| *kind != 1);
                    builder.append(0, key.as_ref().map(|key| key.as_slice()), value, &[]);
                }
                bytes.push(builder.build());
                offset += records.len() as i64;
            }
            let limits = CleaningLimits { map_bytes_max, ..CleaningLimits::default() };
            let mut section = DirtySection::new(first_dirty, (offset - first_dirty) as u64, &limits);
            prop_assert!(section.size_bytes() <= map_bytes_max.max(2 * 20));
            let mut scratch = Vec::new();
            let mut is_full = false;
            'walk: for bytes in &bytes {
                let batch = RecordBatch::parse(bytes).unwrap();
                let mut records = batch.records(&mut scratch, 1 << 20).unwrap();
                while let Some(record) = records.next_head() {
                    if !section.note(&record.unwrap()) {
                        is_full = true;
                        break 'walk;
                    }
                }
                section.advance_to(batch.last_offset());
            }
            is_full = is_full || !section.finish();
            prop_assert_eq!(section.latest_offset() == offset - 1, !is_full);
            prop_assert!(section.latest_offset() >= first_dirty || batches.iter().flatten().all(|(_, kind)| *kind == 0));
            for bytes in &bytes {
                let batch = RecordBatch::parse(bytes).unwrap();
                let look = section.look(&batch.header());
                if batch.last_offset() > section.latest_offset() {
                    prop_assert_eq!(look, Look::AtKeys);
                    continue;
                }
                for record in batch.records(&mut scratch, 1 << 20).unwrap() {
                    let record = record.unwrap();
                    let last = record.key.and_then(|key| section.last_offset(section.hash(key)));
                    let superseded = last.is_some_and(|last| record.offset < last);
                    prop_assert_eq!(last.is_some(), record.key.is_some());
                    match look {
                        Look::AllStay => prop_assert!(!superseded && record.key.is_some() && record.value.is_some()),
                        Look::NoneStays => prop_assert!(superseded),
                        Look::AtOffsets => prop_assert_eq!(section.is_superseded(record.offset), superseded),
                        Look::AtKeys => prop_assert!(map_bytes_max < 1 << 20),
                    }
                }
            }
        }
    }
}
