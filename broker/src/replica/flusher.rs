//! Group commit: one round syncs every partition that was dirty when it began.
//!
//! 1. Take the list of dirty partitions.
//! 2. Under each log's lock, take what has to be synced (`begin_sync`). Appends go on from here and make the partition dirty again.
//! 3. Sync them without a lock: each in turn, or, if they are several and that is quicker, the whole file system at once (`sync_choice.rs`).
//! 4. As soon as one is synced complete it, advance its high watermark and wake who waits.
//!
//! Everyone who appended while a round ran shares the next one. A failed sync poisons that log only.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::Partition;
use super::sync_choice::SyncChoice;
use crate::disk::FileSystem;
use crate::log::SyncJob;

/// Partitions with unsynced appends.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    state: Mutex<State>,
    changed: Condvar,
    /// Held during a round: two at once would find each other's syncs under way.
    round: Mutex<SyncChoice>,
    file_system: Option<Arc<dyn FileSystem>>,
}

#[derive(Debug, Default)]
struct State {
    partitions: Vec<Arc<Partition>>,
    /// Those whose log takes no more writes, each once.
    failed: Vec<Arc<Partition>>,
    stopped: bool,
}

impl Dirty {
    /// Of the partitions on this file system, if it can be synced as a whole.
    pub(crate) fn on(file_system: Option<Arc<dyn FileSystem>>) -> Self {
        Self {
            file_system,
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
    }

    /// One round of group commit. Returns how many partitions were synced.
    pub(crate) fn flush_round(&self) -> usize {
        let mut choice = self.round.lock().unwrap_or_else(PoisonError::into_inner);
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
        let files: usize = begun.iter().map(|(_, job)| job.files().len()).sum();
        let started = Instant::now();
        let synced = choice.at_once(files) && self.sync_at_once(begun.iter().map(|(_, job)| job));
        if synced {
            choice.took_at_once(files, started.elapsed());
        }
        let started = Instant::now();
        for (partition, job) in begun {
            let result = if synced { job.run_names() } else { job.run() };
            let mut guard = partition.lock();
            let Some(log) = guard.as_mut() else { continue };
            let completed = log.complete_sync(job, result);
            let advanced = match &completed {
                Ok(flushed) => partition.advance(log, *flushed),
                Err(_) => false,
            };
            drop(guard);
            match completed {
                Ok(_) => {
                    if advanced {
                        partition.watchers.wake();
                    }
                }
                Err(error) => {
                    tracing::error!(topic = %partition.topic, partition = partition.index, %error, "sync failed");
                    partition.report_failure();
                    partition.watchers.wake();
                }
            }
        }
        if !synced {
            choice.took_one_by_one(files, started.elapsed());
        }
        count
    }

    /// Whether all files of these jobs are synced now. If that has failed, each file's own sync will say whether it concerned it.
    fn sync_at_once<'a>(&self, mut jobs: impl Iterator<Item = &'a SyncJob>) -> bool {
        let Some(file_system) = &self.file_system else {
            return false;
        };
        let device = Some(file_system.device());
        let is_on_it = |job: &SyncJob| job.files().iter().all(|file| file.device() == device);
        jobs.all(is_on_it) && file_system.sync().is_ok()
    }
}
