//! Compaction: keeps of each key the last record, and what transactions, producers and slow readers still need.
//!
//! A pass over one log, as Kafka's cleaner does it (docs/design/compaction.md has the reasons and each crash point):
//!
//! 1. [`choose`] says what can be cleaned, and which log first.
//! 2. [`Log::begin_cleaning`] hands out a [`CleaningJob`]: what the pass has to know, copied under the log's lock.
//! 3. [`CleaningJob::map`] walks the dirty section and notes the last offset of each key ([`offset_map`]) and what it supersedes ([`dirty_section`]),
//!    until it is full or done. Records of aborted transactions ([`transactions`]) are left out.
//! 4. [`CleaningJob::next_group`] rewrites ([`rewrite`]) the segments from the log's start on, as many together as fit into one: a record stays if the
//!    map has no later one of its key, and if it is no tombstone whose time is over. Offsets, sequences and all that is not removed stay as they are.
//! 5. Each group takes the place of its segments ([`swap`]) at once or, after a crash, when the log is opened.
//! 6. When all are in place, the caller notes where the map ended: the next pass's first dirty offset.
//!
//! Steps 3 and 4 take no lock of the log: appends and reads go on. Step 5 takes it for a few renames. A reader that has planned its read holds
//! the files it has planned with.
//!
//! The last batch of a group stays, if need be without records: each segment ends where the next one starts, now as before. So recovery, to
//! which a missing end says that it was lost in a crash, need not know what has been cleaned, and the log end never goes back.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::HashMap;
use thiserror::Error;

use crate::disk::Disk;
use crate::log::scan::{BatchScanner, Scan};
use crate::log::segment;
use crate::log::transaction_index::AbortedTransactionEntry;
use crate::log::{Log, LogError, disk_error};
use crate::protocol::record_batch::{BatchError, DECOMPRESSED_BYTES_MAX, RecordBatch};

pub mod choose;
mod dirty_section;
#[cfg(test)]
mod model_tests;
mod offset_map;
mod offset_set;
mod rewrite;
mod swap;
#[cfg(test)]
mod tests;
mod transactions;

pub use choose::{Candidate, LogView, SegmentView};
pub use swap::{CleanedGroup, CommitError};
pub(super) use swap::{SWAP, finish_interrupted};

use dirty_section::DirtySection;
use transactions::Transactions;

/// Why a log was not cleaned. It is as it was, or as far as the pass has come.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CleanError {
    /// A batch cannot be read: what cannot be read is not thrown away.
    #[error("segment {segment} at {position}: {source}")]
    Corrupt {
        segment: String,
        position: u64,
        source: BatchError,
    },
    /// The segments are not those that the pass began with: records were deleted, or the partition is gone. Nothing is wrong.
    #[error("segments have changed during the pass")]
    Changed,
    /// The caller said so.
    #[error("the pass was stopped")]
    Stopped,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Called with the bytes that were read or written since the last call; may sleep, to keep a rate. False stops the pass.
pub type Pace<'a> = dyn FnMut(u64) -> bool + 'a;

/// The limits of a pass.
#[derive(Clone, Copy, Debug)]
pub struct CleaningLimits {
    /// Memory of the offset map, and of what else is noted of the dirty section.
    pub map_bytes_max: usize,
    /// How much of the map is used, in hundredths.
    pub map_load_percent: usize,
    /// Bytes read and written at a time.
    pub io_buffer_bytes: usize,
    /// Makes hashes of keys unpredictable.
    pub seed: u64,
}

impl Default for CleaningLimits {
    fn default() -> Self {
        CleaningLimits {
            map_bytes_max: 128 << 20,
            map_load_percent: 90,
            io_buffer_bytes: 512 << 10,
            seed: 0,
        }
    }
}

/// What a pass has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleaningProgress {
    pub map_keys: u64,
    pub map_bytes: u64,
    /// By both walks.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Of the segments that were rewritten.
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub segments_before: u64,
    pub segments_after: u64,
    pub records_before: u64,
    pub records_after: u64,
    /// Records without a key, which a compacted log cannot keep: appended before it was one.
    pub records_without_key: u64,
}

