//! ListOffsets (key 2), v1–v10.
//! - `-1` the end that the isolation shows, `-2` and `-4` the log start, `-3` (v7) the record with the highest timestamp, `-5` (v9) nothing: no tiers.
//! - A timestamp: the first record with it or a later one; offset -1 if there is none.

use kafka_wire::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_wire::{ListOffsetsRequest, ListOffsetsResponse, list_offsets_request};

use super::errors;
use crate::broker::Core;
use crate::log::TimestampOffset;
use crate::protocol::{ErrorCode, message};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub(super) fn handle(core: &Core, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let read_committed = request.isolation_level == 1;
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let mut response = match look_up(core, &topic.name, wanted, read_committed) {
                Ok(found) => message!(ListOffsetsPartitionResponse {
                    timestamp: found.timestamp,
                    offset: found.offset,
                    leader_epoch: found.leader_epoch,
                }),
                Err(code) => message!(ListOffsetsPartitionResponse {
                    error_code: code.code(),
                    timestamp: -1,
                    offset: -1
                }),
            };
            response.partition_index = wanted.partition_index;
            response
        });
        message!(ListOffsetsTopicResponse {
            partitions: partitions.collect(),
            name: topic.name
        })
    });
    message!(ListOffsetsResponse {
        topics: topics.collect()
    })
}

fn look_up(
    core: &Core,
    topic: &str,
    wanted: &list_offsets_request::ListOffsetsPartition,
    read_committed: bool,
) -> Result<TimestampOffset, ErrorCode> {
    let partition = core
        .partition(topic, wanted.partition_index)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match wanted.current_leader_epoch {
        epoch if epoch < 0 || epoch == partition.leader_epoch() => {}
        epoch if epoch < partition.leader_epoch() => return Err(ErrorCode::FencedLeaderEpoch),
        _ => return Err(ErrorCode::UnknownLeaderEpoch),
    }
    // A bound is not a record: it has no timestamp, and no epoch of its own.
    let bound = |offset| {
        Ok(TimestampOffset {
            timestamp: -1,
            offset,
            leader_epoch: -1,
        })
    };
    let found = match wanted.timestamp {
        LATEST if read_committed => return bound(partition.last_stable_offset()),
        LATEST => return bound(partition.high_watermark()),
        EARLIEST | EARLIEST_LOCAL => return bound(partition.log_start_offset()),
        LATEST_TIERED => return bound(-1),
        MAX_TIMESTAMP => partition.max_timestamp(),
        timestamp if timestamp >= 0 => partition.offset_for_timestamp(timestamp),
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => bound(-1),
        Err(error) => Err(errors::of_partition(&error)),
    }
}
