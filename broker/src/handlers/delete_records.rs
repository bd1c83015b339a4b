//! DeleteRecords (key 21), v0–v2.
//! - Moves the log start offset up to the given offset (-1: the high watermark); durable when answered.
//! - Refused for internal topics, and where the cleanup policy is only to compact.

use kafka_wire::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_wire::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::errors;
use crate::broker::Core;
use crate::metadata;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let result = delete(core, &topic.name, wanted.partition_index, wanted.offset);
            message!(DeleteRecordsPartitionResult {
                partition_index: wanted.partition_index,
                low_watermark: result.unwrap_or(-1),
                error_code: result.err().map_or(0, ErrorCode::code),
            })
        });
        message!(DeleteRecordsTopicResult {
            partitions: partitions.collect(),
            name: topic.name
        })
    });
    let mut response = message!(DeleteRecordsResponse {
        topics: topics.collect()
    });
    if let Err(error) = core.write_log_start_offsets() {
        tracing::error!(%error, "log start offsets not noted");
        for partition in response
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            partition.error_code = ErrorCode::KafkaStorageError.code();
        }
    }
    response
}

fn delete(core: &Core, topic: &str, index: i32, offset: i64) -> Result<i64, ErrorCode> {
    if metadata::is_internal(topic) {
        return Err(ErrorCode::InvalidTopic);
    }
    let partition = core
        .partition(topic, index)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let delete = || {
        Ok(match partition.deletes_records()? {
            true => Some(partition.delete_records_before(offset)?),
            false => None,
        })
    };
    let deleted = delete();
    core.remove_deleted_segments(&partition);
    deleted
        .map_err(|error| errors::of_partition(&error))?
        .ok_or(ErrorCode::PolicyViolation)
}
