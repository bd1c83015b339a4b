//! InitProducerId (key 22), v0–v5.
//! - Without a transactional id: a producer id that nobody has had, across restarts, with epoch 0.
//! - With one: its producer with a bumped epoch, which fences those before. What they left open is aborted first; the answer waits for that,
//!   where Kafka would have the client ask again. v3 and later may name the producer they are, to go on after an error (KIP-360).
//! - Not served: two-phase commit (v6), unstable in Kafka 4.3 too.

use std::sync::Arc;

use kafka_wire::{InitProducerIdRequest, InitProducerIdResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::transaction::{Producer, Request};
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Arc<Core>, request: InitProducerIdRequest, answer: Answer) {
    let Some(id) = request.transactional_id else {
        let result = core.next_producer_id().map_err(|error| {
            tracing::error!(%error, "no producer id");
            // Clients retry it.
            ErrorCode::CoordinatorNotAvailable
        });
        return answer(respond(result.map(|id| Producer { id, epoch: 0 })).into());
    };
    let expected = match (request.producer_id, request.producer_epoch) {
        (-1, -1) => None,
        // One without the other means nothing.
        (-1, _) | (_, -1) => return answer(respond(Err(ErrorCode::InvalidRequest)).into()),
        expected => Some(expected),
    };
    core.transactions.handle(
        core,
        &id,
        Request::Init {
            timeout_ms: request.transaction_timeout_ms,
            expected,
        },
        Box::new(move |result| {
            answer(respond(result.map_err(errors::of_transaction)).into());
        }),
    );
}

fn respond(result: Result<Producer, ErrorCode>) -> InitProducerIdResponse {
    match result {
        Ok(producer) => message!(InitProducerIdResponse {
            producer_id: producer.id,
            producer_epoch: producer.epoch,
        }),
        Err(code) => message!(InitProducerIdResponse {
            error_code: code.code(),
            producer_id: -1,
            producer_epoch: -1,
        }),
    }
}
