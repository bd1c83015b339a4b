//! LeaveGroup (key 13), v0–v5.
//! - Members leave at once, and the others rebalance. v3: several in one request, static ones by instance id.

use std::sync::Arc;

use kafka_wire::leave_group_response::MemberResponse;
use kafka_wire::{LeaveGroupRequest, LeaveGroupResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::group::GroupError;
use crate::protocol::message;

pub(super) fn handle(core: &Arc<Core>, request: LeaveGroupRequest, answer: Answer) {
    let members: Vec<_> = request
        .members
        .iter()
        .map(|member| {
            let instance_id = member
                .group_instance_id
                .as_ref()
                .map(|id| id.as_str().to_owned());
            (member.member_id.as_str().to_owned(), instance_id)
        })
        .collect();
    let named = request.members;
    let reply = Box::new(move |left| {
        let response = match left {
            Err(error) => message!(LeaveGroupResponse {
                error_code: errors::of_group(error).code()
            }),
            Ok(left) => {
                let left: Vec<Result<(), GroupError>> = left;
                let members = named.into_iter().zip(left).map(|(member, left)| {
                    message!(MemberResponse {
                        member_id: member.member_id,
                        group_instance_id: member.group_instance_id,
                        error_code: errors::of_group_result(&left).code(),
                    })
                });
                message!(LeaveGroupResponse {
                    members: members.collect()
                })
            }
        };
        answer(response.into());
    });
    core.groups.leave(core, &request.group_id, &members, reply);
}
