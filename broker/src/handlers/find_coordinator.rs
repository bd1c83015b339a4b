//! FindCoordinator (key 10), v0–v6.
//! - This broker coordinates every group and transaction; their topics are created on first use. v4 asks for several at once.
//! - Not served: share groups (42).

use std::sync::Arc;

use kafka_wire::find_coordinator_response::Coordinator;
use kafka_wire::{FindCoordinatorRequest, FindCoordinatorResponse};

use super::errors;
use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) fn handle(core: &Arc<Core>, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let not_available = |error| {
        let (_, reason) = errors::of_change(&error);
        (ErrorCode::CoordinatorNotAvailable, reason)
    };
    let available = match request.key_type {
        GROUP => core.ensure_offsets_topic().map_err(not_available),
        TRANSACTION => core.ensure_transactions_topic().map_err(not_available),
        other => Err((
            ErrorCode::InvalidRequest,
            format!("coordinators of type {other} are not served"),
        )),
    };
    let (host, port) = core.endpoint();
    let coordinators = request
        .coordinator_keys
        .into_iter()
        .map(|key| match &available {
            Ok(()) => message!(Coordinator {
                key: key,
                node_id: core.config.node_id,
                host: host.as_str().into(),
                port: i32::from(port),
            }),
            Err((code, reason)) => message!(Coordinator {
                key: key,
                node_id: -1,
                port: -1,
                error_code: code.code(),
                error_message: Some(reason.as_str().into()),
            }),
        });
    message!(FindCoordinatorResponse {
        coordinators: coordinators.collect()
    })
}
