//! What the broker counts, and its text for Prometheus.
//!
//! Counters are relaxed atomics with one update a batch, a request or a connection. A partition counts its own traffic (`Traffic`), so that
//! appends to different partitions share no counter; what is asked for as a sum is summed when it is scraped. Names follow Kafka's, in the form
//! that the JMX exporter gives them; `docs/reference/metrics.md` is generated from `FAMILIES`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::broker::Core;
use crate::protocol::Api;
use crate::protocol::api::SERVED;

/// What clients wrote to a partition and read from it since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Traffic {
    /// A batch was appended.
    pub(crate) fn appended(&self, records: u64, bytes: u64) {
        self.records_in.fetch_add(records, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Record bytes went to a reader.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes over what another counted.
    pub(crate) fn add(&self, other: &Self) {
        self.appended(
            other.records_in.load(Ordering::Relaxed),
            other.bytes_in.load(Ordering::Relaxed),
        );
        self.fetched(other.bytes_out.load(Ordering::Relaxed));
    }
}

/// Upper bounds of the buckets of a request's time.
const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// Requests of one API.
#[derive(Debug, Default)]
struct Requests {
    answered: AtomicU64,
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS_US.len()],
    request_bytes: AtomicU64,
}

/// What is not counted by a partition.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Box<[Requests]>,
    /// Of partitions that were deleted.
    pub(crate) deleted_traffic: Traffic,
    pub(crate) connections_opened: AtomicU64,
    pub(crate) connections_closed: AtomicU64,
    /// Closed at once: too many of them.
    pub(crate) connections_refused: AtomicU64,
    /// Closed because nothing came, or nothing was read.
    pub(crate) connections_expired: AtomicU64,
    /// Closed because of bytes that are no request.
    pub(crate) frames_refused: AtomicU64,
    pub(crate) request_bytes_queued: AtomicI64,
    pub(crate) response_bytes_queued: AtomicI64,
    pub(crate) failed_produces: AtomicU64,
    pub(crate) failed_fetches: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: SERVED.iter().map(|_| Requests::default()).collect(),
            deleted_traffic: Traffic::default(),
            connections_opened: AtomicU64::default(),
            connections_closed: AtomicU64::default(),
            connections_refused: AtomicU64::default(),
            connections_expired: AtomicU64::default(),
            frames_refused: AtomicU64::default(),
            request_bytes_queued: AtomicI64::default(),
            response_bytes_queued: AtomicI64::default(),
            failed_produces: AtomicU64::default(),
            failed_fetches: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// A request from a connection was answered.
    pub(crate) fn answered(&self, api: &Api, request_bytes: usize, time: Duration) {
        let index = SERVED.binary_search_by_key(&api.key, |api| api.key);
        let Some(requests) = index.ok().and_then(|index| self.requests.get(index)) else {
            return;
        };
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        requests.answered.fetch_add(1, Ordering::Relaxed);
        requests.sum_us.fetch_add(time_us, Ordering::Relaxed);
        requests
            .request_bytes
            .fetch_add(request_bytes as u64, Ordering::Relaxed);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < time_us);
        // A slower request is in none but the last, which counts all.
        if let Some(bucket) = requests.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How a family of samples is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A name with its meaning.
struct Family {
    name: &'static str,
    kind: Kind,
    #[cfg_attr(not(test), allow(dead_code, reason = "for the page"))]
    labels: &'static str,
    help: &'static str,
}

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static str,
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        labels,
        help,
    }
}

