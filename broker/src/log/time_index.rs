//! `.timeindex`: up to which offset all records are older than a time.
//!
//! An entry is 12 bytes, big-endian: `{timestamp i64, offset relative to the segment's base i32}`. It says: the highest timestamp so far is
//! this one, in the batch that ends with this offset. Both rise from entry to entry. An entry is added together with one of the offset index,
//! and once more when the segment is sealed or closed, so that the last one holds the segment's highest timestamp.

use crate::log::index_file::IndexEntry;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeEntry {
    /// Milliseconds since the epoch.
    pub(super) timestamp: i64,
    /// Last offset of the batch that holds it, less the segment's base offset.
    pub(super) relative_offset: i32,
}

impl IndexEntry for TimeEntry {
    const BYTES: usize = 12;

    fn key(&self) -> i64 {
        self.timestamp
    }

    fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.timestamp.to_be_bytes());
        buffer.extend_from_slice(&self.relative_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (timestamp, relative_offset) = bytes.split_first_chunk::<8>()?;
        Some(TimeEntry {
            timestamp: i64::from_be_bytes(*timestamp),
            relative_offset: i32::from_be_bytes(relative_offset.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_reads_back(timestamp: i64, relative_offset: i32) {
            let entry = TimeEntry { timestamp, relative_offset };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), TimeEntry::BYTES);
            prop_assert_eq!(TimeEntry::decode(&bytes), Some(entry));
        }
    }
}
