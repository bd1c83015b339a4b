//! WriteTxnMarkers (key 27), v1–v2.
//! - Ends transactions on the partitions named, whatever their coordinator says: `kafka-transactions abort` uses it for one that hangs.
//! - Answers when every marker is below its partition's high watermark. v2 says which `transaction.version` the marker follows: from 2 on
//!   its epoch is above that of its transaction.

use std::sync::Arc;

use kafka_wire::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_wire::{WriteTxnMarkersRequest, WriteTxnMarkersResponse, write_txn_markers_request};

use super::{WAIT_MS_MAX, errors};
use crate::broker::{Answer, Core};
use crate::log::Marker;
use crate::metadata::OFFSETS_TOPIC;
use crate::protocol::{ErrorCode, message};
use crate::replica::{Attempt, Partition};

/// A marker that is written and not yet acknowledged: where it is in the answer, and from which high watermark on it is.
struct Unacknowledged {
    marker: usize,
    topic: usize,
    partition: usize,
    of: Arc<Partition>,
    end_offset: i64,
}

pub(super) fn handle(core: &Arc<Core>, request: WriteTxnMarkersRequest, answer: Answer) {
    let now_ms = core.now_ms();
    let mut unacknowledged = Vec::new();
    let mut markers = Vec::with_capacity(request.markers.len());
    for wanted in request.markers {
        let marker = marker_of(&wanted);
        let mut topics = Vec::with_capacity(wanted.topics.len());
        for topic in wanted.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for index in topic.partition_indexes {
                let code = match write(core, &topic.name, index, marker, now_ms) {
                    Ok((of, end_offset)) => {
                        unacknowledged.push(Unacknowledged {
                            marker: markers.len(),
                            topic: topics.len(),
                            partition: partitions.len(),
                            of,
                            end_offset,
                        });
                        ErrorCode::None
                    }
                    Err(code) => code,
                };
                partitions.push(message!(WritableTxnMarkerPartitionResult {
                    partition_index: index,
                    error_code: code.code(),
                }));
            }
            topics.push(message!(WritableTxnMarkerTopicResult {
                name: topic.name,
                partitions: partitions,
            }));
        }
        markers.push(message!(WritableTxnMarkerResult {
            producer_id: wanted.producer_id,
            topics: topics,
        }));
    }
    let mut response = message!(WriteTxnMarkersResponse { markers: markers });
    let watched: Vec<_> = unacknowledged
        .iter()
        .map(|marker| marker.of.clone())
        .collect();
    let deadline_ms = now_ms.saturating_add(WAIT_MS_MAX);
    let mut answer = Some(answer);
    core.waiting.add(
        deadline_ms,
        watched,
        Box::new(move |attempt| {
            let is_open = |marker: &Unacknowledged| {
                marker.of.high_watermark() < marker.end_offset && !marker.of.has_failed()
            };
            if attempt == Attempt::Event && unacknowledged.iter().any(is_open) {
                return false;
            }
            for marker in &unacknowledged {
                if marker.of.high_watermark() >= marker.end_offset {
                    continue;
                }
                let code = if marker.of.has_failed() {
                    ErrorCode::KafkaStorageError
                } else {
                    ErrorCode::RequestTimedOut
                };
                let partition = response
                    .markers
                    .get_mut(marker.marker)
                    .and_then(|result| result.topics.get_mut(marker.topic))
                    .and_then(|topic| topic.partitions.get_mut(marker.partition));
                if let Some(partition) = partition {
                    partition.error_code = code.code();
                }
            }
            if let Some(answer) = answer.take() {
                answer(std::mem::take(&mut response).into());
            }
            true
        }),
    );
    core.deadline_at(deadline_ms);
}

fn marker_of(wanted: &write_txn_markers_request::WritableTxnMarker) -> Marker {
    Marker {
        producer_id: wanted.producer_id,
        producer_epoch: wanted.producer_epoch,
        commit: wanted.transaction_result,
        coordinator_epoch: wanted.coordinator_epoch,
        transaction_version: wanted.transaction_version.into(),
    }
}

/// Appends the marker; the partition, and the high watermark from which on it is durable.
fn write(
    core: &Arc<Core>,
    topic: &str,
    index: i32,
    marker: Marker,
    now_ms: i64,
) -> Result<(Arc<Partition>, i64), ErrorCode> {
    if marker.producer_id < 0 || marker.producer_epoch < 0 {
        return Err(ErrorCode::InvalidRequest);
    }
    let partition = core
        .partition(topic, index)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let (appended, wake) = partition
        .append_marker(marker, now_ms)
        .map_err(|error| errors::of_partition(&error))?;
    if topic == OFFSETS_TOPIC {
        core.groups.transaction_ended(
            core,
            &partition,
            marker.producer_id,
            marker.commit,
            &appended,
        );
    }
    wake.wake();
    Ok((partition, appended.last_offset + 1))
}