/// Every family, in the order in which they are written.
const FAMILIES: &[Family] = &[
    family(
        "kafka_server_brokertopicmetrics_messagesin_total",
        Kind::Counter,
        "topic",
        "Records appended. The sample without a topic is the sum, deleted topics included.",
    ),
    family(
        "kafka_server_brokertopicmetrics_bytesin_total",
        Kind::Counter,
        "topic",
        "Bytes of batches appended.",
    ),
    family(
        "kafka_server_brokertopicmetrics_bytesout_total",
        Kind::Counter,
        "topic",
        "Bytes of batches sent to readers.",
    ),
    family(
        "kafka_server_brokertopicmetrics_failedproducerequests_total",
        Kind::Counter,
        "",
        "Produce requests with an error of some partition.",
    ),
    family(
        "kafka_server_brokertopicmetrics_failedfetchrequests_total",
        Kind::Counter,
        "",
        "Fetch requests with an error of some partition.",
    ),
    family(
        "kafka_network_requestmetrics_requests_total",
        Kind::Counter,
        "request",
        "Requests answered.",
    ),
    family(
        "kafka_network_requestmetrics_requestbytes_total",
        Kind::Counter,
        "request",
        "Bytes of requests answered.",
    ),
    family(
        "kafka_network_requestmetrics_totaltime_seconds",
        Kind::Histogram,
        "request",
        "Time from a request's decoding to its answer, what it waits for included.",
    ),
    family(
        "kafka_server_socketservermetrics_connection_count",
        Kind::Gauge,
        "",
        "Open connections.",
    ),
    family(
        "kafka_server_socketservermetrics_connection_creation_total",
        Kind::Counter,
        "",
        "Connections accepted.",
    ),
    family(
        "kafka_server_socketservermetrics_connection_close_total",
        Kind::Counter,
        "",
        "Connections closed, for whatever reason.",
    ),
    family(
        "kafka_network_socketserver_connectionsrefused_total",
        Kind::Counter,
        "",
        "Connections closed at once because of max.connections or max.connections.per.ip.",
    ),
    family(
        "kafka_network_socketserver_expiredconnectionskilled_total",
        Kind::Counter,
        "",
        "Connections closed because the client sent or took nothing for too long.",
    ),
    family(
        "kafka_network_socketserver_badframes_total",
        Kind::Counter,
        "",
        "Connections closed because of bytes that are no request.",
    ),
    family(
        "kafka_network_socketserver_memorypoolused",
        Kind::Gauge,
        "",
        "Bytes of large or pipelined requests being read or not answered, bounded by queued.max.request.bytes.",
    ),
    family(
        "kafka_network_socketserver_responsebytesqueued",
        Kind::Gauge,
        "",
        "Bytes in memory of fetch answers not written, bounded by brooklet.queued.max.response.bytes.",
    ),
    family(
        "kafka_server_fetchsessioncache_numincrementalfetchsessions",
        Kind::Gauge,
        "",
        "Fetch sessions, of which there may be 1000.",
    ),
    family(
        "kafka_server_fetchsessioncache_numincrementalfetchpartitionscached",
        Kind::Gauge,
        "",
        "Partitions of all fetch sessions.",
    ),
    family(
        "kafka_server_fetchsessioncache_incrementalfetchsessionevictions_total",
        Kind::Counter,
        "",
        "Fetch sessions that lost their slot to another.",
    ),
    family(
        "kafka_server_replicamanager_partitioncount",
        Kind::Gauge,
        "",
        "Partitions on this broker.",
    ),
    family(
        "kafka_server_replicamanager_leadercount",
        Kind::Gauge,
        "",
        "Partitions that this broker leads: all of them.",
    ),
    family(
        "kafka_server_replicamanager_underreplicatedpartitions",
        Kind::Gauge,
        "",
        "Partitions with fewer replicas in sync than they have: none, there is one.",
    ),
    family(
        "kafka_server_replicamanager_offlinereplicacount",
        Kind::Gauge,
        "",
        "Partitions whose files failed: they refuse writes until the broker is started again.",
    ),
    family(
        "kafka_controller_kafkacontroller_activecontrollercount",
        Kind::Gauge,
        "",
        "Always 1: this node is its own controller.",
    ),
    family(
        "kafka_controller_kafkacontroller_globaltopiccount",
        Kind::Gauge,
        "",
        "Topics.",
    ),
    family(
        "kafka_controller_kafkacontroller_globalpartitioncount",
        Kind::Gauge,
        "",
        "Partitions of all topics.",
    ),
    family(
        "kafka_controller_kafkacontroller_offlinepartitionscount",
        Kind::Gauge,
        "",
        "Partitions whose files failed.",
    ),
    family(
        "kafka_server_group_coordinator_metrics_group_count",
        Kind::Gauge,
        "protocol, state",
        "Groups.",
    ),
    family(
        "kafka_coordinator_transaction_transactionalids",
        Kind::Gauge,
        "state",
        "Transactional ids known.",
    ),
    family(
        "kafka_log_log_size",
        Kind::Gauge,
        "topic, partition",
        "Bytes of a partition's segments.",
    ),
    family(
        "kafka_log_log_logstartoffset",
        Kind::Gauge,
        "topic, partition",
        "Earliest offset of a partition.",
    ),
    family(
        "kafka_log_log_logendoffset",
        Kind::Gauge,
        "topic, partition",
        "Next offset of a partition.",
    ),
    family(
        "kafka_log_logcleaner_passes_total",
        Kind::Counter,
        "",
        "Compaction passes that were completed.",
    ),
    family(
        "kafka_log_logcleaner_failedpasses_total",
        Kind::Counter,
        "",
        "Compaction passes that failed: their partition is left alone until it changes.",
    ),
    family(
        "kafka_log_logcleaner_bytesread_total",
        Kind::Counter,
        "",
        "Bytes read by compaction.",
    ),
    family(
        "kafka_log_logcleaner_byteswritten_total",
        Kind::Counter,
        "",
        "Bytes written by compaction.",
    ),
    family(
        "kafka_log_logcleaner_bytesreclaimed_total",
        Kind::Counter,
        "",
        "Bytes by which compaction has made segments smaller.",
    ),
    family(
        "kafka_log_logcleaner_recordsread_total",
        Kind::Counter,
        "",
        "Records that compaction decided on.",
    ),
    family(
        "kafka_log_logcleaner_recordskept_total",
        Kind::Counter,
        "",
        "Records that compaction kept.",
    ),
    family(
        "kafka_log_logcleaner_busytime_seconds_total",
        Kind::Counter,
        "",
        "Time spent in compaction passes.",
    ),
    family(
        "kafka_log_logcleaner_max_clean_time_secs",
        Kind::Gauge,
        "",
        "Duration of the last compaction pass.",
    ),
    family(
        "kafka_log_logcleaner_max_buffer_utilization_percent",
        Kind::Gauge,
        "",
        "Share of log.cleaner.dedupe.buffer.size that the last pass used.",
    ),
    family(
        "kafka_log_logcleanermanager_max_dirty_percent",
        Kind::Gauge,
        "",
        "Dirty share of the dirtiest compacted log, when last looked at.",
    ),
    family(
        "kafka_log_logcleanermanager_time_since_last_run_ms",
        Kind::Gauge,
        "",
        "Since compaction last looked for work; -1 if it never has.",
    ),
    family(
        "kafka_log_logcleanermanager_uncleanable_partitions_count",
        Kind::Gauge,
        "",
        "Partitions that cannot be compacted: the log says why.",
    ),
    family(
        "process_start_time_seconds",
        Kind::Gauge,
        "",
        "When the broker was opened, in seconds since 1970.",
    ),
    family(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "",
        "Memory of the process, where the system tells it.",
    ),
    family(
        "process_open_fds",
        Kind::Gauge,
        "",
        "Open file descriptors of the process, where the system tells them.",
    ),
];

