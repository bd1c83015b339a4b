//! A partition as clients see it: its log, its high watermark, and who waits for it.
//!
//! One replica leads and there are no others yet, so the high watermark is a matter of the disk:
//! - `Flush::Durable`: it follows `flushed_offset`. An append marks the partition dirty; the flusher (`flush_round`) shares fsyncs
//!   over all dirty partitions, and appends go on meanwhile.
//! - `Flush::Os`: it follows the log end offset, at once.
//!
//! Readers are bounded by the high watermark, so they never see what a crash takes back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::config::Flush;
use crate::disk::Piece;
use crate::log::cleaner::{
    Candidate, CleanError, CleanedGroup, CleaningJob, CleaningLimits, CommitError, LogView,
};
use crate::log::{
    AbortedTransaction, AppendError, AppendOrigin, AppendRules, Appended, Log, LogConfig, LogError,
    Marker, Producer, ReadError, ReadPlan, ReadSlice, TimestampOffset, ValidBatch,
    VerificationGuard, disk_error,
};
use crate::metrics::Traffic;

mod flusher;
mod sync_journal;
mod waiting;
mod watch;

pub(crate) use flusher::Dirty;
use sync_journal::LogName;
pub(crate) use sync_journal::replay;
pub use waiting::Attempt;
pub(crate) use waiting::Waiting;
use watch::Watchers;
pub use watch::{Waker, Watch};

/// Up to where a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Up to the high watermark.
    #[default]
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// What a fetch found.
#[derive(Debug, Clone, Default)]
pub struct Fetched<B = Vec<Bytes>> {
    /// Whole batches in offset order, shared with the log's tail or read from a segment. The first may begin below the wanted
    /// offset: the reader skips.
    pub batches: B,
    /// Bytes in all of them.
    pub size_bytes: usize,
    /// Where to read on; the wanted offset if nothing was found.
    pub next_offset: i64,
    /// Exclusive end of what is acknowledged.
    pub high_watermark: i64,
    /// Exclusive end of what no open transaction holds back.
    pub last_stable_offset: i64,
    /// Earliest offset there is.
    pub log_start_offset: i64,
    /// Read committed: transactions whose batches the reader skips, from their first offset on to their abort marker, in the order of the
    /// markers. Read uncommitted: empty.
    pub aborted: Vec<AbortedTransaction>,
}

/// Why a partition refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The partition was deleted, or the broker was shut down.
    #[error("partition {0} is gone")]
    Gone(String),
    /// The batch was refused.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The read was refused.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// One partition of a topic on this broker, which leads it.
