//! TxnOffsetCommit (key 28), v0–v5.
//! - Commits offsets in a producer's transaction: durable when answered, counting once the transaction commits.
//! - v3: the member, generation and instance of the consumer, so that one that was replaced is refused (KIP-447).
//! - v5 adds the group's partition of `__consumer_offsets` to the transaction. Before, AddOffsetsToTxn must have done it (KIP-890).

use std::sync::Arc;

use kafka_wire::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_wire::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::{errors, offset_commit};
use crate::broker::{Answer, Core};
use crate::coordinator::group::{MemberRef, TransactionalWriter};
use crate::coordinator::transaction::{Producer, Request};
use crate::metadata::OFFSETS_TOPIC;
use crate::protocol::{ErrorCode, RequestContext, message};

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: TxnOffsetCommitRequest,
    answer: Answer,
) {
    let now_ms = core.now_ms();
    let mut offsets = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let known = core.topic(&topic.name);
        let partitions = topic.partitions.into_iter().map(|partition| {
            let committed = match &known {
                None => Err(ErrorCode::UnknownTopicOrPartition),
                Some(known) => offset_commit::checked(
                    core,
                    known,
                    partition.partition_index,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata,
                    now_ms,
                ),
            };
            let code = match committed {
                Ok(committed) => {
                    let name = topic.name.as_str().to_owned();
                    offsets.push((name, partition.partition_index, committed));
                    ErrorCode::None
                }
                Err(code) => code,
            };
            message!(TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code.code()
            })
        });
        topics.push(message!(TxnOffsetCommitResponseTopic {
            partitions: partitions.collect(),
            name: topic.name
        }));
    }
    let mut response = message!(TxnOffsetCommitResponse { topics: topics });
    let respond = move |code: ErrorCode| {
        if code != ErrorCode::None {
            let topics = response.topics.iter_mut();
            for partition in topics.flat_map(|topic| &mut topic.partitions) {
                if partition.error_code == 0 {
                    partition.error_code = code.code();
                }
            }
        }
        answer(response.into());
    };
    if request.group_id.is_empty() {
        return respond(ErrorCode::InvalidGroupId);
    }
    if offsets.is_empty() {
        return respond(ErrorCode::None);
    }
    if core.ensure_offsets_topic().is_err() {
        return respond(ErrorCode::CoordinatorNotAvailable);
    }
    let Some(partition) = core.offsets_partition(&request.group_id) else {
        return respond(ErrorCode::CoordinatorNotAvailable);
    };
    let by = Producer {
        id: request.producer_id,
        epoch: request.producer_epoch,
    };
    let (version, knows_abortable) = (context.transaction_version, context.knows_abortable);
    let begin = {
        let partition = partition.clone();
        move || {
            partition
                .begin_verification(by.id, by.epoch, 0, version, now_ms)
                .map_err(|error| errors::of_partition(&error))
        }
    };
    let guard = match begin() {
        Ok(guard) => guard,
        Err(code) => return respond(code),
    };
    let member = MemberRef {
        member_id: request.member_id.into_string(),
        instance_id: request.group_instance_id.map(|id| id.into_string()),
        generation: request.generation_id_or_member_epoch,
    };
    let group = request.group_id.into_string();
    let commit = {
        let core = core.clone();
        move |verified| match verified {
            Err(code) => respond(code),
            Ok(guard) => core.groups.commit_in_transaction(
                &core,
                &group,
                &member,
                TransactionalWriter {
                    producer_id: by.id,
                    producer_epoch: by.epoch,
                    guard,
                },
                offsets,
                Box::new(move |committed| respond(errors::of_group_result(&committed))),
            ),
        }
    };
    if guard.is_none() {
        return commit(Ok(None));
    }
    let code_of = move |error| errors::of_verification(error, version, knows_abortable);
    let of_group = (Arc::from(OFFSETS_TOPIC), partition.index());
    let id = request.transactional_id;
    let verify = {
        let (core, id, of_group) = (core.clone(), id.clone(), of_group.clone());
        move |guard| {
            let found = core.transactions.verify(&core, &id, by, &of_group);
            found.map(|()| guard).map_err(code_of)
        }
    };
    if version < 2 {
        return commit(verify(guard));
    }
    let add = Request::AddPartitions {
        producer_id: by.id,
        producer_epoch: by.epoch,
        partitions: [of_group].into(),
        client_version: version,
    };
    // As with Produce: the marker of the transaction before may have taken back the leave to begin another.
    core.transactions.handle(
        core,
        &id,
        add,
        Box::new(move |added| match added {
            Ok(_) => commit(begin().and_then(verify)),
            Err(error) => commit(Err(code_of(error))),
        }),
    );
}
