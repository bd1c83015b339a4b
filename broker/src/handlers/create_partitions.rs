//! CreatePartitions (key 37), v0–v3.
//! - Raises a topic's number of partitions; durable when answered. A manual assignment must name this broker alone.
//! - More partitions than `brooklet.partitions.max` leaves are refused (44).

use std::sync::Arc;

use kafka_wire::create_partitions_request::CreatePartitionsTopic;
use kafka_wire::create_partitions_response::CreatePartitionsTopicResult;
use kafka_wire::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::errors;
use crate::broker::Core;
use crate::metadata;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(
    core: &Arc<Core>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let results = request.topics.iter().map(|topic| {
        let mut result = message!(CreatePartitionsTopicResult {
            name: topic.name.clone()
        });
        if let Err((code, reason)) = create(core, topic, request.validate_only) {
            result.error_code = code.code();
            result.error_message = Some(reason.into());
        }
        result
    });
    message!(CreatePartitionsResponse {
        results: results.collect()
    })
}

fn create(
    core: &Arc<Core>,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), (ErrorCode, String)> {
    if metadata::is_internal(&topic.name) {
        // A group's partition follows from their number.
        return Err((
            ErrorCode::InvalidRequest,
            format!("topic {} is internal: its partitions are fixed", topic.name),
        ));
    }
    if let Some(assignments) = &topic.assignments {
        let added = core.topic(&topic.name).map_or(0, |existing| {
            topic.count.saturating_sub(existing.partition_count)
        });
        let here = [core.config.node_id];
        if usize::try_from(added) != Ok(assignments.len())
            || assignments
                .iter()
                .any(|assignment| assignment.broker_ids != here)
        {
            let reason = format!(
                "an assignment must name broker {} for each of the {added} new partition(s)",
                here[0]
            );
            return Err((ErrorCode::InvalidReplicaAssignment, reason));
        }
    }
    core.set_partition_count(&topic.name, topic.count, validate_only)
        .map_err(|error| errors::of_change(&error))
}
