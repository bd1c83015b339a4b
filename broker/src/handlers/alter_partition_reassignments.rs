//! AlterPartitionReassignments (key 45), v0–v1.
//! - There is one broker: an assignment to it alone is what is there already and succeeds, any other is invalid (39). Nothing is ever being
//!   reassigned, so a cancellation (null) finds nothing (85).

use kafka_wire::alter_partition_reassignments_request::ReassignablePartition;
use kafka_wire::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_wire::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};

use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(
    core: &Core,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let allow_replication_factor_change = request.allow_replication_factor_change;
    let responses = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let mut response = message!(ReassignablePartitionResponse {
                partition_index: partition.partition_index,
            });
            if let Err((code, reason)) = check(core, &topic.name, partition) {
                response.error_code = code.code();
                response.error_message = Some(reason.into());
            }
            response
        });
        message!(ReassignableTopicResponse {
            partitions: partitions.collect(),
            name: topic.name,
        })
    });
    message!(AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: allow_replication_factor_change,
        responses: responses.collect(),
    })
}

fn check(
    core: &Core,
    topic: &str,
    partition: &ReassignablePartition,
) -> Result<(), (ErrorCode, String)> {
    let refused = |code: ErrorCode| Err((code, code.message().to_owned()));
    let invalid = |reason: String| Err((ErrorCode::InvalidReplicaAssignment, reason));
    if core.partition(topic, partition.partition_index).is_none() {
        return refused(ErrorCode::UnknownTopicOrPartition);
    }
    let node_id = core.config.node_id;
    match partition.replicas.as_deref() {
        None => refused(ErrorCode::NoReassignmentInProgress),
        Some([]) => invalid("the replica list must not be empty".into()),
        Some([only]) if *only == node_id => Ok(()),
        Some(replicas) => match replicas.iter().find(|replica| **replica != node_id) {
            Some(other) => invalid(format!(
                "there is no broker {other}: the only one is {node_id}"
            )),
            None => invalid(format!("broker {node_id} is in the list more than once")),
        },
    }
}
