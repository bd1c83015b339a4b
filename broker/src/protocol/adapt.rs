//! Old shapes of messages into the newest, and back: what a handler never has to know.
//!
//! Lifting happens after decoding: a list of one where an older version had a single field, names where it had them elsewhere.
//! Lowering happens before encoding: fields that the asked version cannot carry are folded or dropped, as Kafka's own
//! message classes do on write.

use kafka_wire as wire;

use super::{ErrorCode, Request, Response, message};

/// Operations that an old request did not ask for.
const NO_AUTHORIZED_OPERATIONS: i32 = i32::MIN;

/// The only configs that ListConfigResources v0 lists.
const CLIENT_METRICS: i8 = 16;

pub(super) fn lift(request: &mut Request, version: i16) {
    match request {
        Request::FindCoordinator(body) if version < 4 => {
            body.coordinator_keys = vec![std::mem::take(&mut body.key)];
        }
        Request::OffsetFetch(body) if version < 8 => {
            let topics = body.topics.replace(Vec::new());
            let topics = topics.map(|topics| {
                let lift = |topic: wire::offset_fetch_request::OffsetFetchRequestTopic| {
                    message!(wire::offset_fetch_request::OffsetFetchRequestTopics {
                        name: topic.name,
                        partition_indexes: topic.partition_indexes,
                    })
                };
                topics.into_iter().map(lift).collect()
            });
            body.groups = vec![message!(
                wire::offset_fetch_request::OffsetFetchRequestGroup {
                    group_id: std::mem::take(&mut body.group_id),
                    topics: topics,
                }
            )];
        }
        Request::DeleteTopics(body) if version < 6 => {
            let lift =
                |name| message!(wire::delete_topics_request::DeleteTopicState { name: Some(name) });
            body.topics = std::mem::take(&mut body.topic_names)
                .into_iter()
                .map(lift)
                .collect();
        }
        Request::LeaveGroup(body) if version < 3 => {
            body.members = vec![message!(wire::leave_group_request::MemberIdentity {
                member_id: std::mem::take(&mut body.member_id),
            })];
        }
        // Version 0 cannot say null: there an empty list asks for every topic, later it asks for none.
        Request::Metadata(body)
            if version == 0 && body.topics.as_ref().is_some_and(Vec::is_empty) =>
        {
            body.topics = None;
        }
        Request::ListConfigResources(body) if version == 0 => {
            body.resource_types = vec![CLIENT_METRICS];
        }
        Request::AddPartitionsToTxn(body) if version < 4 => {
            body.transactions = vec![message!(
                wire::add_partitions_to_txn_request::AddPartitionsToTxnTransaction {
                    transactional_id: std::mem::take(&mut body.v3_and_below_transactional_id),
                    producer_id: body.v3_and_below_producer_id,
                    producer_epoch: body.v3_and_below_producer_epoch,
                    topics: std::mem::take(&mut body.v3_and_below_topics),
                }
            )];
        }
        Request::JoinGroup(body) if version == 0 => {
            body.rebalance_timeout_ms = body.session_timeout_ms
        }
        Request::ListOffsets(body) => {
            let topics = body.topics.iter_mut();
            for partition in topics.flat_map(|topic| &mut topic.partitions) {
                if version < special_timestamp_since(partition.timestamp) {
                    partition.timestamp = i64::MIN;
                }
            }
        }
        _ => {}
    }
}

/// The version of ListOffsets that gave a timestamp below zero its meaning. What has none is left as it is, to be refused.
fn special_timestamp_since(timestamp: i64) -> i16 {
    match timestamp {
        // The highest timestamp.
        -3 => 7,
        // The start of what is on this broker's disk, of what is in a tier, and of what is to go there.
        -4 => 8,
        -5 => 9,
        -6 => 11,
        _ => 0,
    }
}

