//! `.index`: where in a segment an offset lies, one entry for every `index.interval.bytes` of log.
//!
//! An entry is 8 bytes, big-endian: `{offset relative to the segment's base i32, position i32}`. It stands for one batch: its last offset, and
//! the position at which it starts. So an entry may point before the wanted offset, never after it: a reader that lands early scans
//! forward, one that lands late has lost records.

use crate::log::index_file::IndexEntry;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    /// Last offset of a batch, less the segment's base offset.
    pub(super) relative_offset: i32,
    /// Where that batch starts.
    pub(super) position: i32,
}

impl IndexEntry for OffsetEntry {
    const BYTES: usize = 8;

    fn key(&self) -> i64 {
        self.relative_offset.into()
    }

    fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.relative_offset.to_be_bytes());
        buffer.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (relative_offset, position) = bytes.split_first_chunk::<4>()?;
        Some(OffsetEntry {
            relative_offset: i32::from_be_bytes(*relative_offset),
            position: i32::from_be_bytes(position.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::disk::{Disk, SimDisk};
    use crate::log::index_file::GrowingIndex;

    proptest! {
        #[test]
        fn an_entry_reads_back(relative_offset: i32, position: i32) {
            let entry = OffsetEntry { relative_offset, position };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), OffsetEntry::BYTES);
            prop_assert_eq!(OffsetEntry::decode(&bytes), Some(entry));
        }

        #[test]
        fn a_lookup_lands_at_or_before_growing_or_sealed(steps in prop::collection::vec(1i32..50, 0..3000), wanted in 0i64..40_000) {
            let disk = SimDisk::new();
            disk.create_dir_all(Path::new("/d")).unwrap();
            let mut index = GrowingIndex::new(PathBuf::from("/d/0.index"));
            let mut offset = 0;
            for (position, step) in steps.iter().enumerate() {
                offset += step;
                index.push(&disk, OffsetEntry { relative_offset: offset, position: position as i32 });
            }
            let expected = index.entries().iter().rfind(|entry| entry.key() <= wanted).copied();
            prop_assert_eq!(index.floor(wanted), expected);
            index.write_all(&disk).unwrap();
            let loaded = GrowingIndex::<OffsetEntry>::load(&disk, PathBuf::from("/d/0.index")).unwrap().unwrap();
            prop_assert_eq!(loaded.entries(), index.entries());
            let sealed = index.seal().open(&disk).unwrap();
            prop_assert_eq!(sealed.floor(wanted).unwrap(), expected);
            prop_assert_eq!(sealed.last().unwrap(), loaded.entries().last().copied());
        }
    }
}
