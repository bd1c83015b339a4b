//! One partition on disk: segments of record batches with their indexes, in Kafka's own files.
//!
//! Synchronous and without threads: time and disk are arguments. The owner keeps a `Log` behind a mutex with short sections, and does
//! the slow things without it, on values that the log hands out:
//!
//! - append: [`ValidBatch::check`] (CRC and records; no lock) → [`Log::append`] (offsets, sequences, one write).
//! - read: [`Log::plan_read`] (bounds, index) → [`ReadPlan::perform`] (shares the in-memory tail or preads; no lock).
//!   [`Log::read`] is both.
//! - group commit: [`Log::begin_sync`] → [`SyncJob::run`] (no lock) → [`Log::complete_sync`].

use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use uuid::Uuid;

use crate::disk::Disk;

mod append;
mod config;
mod error;
mod read;
mod sync;
pub mod offset_checkpoint;

pub use append::{AppendOrigin, AppendRules, Appended, ValidBatch};
pub use config::LogConfig;
pub use error::{AppendError, LogError, ReadError};
pub use read::{ReadPlan, ReadSlice, TimestampOffset};
pub use sync::SyncJob;

/// Where a log lies and what is known of it from before.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The partition's directory, `<data>/<topic>-<partition>`. Created with the first append.
    pub dir: PathBuf,
    pub topic_id: Uuid,
    pub config: LogConfig,
    /// The last stop was clean: files are as they were closed, nothing is re-read.
    pub clean_shutdown: bool,
    /// Below it the log was synced when this was noted. Zero if unknown: all segments are re-read after an unclean stop.
    pub recovery_point: i64,
    /// Earliest offset that clients may read, as last noted; zero if unknown.
    pub log_start_offset: i64,
}

/// What opening a log found and repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments that were re-read because they reach beyond the recovery point.
    pub segments_scanned: usize,
    pub batches_scanned: u64,
    /// Bytes cut from the end: a torn write, or what followed a corrupt batch.
    pub bytes_truncated: u64,
    pub segments_deleted: usize,
    pub indexes_rebuilt: usize,
}

/// One partition on disk.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Opens the log, repairing what a crash left. A directory that is not there is an empty log; nothing is created until the first append.
    pub fn open(disk: Arc<dyn Disk>, options: OpenOptions, now_ms: i64) -> Result<(Log, Recovery), LogError> {
        let _ = (disk, options, now_ms);
        todo!()
    }

    /// What a batch must fulfil to be appended: a copy to check batches by without the log's lock.
    pub fn append_rules(&self) -> AppendRules { todo!() }

    /// Appends one batch, already checked: assigns its offsets and leader epoch, checks idempotent sequences, rolls the segment when due,
    /// writes. Nothing is synced: see [`Log::begin_sync`].
    pub fn append(&mut self, batch: ValidBatch, leader_epoch: i32, now_ms: i64) -> Result<Appended, AppendError> {
        let _ = (batch, leader_epoch, now_ms);
        todo!()
    }

    /// [`ValidBatch::check`] and [`Log::append`] in one, for callers without contention (tests, coordinators).
    pub fn append_bytes(&mut self, batch: BytesMut, origin: AppendOrigin, leader_epoch: i32, now_ms: i64) -> Result<Appended, AppendError> {
        let valid = ValidBatch::check(batch, &self.append_rules(), origin, now_ms)?;
        self.append(valid, leader_epoch, now_ms)
    }

    /// Whole batches from the one that holds `offset` up to `end_bound` (exclusive: high watermark or last stable offset), about
    /// `max_bytes`. With `at_least_one_batch` the first batch comes even if it is longer. Empty at or past the bound;
    /// [`ReadError::OutOfRange`] below the log start offset or above the log end offset.
    pub fn plan_read(&self, offset: i64, max_bytes: usize, end_bound: i64, at_least_one_batch: bool) -> Result<ReadPlan, ReadError> {
        let _ = (offset, max_bytes, end_bound, at_least_one_batch);
        todo!()
    }

    /// [`Log::plan_read`] and [`ReadPlan::perform`] in one.
    pub fn read(&self, offset: i64, max_bytes: usize, end_bound: i64, at_least_one_batch: bool) -> Result<ReadSlice, ReadError> {
        self.plan_read(offset, max_bytes, end_bound, at_least_one_batch)?.perform()
    }

    /// Earliest offset that clients may read.
    pub fn log_start_offset(&self) -> i64 { todo!() }
    /// Next offset to be written.
    pub fn log_end_offset(&self) -> i64 { todo!() }
    /// Below it all is on disk: the recovery point, to be noted in a checkpoint from time to time.
    pub fn flushed_offset(&self) -> i64 { todo!() }
    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 { todo!() }
    pub fn config(&self) -> &LogConfig { todo!() }
    pub fn set_config(&mut self, config: LogConfig) { let _ = config; }

    /// The first record with this timestamp or a later one (ListOffsets by timestamp).
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<TimestampOffset>, ReadError> { let _ = timestamp_ms; todo!() }
    /// The record with the highest timestamp (ListOffsets -3).
    pub fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> { todo!() }
    /// The leader epoch of the last batch, and where it started.
    pub fn latest_leader_epoch(&self) -> Option<i32> { todo!() }
    /// The largest epoch at or below `leader_epoch` and its end offset (exclusive); OffsetForLeaderEpoch, and Fetch's diverging epoch.
    pub fn end_offset_for_epoch(&self, leader_epoch: i32) -> Option<(i32, i64)> { let _ = leader_epoch; todo!() }

    /// Takes what has to be synced for all that is appended by now. None if nothing is, or while another job is under way: call again after its
    /// `complete_sync`.
    pub fn begin_sync(&mut self) -> Option<SyncJob> { todo!() }
    /// Moves `flushed_offset`; returns it. A failed sync poisons the log: appends and syncs fail from now on, reads below the flushed
    /// offset go on.
    pub fn complete_sync(&mut self, job: SyncJob, result: std::io::Result<()>) -> Result<i64, LogError> { let _ = (job, result); todo!() }

    /// Deletes segments that retention no longer keeps, never at or above the high watermark. Returns how many.
    pub fn apply_retention(&mut self, now_ms: i64, high_watermark: i64) -> Result<usize, LogError> { let _ = (now_ms, high_watermark); todo!() }
    /// DeleteRecords: moves the log start offset up to `offset` (at most the high watermark, the caller's to check) and deletes segments wholly below it.
    pub fn delete_records_before(&mut self, offset: i64, now_ms: i64) -> Result<(), LogError> { let _ = (offset, now_ms); todo!() }

    /// Drops the in-memory tail: an idle partition keeps no record bytes.
    pub fn release_tail(&mut self) {}

    /// Syncs and closes so that the next open with `clean_shutdown` re-reads nothing.
    pub fn close(self) -> Result<(), LogError> { todo!() }

    /// Panics unless log start ≤ flushed ≤ log end, and log start ≤ high watermark ≤ log end.
    pub fn check_invariants(&self, high_watermark: i64) { let _ = high_watermark; }
}
