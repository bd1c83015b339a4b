//! DescribeTransactions (key 65), v0.
//! - What is durable of each transactional id: its producer, state, and the partitions of its open transaction.

use kafka_wire::describe_transactions_response::{TopicData, TransactionState};
use kafka_wire::{DescribeTransactionsRequest, DescribeTransactionsResponse};

use super::first_of_each;
use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(
    core: &Core,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let ids = first_of_each(request.transactional_ids, Clone::clone);
    let states = ids.map(|id| {
        let mut state = describe(core, &id);
        state.transactional_id = id;
        state
    });
    message!(DescribeTransactionsResponse {
        transaction_states: states.collect()
    })
}

fn describe(core: &Core, id: &str) -> TransactionState {
    let refused = |code: ErrorCode| {
        message!(TransactionState {
            error_code: code.code()
        })
    };
    if id.is_empty() {
        return refused(ErrorCode::InvalidRequest);
    }
    let Some(transaction) = core.transactions.describe(core, id) else {
        return refused(ErrorCode::TransactionalIdNotFound);
    };
    let partitions: Vec<_> = transaction.partitions.iter().collect();
    // They are sorted, so those of a topic are neighbours.
    let topics = partitions
        .chunk_by(|left, right| left.0 == right.0)
        .map(|of_topic| {
            message!(TopicData {
                topic: of_topic.first().map_or("", |(topic, _)| topic).into(),
                partitions: of_topic.iter().map(|(_, index)| *index).collect(),
            })
        });
    message!(TransactionState {
        transaction_state: transaction.state.name().into(),
        transaction_timeout_ms: transaction.timeout_ms,
        transaction_start_time_ms: transaction.start_ms,
        producer_id: transaction.producer_id,
        producer_epoch: transaction.producer_epoch,
        topics: topics.collect(),
    })
}
