//! ConsumerGroupHeartbeat (key 68), v0–v1.
//! - A member joins (epoch 0), stays, changes its subscription or leaves (-1; -2 for a while, if it is static), and is told its
//!   assignment when that has changed. What the answer tells is durable.
//! - v1: the client chooses its member id; before, it is given one. Topics may be subscribed to by regular expression.
//! - A classic group becomes a consumer group when a member joins it like this (`group.consumer.migration.policy`).

use std::sync::Arc;

use kafka_wire::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::group::GroupError;
use crate::coordinator::group::consumer::{Heartbeat, Refusal};
use crate::protocol::{RequestContext, StrBytes, id_of, message, wire_id};

/// Longest name of a member, and of what it says of itself: a record's key counts bytes with 16 bits.
const NAME_BYTES_MAX: usize = 4096;

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
    answer: Answer,
) {
    if let Err(refusal) = check(core, context, &request) {
        return answer(refused(&refusal).into());
    }
    let text = |text: StrBytes| text.as_str().to_owned();
    let mut heartbeat = Heartbeat {
        member_id: text(request.member_id),
        member_epoch: request.member_epoch,
        instance_id: request.instance_id.map(text),
        rack_id: request.rack_id.map(text),
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms).filter(|ms| *ms != -1),
        topics: request
            .subscribed_topic_names
            .map(|names| names.into_iter().map(text).collect()),
        regex: request.subscribed_topic_regex.map(text),
        assignor: request.server_assignor.map(text),
        owned: None,
        client_id: context.client_id.clone(),
        client_host: context.client_host.clone(),
    };
    if let Some(topics) = request.topic_partitions {
        let owned = heartbeat.owned.get_or_insert_default();
        for topic in topics {
            let of_topic = owned.entry(id_of(topic.topic_id)).or_default();
            of_topic.extend(topic.partitions);
        }
    }
    if heartbeat.member_id.is_empty() {
        heartbeat.member_id = uuid::Uuid::new_v4().to_string();
    }
    core.groups.consumer_heartbeat(
        core,
        &request.group_id,
        heartbeat,
        Box::new(move |told| {
            let response = match told {
                Err(refusal) => refused(&refusal),
                Ok(told) => {
                    let assignment = told.assignment.map(|assigned| {
                        let topics = assigned.into_iter().map(|(topic, partitions)| {
                            message!(TopicPartitions {
                                topic_id: wire_id(topic),
                                partitions: partitions.into_keys().collect(),
                            })
                        });
                        message!(Assignment {
                            topic_partitions: topics.collect()
                        })
                    });
                    message!(ConsumerGroupHeartbeatResponse {
                        member_id: Some(told.member_id.into()),
                        member_epoch: told.member_epoch,
                        heartbeat_interval_ms: told.heartbeat_interval_ms,
                        assignment: assignment,
                    })
                }
            };
            answer(response.into());
        }),
    );
}

fn refused(refusal: &Refusal) -> ConsumerGroupHeartbeatResponse {
    message!(ConsumerGroupHeartbeatResponse {
        error_code: errors::of_group(refusal.error).code(),
        error_message: Some(refusal.message.as_str().into()),
    })
}

/// Checks what can be seen without the group.
fn check(
    core: &Core,
    context: &RequestContext,
    request: &ConsumerGroupHeartbeatRequest,
) -> Result<(), Refusal> {
    let invalid = |message: &str| {
        Err(Refusal {
            error: GroupError::InvalidRequest,
            message: message.to_owned(),
        })
    };
    let is_blank = |text: &StrBytes| text.trim().is_empty();
    let is_blank_if_there = |text: &Option<StrBytes>| text.as_ref().is_some_and(is_blank);
    let epoch = request.member_epoch;
    let needs_id = context.member_id_by_client || epoch > 0 || epoch < 0;
    if needs_id && is_blank(&request.member_id) {
        return invalid("member id can't be empty");
    }
    if is_blank(&request.group_id) {
        return invalid("group id can't be empty");
    }
    if is_blank_if_there(&request.instance_id) {
        return invalid("instance id can't be empty");
    }
    if is_blank_if_there(&request.rack_id) {
        return invalid("rack id can't be empty");
    }
    let names = [
        Some(&request.member_id),
        request.instance_id.as_ref(),
        request.rack_id.as_ref(),
        request.subscribed_topic_regex.as_ref(),
    ];
    if names
        .into_iter()
        .flatten()
        .any(|name| name.len() > NAME_BYTES_MAX)
    {
        return invalid("an id or expression is too long");
    }
    match epoch {
        0 => {
            if request.rebalance_timeout_ms == -1 {
                return invalid("rebalance timeout must be provided in the first request");
            }
            if request
                .topic_partitions
                .as_ref()
                .is_none_or(|owned| !owned.is_empty())
            {
                return invalid("topic partitions must be empty when joining");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none()
            {
                return invalid("topic names or a regular expression must be given when joining");
            }
        }
        -2 if request.instance_id.is_none() => return invalid("instance id can't be null"),
        i32::MIN..=-3 => return invalid("member epoch is invalid"),
        _ => {}
    }
    let supported = &core.config.group_consumer_assignors;
    if let Some(assignor) = &request.server_assignor
        && !supported.iter().any(|name| name == assignor.as_str())
    {
        return Err(Refusal {
            error: GroupError::UnsupportedAssignor,
            message: format!(
                "assignor {assignor} is not supported, only {}",
                supported.join(", ")
            ),
        });
    }
    Ok(())
}
