//! What can go wrong in a log. Kafka's error codes are the handlers' business.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use uuid::Uuid;

use crate::protocol::record_batch::BatchError;

/// An operation on the log as a whole failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    #[error("{operation} {path}: {source}", path = path.display())]
    Disk {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The directory belongs to another topic of the same name.
    #[error("{path} belongs to topic id {found}, want {want}", path = path.display())]
    TopicId {
        path: PathBuf,
        found: Uuid,
        want: Uuid,
    },
    /// An earlier sync failed; what it wrote may be lost, so nothing more is accepted.
    #[error("log {log} takes no writes since a sync failed: {reason}")]
    Poisoned { log: String, reason: String },
}

/// Why a batch was not appended. Each variant is one Kafka error code.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// CORRUPT_MESSAGE (2).
    #[error(transparent)]
    Corrupt(BatchError),
    /// INVALID_RECORD (87), with the indexes of the offending records if they are known (at most 100).
    #[error("invalid record: {reason}")]
    InvalidRecord {
        reason: String,
        record_indexes: Vec<i32>,
    },
    /// UNSUPPORTED_COMPRESSION_TYPE (76).
    #[error("unknown codec {id}")]
    UnknownCodec { id: u8 },
    /// MESSAGE_TOO_LARGE (10).
    #[error("batch of {size_bytes} bytes is larger than max.message.bytes {max_bytes}")]
    TooLarge { size_bytes: usize, max_bytes: usize },
    /// RECORD_LIST_TOO_LARGE (18).
    #[error("batch of {size_bytes} bytes is larger than segment.bytes {segment_bytes}")]
    LargerThanSegment {
        size_bytes: usize,
        segment_bytes: usize,
    },
    /// INVALID_TIMESTAMP (32).
    #[error("timestamp {timestamp} is out of the accepted range")]
    InvalidTimestamp {
        timestamp: i64,
        record_indexes: Vec<i32>,
    },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER (45).
    #[error("producer {producer_id} sent sequence {found}, want {want}")]
    OutOfOrderSequence {
        producer_id: i64,
        found: i32,
        want: i32,
    },
    /// INVALID_PRODUCER_EPOCH (47).
    #[error("producer {producer_id} has epoch {found}, current is {current}")]
    InvalidProducerEpoch {
        producer_id: i64,
        found: i16,
        current: i16,
    },
    /// INVALID_TXN_STATE (48).
    #[error("producer {producer_id} {reason}")]
    InvalidTxnState {
        producer_id: i64,
        reason: &'static str,
    },
    /// TRANSACTION_COORDINATOR_FENCED (52).
    #[error("marker of producer {producer_id} has coordinator epoch {found}, current is {current}")]
    CoordinatorFenced {
        producer_id: i64,
        found: i32,
        current: i32,
    },
    /// KAFKA_STORAGE_ERROR (56).
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a read was not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// OFFSET_OUT_OF_RANGE (1).
    #[error("offset {offset} is not in {log_start_offset}..={log_end_offset}")]
    OutOfRange {
        offset: i64,
        log_start_offset: i64,
        log_end_offset: i64,
    },
    /// CORRUPT_MESSAGE (2).
    #[error("segment {segment} at {position}: {source}")]
    Corrupt {
        segment: String,
        position: u64,
        source: BatchError,
    },
    /// KAFKA_STORAGE_ERROR (56).
    #[error(transparent)]
    Log(#[from] LogError),
}