#[derive(Debug)]
pub struct Partition {
    topic: Arc<str>,
    topic_id: Uuid,
    index: i32,
    leader_epoch: i32,
    flush: Flush,
    /// The name of the log's directory.
    dir_name: String,
    /// Held by whoever syncs the log's files, before the log's lock: an error is told once, and to who asked.
    file_syncs: Mutex<()>,
    /// Held by whoever removes segments or swaps cleaned ones in, before the log's lock: none of them meets another halfway.
    segments: Mutex<()>,
    /// `None` once the partition is deleted or closed.
    log: Mutex<Option<Log>>,
    /// A copy of the log's, so that checking a batch takes no lock of the log.
    rules: RwLock<AppendRules>,
    high_watermark: AtomicI64,
    /// What holds the last stable offset back; `i64::MAX` if nothing does. Lowered before the high watermark passes it, raised after the high
    /// watermark has passed what ended it: so the lower of the two, read in the order high watermark, then this, is right at any moment.
    first_unstable_offset: AtomicI64,
    watchers: Arc<Watchers>,
    dirty: Arc<Dirty>,
    /// Whether the partition is in the list of dirty ones.
    is_dirty: AtomicBool,
    /// A sync failed, or the partition is gone: nothing more will be acknowledged.
    failed: AtomicBool,
    /// That the log takes no more writes was told to `dirty`.
    is_reported: AtomicBool,
    /// Log end offset when it was last asked whether the partition is idle.
    idle_since_offset: AtomicI64,
    traffic: Traffic,
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        topic_id: Uuid,
        index: i32,
        leader_epoch: i32,
        flush: Flush,
        log: Log,
        dirty: Arc<Dirty>,
    ) -> Self {
        // Opening a log syncs what it recovered, so all of it is acknowledged.
        let high_watermark = AtomicI64::new(log.log_end_offset());
        let rules = RwLock::new(log.append_rules());
        let first_unstable_offset = AtomicI64::new(log.first_unstable_offset().unwrap_or(i64::MAX));
        Self {
            dir_name: format!("{topic}-{index}"),
            topic,
            topic_id,
            index,
            leader_epoch,
            flush,
            file_syncs: Mutex::default(),
            segments: Mutex::default(),
            log: Mutex::new(Some(log)),
            rules,
            high_watermark,
            first_unstable_offset,
            watchers: Arc::default(),
            dirty,
            is_dirty: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            is_reported: AtomicBool::new(false),
            idle_since_offset: AtomicI64::new(-1),
            traffic: Traffic::default(),
        }
    }

    /// Appends one record batch (format v2) as a client's produce would: its base offset and leader epoch are written into it, its CRC,
    /// records and sequence are checked. It is acknowledged when `high_watermark` is beyond `last_offset`.
    pub fn append(
        self: &Arc<Self>,
        batch: BytesMut,
        now_ms: i64,
    ) -> Result<Appended, PartitionError> {
        let (appended, wake) = self.append_quietly(batch, AppendOrigin::Client, now_ms)?;
        wake.wake();
        Ok(appended)
    }

    /// Appends without waking anyone: the caller wakes when it has left its own lock.
    pub(crate) fn append_quietly(
        self: &Arc<Self>,
        batch: BytesMut,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<(Appended, Wake), PartitionError> {
        self.append_verified(batch, origin, None, now_ms)
    }

    /// As `append_quietly`, with leave to begin a transaction: what `begin_verification` gave before the coordinator agreed.
    pub(crate) fn append_verified(
        self: &Arc<Self>,
        batch: BytesMut,
        origin: AppendOrigin,
        guard: Option<VerificationGuard>,
        now_ms: i64,
    ) -> Result<(Appended, Wake), PartitionError> {
        let rules = *self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = batch.len() as u64;
        let batch = ValidBatch::check(batch, &rules, origin, now_ms)?.verified(guard);
        let append = |log: &mut Log| log.append(batch, self.leader_epoch, now_ms);
        let (appended, wake) = self.write(append, now_ms)?;
        if !appended.duplicate {
            let records = appended.last_offset - appended.base_offset + 1;
            self.traffic
                .appended(u64::try_from(records).unwrap_or(0), bytes);
        }
        Ok((appended, wake))
    }

    /// Ends a producer's transaction here: appends the control batch that says so. Refused for an older epoch of the producer or of the
    /// coordinator. Durable when the high watermark is beyond it, and only then told to read-committed readers.
    pub(crate) fn append_marker(
        self: &Arc<Self>,
        marker: Marker,
        now_ms: i64,
    ) -> Result<(Appended, Wake), PartitionError> {
        let append = |log: &mut Log| log.append_marker(&marker, self.leader_epoch, now_ms);
        self.write(append, now_ms)
    }

    /// Leave to begin a transaction here: take it, have the coordinator agree, then `append_verified` with it. A marker in between makes it
    /// void. `None` if the producer's transaction is open here already: none is needed. `transaction_version` is the client's: from 2 on a
    /// producer unknown here must begin with sequence 0.
    pub fn begin_verification(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
        transaction_version: i16,
        now_ms: i64,
    ) -> Result<Option<VerificationGuard>, PartitionError> {
        let mut guard = self.lock();
        let log = guard.as_mut().ok_or_else(|| self.gone())?;
        Ok(log.begin_verification(
            producer_id,
            producer_epoch,
            base_sequence,
            transaction_version,
            now_ms,
        ))
    }

    /// As `append_quietly`, for what nobody waits for: it is synced along with the next append here, or when the partition is marked.
    pub(crate) fn append_unhurried(
        self: &Arc<Self>,
        batch: BytesMut,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<(Appended, Wake), PartitionError> {
        let rules = *self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let batch = ValidBatch::check(batch, &rules, origin, now_ms)?;
        let append = |log: &mut Log| log.append(batch, self.leader_epoch, now_ms);
        let (appended, wake, _) = self.write_unhurried(append, now_ms)?;
        Ok((appended, wake))
    }

    fn write(
        self: &Arc<Self>,
        append: impl FnOnce(&mut Log) -> Result<Appended, AppendError>,
        now_ms: i64,
    ) -> Result<(Appended, Wake), PartitionError> {
        let (appended, wake, must_sync) = self.write_unhurried(append, now_ms)?;
        if must_sync && !appended.duplicate {
            self.mark_dirty();
        }
        Ok((appended, wake))
    }

    /// The flag says whether a sync is to follow.
    fn write_unhurried(
        self: &Arc<Self>,
        append: impl FnOnce(&mut Log) -> Result<Appended, AppendError>,
        now_ms: i64,
    ) -> Result<(Appended, Wake, bool), PartitionError> {
        let mut guard = self.lock();
        let log = guard.as_mut().ok_or_else(|| self.gone())?;
        let appended = append(log).inspect_err(|_| self.report_if_poisoned(log))?;
        // Before the high watermark may pass it.
        self.note_first_unstable(log);
        let (advanced, must_sync) = match self.flush {
            Flush::Os => {
                let must_sync = log.is_flush_due(now_ms);
                (self.advance(log, log.log_end_offset()), must_sync)
            }
            Flush::Durable => (false, true),
        };
        drop(guard);
        Ok((
            appended,
            Wake {
                watchers: advanced.then(|| self.watchers.clone()),
            },
            must_sync,
        ))
    }

    /// Advances the high watermark, and with it the last stable offset; whether it was lower. The log is locked.
    fn advance(&self, log: &mut Log, high_watermark: i64) -> bool {
        let advanced = self
            .high_watermark
            .fetch_max(high_watermark, Ordering::AcqRel)
            < high_watermark;
        if advanced {
            log.release_completed(high_watermark);
            self.note_first_unstable(log);
        }
        advanced
    }

    fn note_first_unstable(&self, log: &Log) {
        let first = log.first_unstable_offset().unwrap_or(i64::MAX);
        self.first_unstable_offset.store(first, Ordering::Release);
    }

    /// The log takes no more writes, and nothing more will be acknowledged.
    fn report_failure(self: &Arc<Self>) {
        self.failed.store(true, Ordering::Release);
        self.report_poison();
    }

    fn report_if_poisoned(self: &Arc<Self>, log: &Log) {
        if log.poison_reason().is_some() {
            self.report_poison();
        }
    }

    /// The log takes no more writes.
    fn report_poison(self: &Arc<Self>) {
        if !self.is_reported.swap(true, Ordering::AcqRel) {
            self.dirty.push_failed(self.clone());
            // The flusher finds it poisoned, when no sync is under way: nothing more will be acknowledged then, and who waits is told.
            if !self.has_failed() {
                self.mark_dirty();
            }
        }
    }

    /// The same partition on its log opened anew, after that has failed: with what is known to be on disk, which is all that was ever acknowledged.
    /// This one is as it was, and reads on. `None` if it is gone, or more was acknowledged than is known to be on disk.
    pub(crate) fn reopened(&self, now_ms: i64) -> Result<Option<Partition>, LogError> {
        let _segments = self.lock_segments();
        let guard = self.lock();
        let Some(log) = guard.as_ref() else {
            return Ok(None);
        };
        if self.high_watermark() > log.flushed_offset() {
            tracing::error!(topic = %self.topic, partition = self.index, "more was acknowledged than is known to be on disk: the log takes writes after a restart");
            return Ok(None);
        }
        let Some(reopening) = log.reopening() else {
            // A sync is under way: later.
            return log.check_not_poisoned().map(|()| None);
        };
        drop(guard);
        if !self.dirty.put_back(self.log_name())? {
            tracing::error!(topic = %self.topic, partition = self.index, "the sync journal has failed as well: the log takes writes after a restart");
            return Ok(None);
        }
        // Without the log's lock: it takes no writes, and nobody removes segments.
        let log = reopening.run(now_ms)?;
        let mut reopened = Partition::new(
            self.topic.clone(),
            self.topic_id,
            self.index,
            self.leader_epoch,
            self.flush,
            log,
            self.dirty.clone(),
        );
        // Who watches this one watches that one.
        reopened.watchers = self.watchers.clone();
        Ok(Some(reopened))
    }

    pub(crate) fn mark_dirty(self: &Arc<Self>) {
        if !self.is_dirty.swap(true, Ordering::AcqRel) {
            self.dirty.push(self.clone());
        }
    }

    /// Marks it if `flush.messages` or `flush.ms` ask for a sync by then.
    pub(crate) fn mark_dirty_if_due(self: &Arc<Self>, by_ms: i64) {
        let is_due = self
            .lock()
            .as_ref()
            .is_some_and(|log| log.is_flush_due(by_ms));
        if is_due {
            self.mark_dirty();
        }
    }

    /// Reads whole batches from the one that holds `offset`, about `max_bytes`, but at least one batch. Empty at the end of what the
    /// isolation shows; `ReadError::OutOfRange` outside the log.
    pub fn fetch(
        &self,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<Fetched, PartitionError> {
        let fetched = self.fetch_bounded(offset, max_bytes, isolation, true)?;
        if fetched.size_bytes > 0 {
            self.traffic.fetched(fetched.size_bytes as u64);
        }
        Ok(fetched)
    }

    /// As `fetch`, but without the promise of one batch unless `at_least_one_batch`.
    pub fn fetch_bounded(
        &self,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
        at_least_one_batch: bool,
    ) -> Result<Fetched, PartitionError> {
        let reading = (offset, max_bytes, isolation, at_least_one_batch);
        self.fetch_with(reading, ReadPlan::perform)
    }

    /// As `fetch_bounded`, but what is in a file stays there.
    pub(crate) fn locate_bounded(
        &self,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
        at_least_one_batch: bool,
    ) -> Result<Fetched<Vec<Piece>>, PartitionError> {
        let reading = (offset, max_bytes, isolation, at_least_one_batch);
        self.fetch_with(reading, ReadPlan::locate)
    }

    fn fetch_with<B>(
        &self,
        (offset, max_bytes, isolation, at_least_one_batch): (i64, usize, Isolation, bool),
        carry_out: impl Fn(ReadPlan) -> Result<ReadSlice<B>, ReadError>,
    ) -> Result<Fetched<B>, PartitionError> {
        let mut from = offset;
        loop {
            let guard = self.lock();
            let log = guard.as_ref().ok_or_else(|| self.gone())?;
            let high_watermark = self.high_watermark();
            let last_stable_offset = self.last_stable_offset();
            let log_start_offset = log.log_start_offset();
            let plan = match isolation {
                Isolation::ReadUncommitted => {
                    log.plan_read(from, max_bytes, high_watermark, at_least_one_batch)?
                }
                Isolation::ReadCommitted => log.plan_committed_read(
                    from,
                    max_bytes,
                    last_stable_offset,
                    at_least_one_batch,
                )?,
            };
            drop(guard);
            let slice = carry_out(plan)?;
            if slice.size_bytes == 0 && slice.next_offset != from {
                // A gap without records: what is wanted may lie behind it.
                from = slice.next_offset;
                continue;
            }
            return Ok(Fetched {
                batches: slice.batches,
                size_bytes: slice.size_bytes,
                next_offset: slice.next_offset,
                high_watermark,
                last_stable_offset,
                log_start_offset,
                aborted: slice.aborted,
            });
        }
    }

    /// Calls the waker whenever the high watermark has advanced (and once when the partition goes away), until the watch is dropped. No
    /// lock is held while it is called; it must be quick.
    pub fn watch(&self, waker: Waker) -> Watch {
        Watchers::add(&self.watchers, waker)
    }

    /// What was written and read. Of reads by connections the server counts what it sends.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The topic's name.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The topic's id.
    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// The partition's number.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// Exclusive end of what is acknowledged, which is what readers see.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Nothing more will be acknowledged: a sync failed, or the partition is gone.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Why the log takes no more writes; `None` if it does, or is gone.
    pub fn failure(&self) -> Option<String> {
        let guard = self.lock();
        guard.as_ref()?.poison_reason().map(str::to_owned)
    }

    /// Exclusive end of what no open transaction holds back.
    pub fn last_stable_offset(&self) -> i64 {
        let high_watermark = self.high_watermark();
        high_watermark.min(self.first_unstable_offset.load(Ordering::Acquire))
    }

    /// Where the producer's open transaction began here; `None` if it has none.
    pub fn open_transaction(&self, producer_id: i64) -> Option<i64> {
        self.producer(producer_id)?.transaction_first_offset
    }

    /// The epoch the producer last wrote here with, or was fenced by; `None` if nothing is known of it.
    pub fn producer_epoch(&self, producer_id: i64) -> Option<i16> {
        Some(self.producer(producer_id)?.producer_epoch)
    }

    fn producer(&self, producer_id: i64) -> Option<Producer> {
        self.lock().as_ref()?.producer(producer_id)
    }

    /// What is known of the producers that have written here, by id.
    pub fn producers(&self) -> Result<Vec<Producer>, PartitionError> {
        self.with_log(Log::producers)
    }

    /// Exclusive end of what the isolation shows.
    pub fn end_offset(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        }
    }

    /// The epoch of this leadership.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Earliest offset there is; -1 when the partition is gone.
    pub fn log_start_offset(&self) -> i64 {
        self.lock().as_ref().map_or(-1, Log::log_start_offset)
    }

    /// Earliest offset there is, and the leader epoch that wrote it if that is known.
    pub fn log_start(&self) -> Result<(i64, Option<i32>), PartitionError> {
        self.with_log(|log| (log.log_start_offset(), log.first_leader_epoch()))
    }

    /// Next offset to be written; -1 when the partition is gone.
    pub fn log_end_offset(&self) -> i64 {
        self.lock().as_ref().map_or(-1, Log::log_end_offset)
    }

    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.lock().as_ref().map_or(0, Log::size_bytes)
    }

    /// The first record with this timestamp or a later one, among those that readers see.
    pub fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<TimestampOffset>, PartitionError> {
        let found = self.with_log(|log| log.offset_for_timestamp(timestamp_ms))??;
        Ok(found.filter(|found| found.offset < self.high_watermark()))
    }

    /// The record with the highest timestamp.
    pub fn max_timestamp(&self) -> Result<Option<TimestampOffset>, PartitionError> {
        let found = self.with_log(|log| log.max_timestamp())??;
        Ok(found.filter(|found| found.offset < self.high_watermark()))
    }

    /// The largest leader epoch at or below this one, and its end offset.
    pub fn end_offset_for_epoch(
        &self,
        leader_epoch: i32,
    ) -> Result<Option<(i32, i64)>, PartitionError> {
        if leader_epoch == self.leader_epoch {
            return Ok(Some((leader_epoch, self.log_end_offset())));
        }
        self.with_log(|log| log.end_offset_for_epoch(leader_epoch))
    }

    /// Whether the topic's policy lets records be removed by time, size or request.
    pub fn deletes_records(&self) -> Result<bool, PartitionError> {
        self.with_log(|log| log.config().delete)
    }

    /// Removes records below `offset` (-1: below the high watermark) and returns the new log start offset.
    pub fn delete_records_before(self: &Arc<Self>, offset: i64) -> Result<i64, PartitionError> {
        let _segments = self.lock_segments();
        let high_watermark = self.high_watermark();
        let offset = if offset == -1 { high_watermark } else { offset };
        let mut guard = self.lock();
        let log = guard.as_mut().ok_or_else(|| self.gone())?;
        if offset < 0 || offset > high_watermark {
            return Err(PartitionError::Read(ReadError::OutOfRange {
                offset,
                log_start_offset: log.log_start_offset(),
                log_end_offset: high_watermark,
            }));
        }
        if offset > log.log_start_offset() {
            let deleted = log.delete_records_before(offset);
            self.report_if_poisoned(log);
            deleted?;
            // What it held back may be gone.
            self.note_first_unstable(log);
        }
        Ok(log.log_start_offset())
    }

    pub(crate) fn set_config(&self, config: LogConfig) {
        let mut guard = self.lock();
        if let Some(log) = guard.as_mut() {
            log.set_config(config);
            *self.rules.write().unwrap_or_else(PoisonError::into_inner) = log.append_rules();
        }
    }

    /// Deletes what retention no longer keeps; how many segments.
    pub(crate) fn apply_retention(self: &Arc<Self>, now_ms: i64) -> Result<usize, PartitionError> {
        let _segments = self.lock_segments();
        let high_watermark = self.high_watermark();
        let mut guard = self.lock();
        let log = guard.as_mut().ok_or_else(|| self.gone())?;
        let deleted = log.apply_retention(now_ms, high_watermark);
        self.report_if_poisoned(log);
        self.note_first_unstable(log);
        Ok(deleted?)
    }

    /// Files of deleted and replaced segments that are still there, each once, and for how long they are to stay.
    pub(crate) fn take_deleted(&self) -> (i64, Vec<PathBuf>) {
        let mut guard = self.lock();
        guard.as_mut().map(Log::take_deleted).unwrap_or_default()
    }

    /// Recovery point and log start offset, for the checkpoints; `None` when gone.
    pub(crate) fn checkpoint(&self) -> Option<(i64, i64)> {
        self.lock()
            .as_ref()
            .map(|log| (log.synced_offset(), log.log_start_offset()))
    }

    /// Drops the record bytes that are kept for readers at the tail, if nothing was written since the last call.
    pub(crate) fn release_tail_if_idle(&self) {
        if let Some(log) = self.lock().as_mut() {
            let end = log.log_end_offset();
            if self.idle_since_offset.swap(end, Ordering::AcqRel) == end {
                log.release_tail();
            }
        }
    }

    /// Takes the log out: what comes after finds the partition gone. Who waits is told by `wake`.
    pub(crate) fn take_log(&self) -> Option<Log> {
        let _segments = self.lock_segments();
        let log = self.lock().take();
        self.failed.store(true, Ordering::Release);
        log
    }

    /// Syncs the log's own files up to this offset, where that has not been done. What the next job alone can sync is left to it: `false`.
    fn sync_files_to(self: &Arc<Self>, offset: i64) -> Result<bool, LogError> {
        let _file_syncs = self.lock_file_syncs();
        let guard = self.lock();
        let Some(log) = guard.as_ref().filter(|log| log.synced_offset() < offset) else {
            // Synced, or deleted.
            return Ok(true);
        };
        log.check_not_poisoned()?;
        let Some(job) = log.begin_checkpoint() else {
            return Ok(false);
        };
        drop(guard);
        let result = job.run();
        let mut guard = self.lock();
        let Some(log) = guard.as_mut() else {
            return Ok(true);
        };
        let completed = log.complete_checkpoint(job, result);
        let is_synced = log.synced_offset() >= offset;
        drop(guard);
        if completed.is_err() {
            self.report_failure();
            self.watchers.wake();
        }
        completed.map(|()| is_synced)
    }

    /// How the sync journal knows the log.
    fn log_name(&self) -> LogName<'_> {
        LogName {
            dir: &self.dir_name,
            topic_id: self.topic_id,
        }
    }

    /// Has everyone look who waits for the partition.
    pub(crate) fn wake(&self) {
        self.watchers.wake();
    }

    /// What the log obeys; `None` when gone.
    pub(crate) fn log_config(&self) -> Option<LogConfig> {
        self.lock().as_ref().map(|log| log.config().clone())
    }

    /// What the cleaner chooses by; `None` if the log is not compacted, or gone.
    pub(crate) fn cleaning_view(&self) -> Result<Option<LogView>, PartitionError> {
        let guard = self.lock();
        let bound = self.high_watermark().min(self.last_stable_offset());
        let log = guard.as_ref().filter(|log| log.config().compact);
        Ok(log.map(|log| log.cleaning_view(bound)).transpose()?)
    }

    /// Seals the active segment, so that it can be cleaned.
    pub(crate) fn seal_active(self: &Arc<Self>, now_ms: i64) -> Result<(), PartitionError> {
        let mut guard = self.lock();
        let log = guard.as_mut().ok_or_else(|| self.gone())?;
        log.seal_active(now_ms)?;
        drop(guard);
        self.mark_dirty();
        Ok(())
    }

    /// What a cleaning pass has to know; `None` if there is nothing to clean.
    pub(crate) fn begin_cleaning(
        &self,
        candidate: &Candidate,
        limits: CleaningLimits,
        now_ms: i64,
    ) -> Result<Option<CleaningJob>, PartitionError> {
        let guard = self.lock();
        let log = guard.as_ref().ok_or_else(|| self.gone())?;
        Ok(log.begin_cleaning(candidate, limits, now_ms)?)
    }

    /// Puts cleaned segments in the place of those they were made from. The log's lock is held for the renames only.
    pub(crate) fn swap_cleaned(
        self: &Arc<Self>,
        mut group: CleanedGroup,
    ) -> Result<(), CleanError> {
        let _segments = self.lock_segments();
        let log = self.lock();
        let can_swap = log.as_ref().is_some_and(|log| log.prepare_swap(&mut group));
        drop(log);
        if !can_swap {
            group.discard();
            return Err(CleanError::Changed);
        }
        // What the journal has of the old segments must not be written over the new ones.
        if let Err(error) = self.dirty.void(self.log_name(), group.replaced_below()) {
            group.discard();
            let dir = Path::new(&self.dir_name);
            return Err(disk_error("note in the sync journal the cleaning of", dir)(error).into());
        }
        let committed = group.commit();
        // `take_log` waits for the segments: it is still there.
        let poison = |error: &LogError| {
            if let Some(log) = self.lock().as_mut() {
                log.poison_for_swap(error);
            }
            self.report_poison();
        };
        if let Err(CommitError { error, is_undone }) = committed {
            if is_undone {
                group.discard();
            } else {
                poison(&error);
            }
            return Err(error.into());
        }
        let swapped = self.lock().as_mut().map(|log| {
            log.swap(&mut group);
            log.check_not_poisoned()
        });
        if let Some(Err(error)) = swapped {
            self.report_poison();
            return Err(error.into());
        }
        let files = group.finish().inspect_err(poison)?;
        if let Some(log) = self.lock().as_mut() {
            log.note_deleted(files);
        }
        Ok(())
    }

    fn with_log<T>(&self, with: impl FnOnce(&Log) -> T) -> Result<T, PartitionError> {
        self.lock().as_ref().map(with).ok_or_else(|| self.gone())
    }

    fn gone(&self) -> PartitionError {
        PartitionError::Gone(format!("{}-{}", self.topic, self.index))
    }

    fn lock_segments(&self) -> MutexGuard<'_, ()> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_file_syncs(&self) -> MutexGuard<'_, ()> {
        self.file_syncs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Log>> {
        // A panic under this lock is a bug of the log; its own checks decide whether it goes on.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes those who wait for the high watermark, if it advanced.
#[derive(Debug)]
#[must_use]
pub(crate) struct Wake {
    watchers: Option<Arc<Watchers>>,
}

impl Wake {
    pub(crate) fn wake(self) {
        if let Some(watchers) = self.watchers {
            watchers.wake();
        }
    }
}
