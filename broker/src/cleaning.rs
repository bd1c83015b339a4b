//! What drives compaction: one pass at a time, over the filthiest log that is due.
//!
//! 1. Look at every compacted partition, seal active segments that are overdue, choose ([`crate::log::cleaner::choose`]).
//! 2. Clean that log: map, rewrite group by group, each swapped in under `Partition::swap_cleaned`.
//! 3. Note where the pass ended in `cleaner-offset-checkpoint`, in Kafka's format.
//! 4. Again at once if something was cleaned, else after `log.cleaner.backoff.ms`.
//!
//! A partition that fails is reported, left alone, and tried again when its config or its files have changed, or, if it was the disk that
//! failed, after a while. The others go on. One thread does all: a pass is bounded by what the map holds, so no log holds the others up for long.
//!
//! With `Drive::Threads` this runs on a thread of its own, at low priority. With `Drive::Manual` each `step` runs at most one pass.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::broker::Core;
use crate::config::BrokerConfig;
use crate::data_dir::Offsets;
use crate::disk::Disk;
use crate::error::BrokerError;
use crate::log::cleaner::choose::{candidate, filthiest};
use crate::log::cleaner::{Candidate, CleanError, CleaningLimits, CleaningProgress, LogView, Pace};
use crate::log::{LogConfig, offset_checkpoint};
use crate::replica::{Partition, PartitionError};

/// Where the cleaning of each log has come to, in the data directory.
pub(crate) const CHECKPOINT_FILE: &str = "cleaner-offset-checkpoint";

/// A partition whose disk failed is tried again after this time.
const DISK_RETRY_MS: i64 = 60_000;

/// What the cleaner has done since the broker was opened, and what it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanerStats {
    pub passes: u64,
    pub passes_failed: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Bytes of rewritten segments, before and after.
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub records_before: u64,
    pub records_after: u64,
    pub records_without_key: u64,
    /// Time spent in passes.
    pub busy_ms: u64,
    /// Of the last pass: the share of the offset map's limit that was used.
    pub last_map_bytes: u64,
    pub last_duration_ms: u64,
    /// When the cleaner has last looked for work; zero if never.
    pub last_look_ms: i64,
    /// Of the filthiest log at the last look, in millionths.
    pub dirty_ratio_max_ppm: u32,
    /// Partitions that could not be cleaned, with the reason, as `topic-partition`.
    pub uncleanable: BTreeMap<String, String>,
}

/// What a pass over one partition has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Below it nothing is dirty.
    pub cleaned_to: i64,
    pub progress: CleaningProgress,
}

type Key = (Uuid, i32);

/// The cleaner's memory, and the means to stop it.
#[derive(Debug)]
pub(crate) struct Cleaning {
    /// One pass at a time.
    turn: Mutex<()>,
    state: Mutex<State>,
    /// `log.cleaner.enable`.
    is_enabled: bool,
    is_stopped: AtomicBool,
    /// Wakes the thread out of its sleep.
    sleep: (Mutex<bool>, Condvar),
    next_ms: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    /// What was noted before this start, for topics that are there.
    first_dirty: HashMap<Key, i64>,
    uncleanable: HashMap<Key, Uncleanable>,
    stats: CleanerStats,
}

/// A partition that failed, as it was then.
#[derive(Debug)]
struct Uncleanable {
    name: String,
    reason: String,
    config: LogConfig,
    segments: Vec<(i64, u64)>,
    retry_at_ms: Option<i64>,
}

