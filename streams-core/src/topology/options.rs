//! What a source or a sink can be told beside its topic.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use smallvec::SmallVec;

use crate::error::ProcessError;
use crate::serde::{HasSerde, Json, Serde, SharedSerde, default_serde};

/// How a topic is read: serdes, event time, where to begin without a committed offset, and the node's name.
///
/// A null key or value read as a type without null (see [`Deserializer::null`](crate::serde::Deserializer::null)) drops the record,
/// which is counted. Read a table's topic as `Consumed<K, Option<V>>`.
pub struct Consumed<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) name: Option<String>,
    pub(crate) extractor: Option<Arc<dyn TimestampExtractor<K, V>>>,
    pub(crate) offset_reset: Option<AutoOffsetReset>,
}

impl<K, V> Clone for Consumed<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            name: self.name.clone(),
            extractor: self.extractor.clone(),
            offset_reset: self.offset_reset,
        }
    }
}

impl<K: HasSerde, V: HasSerde> Default for Consumed<K, V> {
    fn default() -> Self {
        Self::shared(default_serde(), default_serde())
    }
}

impl<K: HasSerde, V: Serialize + DeserializeOwned + 'static> Consumed<K, V> {
    /// The default serde for keys, JSON for values.
    pub fn json() -> Self {
        Self::shared(default_serde(), Arc::new(Json::new()))
    }
}

impl<K: HasSerde, V: Serialize + DeserializeOwned + 'static> Produced<K, V> {
    /// The default serde for keys, JSON for values.
    pub fn json() -> Self {
        Self::shared(default_serde(), Arc::new(Json::new()))
    }
}

impl<K, V> Consumed<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self::shared(Arc::new(key), Arc::new(value))
    }

    /// With serdes that are shared already.
    pub fn shared(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            key,
            value,
            name: None,
            extractor: None,
            offset_reset: None,
        }
    }

    /// Names the source node.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Takes event time from somewhere else than the record's own timestamp (KIP-32). Without it: [`FailOnInvalid`].
    #[must_use]
    pub fn timestamp_extractor(mut self, extractor: impl TimestampExtractor<K, V>) -> Self {
        self.extractor = Some(Arc::new(extractor));
        self
    }

    /// Where to begin when nothing is committed. Without it: the runtime's `auto.offset.reset` (Kafka Streams: earliest).
    #[must_use]
    pub fn offset_reset(mut self, offset_reset: AutoOffsetReset) -> Self {
        self.offset_reset = Some(offset_reset);
        self
    }

    /// The name given by [`Consumed::named`].
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The key's serde.
    pub fn key_serde(&self) -> &SharedSerde<K> {
        &self.key
    }

    /// The value's serde.
    pub fn value_serde(&self) -> &SharedSerde<V> {
        &self.value
    }

    /// What [`Consumed::offset_reset`] said.
    pub fn auto_offset_reset(&self) -> Option<AutoOffsetReset> {
        self.offset_reset
    }

    /// The same options with another value's serde, for a topic whose values are wrapped (a table's `Option<V>`). An extractor of `V` is
    /// adapted by `adapt`; `None` from it means that there is no `V` to ask about, and the record's own timestamp holds.
    #[must_use]
    pub fn map_value<W: 'static>(
        self,
        value: SharedSerde<W>,
        adapt: fn(&W) -> Option<&V>,
    ) -> Consumed<K, W>
    where
        K: 'static,
        V: 'static,
    {
        let extractor = self
            .extractor
            .map(|inner| Arc::new(Adapted { inner, adapt }) as Arc<dyn TimestampExtractor<K, W>>);
        Consumed {
            key: self.key,
            value,
            name: self.name,
            extractor,
            offset_reset: self.offset_reset,
        }
    }
}

struct Adapted<K, V, W> {
    inner: Arc<dyn TimestampExtractor<K, V>>,
    adapt: fn(&W) -> Option<&V>,
}

impl<K: 'static, V: 'static, W: 'static> TimestampExtractor<K, W> for Adapted<K, V, W> {
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, W>,
        partition_time: i64,
    ) -> Result<i64, ProcessError> {
        let Some(value) = (self.adapt)(record.value) else {
            return Ok(record.timestamp);
        };
        let ExtractorInput {
            key,
            timestamp,
            topic,
            partition,
            offset,
            now_ms,
            ..
        } = *record;
        self.inner.extract(
            &ExtractorInput {
                key,
                value,
                timestamp,
                topic,
                partition,
                offset,
                now_ms,
            },
            partition_time,
        )
    }
}

/// Where to begin to read a partition of which nothing is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AutoOffsetReset {
    /// With its first record.
    Earliest,
    /// With what comes next.
    Latest,
    /// Not at all: an error.
    None,
}

/// One record as a timestamp extractor sees it.
#[derive(Debug)]
pub struct ExtractorInput<'a, K, V> {
    /// Key.
    pub key: &'a K,
    /// Value.
    pub value: &'a V,
    /// The record's own timestamp in milliseconds; negative when it has none.
    pub timestamp: i64,
    /// Topic it was read from.
    pub topic: &'a str,
    /// Partition it was read from.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Wall-clock time of this step, in milliseconds.
    pub now_ms: i64,
}

