//! DescribeQuorum (key 55), v0–v2.
//! - Partition 0 of `__cluster_metadata`: this node is the leader and the only voter, and nobody observes. What Kafka counts in records of its
//!   metadata log is here the number of commands that the metadata consists of. Any other partition is unknown (3).

use kafka_wire::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_wire::{DescribeQuorumRequest, DescribeQuorumResponse};

use crate::broker::Core;
use crate::metadata::Catalog;
use crate::protocol::{ErrorCode, message};

const METADATA_TOPIC: &str = "__cluster_metadata";

pub(super) fn handle(core: &Core, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let is_metadata = topic.topic_name.as_str() == METADATA_TOPIC;
        let partitions = topic.partitions.iter().map(|partition| {
            if is_metadata && partition.partition_index == 0 {
                describe(core)
            } else {
                message!(PartitionData {
                    partition_index: partition.partition_index,
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                    error_message: Some(ErrorCode::UnknownTopicOrPartition.message().into()),
                })
            }
        });
        message!(TopicData {
            partitions: partitions.collect(),
            topic_name: topic.topic_name,
        })
    });
    let topics = topics.collect();
    let (host, port) = core.endpoint();
    message!(DescribeQuorumResponse {
        topics: topics,
        nodes: vec![message!(Node {
            node_id: core.config.node_id,
            listeners: vec![message!(Listener {
                name: "CONTROLLER".into(),
                host: host.into(),
                port: port,
            })],
        })],
    })
}

fn describe(core: &Core) -> PartitionData {
    let end = i64::try_from(core.read_catalog(Catalog::replayed)).unwrap_or(i64::MAX);
    let now_ms = core.now_ms();
    message!(PartitionData {
        leader_id: core.config.node_id,
        leader_epoch: core.leader_epoch,
        high_watermark: end,
        current_voters: vec![message!(ReplicaState {
            replica_id: core.config.node_id,
            log_end_offset: end,
            last_fetch_timestamp: now_ms,
            last_caught_up_timestamp: now_ms,
        })],
    })
}
