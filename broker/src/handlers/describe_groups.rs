//! DescribeGroups (key 15), v0–v6.
//! - State, protocol and members of groups, each once. A group that is not there is described as dead, from v6 on with error 69.

use kafka_wire::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_wire::{DescribeGroupsRequest, DescribeGroupsResponse};

use super::first_of_each;
use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let groups = first_of_each(request.groups, Clone::clone).map(|group| {
        let Some(described) = core.groups.describe(&group) else {
            return message!(DescribedGroup {
                error_code: ErrorCode::GroupIdNotFound.code(),
                error_message: Some(format!("group {group} not found").into()),
                group_state: "Dead".into(),
                group_id: group,
            });
        };
        let members = described.metadata.members.into_iter().map(|member| {
            message!(DescribedGroupMember {
                member_id: member.member_id.into(),
                group_instance_id: member.instance_id.map(Into::into),
                client_id: member.client_id.into(),
                client_host: member.client_host.into(),
                member_metadata: member.subscription,
                member_assignment: member.assignment,
            })
        });
        message!(DescribedGroup {
            group_id: group,
            group_state: described.state.into(),
            protocol_type: described.metadata.protocol_type.into(),
            protocol_data: described.metadata.protocol.unwrap_or_default().into(),
            members: members.collect(),
        })
    });
    message!(DescribeGroupsResponse {
        groups: groups.collect()
    })
}
