//! IncrementalAlterConfigs (key 44), v0–v1.
//! - Topics: set, delete, and for lists append and subtract. In force when answered. Brokers' settings cannot be changed while they run.

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_wire::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::errors;
use crate::broker::Core;
use crate::metadata::Refusal;
use crate::metadata::topic_config::{self, Kind};
use crate::protocol::{ErrorCode, message};

const TOPIC: i8 = 2;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(super) fn handle(
    core: &Core,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let responses = request.resources.iter().map(|resource| {
        let mut response = message!(AlterConfigsResourceResponse {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
        });
        if let Err((code, reason)) = alter(core, resource, request.validate_only) {
            response.error_code = code.code();
            response.error_message = Some(reason.into());
        }
        response
    });
    message!(IncrementalAlterConfigsResponse {
        responses: responses.collect()
    })
}

fn alter(
    core: &Core,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), (ErrorCode, String)> {
    if resource.resource_type != TOPIC {
        return Err((
            ErrorCode::InvalidRequest,
            "only configs of topics can be altered".into(),
        ));
    }
    let names: BTreeSet<_> = resource
        .configs
        .iter()
        .map(|config| config.name.as_str())
        .collect();
    if names.len() != resource.configs.len() {
        return Err((
            ErrorCode::InvalidRequest,
            "a config is in the request more than once".into(),
        ));
    }
    let defaults = &core.config.topic_defaults;
    core.set_topic_configs(&resource.resource_name, validate_only, |current| {
        apply(current, defaults, &resource.configs)
    })
    .map_err(|error| errors::of_change(&error))
}

fn apply(
    current: &BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
    changes: &[AlterableConfig],
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut configs = current.clone();
    for change in changes {
        let name = change.name.as_str();
        let Some(definition) = topic_config::by_name(name) else {
            return Err(Refusal::InvalidConfig(format!(
                "unknown topic config name: {name}"
            )));
        };
        let value = change.value.as_ref().map_or("", |value| value.as_str());
        if change.config_operation != DELETE && change.value.is_none() {
            return Err(Refusal::InvalidConfig(format!(
                "null value not supported for topic config {name}"
            )));
        }
        let is_list = matches!(definition.kind, Kind::List(_));
        let mut words: Vec<_> = topic_config::effective(definition, &configs, defaults)
            .0
            .split(',')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let value = match change.config_operation {
            SET => value.to_owned(),
            DELETE => {
                configs.remove(name);
                continue;
            }
            APPEND if is_list => {
                for word in value.split(',').map(str::trim) {
                    if !words.iter().any(|other| other == word) {
                        words.push(word.to_owned());
                    }
                }
                words.join(",")
            }
            SUBTRACT if is_list => {
                words.retain(|word| !value.split(',').any(|other| other.trim() == word));
                words.join(",")
            }
            APPEND | SUBTRACT => {
                return Err(Refusal::InvalidConfig(format!(
                    "topic config {name} is not a list"
                )));
            }
            other => {
                return Err(Refusal::InvalidConfig(format!(
                    "unknown operation {other} on topic config {name}"
                )));
            }
        };
        configs.insert(
            name.to_owned(),
            definition.check(&value).map_err(Refusal::InvalidConfig)?,
        );
    }
    Ok(configs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn change(name: &str, operation: i8, value: Option<&str>) -> AlterableConfig {
        message!(AlterableConfig {
            name: name.into(),
            config_operation: operation,
            value: value.map(Into::into)
        })
    }

    #[test]
    fn lists_grow_and_shrink_from_the_value_in_force() {
        let none = BTreeMap::new();
        let grown = apply(
            &none,
            &none,
            &[change("cleanup.policy", APPEND, Some("compact"))],
        )
        .unwrap();
        assert_eq!(grown.get("cleanup.policy").unwrap(), "delete,compact");
        let shrunk = apply(
            &grown,
            &none,
            &[change("cleanup.policy", SUBTRACT, Some("delete"))],
        )
        .unwrap();
        assert_eq!(shrunk.get("cleanup.policy").unwrap(), "compact");
    }

    #[test]
    fn set_and_delete_touch_only_their_config() {
        let none = BTreeMap::new();
        let set = apply(
            &none,
            &none,
            &[
                change("retention.ms", SET, Some("5")),
                change("segment.ms", SET, Some("9")),
            ],
        )
        .unwrap();
        let left = apply(&set, &none, &[change("retention.ms", DELETE, None)]).unwrap();
        assert_eq!(
            left,
            BTreeMap::from([("segment.ms".to_owned(), "9".to_owned())])
        );
        assert!(apply(&none, &none, &[change("retention.ms", APPEND, Some("5"))]).is_err());
    }
}
