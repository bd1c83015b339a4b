//! DescribeTopicPartitions (key 75), v0.
//! - Topics in order of name, at most `response_partition_limit` partitions (2000), and a cursor where to go on. No topics asks for all.

use kafka_wire::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_wire::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

use super::TOPIC_OPERATIONS;
use crate::broker::Core;
use crate::metadata;
use crate::protocol::{ErrorCode, message, wire_id};

const PARTITIONS_MAX: i32 = 2000;

pub(super) fn handle(
    core: &Core,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let mut names: Vec<String> = if request.topics.is_empty() {
        core.read_catalog(|catalog| {
            catalog
                .topics()
                .map(|topic| topic.name.to_string())
                .collect()
        })
    } else {
        request
            .topics
            .iter()
            .map(|topic| topic.name.as_str().to_owned())
            .collect()
    };
    names.sort_unstable();
    names.dedup();
    let (first_name, first_index) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), cursor.partition_index.max(0)),
        None => ("", 0),
    };
    let mut left = request.response_partition_limit.clamp(1, PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.iter().filter(|name| name.as_str() >= first_name) {
        let first = if name == first_name { first_index } else { 0 };
        if left == 0 {
            response.next_cursor = Some(message!(Cursor {
                topic_name: name.as_str().into(),
                partition_index: first
            }));
            break;
        }
        let Some(topic) = core.topic(name) else {
            let valid = metadata::check_topic_name(name).is_ok();
            let code = if valid {
                ErrorCode::UnknownTopicOrPartition
            } else {
                ErrorCode::InvalidTopic
            };
            response
                .topics
                .push(message!(DescribeTopicPartitionsResponseTopic {
                    error_code: code.code(),
                    name: Some(name.as_str().into()),
                }));
            continue;
        };
        let end = topic.partition_count.min(first.saturating_add(left));
        let node_id = core.config.node_id;
        let partitions = (first..end).map(|index| {
            message!(DescribeTopicPartitionsResponsePartition {
                partition_index: index,
                leader_id: node_id,
                leader_epoch: core.leader_epoch,
                replica_nodes: vec![node_id],
                isr_nodes: vec![node_id],
                eligible_leader_replicas: Some(Vec::new()),
                last_known_elr: Some(Vec::new()),
            })
        });
        response
            .topics
            .push(message!(DescribeTopicPartitionsResponseTopic {
                name: Some(name.as_str().into()),
                topic_id: wire_id(topic.id),
                is_internal: metadata::is_internal(name),
                partitions: partitions.collect(),
                topic_authorized_operations: TOPIC_OPERATIONS,
            }));
        left -= (end - first).max(0);
        if end < topic.partition_count {
            response.next_cursor = Some(message!(Cursor {
                topic_name: name.as_str().into(),
                partition_index: end
            }));
            break;
        }
    }
    response
}
