//! StreamsGroupHeartbeat (key 88), v0.
//! - A thread of a Kafka Streams application joins (epoch 0, with the topology), says that it is there and what it has, or leaves (-1; -2 for a
//!   static member that comes back). It is told its tasks where they have changed, and what is in their way.
//! - Internal topics that are missing are created before the heartbeat is decided; where that fails, the status says why.
//! - Answered when what it means is durable.
//! - Not served: source topics by regular expression (42), changing the topology of a group that exists (42).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_wire::streams_group_heartbeat_request as request;
use kafka_wire::streams_group_heartbeat_response as response;
use kafka_wire::{StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse};

use super::{create_topics, errors};
use crate::broker::{self, Core};
use crate::coordinator::group::GroupError;
use crate::coordinator::group::streams::StreamsError;
use crate::coordinator::group::streams::heartbeat::{Answer, Endpoint, Heartbeat};
use crate::coordinator::group::streams::tasks::{Assignment, TaskSet};
use crate::coordinator::group::streams::topology::{
    CopartitionGroup, InternalTopic, InvalidTopology, Subtopology, Topology,
};
use crate::metadata::{self, GroupConfig, PARTITIONS_MAX};
use crate::protocol::{RequestContext, StrBytes, message};

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: StreamsGroupHeartbeatRequest,
    answer: broker::Answer,
) {
    let group = request.group_id.as_str().to_owned();
    let mut heartbeat = match read(context, request) {
        Ok(heartbeat) => heartbeat,
        Err(error) => return answer(refusal(&error).into()),
    };
    let missing = core.groups.missing_streams_topics(core, &group, &heartbeat);
    heartbeat.creation_failed = create(core, missing);
    let config = core.group_config(&group);
    let reply = move |decided: Result<Answer, StreamsError>| {
        answer(match decided {
            Ok(decided) => accepted(decided, &config).into(),
            Err(error) => refusal(&error).into(),
        });
    };
    core.groups
        .streams_heartbeat(core, &group, heartbeat, Box::new(reply));
}

/// Creates internal topics. Returns those that could not be, and why.
fn create(core: &Arc<Core>, topics: BTreeMap<String, InternalTopic>) -> BTreeMap<String, String> {
    let partitions = topics
        .values()
        .map(|topic| i64::from(topic.partition_count))
        .sum::<i64>();
    let is_excessive = partitions > i64::from(PARTITIONS_MAX);
    let create = |topic: InternalTopic| {
        if is_excessive {
            return Err(format!(
                "a request may create {PARTITIONS_MAX} partitions at most"
            ));
        }
        let configs = topic
            .configs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let replication_factor = match topic.replication_factor {
            0 => -1,
            factor => factor,
        };
        create_topics::create_internal(
            core,
            &topic.name,
            topic.partition_count,
            replication_factor,
            configs,
        )
    };
    let failed = topics.into_values().filter_map(|topic| {
        let name = topic.name.clone();
        let reason = create(topic).err()?;
        tracing::warn!(topic = name, reason, "internal topic not created");
        Some((name, reason))
    });
    failed.collect()
}