/// Chooses a record's event time (KIP-32).
///
/// Closures `|input, partition_time| input.value.at_ms` are extractors.
pub trait TimestampExtractor<K, V>: Send + Sync + 'static {
    /// The event time of `record` in milliseconds. Negative: the record is skipped and counted as
    /// [`DropReason::InvalidTimestamp`](crate::processor::DropReason::InvalidTimestamp). `partition_time` is the highest event time taken
    /// from that partition so far, -1 before the first.
    ///
    /// # Errors
    /// Stops the task, whatever the handlers say.
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, V>,
        partition_time: i64,
    ) -> Result<i64, ProcessError>;
}

impl<K, V, F> TimestampExtractor<K, V> for F
where
    F: Fn(&ExtractorInput<'_, K, V>, i64) -> i64 + Send + Sync + 'static,
{
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, V>,
        partition_time: i64,
    ) -> Result<i64, ProcessError> {
        Ok(self(record, partition_time))
    }
}

/// The record's own timestamp; a negative one stops the task. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailOnInvalid;

impl<K, V> TimestampExtractor<K, V> for FailOnInvalid {
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, V>,
        _partition_time: i64,
    ) -> Result<i64, ProcessError> {
        valid_timestamp(record.timestamp)
    }
}

/// What [`FailOnInvalid`] says of a record's own timestamp.
pub(crate) fn valid_timestamp(timestamp: i64) -> Result<i64, ProcessError> {
    if timestamp >= 0 {
        return Ok(timestamp);
    }
    Err(ProcessError::new(format!(
        "the record has the invalid (negative) timestamp {timestamp}: it was possibly written by a producer older than Kafka 0.10; \
         choose another timestamp extractor, such as LogAndSkip"
    )))
}

/// The record's own timestamp; records with a negative one are skipped and counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogAndSkip;

impl<K, V> TimestampExtractor<K, V> for LogAndSkip {
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, V>,
        _partition_time: i64,
    ) -> Result<i64, ProcessError> {
        if record.timestamp < 0 {
            tracing::warn!(
                topic = record.topic,
                partition = record.partition,
                offset = record.offset,
                "record skipped: negative timestamp"
            );
        }
        Ok(record.timestamp)
    }
}

/// The record's own timestamp, or when that is negative the highest event time taken from the partition so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsePartitionTime;

impl<K, V> TimestampExtractor<K, V> for UsePartitionTime {
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, V>,
        partition_time: i64,
    ) -> Result<i64, ProcessError> {
        if record.timestamp >= 0 {
            return Ok(record.timestamp);
        }
        if partition_time >= 0 {
            return Ok(partition_time);
        }
        Err(ProcessError::new(format!(
            "no timestamp is known yet for partition {} of {}",
            record.partition, record.topic
        )))
    }
}

/// Wall-clock time of the step that takes the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl<K, V> TimestampExtractor<K, V> for WallClock {
    fn extract(
        &self,
        record: &ExtractorInput<'_, K, V>,
        _partition_time: i64,
    ) -> Result<i64, ProcessError> {
        Ok(record.now_ms)
    }
}

/// How a topic is written: serdes, the partition of each record, and the node's name.
pub struct Produced<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) name: Option<String>,
    pub(crate) partitioner: Option<Arc<Partitioner<K, V>>>,
}

/// Chooses partitions: topic, key, value, number of partitions of the topic.
pub type Partitioner<K, V> = dyn Fn(&str, &K, &V, i32) -> Partitions + Send + Sync;

/// Where a record goes (KIP-837).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// Where Kafka's default partitioner puts it: by murmur2 of the key's bytes.
    Default,
    /// To one partition.
    One(i32),
    /// To several. None at all drops the record, which is counted.
    Many(SmallVec<[i32; 4]>),
}

impl<K, V> Clone for Produced<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            name: self.name.clone(),
            partitioner: self.partitioner.clone(),
        }
    }
}

impl<K: HasSerde, V: HasSerde> Default for Produced<K, V> {
    fn default() -> Self {
        Self::shared(default_serde(), default_serde())
    }
}

impl<K, V> Produced<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self::shared(Arc::new(key), Arc::new(value))
    }

    /// With serdes that are shared already.
    pub fn shared(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            key,
            value,
            name: None,
            partitioner: None,
        }
    }

    /// Names the sink node.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses partitions. A closure `|topic, key, value, partitions| Partitions::One(0)`.
    #[must_use]
    pub fn partitioner(
        mut self,
        partitioner: impl Fn(&str, &K, &V, i32) -> Partitions + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// The name given by [`Produced::named`].
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The key's serde.
    pub fn key_serde(&self) -> &SharedSerde<K> {
        &self.key
    }

    /// The value's serde.
    pub fn value_serde(&self) -> &SharedSerde<V> {
        &self.value
    }
}

impl<K, V> fmt::Debug for Consumed<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumed")
            .field("name", &self.name)
            .field("offset_reset", &self.offset_reset)
            .finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for Produced<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Produced")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A typed marker that is `Copy`, `Send` and `Sync` whatever its parameters.
pub(crate) type Typed<K, V> = PhantomData<fn() -> (K, V)>;
