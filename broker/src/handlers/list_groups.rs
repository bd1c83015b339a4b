//! ListGroups (key 16), v0–v5.
//! - Every group, also those that have only offsets. v4 filters by state, v5 by type.

use kafka_wire::list_groups_response::ListedGroup;
use kafka_wire::{ListGroupsRequest, ListGroupsResponse};

use crate::broker::Core;
use crate::protocol::{StrBytes, message};

pub(super) fn handle(core: &Core, request: ListGroupsRequest) -> ListGroupsResponse {
    let passes = |filter: &[StrBytes], word: &str| {
        filter.is_empty()
            || filter
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(word))
    };
    let groups = core.groups.list().into_iter();
    let groups = groups.filter(|group| {
        passes(&request.states_filter, group.state)
            && passes(&request.types_filter, group.type_name)
    });
    let groups = groups.map(|group| {
        message!(ListedGroup {
            group_id: group.group.into(),
            protocol_type: group.protocol_type.into(),
            group_state: group.state.into(),
            group_type: group.type_name.into(),
        })
    });
    message!(ListGroupsResponse {
        groups: groups.collect()
    })
}
