//! DescribeProducers (key 61), v0.
//! - Who has written to each partition and is remembered there: epoch, last sequence, when, and where its open transaction began.

use kafka_wire::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_wire::{DescribeProducersRequest, DescribeProducersResponse};

use super::{errors, first_of_each};
use crate::broker::Core;
use crate::log::Producer;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Core, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let topics = first_of_each(request.topics, |topic| topic.name.clone()).map(|topic| {
        let indexes = first_of_each(topic.partition_indexes, |index| *index);
        let partitions = indexes.map(|index| {
            let result = match core.partition(&topic.name, index) {
                None => Err(ErrorCode::UnknownTopicOrPartition),
                Some(partition) => partition
                    .producers()
                    .map_err(|error| errors::of_partition(&error)),
            };
            match result {
                Ok(producers) => message!(PartitionResponse {
                    partition_index: index,
                    active_producers: producers.iter().map(state_of).collect(),
                }),
                Err(code) => message!(PartitionResponse {
                    partition_index: index,
                    error_code: code.code(),
                    error_message: Some(code.message().into()),
                }),
            }
        });
        message!(TopicResponse {
            partitions: partitions.collect(),
            name: topic.name.clone(),
        })
    });
    message!(DescribeProducersResponse {
        topics: topics.collect()
    })
}

fn state_of(producer: &Producer) -> ProducerState {
    message!(ProducerState {
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch.into(),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_append_ms,
        coordinator_epoch: producer.coordinator_epoch,
        current_txn_start_offset: producer.transaction_first_offset.unwrap_or(-1),
    })
}