pub(super) fn lower(response: &mut Response, version: i16) {
    match response {
        // Before version 4 a range that starts at zero could not be said; before version 3 none could.
        Response::ApiVersions(body) => {
            if version < 4 {
                body.supported_features
                    .retain(|feature| feature.min_version > 0);
            }
            if version < 3 {
                body.supported_features.clear();
                body.finalized_features.clear();
                body.finalized_features_epoch = -1;
            }
        }
        Response::AlterPartitionReassignments(body) if version < 1 => {
            body.allow_replication_factor_change = true;
        }
        Response::DescribeQuorum(body) if version < 2 => {
            body.nodes.clear();
            for replica in body
                .topics
                .iter_mut()
                .flat_map(|topic| &mut topic.partitions)
                .flat_map(|partition| {
                    partition
                        .current_voters
                        .iter_mut()
                        .chain(&mut partition.observers)
                })
            {
                replica.replica_directory_id = Default::default();
            }
        }
        Response::InitProducerId(body) if version < 4 => {
            body.error_code = fenced_before(body.error_code);
        }
        Response::AddPartitionsToTxn(body) if version < 4 => {
            if let Some(only) = body.results_by_transaction.pop() {
                body.results_by_topic_v3_and_below = only.topic_results;
            }
            body.results_by_transaction.clear();
            if version < 2 {
                for partition in body
                    .results_by_topic_v3_and_below
                    .iter_mut()
                    .flat_map(|topic| &mut topic.results_by_partition)
                {
                    partition.partition_error_code = fenced_before(partition.partition_error_code);
                }
            }
        }
        Response::AddOffsetsToTxn(body) if version < 2 => {
            body.error_code = fenced_before(body.error_code);
        }
        Response::EndTxn(body) => {
            if version < 2 {
                body.error_code = fenced_before(body.error_code);
            }
            if version < 5 {
                body.producer_id = -1;
                body.producer_epoch = -1;
            }
        }
        Response::ElectLeaders(body) if version < 1 => body.error_code = 0,
        // From version 2 on there is one error for all.
        Response::UpdateFeatures(body) if version >= 2 => body.results.clear(),
        Response::Produce(body) if version < 10 => {
            body.node_endpoints.clear();
            for partition in body
                .responses
                .iter_mut()
                .flat_map(|topic| &mut topic.partition_responses)
            {
                partition.current_leader = Default::default();
            }
        }
        Response::Fetch(body) => lower_fetch(body, version),
        Response::StoredFetch(answer) => lower_fetch(&mut answer.response, version),
        Response::Metadata(body) => {
            if !(8..=10).contains(&version) {
                body.cluster_authorized_operations = NO_AUTHORIZED_OPERATIONS;
            }
            for topic in &mut body.topics {
                if version < 8 {
                    topic.topic_authorized_operations = NO_AUTHORIZED_OPERATIONS;
                }
                if version <= 11 && topic.name.is_none() {
                    topic.name = Some("".into());
                }
            }
        }
        Response::ListOffsets(body) if version < 4 => {
            for partition in body
                .topics
                .iter_mut()
                .flat_map(|topic| &mut topic.partitions)
            {
                partition.leader_epoch = -1;
            }
        }
        Response::FindCoordinator(body) if version < 4 => {
            if let Some(only) = body.coordinators.pop() {
                body.error_code = only.error_code;
                body.error_message = only.error_message;
                body.node_id = only.node_id;
                body.host = only.host;
                body.port = only.port;
            }
            body.coordinators.clear();
        }
        Response::OffsetFetch(body) if version < 8 => {
            if let Some(only) = body.groups.pop() {
                body.error_code = only.error_code;
                body.topics = only
                    .topics
                    .into_iter()
                    .map(lower_offset_fetch_topic)
                    .collect();
            }
            body.groups.clear();
            if version < 2 && body.error_code != 0 {
                // Version 1 has no place for the group's error but the partitions.
                for partition in body
                    .topics
                    .iter_mut()
                    .flat_map(|topic| &mut topic.partitions)
                {
                    partition.error_code = body.error_code;
                }
            }
        }
        Response::JoinGroup(body) => {
            if version < 9 {
                body.skip_assignment = false;
            }
            if version < 7 && body.protocol_name.is_none() {
                body.protocol_name = Some("".into());
            }
            if version < 5 {
                for member in &mut body.members {
                    member.group_instance_id = None;
                }
            }
        }
        Response::LeaveGroup(body) if version < 3 => {
            if let Some(only) = body.members.pop()
                && body.error_code == 0
            {
                body.error_code = only.error_code;
            }
            body.members.clear();
        }
        Response::DescribeGroups(body) => {
            for group in &mut body.groups {
                if version < 3 {
                    group.authorized_operations = NO_AUTHORIZED_OPERATIONS;
                }
                if version < 4 {
                    for member in &mut group.members {
                        member.group_instance_id = None;
                    }
                }
                if version < 6 {
                    group.error_message = None;
                    // Before version 6 a group that is not there is described as dead, without an error.
                    if group.error_code == ErrorCode::GroupIdNotFound.code() {
                        group.error_code = 0;
                    }
                }
            }
        }
        Response::DeleteTopics(body) if version < 6 => {
            for topic in &mut body.responses {
                if topic.name.is_none() {
                    topic.name = Some("".into());
                }
            }
        }
        Response::DescribeCluster(body) => {
            if version < 1 {
                body.endpoint_type = 1;
            }
            if version < 2 {
                for broker in &mut body.brokers {
                    broker.is_fenced = false;
                }
            }
        }
        _ => {}
    }
}

/// Clients learnt PRODUCER_FENCED late: before, a fenced producer's epoch was not valid.
fn lower_fetch(body: &mut wire::FetchResponse, version: i16) {
    if version < 16 {
        body.node_endpoints.clear();
    }
    if version < 12 {
        for partition in body
            .responses
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            partition.current_leader = Default::default();
            partition.diverging_epoch = Default::default();
        }
    }
}

fn fenced_before(code: i16) -> i16 {
    if code == ErrorCode::ProducerFenced.code() {
        ErrorCode::InvalidProducerEpoch.code()
    } else {
        code
    }
}

fn lower_offset_fetch_topic(
    topic: wire::offset_fetch_response::OffsetFetchResponseTopics,
) -> wire::offset_fetch_response::OffsetFetchResponseTopic {
    let lower = |partition: wire::offset_fetch_response::OffsetFetchResponsePartitions| {
        message!(wire::offset_fetch_response::OffsetFetchResponsePartition {
            partition_index: partition.partition_index,
            committed_offset: partition.committed_offset,
            committed_leader_epoch: partition.committed_leader_epoch,
            metadata: partition.metadata,
            error_code: partition.error_code,
        })
    };
    message!(wire::offset_fetch_response::OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(lower).collect(),
    })
}
