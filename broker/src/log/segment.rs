//! Segments: a file of batches with its indexes. Sealed ones never change; the active one is appended to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::disk::{Disk, DiskFile};
use crate::log::index_file::{GrowingIndex, IndexEntry, SealedIndex};
use crate::log::offset_index::OffsetEntry;
use crate::log::open_segments::{OpenSegment, Slot};
use crate::log::time_index::TimeEntry;
use crate::log::transaction_index::AbortedTransactionEntry;
use crate::log::{LogConfig, LogError, disk_error};
use crate::protocol::record_batch::{BatchHeader, EndTransaction};

pub(super) const LOG: &str = "log";
pub(super) const OFFSET_INDEX: &str = "index";
pub(super) const TIME_INDEX: &str = "timeindex";
pub(super) const TRANSACTION_INDEX: &str = "txnindex";
pub(super) const SNAPSHOT: &str = "snapshot";

/// The file of a partition's directory that starts at an offset, as `00000000000000000042.log`.
pub(super) fn path(dir: &Path, base_offset: i64, extension: &str) -> PathBuf {
    dir.join(format!("{base_offset:020}.{extension}"))
}

/// The offset and the extension of such a name.
pub(super) fn parse_name(name: &str) -> Option<(i64, &str)> {
    let (digits, extension) = name.split_once('.')?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let offset = digits.parse().ok().filter(|_| all_digits)?;
    Some((offset, extension))
}

/// What a log keeps of a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchFacts {
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    pub(super) size_bytes: u64,
    pub(super) leader_epoch: i32,
    pub(super) max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) last_sequence: i32,
    pub(super) is_control: bool,
    pub(super) is_transactional: bool,
    /// What a control batch says: known only where its record was read.
    pub(super) marker: Option<EndTransaction>,
}

impl From<BatchHeader<'_>> for BatchFacts {
    fn from(header: BatchHeader<'_>) -> Self {
        BatchFacts {
            base_offset: header.base_offset(),
            last_offset: header.last_offset(),
            size_bytes: header.size_bytes() as u64,
            leader_epoch: header.leader_epoch(),
            max_timestamp: header.max_timestamp(),
            producer_id: header.producer_id(),
            producer_epoch: header.producer_epoch(),
            base_sequence: header.base_sequence(),
            last_sequence: header.last_sequence(),
            is_control: header.is_control(),
            is_transactional: header.is_transactional(),
            marker: None,
        }
    }
}

/// A segment's highest timestamp and the last offset of the first batch that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MaxTimestamp {
    pub(super) timestamp: i64,
    pub(super) batch_last_offset: i64,
}

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct ActiveSegment {
    pub(super) base_offset: i64,
    pub(super) size_bytes: u64,
    /// Opened, and created if need be, with the first use.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    pub(super) path: PathBuf,
    pub(super) offset_index: GrowingIndex<OffsetEntry>,
    pub(super) time_index: GrowingIndex<TimeEntry>,
    pub(super) transaction_index: GrowingIndex<AbortedTransactionEntry>,
    pub(super) bytes_since_index_entry: u64,
    pub(super) max_timestamp: Option<MaxTimestamp>,
    /// Of the first batch: `segment.ms` counts from it.
    pub(super) first_timestamp: Option<i64>,
    pub(super) created_ms: i64,
    /// More bytes may be set aside for the file than it has.
    pub(super) is_preallocated: bool,
    /// For reads before the first append.
    pub(super) slot: Slot,
}

impl ActiveSegment {
    /// An empty segment; its files are not yet there, or are overwritten.
    pub(super) fn empty(dir: &Path, base_offset: i64, now_ms: i64) -> Self {
        ActiveSegment {
            base_offset,
            size_bytes: 0,
            file: None,
            path: path(dir, base_offset, LOG),
            offset_index: GrowingIndex::new(path(dir, base_offset, OFFSET_INDEX)),
            time_index: GrowingIndex::new(path(dir, base_offset, TIME_INDEX)),
            transaction_index: GrowingIndex::new(path(dir, base_offset, TRANSACTION_INDEX)),
            bytes_since_index_entry: 0,
            max_timestamp: None,
            first_timestamp: None,
            created_ms: now_ms,
            is_preallocated: false,
            slot: Slot::default(),
        }
    }

