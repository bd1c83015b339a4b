//! What was fetched of one input partition and is not processed yet.
//!
//! 1. Batches wait as bytes. Only the head is decoded, so that its event time is known.
//! 2. The task chooses the queue with the lowest head, and says how far it may go: a *run*, one virtual call, takes records as long as
//!    their time stays within that bound, and nothing has come up between two records that the task must see to.
//! 3. What is wrong with a record (a null where none may be, bytes that cannot be read, an extractor that fails) is found when it becomes the
//!    head, but acted on when its turn comes: so what is processed before it does not depend on how the batches came in. Where its event
//!    time cannot be told, its turn is at the partition's time, and it moves no time.
//!
//! Positions: `position` is the offset to go on from after a restart; all below it is processed or skipped.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::StreamSettings;
use crate::cache::TaskCaches;
use crate::client::TopicPartition;
use crate::client::record_batch::{BatchCursor, BatchError, BatchHeader, RecordView};
use crate::error::{ProcessError, StreamsError};
use crate::processor::{Children, DropReason, TaskContext};
use crate::record::{Datum, Headers, Record, RecordMetadata};
use crate::topology::{Consumed, ExtractorInput};

/// How far a run may go.
pub(crate) struct RunLimits<'a> {
    /// Event time of the last record that may be taken.
    pub(crate) timestamp_max: i64,
    pub(crate) records_max: usize,
    pub(crate) settings: &'a StreamSettings,
    pub(crate) caches: &'a TaskCaches,
}

/// One input partition, whatever its types.
pub(crate) trait InputQueue {
    fn raw(&self) -> &RawQueue;
    fn raw_mut(&mut self) -> &mut RawQueue;
    /// Event time of the next record, which is decoded if it was not yet; `None` when nothing is there.
    fn head_timestamp(&mut self, task: &mut TaskContext) -> Result<Option<i64>, StreamsError>;
    /// Takes records through the topology, at least one; says how many.
    fn run(
        &mut self,
        limits: &RunLimits<'_>,
        task: &mut TaskContext,
    ) -> Result<usize, StreamsError>;
    /// Records that came through this queue.
    fn processed(&self) -> u64;
    /// The node's place in the topology.
    fn node(&self) -> usize;
    /// Lets go of the nodes below.
    fn close(&mut self);
}

/// The part of a queue that knows no types.
pub(crate) struct RawQueue {
    pub(crate) partition: TopicPartition,
    batches: VecDeque<BatchCursor>,
    /// Records not yet taken, the head included.
    pub(crate) buffered: usize,
    /// Where to go on after a restart, apart from a decoded head.
    next: i64,
    head_offset: Option<i64>,
    /// Position of the consumer: after the last batch that was pushed.
    fetch_position: i64,
    /// End of the partition, as last heard of; `None` before the first time.
    end_offset: Option<i64>,
    /// Highest event time taken, -1 before the first.
    pub(crate) partition_time: i64,
}

impl RawQueue {
    fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            batches: VecDeque::new(),
            buffered: 0,
            next: 0,
            head_offset: None,
            fetch_position: 0,
            end_offset: None,
            partition_time: -1,
        }
    }

    /// Begins at `offset`, with nothing buffered.
    pub(crate) fn begin_at(&mut self, offset: i64, partition_time: i64) {
        self.next = offset;
        self.fetch_position = offset;
        self.partition_time = partition_time;
    }

    /// Where to go on from after a restart.
    pub(crate) fn position(&self) -> i64 {
        self.head_offset.unwrap_or(if self.batches.is_empty() {
            self.fetch_position
        } else {
            self.next
        })
    }

    /// Whether everything that the cluster has of this partition is here already.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.end_offset
            .is_some_and(|end_offset| self.fetch_position >= end_offset)
    }

    /// Adds what was fetched.
    pub(crate) fn push(
        &mut self,
        batches: Vec<Bytes>,
        next_offset: i64,
        end_offset: i64,
    ) -> Result<(), BatchError> {
        for bytes in batches {
            let mut records = records_of(&bytes)?;
            let mut cursor = BatchCursor::new(bytes)?;
            // The first batch may begin below the position.
            while let Some((offset, _)) = cursor.peek_timestamp()? {
                if offset >= self.fetch_position {
                    break;
                }
                cursor.next()?;
                records -= 1;
            }
            if records > 0 {
                self.buffered += records;
                self.batches.push_back(cursor);
            }
        }
        self.fetch_position = self.fetch_position.max(next_offset);
        // Below zero it is not known (anew): what was known stays.
        if end_offset >= 0 {
            self.end_offset = Some(end_offset);
        }
        Ok(())
    }
}

