//! Group commit: one round syncs every partition that was dirty when it began.
//!
//! 1. Take the list of dirty partitions.
//! 2. Under each log's lock, take what has to be synced (`begin_sync`). Appends go on from here and make the partition dirty again.
//! 3. Write what was appended to the sync journal, in one write and one sync. What has more than bytes to sync (a new segment's name), or is
//!    more than pays there, is synced in the logs' own files, one after the other.
//! 4. As soon as one is synced complete it, advance its high watermark and wake who waits.
//!
//! Everyone who appended while a round ran shares the next one. A failed sync of a log's files poisons that log only.
//!
//! Half a journal that is full is a checkpoint's affair: the logs that it has bytes of are synced in their own files, beside the rounds, and then it
//! is free.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Partition;
use super::sync_journal::{self, LogName, Room, SyncJournal};
use crate::config::Flush;
use crate::disk::Disk;
use crate::log::{AppendedBytes, LogError, SyncJob, SyncedIn};

/// A round of more is written once, not twice: it takes a sync's time many times over anyway.
const JOURNALED_BYTES_MAX: u64 = 4 << 20;
/// The same where all of it is one log's.
const JOURNALED_BYTES_MAX_OF_ONE: u64 = 256 << 10;

/// Partitions with unsynced appends.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    state: Mutex<State>,
    changed: Condvar,
    /// Held during a round: two at once would find each other's syncs under way.
    round: Mutex<Round>,
    checkpoint: Mutex<Checkpoint>,
    checkpoint_due: Condvar,
}

#[derive(Debug, Default)]
struct State {
    partitions: Vec<Arc<Partition>>,
    /// Those whose log takes no more writes, each once.
    failed: Vec<Arc<Partition>>,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Round {
    journal: Option<SyncJournal>,
    /// What the half that is being written has bytes of.
    held: Held,
}

/// Logs that a half of the journal has bytes of, up to which offset.
type Held = HashMap<(Arc<str>, i32), (Arc<Partition>, i64)>;

#[derive(Debug, Default)]
struct Checkpoint {
    /// Of the half that is full; `None` if it is free.
    full: Option<Held>,
    /// A log's files could not be synced. The journal has what they lack, and keeps it until the log is opened anew.
    has_failed: bool,
    stopped: bool,
}

impl Dirty {
    /// Of the partitions of a data directory, with a journal of this size; none if that is zero.
    pub(crate) fn new(disk: Arc<dyn Disk>, data_dir: &Path, journal_bytes_max: u64) -> Self {
        let journal =
            (journal_bytes_max > 0).then(|| SyncJournal::new(disk, data_dir, journal_bytes_max));
        let round = Round {
            journal,
            held: Held::default(),
        };
        Self {
            round: Mutex::new(round),
            ..Self::default()
        }
    }

    pub(super) fn push(&self, partition: Arc<Partition>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.partitions.push(partition);
        if state.partitions.len() == 1 {
            self.changed.notify_one();
        }
    }

    pub(super) fn push_failed(&self, partition: Arc<Partition>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed.push(partition);
    }