    /// Notes a batch that lies at the segment's end.
    pub(super) fn note(&mut self, disk: &dyn Disk, batch: &BatchFacts, index_interval_bytes: u32) {
        if self.first_timestamp.is_none() {
            self.first_timestamp = Some(batch.max_timestamp);
        }
        if batch.max_timestamp > self.max_timestamp.map_or(-1, |max| max.timestamp) {
            self.max_timestamp = Some(MaxTimestamp {
                timestamp: batch.max_timestamp,
                batch_last_offset: batch.last_offset,
            });
        }
        if self.bytes_since_index_entry > index_interval_bytes.into() {
            // A roll keeps both within an i32: see `must_roll`.
            let relative_offset = (batch.last_offset - self.base_offset) as i32;
            let position = self.size_bytes as i32;
            self.offset_index.push(
                disk,
                OffsetEntry {
                    relative_offset,
                    position,
                },
            );
            self.note_time(disk);
            self.bytes_since_index_entry = 0;
        }
        self.bytes_since_index_entry += batch.size_bytes;
        self.size_bytes += batch.size_bytes;
    }

    /// Notes an aborted transaction whose marker lies in this segment.
    pub(super) fn note_abort(&mut self, disk: &dyn Disk, entry: AbortedTransactionEntry) {
        self.transaction_index.push(disk, entry);
        // For who looks into the files. Nothing relies on it before `finish`, which writes what is missing and reports.
        let _ = self.transaction_index.write_all(disk);
    }

    fn note_time(&mut self, disk: &dyn Disk) {
        let Some(max) = self.max_timestamp else {
            return;
        };
        let last = self
            .time_index
            .entries()
            .last()
            .map_or(-1, |entry| entry.timestamp);
        if max.timestamp > last {
            let relative_offset = (max.batch_last_offset - self.base_offset) as i32;
            self.time_index.push(
                disk,
                TimeEntry {
                    timestamp: max.timestamp,
                    relative_offset,
                },
            );
        }
    }

    /// Whether this batch has to go to a new segment.
    pub(super) fn must_roll(
        &self,
        config: &LogConfig,
        size_bytes: u64,
        max_timestamp: i64,
        last_offset: i64,
        now_ms: i64,
    ) -> bool {
        if self.size_bytes == 0 {
            return false;
        }
        let index_bytes_max = config.index_bytes_max as usize;
        let age_ms = match self.first_timestamp {
            Some(first) if first >= 0 => max_timestamp.saturating_sub(first),
            _ => now_ms.saturating_sub(self.created_ms),
        };
        self.size_bytes + size_bytes > u64::from(config.segment_bytes).min(i32::MAX as u64)
            || age_ms > config.segment_ms - self.roll_jitter_ms(config)
            || self.offset_index.size_bytes() + OffsetEntry::BYTES > index_bytes_max
            // One place is kept for the entry at the end.
            || self.time_index.size_bytes() + 2 * TimeEntry::BYTES > index_bytes_max
            || last_offset.saturating_sub(self.base_offset) > i32::MAX.into()
    }

    /// Different for each segment, and the same whenever it is asked for: a checksum of its name takes the place of chance.
    fn roll_jitter_ms(&self, config: &LogConfig) -> i64 {
        let bound = config.segment_jitter_ms.min(config.segment_ms);
        if bound <= 0 {
            return 0;
        }
        let checksum = crc_fast::crc32_iscsi(self.path.as_os_str().as_encoded_bytes());
        i64::from(checksum) % bound
    }

    /// The segment's file, created if need be; the flag says whether it was opened just now.
    pub(super) fn open(&mut self, disk: &dyn Disk) -> io::Result<(Arc<dyn DiskFile>, bool)> {
        match &self.file {
            Some(file) => Ok((Arc::clone(file), false)),
            None => {
                let file = disk.open_or_create(&self.path)?;
                self.file = Some(Arc::clone(&file));
                Ok((file, true))
            }
        }
    }

    /// The segment's file, which is there.
    pub(super) fn open_to_read(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let open = || {
            Ok::<_, io::Error>(OpenSegment {
                file: disk.open(&self.path)?,
                offset_index: None,
            })
        };
        Ok(Arc::clone(&self.slot.open(open)?.file))
    }

    /// Sets bytes aside for all of the segment. One that cannot be is appended to all the same.
    pub(super) fn preallocate(&mut self, segment_bytes: u32) {
        if let Some(file) = &self.file {
            self.is_preallocated = true;
            if let Err(error) = file.preallocate(segment_bytes.into()) {
                tracing::debug!(segment = %self.path.display(), %error, "not preallocated");
            }
        }
    }

