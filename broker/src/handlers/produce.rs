//! Produce (key 0), v3–v13.
//! - One record batch (format v2) a partition; the bytes are checked and stored as they are. v13 names topics by id.
//! - `acks=-1` answers when every batch is below its partition's high watermark: on disk, unless the broker runs with `flush=os`. `acks=1`
//!   answers after the write, `acks=0` not at all. After `timeout_ms` what is not acknowledged is answered with 7; it may still be written.
//! - Idempotent producers: a repeated batch is answered with its first offset (`duplicate` below).
//! - Transactions: a batch that begins one on its partition is written once the coordinator has agreed. v12 adds the partition to the
//!   transaction, and waits until that is durable; before, the client must have done it (KIP-890).
//! - Not served: older batch formats (87), internal topics (17).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_wire::produce_request::TopicProduceData;
use kafka_wire::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_wire::{ProduceRequest, ProduceResponse};

use super::{WAIT_MS_MAX, errors};
use crate::broker::{Answer, Core};
use crate::coordinator::transaction::{self, Producer, TopicPartition};
use crate::log::{AppendError, AppendOrigin, VerificationGuard};
use crate::metadata::{self, Topic, topic_config};
use crate::protocol::record_batch::BatchHeader;
use crate::protocol::{ErrorCode, RequestContext, Response, id_of, message};
use crate::replica::{Attempt, Partition, PartitionError};

/// A batch that is written but not acknowledged: where it is in the answer, and from which high watermark on it is.
struct Unacknowledged {
    topic: usize,
    partition: usize,
    of: Arc<Partition>,
    end_offset: i64,
}

/// What the transaction coordinator says of the partitions of a request, by topic and partition of the request. Those that are not in it need
/// nothing of it.
type Verified = HashMap<(usize, usize), Result<VerificationGuard, ErrorCode>>;

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    request: ProduceRequest,
    answer: Answer,
) {
    let Some(id) = &request.transactional_id else {
        return write(
            core,
            context.topics_by_id,
            request,
            &Verified::default(),
            answer,
        );
    };
    let id = id.as_str().to_owned();
    let (version, knows_abortable) = (context.transaction_version, context.knows_abortable);
    let topics_by_id = context.topics_by_id;
    let (by, mut verified, unverified) = find_unverified(core, topics_by_id, version, &request);
    let code_of = move |error| errors::of_verification(error, version, knows_abortable);
    let Some(by) = by else {
        return write(core, topics_by_id, request, &verified, answer);
    };
    if version < 2 {
        verify(core, &id, by, unverified, &mut verified, code_of);
        return write(core, topics_by_id, request, &verified, answer);
    }
    // A batch must not overtake the one before it, which may have opened the transaction here and wait for another partition's place in it.
    if unverified.is_empty() && !core.transactions.is_busy(core, &id) {
        return write(core, topics_by_id, request, &verified, answer);
    }
    let partitions = request.topic_data.iter().flat_map(|data| {
        let topic = find_topic(core, topics_by_id, data);
        data.partition_data
            .iter()
            .filter_map(move |partition| Some((topic.as_ref()?.name.clone(), partition.index)))
            .filter(|(topic, index)| core.partition(topic, *index).is_some())
    });
    let add = transaction::Request::AddPartitions {
        producer_id: by.id,
        producer_epoch: by.epoch,
        partitions: partitions.collect(),
        client_version: version,
    };
    let then = core.clone();
    core.transactions.handle(
        core,
        &id.clone(),
        add,
        Box::new(move |added| {
            match added {
                // The coordinator may have waited until the transaction before had ended, and its marker took back the leave to begin
                // another: it is asked for again, and is good only if the transaction is open after that.
                Ok(_) => {
                    let (_, refused, unverified) =
                        find_unverified(&then, topics_by_id, version, &request);
                    verified.extend(refused);
                    verify(&then, &id, by, unverified, &mut verified, code_of);
                }
                Err(error) => {
                    let code = code_of(error);
                    for (at_topic, data) in request.topic_data.iter().enumerate() {
                        for at in 0..data.partition_data.len() {
                            verified.insert((at_topic, at), Err(code));
                        }
                    }
                }
            }
            write(&then, topics_by_id, request, &verified, answer);
        }),
    );
}

