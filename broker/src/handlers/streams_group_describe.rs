//! StreamsGroupDescribe (key 89), v0.
//! - State, epochs, topology and members of streams groups, each once, with what members have and what they should have. Groups that
//!   are not there, or of another kind, are answered with error 69.
//! - Members' task offsets are not told: they are not kept.

use kafka_wire::streams_group_describe_response::{self as response, DescribedGroup, Member};
use kafka_wire::{StreamsGroupDescribeRequest, StreamsGroupDescribeResponse};

use super::{errors, first_of_each};
use crate::broker::Core;
use crate::coordinator::group::streams::describe::{Description, MemberDescription};
use crate::coordinator::group::streams::tasks::{Assignment, TaskSet};
use crate::coordinator::group::streams::topology::{InternalTopic, Topology};
use crate::protocol::{StrBytes, message};

pub(super) fn handle(
    core: &Core,
    request: StreamsGroupDescribeRequest,
) -> StreamsGroupDescribeResponse {
    let groups = first_of_each(request.group_ids, Clone::clone).map(|group| {
        match core.groups.describe_streams(&group) {
            Ok(described) => describe(group, described),
            Err(error) => message!(DescribedGroup {
                error_code: errors::of_streams(&error).code(),
                error_message: Some(error.to_string().into()),
                group_id: group,
            }),
        }
    });
    message!(StreamsGroupDescribeResponse {
        groups: groups.collect()
    })
}

fn describe(group: StrBytes, described: Description) -> DescribedGroup {
    message!(DescribedGroup {
        group_id: group,
        group_state: described.state.name().into(),
        group_epoch: described.epoch,
        assignment_epoch: described.target_epoch,
        topology: described.topology.map(topology),
        members: described.members.into_iter().map(member).collect(),
    })
}

fn topology(topology: Topology) -> response::Topology {
    let names = |names: Vec<String>| names.into_iter().map(Into::into).collect();
    let topics = |topics: Vec<InternalTopic>| topics.into_iter().map(topic).collect();
    let subtopologies = topology.subtopologies.into_iter().map(|subtopology| {
        message!(response::Subtopology {
            subtopology_id: subtopology.id.into(),
            source_topics: names(subtopology.source_topics),
            repartition_sink_topics: names(subtopology.repartition_sink_topics),
            state_changelog_topics: topics(subtopology.changelog_topics),
            repartition_source_topics: topics(subtopology.repartition_source_topics),
        })
    });
    message!(response::Topology {
        epoch: topology.epoch,
        subtopologies: Some(subtopologies.collect()),
    })
}

fn topic(topic: InternalTopic) -> response::TopicInfo {
    message!(response::TopicInfo {
        name: topic.name.into(),
        partitions: topic.partition_count,
        replication_factor: topic.replication_factor,
        topic_configs: topic.configs.into_iter().map(pair).collect(),
    })
}

fn pair((key, value): (String, String)) -> response::KeyValue {
    message!(response::KeyValue {
        key: key.into(),
        value: value.into(),
    })
}

fn member(member: MemberDescription) -> Member {
    let metadata = member.metadata;
    message!(Member {
        member_id: member.id.into(),
        member_epoch: member.epoch,
        instance_id: metadata.instance_id.map(Into::into),
        rack_id: metadata.rack_id.map(Into::into),
        client_id: metadata.client_id.into(),
        client_host: metadata.client_host.into(),
        topology_epoch: metadata.topology_epoch,
        process_id: metadata.process_id.into(),
        user_endpoint: metadata.user_endpoint.map(|(host, port)| {
            message!(response::Endpoint {
                host: host.into(),
                port: port,
            })
        }),
        client_tags: metadata.client_tags.into_iter().map(pair).collect(),
        assignment: assignment(member.assignment),
        target_assignment: assignment(member.target),
    })
}

fn assignment(assignment: Assignment) -> response::Assignment {
    let ids = |tasks: TaskSet| {
        let ids = tasks.into_iter().map(|(subtopology, partitions)| {
            message!(response::TaskIds {
                subtopology_id: subtopology.into(),
                partitions: partitions.into_iter().collect(),
            })
        });
        ids.collect()
    };
    message!(response::Assignment {
        active_tasks: ids(assignment.active),
        standby_tasks: ids(assignment.standby),
        warmup_tasks: ids(assignment.warmup),
    })
}