    /// Completes the index files, the time index with the segment's highest timestamp. Returns the handles that a sync needs. May be repeated.
    pub(super) fn finish(&mut self, disk: &dyn Disk) -> io::Result<Vec<Arc<dyn DiskFile>>> {
        self.note_time(disk);
        let (file, _) = self.open(disk)?;
        if self.is_preallocated {
            file.truncate(self.size_bytes)?;
            self.is_preallocated = false;
        }
        let offset_index = self.offset_index.write_all(disk)?;
        let time_index = self.time_index.write_all(disk)?;
        let mut files = vec![file];
        // An empty index has nothing to sync but its name.
        files.extend(Some(offset_index).filter(|_| self.offset_index.size_bytes() > 0));
        files.extend(Some(time_index).filter(|_| self.time_index.size_bytes() > 0));
        // As in Kafka, there is no such file where nothing was aborted.
        if self.transaction_index.size_bytes() > 0 {
            files.push(self.transaction_index.write_all(disk)?);
        }
        Ok(files)
    }

    /// The segment as it is after `finish`, when the next one starts at `end_offset`.
    pub(super) fn seal(self, end_offset: i64, now_ms: i64) -> SealedSegment {
        SealedSegment {
            base_offset: self.base_offset,
            end_offset,
            size_bytes: self.size_bytes,
            path: self.path,
            offset_index: self.offset_index.seal(),
            time_index: self.time_index.seal(),
            aborted: self.transaction_index.entries().into(),
            max_timestamp: OnceLock::from(self.max_timestamp),
            seen_ms: now_ms,
            slot: Slot::default(),
        }
    }
}

/// A segment that no longer changes. Its files are open while it is read.
#[derive(Debug)]
pub(super) struct SealedSegment {
    pub(super) base_offset: i64,
    /// Base offset of the next segment.
    pub(super) end_offset: i64,
    pub(super) size_bytes: u64,
    pub(super) path: PathBuf,
    pub(super) offset_index: SealedIndex<OffsetEntry>,
    pub(super) time_index: SealedIndex<TimeEntry>,
    /// The transactions whose abort markers lie here, in the order of the markers.
    pub(super) aborted: Arc<[AbortedTransactionEntry]>,
    /// Read from the time index when first asked for.
    pub(super) max_timestamp: OnceLock<Option<MaxTimestamp>>,
    /// When it was sealed or found: stands in for the time of records that have none.
    pub(super) seen_ms: i64,
    pub(super) slot: Slot,
}

impl SealedSegment {
    /// Its file, and its offset index.
    pub(super) fn open_to_read(&self, disk: &dyn Disk) -> Result<Arc<OpenSegment>, LogError> {
        self.slot.open(|| {
            Ok(OpenSegment {
                file: disk
                    .open(&self.path)
                    .map_err(disk_error("open", &self.path))?,
                offset_index: Some(
                    self.offset_index
                        .open(disk)
                        .map_err(disk_error("open", self.offset_index.path()))?,
                ),
            })
        })
    }

    pub(super) fn max_timestamp(&self, disk: &dyn Disk) -> io::Result<Option<MaxTimestamp>> {
        if let Some(max_timestamp) = self.max_timestamp.get() {
            return Ok(*max_timestamp);
        }
        let last = self.time_index.open(disk)?.last()?;
        let max_timestamp = last.map(|entry| MaxTimestamp {
            timestamp: entry.timestamp,
            batch_last_offset: self.base_offset + i64::from(entry.relative_offset),
        });
        Ok(*self.max_timestamp.get_or_init(|| max_timestamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafka_s() {
        assert_eq!(
            path(Path::new("/d/t-0"), 42, LOG),
            Path::new("/d/t-0/00000000000000000042.log")
        );
        assert_eq!(
            parse_name("00000000000000000042.timeindex"),
            Some((42, "timeindex"))
        );
        assert_eq!(
            parse_name("00000000000000000042.log.deleted"),
            Some((42, "log.deleted"))
        );
        assert_eq!(parse_name("42.log"), None);
        assert_eq!(parse_name("+0000000000000000042.log"), None);
        assert_eq!(parse_name("99999999999999999999.log"), None);
        assert_eq!(parse_name("partition.metadata"), None);
    }
}
