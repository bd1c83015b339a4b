//! OffsetCommit (key 8), v2–v9.
//! - Durable when answered. By a member of the current generation, or (generation -1, no member id) by anybody while the group has no members.
//! - Per partition: topics that are not there are refused (3), metadata longer than `offset.metadata.max.bytes` too (12).

use std::sync::Arc;

use kafka_wire::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_wire::{OffsetCommitRequest, OffsetCommitResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::group::MemberRef;
use crate::coordinator::group::records::CommittedOffset;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Arc<Core>, request: OffsetCommitRequest, answer: Answer) {
    let now_ms = core.now_ms();
    let mut offsets = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let known = core.topic(&topic.name);
        let partitions = topic.partitions.into_iter().map(|partition| {
            let metadata = partition
                .committed_metadata
                .map(|text| text.into_string())
                .unwrap_or_default();
            let code = if known.as_ref().is_none_or(|known| {
                !(0..known.partition_count).contains(&partition.partition_index)
            }) {
                ErrorCode::UnknownTopicOrPartition
            } else if metadata.len() > core.config.offset_metadata_bytes_max {
                ErrorCode::OffsetMetadataTooLarge
            } else {
                let value = CommittedOffset {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata,
                    commit_timestamp_ms: now_ms,
                };
                offsets.push((
                    topic.name.as_str().to_owned(),
                    partition.partition_index,
                    value,
                ));
                ErrorCode::None
            };
            message!(OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code.code()
            })
        });
        topics.push(message!(OffsetCommitResponseTopic {
            partitions: partitions.collect(),
            name: topic.name
        }));
    }
    let member = MemberRef {
        member_id: request.member_id.into_string(),
        instance_id: request.group_instance_id.map(|id| id.into_string()),
        generation: request.generation_id_or_member_epoch,
    };
    let mut response = message!(OffsetCommitResponse { topics: topics });
    core.groups.commit(
        core,
        &request.group_id,
        &member,
        offsets,
        Box::new(move |committed| {
            if let Err(error) = committed {
                let code = errors::of_group(error).code();
                for partition in response
                    .topics
                    .iter_mut()
                    .flat_map(|topic| &mut topic.partitions)
                {
                    if partition.error_code == 0 {
                        partition.error_code = code;
                    }
                }
            }
            answer(response.into());
        }),
    );
}
