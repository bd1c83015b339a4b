//! ElectLeaders (key 43), v0–v2.
//! - The only replica of a partition leads it: no election is needed (84), preferred or unclean. Asked for all partitions, Kafka leaves out
//!   those that need none, so the answer is empty.

use kafka_wire::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_wire::{ElectLeadersRequest, ElectLeadersResponse};

use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: ElectLeadersRequest) -> ElectLeadersResponse {
    // Preferred, or unclean.
    if !(0..=1).contains(&request.election_type) {
        return message!(ElectLeadersResponse {
            error_code: ErrorCode::InvalidRequest.code()
        });
    }
    let topics = request.topic_partitions.unwrap_or_default();
    let results = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            let code = match core.partition(&topic.topic, *index) {
                Some(_) => ErrorCode::ElectionNotNeeded,
                None => ErrorCode::UnknownTopicOrPartition,
            };
            message!(PartitionResult {
                partition_id: *index,
                error_code: code.code(),
                error_message: Some(code.message().into()),
            })
        });
        message!(ReplicaElectionResult {
            partition_result: partitions.collect(),
            topic: topic.topic,
        })
    });
    message!(ElectLeadersResponse {
        replica_election_results: results.collect()
    })
}
