//! One file an API: what it does, then how. A handler takes one struct, keeps no state (what fetching clients were told is the
//! core's, its rules in `fetch_sessions`), and either returns its answer or, where it may
//! have to wait, is given whom to answer.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::broker::{Answer, Core};
use crate::protocol::{Request, RequestContext};

pub(crate) use errors::of_transaction;
pub(crate) use fetch::count_fetched;
pub(crate) use fetch_sessions::FetchSessions;

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
mod alter_partition_reassignments;
mod alter_replica_log_dirs;
mod api_versions;
mod configs;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod elect_leaders;
mod end_txn;
mod errors;
mod fetch;
mod fetch_sessions;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod streams_group_describe;
mod streams_group_heartbeat;
mod sync_group;
mod txn_offset_commit;
mod unregister_broker;
mod update_features;
mod write_txn_markers;

/// How long a request waits at most, whatever it asks for: it is kept for its client, which may be gone.
const WAIT_MS_MAX: i64 = 60_000;

/// What may be done to a topic, a bit for each of Kafka's operations: read, write, create, delete, alter, describe, and its configs. Nothing
/// is authorized, so everybody may do everything.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// What may be done to the cluster.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// Nobody asked.
const NO_OPERATIONS: i32 = i32::MIN;

/// What a request names, each once: a few bytes that name a thing again must not be answered with all of it again.
fn first_of_each<T, K: Eq + Hash>(
    named: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> impl Iterator<Item = T> {
    let mut seen = HashSet::new();
    named.into_iter().filter(move |item| seen.insert(key(item)))
}

/// Handles one request. The answer comes at once, or when what it waits for has come or its time is up.
pub(crate) fn handle(core: &Arc<Core>, context: &RequestContext, request: Request, answer: Answer) {
    match request {
        Request::Produce(request) => produce::handle(core, context, request, answer),
        Request::Fetch(request) => fetch::handle(core, context, request, answer),
        Request::OffsetCommit(request) => offset_commit::handle(core, context, request, answer),
        Request::JoinGroup(request) => join_group::handle(core, context, request, answer),
        Request::StreamsGroupHeartbeat(request) => {
            streams_group_heartbeat::handle(core, context, request, answer);
        }
        Request::StreamsGroupDescribe(request) => {
            answer(streams_group_describe::handle(core, request).into());
        }
        Request::SyncGroup(request) => sync_group::handle(core, request, answer),
        Request::DeleteGroups(request) => delete_groups::handle(core, request, answer),
        Request::OffsetDelete(request) => offset_delete::handle(core, request, answer),
        Request::ListOffsets(request) => answer(list_offsets::handle(core, request).into()),
        Request::Metadata(request) => answer(metadata::handle(core, request).into()),
        Request::OffsetFetch(request) => {
            answer(offset_fetch::handle(core, context, request).into())
        }
        Request::FindCoordinator(request) => answer(find_coordinator::handle(core, request).into()),
        Request::Heartbeat(request) => answer(heartbeat::handle(core, request).into()),
        Request::LeaveGroup(request) => leave_group::handle(core, request, answer),
        Request::ConsumerGroupHeartbeat(request) => {
            consumer_group_heartbeat::handle(core, context, request, answer);
        }
        Request::ConsumerGroupDescribe(request) => {
            consumer_group_describe::handle(core, request, answer);
        }
        Request::DescribeGroups(request) => answer(describe_groups::handle(core, request).into()),
        Request::ListGroups(request) => answer(list_groups::handle(core, request).into()),
        Request::ApiVersions(request) => answer(api_versions::handle(request).into()),
        Request::CreateTopics(request) => {
            answer(create_topics::handle(core, context, request).into())
        }
        Request::DeleteTopics(request) => answer(delete_topics::handle(core, request).into()),
        Request::DeleteRecords(request) => answer(delete_records::handle(core, request).into()),
        Request::InitProducerId(request) => init_producer_id::handle(core, request, answer),
        Request::AddPartitionsToTxn(request) => {
            add_partitions_to_txn::handle(core, context, request, answer)
        }
        Request::AddOffsetsToTxn(request) => add_offsets_to_txn::handle(core, request, answer),
        Request::EndTxn(request) => end_txn::handle(core, context, request, answer),
        Request::TxnOffsetCommit(request) => {
            txn_offset_commit::handle(core, context, request, answer)
        }
        Request::DescribeTransactions(request) => {
            answer(describe_transactions::handle(core, request).into())
        }
        Request::ListTransactions(request) => {
            answer(list_transactions::handle(core, request).into())
        }
        Request::WriteTxnMarkers(request) => write_txn_markers::handle(core, request, answer),
        Request::DescribeProducers(request) => {
            answer(describe_producers::handle(core, request).into())
        }
        Request::OffsetForLeaderEpoch(request) => {
            answer(offset_for_leader_epoch::handle(core, request).into())
        }
        Request::DescribeConfigs(request) => answer(describe_configs::handle(core, request).into()),
        Request::AlterConfigs(request) => answer(alter_configs::handle(core, request).into()),
        Request::IncrementalAlterConfigs(request) => {
            answer(incremental_alter_configs::handle(core, request).into())
        }
        Request::CreatePartitions(request) => {
            answer(create_partitions::handle(core, request).into())
        }
        Request::ListPartitionReassignments(_) => {
            answer(list_partition_reassignments::handle().into());
        }
        Request::AlterPartitionReassignments(request) => {
            answer(alter_partition_reassignments::handle(core, request).into())
        }
        Request::AlterReplicaLogDirs(request) => {
            answer(alter_replica_log_dirs::handle(core, request).into())
        }
        Request::DescribeLogDirs(request) => {
            answer(describe_log_dirs::handle(core, request).into())
        }
        Request::DescribeQuorum(request) => answer(describe_quorum::handle(core, request).into()),
        Request::ElectLeaders(request) => answer(elect_leaders::handle(core, request).into()),
        Request::ListConfigResources(request) => {
            answer(list_config_resources::handle(core, request).into())
        }
        Request::UnregisterBroker(request) => {
            answer(unregister_broker::handle(core, request).into())
        }
        Request::UpdateFeatures(request) => answer(update_features::handle(request).into()),
        Request::DescribeCluster(request) => answer(describe_cluster::handle(core, request).into()),
        Request::DescribeTopicPartitions(request) => {
            answer(describe_topic_partitions::handle(core, request).into())
        }
    }
}
