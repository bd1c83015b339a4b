//! AlterConfigs (key 33), v0–v2.
//! - Topics: the given configs replace all that were set. In force when answered. Brokers' settings cannot be changed while they run.

use kafka_wire::alter_configs_request::AlterConfigsResource;
use kafka_wire::alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::{AlterConfigsRequest, AlterConfigsResponse};

use super::errors;
use crate::broker::Core;
use crate::metadata::{Refusal, topic_config};
use crate::protocol::{ErrorCode, message};

const TOPIC: i8 = 2;

pub(super) fn handle(core: &Core, request: AlterConfigsRequest) -> AlterConfigsResponse {
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
    message!(AlterConfigsResponse {
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
    let mut overrides = Vec::with_capacity(resource.configs.len());
    for config in &resource.configs {
        let Some(value) = &config.value else {
            return Err((
                ErrorCode::InvalidRequest,
                format!("null value not supported for topic config {}", config.name),
            ));
        };
        overrides.push((config.name.as_str(), value.as_str()));
    }
    core.set_topic_configs(&resource.resource_name, validate_only, |_| {
        topic_config::check_all(overrides).map_err(Refusal::InvalidConfig)
    })
    .map_err(|error| errors::of_change(&error))
}