/// How many records `bytes` hold, control batches apart.
fn records_of(bytes: &Bytes) -> Result<usize, BatchError> {
    let mut rest: &[u8] = bytes;
    let mut records = 0;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest)?;
        if !header.is_control() {
            records += header.records as usize;
        }
        rest = rest.get(header.size_bytes..).unwrap_or_default();
    }
    Ok(records)
}

/// One input partition of a source of `K, V`.
pub(crate) struct TypedQueue<K, V> {
    raw: RawQueue,
    source: Arc<str>,
    node: usize,
    consumed: Consumed<K, V>,
    children: Children<K, V>,
    head: Option<Head<K, V>>,
    processed: u64,
}

/// The next record.
struct Head<K, V> {
    /// Event time, which says when its turn comes.
    timestamp: i64,
    /// Whether that is the record's own, and so moves stream time and the partition's.
    is_own: bool,
    offset: i64,
    content: Content<K, V>,
}

enum Content<K, V> {
    Record {
        key: K,
        value: V,
        headers: Headers,
    },
    /// A null where the type has none.
    Dropped(DropReason),
    /// The serde could not read it: the deserialization handler decides.
    Unreadable(ProcessError),
    /// The extractor failed, or headers are malformed: stops the task.
    Failed(ProcessError),
}

impl<K: Datum, V: Datum> TypedQueue<K, V> {
    pub(crate) fn new(
        source: Arc<str>,
        node: usize,
        partition: TopicPartition,
        consumed: Consumed<K, V>,
        children: Children<K, V>,
    ) -> Self {
        Self {
            raw: RawQueue::new(partition),
            source,
            node,
            consumed,
            children,
            head: None,
            processed: 0,
        }
    }

    /// Makes the next record the head; skips those that the extractor refuses.
    #[inline]
    fn decode_head(&mut self, task: &mut TaskContext) -> Result<(), BatchError> {
        while let Some(cursor) = self.raw.batches.front_mut() {
            let Some(view) = cursor.next()? else {
                self.raw.batches.pop_front();
                continue;
            };
            let head = decode(
                &self.consumed,
                &self.raw.partition,
                self.raw.partition_time,
                task.now_ms,
                view,
            );
            if head.timestamp < 0 && !matches!(head.content, Content::Failed(_)) {
                task.drop_record(DropReason::InvalidTimestamp);
                self.raw.buffered = self.raw.buffered.saturating_sub(1);
                self.raw.next = head.offset + 1;
                continue;
            }
            self.raw.head_offset = Some(head.offset);
            self.head = Some(head);
            return Ok(());
        }
        Ok(())
    }

    fn malformed(&self, task: &TaskContext, error: BatchError) -> StreamsError {
        let next = self.raw.next;
        self.failure(task, next, ProcessError::from(error))
    }

    fn failure(&self, task: &TaskContext, offset: i64, error: ProcessError) -> StreamsError {
        StreamsError::Process {
            task: task.id.to_string(),
            topic: self.raw.partition.topic.to_string(),
            partition: self.raw.partition.partition,
            offset,
            error: error.at(&self.source),
        }
    }

    /// Takes one record; `Err` stops the task.
    #[inline]
    fn take(
        &mut self,
        content: Content<K, V>,
        timestamp: i64,
        settings: &StreamSettings,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        match content {
            Content::Record {
                key,
                value,
                headers,
            } => {
                self.processed += 1;
                if !(headers.is_empty() && task.headers.is_empty()) {
                    task.headers.clone_from(&headers);
                }
                self.children.forward(
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                    task,
                )
            }
            Content::Dropped(reason) => {
                task.drop_record(reason);
                Ok(())
            }
            Content::Unreadable(error) => task.handle(
                settings.deserialization_error,
                DropReason::Deserialization,
                error.at(&self.source),
            ),
            Content::Failed(error) => Err(error),
        }
    }
}

