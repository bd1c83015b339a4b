//! Heartbeat (key 12), v0–v4.
//! - Keeps a member alive; 27 tells it to join again.

use std::sync::Arc;

use kafka_wire::{HeartbeatRequest, HeartbeatResponse};

use super::errors;
use crate::broker::Core;
use crate::coordinator::group::MemberRef;
use crate::protocol::message;

pub(super) fn handle(core: &Arc<Core>, request: HeartbeatRequest) -> HeartbeatResponse {
    let member = MemberRef {
        member_id: request.member_id.into_string(),
        instance_id: request.group_instance_id.map(|id| id.into_string()),
        generation: request.generation_id,
    };
    let beaten = core.groups.heartbeat(core, &request.group_id, &member);
    message!(HeartbeatResponse {
        error_code: errors::of_group_result(&beaten).code()
    })
}
