//! JoinGroup (key 11), v0–v9.
//! - Waits until every member of the last generation has joined again, or the rebalance timeout has passed; the first member of an empty
//!   group waits for others (`group.initial.rebalance.delay.ms`). The leader is told of all members and their metadata.
//! - v4: a new member is told its id first (79) and joins again with it. v5: static members.
//! - v9: a static leader that is back is told that it need not assign (KIP-814): the assignment stays.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::join_group_response::JoinGroupResponseMember;
use kafka_wire::{JoinGroupRequest, JoinGroupResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::group::classic::Join;
use crate::protocol::{RequestContext, message};

/// A member's id begins with its client's; longer names are cut.
const CLIENT_ID_CHARACTERS_MAX: usize = 255;

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: JoinGroupRequest,
    answer: Answer,
) {
    let prefix = request
        .group_instance_id
        .as_ref()
        .map_or(context.client_id.as_str(), |id| id.as_str());
    let prefix: String = prefix.chars().take(CLIENT_ID_CHARACTERS_MAX).collect();
    let join = Join {
        member_id: request.member_id.into_string(),
        new_member_id: format!("{prefix}-{}", uuid::Uuid::new_v4()),
        instance_id: request.group_instance_id.map(|id| id.into_string()),
        client_id: context
            .client_id
            .chars()
            .take(CLIENT_ID_CHARACTERS_MAX)
            .collect(),
        client_host: context.client_host.clone(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if request.rebalance_timeout_ms < 0 {
            request.session_timeout_ms
        } else {
            request.rebalance_timeout_ms
        },
        protocol_type: request.protocol_type.into_string(),
        // Copied: what a group keeps must not hold the frame it came in.
        protocols: request
            .protocols
            .iter()
            .map(|protocol| {
                (
                    protocol.name.as_str().to_owned(),
                    Bytes::copy_from_slice(&protocol.metadata),
                )
            })
            .collect(),
        member_id_required: context.member_id_required,
        may_skip_assignment: context.may_skip_assignment,
    };
    core.groups.join(
        core,
        &request.group_id,
        join,
        Box::new(move |joined| {
            let response = match joined {
                Ok(joined) => {
                    let members =
                        joined
                            .members
                            .into_iter()
                            .map(|(member_id, instance_id, metadata)| {
                                message!(JoinGroupResponseMember {
                                    member_id: member_id.into(),
                                    group_instance_id: instance_id.map(Into::into),
                                    metadata: metadata,
                                })
                            });
                    message!(JoinGroupResponse {
                        generation_id: joined.generation,
                        protocol_type: joined.protocol_type.map(Into::into),
                        protocol_name: joined.protocol.map(Into::into),
                        leader: joined.leader.into(),
                        members: members.collect(),
                        member_id: joined.member_id.into(),
                        skip_assignment: joined.skip_assignment,
                    })
                }
                Err((error, member_id)) => message!(JoinGroupResponse {
                    error_code: errors::of_group(error).code(),
                    generation_id: -1,
                    member_id: member_id.into(),
                }),
            };
            answer(response.into());
        }),
    );
}
