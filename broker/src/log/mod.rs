//! One partition on disk: segments of record batches with their indexes, in Kafka's own files.
//!
//! Synchronous and without threads: time and disk are arguments. The owner keeps a `Log` behind a mutex with short sections, and does
//! the slow things without it, on values that the log hands out:
//!
//! - append: [`ValidBatch::check`] (CRC and records; no lock) → [`Log::append`] (offsets, sequences, one write).
//! - read: [`Log::plan_read`] (bounds, index) → [`ReadPlan::perform`] (shares the in-memory tail or preads; no lock), or
//!   [`ReadPlan::locate`], which leaves in the file what is there. [`Log::read`] plans and performs.
//! - group commit: [`Log::begin_sync`] → [`SyncJob::run`] (no lock) → [`Log::complete_sync`].
//!
//! The offsets, their order and who moves each: docs/design/offsets.md. What is synced when: docs/decisions/0003.
//!
//! ## Files of a partition's directory
//! `%020d.log` (batches), `.index` and `.timeindex` (sparse indexes), `.txnindex` (aborted transactions, if any), `.snapshot` (producers; at each
//! roll and clean close),
//! `leader-epoch-checkpoint`, `partition.metadata`. Nothing is created before the first append.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::disk::{Disk, DiskFile};
use crate::protocol::record_batch::{self, TimestampType};

mod append;
pub mod cleaner;
mod config;
mod error;
mod index_file;
mod leader_epochs;
pub mod offset_checkpoint;
mod offset_index;
mod open_segments;
mod partition_metadata;
mod producer_state;
mod read;
mod recovery;
mod retention;
mod scan;
mod segment;
mod sync;
mod tail;
mod time_index;
mod transaction_index;
mod verify;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transaction_tests;

pub use append::{AppendOrigin, AppendRules, Appended, ValidBatch};
pub use config::LogConfig;
pub use error::{AppendError, LogError, ReadError};
pub use producer_state::{Marker, Producer, VerificationGuard};
pub use read::{ReadPlan, ReadSlice, TimestampOffset};
pub use recovery::Recovery;
pub use scan::{BatchScanner, Scan};
pub use sync::{AppendedBytes, SyncJob, SyncedIn};
pub use transaction_index::AbortedTransaction;
pub use verify::{VerifiedSegment, verify_segment};

use leader_epochs::LeaderEpochs;
use producer_state::ProducerStates;
use retention::SegmentView;
use segment::{ActiveSegment, BatchFacts, SealedSegment};
use tail::Tail;
use transaction_index::AbortedTransactionEntry;

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

/// One partition on disk.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    topic_id: Uuid,
    config: LogConfig,
    /// Oldest first; each ends where the next, and the last where the active one starts.
    sealed: VecDeque<SealedSegment>,
    active: ActiveSegment,
    tail: Tail,
    producers: ProducerStates,
    leader_epochs: LeaderEpochs,
    log_start_offset: i64,
    /// The log end offset.
    next_offset: i64,
    /// What is below is durable.
    flushed_offset: i64,
    /// What is below is durable in the log's own files, and not only in a journal.
    synced_offset: i64,
    /// Bytes of the active segment that a sync has taken along.
    taken_bytes: u64,
    /// Of those, the journal alone has some.
    is_journaled: bool,
    /// The directory and its `partition.metadata` are there.
    is_created: bool,
    /// Since it was opened, or since the last clean close before that.
    has_changed: bool,
    unsynced: Unsynced,
    /// When the first batch was appended that no sync has taken along.
    unsynced_since_ms: Option<i64>,
    /// What the sync under way has taken along.
    in_flight: Option<Unsynced>,
    /// Why nothing more is written.
    poison: Option<String>,
    /// A sync failed: what the files have beyond the synced offset is not known.
    has_lost_bytes: bool,
    /// Files of deleted segments under their new names, since the last `take_deleted`.
    deleted: Vec<PathBuf>,
    /// How many times cleaned segments have taken the place of others since the log was opened.
    swaps: u64,
}

/// A poisoned log that is to be opened anew from its files, as far as they are known to be on disk.
///
/// What lies beyond the last successful sync is cut off, though it may read well: after a failed sync the kernel's cache may hold bytes that it
/// counts as written, and never writes. Cut off they are gone from the cache, too, and what is appended in their place is written.
#[derive(Debug)]
pub struct Reopening {
    disk: Arc<dyn Disk>,
    options: OpenOptions,
}