/// What can be told of a request without its group.
fn read(
    context: &RequestContext,
    request: StreamsGroupHeartbeatRequest,
) -> Result<Heartbeat, StreamsError> {
    let invalid = |reason: &str| Err(StreamsError::InvalidRequest(reason.to_owned()));
    let is_empty = |text: &Option<StrBytes>| text.as_ref().is_some_and(|text| text.is_empty());
    let is_joining = request.member_epoch == 0;
    if request.group_id.is_empty() {
        return Err(GroupError::InvalidGroupId.into());
    }
    if request.member_id.is_empty() {
        return invalid("the member id is empty");
    }
    if is_empty(&request.instance_id) {
        return invalid("the instance id is empty");
    }
    if is_empty(&request.rack_id) {
        return invalid("the rack id is empty");
    }
    if request.member_epoch < -2 {
        return invalid("the member epoch is below -2");
    }
    if request.member_epoch == -2 && request.instance_id.is_none() {
        return invalid("only a member with an instance id may leave for a while");
    }
    if is_joining && request.rebalance_timeout_ms == -1 {
        return invalid("a member that joins has to give its rebalance timeout");
    }
    let owned = match (
        &request.active_tasks,
        &request.standby_tasks,
        &request.warmup_tasks,
    ) {
        (None, None, None) => None,
        (Some(active), Some(standby), Some(warmup)) => Some(Assignment {
            active: task_set(active),
            standby: task_set(standby),
            warmup: task_set(warmup),
        }),
        _ => return invalid("tasks have to be given of all kinds, or of none"),
    };
    if is_joining
        && owned
            .as_ref()
            .is_some_and(|owned| *owned != Assignment::default())
    {
        return invalid("a member that joins has no tasks");
    }
    let topology = match request.topology {
        None if is_joining => return invalid("a member that joins has to give its topology"),
        Some(_) if !is_joining => return invalid("only a member that joins may give a topology"),
        None => None,
        Some(topology) => Some(read_topology(topology)?),
    };
    Ok(Heartbeat {
        member_id: request.member_id.into_string(),
        member_epoch: request.member_epoch,
        endpoint_epoch: request.endpoint_information_epoch,
        instance_id: request.instance_id.map(StrBytes::into_string),
        rack_id: request.rack_id.map(StrBytes::into_string),
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms)
            .filter(|timeout_ms| *timeout_ms != -1),
        client_id: context.client_id.clone(),
        client_host: context.client_host.clone(),
        topology,
        owned,
        process_id: request.process_id.map(StrBytes::into_string),
        user_endpoint: request
            .user_endpoint
            .map(|endpoint| (endpoint.host.into_string(), endpoint.port)),
        client_tags: request
            .client_tags
            .map(|tags| pairs(tags).into_iter().collect()),
        shutdown_application: request.shutdown_application,
        creation_failed: BTreeMap::new(),
    })
}

fn read_topology(topology: request::Topology) -> Result<Topology, StreamsError> {
    if topology.epoch < 0 {
        let reason = format!("topology epoch {} is negative", topology.epoch);
        return Err(StreamsError::InvalidTopologyEpoch(reason));
    }
    let subtopologies = topology
        .subtopologies
        .into_iter()
        .map(|subtopology| Subtopology {
            id: subtopology.subtopology_id.into_string(),
            source_topics: names(subtopology.source_topics),
            source_topic_regex: names(subtopology.source_topic_regex),
            changelog_topics: subtopology
                .state_changelog_topics
                .into_iter()
                .map(internal_topic)
                .collect(),
            repartition_sink_topics: names(subtopology.repartition_sink_topics),
            repartition_source_topics: subtopology
                .repartition_source_topics
                .into_iter()
                .map(internal_topic)
                .collect(),
            copartition_groups: subtopology
                .copartition_groups
                .into_iter()
                .map(|group| CopartitionGroup {
                    source_topics: group.source_topics,
                    source_topic_regex: group.source_topic_regex,
                    repartition_source_topics: group.repartition_source_topics,
                })
                .collect(),
        });
    let topology = Topology {
        epoch: topology.epoch,
        subtopologies: subtopologies.collect(),
    };
    if topology
        .subtopologies
        .iter()
        .any(|of| !of.source_topic_regex.is_empty())
    {
        let reason = "source topics by regular expression are not served";
        return Err(StreamsError::InvalidRequest(reason.into()));
    }
    topology.check()?;
    let sinks = topology
        .subtopologies
        .iter()
        .flat_map(|of| &of.repartition_sink_topics);
    let named: BTreeSet<_> = topology
        .required_topics()
        .into_iter()
        .chain(sinks.map(String::as_str))
        .collect();
    for topic in named {
        if metadata::is_internal(topic) {
            let reason = format!("topic {topic} is the broker's own");
            return Err(InvalidTopology(reason).into());
        }
        metadata::check_topic_name(topic).map_err(InvalidTopology)?;
    }
    Ok(topology)
}

