//! CreateTopics (key 19), v2–v7.
//! - A topic is durable before it is answered; `validate_only` checks and creates nothing.
//! - A request for more partitions in all than one topic may have, or than `brooklet.partitions.max` leaves, is refused (44).
//! - -1 partitions or replicas (v4) mean the broker's default. There is one broker: a replication factor above one is refused (38), unless
//!   `brooklet.replication.factor.clamp` is set. A manual assignment must name this broker alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_wire::create_topics_request::CreatableTopic;
use kafka_wire::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_wire::{CreateTopicsRequest, CreateTopicsResponse};

use super::errors;
use crate::broker::{ChangeError, Core};
use crate::metadata::{self, PARTITIONS_MAX, Refusal, Topic, topic_config};
use crate::protocol::{ErrorCode, RequestContext, message, wire_id};

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut seen = HashMap::new();
    for topic in &request.topics {
        *seen.entry(topic.name.clone()).or_insert(0) += 1;
    }
    let is_excessive = partitions(core, &request) > i64::from(PARTITIONS_MAX);
    let topics = request.topics.iter().map(|topic| {
        let result = if is_excessive {
            Err((
                ErrorCode::PolicyViolation,
                format!("a request may create {PARTITIONS_MAX} partitions at most"),
            ))
        } else if seen.get(&topic.name).is_some_and(|count| *count > 1) {
            Err((
                ErrorCode::InvalidRequest,
                format!("topic {} is in the request more than once", topic.name),
            ))
        } else {
            create(core, context, topic, request.validate_only)
        };
        match result {
            Ok(created) => message!(CreatableTopicResult {
                name: topic.name.clone(),
                topic_id: wire_id(if request.validate_only {
                    uuid::Uuid::nil()
                } else {
                    created.id
                }),
                num_partitions: created.partition_count,
                replication_factor: 1,
                configs: Some(configs(core, &created)),
            }),
            Err((code, reason)) => message!(CreatableTopicResult {
                name: topic.name.clone(),
                error_code: code.code(),
                error_message: Some(reason.into()),
                num_partitions: -1,
                replication_factor: -1,
            }),
        }
    });
    message!(CreateTopicsResponse {
        topics: topics.collect()
    })
}

/// Partitions that the request asks for, over all topics whose number is allowed. Each is a directory with files.
fn partitions(core: &Core, request: &CreateTopicsRequest) -> i64 {
    let of = |topic: &CreatableTopic| match topic.num_partitions {
        _ if !topic.assignments.is_empty() => {
            i64::try_from(topic.assignments.len()).unwrap_or(i64::MAX)
        }
        -1 => i64::from(core.config.partitions_default),
        count if (1..=PARTITIONS_MAX).contains(&count) => i64::from(count),
        _ => 0,
    };
    request.topics.iter().map(of).fold(0, i64::saturating_add)
}

fn create(
    core: &Arc<Core>,
    context: &RequestContext,
    topic: &CreatableTopic,
    validate_only: bool,
) -> Result<Arc<Topic>, (ErrorCode, String)> {
    if metadata::is_internal(&topic.name) {
        return Err((
            ErrorCode::InvalidTopic,
            format!("topic {} is internal: the broker creates it", topic.name),
        ));
    }
    let partition_count = if topic.assignments.is_empty() {
        check_replication_factor(core, context, topic.replication_factor)?;
        match topic.num_partitions {
            -1 if context.counts_may_default => core.config.partitions_default,
            count => count,
        }
    } else {
        assigned_partitions(core, topic)?
    };
    let mut overrides = Vec::with_capacity(topic.configs.len());
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return Err((
                ErrorCode::InvalidConfig,
                format!("null value not supported for topic config {}", config.name),
            ));
        };
        overrides.push((config.name.as_str(), value.as_str()));
    }
    let configs: BTreeMap<_, _> =
        topic_config::check_all(overrides).map_err(|reason| (ErrorCode::InvalidConfig, reason))?;
    core.create_topic(&topic.name, partition_count, configs, validate_only)
        .map_err(|error| errors::of_change(&error))
}

/// Creates a topic that an application needs, unless somebody else just has.
pub(super) fn create_internal<'a>(
    core: &Arc<Core>,
    name: &str,
    partition_count: i32,
    replication_factor: i16,
    configs: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    let context = RequestContext::in_process("");
    check_replication_factor(core, &context, replication_factor).map_err(|(_, reason)| reason)?;
    let configs = topic_config::check_all(configs)?;
    match core.create_topic(name, partition_count, configs, false) {
        Ok(_) | Err(ChangeError::Refused(Refusal::TopicExists(_))) => Ok(()),
        Err(error) => Err(errors::of_change(&error).1),
    }
}

fn check_replication_factor(
    core: &Core,
    context: &RequestContext,
    replication_factor: i16,
) -> Result<(), (ErrorCode, String)> {
    match replication_factor {
        1 => Ok(()),
        -1 if context.counts_may_default => Ok(()),
        2.. if core.config.replication_factor_clamp => Ok(()),
        2.. => Err((
            ErrorCode::InvalidReplicationFactor,
            format!(
                "unable to replicate the partition {replication_factor} time(s): the target replication factor of \
                 {replication_factor} cannot be reached because only 1 broker(s) are registered"
            ),
        )),
        _ => Err((
            ErrorCode::InvalidReplicationFactor,
            "replication factor must be larger than 0".into(),
        )),
    }
}

fn assigned_partitions(core: &Core, topic: &CreatableTopic) -> Result<i32, (ErrorCode, String)> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let reason = "a manual assignment excludes a number of partitions and a replication factor";
        return Err((ErrorCode::InvalidRequest, reason.into()));
    }
    let mut indexes: Vec<_> = topic
        .assignments
        .iter()
        .map(|assignment| assignment.partition_index)
        .collect();
    indexes.sort_unstable();
    if !indexes.iter().copied().eq(0..indexes.len() as i32) {
        return Err((
            ErrorCode::InvalidReplicaAssignment,
            "partitions of an assignment must be consecutive from 0".into(),
        ));
    }
    let here = [core.config.node_id];
    if let Some(other) = topic
        .assignments
        .iter()
        .find(|assignment| assignment.broker_ids != here)
    {
        return Err((
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "partition {} is assigned to {:?}, the only broker is {}",
                other.partition_index, other.broker_ids, here[0]
            ),
        ));
    }
    Ok(indexes.len() as i32)
}

fn configs(core: &Core, topic: &Topic) -> Vec<CreatableTopicConfigs> {
    let defaults = core.topic_defaults();
    let describe = |definition: &topic_config::Definition| {
        let (value, source) = topic_config::effective(definition, &topic.configs, &defaults);
        message!(CreatableTopicConfigs {
            name: definition.name.into(),
            value: Some(value.into()),
            config_source: source.code(),
        })
    };
    topic_config::DEFINITIONS.iter().map(describe).collect()
}
