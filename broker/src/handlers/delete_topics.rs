//! DeleteTopics (key 20), v1–v6.
//! - With `delete.topic.enable=false` nothing is deleted (73).
//! - By name or (v6) by id. Durable when answered; records are removed at once, committed offsets of the topic with them.

use std::sync::Arc;

use kafka_wire::delete_topics_request::DeleteTopicState;
use kafka_wire::delete_topics_response::DeletableTopicResult;
use kafka_wire::{DeleteTopicsRequest, DeleteTopicsResponse};

use super::errors;
use crate::broker::Core;
use crate::metadata;
use crate::protocol::{ErrorCode, id_of, message, wire_id};

pub(super) fn handle(core: &Arc<Core>, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    message!(DeleteTopicsResponse {
        responses: request
            .topics
            .into_iter()
            .map(|topic| delete(core, topic))
            .collect()
    })
}

fn delete(core: &Arc<Core>, wanted: DeleteTopicState) -> DeletableTopicResult {
    let (found, unknown) = match &wanted.name {
        Some(name) => (core.topic(name), ErrorCode::UnknownTopicOrPartition),
        None => (
            core.topic_by_id(id_of(wanted.topic_id)),
            ErrorCode::UnknownTopicId,
        ),
    };
    let (topic, result) = match found {
        None => (None, Err((unknown, unknown.message().to_owned()))),
        Some(_) if !core.config.delete_topics => {
            let code = ErrorCode::TopicDeletionDisabled;
            (None, Err((code, code.message().to_owned())))
        }
        Some(topic) if metadata::is_internal(&topic.name) => {
            let reason = format!("topic {} is internal: the broker needs it", topic.name);
            (Some(topic), Err((ErrorCode::InvalidRequest, reason)))
        }
        Some(topic) => {
            let result = core
                .delete_topic(&topic.name)
                .map_err(|error| errors::of_change(&error));
            (Some(topic), result)
        }
    };
    let mut response = message!(DeletableTopicResult {
        name: wanted.name,
        topic_id: wanted.topic_id
    });
    if let Some(topic) = topic {
        response.name = Some(topic.name.as_ref().into());
        response.topic_id = wire_id(topic.id);
    }
    if let Err((code, reason)) = result {
        response.error_code = code.code();
        response.error_message = Some(reason.into());
    }
    response
}