/// A segment to be cleaned.
#[derive(Clone, Debug)]
struct Source {
    base_offset: i64,
    end_offset: i64,
    size_bytes: u64,
    index_bytes: u64,
    seen_ms: i64,
    path: PathBuf,
}

impl Source {
    fn corrupt(&self, position: u64, source: BatchError) -> CleanError {
        let name = self.path.file_name();
        CleanError::Corrupt {
            segment: name.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            position,
            source,
        }
    }

    /// Walks the batches, each with its CRC checked and its offsets within the segment and rising.
    fn walk(
        &self,
        disk: &dyn Disk,
        window_bytes: usize,
        pace: &mut Pace<'_>,
        mut visit: impl FnMut(u64, &RecordBatch<'_>) -> Result<bool, CleanError>,
    ) -> Result<(), CleanError> {
        let file = match disk.open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CleanError::Changed);
            }
            opened => opened.map_err(disk_error("open", &self.path))?,
        };
        let mut scanner = BatchScanner::new(file.as_ref(), 0, self.size_bytes, window_bytes);
        let mut next_offset = self.base_offset;
        let mut unpaid = 0;
        loop {
            let scan = scanner
                .next_batch()
                .map_err(disk_error("read", &self.path))?;
            let (position, batch) = match scan {
                Scan::End => break,
                Scan::Bad { position, error } => return Err(self.corrupt(position, error)),
                Scan::Batch { position, batch } => (position, batch),
            };
            batch
                .verify_crc()
                .map_err(|error| self.corrupt(position, error))?;
            if batch.base_offset() < next_offset
                || batch.last_offset() < batch.base_offset()
                || batch.last_offset() >= self.end_offset
            {
                let reason = "offsets are not those of the segment, or go back";
                return Err(self.corrupt(position, BatchError::Invalid { reason }));
            }
            next_offset = batch.last_offset() + 1;
            unpaid += batch.size_bytes() as u64;
            let goes_on = visit(position, &batch)?;
            if unpaid >= window_bytes as u64 && !pace(std::mem::take(&mut unpaid)) {
                return Err(CleanError::Stopped);
            }
            if !goes_on {
                break;
            }
        }
        if pace(unpaid) {
            Ok(())
        } else {
            Err(CleanError::Stopped)
        }
    }
}

/// What a pass keeps for a producer that is active.
#[derive(Clone, Copy, Debug)]
struct LastOfProducer {
    epoch: i16,
    /// Of its last batch of data; without one, its last marker stays for the epoch.
    last_offset: Option<i64>,
}

/// One pass over one log, on a copy of what it has to know.
#[derive(Debug)]
pub struct CleaningJob {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    first_dirty_offset: i64,
    now_ms: i64,
    delete_retention_ms: i64,
    index_interval_bytes: u32,
    index_bytes_max: u64,
    segment_bytes: u64,
    /// A segment's position is 31 bits wide.
    output_bytes_max: u64,
    limits: CleaningLimits,
    producers: HashMap<i64, LastOfProducer>,
    aborted: Vec<AbortedTransactionEntry>,
    /// Oldest first.
    sources: Vec<Source>,
    dirty: Option<DirtySection>,
    transactions: Transactions,
    groups: VecDeque<Vec<Source>>,
    progress: CleaningProgress,
    /// Reused from batch to batch.
    scratch: rewrite::Scratch,
}

impl Log {
    /// What [`choose`] has to know of this log. `bound` is the lesser of high watermark and last stable offset.
    pub fn cleaning_view(&self, bound: i64) -> Result<LogView, LogError> {
        let mut sealed = Vec::with_capacity(self.sealed.len());
        for segment in &self.sealed {
            // Read from its index when first asked for.
            let max_timestamp = if self.config.compaction_lag_min_ms > 0 {
                let read = segment.max_timestamp(self.disk.as_ref());
                read.map_err(disk_error("read", segment.time_index.path()))?
            } else {
                None
            };
            sealed.push(SegmentView {
                base_offset: segment.base_offset,
                end_offset: segment.end_offset,
                size_bytes: segment.size_bytes,
                max_timestamp: max_timestamp.map(|max| max.timestamp),
                first_timestamp: None,
            });
        }
        Ok(LogView {
            log_start_offset: self.log_start_offset,
            log_end_offset: self.next_offset,
            bound: bound.min(self.synced_offset),
            synced_to: self.synced_offset,
            sealed,
            active_first_timestamp: self
                .active
                .first_timestamp
                .filter(|_| self.active.size_bytes > 0),
            cleanable_ratio_min_ppm: self.config.cleanable_ratio_min_ppm,
            compaction_lag_min_ms: self.config.compaction_lag_min_ms,
            compaction_lag_max_ms: self.config.compaction_lag_max_ms,
        })
    }

