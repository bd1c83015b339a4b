//! Counters of a running application, under Kafka Streams' names.

use std::sync::atomic::{AtomicU64, Ordering};

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Kafka Streams' group, e.g. `stream-thread-metrics`.
    pub group: &'static str,
    /// Kafka Streams' name, e.g. `process-total`.
    pub name: &'static str,
    /// Tags, e.g. `thread-id`.
    pub tags: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// How long commits took, counted by milliseconds, and by powers of two from [`EXACT_MS`] on.
#[derive(Debug)]
pub(crate) struct Latencies([AtomicU64; EXACT_MS + DOUBLINGS]);

const EXACT_MS: usize = 128;
const DOUBLINGS: usize = 20;

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; EXACT_MS + DOUBLINGS])
    }
}

impl Latencies {
    pub(crate) fn count(&self, took_ms: u64) {
        let place = match usize::try_from(took_ms) {
            Ok(exact) if exact < EXACT_MS => exact,
            _ => {
                let doublings = (took_ms / EXACT_MS as u64).ilog2() as usize;
                EXACT_MS + doublings.min(DOUBLINGS - 1)
            }
        };
        if let Some(bucket) = self.0.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add_to(&self, sums: &mut [u64; EXACT_MS + DOUBLINGS]) {
        for (sum, bucket) in sums.iter_mut().zip(&self.0) {
            *sum += bucket.load(Ordering::Relaxed);
        }
    }
}

/// How many commits were made, and how long they took from the flush of the caches until the stores were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitLatencies {
    /// Commits of all threads.
    pub commits: u64,
    /// Half of them took at most so long, in milliseconds.
    pub p50_ms: u64,
    /// Nineteen of twenty.
    pub p95_ms: u64,
    /// Ninety-nine of a hundred.
    pub p99_ms: u64,
}

impl CommitLatencies {
    pub(crate) fn of<'a>(threads: impl IntoIterator<Item = &'a ThreadMetrics>) -> Self {
        let mut sums = [0; EXACT_MS + DOUBLINGS];
        for thread in threads {
            thread.commit_latencies.add_to(&mut sums);
        }
        let commits: u64 = sums.iter().sum();
        let within = |percent: u64| {
            let mut below = 0;
            let place = sums.iter().position(|count| {
                below += count;
                below * 100 >= commits * percent
            });
            match place.unwrap_or(0) {
                exact if exact < EXACT_MS => exact as u64,
                // The upper end of the bucket.
                doubled => (EXACT_MS as u64) << (doubled - EXACT_MS + 1),
            }
        };
        Self {
            commits,
            p50_ms: within(50),
            p95_ms: within(95),
            p99_ms: within(99),
        }
    }
}

/// What one stream thread counts. Written by the thread once a step, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct ThreadMetrics {
    pub(crate) process_total: AtomicU64,
    pub(crate) commit_total: AtomicU64,
    pub(crate) commit_latency_ms_total: AtomicU64,
    pub(crate) commit_latency_ms_max: AtomicU64,
    pub(crate) commit_latencies: Latencies,
    /// Transactions that were given up and undone.
    pub(crate) aborted_total: AtomicU64,
    pub(crate) dropped_total: AtomicU64,
    pub(crate) late_total: AtomicU64,
    pub(crate) restored_total: AtomicU64,
    pub(crate) restore_remaining: AtomicU64,
    pub(crate) tasks: AtomicU64,
}

impl ThreadMetrics {
    pub(crate) fn report(&self, thread: &str, into: &mut Vec<Metric>) {
        let tags = || vec![("thread-id", thread.to_owned())];
        let commits = self.commit_total.load(Ordering::Relaxed);
        let average = if commits == 0 {
            0.0
        } else {
            self.commit_latency_ms_total.load(Ordering::Relaxed) as f64 / commits as f64
        };
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        for (group, name, value) in [
            (
                "stream-thread-metrics",
                "process-total",
                count(&self.process_total),
            ),
            ("stream-thread-metrics", "commit-total", commits as f64),
            ("stream-thread-metrics", "commit-latency-avg", average),
            (
                "stream-thread-metrics",
                "commit-latency-max",
                count(&self.commit_latency_ms_max),
            ),
            (
                "stream-thread-metrics",
                "aborted-transactions-total",
                count(&self.aborted_total),
            ),
            (
                "stream-task-metrics",
                "dropped-records-total",
                count(&self.dropped_total),
            ),
            (
                "stream-task-metrics",
                "late-records-total",
                count(&self.late_total),
            ),
            (
                "stream-state-updater-metrics",
                "restore-total",
                count(&self.restored_total),
            ),
            (
                "stream-state-updater-metrics",
                "restore-remaining-records-total",
                count(&self.restore_remaining),
            ),
            (
                "stream-thread-metrics",
                "assigned-tasks",
                count(&self.tasks),
            ),
        ] {
            into.push(Metric {
                group,
                name,
                tags: tags(),
                value,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_threads() {
        let threads = [ThreadMetrics::default(), ThreadMetrics::default()];
        for took_ms in 1..=50 {
            threads[0].commit_latencies.count(took_ms);
            threads[1].commit_latencies.count(took_ms + 50);
        }
        let latencies = CommitLatencies::of(&threads);
        assert_eq!(
            latencies,
            CommitLatencies {
                commits: 100,
                p50_ms: 50,
                p95_ms: 95,
                p99_ms: 99
            }
        );
    }

    #[test]
    fn long_commits_are_counted_by_powers_of_two() {
        let thread = ThreadMetrics::default();
        thread.commit_latencies.count(1_000);
        assert_eq!(CommitLatencies::of([&thread]).p50_ms, 1_024);
        assert_eq!(CommitLatencies::of([]).p50_ms, 0);
    }
}