fn internal_topic(topic: request::TopicInfo) -> InternalTopic {
    InternalTopic {
        name: topic.name.into_string(),
        partition_count: topic.partitions,
        replication_factor: topic.replication_factor,
        configs: pairs(topic.topic_configs),
    }
}

// Copied: what a group keeps must not hold the frame it came in.
fn names(names: Vec<StrBytes>) -> Vec<String> {
    names.into_iter().map(StrBytes::into_string).collect()
}

fn pairs(pairs: Vec<request::KeyValue>) -> Vec<(String, String)> {
    let pair = |pair: request::KeyValue| (pair.key.into_string(), pair.value.into_string());
    pairs.into_iter().map(pair).collect()
}

fn task_set(tasks: &[request::TaskIds]) -> TaskSet {
    let mut set = TaskSet::new();
    for of in tasks.iter().filter(|of| !of.partitions.is_empty()) {
        let partitions = set
            .entry(of.subtopology_id.as_str().to_owned())
            .or_default();
        partitions.extend(of.partitions.iter().copied());
    }
    set
}

fn accepted(answer: Answer, config: &GroupConfig) -> StreamsGroupHeartbeatResponse {
    let status = answer.status.into_iter().map(|(status, detail)| {
        message!(response::Status {
            status_code: status.code(),
            status_detail: detail.into(),
        })
    });
    let task_ids = |tasks: TaskSet| {
        let ids = tasks.into_iter().map(|(subtopology, partitions)| {
            message!(response::TaskIds {
                subtopology_id: subtopology.into(),
                partitions: partitions.into_iter().collect(),
            })
        });
        Some(ids.collect())
    };
    let (active, standby, warmup) = match answer.tasks {
        Some(tasks) => (
            task_ids(tasks.active),
            task_ids(tasks.standby),
            task_ids(tasks.warmup),
        ),
        None => (None, None, None),
    };
    let lag = config.streams_acceptable_recovery_lag;
    message!(StreamsGroupHeartbeatResponse {
        member_id: answer.member_id.into(),
        member_epoch: answer.member_epoch,
        heartbeat_interval_ms: config.streams_heartbeat_interval_ms,
        acceptable_recovery_lag_legacy: i32::try_from(lag).unwrap_or(i32::MAX),
        acceptable_recovery_lag: lag,
        task_offset_interval_ms: config.streams_task_offset_interval_ms,
        status: Some(status.collect()),
        active_tasks: active,
        standby_tasks: standby,
        warmup_tasks: warmup,
        endpoint_information_epoch: answer.endpoint_epoch,
        partitions_by_user_endpoint: answer
            .endpoints
            .map(|endpoints| endpoints.into_iter().map(endpoint).collect()),
    })
}

fn endpoint(endpoint: Endpoint) -> response::EndpointToPartitions {
    let partitions = |topics: Vec<(String, Vec<i32>)>| {
        let topics = topics.into_iter().map(|(topic, partitions)| {
            message!(response::TopicPartition {
                topic: topic.into(),
                partitions: partitions,
            })
        });
        topics.collect()
    };
    message!(response::EndpointToPartitions {
        user_endpoint: message!(response::Endpoint {
            host: endpoint.host.into(),
            port: endpoint.port,
        }),
        active_partitions: partitions(endpoint.active),
        standby_partitions: partitions(endpoint.standby),
    })
}

