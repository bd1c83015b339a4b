//! A log's configuration: the topic configs it obeys, with Kafka's defaults.

use crate::protocol::compression::Codec;
use crate::protocol::record_batch::TimestampType;

/// The topic configs that a log obeys. `None` is "no limit".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u32,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `segment.jitter.ms`: so much at most is taken off `segment_ms`, differently for each segment.
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`
    pub index_bytes_max: u32,
    /// `max.message.bytes`
    pub message_bytes_max: u32,
    /// `retention.ms`
    pub retention_ms: Option<i64>,
    /// `retention.bytes`
    pub retention_bytes: Option<u64>,
    /// `compression.type`; `None` is `producer`: batches stay as they were sent.
    pub codec: Option<Codec>,
    /// `compression.gzip.level` or `compression.zstd.level`, that of the codec; `None` is the codec's own default.
    pub compression_level: Option<i32>,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max_ms: Option<i64>,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max_ms: Option<i64>,
    /// `cleanup.policy` contains `delete`
    pub delete: bool,
    /// `cleanup.policy` contains `compact`
    pub compact: bool,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub cleanable_ratio_min_ppm: u32,
    /// `min.compaction.lag.ms`
    pub compaction_lag_min_ms: i64,
    /// `max.compaction.lag.ms`
    pub compaction_lag_max_ms: Option<i64>,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// `producer.id.expiration.ms` (broker's)
    pub producer_id_expiration_ms: i64,
    /// `flush.messages`: records that may be unsynced where nobody waits for a sync.
    pub flush_messages_max: Option<i64>,
    /// `flush.ms`: how long they may be so, when a later one comes or the broker looks.
    pub flush_ms_max: Option<i64>,
    /// `preallocate`: a new segment's file gets its bytes from the file system at once.
    pub preallocate: bool,
    /// `file.delete.delay.ms`: what is deleted stays for so long, under another name.
    pub file_delete_delay_ms: i64,
    /// Record bytes kept in memory behind the log end, for readers at the tail. Ours, not Kafka's.
    pub tail_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            index_bytes_max: 10 << 20,
            message_bytes_max: 1_048_588,
            retention_ms: Some(7 * 24 * 3_600_000),
            retention_bytes: None,
            codec: None,
            compression_level: None,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: None,
            timestamp_after_max_ms: Some(3_600_000),
            delete: true,
            compact: false,
            cleanable_ratio_min_ppm: 500_000,
            compaction_lag_min_ms: 0,
            compaction_lag_max_ms: None,
            delete_retention_ms: 24 * 3_600_000,
            producer_id_expiration_ms: 24 * 3_600_000,
            flush_messages_max: None,
            flush_ms_max: None,
            preallocate: false,
            file_delete_delay_ms: 60_000,
            tail_bytes_max: 1 << 20,
        }
    }
}
