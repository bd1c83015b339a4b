//! EndTxn (key 26), v0–v5.
//! - Commits or aborts; answered when the outcome is durable. What it means for readers follows with the markers.
//! - v5: the answer brings the producer's next epoch, or its next id where epochs are exhausted (KIP-890). Before, both stay.

use std::sync::Arc;

use kafka_wire::{EndTxnRequest, EndTxnResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::transaction::Request;
use crate::protocol::{RequestContext, message};

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: EndTxnRequest,
    answer: Answer,
) {
    core.transactions.handle(
        core,
        &request.transactional_id,
        Request::End {
            producer_id: request.producer_id,
            producer_epoch: request.producer_epoch,
            commit: request.committed,
            client_version: context.transaction_version,
        },
        Box::new(move |result| {
            let response = match result {
                Ok(producer) => message!(EndTxnResponse {
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                }),
                Err(error) => message!(EndTxnResponse {
                    error_code: errors::of_transaction(error).code(),
                    producer_id: -1,
                    producer_epoch: -1,
                }),
            };
            answer(response.into());
        }),
    );
}
