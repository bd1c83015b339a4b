//! DescribeConfigs (key 32), v1–v4.
//! - Topics: every config with its value in force and where it comes from. Brokers: the settings this one runs with, read-only.
//! - A resource that is named again is answered once.
//! - Synonyms are the places a value was looked for, when asked.

use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_wire::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::first_of_each;
use crate::broker::Core;
use crate::metadata::{Topic, topic_config};
use crate::protocol::{ErrorCode, message};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Type of a broker setting whose values are free text.
const STRING: i8 = 2;

pub(super) fn handle(core: &Core, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = first_of_each(&request.resources, |resource| {
        (resource.resource_type, resource.resource_name.clone())
    })
    .map(|resource| {
        let described = match resource.resource_type {
            TOPIC => match core.topic(&resource.resource_name) {
                Some(topic) => Ok(topic_configs(core, &topic, &request)),
                None => Err((
                    ErrorCode::UnknownTopicOrPartition,
                    ErrorCode::UnknownTopicOrPartition.message().to_owned(),
                )),
            },
            BROKER
                if resource.resource_name.is_empty()
                    || resource.resource_name.as_str() == core.config.node_id.to_string() =>
            {
                Ok(broker_configs(core, &request))
            }
            BROKER => Err((
                ErrorCode::InvalidRequest,
                format!(
                    "this is broker {}, not {}",
                    core.config.node_id, resource.resource_name
                ),
            )),
            other => Err((
                ErrorCode::InvalidRequest,
                format!("configs of resource type {other} are not served"),
            )),
        };
        result(resource, described)
    });
    message!(DescribeConfigsResponse {
        results: results.collect()
    })
}

fn result(
    resource: &DescribeConfigsResource,
    described: Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, String)>,
) -> DescribeConfigsResult {
    let mut result = message!(DescribeConfigsResult {
        resource_type: resource.resource_type,
        resource_name: resource.resource_name.clone(),
    });
    match described {
        Ok(mut configs) => {
            if let Some(keys) = &resource.configuration_keys {
                configs.retain(|config| keys.contains(&config.name));
            }
            result.configs = configs;
        }
        Err((code, reason)) => {
            result.error_code = code.code();
            result.error_message = Some(reason.into());
        }
    }
    result
}

fn topic_configs(
    core: &Core,
    topic: &Topic,
    request: &DescribeConfigsRequest,
) -> Vec<DescribeConfigsResourceResult> {
    let describe = |definition: &topic_config::Definition| {
        let defaults = &core.config.topic_defaults;
        let (value, source) = topic_config::effective(definition, &topic.configs, defaults);
        let mut result = message!(DescribeConfigsResourceResult {
            name: definition.name.into(),
            value: Some(value.into()),
            config_source: source.code(),
            config_type: definition.kind.code(),
        });
        if request.include_documentation {
            result.documentation = Some(definition.documentation.into());
        }
        if request.include_synonyms {
            let mut synonym = |name: &str, value: &str, source: topic_config::Source| {
                result.synonyms.push(message!(DescribeConfigsSynonym {
                    name: name.into(),
                    value: Some(value.into()),
                    source: source.code(),
                }));
            };
            if let Some(value) = topic.configs.get(definition.name) {
                synonym(definition.name, value, topic_config::Source::Topic);
            }
            let server_name = definition.server_name.unwrap_or(definition.name);
            if let Some(value) = defaults.get(definition.name) {
                synonym(server_name, value, topic_config::Source::Broker);
            }
            if definition.server_name.is_some() {
                synonym(
                    server_name,
                    definition.default,
                    topic_config::Source::Default,
                );
            }
        }
        result
    };
    topic_config::DEFINITIONS.iter().map(describe).collect()
}

fn broker_configs(
    core: &Core,
    request: &DescribeConfigsRequest,
) -> Vec<DescribeConfigsResourceResult> {
    let config = &core.config;
    let own = [
        ("node.id", config.node_id.to_string()),
        (
            "auto.create.topics.enable",
            config.auto_create_topics.to_string(),
        ),
        ("num.partitions", config.partitions_default.to_string()),
        ("default.replication.factor", "1".to_owned()),
        (
            "offsets.topic.num.partitions",
            config.offsets_topic_partitions.to_string(),
        ),
        (
            "offset.metadata.max.bytes",
            config.offset_metadata_bytes_max.to_string(),
        ),
        (
            "socket.request.max.bytes",
            config.request_bytes_max.to_string(),
        ),
        ("max.connections", config.connections_max.to_string()),
        (
            "connections.max.idle.ms",
            config.connections_idle_ms_max.to_string(),
        ),
        ("fetch.max.bytes", config.fetch_bytes_max.to_string()),
        (
            "group.initial.rebalance.delay.ms",
            config.group_initial_rebalance_delay_ms.to_string(),
        ),
        (
            "group.min.session.timeout.ms",
            config.group_session_timeout_ms_min.to_string(),
        ),
        (
            "group.max.session.timeout.ms",
            config.group_session_timeout_ms_max.to_string(),
        ),
        (
            "log.retention.check.interval.ms",
            config.retention_check_interval_ms.to_string(),
        ),
        (
            "log.flush.offset.checkpoint.interval.ms",
            config.checkpoint_interval_ms.to_string(),
        ),
        ("log.dirs", config.data_dir.display().to_string()),
    ];
    let own = own.into_iter().map(|(name, value)| {
        message!(DescribeConfigsResourceResult {
            name: name.into(),
            value: Some(value.into()),
            read_only: true,
            config_source: topic_config::Source::Broker.code(),
            config_type: STRING,
        })
    });
    let none = Default::default();
    let defaults = topic_config::DEFINITIONS.iter().filter_map(|definition| {
        let (value, source) = topic_config::effective(definition, &none, &config.topic_defaults);
        let mut result = message!(DescribeConfigsResourceResult {
            name: definition.server_name?.into(),
            value: Some(value.into()),
            read_only: true,
            config_source: source.code(),
            config_type: definition.kind.code(),
        });
        if request.include_documentation {
            result.documentation = Some(definition.documentation.into());
        }
        Some(result)
    });
    own.chain(defaults).collect()
}
