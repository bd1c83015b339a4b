//! ListConfigResources (key 74), v0–v1.
//! - What can have configs, of the asked types, or of all when none is asked: topics, this broker and its loggers, and the groups that have
//!   configs. v0 asks for client metrics subscriptions alone, of which there are none. Another type is refused (35).

use kafka_wire::list_config_resources_response::ConfigResource;
use kafka_wire::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use super::first_of_each;
use crate::broker::Core;
use crate::metadata;
use crate::protocol::{ErrorCode, message};

const ALL: &[i8] = &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

pub(super) fn handle(
    core: &Core,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let mut types = request.resource_types;
    if types.is_empty() {
        types = ALL.to_vec();
    }
    if types.iter().any(|kind| !ALL.contains(kind)) {
        return message!(ListConfigResourcesResponse {
            error_code: ErrorCode::UnsupportedVersion.code()
        });
    }
    let resources = first_of_each(types, |kind| *kind).flat_map(|kind| {
        names(core, kind).into_iter().map(move |name| {
            message!(ConfigResource {
                resource_name: name.into(),
                resource_type: kind,
            })
        })
    });
    message!(ListConfigResourcesResponse {
        config_resources: resources.collect()
    })
}

fn names(core: &Core, kind: i8) -> Vec<String> {
    match kind {
        TOPIC => core.read_catalog(|catalog| {
            catalog
                .topics()
                .map(|topic| topic.name.to_string())
                .collect()
        }),
        BROKER | BROKER_LOGGER => vec![core.config.node_id.to_string()],
        GROUP => core.read_catalog(|catalog| {
            let group = |resource: &metadata::ConfigResource| match resource {
                metadata::ConfigResource::Group(group) => Some(group.clone()),
                metadata::ConfigResource::Broker(_) => None,
            };
            catalog.configured().filter_map(group).collect()
        }),
        _ => Vec::new(),
    }
}
