//! AlterConfigs (key 33), v0–v2.
//! - Topics, brokers and groups: the given configs replace all that were set, durably, and are in force when answered. What can be set is said
//!   in `configs`.

use std::collections::BTreeMap;

use kafka_wire::alter_configs_request::AlterConfigsResource;
use kafka_wire::alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::{AlterConfigsRequest, AlterConfigsResponse};

use super::configs;
use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: AlterConfigsRequest) -> AlterConfigsResponse {
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
    message!(AlterConfigsResponse {
        responses: responses.collect()
    })
}

fn alter(
    core: &Core,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), (ErrorCode, String)> {
    let target = configs::target(core, resource.resource_type, &resource.resource_name)?;
    if let Some(config) = resource
        .configs
        .iter()
        .find(|config| config.value.is_none())
    {
        return Err((
            ErrorCode::InvalidRequest,
            format!("null value not supported for config {}", config.name),
        ));
    }
    configs::change(core, &target, validate_only, |table, _| {
        let mut checked = BTreeMap::new();
        for config in &resource.configs {
            let value = config.value.as_ref().map_or("", |value| value.as_str());
            checked.insert(
                config.name.as_str().to_owned(),
                table.check(&config.name, value)?,
            );
        }
        Ok(checked)
    })
}
