//! SyncGroup (key 14), v0–v5.
//! - Waits for the leader's assignment, which is durable before anybody is told its part.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::{SyncGroupRequest, SyncGroupResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::group::{MemberRef, Sync};
use crate::protocol::message;

pub(super) fn handle(core: &Arc<Core>, request: SyncGroupRequest, answer: Answer) {
    let sync = Sync {
        member: MemberRef {
            member_id: request.member_id.into_string(),
            instance_id: request.group_instance_id.map(|id| id.into_string()),
            generation: request.generation_id,
        },
        protocol_type: request.protocol_type.map(|name| name.into_string()),
        protocol: request.protocol_name.map(|name| name.into_string()),
        // Copied: what a group keeps must not hold the frame it came in.
        assignments: request
            .assignments
            .iter()
            .map(|of| {
                (
                    of.member_id.as_str().to_owned(),
                    Bytes::copy_from_slice(&of.assignment),
                )
            })
            .collect(),
    };
    core.groups.sync(
        core,
        &request.group_id,
        sync,
        Box::new(move |synced| {
            let response = match synced {
                Ok(synced) => message!(SyncGroupResponse {
                    protocol_type: synced.protocol_type.map(Into::into),
                    protocol_name: synced.protocol.map(Into::into),
                    assignment: synced.assignment,
                }),
                Err(error) => message!(SyncGroupResponse {
                    error_code: errors::of_group(error).code()
                }),
            };
            answer(response.into());
        }),
    );
}
