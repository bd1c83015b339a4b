//! OffsetFetch (key 9), v1–v10.
//! - Committed offsets of groups: of the asked partitions, or (null) of all. -1 where nothing was committed. v8: several groups at once.
//! - v9: a member of a consumer group says its epoch, and is refused if that is not the current one. v10: topics by id (100).
//! - What is named again is answered once.
//! - v7: with `require_stable` a partition whose offset an open transaction may change is refused (88), until the transaction ends.

use std::collections::{BTreeSet, HashMap, HashSet};

use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_wire::{OffsetFetchRequest, OffsetFetchResponse};

use super::{errors, first_of_each};
use crate::broker::Core;
use crate::coordinator::group::records::CommittedOffset;
use crate::protocol::{ErrorCode, RequestContext, StrBytes, id_of, message, wire_id};

pub(super) fn handle(
    core: &Core,
    context: &RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    message!(OffsetFetchResponse {
        groups: first_of_each(request.groups, |group| group.group_id.clone())
            .map(|group| look_up(core, context, group, request.require_stable))
            .collect()
    })
}

fn look_up(
    core: &Core,
    context: &RequestContext,
    mut group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let member_id = group.member_id.as_ref().map(|id| id.as_str());
    let checked = core
        .groups
        .check_fetch(&group.group_id, member_id, group.member_epoch);
    if let Err(error) = checked {
        return message!(OffsetFetchResponseGroup {
            group_id: group.group_id,
            error_code: errors::of_group(error).code(),
        });
    }
    let mut unknown = Vec::new();
    if context.topics_by_id
        && let Some(topics) = &mut group.topics
    {
        unknown = name_by_id(core, topics);
    }
    let unstable = if require_stable {
        core.groups.unstable(&group.group_id)
    } else {
        BTreeSet::new()
    };
    let describe = |topic: &str, index: i32, committed: Option<&CommittedOffset>| {
        // No allocation where there are no transactions.
        if !unstable.is_empty() && unstable.contains(&(topic.to_owned(), index)) {
            let mut refused = describe(index, None);
            refused.error_code = ErrorCode::UnstableOffsetCommit.code();
            return refused;
        }
        describe(index, committed)
    };
    let mut topics: Vec<OffsetFetchResponseTopics> =
        core.groups
            .with_offsets(&group.group_id, |offsets| match group.topics {
                Some(topics) => {
                    let mut seen: HashMap<_, HashSet<i32>> = HashMap::new();
                    let topics = topics.into_iter().filter_map(|topic| {
                        let is_known = seen.contains_key(&topic.name);
                        let seen = seen.entry(topic.name.clone()).or_default();
                        let of_topic = offsets.and_then(|offsets| offsets.get(topic.name.as_str()));
                        let partitions: Vec<_> = topic
                            .partition_indexes
                            .iter()
                            .filter(|index| seen.insert(**index))
                            .map(|index| {
                                describe(&topic.name, *index, of_topic.and_then(|of| of.get(index)))
                            })
                            .collect();
                        (!is_known || !partitions.is_empty()).then(|| {
                            message!(OffsetFetchResponseTopics {
                                partitions: partitions,
                                name: topic.name
                            })
                        })
                    });
                    topics.collect()
                }
                None => offsets
                    .into_iter()
                    .flatten()
                    .map(|(topic, partitions)| {
                        let partitions = partitions
                            .iter()
                            .map(|(index, committed)| describe(topic, *index, Some(committed)));
                        message!(OffsetFetchResponseTopics {
                            name: topic.as_str().into(),
                            partitions: partitions.collect()
                        })
                    })
                    .collect(),
            });
    if context.topics_by_id {
        for topic in &mut topics {
            if let Some(known) = core.topic(&topic.name) {
                topic.topic_id = wire_id(known.id);
            }
            topic.name = StrBytes::default();
        }
        topics.extend(unknown);
    }
    message!(OffsetFetchResponseGroup {
        group_id: group.group_id,
        topics: topics
    })
}

/// Gives topics that were asked for by id their names. Those that are not there are taken out and answered so.
fn name_by_id(
    core: &Core,
    topics: &mut Vec<OffsetFetchRequestTopics>,
) -> Vec<OffsetFetchResponseTopics> {
    for topic in topics.iter_mut() {
        if let Some(known) = core.topic_by_id(id_of(topic.topic_id)) {
            topic.name = known.name.as_ref().into();
        }
    }
    let unknown = topics.extract_if(.., |topic| topic.name.is_empty());
    unknown
        .map(|topic| {
            let refuse = |index: &i32| {
                let mut partition = describe(*index, None);
                partition.error_code = ErrorCode::UnknownTopicId.code();
                partition
            };
            message!(OffsetFetchResponseTopics {
                topic_id: topic.topic_id,
                partitions: topic.partition_indexes.iter().map(refuse).collect(),
            })
        })
        .collect()
}

fn describe(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    match committed {
        Some(committed) => message!(OffsetFetchResponsePartitions {
            partition_index: index,
            committed_offset: committed.offset,
            committed_leader_epoch: committed.leader_epoch,
            metadata: Some(committed.metadata.as_str().into()),
        }),
        None => message!(OffsetFetchResponsePartitions {
            partition_index: index,
            committed_offset: -1,
            committed_leader_epoch: -1,
            metadata: Some("".into()),
        }),
    }
}
