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

/// What one stream thread counts. Written by the thread once a step, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct ThreadMetrics {
    pub(crate) process_total: AtomicU64,
    pub(crate) commit_total: AtomicU64,
    pub(crate) commit_latency_ms_total: AtomicU64,
    pub(crate) commit_latency_ms_max: AtomicU64,
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
