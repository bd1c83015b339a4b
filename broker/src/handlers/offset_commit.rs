//! OffsetCommit (key 8), v2–v10.
//! - Durable when answered. By a member of the current generation, or (generation -1, no member id) by anybody while the group has no members.
//! - v9: members of consumer and streams groups, by their epoch; one of an older epoch may commit for partitions that it has had since, and for
//!   nothing at all if there is another among them. Before v9 they are refused (35), and a group that is not there is another generation (22), not
//!   missing (69). v10: topics by id (100).
//! - Per partition: topics that are not there are refused (3), metadata longer than `offset.metadata.max.bytes` too (12). What is left is committed whole
//!   or refused whole.

use std::sync::Arc;

use kafka_wire::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_wire::{OffsetCommitRequest, OffsetCommitResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::{Commit, CommitKind, MemberRef};
use crate::metadata::Topic;
use crate::protocol::{ErrorCode, RequestContext, StrBytes, id_of, message};

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: OffsetCommitRequest,
    answer: Answer,
) {
    let now_ms = core.now_ms();
    let mut offsets = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let (known, unknown) = if context.topics_by_id {
            let known = core.topic_by_id(id_of(topic.topic_id));
            (known, ErrorCode::UnknownTopicId)
        } else {
            (core.topic(&topic.name), ErrorCode::UnknownTopicOrPartition)
        };
        let name = match &known {
            Some(known) => known.name.to_string(),
            None => topic.name.as_str().to_owned(),
        };
        let partitions = topic.partitions.into_iter().map(|partition| {
            let committed = match &known {
                None => Err(unknown),
                Some(known) => checked(
                    core,
                    known,
                    partition.partition_index,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata,
                    now_ms,
                ),
            };
            let code = match committed {
                Ok(committed) => {
                    offsets.push((name.clone(), partition.partition_index, committed));
                    ErrorCode::None
                }
                Err(code) => code,
            };
            message!(OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code.code()
            })
        });
        topics.push(message!(OffsetCommitResponseTopic {
            partitions: partitions.collect(),
            name: topic.name,
            topic_id: topic.topic_id,
        }));
    }
    let member = MemberRef {
        member_id: request.member_id.into_string(),
        instance_id: request.group_instance_id.map(|id| id.into_string()),
        generation: request.generation_id_or_member_epoch,
    };
    let mut response = message!(OffsetCommitResponse { topics: topics });
    let commit = Commit {
        member: &member,
        kind: if context.knows_member_epochs {
            CommitKind::Direct
        } else {
            CommitKind::WithoutEpochs
        },
    };
    core.groups.commit(
        core,
        &request.group_id,
        commit,
        offsets,
        Box::new(move |committed| {
            if let Err(error) = committed {
                let code = errors::of_group(error).code();
                let asked = response
                    .topics
                    .iter_mut()
                    .flat_map(|topic| &mut topic.partitions)
                    .filter(|partition| partition.error_code == 0);
                asked.for_each(|partition| partition.error_code = code);
            }
            answer(response.into());
        }),
    );
}

/// The offset as it is kept, if the topic has that partition and the metadata is not too long.
pub(super) fn checked(
    core: &Core,
    topic: &Topic,
    partition_index: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
    now_ms: i64,
) -> Result<CommittedOffset, ErrorCode> {
    let metadata = metadata.map(|text| text.into_string()).unwrap_or_default();
    if !(0..topic.partition_count).contains(&partition_index) {
        Err(ErrorCode::UnknownTopicOrPartition)
    } else if metadata.len() > core.config.offset_metadata_bytes_max {
        Err(ErrorCode::OffsetMetadataTooLarge)
    } else {
        Ok(CommittedOffset {
            offset,
            leader_epoch,
            metadata,
            commit_timestamp_ms: now_ms,
        })
    }
}
