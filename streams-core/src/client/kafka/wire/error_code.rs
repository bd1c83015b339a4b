//! Kafka's error codes: their names, and what a caller does about them.

use crate::client::{ClientError, ClientErrorKind};

pub(super) const NONE: i16 = 0;
pub(super) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
pub(super) const LEADER_NOT_AVAILABLE: i16 = 5;
pub(super) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
pub(super) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
pub(super) const NOT_COORDINATOR: i16 = 16;
pub(super) const ILLEGAL_GENERATION: i16 = 22;
pub(super) const UNKNOWN_MEMBER_ID: i16 = 25;
pub(super) const REBALANCE_IN_PROGRESS: i16 = 27;
pub(super) const UNSUPPORTED_VERSION: i16 = 35;
pub(super) const GROUP_ID_NOT_FOUND: i16 = 69;
pub(super) const MEMBER_ID_REQUIRED: i16 = 79;
pub(super) const FENCED_INSTANCE_ID: i16 = 82;

/// Kafka's name of an error code.
pub(in crate::client::kafka) fn name(code: i16) -> &'static str {
    match code {
        -1 => "UNKNOWN_SERVER_ERROR",
        0 => "NONE",
        1 => "OFFSET_OUT_OF_RANGE",
        2 => "CORRUPT_MESSAGE",
        3 => "UNKNOWN_TOPIC_OR_PARTITION",
        5 => "LEADER_NOT_AVAILABLE",
        6 => "NOT_LEADER_OR_FOLLOWER",
        7 => "REQUEST_TIMED_OUT",
        8 => "BROKER_NOT_AVAILABLE",
        9 => "REPLICA_NOT_AVAILABLE",
        10 => "MESSAGE_TOO_LARGE",
        12 => "OFFSET_METADATA_TOO_LARGE",
        13 => "NETWORK_EXCEPTION",
        14 => "COORDINATOR_LOAD_IN_PROGRESS",
        15 => "COORDINATOR_NOT_AVAILABLE",
        16 => "NOT_COORDINATOR",
        17 => "INVALID_TOPIC_EXCEPTION",
        18 => "RECORD_LIST_TOO_LARGE",
        19 => "NOT_ENOUGH_REPLICAS",
        20 => "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        22 => "ILLEGAL_GENERATION",
        23 => "INCONSISTENT_GROUP_PROTOCOL",
        24 => "INVALID_GROUP_ID",
        25 => "UNKNOWN_MEMBER_ID",
        26 => "INVALID_SESSION_TIMEOUT",
        27 => "REBALANCE_IN_PROGRESS",
        28 => "INVALID_COMMIT_OFFSET_SIZE",
        29 => "TOPIC_AUTHORIZATION_FAILED",
        30 => "GROUP_AUTHORIZATION_FAILED",
        31 => "CLUSTER_AUTHORIZATION_FAILED",
        33 => "UNSUPPORTED_SASL_MECHANISM",
        34 => "ILLEGAL_SASL_STATE",
        35 => "UNSUPPORTED_VERSION",
        36 => "TOPIC_ALREADY_EXISTS",
        37 => "INVALID_PARTITIONS",
        38 => "INVALID_REPLICATION_FACTOR",
        39 => "INVALID_REPLICA_ASSIGNMENT",
        40 => "INVALID_CONFIG",
        41 => "NOT_CONTROLLER",
        42 => "INVALID_REQUEST",
        44 => "POLICY_VIOLATION",
        45 => "OUT_OF_ORDER_SEQUENCE_NUMBER",
        47 => "INVALID_PRODUCER_EPOCH",
        56 => "KAFKA_STORAGE_ERROR",
        58 => "SASL_AUTHENTICATION_FAILED",
        68 => "NON_EMPTY_GROUP",
        69 => "GROUP_ID_NOT_FOUND",
        72 => "LISTENER_NOT_FOUND",
        73 => "TOPIC_DELETION_DISABLED",
        74 => "FENCED_LEADER_EPOCH",
        75 => "UNKNOWN_LEADER_EPOCH",
        78 => "OFFSET_NOT_AVAILABLE",
        79 => "MEMBER_ID_REQUIRED",
        80 => "PREFERRED_LEADER_NOT_AVAILABLE",
        81 => "GROUP_MAX_SIZE_REACHED",
        82 => "FENCED_INSTANCE_ID",
        87 => "INVALID_RECORD",
        88 => "UNSTABLE_OFFSET_COMMIT",
        89 => "THROTTLING_QUOTA_EXCEEDED",
        90 => "PRODUCER_FENCED",
        100 => "UNKNOWN_TOPIC_ID",
        110 => "FENCED_MEMBER_EPOCH",
        113 => "STALE_MEMBER_EPOCH",
        _ => "an error this client does not know",
    }
}

/// What a caller would do differently.
pub(in crate::client::kafka) fn kind(code: i16) -> ClientErrorKind {
    match code {
        1 => ClientErrorKind::OffsetOutOfRange,
        3 | 100 => ClientErrorKind::UnknownTopicOrPartition,
        10 | 12 | 18 | 28 => ClientErrorKind::TooLarge,
        36 => ClientErrorKind::TopicExists,
        // A member that must ask its claim for its present identity, or learns there that it has lost it.
        ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID | REBALANCE_IN_PROGRESS => {
            ClientErrorKind::Retriable
        }
        47 | FENCED_INSTANCE_ID | 90 | 110 => ClientErrorKind::Fenced,
        17 | 24 | 26 | 37..=40 | 44 => ClientErrorKind::Config,
        code if is_transient(code) => ClientErrorKind::Retriable,
        _ => ClientErrorKind::Fatal,
    }
}

/// Whether the same request may succeed a moment later, when asked of the right broker. The wire client tries these again itself.
pub(super) fn is_transient(code: i16) -> bool {
    matches!(
        code,
        2 | 5
            | 6
            | 7
            | 8
            | 9
            | 13
            | 14
            | 15
            | 16
            | 19
            | 20
            | 41
            | 56
            | 72
            | 74
            | 75
            | 78
            | 80
            | 88
            | 89
            | 113
    )
}

/// The error of `code`; `what` says what was asked of whom, `message` is the broker's own text.
pub(super) fn error(code: i16, what: impl std::fmt::Display, message: Option<&str>) -> ClientError {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => ClientError::new(
            kind(code),
            format_args!("{what}: {} ({code}): {message}", name(code)),
        ),
        None => ClientError::new(kind(code), format_args!("{what}: {} ({code})", name(code))),
    }
}

/// `Ok` for no error.
pub(in crate::client::kafka) fn check(
    code: i16,
    what: impl std::fmt::Display,
    message: Option<&str>,
) -> Result<(), ClientError> {
    if code == NONE {
        Ok(())
    } else {
        Err(error(code, what, message))
    }
}
