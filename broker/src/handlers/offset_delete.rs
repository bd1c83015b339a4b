//! OffsetDelete (key 47), v0.
//! - Removes committed offsets; durable when answered. Topics that a member of the group subscribes to are refused (86).

use std::sync::Arc;

use kafka_wire::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_wire::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::protocol::message;

pub(super) fn handle(core: &Arc<Core>, request: OffsetDeleteRequest, answer: Answer) {
    let wanted: Vec<_> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic
                .partitions
                .iter()
                .map(|partition| (topic.name.as_str().to_owned(), partition.partition_index))
        })
        .collect();
    let topics = request.topics;
    core.groups.delete_offsets(
        core,
        &request.group_id,
        &wanted,
        Box::new(move |deleted| {
            let response = match deleted {
                Err(error) => message!(OffsetDeleteResponse {
                    error_code: errors::of_group(error).code()
                }),
                Ok(results) => {
                    let mut results = results.into_iter();
                    let topics = topics.into_iter().map(|topic| {
                        let partitions = topic.partitions.iter().map(|partition| {
                            let code = results
                                .next()
                                .map_or(0, |result| errors::of_group_result(&result).code());
                            message!(OffsetDeleteResponsePartition {
                                partition_index: partition.partition_index,
                                error_code: code
                            })
                        });
                        message!(OffsetDeleteResponseTopic {
                            partitions: partitions.collect(),
                            name: topic.name
                        })
                    });
                    message!(OffsetDeleteResponse {
                        topics: topics.collect()
                    })
                }
            };
            answer(response.into());
        }),
    );
}