/// Asks whether the transaction is open with these partitions in it.
fn verify(
    core: &Core,
    id: &str,
    by: Producer,
    unverified: Vec<Unverified>,
    verified: &mut Verified,
    code_of: impl Fn(transaction::TransactionError) -> ErrorCode,
) {
    for (at, partition, guard) in unverified {
        let found = core.transactions.verify(core, id, by, &partition);
        verified.insert(at, found.map(|()| guard).map_err(&code_of));
    }
}

/// A partition that the coordinator has to agree to: where it is in the request, and the leave to begin a transaction there.
type Unverified = ((usize, usize), TopicPartition, VerificationGuard);

/// The producer of a transactional request, what is refused already, and which partitions its transaction is not yet open on.
fn find_unverified(
    core: &Core,
    topics_by_id: bool,
    transaction_version: i16,
    request: &ProduceRequest,
) -> (Option<Producer>, Verified, Vec<Unverified>) {
    let now_ms = core.now_ms();
    let (mut by, mut verified, mut unverified) = (None, Verified::default(), Vec::new());
    for (at_topic, data) in request.topic_data.iter().enumerate() {
        let Some(topic) = find_topic(core, topics_by_id, data) else {
            continue;
        };
        for (at_partition, data) in data.partition_data.iter().enumerate() {
            let batch = data
                .records
                .as_deref()
                .and_then(|records| BatchHeader::parse(records).ok());
            // What is malformed or not there is refused when it is to be written.
            let (Some(batch), Some(partition)) = (
                batch.filter(BatchHeader::is_transactional),
                core.partition(&topic.name, data.index),
            ) else {
                continue;
            };
            let of_batch = Producer {
                id: batch.producer_id(),
                epoch: batch.producer_epoch(),
            };
            let at = (at_topic, at_partition);
            if *by.get_or_insert(of_batch) != of_batch {
                verified.insert(at, Err(ErrorCode::InvalidProducerIdMapping));
                continue;
            }
            let guard = partition.begin_verification(
                of_batch.id,
                of_batch.epoch,
                batch.base_sequence(),
                transaction_version,
                now_ms,
            );
            match guard {
                Ok(None) => {}
                Ok(Some(guard)) => {
                    unverified.push((at, (topic.name.clone(), data.index), guard));
                }
                Err(error) => {
                    verified.insert(at, Err(errors::of_partition(&error)));
                }
            }
        }
    }
    (by, verified, unverified)
}

fn find_topic(core: &Core, topics_by_id: bool, data: &TopicProduceData) -> Option<Arc<Topic>> {
    if topics_by_id {
        core.topic_by_id(id_of(data.topic_id))
    } else {
        core.topic(&data.name)
    }
}