/// Writes samples, a family after the other.
struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    fn family(&mut self, name: &'static str) {
        let Some(family) = FAMILIES.iter().find(|family| family.name == name) else {
            unreachable!("{name} is not in the table of metrics");
        };
        self.family = name;
        self.line(format_args!("# HELP {name} {}", family.help));
        self.line(format_args!("# TYPE {name} {}", family.kind.name()));
    }

    fn sample(&mut self, value: impl fmt::Display) {
        let family = self.family;
        self.line(format_args!("{family} {value}"));
    }

    fn labelled(&mut self, labels: fmt::Arguments<'_>, value: impl fmt::Display) {
        let family = self.family;
        self.line(format_args!("{family}{{{labels}}} {value}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }

    fn only(&mut self, name: &'static str, value: impl fmt::Display) {
        self.family(name);
        self.sample(value);
    }
}

/// A partition's figures, taken once.
struct Figures {
    partition: std::sync::Arc<crate::replica::Partition>,
    size_bytes: u64,
    log_start_offset: i64,
    log_end_offset: i64,
}

/// Everything, in Prometheus' text format.
pub(crate) fn exposition(core: &Core) -> String {
    let metrics = &core.metrics;
    let mut out = Exposition {
        text: String::new(),
        family: "",
    };
    let mut partitions: Vec<_> = core
        .all_partitions()
        .into_iter()
        .map(|partition| Figures {
            size_bytes: partition.size_bytes(),
            log_start_offset: partition.log_start_offset(),
            log_end_offset: partition.log_end_offset(),
            partition,
        })
        .collect();
    partitions.sort_by(|left, right| {
        let key =
            |figures: &Figures| (figures.partition.topic().clone(), figures.partition.index());
        key(left).cmp(&key(right))
    });
    traffic(&mut out, metrics, &partitions);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.only(
        "kafka_server_brokertopicmetrics_failedproducerequests_total",
        count(&metrics.failed_produces),
    );
    out.only(
        "kafka_server_brokertopicmetrics_failedfetchrequests_total",
        count(&metrics.failed_fetches),
    );
    requests(&mut out, metrics);
    // Read in this order a connection is not closed before it was opened.
    let closed = count(&metrics.connections_closed);
    let opened = count(&metrics.connections_opened);
    for (name, value) in [
        (
            "kafka_server_socketservermetrics_connection_count",
            opened.saturating_sub(closed),
        ),
        (
            "kafka_server_socketservermetrics_connection_creation_total",
            opened,
        ),
        (
            "kafka_server_socketservermetrics_connection_close_total",
            closed,
        ),
        (
            "kafka_network_socketserver_connectionsrefused_total",
            count(&metrics.connections_refused),
        ),
        (
            "kafka_network_socketserver_expiredconnectionskilled_total",
            count(&metrics.connections_expired),
        ),
        (
            "kafka_network_socketserver_badframes_total",
            count(&metrics.frames_refused),
        ),
    ] {
        out.only(name, value);
    }
    out.only(
        "kafka_network_socketserver_memorypoolused",
        metrics.request_bytes_queued.load(Ordering::Relaxed),
    );
    out.only(
        "kafka_network_socketserver_responsebytesqueued",
        metrics.response_bytes_queued.load(Ordering::Relaxed),
    );
    let sessions = core.fetch_sessions.counts();
    out.only(
        "kafka_server_fetchsessioncache_numincrementalfetchsessions",
        sessions.sessions,
    );
    out.only(
        "kafka_server_fetchsessioncache_numincrementalfetchpartitionscached",
        sessions.partitions,
    );
    out.only(
        "kafka_server_fetchsessioncache_incrementalfetchsessionevictions_total",
        sessions.evicted,
    );
    let failed = partitions
        .iter()
        .filter(|figures| figures.partition.has_failed())
        .count();
    let (topic_count, partition_count) =
        core.read_catalog(|catalog| (catalog.topics().count(), catalog.partition_count()));
    for (name, value) in [
        (
            "kafka_server_replicamanager_partitioncount",
            partitions.len(),
        ),
        ("kafka_server_replicamanager_leadercount", partitions.len()),
        ("kafka_server_replicamanager_underreplicatedpartitions", 0),
        ("kafka_server_replicamanager_offlinereplicacount", failed),
        ("kafka_controller_kafkacontroller_activecontrollercount", 1),
        (
            "kafka_controller_kafkacontroller_globaltopiccount",
            topic_count,
        ),
    ] {
        out.only(name, value);
    }
    out.only(
        "kafka_controller_kafkacontroller_globalpartitioncount",
        partition_count,
    );
    out.only(
        "kafka_controller_kafkacontroller_offlinepartitionscount",
        failed,
    );
    let mut groups = BTreeMap::new();
    for group in core.groups.list() {
        *groups
            .entry((group.type_name, group.state))
            .or_insert(0_u64) += 1;
    }
    out.family("kafka_server_group_coordinator_metrics_group_count");
    for ((protocol, state), count) in groups {
        out.labelled(
            format_args!("protocol=\"{protocol}\",state=\"{state}\""),
            count,
        );
    }
    let mut transactions = BTreeMap::new();
    for (_, transaction) in core.transactions.list() {
        *transactions
            .entry(transaction.state.name())
            .or_insert(0_u64) += 1;
    }
    out.family("kafka_coordinator_transaction_transactionalids");
    for (state, count) in transactions {
        out.labelled(format_args!("state=\"{state}\""), count);
    }
    logs(&mut out, &partitions);
    cleaner(&mut out, core);
    process(&mut out, core.opened_at_ms);
    out.text
}

/// Names of topics hold nothing that a label would have to escape.
fn traffic(out: &mut Exposition, metrics: &Metrics, partitions: &[Figures]) {
    let mut topics: BTreeMap<&str, Traffic> = BTreeMap::new();
    let all = Traffic::default();
    all.add(&metrics.deleted_traffic);
    for figures in partitions {
        let traffic = figures.partition.traffic();
        all.add(traffic);
        topics
            .entry(figures.partition.topic())
            .or_default()
            .add(traffic);
    }
    type Counter = fn(&Traffic) -> &AtomicU64;
    let families: [(&'static str, Counter); 3] = [
        (
            "kafka_server_brokertopicmetrics_messagesin_total",
            |traffic| &traffic.records_in,
        ),
        ("kafka_server_brokertopicmetrics_bytesin_total", |traffic| {
            &traffic.bytes_in
        }),
        (
            "kafka_server_brokertopicmetrics_bytesout_total",
            |traffic| &traffic.bytes_out,
        ),
    ];
    for (name, counter) in families {
        out.only(name, counter(&all).load(Ordering::Relaxed));
        for (topic, traffic) in &topics {
            // Internal ones too: they show what coordinators write.
            out.labelled(
                format_args!("topic=\"{topic}\""),
                counter(traffic).load(Ordering::Relaxed),
            );
        }
    }
}

fn requests(out: &mut Exposition, metrics: &Metrics) {
    let asked = || {
        SERVED
            .iter()
            .zip(&metrics.requests)
            .filter(|(_, requests)| requests.answered.load(Ordering::Relaxed) > 0)
    };
    out.family("kafka_network_requestmetrics_requests_total");
    for (api, requests) in asked() {
        out.labelled(
            format_args!("request=\"{}\"", api.name),
            requests.answered.load(Ordering::Relaxed),
        );
    }
    out.family("kafka_network_requestmetrics_requestbytes_total");
    for (api, requests) in asked() {
        out.labelled(
            format_args!("request=\"{}\"", api.name),
            requests.request_bytes.load(Ordering::Relaxed),
        );
    }
    let name = "kafka_network_requestmetrics_totaltime_seconds";
    out.family(name);
    for (api, requests) in asked() {
        let api = api.name;
        let mut below = 0;
        for (bound_us, bucket) in BUCKETS_US.iter().zip(&requests.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let bound = *bound_us as f64 / 1e6;
            out.line(format_args!(
                "{name}_bucket{{request=\"{api}\",le=\"{bound}\"}} {below}"
            ));
        }
        // Counted before its bucket is: never below the last bucket when read after it.
        let all = requests.answered.load(Ordering::Relaxed).max(below);
        let sum = requests.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        out.line(format_args!(
            "{name}_bucket{{request=\"{api}\",le=\"+Inf\"}} {all}"
        ));
        out.line(format_args!("{name}_sum{{request=\"{api}\"}} {sum}"));
        out.line(format_args!("{name}_count{{request=\"{api}\"}} {all}"));
    }
}

fn logs(out: &mut Exposition, partitions: &[Figures]) {
    type Gauge = fn(&Figures) -> i64;
    let families: [(&'static str, Gauge); 3] = [
        ("kafka_log_log_size", |figures| {
            i64::try_from(figures.size_bytes).unwrap_or(i64::MAX)
        }),
        ("kafka_log_log_logstartoffset", |figures| {
            figures.log_start_offset
        }),
        ("kafka_log_log_logendoffset", |figures| {
            figures.log_end_offset
        }),
    ];
    for (name, value) in families {
        out.family(name);
        for figures in partitions {
            let (topic, index) = (figures.partition.topic(), figures.partition.index());
            out.labelled(
                format_args!("topic=\"{topic}\",partition=\"{index}\""),
                value(figures),
            );
        }
    }
}

fn cleaner(out: &mut Exposition, core: &Core) {
    let stats = core.cleaning.stats();
    for (name, value) in [
        ("kafka_log_logcleaner_passes_total", stats.passes),
        (
            "kafka_log_logcleaner_failedpasses_total",
            stats.passes_failed,
        ),
        ("kafka_log_logcleaner_bytesread_total", stats.bytes_read),
        (
            "kafka_log_logcleaner_byteswritten_total",
            stats.bytes_written,
        ),
        (
            "kafka_log_logcleaner_bytesreclaimed_total",
            stats.bytes_before.saturating_sub(stats.bytes_after),
        ),
        (
            "kafka_log_logcleaner_recordsread_total",
            stats.records_before,
        ),
        (
            "kafka_log_logcleaner_recordskept_total",
            stats.records_after,
        ),
    ] {
        out.only(name, value);
    }
    let map_bytes_max = core.config.cleaner_map_bytes_max.max(1) as u64;
    for (name, value) in [
        (
            "kafka_log_logcleaner_busytime_seconds_total",
            stats.busy_ms as f64 / 1e3,
        ),
        (
            "kafka_log_logcleaner_max_clean_time_secs",
            stats.last_duration_ms as f64 / 1e3,
        ),
        (
            "kafka_log_logcleaner_max_buffer_utilization_percent",
            (stats.last_map_bytes * 100 / map_bytes_max) as f64,
        ),
        (
            "kafka_log_logcleanermanager_max_dirty_percent",
            f64::from(stats.dirty_ratio_max_ppm) / 1e4,
        ),
    ] {
        out.only(name, value);
    }
    let since_ms = match stats.last_look_ms {
        0 => -1,
        last_look_ms => core.now_ms().saturating_sub(last_look_ms),
    };
    out.only(
        "kafka_log_logcleanermanager_time_since_last_run_ms",
        since_ms,
    );
    out.only(
        "kafka_log_logcleanermanager_uncleanable_partitions_count",
        stats.uncleanable.len(),
    );
}

/// What the system tells of the process.
fn process(out: &mut Exposition, opened_at_ms: i64) {
    out.only("process_start_time_seconds", opened_at_ms as f64 / 1e3);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?;
        kilobytes.trim().parse::<u64>().ok()
    });
    out.family("process_resident_memory_bytes");
    if let Some(kilobytes) = resident {
        out.sample(kilobytes * 1024);
    }
    out.family("process_open_fds");
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        out.sample(entries.count());
    }
}

/// For the page: nothing is written unseen.
#[cfg(test)]
const NOTE: &str =
    "Topics of the broker's own, which begin with two underscores, are among the topics.";

/// The page `docs/reference/metrics.md`, from the table.
#[cfg(test)]
fn reference_page() -> String {
    let mut page = format!(
        "# Metrics\n\n\
         `brooklet broker --metrics-listen 127.0.0.1:9404` answers `GET /metrics` in Prometheus' text format. Names are those that Prometheus' JMX exporter\n\
         gives to Kafka's. {NOTE} Generated from the table in `broker/src/metrics.rs`; a test keeps it current (`UPDATE_EXPECT=1` rewrites it).\n\n\
         | name | type | labels | meaning |\n|---|---|---|---|\n"
    );
    for family in FAMILIES {
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind.name(),
            family.labels,
            family.help
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_time_falls_into_the_bucket_that_holds_it() {
        let metrics = Metrics::default();
        let api = &SERVED[0];
        for time_us in [0, 100, 101, 2_500_000, 2_500_001] {
            metrics.answered(api, 7, Duration::from_micros(time_us));
        }
        let requests = &metrics.requests[0];
        let buckets: Vec<_> = requests
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        assert_eq!((buckets[0], buckets[1], buckets[13]), (2, 1, 1));
        assert_eq!(buckets.iter().sum::<u64>(), 4);
        assert_eq!(requests.answered.load(Ordering::Relaxed), 5);
        assert_eq!(requests.request_bytes.load(Ordering::Relaxed), 35);
    }

    #[test]
    fn every_family_is_written_once_and_in_the_order_of_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let broker = crate::Broker::open(crate::BrokerConfig::new(dir.path())).unwrap();
        let text = broker.metrics_text();
        let written: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let table: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(written, table);
    }

    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, reference_page()).unwrap();
        }
        let Ok(page) = std::fs::read_to_string(path) else {
            // The packaged crate has no docs folder beside it; the repository always has.
            assert!(
                !std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).exists()
            );
            return;
        };
        assert_eq!(
            page,
            reference_page(),
            "run the broker's tests with UPDATE_EXPECT=1"
        );
    }
}
