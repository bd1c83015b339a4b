//! IncrementalAlterConfigs (key 44), v0–v1.
//! - Topics, brokers and groups: set, delete, and for lists append and subtract; durable and in force when answered. What can be set is said in
//!   `configs`.

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_wire::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::configs::{self, Table};
use crate::broker::Core;
use crate::metadata::{Refusal, topic_config};
use crate::protocol::{ErrorCode, message};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(super) fn handle(
    core: &Core,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let key =
        |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    let repeated = configs::repeated(request.resources.iter().map(key));
    let responses = request.resources.iter().map(|resource| {
        let mut response = message!(AlterConfigsResourceResponse {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
        });
        let altered = if repeated.get(&key(resource)) == Some(&true) {
            Err(configs::named_again())
        } else {
            alter(core, resource, request.validate_only)
        };
        if let Err((code, reason)) = altered {
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
    let target = configs::target(core, resource.resource_type, &resource.resource_name)?;
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
    let defaults = core.topic_defaults();
    configs::change(core, &target, validate_only, |table, current| {
        apply(table, current, &defaults, &resource.configs)
    })
}

fn apply(
    table: Table<'_>,
    current: &BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
    changes: &[AlterableConfig],
) -> Result<BTreeMap<String, String>, Refusal> {
    let none = BTreeMap::new();
    let mut configs = current.clone();
    for change in changes {
        let name = change.name.as_str();
        table.knows(name)?;
        let value = change.value.as_ref().map_or("", |value| value.as_str());
        if change.config_operation != DELETE && change.value.is_none() {
            return Err(Refusal::InvalidConfig(format!(
                "null value not supported for config {name}"
            )));
        }
        let list = table.list(name).map(|definition| {
            let in_force = match configs.get(name) {
                Some(value) => value,
                None => topic_config::effective(definition, &none, defaults).0,
            };
            let words = in_force.split(',').filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        });
        let value = match (change.config_operation, list) {
            (SET, _) => value.to_owned(),
            (DELETE, _) => {
                configs.remove(name);
                continue;
            }
            (APPEND, Some(mut words)) => {
                for word in value.split(',').map(str::trim) {
                    if !words.iter().any(|other| other == word) {
                        words.push(word.to_owned());
                    }
                }
                words.join(",")
            }
            (SUBTRACT, Some(mut words)) => {
                words.retain(|word| !value.split(',').any(|other| other.trim() == word));
                words.join(",")
            }
            (APPEND | SUBTRACT, None) => {
                return Err(Refusal::InvalidConfig(format!(
                    "config {name} is not a list"
                )));
            }
            (other, _) => {
                return Err(Refusal::InvalidConfig(format!(
                    "unknown operation {other} on config {name}"
                )));
            }
        };
        configs.insert(name.to_owned(), table.check(name, &value)?);
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
            Table::Topic,
            &none,
            &none,
            &[change("cleanup.policy", APPEND, Some("compact"))],
        )
        .unwrap();
        assert_eq!(grown.get("cleanup.policy").unwrap(), "delete,compact");
        let shrunk = apply(
            Table::Topic,
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
            Table::Topic,
            &none,
            &none,
            &[
                change("retention.ms", SET, Some("5")),
                change("segment.ms", SET, Some("9")),
            ],
        )
        .unwrap();
        let left = apply(
            Table::Topic,
            &set,
            &none,
            &[change("retention.ms", DELETE, None)],
        )
        .unwrap();
        assert_eq!(
            left,
            BTreeMap::from([("segment.ms".to_owned(), "9".to_owned())])
        );
        assert!(
            apply(
                Table::Topic,
                &none,
                &none,
                &[change("retention.ms", APPEND, Some("5"))]
            )
            .is_err()
        );
    }
}
