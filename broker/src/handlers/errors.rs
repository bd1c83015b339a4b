//! Errors of the parts below, as Kafka's codes.

use crate::broker::ChangeError;
use crate::coordinator::group::GroupError;
use crate::coordinator::group::streams::StreamsError;
use crate::coordinator::transaction::TransactionError;
use crate::log::{AppendError, LogError, ReadError};
use crate::metadata::Refusal;
use crate::protocol::ErrorCode;
use crate::replica::PartitionError;

pub(super) fn of_group(error: GroupError) -> ErrorCode {
    match error {
        GroupError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::InconsistentProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::UnknownMember => ErrorCode::UnknownMemberId,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::GroupNotFound => ErrorCode::GroupIdNotFound,
        GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
        GroupError::MaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::SubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::InvalidRequest => ErrorCode::InvalidRequest,
        GroupError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        GroupError::InvalidTransactionState => ErrorCode::InvalidTxnState,
        GroupError::FencedMemberEpoch => ErrorCode::FencedMemberEpoch,
        GroupError::UnreleasedInstanceId => ErrorCode::UnreleasedInstanceId,
        GroupError::UnsupportedAssignor => ErrorCode::UnsupportedAssignor,
        GroupError::StaleMemberEpoch => ErrorCode::StaleMemberEpoch,
        GroupError::InvalidRegularExpression => ErrorCode::InvalidRegularExpression,
        GroupError::UnsupportedVersion => ErrorCode::UnsupportedVersion,
        GroupError::OffsetsTooLarge => ErrorCode::InvalidCommitOffsetSize,
    }
}

pub(super) fn of_streams(error: &StreamsError) -> ErrorCode {
    match error {
        StreamsError::Group(error) => of_group(*error),
        StreamsError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        StreamsError::InvalidTopology(_) => ErrorCode::StreamsInvalidTopology,
        StreamsError::InvalidTopologyEpoch(_) => ErrorCode::StreamsInvalidTopologyEpoch,
        StreamsError::NotStreams(_) => ErrorCode::GroupIdNotFound,
        StreamsError::FencedMemberEpoch(_) => ErrorCode::FencedMemberEpoch,
        StreamsError::UnreleasedInstanceId(_) => ErrorCode::UnreleasedInstanceId,
    }
}

/// The code of a group's answer; `None` is no error.
pub(super) fn of_group_result<T>(result: &Result<T, GroupError>) -> ErrorCode {
    match result {
        Ok(_) => ErrorCode::None,
        Err(error) => of_group(*error),
    }
}

pub(crate) fn of_transaction(error: TransactionError) -> ErrorCode {
    match error {
        TransactionError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
        TransactionError::InvalidRequest => ErrorCode::InvalidRequest,
        TransactionError::InvalidTimeout => ErrorCode::InvalidTransactionTimeout,
        TransactionError::InvalidProducerIdMapping => ErrorCode::InvalidProducerIdMapping,
        TransactionError::ProducerFenced => ErrorCode::ProducerFenced,
        TransactionError::InvalidState => ErrorCode::InvalidTxnState,
        TransactionError::Concurrent => ErrorCode::ConcurrentTransactions,
        TransactionError::PartitionNotAdded => ErrorCode::TransactionAbortable,
    }
}

/// The code of a transaction's answer; `None` is no error.
pub(super) fn of_transaction_result<T>(result: &Result<T, TransactionError>) -> ErrorCode {
    match result {
        Ok(_) => ErrorCode::None,
        Err(error) => of_transaction(*error),
    }
}

/// The code for a client that writes to a partition, where an older epoch is not fenced but invalid.
pub(super) fn of_verification(
    error: TransactionError,
    transaction_version: i16,
    knows_abortable: bool,
) -> ErrorCode {
    match of_transaction(error) {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if !knows_abortable => ErrorCode::InvalidTxnState,
        // Older clients do not retry these when they write; this one they do, without asking for metadata.
        ErrorCode::ConcurrentTransactions if transaction_version < 2 => {
            ErrorCode::NotEnoughReplicas
        }
        ErrorCode::CoordinatorNotAvailable => ErrorCode::NotEnoughReplicas,
        code => code,
    }
}

pub(super) fn of_partition(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::Gone(_) => ErrorCode::UnknownTopicOrPartition,
        PartitionError::Append(error) => of_append(error),
        PartitionError::Read(error) => match error {
            ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::Corrupt { .. } => ErrorCode::CorruptMessage,
            ReadError::Log(error) => of_log(error),
        },
        PartitionError::Log(error) => of_log(error),
    }
}

pub(super) fn of_append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Corrupt(_) => ErrorCode::CorruptMessage,
        AppendError::InvalidRecord { .. } => ErrorCode::InvalidRecord,
        AppendError::UnknownCodec { .. } => ErrorCode::UnsupportedCompressionType,
        AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        AppendError::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        AppendError::InvalidTxnState { .. } => ErrorCode::InvalidTxnState,
        AppendError::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
        AppendError::Log(error) => of_log(error),
    }
}

/// Whatever it was, it was the disk.
fn of_log(_: &LogError) -> ErrorCode {
    ErrorCode::KafkaStorageError
}

/// Code and message.
pub(super) fn of_change(error: &ChangeError) -> (ErrorCode, String) {
    let code = match error {
        ChangeError::Refused(refusal) => match refusal {
            Refusal::TopicExists(_) => ErrorCode::TopicAlreadyExists,
            Refusal::InvalidTopicName(_) => ErrorCode::InvalidTopic,
            Refusal::UnknownTopic(_) => ErrorCode::UnknownTopicOrPartition,
            Refusal::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
            Refusal::TooManyPartitions(_) => ErrorCode::PolicyViolation,
            Refusal::InvalidConfig(_) => ErrorCode::InvalidConfig,
        },
        ChangeError::Failed(error) => {
            tracing::error!(%error, "metadata not changed");
            ErrorCode::KafkaStorageError
        }
    };
    (code, error.to_string())
}
