//! Fetch (key 1), v4–v18.
//! - Whole batches from the one that holds the wanted offset, up to the high watermark (or last stable offset). The first partition
//!   with data gets at least one batch, however small the limits.
//! - Waits until `min_bytes` are there (no more than `max_bytes`, which is all it could get), a partition has an error, or `max_wait_ms`
//!   (a minute at most: a client that went away is not waited for) has passed.
//! - v12: answers a diverging epoch. v13: topics by id.
//! - Sessions (v7) as of `fetch_sessions`. Not served: preferred read replica (one rack), followers.
//! - For a connection records are not read: the answer says where they are, in memory or in a file, and is sent from there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use kafka_wire::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
};
use kafka_wire::{FetchRequest, FetchResponse, fetch_request};

use super::{WAIT_MS_MAX, errors};
use crate::broker::{Answer, Core};
use crate::disk::Piece;
use crate::log;
use crate::protocol::{ErrorCode, RequestContext, Response, StoredFetch, id_of, message};
use crate::replica::{Attempt, Fetched, Isolation, Partition};

/// One partition of the request.
struct Wanted {
    partition: Result<Arc<Partition>, ErrorCode>,
    request: fetch_request::FetchPartition,
}

struct WantedTopic {
    request: fetch_request::FetchTopic,
    partitions: Vec<Wanted>,
}

/// How the partitions are read.
#[derive(Clone, Copy)]
struct Reading {
    bytes_max: usize,
    isolation: Isolation,
    records_may_stay: bool,
}

/// An answer, and whether it is worth sending before the time is up.
struct Found {
    answer: StoredFetch,
    size_bytes: usize,
    has_error: bool,
}

pub(super) fn handle(
    core: &Arc<Core>,
    context: &RequestContext,
    mut request: FetchRequest,
    answer: Answer,
) {
    let by_id = context.topics_by_id;
    let turn = match core
        .fetch_sessions
        .begin(&mut request, by_id, core.now_ms())
    {
        Ok(turn) => turn,
        Err(code) => {
            return answer(
                message!(FetchResponse {
                    error_code: code.code()
                })
                .into(),
            );
        }
    };
    let (sessions, clock) = (core.fetch_sessions.clone(), core.config.clock.clone());
    let records_may_stay = context.records_may_stay;
    let answer = move |mut found: StoredFetch| {
        // What it leaves out has no records.
        turn.finish(&sessions, &mut found.response, clock.now_ms());
        answer(if records_may_stay {
            Response::StoredFetch(found)
        } else {
            found.response.into()
        });
    };
    let isolation = if request.isolation_level == 1 {
        Isolation::ReadCommitted
    } else {
        Isolation::ReadUncommitted
    };
    let bytes_max = usize::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(core.config.fetch_bytes_max);
    let topics: Vec<_> = std::mem::take(&mut request.topics)
        .into_iter()
        .map(|topic| find(core, context, topic))
        .collect();
    let mut seen = Seen::of(&topics, isolation);
    let reading = Reading {
        bytes_max,
        isolation,
        records_may_stay,
    };
    let found = read(&topics, reading);
    let bytes_min = usize::try_from(request.min_bytes)
        .unwrap_or(0)
        .min(bytes_max);
    let wait_ms = i64::from(request.max_wait_ms).clamp(0, WAIT_MS_MAX);
    let is_empty = topics.iter().all(|topic| topic.partitions.is_empty());
    if found.size_bytes >= bytes_min || found.has_error || wait_ms == 0 || is_empty {
        return answer(found.answer);
    }
    let watched: Vec<_> = topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .filter_map(|wanted| wanted.partition.as_ref().ok().cloned())
        .collect();
    let deadline_ms = core.now_ms().saturating_add(wait_ms);
    let mut answer = Some(answer);
    core.waiting.add(
        deadline_ms,
        watched,
        Box::new(move |attempt| {
            let now = Seen::of(&topics, isolation);
            if attempt == Attempt::Event && now == seen {
                return false;
            }
            seen = now;
            let found = read(&topics, reading);
            if attempt == Attempt::Event && found.size_bytes < bytes_min && !found.has_error {
                return false;
            }
            if let Some(answer) = answer.take() {
                answer(found.answer);
            }
            true
        }),
    );
    core.deadline_at(deadline_ms);
}

