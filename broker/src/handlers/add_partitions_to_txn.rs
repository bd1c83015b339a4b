//! AddPartitionsToTxn (key 24), v0–v5.
//! - Adds partitions to the open transaction, or begins one; answered when that is durable. A partition that is not there is refused (3), and
//!   with it the others (55).
//! - v4 asks for several transactions at once, and may only verify that partitions are in them: what brokers ask each other in Kafka.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kafka_wire::add_partitions_to_txn_request::AddPartitionsToTxnTransaction;
use kafka_wire::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_wire::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::transaction::{Producer, Request, TopicPartition};
use crate::protocol::{ErrorCode, RequestContext, message};

/// Answers once every transaction of the request has its result.
struct Collected {
    results: Vec<Option<AddPartitionsToTxnResult>>,
    answer: Option<Answer>,
}

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: AddPartitionsToTxnRequest,
    answer: Answer,
) {
    if request.transactions.is_empty() {
        return answer(AddPartitionsToTxnResponse::default().into());
    }
    let collected = Arc::new(Mutex::new(Collected {
        results: vec![None; request.transactions.len()],
        answer: Some(answer),
    }));
    for (at, transaction) in request.transactions.into_iter().enumerate() {
        let collected = collected.clone();
        let done = move |result: AddPartitionsToTxnResult| {
            let mut state = collected.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = state.results.get_mut(at) {
                *slot = Some(result);
            }
            if state.results.iter().all(Option::is_some)
                && let Some(answer) = state.answer.take()
            {
                let results = std::mem::take(&mut state.results);
                drop(state);
                let response = message!(AddPartitionsToTxnResponse {
                    results_by_transaction: results.into_iter().flatten().collect()
                });
                answer(response.into());
            }
        };
        one(core, context, transaction, done);
    }
}

fn one(
    core: &Arc<Core>,
    context: &RequestContext,
    transaction: AddPartitionsToTxnTransaction,
    done: impl FnOnce(AddPartitionsToTxnResult) + Send + 'static,
) {
    let is_there = |topic: &str, index: i32| {
        core.topic(topic)
            .is_some_and(|topic| (0..topic.partition_count).contains(&index))
    };
    let mut partitions: BTreeSet<TopicPartition> = BTreeSet::new();
    let mut is_refused = false;
    for topic in &transaction.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for index in &topic.partitions {
            is_refused |= !is_there(&name, *index);
            partitions.insert((name.clone(), *index));
        }
    }
    let by = Producer {
        id: transaction.producer_id,
        epoch: transaction.producer_epoch,
    };
    if is_refused {
        let result = respond(&transaction, |topic, index| {
            if is_there(topic, index) {
                ErrorCode::OperationNotAttempted
            } else {
                ErrorCode::UnknownTopicOrPartition
            }
        });
        return done(result);
    }
    if transaction.verify_only {
        let id = transaction.transactional_id.clone();
        let result = respond(&transaction, |topic, index| {
            let verified = core
                .transactions
                .verify(core, &id, by, &(topic.into(), index));
            match verified.map_err(errors::of_transaction) {
                Ok(()) => ErrorCode::None,
                Err(ErrorCode::TransactionAbortable) if !context.knows_abortable => {
                    ErrorCode::InvalidTxnState
                }
                Err(code) => code,
            }
        });
        return done(result);
    }
    core.transactions.handle(
        core,
        &transaction.transactional_id.clone(),
        Request::AddPartitions {
            producer_id: by.id,
            producer_epoch: by.epoch,
            partitions,
            client_version: context.transaction_version,
        },
        Box::new(move |result| {
            let code = errors::of_transaction_result(&result);
            done(respond(&transaction, |_, _| code));
        }),
    );
}

fn respond(
    transaction: &AddPartitionsToTxnTransaction,
    code: impl Fn(&str, i32) -> ErrorCode,
) -> AddPartitionsToTxnResult {
    let topics = transaction.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            message!(AddPartitionsToTxnPartitionResult {
                partition_index: *index,
                partition_error_code: code(&topic.name, *index).code(),
            })
        });
        message!(AddPartitionsToTxnTopicResult {
            name: topic.name.clone(),
            results_by_partition: partitions.collect(),
        })
    });
    message!(AddPartitionsToTxnResult {
        transactional_id: transaction.transactional_id.clone(),
        topic_results: topics.collect(),
    })
}
