//! DescribeConfigs (key 32), v1–v4.
//! - Topics and groups: every config with its value in force and where it comes from. Brokers: the settings this one runs with, read-only but
//!   for the defaults of topic configs; the empty name shows what is set for all brokers. Loggers: one, whose level is read-only.
//! - Client metrics subscriptions are left out (42).
//! - A resource that is named again is answered once.
//! - Synonyms are the places a value was looked for, when asked.

use std::collections::BTreeMap;

use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_wire::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::configs::{self, BROKER, BROKER_LOGGER, GROUP, TOPIC};
use super::first_of_each;
use crate::broker::Core;
use crate::metadata::{ConfigResource, Topic, group_config, topic_config};
use crate::protocol::{ErrorCode, message};

/// Type of a broker setting whose values are free text.
const STRING: i8 = 2;
const INT: i8 = 3;
const LONG: i8 = 5;

// Where a value comes from, beside `topic_config::Source`.
const DYNAMIC_BROKER: i8 = 2;
const DYNAMIC_DEFAULT_BROKER: i8 = 3;
const DEFAULT: i8 = 5;
const DYNAMIC_BROKER_LOGGER: i8 = 6;
const DYNAMIC_GROUP: i8 = 8;

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
            BROKER => configs::broker_id(core, &resource.resource_name).map(|id| match id {
                Some(_) => broker_configs(core, &request),
                None => cluster_configs(core, &request),
            }),
            BROKER_LOGGER => match configs::broker_id(core, &resource.resource_name) {
                Ok(Some(_)) => Ok(logger_configs()),
                Ok(None) => Err((
                    ErrorCode::InvalidRequest,
                    "the loggers of which broker: its id must not be empty".into(),
                )),
                Err(refused) => Err(refused),
            },
            GROUP if resource.resource_name.is_empty() => Err((
                ErrorCode::InvalidRequest,
                "a group id must not be empty".into(),
            )),
            GROUP => Ok(group_configs(core, &resource.resource_name, &request)),
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
    let layers = Layers::new(core);
    let describe = |definition: &topic_config::Definition| {
        let server_name = definition.server_name.unwrap_or(definition.name);
        let below = layers.of(definition);
        let set = topic.configs.get(definition.name);
        let (value, source) = match (set, below.first()) {
            (Some(value), _) => (value.as_str(), topic_config::Source::Topic.code()),
            (None, Some((value, source))) => (*value, *source),
            (None, None) => (definition.default, DEFAULT),
        };
        let mut result = message!(DescribeConfigsResourceResult {
            name: definition.name.into(),
            value: Some(value.into()),
            config_source: source,
            config_type: definition.kind.code(),
        });
        if request.include_documentation {
            result.documentation = Some(definition.documentation.into());
        }
        if request.include_synonyms {
            if let Some(value) = set {
                let source = topic_config::Source::Topic.code();
                result
                    .synonyms
                    .push(synonym(definition.name, value, source));
            }
            if definition.server_name.is_some() {
                let below = below.iter();
                result
                    .synonyms
                    .extend(below.map(|(value, source)| synonym(server_name, value, *source)));
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
        (
            "max.connections.per.ip",
            config
                .connections_per_ip_max
                .min(i32::MAX as usize)
                .to_string(),
        ),
        (
            "queued.max.request.bytes",
            i64::try_from(config.request_bytes_queued_max)
                .map_or("-1".to_owned(), |bytes| bytes.to_string()),
        ),
        (
            "socket.send.buffer.bytes",
            config.socket_send_buffer_bytes.to_string(),
        ),
        (
            "socket.receive.buffer.bytes",
            config.socket_receive_buffer_bytes.to_string(),
        ),
        (
            "socket.listen.backlog.size",
            config.listen_backlog.to_string(),
        ),
        ("delete.topic.enable", config.delete_topics.to_string()),
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
            "producer.id.expiration.ms",
            config.producer_id_expiration_ms.to_string(),
        ),
        (
            "log.retention.check.interval.ms",
            config.retention_check_interval_ms.to_string(),
        ),
        (
            "log.flush.offset.checkpoint.interval.ms",
            config.checkpoint_interval_ms.to_string(),
        ),
        (
            "log.flush.scheduler.interval.ms",
            config.flush_scheduler_interval_ms.to_string(),
        ),
        (
            "transaction.state.log.num.partitions",
            config.transactions_topic_partitions.to_string(),
        ),
        (
            "transaction.max.timeout.ms",
            config.transaction_timeout_ms_max.to_string(),
        ),
        (
            "transactional.id.expiration.ms",
            config.transactional_id_expiration_ms.to_string(),
        ),
        ("log.cleaner.enable", config.cleaner_enabled.to_string()),
        (
            "log.cleaner.dedupe.buffer.size",
            config.cleaner_map_bytes_max.to_string(),
        ),
        (
            "log.cleaner.backoff.ms",
            config.cleaner_backoff_ms.to_string(),
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
    let layers = Layers::new(core);
    let defaults = topic_config::DEFINITIONS.iter().filter_map(|definition| {
        let below = layers.of(definition);
        let (value, source) = below.first()?;
        let name = definition.server_name?;
        let mut result = message!(DescribeConfigsResourceResult {
            name: name.into(),
            value: Some((*value).into()),
            config_source: *source,
            config_type: definition.kind.code(),
        });
        if request.include_documentation {
            result.documentation = Some(definition.documentation.into());
        }
        if request.include_synonyms {
            let below = below.iter();
            result.synonyms = below
                .map(|(value, source)| synonym(name, value, *source))
                .collect();
        }
        Some(result)
    });
    own.chain(defaults).collect()
}

/// Where the default of a topic config comes from: this broker, all brokers, what the broker was opened with, Kafka.
struct Layers<'a> {
    set: [(BTreeMap<String, String>, i8); 2],
    opened_with: &'a BTreeMap<String, String>,
}

impl<'a> Layers<'a> {
    fn new(core: &'a Core) -> Self {
        let here = core.configs(&ConfigResource::Broker(Some(core.config.node_id)));
        let everywhere = core.configs(&ConfigResource::Broker(None));
        Self {
            set: [(here, DYNAMIC_BROKER), (everywhere, DYNAMIC_DEFAULT_BROKER)],
            opened_with: &core.config.topic_defaults,
        }
    }

    /// Values with their sources, the one in force first. Empty where Kafka's default is not a broker's.
    fn of(&self, definition: &topic_config::Definition) -> Vec<(&str, i8)> {
        let Some(server_name) = definition.server_name else {
            return Vec::new();
        };
        let set = self
            .set
            .iter()
            .filter_map(|(configs, source)| Some((configs.get(server_name)?.as_str(), *source)));
        let opened_with = self.opened_with.get(definition.name);
        set.chain(opened_with.map(|value| (value.as_str(), topic_config::Source::Broker.code())))
            .chain([(definition.default, DEFAULT)])
            .collect()
    }
}

fn synonym(name: &str, value: &str, source: i8) -> DescribeConfigsSynonym {
    message!(DescribeConfigsSynonym {
        name: name.into(),
        value: Some(value.into()),
        source: source,
    })
}

/// What is set for all brokers while they run.
fn cluster_configs(
    core: &Core,
    request: &DescribeConfigsRequest,
) -> Vec<DescribeConfigsResourceResult> {
    let set = core.configs(&ConfigResource::Broker(None));
    let describe = |(name, value): (String, String)| {
        let definition = topic_config::by_server_name(&name)?;
        let mut result = message!(DescribeConfigsResourceResult {
            config_source: DYNAMIC_DEFAULT_BROKER,
            config_type: definition.kind.code(),
        });
        if request.include_synonyms {
            result.synonyms = vec![synonym(&name, &value, DYNAMIC_DEFAULT_BROKER)];
        }
        if request.include_documentation {
            result.documentation = Some(definition.documentation.into());
        }
        result.name = name.into();
        result.value = Some(value.into());
        Some(result)
    };
    set.into_iter().filter_map(describe).collect()
}

/// One logger, at the level that the process logs at.
fn logger_configs() -> Vec<DescribeConfigsResourceResult> {
    let level = tracing::level_filters::LevelFilter::current();
    vec![message!(DescribeConfigsResourceResult {
        name: "root".into(),
        value: Some(level.to_string().to_uppercase().into()),
        read_only: true,
        config_source: DYNAMIC_BROKER_LOGGER,
        config_type: STRING,
    })]
}

fn group_configs(
    core: &Core,
    group: &str,
    request: &DescribeConfigsRequest,
) -> Vec<DescribeConfigsResourceResult> {
    let set = core.configs(&ConfigResource::Group(group.to_owned()));
    let settings = &core.config.group_settings;
    let describe = |definition: &group_config::Definition| {
        let (value, is_set) = definition.effective(&set, settings);
        let below = match settings.get(definition.default.name) {
            Some(_) => topic_config::Source::Broker.code(),
            None => DEFAULT,
        };
        let source = if is_set { DYNAMIC_GROUP } else { below };
        let mut result = message!(DescribeConfigsResourceResult {
            name: definition.name.into(),
            value: Some(value.to_string().into()),
            config_source: source,
            config_type: if definition.is_long { LONG } else { INT },
        });
        if request.include_synonyms {
            result.synonyms = vec![synonym(definition.name, &value.to_string(), source)];
        }
        if request.include_documentation {
            result.documentation = Some(definition.documentation.into());
        }
        result
    };
    group_config::DEFINITIONS.iter().map(describe).collect()
}
