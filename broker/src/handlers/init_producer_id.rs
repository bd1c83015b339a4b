//! InitProducerId (key 22), v0–v5.
//! - A producer id that nobody has had, across restarts, with epoch 0.
//! - Not served: transactional ids (35).

use kafka_wire::{InitProducerIdRequest, InitProducerIdResponse};

use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |code: ErrorCode| {
        message!(InitProducerIdResponse {
            error_code: code.code(),
            producer_id: -1,
            producer_epoch: -1
        })
    };
    match &request.transactional_id {
        None => {}
        Some(id) if id.is_empty() => return refused(ErrorCode::InvalidRequest),
        Some(_) => return refused(ErrorCode::UnsupportedVersion),
    }
    match core.next_producer_id() {
        Ok(producer_id) => message!(InitProducerIdResponse {
            producer_id: producer_id,
            producer_epoch: 0
        }),
        Err(error) => {
            tracing::error!(%error, "no producer id");
            // Clients retry it.
            refused(ErrorCode::CoordinatorNotAvailable)
        }
    }
}
