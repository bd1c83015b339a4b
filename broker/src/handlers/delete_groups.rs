//! DeleteGroups (key 42), v0–v2.
//! - Removes empty groups with their offsets; durable when answered. A group with members is refused (68).

use std::sync::{Arc, Mutex, PoisonError};

use kafka_wire::delete_groups_response::DeletableGroupResult;
use kafka_wire::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::protocol::message;

/// Answers when the last group is done.
struct Collected {
    left: usize,
    results: Vec<DeletableGroupResult>,
    answer: Option<Answer>,
}

pub(super) fn handle(core: &Arc<Core>, request: DeleteGroupsRequest, answer: Answer) {
    let groups = request.groups_names;
    if groups.is_empty() {
        return answer(DeleteGroupsResponse::default().into());
    }
    let of = |group: &crate::protocol::StrBytes| {
        message!(DeletableGroupResult {
            group_id: group.clone()
        })
    };
    let results = groups.iter().map(of).collect();
    let collected = Arc::new(Mutex::new(Collected {
        left: groups.len(),
        results,
        answer: Some(answer),
    }));
    for (index, group) in groups.iter().enumerate() {
        let collected = collected.clone();
        core.groups.delete(
            core,
            group,
            Box::new(move |deleted| {
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(result) = collected.results.get_mut(index) {
                    result.error_code = errors::of_group_result(&deleted).code();
                }
                collected.left -= 1;
                if collected.left == 0
                    && let Some(answer) = collected.answer.take()
                {
                    let results = std::mem::take(&mut collected.results);
                    drop(collected);
                    answer(message!(DeleteGroupsResponse { results: results }).into());
                }
            }),
        );
    }
}
