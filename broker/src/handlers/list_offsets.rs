//! ListOffsets (key 2), v1–v11.
//! - `-1` the end that the isolation shows (high watermark or last stable offset), `-2` and `-4` (v8) the log start, `-3` (v7) the record with the
//!   highest timestamp, `-5` (v9) and `-6` (v11) nothing: no tiers. Before these versions, and of any other below zero: refused (35).
//! - A partition that is named more than once is refused (42), once.
//! - A timestamp: the first record with it or a later one below that end; offset -1 if there is none.

use std::collections::HashMap;

use kafka_wire::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_wire::{ListOffsetsRequest, ListOffsetsResponse, list_offsets_request};

use super::errors;
use crate::broker::Core;
use crate::log::TimestampOffset;
use crate::protocol::{ErrorCode, message};
use crate::replica::Isolation;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

pub(super) fn handle(core: &Core, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = match request.isolation_level {
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    };
    let mut asked: HashMap<_, usize> = HashMap::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let times = asked.entry((topic.name.clone(), partition.partition_index));
            *times.or_default() += 1;
        }
    }
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().filter_map(|wanted| {
            let found = match asked.remove(&(topic.name.clone(), wanted.partition_index))? {
                1 => look_up(core, &topic.name, wanted, isolation),
                _ => Err(ErrorCode::InvalidRequest),
            };
            let mut response = match found {
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
            Some(response)
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
    isolation: Isolation,
) -> Result<TimestampOffset, ErrorCode> {
    if wanted.timestamp < EARLIEST_PENDING_UPLOAD {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let partition = core
        .partition(topic, wanted.partition_index)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match wanted.current_leader_epoch {
        epoch if epoch < 0 || epoch == partition.leader_epoch() => {}
        epoch if epoch < partition.leader_epoch() => return Err(ErrorCode::FencedLeaderEpoch),
        _ => return Err(ErrorCode::UnknownLeaderEpoch),
    }
    // A bound is not a record: it has no timestamp.
    let bound = |offset, leader_epoch| {
        Ok(TimestampOffset {
            timestamp: -1,
            offset,
            leader_epoch,
        })
    };
    let end_offset = partition.end_offset(isolation);
    let found = match wanted.timestamp {
        LATEST => return bound(end_offset, partition.leader_epoch()),
        EARLIEST | EARLIEST_LOCAL => {
            let (offset, leader_epoch) = partition
                .log_start()
                .map_err(|error| errors::of_partition(&error))?;
            return bound(offset, leader_epoch.unwrap_or(-1));
        }
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => return bound(-1, -1),
        MAX_TIMESTAMP => partition.max_timestamp(),
        timestamp => partition.offset_for_timestamp(timestamp),
    };
    match found {
        Ok(Some(found)) if found.offset < end_offset => Ok(found),
        Ok(_) => bound(-1, -1),
        Err(error) => Err(errors::of_partition(&error)),
    }
}