/// Counts what an answer holds, in it or beside it.
pub(crate) fn count_fetched(core: &Core, response: &FetchResponse, beside: &[Vec<Piece>]) {
    let mut beside = beside.iter();
    let mut has_error = response.error_code != 0;
    for topic in &response.responses {
        let by_id = || core.topic_by_id(id_of(topic.topic_id));
        let by_id = topic.topic.is_empty().then(by_id).flatten();
        let name = by_id
            .as_ref()
            .map_or(topic.topic.as_str(), |topic| &topic.name);
        for data in &topic.partitions {
            has_error |= data.error_code != 0;
            let bytes = match &data.records {
                Some(records) => records.len(),
                None => beside
                    .next()
                    .map_or(0, |pieces| pieces.iter().map(Piece::size_bytes).sum()),
            };
            if bytes > 0
                && let Some(partition) = core.partition(name, data.partition_index)
            {
                partition.traffic().fetched(bytes as u64);
            }
        }
    }
    if has_error {
        core.metrics.failed_fetches.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a read depends on: while it is the same there is nothing new to read.
#[derive(PartialEq, Eq)]
struct Seen {
    /// Sum of the ends that the isolation shows, which only rise.
    end_offsets: i128,
    failed: usize,
}

impl Seen {
    fn of(topics: &[WantedTopic], isolation: Isolation) -> Self {
        let mut seen = Self {
            end_offsets: 0,
            failed: 0,
        };
        let wanted = topics.iter().flat_map(|topic| &topic.partitions);
        for partition in wanted.filter_map(|wanted| wanted.partition.as_ref().ok()) {
            seen.end_offsets += i128::from(partition.end_offset(isolation));
            seen.failed += usize::from(partition.has_failed());
        }
        seen
    }
}

fn find(
    core: &Core,
    context: &RequestContext,
    mut topic: fetch_request::FetchTopic,
) -> WantedTopic {
    let by_id = context.topics_by_id || topic.topic.is_empty();
    let found = if by_id {
        core.topic_by_id(id_of(topic.topic_id))
    } else {
        core.topic(&topic.topic)
    };
    let unknown = if by_id {
        ErrorCode::UnknownTopicId
    } else {
        ErrorCode::UnknownTopicOrPartition
    };
    let partitions = std::mem::take(&mut topic.partitions)
        .into_iter()
        .map(|request| {
            let partition = match &found {
                None => Err(unknown),
                Some(topic) => core
                    .partition(&topic.name, request.partition)
                    .ok_or(ErrorCode::UnknownTopicOrPartition),
            };
            let partition = partition.and_then(|partition| match request.current_leader_epoch {
                epoch if epoch < 0 || epoch == partition.leader_epoch() => Ok(partition),
                epoch if epoch < partition.leader_epoch() => Err(ErrorCode::FencedLeaderEpoch),
                _ => Err(ErrorCode::UnknownLeaderEpoch),
            });
            Wanted { partition, request }
        });
    WantedTopic {
        partitions: partitions.collect(),
        request: topic,
    }
}

fn read(topics: &[WantedTopic], reading: Reading) -> Found {
    let mut size_bytes = 0;
    let mut has_error = false;
    let mut responses = Vec::with_capacity(topics.len());
    let mut beside = Vec::new();
    for topic in topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let found = read_partition(
                wanted,
                reading.bytes_max.saturating_sub(size_bytes),
                size_bytes == 0,
                reading,
            );
            size_bytes += found.size_bytes;
            has_error |= found.data.error_code != 0 || found.data.diverging_epoch.epoch >= 0;
            partitions.push(found.data);
            beside.extend(found.beside);
        }
        responses.push(message!(FetchableTopicResponse {
            topic: topic.request.topic.clone(),
            topic_id: topic.request.topic_id,
            partitions: partitions,
        }));
    }
    Found {
        answer: StoredFetch {
            response: message!(FetchResponse {
                responses: responses
            }),
            records: beside,
        },
        size_bytes,
        has_error,
    }
}

/// What a partition answers.
struct FoundPartition {
    /// Without `records` if they stand beside it.
    data: PartitionData,
    beside: Option<Vec<Piece>>,
    size_bytes: usize,
}