    /// Partitions whose log has failed since the last call.
    pub(crate) fn take_failed(&self) -> Vec<Arc<Partition>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.failed)
    }

    /// Blocks until something is dirty; `false` once stopped.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.partitions.is_empty() && !state.stopped {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }

    pub(crate) fn stop(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped = true;
        self.changed.notify_all();
        self.lock_checkpoint().stopped = true;
        self.checkpoint_due.notify_all();
    }

    /// One round of group commit. Returns how many partitions were synced.
    pub(crate) fn flush_round(&self) -> usize {
        let mut round = self.lock_round();
        let partitions = std::mem::take(
            &mut self
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .partitions,
        );
        let begun: Vec<_> = partitions
            .into_iter()
            .filter_map(|partition| {
                // Cleared before the sync is taken: an append after this marks it again, one before it is included.
                partition.is_dirty.store(false, Ordering::Release);
                let mut guard = partition.lock();
                let log = guard.as_mut()?;
                let job = log.begin_sync();
                let is_poisoned = log.poison_reason().is_some();
                drop(guard);
                if job.is_none() && is_poisoned {
                    // A write failed beyond repair: what was appended before it will not be synced either.
                    partition.report_failure();
                    partition.watchers.wake();
                }
                Some((partition, job?))
            })
            .collect();
        let count = begun.len();
        let is_journaled = self.write_journal(&mut round, &begun);
        let (journaled, direct): (Vec<_>, Vec<_>) = begun
            .into_iter()
            .partition(|(partition, job)| is_journaled && bytes_of(partition, job).is_some());
        for (partition, job) in journaled {
            let key = (partition.topic.clone(), partition.index);
            let end_offset = job.end_offset();
            round.held.insert(key, (partition.clone(), end_offset));
            partition.complete_sync(job, Ok(SyncedIn::Journal));
        }
        for (partition, job) in direct {
            let _file_syncs = partition.lock_file_syncs();
            let result = job.run();
            partition.complete_sync(job, result);
        }
        count
    }

    /// Whether what these jobs have for the journal is durable there.
    fn write_journal(&self, round: &mut Round, begun: &[(Arc<Partition>, SyncJob)]) -> bool {
        let Some(journal) = &mut round.journal else {
            return false;
        };
        let all = || {
            begun
                .iter()
                .filter_map(|(partition, job)| bytes_of(partition, job))
        };
        let (logs, bytes) = all().fold((0, 0), |(logs, bytes), (_, appended)| {
            (logs + 1, bytes + appended.length)
        });
        let pays = match logs {
            0 => false,
            1 => bytes <= JOURNALED_BYTES_MAX_OF_ONE,
            _ => bytes <= JOURNALED_BYTES_MAX,
        };
        if !pays {
            return false;
        }
        match journal.room(all().map(|(log, appended)| (log, appended.length))) {
            Room::Here => {}
            Room::There if self.turn(journal, &mut round.held) => {}
            Room::There | Room::Nowhere => return false,
        }
        let all = all().map(|(log, appended)| sync_journal::Bytes {
            log,
            segment_base_offset: appended.segment_base_offset,
            file: appended.file.as_ref(),
            position: appended.position,
            // A round is no longer than `JOURNALED_BYTES_MAX`.
            length: usize::try_from(appended.length).unwrap_or(usize::MAX),
        });
        journal.write(all).is_ok()
    }

    /// Goes on in the other half, if that is free: the one that was written is to be checkpointed.
    fn turn(&self, journal: &mut SyncJournal, held: &mut Held) -> bool {
        let mut checkpoint = self.lock_checkpoint();
        if checkpoint.full.is_some() {
            return false;
        }
        checkpoint.full = Some(std::mem::take(held));
        journal.turn();
        self.checkpoint_due.notify_one();
        true
    }

    /// Makes void what the journal has of the segments of a log that begin below the offset: their files are about to change.
    pub(super) fn void(&self, log: LogName<'_>, below: i64) -> io::Result<()> {
        for has_waited in [false, true] {
            let mut round = self.lock_round();
            let Round { journal, held } = &mut *round;
            let Some(journal) = journal.as_mut().filter(|journal| journal.was_written()) else {
                return Ok(());
            };
            let room = journal.room(std::iter::once((log, 0)));
            if room != Room::There || self.turn(journal, held) {
                return journal.void(log, below);
            }
            drop(round);
            if !has_waited {
                self.checkpoint();
            }
        }
        Err(io::Error::other(
            "the sync journal is full, and the logs that it has records of cannot be synced",
        ))
    }

    /// Has the logs be synced in their own files soon, and the journal begin anew.
    pub(crate) fn request_checkpoint(&self) {
        let mut round = self.lock_round();
        let Round { journal, held } = &mut *round;
        if let Some(journal) = journal.as_mut().filter(|journal| journal.is_begun()) {
            self.turn(journal, held);
        }
    }

    /// Blocks until half of the journal is full, and frees it; `false` once stopped.
    pub(crate) fn checkpoint_when_due(&self) -> bool {
        let mut checkpoint = self.lock_checkpoint();
        while (checkpoint.full.is_none() || checkpoint.has_failed) && !checkpoint.stopped {
            checkpoint = self
                .checkpoint_due
                .wait(checkpoint)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let goes_on = !checkpoint.stopped;
        drop(checkpoint);
        if goes_on {
            self.checkpoint();
        }
        goes_on
    }

    /// A log that could not be synced was opened anew: what waits for it may go on.
    pub(crate) fn retry_checkpoint(&self) {
        self.lock_checkpoint().has_failed = false;
        self.checkpoint_due.notify_all();
    }

    /// Before a failed log is opened anew: has its files hold what the journal has of it, which the system may have dropped. `false` if the journal
    /// has failed: it may hold what was not acknowledged, and a start would put that in the place of what comes then.
    pub(super) fn put_back(&self, log: LogName<'_>) -> Result<bool, LogError> {
        let round = self.lock_round();
        round
            .journal
            .as_ref()
            .map_or(Ok(true), |journal| journal.put_back(log))
    }

    /// Syncs the files of the logs that the full half has bytes of, and frees it.
    pub(crate) fn checkpoint(&self) {
        let full = self.lock_checkpoint().full.clone();
        let Some(full) = full else {
            return;
        };
        let mut has_failed = false;
        for (partition, offset) in full.values() {
            let synced = match partition.sync_files_to(*offset) {
                // The round's own sync takes along what is left.
                Ok(false) => {
                    partition.mark_dirty();
                    self.flush_round();
                    partition.sync_files_to(*offset)
                }
                synced => synced,
            };
            match synced {
                Ok(true) => {}
                Ok(false) => has_failed = true,
                Err(error) => {
                    tracing::error!(topic = %partition.topic, partition = partition.index, %error, "not synced; the sync journal keeps its records");
                    has_failed = true;
                }
            }
        }
        let mut checkpoint = self.lock_checkpoint();
        checkpoint.has_failed = has_failed;
        if !has_failed {
            checkpoint.full = None;
        }
    }

    fn lock_round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_checkpoint(&self) -> MutexGuard<'_, Checkpoint> {
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the journal could hold of a job.
fn bytes_of<'a>(
    partition: &'a Partition,
    job: &'a SyncJob,
) -> Option<(LogName<'a>, &'a AppendedBytes)> {
    // Where nobody waits for the disk, a sync is for the files.
    let appended = job.appended().filter(|_| partition.flush == Flush::Durable);
    Some((partition.log_name(), appended?))
}

impl Partition {
    fn complete_sync(self: &Arc<Self>, job: SyncJob, result: io::Result<SyncedIn>) {
        let mut guard = self.lock();
        let Some(log) = guard.as_mut() else { return };
        let completed = log.complete_sync(job, result);
        let advanced = match &completed {
            Ok(flushed) => self.advance(log, *flushed),
            Err(_) => false,
        };
        drop(guard);
        match completed {
            Ok(_) => {
                if advanced {
                    self.watchers.wake();
                }
            }
            Err(error) => {
                tracing::error!(topic = %self.topic, partition = self.index, %error, "sync failed");
                self.report_failure();
                self.watchers.wake();
            }
        }
    }
}
