//! ListTransactions (key 66), v0–v2.
//! - Filters: states (unknown ones are named in the answer), producer ids; v1: open for longer than a duration; v2: a regular expression
//!   that the whole transactional id has to match. Its syntax is that of the `regex` crate, which RE2's, and so Kafka's, is close to.

use std::collections::HashSet;

use kafka_wire::list_transactions_response::TransactionState;
use kafka_wire::{ListTransactionsRequest, ListTransactionsResponse};
use regex::Regex;

use crate::broker::Core;
use crate::coordinator::transaction::State;
use crate::protocol::{ErrorCode, message};

/// Bound on what a client's expression may compile to.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(super) fn handle(core: &Core, request: ListTransactionsRequest) -> ListTransactionsResponse {
    let pattern = request
        .transactional_id_pattern
        .filter(|pattern| !pattern.is_empty());
    let Ok(pattern) = pattern.as_deref().map(compile).transpose() else {
        return message!(ListTransactionsResponse {
            error_code: ErrorCode::InvalidRegularExpression.code()
        });
    };
    let (mut states, mut unknown) = (HashSet::new(), Vec::new());
    let filters_states = !request.state_filters.is_empty();
    for name in request.state_filters {
        match State::ALL.into_iter().find(|state| state.name() == &*name) {
            Some(state) => {
                states.insert(state);
            }
            None => unknown.push(name),
        }
    }
    let producer_ids: HashSet<i64> = request.producer_id_filters.into_iter().collect();
    let now_ms = core.now_ms();
    let mut listed: Vec<_> = core
        .transactions
        .list()
        .into_iter()
        .filter(|(id, transaction)| {
            let is_open = transaction.state == State::Ongoing || transaction.state.is_prepared();
            let open_ms = now_ms.saturating_sub(transaction.start_ms);
            (!filters_states || states.contains(&transaction.state))
                && (producer_ids.is_empty() || producer_ids.contains(&transaction.producer_id))
                && (request.duration_filter < 0 || (is_open && open_ms > request.duration_filter))
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
        })
        .collect();
    listed.sort_by(|left, right| left.0.cmp(&right.0));
    let transaction_states = listed.into_iter().map(|(id, transaction)| {
        message!(TransactionState {
            transactional_id: id.as_str().into(),
            producer_id: transaction.producer_id,
            transaction_state: transaction.state.name().into(),
        })
    });
    message!(ListTransactionsResponse {
        unknown_state_filters: unknown,
        transaction_states: transaction_states.collect(),
    })
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(PATTERN_BYTES_MAX)
        .build()
}