fn refusal(error: &StreamsError) -> StreamsGroupHeartbeatResponse {
    message!(StreamsGroupHeartbeatResponse {
        error_code: errors::of_streams(error).code(),
        error_message: Some(error.to_string().into()),
        // Nullable, and not null by default in Kafka's definition.
        status: Some(Vec::new()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::protocol::ErrorCode;

    fn joining() -> StreamsGroupHeartbeatRequest {
        message!(StreamsGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            rebalance_timeout_ms: 1000,
            topology: Some(message!(request::Topology {
                subtopologies: vec![message!(request::Subtopology {
                    subtopology_id: "0".into(),
                    source_topics: vec!["a".into()],
                })],
            })),
        })
    }

    fn check(change: impl FnOnce(&mut StreamsGroupHeartbeatRequest), expected: ErrorCode) {
        let mut request = joining();
        change(&mut request);
        let shown = format!("{request:?}");
        let read = read(&RequestContext::in_process("c"), request);
        let code = read
            .as_ref()
            .map_or_else(errors::of_streams, |_| ErrorCode::None);
        assert_eq!(code, expected, "{shown}: {read:?}");
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let tasks = |partitions: &[i32]| {
            Some(vec![message!(request::TaskIds {
                subtopology_id: "0".into(),
                partitions: partitions.to_vec()
            })])
        };
        check(|_| {}, ErrorCode::None);
        check(
            |request| request.group_id = "".into(),
            ErrorCode::InvalidGroupId,
        );
        check(
            |request| request.member_id = "".into(),
            ErrorCode::InvalidRequest,
        );
        check(
            |request| request.instance_id = Some("".into()),
            ErrorCode::InvalidRequest,
        );
        check(
            |request| request.rack_id = Some("".into()),
            ErrorCode::InvalidRequest,
        );
        check(
            |request| request.rebalance_timeout_ms = -1,
            ErrorCode::InvalidRequest,
        );
        check(|request| request.topology = None, ErrorCode::InvalidRequest);
        check(
            |request| request.member_epoch = 3,
            ErrorCode::InvalidRequest,
        );
        check(
            |request| request.active_tasks = tasks(&[]),
            ErrorCode::InvalidRequest,
        );
        check(
            |request| {
                request.active_tasks = tasks(&[1]);
                request.standby_tasks = tasks(&[]);
                request.warmup_tasks = tasks(&[]);
            },
            ErrorCode::InvalidRequest,
        );
        for (epoch, instance_id, expected) in [
            (-1, None, ErrorCode::None),
            (-2, None, ErrorCode::InvalidRequest),
            (-2, Some("i".into()), ErrorCode::None),
            (-3, Some("i".into()), ErrorCode::InvalidRequest),
        ] {
            check(
                |request| {
                    request.topology = None;
                    request.member_epoch = epoch;
                    request.instance_id = instance_id;
                },
                expected,
            );
        }
    }

    #[test]
    fn topologies_that_cannot_be_are_refused() {
        let subtopology = |change: fn(&mut request::Subtopology)| {
            move |request: &mut StreamsGroupHeartbeatRequest| {
                change(
                    request
                        .topology
                        .as_mut()
                        .unwrap()
                        .subtopologies
                        .first_mut()
                        .unwrap(),
                )
            }
        };
        check(
            |request| request.topology.as_mut().unwrap().epoch = -1,
            ErrorCode::StreamsInvalidTopologyEpoch,
        );
        check(
            subtopology(|of| of.source_topics = vec!["__consumer_offsets".into()]),
            ErrorCode::StreamsInvalidTopology,
        );
        check(
            subtopology(|of| of.repartition_sink_topics = vec!["a/b".into()]),
            ErrorCode::StreamsInvalidTopology,
        );
        check(
            subtopology(|of| of.source_topics.clear()),
            ErrorCode::StreamsInvalidTopology,
        );
        check(
            subtopology(|of| of.source_topic_regex = vec!["a.*".into()]),
            ErrorCode::InvalidRequest,
        );
        check(
            subtopology(|of| {
                of.state_changelog_topics = vec![message!(request::TopicInfo {
                    name: "l".into(),
                    partitions: 3
                })]
            }),
            ErrorCode::StreamsInvalidTopology,
        );
    }
}