impl Reopening {
    /// Meanwhile the poisoned log may be read, and nobody may remove its segments.
    pub fn run(self, now_ms: i64) -> Result<Log, LogError> {
        let mut log = recovery::reopen(self.disk, self.options, now_ms)?;
        // Small files whose sync may have failed are written again along with the next append.
        log.is_created = false;
        log.unsynced.leader_epochs = true;
        log.unsynced.dir = true;
        Ok(log)
    }
}

/// What the next sync has to take along.
#[derive(Clone, Debug, Default)]
struct Unsynced {
    /// Files that are complete: of sealed segments, snapshots, metadata.
    files: Vec<Arc<dyn DiskFile>>,
    active: bool,
    leader_epochs: bool,
    dir: bool,
    parent_dir: bool,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.dir)
            .field("log_start_offset", &self.log_start_offset)
            .field("flushed_offset", &self.flushed_offset)
            .field("log_end_offset", &self.next_offset)
            .field("segments", &self.segments().collect::<Vec<_>>())
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

pub(crate) fn disk_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Disk {
        operation,
        path,
        source,
    }
}

impl Log {
    /// Opens the log, repairing what a crash left; what was recovered is synced when this returns. A directory that is not there is an empty log.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: OpenOptions,
        now_ms: i64,
    ) -> Result<(Log, Recovery), LogError> {
        recovery::open(disk, options, now_ms)
    }

    /// What has to be known to open a poisoned log anew; `None` if it is not poisoned, or a sync is under way, which may still move what is known to
    /// be on disk.
    pub fn reopening(&self) -> Option<Reopening> {
        if self.poison.is_none() || self.in_flight.is_some() {
            return None;
        }
        Some(Reopening {
            disk: Arc::clone(&self.disk),
            options: OpenOptions {
                dir: self.dir.clone(),
                topic_id: self.topic_id,
                config: self.config.clone(),
                clean_shutdown: false,
                recovery_point: self.flushed_offset,
                log_start_offset: self.log_start_offset,
            },
        })
    }

    /// Appends one batch, already checked: assigns its offsets and leader epoch, checks idempotent sequences, rolls the segment when due,
    /// writes. Nothing is synced: see [`Log::begin_sync`].
    pub fn append(
        &mut self,
        batch: ValidBatch,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.check_not_poisoned()?;
        let ValidBatch {
            mut bytes,
            mut facts,
            origin,
            timestamp_type,
            guard,
        } = batch;
        let log_append_time_ms = match timestamp_type {
            TimestampType::CreateTime => -1,
            TimestampType::LogAppendTime => now_ms,
        };
        if facts.producer_id >= 0
            && facts.marker.is_none()
            && let Some(mark) = self.producers.check(&facts, origin, guard)?
        {
            return Ok(Appended {
                base_offset: mark.base_offset(),
                last_offset: mark.last_offset,
                log_append_time_ms: if log_append_time_ms < 0 {
                    -1
                } else {
                    mark.timestamp
                },
                log_start_offset: self.log_start_offset,
                duplicate: true,
            });
        }
        let offset_delta = facts.last_offset.wrapping_sub(facts.base_offset);
        facts.base_offset = self.next_offset;
        facts.last_offset = self.next_offset + offset_delta;
        facts.leader_epoch = leader_epoch;
        if log_append_time_ms >= 0 {
            facts.max_timestamp = log_append_time_ms;
            record_batch::set_log_append_time(&mut bytes, log_append_time_ms);
        }
        record_batch::set_place(&mut bytes, facts.base_offset, leader_epoch);
        self.create()?;
        if self.active.must_roll(
            &self.config,
            facts.size_bytes,
            facts.max_timestamp,
            facts.last_offset,
            now_ms,
        ) {
            self.roll(now_ms)?;
        }
        self.write(&bytes)?;
        self.active
            .note(self.disk.as_ref(), &facts, self.config.index_interval_bytes);
        self.tail
            .push(facts.base_offset, facts.last_offset, bytes.freeze());
        self.note(&facts, now_ms);
        self.next_offset = facts.last_offset + 1;
        self.unsynced.active = true;
        self.unsynced_since_ms.get_or_insert(now_ms);
        Ok(Appended {
            base_offset: facts.base_offset,
            last_offset: facts.last_offset,
            log_append_time_ms,
            log_start_offset: self.log_start_offset,
            duplicate: false,
        })
    }

    /// Appends the control batch that ends a producer's transaction, or refuses it for an older epoch of the producer or the coordinator.
    pub fn append_marker(
        &mut self,
        marker: &Marker,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.producers.check_marker(marker)?;
        let batch = ValidBatch::of_marker(marker, &self.append_rules(), now_ms);
        self.append(batch, leader_epoch, now_ms)
    }

    /// Asks for leave to begin a transaction, before its coordinator is asked; to be given with [`ValidBatch::verified`]. `None` if the
    /// transaction is open here already: then none is needed.
    pub fn begin_verification(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
        transaction_version: i16,
        now_ms: i64,
    ) -> Option<VerificationGuard> {
        self.producers.begin_verification(
            producer_id,
            producer_epoch,
            base_sequence,
            transaction_version,
            now_ms,
        )
    }

    /// The high watermark is there now: transactions that ended below it hold back the last stable offset no longer.
    pub fn release_completed(&mut self, high_watermark: i64) {
        self.producers.release_completed(high_watermark);
    }

    /// [`ValidBatch::check`] and [`Log::append`] in one, for callers without contention (tests, coordinators).
    pub fn append_bytes(
        &mut self,
        batch: BytesMut,
        origin: AppendOrigin,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let valid = ValidBatch::check(batch, &self.append_rules(), origin, now_ms)?;
        self.append(valid, leader_epoch, now_ms)
    }

    /// Whether `flush.messages` or `flush.ms` ask for a sync: after an append, or when its time is looked at.
    pub fn is_flush_due(&self, now_ms: i64) -> bool {
        let unflushed = self.next_offset - self.flushed_offset;
        let since_ms = self.unsynced_since_ms;
        let too_many = self.config.flush_messages_max;
        let too_old = self.config.flush_ms_max;
        too_many.is_some_and(|max| unflushed >= max)
            || too_old.is_some_and(|max_ms| {
                since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= max_ms)
            })
    }

    /// Takes what has to be synced for all that is appended by now. `None` if nothing is, or while another job is under way: call again
    /// after its `complete_sync`. A job that was taken must be completed.
    pub fn begin_sync(&mut self) -> Option<SyncJob> {
        let has_work =
            self.unsynced.active || self.unsynced.leader_epochs || !self.unsynced.files.is_empty();
        if self.in_flight.is_some() || self.poison.is_some() || !has_work {
            return None;
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        self.unsynced_since_ms = None;
        self.in_flight = Some(unsynced.clone());
        let is_plain = unsynced.files.is_empty()
            && !(unsynced.leader_epochs || unsynced.dir || unsynced.parent_dir);
        let active = self.active.file.as_ref();
        let appended = active.filter(|_| is_plain).map(|file| AppendedBytes {
            segment_base_offset: self.active.base_offset,
            file: Arc::clone(file),
            position: self.taken_bytes,
            length: self.active.size_bytes.saturating_sub(self.taken_bytes),
        });
        self.taken_bytes = self.active.size_bytes;
        let mut files = unsynced.files;
        files.extend(
            active
                .filter(|_| unsynced.active || self.is_journaled)
                .cloned(),
        );
        let leader_epochs = unsynced.leader_epochs.then(|| {
            let path = self.dir.join(leader_epochs::FILE);
            (path, self.leader_epochs.encode())
        });
        let mut dirs = Vec::new();
        // Replacing the checkpoint syncs the directory.
        dirs.extend((unsynced.dir && leader_epochs.is_none()).then(|| self.dir.clone()));
        dirs.extend(
            self.dir
                .parent()
                .filter(|_| unsynced.parent_dir)
                .map(Path::to_owned),
        );
        Some(SyncJob {
            disk: Arc::clone(&self.disk),
            files,
            leader_epochs,
            dirs,
            end_offset: self.next_offset,
            appended,
        })
    }

    /// Moves the flushed offset; returns it. A failed sync poisons the log: appends and syncs fail from now on, reads below the flushed
    /// offset go on.
    pub fn complete_sync(
        &mut self,
        job: SyncJob,
        result: io::Result<SyncedIn>,
    ) -> Result<i64, LogError> {
        self.in_flight = None;
        match result {
            Ok(SyncedIn::Journal) => self.is_journaled = true,
            Ok(SyncedIn::Files) => {
                // The system tells of an error once, and may have told another sync of these files.
                self.check_synced()?;
                self.synced_offset = self.synced_offset.max(job.end_offset);
                self.is_journaled = false;
            }
            Err(error) => return Err(self.sync_failed(&error)),
        }
        self.flushed_offset = self.flushed_offset.max(job.end_offset);
        Ok(self.flushed_offset)
    }

    /// What has to be synced for all that is appended by now to be durable in the log's own files, beside the jobs that acknowledge: it may
    /// overlap with one. `None` if that will be done by the next job only, with the leader epochs.
    pub fn begin_checkpoint(&self) -> Option<SyncJob> {
        let parts = || std::iter::once(&self.unsynced).chain(&self.in_flight);
        if self.poison.is_some() || parts().any(|part| part.leader_epochs) {
            return None;
        }
        let mut dirs = Vec::new();
        if parts().any(|part| part.dir) {
            dirs.push(self.dir.clone());
        }
        if parts().any(|part| part.parent_dir) {
            dirs.extend(self.dir.parent().map(Path::to_owned));
        }
        let files = parts().flat_map(|part| &part.files);
        Some(SyncJob {
            disk: Arc::clone(&self.disk),
            files: files.chain(&self.active.file).cloned().collect(),
            leader_epochs: None,
            dirs,
            end_offset: self.next_offset,
            appended: None,
        })
    }

    /// Moves the synced offset. No job of this log may have synced files meanwhile: the system tells of an error once.
    pub fn complete_checkpoint(
        &mut self,
        job: SyncJob,
        result: io::Result<SyncedIn>,
    ) -> Result<(), LogError> {
        result.map_err(|error| self.sync_failed(&error))?;
        self.check_synced()?;
        self.synced_offset = self.synced_offset.max(job.end_offset);
        Ok(())
    }

    fn sync_failed(&mut self, error: &io::Error) -> LogError {
        warn!(dir = %self.dir.display(), %error, flushed_offset = self.flushed_offset, "sync failed, the log takes no more writes");
        self.has_lost_bytes = true;
        let reason = self.poison.get_or_insert(error.to_string()).clone();
        LogError::Poisoned {
            log: self.name(),
            reason,
        }
    }

    fn check_synced(&self) -> Result<(), LogError> {
        if self.has_lost_bytes {
            self.check_not_poisoned()?;
        }
        Ok(())
    }

    /// Deletes segments that retention no longer keeps, never at or above the high watermark, and forgets producers that have expired.
    /// Returns how many segments went. Readers that hold their bytes or a plan keep them.
    pub fn apply_retention(&mut self, now_ms: i64, high_watermark: i64) -> Result<usize, LogError> {
        self.check_not_poisoned()?;
        self.producers
            .expire(now_ms, self.config.producer_id_expiration_ms);
        let views = self.segment_views()?;
        let choice = retention::choose(
            &views,
            &self.config,
            self.log_start_offset,
            high_watermark,
            now_ms,
        );
        if choice.roll {
            self.roll(now_ms)?;
        }
        self.delete_oldest(choice.delete_oldest)?;
        Ok(choice.delete_oldest)
    }

    /// DeleteRecords: moves the log start offset up to `offset` (at most the high watermark: the caller's to check, and to note in the
    /// checkpoint) and deletes the segments wholly below it.
    pub fn delete_records_before(&mut self, offset: i64) -> Result<(), LogError> {
        self.check_not_poisoned()?;
        self.log_start_offset = self.log_start_offset.max(offset.min(self.next_offset));
        let below = self
            .sealed
            .iter()
            .take_while(|segment| segment.end_offset <= self.log_start_offset)
            .count();
        self.delete_oldest(below)
    }

    /// The files of deleted segments that are still there, each once: they may go after `file.delete.delay.ms`, which is told too.
    pub fn take_deleted(&mut self) -> (i64, Vec<PathBuf>) {
        let deleted = std::mem::take(&mut self.deleted);
        (self.config.file_delete_delay_ms, deleted)
    }

    /// Obeys another configuration from now on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.tail.set_bytes_max(config.tail_bytes_max);
        self.config = config;
    }

    /// Drops the in-memory tail: an idle partition keeps no record bytes.
    pub fn release_tail(&mut self) {
        self.tail.clear();
    }

    /// Syncs and closes so that the next open with `clean_shutdown` re-reads nothing. After an error the stop is not clean.
    pub fn close(mut self) -> Result<(), LogError> {
        self.check_not_poisoned()?;
        let is_nothing = !self.is_created && self.size_bytes() == 0;
        if is_nothing || !self.has_changed {
            return Ok(());
        }
        let files = self
            .active
            .finish(self.disk.as_ref())
            .map_err(disk_error("close", &self.active.path))?;
        self.unsynced.files.extend(files);
        self.write_snapshot()?;
        self.unsynced.dir = true;
        if let Some(under_way) = self.in_flight.take() {
            // Its outcome will not be heard: sync all of it again.
            self.unsynced.files.extend(under_way.files);
            self.unsynced.leader_epochs |= under_way.leader_epochs;
            self.unsynced.parent_dir |= under_way.parent_dir;
        }
        if let Some(job) = self.begin_sync() {
            let result = job.run();
            self.complete_sync(job, result)?;
        }
        Ok(())
    }

    /// What a batch must fulfil to be appended: a copy, to check batches by without the log's lock.
    pub fn append_rules(&self) -> AppendRules {
        AppendRules::from(&self.config)
    }

    /// Earliest offset that clients may read.
    pub fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    /// Next offset to be written.
    pub fn log_end_offset(&self) -> i64 {
        self.next_offset
    }

    /// Below it all is durable.
    pub fn flushed_offset(&self) -> i64 {
        self.flushed_offset
    }

    /// Below it all is durable in the log's own files: the recovery point, to be noted in a checkpoint from time to time.
    pub fn synced_offset(&self) -> i64 {
        self.synced_offset
    }

    /// The first offset of a transaction that is open, or that ended at or above the high watermark last told: what read-committed readers
    /// may not pass.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let first = self.producers.first_unstable_offset()?;
        Some(first.max(self.log_start_offset))
    }

    /// What is known of a producer that has written here.
    pub fn producer(&self, producer_id: i64) -> Option<Producer> {
        self.producers.producer(producer_id)
    }

    /// What is known of all producers, by id.
    pub fn producers(&self) -> Vec<Producer> {
        self.producers.producers()
    }

    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.sealed
            .iter()
            .map(|segment| segment.size_bytes)
            .sum::<u64>()
            + self.active.size_bytes
    }

    pub fn segment_count(&self) -> usize {
        self.sealed.len() + 1
    }

    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Why nothing more is written, after a failed sync.
    pub fn poison_reason(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// The highest leader epoch that has written here.
    pub fn latest_leader_epoch(&self) -> Option<i32> {
        self.leader_epochs.latest()
    }

    /// The leader epoch that wrote at the log start, if a batch is left that says so.
    pub fn first_leader_epoch(&self) -> Option<i32> {
        self.leader_epochs.first(self.log_start_offset)
    }

    /// The largest epoch at or below `leader_epoch` and its end offset (exclusive); `None` if that epoch is not known here. For
    /// OffsetForLeaderEpoch and Fetch's diverging epoch.
    pub fn end_offset_for_epoch(&self, leader_epoch: i32) -> Option<(i32, i64)> {
        self.leader_epochs
            .end_offset(leader_epoch, self.next_offset)
    }

    /// Panics unless log start ≤ flushed ≤ log end, log start ≤ high watermark ≤ log end, and the segments join without overlap.
    pub fn check_invariants(&self, high_watermark: i64) {
        let (start, flushed, end) = (self.log_start_offset, self.flushed_offset, self.next_offset);
        assert!(
            start <= flushed && flushed <= end,
            "log start {start}, flushed {flushed}, log end {end}: {self:?}"
        );
        let synced = self.synced_offset;
        assert!(
            start <= synced && synced <= flushed,
            "log start {start}, synced {synced}, flushed {flushed}: {self:?}"
        );
        assert!(
            start <= high_watermark && high_watermark <= end,
            "log start {start}, high watermark {high_watermark}, log end {end}"
        );
        let mut expected = None;
        for segment in &self.sealed {
            assert!(
                expected.is_none_or(|expected| expected == segment.base_offset),
                "{self:?}"
            );
            assert!(segment.base_offset <= segment.end_offset, "{self:?}");
            expected = Some(segment.end_offset);
        }
        assert!(
            expected.is_none_or(|expected| expected == self.active.base_offset),
            "{self:?}"
        );
        assert!(self.active.base_offset <= end, "{self:?}");
    }

    pub(crate) fn check_not_poisoned(&self) -> Result<(), LogError> {
        match &self.poison {
            None => Ok(()),
            Some(reason) => Err(LogError::Poisoned {
                log: self.name(),
                reason: reason.clone(),
            }),
        }
    }

    fn name(&self) -> String {
        self.dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Creates the directory with its metadata, with the first append.
    fn create(&mut self) -> Result<(), LogError> {
        if self.is_created {
            return Ok(());
        }
        self.disk
            .create_dir_all(&self.dir)
            .map_err(disk_error("create", &self.dir))?;
        let path = self.dir.join(partition_metadata::FILE);
        let file = write_small(
            self.disk.as_ref(),
            &path,
            partition_metadata::encode(self.topic_id).as_bytes(),
        )?;
        self.unsynced.files.push(file);
        self.unsynced.dir = true;
        self.unsynced.parent_dir = true;
        self.is_created = true;
        Ok(())
    }

    /// Writes a batch at the end of the active segment. After an error the segment is as it was.
    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let (file, opened) = self
            .active
            .open(self.disk.as_ref())
            .map_err(disk_error("create", &self.active.path))?;
        let is_new = opened && self.active.size_bytes == 0;
        self.unsynced.dir |= is_new;
        if is_new && self.config.preallocate {
            self.active.preallocate(self.config.segment_bytes);
        }
        self.has_changed = true;
        let Err(error) = file.write_all_at(self.active.size_bytes, bytes) else {
            return Ok(());
        };
        // A part of it may be there. A shorter batch in its place would leave the rest behind it.
        if let Err(error) = file.truncate(self.active.size_bytes) {
            self.poison
                .get_or_insert(format!("could not undo a failed write: {error}"));
        }
        Err(disk_error("append to", &self.active.path)(error))
    }

    /// Notes a batch outside the segment: producers, aborted transactions and leader epochs.
    fn note(&mut self, facts: &BatchFacts, now_ms: i64) {
        let ended = self.producers.note(facts, now_ms);
        if let Some(ended) = ended.filter(|ended| !ended.commit) {
            let entry = AbortedTransactionEntry::from(ended);
            self.active.note_abort(self.disk.as_ref(), entry);
        }
        self.unsynced.leader_epochs |= self
            .leader_epochs
            .note(facts.leader_epoch, facts.base_offset);
    }

    /// Seals the active segment and starts the next one. After an error nothing has changed but what can be done again.
    fn roll(&mut self, now_ms: i64) -> Result<(), LogError> {
        let files = self
            .active
            .finish(self.disk.as_ref())
            .map_err(disk_error("seal", &self.active.path))?;
        self.write_snapshot()?;
        self.unsynced.files.extend(files);
        self.unsynced.active = false;
        self.taken_bytes = 0;
        self.is_journaled = false;
        self.unsynced.dir = true;
        self.has_changed = true;
        let next = ActiveSegment::empty(&self.dir, self.next_offset, now_ms);
        let full = std::mem::replace(&mut self.active, next);
        debug!(dir = %self.dir.display(), base_offset = full.base_offset, end_offset = self.next_offset, "segment rolled");
        self.sealed.push_back(full.seal(self.next_offset, now_ms));
        Ok(())
    }

    /// Writes the producers' snapshot at the log end.
    fn write_snapshot(&mut self) -> Result<(), LogError> {
        let path = segment::path(&self.dir, self.next_offset, segment::SNAPSHOT);
        let snapshot = self.producers.encode_snapshot();
        if self.active.size_bytes == 0 {
            // It replaces the one that the roll wrote, and there may be no other: the old or the new one, never half of it.
            return self
                .disk
                .write_file_atomically(&path, &snapshot)
                .map_err(disk_error("write", &path));
        }
        let file = write_small(self.disk.as_ref(), &path, &snapshot)?;
        self.unsynced.files.push(file);
        Ok(())
    }

    fn segment_views(&self) -> Result<Vec<SegmentView>, LogError> {
        let active = SegmentView {
            end_offset: self.next_offset,
            size_bytes: self.active.size_bytes,
            newest_ms: self
                .active
                .max_timestamp
                .map_or(self.active.created_ms, |max| max.timestamp),
        };
        let mut views = Vec::with_capacity(self.sealed.len() + 1);
        for segment in &self.sealed {
            let max = segment
                .max_timestamp(self.disk.as_ref())
                .map_err(disk_error("read", segment.time_index.path()))?;
            views.push(SegmentView {
                end_offset: segment.end_offset,
                size_bytes: segment.size_bytes,
                newest_ms: max.map_or(segment.seen_ms, |max| max.timestamp),
            });
        }
        views.push(active);
        Ok(views)
    }

    /// Before the oldest `count` segments go. From then on the name of the first one left says where the log is, and its snapshot what the
    /// producers did before it: no batch is left to tell. A roll leaves both unsynced; if a crash took them then, producers would be forgotten,
    /// and a retry of what is deleted would be written again.
    fn sync_start_of_rest(&mut self, count: usize) -> Result<(), LogError> {
        let base_offset = match self.sealed.get(count) {
            Some(first) => first.base_offset,
            None => {
                self.active
                    .open(self.disk.as_ref())
                    .map_err(disk_error("create", &self.active.path))?;
                self.active.base_offset
            }
        };
        let path = segment::path(&self.dir, base_offset, segment::SNAPSHOT);
        match self.disk.open(&path) {
            Ok(file) => {
                if let Err(error) = file.sync_data() {
                    // A later sync of it might succeed without having written it.
                    self.poison.get_or_insert(error.to_string());
                    return Err(disk_error("sync", &path)(error));
                }
            }
            // Compaction has taken it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(snapshot) = self.producers.encode_snapshot_before(base_offset) {
                    self.disk
                        .write_file_atomically(&path, &snapshot)
                        .map_err(disk_error("write", &path))?;
                }
            }
            Err(error) => return Err(disk_error("open", &path)(error)),
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(disk_error("sync", &self.dir))
    }

    /// Deletes the oldest sealed segments, oldest first: at no moment is there a gap.
    fn delete_oldest(&mut self, count: usize) -> Result<(), LogError> {
        if count > 0 {
            self.sync_start_of_rest(count)?;
        }
        for _ in 0..count {
            let Some(oldest) = self.sealed.front() else {
                break;
            };
            let (disk, base_offset) = (self.disk.as_ref(), oldest.base_offset);
            if self.config.file_delete_delay_ms > 0 {
                let renamed = recovery::rename_deleted(disk, &self.dir, base_offset)?;
                self.deleted.extend(renamed);
            } else {
                recovery::delete_segment(disk, &self.dir, base_offset)?;
            }
            info!(dir = %self.dir.display(), base_offset = oldest.base_offset, size_bytes = oldest.size_bytes, "segment deleted");
            self.log_start_offset = self.log_start_offset.max(oldest.end_offset);
            self.sealed.pop_front();
            self.has_changed = true;
            self.unsynced.dir = true;
            // Before the next goes: unlinks may reach the disk in any order, and a gap would cut the log there.
            self.disk
                .sync_dir(&self.dir)
                .map_err(disk_error("sync", &self.dir))?;
        }
        // Without fsync (`flush=os`) the log start may overtake what was synced.
        self.flushed_offset = self.flushed_offset.max(self.log_start_offset);
        self.synced_offset = self.synced_offset.max(self.log_start_offset);
        if self.leader_epochs.truncate_before(self.log_start_offset) {
            self.unsynced.leader_epochs = true;
        }
        Ok(())
    }
}

/// The file of records of a segment, `DIR/00000000000000000042.log`.
pub(crate) fn segment_path(dir: &Path, base_offset: i64) -> PathBuf {
    segment::path(dir, base_offset, segment::LOG)
}

/// Which topic a partition's directory belongs to; `None` if it is not there, or does not say.
pub(crate) fn topic_id_of(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Uuid>> {
    match disk.read_file(&dir.join(partition_metadata::FILE)) {
        Ok(contents) => Ok(partition_metadata::decode(&contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a small file anew; not synced.
fn write_small(
    disk: &dyn Disk,
    path: &Path,
    contents: &[u8],
) -> Result<Arc<dyn DiskFile>, LogError> {
    let write = || {
        let file = disk.open_or_create(path)?;
        file.truncate(0)?;
        file.write_all_at(0, contents)?;
        Ok(file)
    };
    write().map_err(disk_error("write", path))
}
