//! OffsetForLeaderEpoch (key 23), v2–v4.
//! - The largest epoch at or below the asked one, and its end offset (exclusive); -1 and -1 when there is none.

use kafka_wire::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_wire::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, offset_for_leader_epoch_request,
};

use super::errors;
use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(
    core: &Core,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let found = look_up(core, &topic.topic, wanted);
            let (epoch, end_offset) = found.unwrap_or((-1, -1));
            message!(EpochEndOffset {
                error_code: found.err().map_or(0, ErrorCode::code),
                partition: wanted.partition,
                leader_epoch: epoch,
                end_offset: end_offset,
            })
        });
        message!(OffsetForLeaderTopicResult {
            partitions: partitions.collect(),
            topic: topic.topic
        })
    });
    message!(OffsetForLeaderEpochResponse {
        topics: topics.collect()
    })
}

fn look_up(
    core: &Core,
    topic: &str,
    wanted: &offset_for_leader_epoch_request::OffsetForLeaderPartition,
) -> Result<(i32, i64), ErrorCode> {
    let partition = core
        .partition(topic, wanted.partition)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match wanted.current_leader_epoch {
        epoch if epoch < 0 || epoch == partition.leader_epoch() => {}
        epoch if epoch < partition.leader_epoch() => return Err(ErrorCode::FencedLeaderEpoch),
        _ => return Err(ErrorCode::UnknownLeaderEpoch),
    }
    match partition.end_offset_for_epoch(wanted.leader_epoch) {
        Ok(found) => Ok(found.unwrap_or((-1, -1))),
        Err(error) => Err(errors::of_partition(&error)),
    }
}
