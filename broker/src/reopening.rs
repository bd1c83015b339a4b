//! Partitions whose log has failed come back without a restart.
//!
//! 1. After a failed sync, or a write that could not be undone, a log takes no more writes: it is poisoned, and serves what is known to be on disk.
//!    Its partition is reported here.
//! 2. After a second, and then after twice as long each time, up to a minute, the log is opened anew from its files, up to the offset that the
//!    last successful sync has reached ([`crate::log::Reopening`]), after what the sync journal has of it was put back; what is beyond goes, for who wrote it was told of an error. If the disk still
//!    fails, the partition stays as it is until the next try.
//! 3. The partition's place is taken by another one with that log. The failed one stays failed for whoever holds it: an offset that was appended to
//!    it is never mistaken for one of the new log.
//!
//! Not reopened: a log of which more was acknowledged than is known to be on disk (`flush=os`), and the coordinators' topics, whose state in memory
//! may be ahead of the log that is left. Both come back with a restart. Why: docs/decisions/0008.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::Core;
use crate::metadata::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::replica::Partition;

/// When a failed log is opened anew for the first time.
pub(crate) const FIRST_DELAY_MS: i64 = 1000;
const DELAY_MS_MAX: i64 = 60_000;

/// Failed partitions that are to come back.
#[derive(Debug, Default)]
pub(crate) struct Reopenings {
    waiting: Mutex<Vec<Failed>>,
}

#[derive(Debug)]
struct Failed {
    partition: Arc<Partition>,
    due_ms: i64,
    delay_ms: i64,
}

impl Reopenings {
    fn lock(&self) -> MutexGuard<'_, Vec<Failed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next one is tried.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.lock().iter().map(|failed| failed.due_ms).min()
    }
}

impl Core {
    /// Takes in what was reported, and opens anew what is due.
    pub(crate) fn reopen_failed(self: &Arc<Self>, now_ms: i64) {
        let reported = self.dirty.take_failed();
        let mut due = Vec::new();
        {
            let mut waiting = self.reopenings.lock();
            waiting.extend(
                reported
                    .into_iter()
                    .filter(|partition| {
                        let topic = &**partition.topic();
                        topic != OFFSETS_TOPIC && topic != TRANSACTIONS_TOPIC
                    })
                    .map(|partition| Failed {
                        partition,
                        due_ms: now_ms.saturating_add(FIRST_DELAY_MS),
                        delay_ms: FIRST_DELAY_MS,
                    }),
            );
            waiting.retain_mut(|failed| {
                let is_due = failed.due_ms <= now_ms;
                if is_due {
                    due.push((failed.partition.clone(), failed.delay_ms));
                }
                !is_due
            });
        }
        for (partition, delay_ms) in due {
            if self.reopen(&partition, now_ms) {
                continue;
            }
            let delay_ms = (delay_ms * 2).min(DELAY_MS_MAX);
            self.reopenings.lock().push(Failed {
                partition,
                due_ms: now_ms.saturating_add(delay_ms),
                delay_ms,
            });
        }
    }

    /// Whether there is nothing more to try.
    fn reopen(self: &Arc<Self>, failed: &Arc<Partition>, now_ms: i64) -> bool {
        let (topic, index) = (failed.topic(), failed.index());
        let reopened = match failed.reopened(now_ms) {
            Ok(Some(reopened)) => Arc::new(reopened),
            // Deleted, or it cannot be.
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(%topic, partition = index, %error, "failed log not opened anew yet");
                return false;
            }
        };
        let log_end_offset = reopened.log_end_offset();
        if !self.replace_partition(failed, reopened.clone()) {
            // Deleted meanwhile.
            return true;
        }
        if let Some(config) = failed.log_config() {
            // It may have been altered while the log was opened.
            reopened.set_config(config);
        }
        self.metrics.deleted_traffic.add(failed.traffic());
        drop(failed.take_log());
        self.dirty.retry_checkpoint();
        failed.wake();
        tracing::info!(%topic, partition = index, log_end_offset, "failed log opened anew, it takes writes again");
        true
    }
}