    /// Seals the active segment, so that its records can be cleaned; nothing if it is empty.
    pub fn seal_active(&mut self, now_ms: i64) -> Result<(), LogError> {
        self.check_not_poisoned()?;
        if self.active.size_bytes == 0 {
            return Ok(());
        }
        self.roll(now_ms)
    }

    /// A pass over what `candidate` says; `None` if there is nothing to be cleaned.
    pub fn begin_cleaning(
        &self,
        candidate: &Candidate,
        limits: CleaningLimits,
        now_ms: i64,
    ) -> Result<Option<CleaningJob>, LogError> {
        self.check_not_poisoned()?;
        let sources: Vec<_> = self
            .sealed
            .iter()
            .take_while(|segment| segment.end_offset <= candidate.end_offset)
            .map(|segment| Source {
                base_offset: segment.base_offset,
                end_offset: segment.end_offset,
                size_bytes: segment.size_bytes,
                index_bytes: segment
                    .offset_index
                    .size_bytes()
                    .max(segment.time_index.size_bytes()),
                seen_ms: segment.seen_ms,
                path: segment.path.clone(),
            })
            .collect();
        if sources
            .last()
            .is_none_or(|last| last.end_offset <= candidate.first_dirty_offset)
        {
            return Ok(None);
        }
        let producers = self.producers.last_batches();
        let producers = producers
            .map(|(id, epoch, last_offset)| (id, LastOfProducer { epoch, last_offset }))
            .collect();
        let aborted = self.aborted_transactions();
        Ok(Some(CleaningJob {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            first_dirty_offset: candidate.first_dirty_offset,
            now_ms,
            delete_retention_ms: self.config.delete_retention_ms,
            index_interval_bytes: self.config.index_interval_bytes,
            index_bytes_max: self.config.index_bytes_max.into(),
            segment_bytes: self.config.segment_bytes.into(),
            output_bytes_max: i32::MAX as u64,
            limits,
            producers,
            transactions: Transactions::new(aborted.clone()),
            aborted,
            sources,
            dirty: None,
            groups: VecDeque::new(),
            progress: CleaningProgress::default(),
            scratch: rewrite::Scratch::default(),
        }))
    }

    /// All aborted transactions whose markers are in the log.
    fn aborted_transactions(&self) -> Vec<AbortedTransactionEntry> {
        let sealed = self
            .sealed
            .iter()
            .flat_map(|segment| segment.aborted.iter());
        let active = self.active.transaction_index.entries();
        sealed.chain(active).copied().collect()
    }
}

impl LogView {
    /// Whether the active segment has to be sealed for `max.compaction.lag.ms`.
    pub fn active_is_overdue(&self, now_ms: i64) -> bool {
        match (self.active_first_timestamp, self.compaction_lag_max_ms) {
            (Some(first), Some(lag_ms)) => first > 0 && first < now_ms.saturating_sub(lag_ms),
            _ => false,
        }
    }

    /// Fills in the first timestamps of dirty segments, if `max.compaction.lag.ms` asks for them. Reads a header of each, without the log's
    /// lock; a segment that is gone has none.
    pub fn read_first_timestamps(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        first_dirty_offset: i64,
    ) -> Result<(), LogError> {
        if self.compaction_lag_max_ms.is_none() {
            return Ok(());
        }
        let dirty = |view: &&mut SegmentView| view.end_offset > first_dirty_offset;
        for view in self.sealed.iter_mut().filter(dirty) {
            let path = segment::path(dir, view.base_offset, segment::LOG);
            let file = match disk.open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(disk_error("open", &path))?,
            };
            let mut scanner = BatchScanner::new(file.as_ref(), 0, view.size_bytes, 0);
            let scan = scanner.next_header().map_err(disk_error("read", &path))?;
            if let Scan::Batch { batch, .. } = scan {
                view.first_timestamp = Some(batch.max_timestamp());
            }
        }
        Ok(())
    }
}