fn write(
    core: &Arc<Core>,
    topics_by_id: bool,
    request: ProduceRequest,
    verified: &Verified,
    answer: Answer,
) {
    let acks = request.acks;
    let refused = (!(-1..=1).contains(&acks)).then_some(ErrorCode::InvalidRequiredAcks);
    let now_ms = core.now_ms();
    let mut responses = Vec::with_capacity(request.topic_data.len());
    let mut unacknowledged = Vec::new();
    for data in request.topic_data {
        let found = find_topic(core, topics_by_id, &data);
        let unknown = if topics_by_id {
            ErrorCode::UnknownTopicId
        } else {
            ErrorCode::UnknownTopicOrPartition
        };
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for partition in data.partition_data {
            // No hashing where nothing is transactional.
            let at = (responses.len(), partitions.len());
            let guard = if verified.is_empty() {
                Ok(None)
            } else {
                verified.get(&at).copied().transpose()
            };
            let outcome = match (refused, &found, guard) {
                (Some(code), ..) => Err(refusal(code)),
                (None, None, _) => Err(refusal(unknown)),
                (None, Some(_), Err(code)) => Err(refusal(code)),
                (None, Some(topic), Ok(guard)) => append(
                    core,
                    topic,
                    partition.index,
                    partition.records,
                    guard,
                    acks,
                    now_ms,
                ),
            };
            let mut response = match outcome {
                Ok((of, response, end_offset)) => {
                    if acks == -1 && of.high_watermark() < end_offset {
                        unacknowledged.push(Unacknowledged {
                            topic: responses.len(),
                            partition: partitions.len(),
                            of,
                            end_offset,
                        });
                    }
                    response
                }
                Err(refused) => *refused,
            };
            response.index = partition.index;
            partitions.push(response);
        }
        responses.push(message!(TopicProduceResponse {
            name: data.name,
            topic_id: data.topic_id,
            partition_responses: partitions,
        }));
    }
    let mut response = message!(ProduceResponse {
        responses: responses
    });
    if acks == 0 {
        return answer(Response::Silence);
    }
    if unacknowledged.is_empty() {
        return answer(response.into());
    }
    let deadline_ms = now_ms.saturating_add(i64::from(request.timeout_ms).clamp(0, WAIT_MS_MAX));
    let watched: Vec<_> = unacknowledged
        .iter()
        .map(|batch| batch.of.clone())
        .collect();
    let mut answer = Some(answer);
    core.waiting.add(
        deadline_ms,
        watched,
        Box::new(move |attempt| {
            let open = |batch: &Unacknowledged| {
                batch.of.high_watermark() < batch.end_offset && !batch.of.has_failed()
            };
            if attempt == Attempt::Event && unacknowledged.iter().any(open) {
                return false;
            }
            for batch in &unacknowledged {
                if batch.of.high_watermark() >= batch.end_offset {
                    continue;
                }
                let code = if batch.of.has_failed() {
                    ErrorCode::KafkaStorageError
                } else {
                    ErrorCode::RequestTimedOut
                };
                let partition = response
                    .responses
                    .get_mut(batch.topic)
                    .and_then(|topic| topic.partition_responses.get_mut(batch.partition));
                if let Some(partition) = partition {
                    let index = partition.index;
                    *partition = *refusal(code);
                    partition.index = index;
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

type Outcome =
    Result<(Arc<Partition>, PartitionProduceResponse, i64), Box<PartitionProduceResponse>>;

fn append(
    core: &Arc<Core>,
    topic: &Topic,
    index: i32,
    records: Option<Bytes>,
    guard: Option<VerificationGuard>,
    acks: i16,
    now_ms: i64,
) -> Outcome {
    if metadata::is_internal(&topic.name) {
        return Err(refusal(ErrorCode::InvalidTopic));
    }
    if acks == -1 && in_sync_replicas_min(core, topic) > 1 {
        return Err(refusal(ErrorCode::NotEnoughReplicas));
    }
    let partition = core
        .partition(&topic.name, index)
        .ok_or_else(|| refusal(ErrorCode::UnknownTopicOrPartition))?;
    let records = records.ok_or_else(|| refusal(ErrorCode::InvalidRecord))?;
    // The one copy of a produce: the offset is written into the batch, and the log's tail keeps it without the rest of the frame.
    let records = BytesMut::from(records.as_ref());
    match partition.append_verified(records, AppendOrigin::Client, guard, now_ms) {
        Ok((appended, wake)) => {
            wake.wake();
            let response = message!(PartitionProduceResponse {
                base_offset: appended.base_offset,
                log_append_time_ms: appended.log_append_time_ms,
                log_start_offset: appended.log_start_offset,
            });
            Ok((partition, response, appended.last_offset + 1))
        }
        Err(error) => {
            let mut response = refusal(errors::of_partition(&error));
            response.error_message = Some(error.to_string().into());
            if let PartitionError::Append(
                AppendError::InvalidRecord { record_indexes, .. }
                | AppendError::InvalidTimestamp { record_indexes, .. },
            ) = &error
            {
                let of = |index: &i32| {
                    message!(BatchIndexAndErrorMessage {
                        batch_index: *index
                    })
                };
                response.record_errors = record_indexes.iter().map(of).collect();
            }
            tracing::debug!(topic = %topic.name, partition = index, %error, "batch refused");
            Err(response)
        }
    }
}

fn in_sync_replicas_min(core: &Core, topic: &Topic) -> i64 {
    let name = "min.insync.replicas";
    let defaults = core.topic_defaults();
    if !topic.configs.contains_key(name) && !defaults.contains_key(name) {
        return 1;
    }
    let value = topic_config::by_name(name)
        .map(|definition| topic_config::effective(definition, &topic.configs, &defaults).0);
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
}

fn refusal(code: ErrorCode) -> Box<PartitionProduceResponse> {
    Box::new(message!(PartitionProduceResponse {
        error_code: code.code(),
        error_message: Some(code.message().into()),
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
    }))
}