#[inline]
fn decode<K: Datum, V: Datum>(
    consumed: &Consumed<K, V>,
    partition: &TopicPartition,
    partition_time: i64,
    now_ms: i64,
    view: RecordView<'_>,
) -> Head<K, V> {
    let offset = view.offset;
    let topic = &*partition.topic;
    let untimed = |content| Head {
        timestamp: partition_time.max(0),
        is_own: false,
        offset,
        content,
    };
    // An extractor of `K` and `V` cannot be asked.
    let dropped = |reason| match &consumed.extractor {
        None if view.timestamp >= 0 => Head {
            timestamp: view.timestamp,
            is_own: true,
            offset,
            content: Content::Dropped(reason),
        },
        _ => untimed(Content::Dropped(reason)),
    };

    let key = match view.key {
        Some(bytes) => consumed.key.deserialize(topic, bytes).map(Some),
        None => Ok(consumed.key.null()),
    };
    let key = match key {
        Ok(Some(key)) => key,
        Ok(None) => return dropped(DropReason::NullKey),
        Err(error) => {
            return untimed(Content::Unreadable(ProcessError::new(format!(
                "key: {error}"
            ))));
        }
    };
    let value = match view.value {
        Some(bytes) => consumed.value.deserialize(topic, bytes).map(Some),
        None => Ok(consumed.value.null()),
    };
    let value = match value {
        Ok(Some(value)) => value,
        Ok(None) => return dropped(DropReason::NullValue),
        Err(error) => {
            return untimed(Content::Unreadable(ProcessError::new(format!(
                "value: {error}"
            ))));
        }
    };
    let headers = match view.headers.is_empty() {
        true => Headers::default(),
        false => match view.headers.to_headers() {
            Ok(headers) => headers,
            Err(error) => return untimed(Content::Failed(error.into())),
        },
    };

    let timestamp = match &consumed.extractor {
        None => crate::topology::valid_timestamp(view.timestamp),
        Some(extractor) => {
            let input = ExtractorInput {
                key: &key,
                value: &value,
                timestamp: view.timestamp,
                topic,
                partition: partition.partition,
                offset,
                now_ms,
            };
            extractor.extract(&input, partition_time)
        }
    };
    match timestamp {
        Ok(timestamp) => Head {
            timestamp,
            is_own: true,
            offset,
            content: Content::Record {
                key,
                value,
                headers,
            },
        },
        Err(error) => untimed(Content::Failed(error)),
    }
}

impl<K: Datum, V: Datum> InputQueue for TypedQueue<K, V> {
    fn raw(&self) -> &RawQueue {
        &self.raw
    }

    fn raw_mut(&mut self) -> &mut RawQueue {
        &mut self.raw
    }

    fn head_timestamp(&mut self, task: &mut TaskContext) -> Result<Option<i64>, StreamsError> {
        if self.head.is_none() {
            self.decode_head(task)
                .map_err(|error| self.malformed(task, error))?;
        }
        Ok(self.head.as_ref().map(|head| head.timestamp))
    }

    fn run(
        &mut self,
        limits: &RunLimits<'_>,
        task: &mut TaskContext,
    ) -> Result<usize, StreamsError> {
        let RunLimits {
            timestamp_max,
            records_max,
            settings,
            caches,
        } = *limits;
        let mut taken = 0;
        task.metadata = Some(RecordMetadata {
            topic: Arc::clone(&self.raw.partition.topic),
            partition: self.raw.partition.partition,
            offset: self.raw.next,
        });
        while let Some(Head {
            timestamp,
            is_own,
            offset,
            content,
        }) = self.head.take_if(|head| head.timestamp <= timestamp_max)
        {
            taken += 1;
            let own_timestamp = if is_own { timestamp } else { -1 };
            task.stream_time = task.stream_time.max(own_timestamp);
            task.record_timestamp = timestamp;
            if let Some(metadata) = &mut task.metadata {
                metadata.offset = offset;
            }
            // A record that stops the task stays the head, so that it is met again after a restart.
            self.take(content, timestamp, settings, task)
                .map_err(|error| self.failure(task, offset, error))?;

            self.raw.partition_time = self.raw.partition_time.max(own_timestamp);
            self.raw.buffered = self.raw.buffered.saturating_sub(1);
            self.raw.next = offset + 1;
            self.raw.head_offset = None;
            self.decode_head(task)
                .map_err(|error| self.malformed(task, error))?;

            let interrupted = task.stream_time >= task.punctuations.stream_due_ms
                || task.commit_requested
                || task.held_records > 0;
            if taken == records_max || interrupted || caches.wants_eviction() {
                break;
            }
        }
        task.metadata = None;
        task.headers = Headers::default();
        Ok(taken)
    }

    fn processed(&self) -> u64 {
        self.processed
    }

    fn node(&self) -> usize {
        self.node
    }

    fn close(&mut self) {
        self.children = Children::default();
    }
}
