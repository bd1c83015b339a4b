//! UnregisterBroker (key 64), v0.
//! - Any other broker is not registered (102). This one is the cluster, and stays (42).

use kafka_wire::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: UnregisterBrokerRequest) -> UnregisterBrokerResponse {
    let (code, reason) = if request.broker_id == core.config.node_id {
        (
            ErrorCode::InvalidRequest,
            format!("broker {} is running, and the only one", request.broker_id),
        )
    } else {
        (
            ErrorCode::BrokerIdNotRegistered,
            format!("there is no broker {}", request.broker_id),
        )
    };
    message!(UnregisterBrokerResponse {
        error_code: code.code(),
        error_message: Some(reason.into()),
    })
}