fn read_partition(
    wanted: &Wanted,
    bytes_left: usize,
    at_least_one_batch: bool,
    reading: Reading,
) -> FoundPartition {
    let index = wanted.request.partition;
    let without_records = |data| FoundPartition {
        data,
        beside: None,
        size_bytes: 0,
    };
    let refusal = |code: ErrorCode| {
        message!(PartitionData {
            partition_index: index,
            error_code: code.code(),
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            records: Some(Bytes::new()),
        })
    };
    let refused = |code| without_records(refusal(code));
    let partition = match &wanted.partition {
        Ok(partition) => partition,
        Err(code) => return refused(*code),
    };
    let offset = wanted.request.fetch_offset;
    if wanted.request.last_fetched_epoch >= 0 {
        match partition.end_offset_for_epoch(wanted.request.last_fetched_epoch) {
            Ok(Some((epoch, end_offset)))
                if epoch < wanted.request.last_fetched_epoch || end_offset < offset =>
            {
                let mut data = refusal(ErrorCode::None);
                data.high_watermark = partition.high_watermark();
                data.last_stable_offset = partition.last_stable_offset();
                data.log_start_offset = partition.log_start_offset();
                data.diverging_epoch = message!(EpochEndOffset {
                    epoch: epoch,
                    end_offset: end_offset
                });
                return without_records(data);
            }
            Ok(Some(_)) => {}
            Ok(None) => return refused(ErrorCode::OffsetOutOfRange),
            Err(error) => return refused(errors::of_partition(&error)),
        }
    }
    let limit = usize::try_from(wanted.request.partition_max_bytes)
        .unwrap_or(0)
        .min(bytes_left);
    let isolation = reading.isolation;
    let found = if reading.records_may_stay {
        partition
            .locate_bounded(offset, limit, isolation, at_least_one_batch)
            .map(|fetched| beside(index, isolation, fetched))
    } else {
        partition
            .fetch_bounded(offset, limit, isolation, at_least_one_batch)
            .map(|fetched| inside(index, isolation, fetched))
    };
    match found {
        Ok(found) => found,
        Err(error) => {
            let mut data = refusal(errors::of_partition(&error));
            if data.error_code == ErrorCode::OffsetOutOfRange.code() {
                data.high_watermark = partition.high_watermark();
                data.log_start_offset = partition.log_start_offset();
            }
            without_records(data)
        }
    }
}

/// With the records beside it, unless there are none.
fn beside(index: i32, isolation: Isolation, fetched: Fetched<Vec<Piece>>) -> FoundPartition {
    let mut data = described(index, isolation, &fetched);
    let size_bytes = fetched.size_bytes;
    data.records = (size_bytes == 0).then(Bytes::new);
    FoundPartition {
        data,
        beside: (size_bytes > 0).then_some(fetched.batches),
        size_bytes,
    }
}

/// With the records in it.
fn inside(index: i32, isolation: Isolation, fetched: Fetched) -> FoundPartition {
    let mut data = described(index, isolation, &fetched);
    let size_bytes = fetched.size_bytes;
    data.records = Some(joined(fetched.batches, size_bytes));
    FoundPartition {
        data,
        beside: None,
        size_bytes,
    }
}

fn described<B>(index: i32, isolation: Isolation, fetched: &Fetched<B>) -> PartitionData {
    message!(PartitionData {
        partition_index: index,
        high_watermark: fetched.high_watermark,
        last_stable_offset: fetched.last_stable_offset,
        log_start_offset: fetched.log_start_offset,
        aborted_transactions: (isolation == Isolation::ReadCommitted)
            .then(|| aborted(&fetched.aborted)),
    })
}

fn aborted(transactions: &[log::AbortedTransaction]) -> Vec<AbortedTransaction> {
    let of = |transaction: &log::AbortedTransaction| {
        message!(AbortedTransaction {
            producer_id: transaction.producer_id,
            first_offset: transaction.first_offset,
        })
    };
    transactions.iter().map(of).collect()
}

/// The wire wants one run of bytes: shared if there is one, else copied together.
fn joined(mut batches: Vec<Bytes>, size_bytes: usize) -> Bytes {
    if batches.len() <= 1 {
        return batches.pop().unwrap_or_default();
    }
    let mut together = BytesMut::with_capacity(size_bytes);
    for batch in &batches {
        together.extend_from_slice(batch);
    }
    together.freeze()
}