impl Cleaning {
    /// Reads what was noted. A damaged checkpoint is as none: then everything counts as dirty.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, config: &BrokerConfig) -> (Self, Offsets) {
        let path = dir.join(CHECKPOINT_FILE);
        let noted = offset_checkpoint::read(disk, &path).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "checkpoint ignored, logs are cleaned from their start");
            Offsets::new()
        });
        let now_ms = config.clock.now_ms();
        let cleaning = Self {
            turn: Mutex::default(),
            state: Mutex::default(),
            is_enabled: config.cleaner_enabled,
            is_stopped: AtomicBool::new(false),
            sleep: Default::default(),
            next_ms: now_ms.saturating_add(config.cleaner_backoff_ms).into(),
        };
        (cleaning, noted)
    }

    /// Takes over what was noted of a partition.
    pub(crate) fn resume(&self, partition: &Partition, first_dirty_offset: i64) {
        if first_dirty_offset <= partition.log_end_offset() {
            let mut state = self.lock();
            state.first_dirty.insert(key(partition), first_dirty_offset);
        }
    }

    pub(crate) fn stats(&self) -> CleanerStats {
        let state = self.lock();
        let mut stats = state.stats.clone();
        let failed = state.uncleanable.values();
        stats.uncleanable = failed
            .map(|failed| (failed.name.clone(), failed.reason.clone()))
            .collect();
        stats
    }

    /// When `step` has to be called for the next pass.
    pub(crate) fn next_ms(&self) -> i64 {
        if self.is_enabled && !self.is_stopped() {
            self.next_ms.load(Ordering::Acquire)
        } else {
            i64::MAX
        }
    }

    /// No new pass begins; the one under way ends at the next piece of IO.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        *self.sleep.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.sleep.1.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Sleeps so long, or until it is stopped; whether to go on.
    fn sleep(&self, time: Duration) -> bool {
        let stopped = self.sleep.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = self
            .sleep
            .1
            .wait_timeout_while(stopped, time, |stopped| !*stopped);
        drop(slept);
        !self.is_stopped()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(partition: &Partition) -> Key {
    (partition.topic_id(), partition.index())
}

fn name(partition: &Partition) -> String {
    format!("{}-{}", partition.topic(), partition.index())
}

/// A log with what may be cleaned of it.
struct Found {
    partition: Arc<Partition>,
    candidate: Candidate,
}

impl Core {
    /// The cleaner's thread.
    pub(crate) fn clean_until_stopped(self: &Arc<Self>) {
        lower_priority();
        let backoff_ms = u64::try_from(self.config.cleaner_backoff_ms).unwrap_or(0);
        while !self.cleaning.is_stopped() {
            if !self.clean_filthiest() && !self.cleaning.sleep(Duration::from_millis(backoff_ms)) {
                break;
            }
        }
    }

    /// One pass, if it is time for one: for `step`.
    pub(crate) fn clean_if_due(self: &Arc<Self>, now_ms: i64) {
        if self.cleaning.next_ms() > now_ms {
            return;
        }
        let backoff_ms = if self.clean_filthiest() {
            0
        } else {
            self.config.cleaner_backoff_ms
        };
        let next_ms = now_ms.saturating_add(backoff_ms);
        self.cleaning.next_ms.store(next_ms, Ordering::Release);
    }

    /// One pass over the filthiest log that is due. Whether there was one, and it was cleaned.
    fn clean_filthiest(self: &Arc<Self>) -> bool {
        let _turn = self
            .cleaning
            .turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        let (found, dirty_ratio_max_ppm) = self.find_candidates(now_ms);
        let candidates: Vec<_> = found.iter().map(|found| found.candidate).collect();
        {
            let mut state = self.cleaning.lock();
            state.stats.last_look_ms = now_ms;
            state.stats.dirty_ratio_max_ppm = dirty_ratio_max_ppm;
        }
        let chosen = filthiest(&candidates).and_then(|index| found.get(index));
        chosen.is_some_and(|chosen| {
            self.clean(&chosen.partition, &chosen.candidate, now_ms)
                .is_ok()
        })
    }

    /// The logs that are due and have not failed; and the dirty ratio of the dirtiest of all.
    fn find_candidates(self: &Arc<Self>, now_ms: i64) -> (Vec<Found>, u32) {
        let mut found = Vec::new();
        let mut dirty_ratio_max_ppm = 0;
        let mut unsynced = false;
        let partitions = self.all_partitions();
        self.cleaning.lock().uncleanable.retain(|failed, _| {
            // Those of deleted topics are forgotten.
            partitions.iter().any(|partition| key(partition) == *failed)
        });
        for partition in partitions {
            if self.cleaning.is_stopped() {
                break;
            }
            match self.look_at(&partition, now_ms) {
                Ok(None) => {}
                Ok(Some((view, candidate))) => {
                    // Nobody waits for the disk under `flush=os`; what is not synced is not cleaned.
                    if view
                        .sealed
                        .last()
                        .is_some_and(|last| last.end_offset > view.synced_to)
                        && self.config.flush == crate::config::Flush::Os
                    {
                        partition.mark_dirty();
                        unsynced = true;
                    }
                    dirty_ratio_max_ppm = dirty_ratio_max_ppm.max(candidate.dirty_ratio_ppm());
                    if candidate.is_due() && self.may_be_cleaned(&partition, &view, now_ms) {
                        found.push(Found {
                            partition,
                            candidate,
                        });
                    }
                }
                Err(error) => self.failed(&partition, &error, now_ms),
            }
        }
        if unsynced {
            self.flush_round();
        }
        (found, dirty_ratio_max_ppm)
    }

    /// What of a partition can be cleaned; `None` if it is not compacted, or is going away.
    fn look_at(
        &self,
        partition: &Arc<Partition>,
        now_ms: i64,
    ) -> Result<Option<(LogView, Candidate)>, CleanError> {
        let Some(mut view) = partition.cleaning_view()? else {
            return Ok(None);
        };
        if view.active_is_overdue(now_ms) {
            partition.seal_active(now_ms)?;
            view = match partition.cleaning_view()? {
                Some(view) => view,
                None => return Ok(None),
            };
        }
        let noted = self
            .cleaning
            .lock()
            .first_dirty
            .get(&key(partition))
            .copied();
        let first_dirty = candidate(&view, noted, now_ms).first_dirty_offset;
        view.read_first_timestamps(
            self.data_dir.disk.as_ref(),
            &self.partition_dir(partition),
            first_dirty,
        )?;
        let candidate = candidate(&view, noted, now_ms);
        Ok(Some((view, candidate)))
    }

    fn partition_dir(&self, partition: &Partition) -> PathBuf {
        self.data_dir
            .partition_dir(partition.topic(), partition.index())
    }

    /// Whether it has not failed, or has changed since.
    fn may_be_cleaned(&self, partition: &Partition, view: &LogView, now_ms: i64) -> bool {
        let mut state = self.cleaning.lock();
        let Some(failed) = state.uncleanable.get(&key(partition)) else {
            return true;
        };
        let is_same = failed.segments == segments(view)
            && partition
                .log_config()
                .is_some_and(|config| config == failed.config);
        let is_early = failed.retry_at_ms.is_none_or(|retry_at| now_ms < retry_at);
        if is_same && is_early {
            return false;
        }
        state.uncleanable.remove(&key(partition));
        true
    }

    /// Reports a partition that could not be cleaned, and leaves it alone from now on.
    fn failed(&self, partition: &Arc<Partition>, error: &CleanError, now_ms: i64) {
        match error {
            // Asked to, or overtaken by a deletion: nothing is wrong.
            CleanError::Stopped | CleanError::Changed => {
                tracing::debug!(topic = %partition.topic(), partition = partition.index(), %error, "pass given up");
                return;
            }
            CleanError::Log(_) | CleanError::Corrupt { .. } => {}
        }
        let (Some(config), Ok(Some(view))) = (partition.log_config(), partition.cleaning_view())
        else {
            return;
        };
        let mut state = self.cleaning.lock();
        state.stats.passes_failed += 1;
        let retry_at_ms = match error {
            CleanError::Log(_) => Some(now_ms.saturating_add(DISK_RETRY_MS)),
            _ => None,
        };
        let failed = Uncleanable {
            name: name(partition),
            reason: error.to_string(),
            config,
            segments: segments(&view),
            retry_at_ms,
        };
        state.uncleanable.insert(key(partition), failed);
        drop(state);
        tracing::error!(topic = %partition.topic(), partition = partition.index(), %error, "not compacted, left alone until it changes");
    }

    /// One pass over a partition.
    fn clean(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        candidate: &Candidate,
        now_ms: i64,
    ) -> Result<Compacted, CleanError> {
        let started = Instant::now();
        let mut throttle = Throttle {
            cleaning: &self.cleaning,
            bytes_per_second_max: self.config.cleaner_io_bytes_per_second_max,
            sleeps: self.config.drive == crate::config::Drive::Threads,
            started,
            bytes: 0,
        };
        let result = self.pass(partition, candidate, now_ms, &mut |bytes| {
            throttle.pace(bytes)
        });
        let duration = started.elapsed();
        match &result {
            Ok(compacted) => {
                let progress = compacted.progress;
                {
                    let mut state = self.cleaning.lock();
                    state.uncleanable.remove(&key(partition));
                    state
                        .first_dirty
                        .insert(key(partition), compacted.cleaned_to);
                    state.stats.note(&progress, duration);
                }
                if let Err(error) = self.write_cleaner_checkpoint() {
                    // The pass is done again after a restart: no harm but the work.
                    tracing::error!(%error, "cleaner checkpoint not written");
                }
                let reduction_percent = 100
                    - (u128::from(progress.bytes_after) * 100)
                        .checked_div(progress.bytes_before.into())
                        .unwrap_or(100)
                        .min(100);
                tracing::info!(
                    topic = %partition.topic(),
                    partition = partition.index(),
                    from = candidate.first_dirty_offset,
                    to = compacted.cleaned_to,
                    keys = progress.map_keys,
                    bytes_read = progress.bytes_read,
                    bytes_written = progress.bytes_written,
                    segments_before = progress.segments_before,
                    segments_after = progress.segments_after,
                    %reduction_percent,
                    duration_ms = duration.as_millis() as u64,
                    "log compacted"
                );
            }
            Err(error) => self.failed(partition, error, now_ms),
        }
        result
    }

    fn pass(
        &self,
        partition: &Arc<Partition>,
        candidate: &Candidate,
        now_ms: i64,
        pace: &mut Pace<'_>,
    ) -> Result<Compacted, CleanError> {
        let limits = CleaningLimits {
            map_bytes_max: self.config.cleaner_map_bytes_max,
            map_load_percent: self.config.cleaner_map_load_percent,
            io_buffer_bytes: self.config.cleaner_io_buffer_bytes,
            seed: match self.config.drive {
                // The same history, the same files.
                crate::config::Drive::Manual => 0,
                crate::config::Drive::Threads => Uuid::new_v4().as_u64_pair().0,
            },
        };
        let Some(mut job) = partition.begin_cleaning(candidate, limits, now_ms)? else {
            return Err(CleanError::Changed);
        };
        job.map(pace)?;
        while let Some(group) = job.next_group(pace)? {
            let swapped = partition.swap_cleaned(group);
            // A swap that was not finished has set some aside, too.
            self.remove_deleted_segments(partition);
            swapped?;
        }
        Ok(Compacted {
            cleaned_to: job.cleaned_to(),
            progress: job.progress(),
        })
    }

    /// Compacts a partition now, whatever its dirty ratio, active segment included; until nothing below the log end is dirty. Returns what each pass
    /// has done.
    pub(crate) fn compact_now(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
    ) -> Result<Vec<Compacted>, CleanError> {
        let _turn = self
            .cleaning
            .turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        partition.seal_active(now_ms)?;
        partition.mark_dirty();
        self.flush_round();
        let mut passes = Vec::new();
        while let Some((_, candidate)) = self.look_at(partition, now_ms)? {
            // A pass moves the first dirty offset, or fails.
            if candidate.cleanable_bytes == 0 {
                break;
            }
            passes.push(self.clean(partition, &candidate, now_ms)?);
        }
        Ok(passes)
    }

    /// Forgets what was noted of a deleted topic: its successor of the same name is another one.
    pub(crate) fn forget_cleaned(&self, topic_id: Uuid) -> Result<(), BrokerError> {
        let mut state = self.cleaning.lock();
        let before = state.first_dirty.len();
        state.first_dirty.retain(|(id, _), _| *id != topic_id);
        state.uncleanable.retain(|(id, _), _| *id != topic_id);
        let has_changed = state.first_dirty.len() != before;
        drop(state);
        if has_changed {
            self.write_cleaner_checkpoint()?;
        }
        Ok(())
    }

    fn write_cleaner_checkpoint(&self) -> Result<(), BrokerError> {
        // Held while it is written: an older collection must not replace a newer one.
        let state = self.cleaning.lock();
        let names = self.read_catalog(|catalog| {
            let topics = catalog.topics();
            topics
                .map(|topic| (topic.id, topic.name.to_string()))
                .collect::<HashMap<_, _>>()
        });
        let noted = state.first_dirty.iter();
        let offsets: Offsets = noted
            .filter_map(|((id, index), offset)| Some(((names.get(id)?.clone(), *index), *offset)))
            .collect();
        let path = self.data_dir.path.join(CHECKPOINT_FILE);
        offset_checkpoint::write(self.data_dir.disk.as_ref(), &path, &offsets)
            .map_err(BrokerError::disk("writing", path))
    }
}

fn segments(view: &LogView) -> Vec<(i64, u64)> {
    let sealed = view.sealed.iter();
    sealed
        .map(|segment| (segment.base_offset, segment.size_bytes))
        .collect()
}

impl CleanerStats {
    fn note(&mut self, progress: &CleaningProgress, duration: Duration) {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.passes += 1;
        self.bytes_read += progress.bytes_read;
        self.bytes_written += progress.bytes_written;
        self.bytes_before += progress.bytes_before;
        self.bytes_after += progress.bytes_after;
        self.records_before += progress.records_before;
        self.records_after += progress.records_after;
        self.records_without_key += progress.records_without_key;
        self.busy_ms += duration_ms;
        self.last_duration_ms = duration_ms;
        self.last_map_bytes = progress.map_bytes;
    }
}

impl From<PartitionError> for CleanError {
    fn from(error: PartitionError) -> Self {
        match error {
            PartitionError::Log(error) => CleanError::Log(error),
            // Gone: with its segments.
            _ => CleanError::Changed,
        }
    }
}

/// Keeps a pass at `log.cleaner.io.max.bytes.per.second`, and ends it when the cleaner is stopped.
struct Throttle<'a> {
    cleaning: &'a Cleaning,
    bytes_per_second_max: f64,
    sleeps: bool,
    started: Instant,
    bytes: u64,
}

impl Throttle<'_> {
    fn pace(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let is_stopped = self.cleaning.is_stopped();
        if is_stopped || !self.sleeps {
            return !is_stopped;
        }
        let due_s = self.bytes as f64 / self.bytes_per_second_max;
        let ahead_s = due_s - self.started.elapsed().as_secs_f64();
        // Short debts are paid together.
        if ahead_s < 0.01 {
            return true;
        }
        self.cleaning
            .sleep(Duration::from_secs_f64(ahead_s.min(3600.0)))
    }
}

/// Compaction gives way to those who wait for an answer.
fn lower_priority() {
    // Only there a thread has a priority of its own.
    if !cfg!(target_os = "linux") {
        return;
    }
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
        tracing::debug!(%error, "the cleaner keeps its priority");
    }
}
