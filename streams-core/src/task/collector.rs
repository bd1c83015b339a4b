//! The output of tasks: sinks and changelogs append to the producer of their thread.

use std::cell::RefCell;
use std::rc::Rc;

use brooklet_state_stores::{ChangelogRecord, ChangelogSink, StoreError};

use crate::client::{ClientError, Producer, RecordRef, TopicHandle};
use crate::partitioner::partition_of_key;
use crate::record::Headers;

/// The output of all tasks of a thread.
pub type SharedCollector = Rc<RefCell<RecordCollector>>;

/// So many bytes without key go to one partition before the next is chosen: about a batch (`batch.size`, KIP-794).
const STICKY_BYTES: usize = 16_384;

/// Appends the output of tasks to a producer.
pub struct RecordCollector {
    producer: Box<dyn Producer>,
    /// Reused for every record: serialised key and value.
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// By topic handle: where records without key go.
    sticky: Vec<Sticky>,
    /// Raised whenever partition counts may have changed: sinks ask again.
    pub(crate) epoch: u64,
    headers: Headers,
}

#[derive(Clone, Copy, Default)]
struct Sticky {
    partition: i32,
    bytes: usize,
}

impl RecordCollector {
    /// A collector over a thread's producer.
    pub fn new(producer: Box<dyn Producer>) -> SharedCollector {
        Rc::new(RefCell::new(Self {
            producer,
            key: Vec::new(),
            value: Vec::new(),
            sticky: Vec::new(),
            epoch: 0,
            headers: Headers::default(),
        }))
    }

    /// The producer, to be polled and flushed by the runtime.
    pub fn producer_mut(&mut self) -> &mut dyn Producer {
        &mut *self.producer
    }

    /// Makes sinks ask for partition counts again: topics can grow. The runtime calls it now and then.
    pub fn refresh_partitions(&mut self) {
        self.epoch += 1;
    }

    /// Appends what `key` and `value` of this collector hold.
    #[inline]
    pub(crate) fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        (has_key, has_value): (bool, bool),
        timestamp: i64,
        headers: &Headers,
    ) -> Result<(), ClientError> {
        let key = has_key.then_some(self.key.as_slice());
        let value = has_value.then_some(self.value.as_slice());
        self.producer.append(
            topic,
            partition,
            RecordRef {
                key,
                value,
                timestamp,
                headers,
            },
        )
    }

    /// Kafka's default partitioner: murmur2 of the key's bytes; without a key one partition for about a batch, then the next.
    #[inline]
    pub(crate) fn default_partition(
        &mut self,
        topic: TopicHandle,
        has_key: bool,
        unpartitioned_bytes: usize,
        partitions: i32,
    ) -> i32 {
        if has_key {
            return partition_of_key(&self.key, unpartitioned_bytes, partitions);
        }
        let place = topic.0 as usize;
        if self.sticky.len() <= place {
            self.sticky.resize(place + 1, Sticky::default());
        }
        let Some(sticky) = self.sticky.get_mut(place) else {
            return 0;
        };
        if sticky.bytes >= STICKY_BYTES || sticky.partition >= partitions {
            *sticky = Sticky {
                partition: (sticky.partition + 1) % partitions.max(1),
                bytes: 0,
            };
        }
        sticky.bytes += self.value.len();
        sticky.partition
    }
}

/// Sends the changes of one store to its partition of the changelog.
pub(crate) struct CollectorChangelog {
    pub(crate) collector: SharedCollector,
    pub(crate) topic: TopicHandle,
    pub(crate) partition: i32,
}

impl ChangelogSink for CollectorChangelog {
    fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError> {
        let collector = &mut *self.collector.borrow_mut();
        // Typed stores say the time of every change; a store without times has none to give, and the producer's rule holds.
        let timestamp = record.timestamp_ms.unwrap_or(-1);
        let record = RecordRef {
            key: Some(record.key),
            value: record.value,
            timestamp,
            headers: &collector.headers,
        };
        collector
            .producer
            .append(self.topic, self.partition, record)
            .map_err(|error| StoreError::Changelog(Box::new(error)))
    }
}