impl CleaningJob {
    /// Walks the dirty section and notes each key's last offset, as far as the map's memory goes.
    pub fn map(&mut self, pace: &mut Pace<'_>) -> Result<(), CleanError> {
        let first_dirty = self.first_dirty_offset;
        let dirty: Vec<_> = self
            .sources
            .iter()
            .filter(|source| source.end_offset > first_dirty)
            .cloned()
            .collect();
        let (start, end) = match (dirty.first(), dirty.last()) {
            (Some(first), Some(last)) => (first.base_offset, last.end_offset),
            _ => return Ok(()),
        };
        let bytes: u64 = dirty.iter().map(|source| source.size_bytes).sum();
        // No more keys than offsets.
        let offsets = u64::try_from(end - first_dirty.max(start)).unwrap_or(0);
        let mut section = DirtySection::new(first_dirty.max(start), offsets, &self.limits);
        let aborted = self.aborted.iter().copied();
        let mut transactions = Transactions::new(
            aborted
                .filter(|transaction| transaction.last_offset >= start)
                .collect(),
        );
        let scratch = &mut self.scratch.decompressed;
        let mut is_full = false;
        tracing::debug!(dir = %self.dir.display(), first_dirty, end, bytes, map_bytes = section.size_bytes(), "mapping keys");
        for source in &dirty {
            let disk = self.disk.as_ref();
            source.walk(
                disk,
                self.limits.io_buffer_bytes,
                pace,
                |position, batch| {
                    if batch.is_control() {
                        if let Some(marker) = batch.end_transaction() {
                            transactions.end(batch.producer_id(), batch.last_offset(), marker);
                        }
                    } else if batch.is_transactional()
                        && transactions.is_aborted(batch.producer_id(), batch.last_offset())
                    {
                        // As if it were not there.
                    } else if batch.last_offset() >= first_dirty {
                        let corrupt = |error| source.corrupt(position, error);
                        let mut records = batch
                            .records(scratch, DECOMPRESSED_BYTES_MAX)
                            .map_err(corrupt)?;
                        while let Some(record) = records.next_head() {
                            let record = record.map_err(corrupt)?;
                            if record.offset >= first_dirty && !section.note(&record) {
                                is_full = true;
                                return Ok(false);
                            }
                        }
                    }
                    if batch.last_offset() >= first_dirty {
                        section.advance_to(batch.last_offset());
                    }
                    Ok(true)
                },
            )?;
            self.progress.bytes_read += source.size_bytes;
            if is_full {
                break;
            }
            section.advance_to(source.end_offset - 1);
        }
        if !is_full {
            // If it is full now: it ends where it is full, as before.
            let _ = section.finish();
        }
        self.progress.map_keys = section.keys() as u64;
        self.progress.map_bytes = section.size_bytes() as u64;
        let end_offset = section.latest_offset() + 1;
        self.dirty = Some(section);
        self.group(end_offset);
        Ok(())
    }

    /// Where the map ended: what is before has been cleaned when all groups are in place.
    pub fn cleaned_to(&self) -> i64 {
        self.dirty
            .as_ref()
            .map_or(self.first_dirty_offset, |dirty| dirty.latest_offset() + 1)
    }

    pub fn progress(&self) -> CleaningProgress {
        self.progress
    }

    /// Puts as many segments together as fit into one, of those that begin before `end_offset`.
    fn group(&mut self, end_offset: i64) {
        let (mut bytes, mut index_bytes) = (0, 0);
        for source in self
            .sources
            .iter()
            .filter(|source| source.base_offset < end_offset)
        {
            bytes += source.size_bytes;
            index_bytes += source.index_bytes;
            let group = self.groups.back_mut().filter(|group| {
                let first_offset = group.first().map_or(0, |first| first.base_offset);
                bytes <= self.segment_bytes
                    && index_bytes <= self.index_bytes_max
                    && source.end_offset - 1 - first_offset <= i32::MAX.into()
            });
            match group {
                Some(group) => group.push(source.clone()),
                None => {
                    self.groups.push_back(vec![source.clone()]);
                    (bytes, index_bytes) = (source.size_bytes, source.index_bytes);
                }
            }
        }
    }
}
