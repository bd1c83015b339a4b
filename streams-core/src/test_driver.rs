//! Runs a topology in a test: no broker, no threads, no waiting (Kafka Streams' `TopologyTestDriver`, KIP-247 and KIP-470).
//!
//! It is a second driver of the same [`Task`]s that the runtime drives. Every topic has one partition. After each record that is piped in,
//! everything that follows from it happens at once: all tasks process, stream-time punctuations are called, caches are flushed and stores
//! committed after each record, and what was written to a topic that the topology reads is read. Wall-clock time moves only when told to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use brooklet_state_stores::{Backend, Memory, Positions, Stores};
use bytes::Bytes;

use crate::cache::ThreadCache;
use crate::client::record_batch::BatchBuilder;
use crate::client::{
    ClientError, ClientErrorKind, Completion, Fetched, Producer, RecordRef, Slot, TopicHandle,
    TopicPartition,
};
use crate::error::{ProcessError, StreamsError};
use crate::record::{Datum, Headers, Record};
use crate::serde::{HasSerde, Payload, Serde, SharedSerde, default_serde};
use crate::task::{GlobalStores, RecordCollector, StreamSettings, Task, TaskEnvironment};
use crate::topology::{DroppedRecords, TaskId, Topology};
use crate::typed_store::{
    BuiltStore, StoreKey, TimestampedKeyValueStore, TimestampedWindowStore, Written as WrittenTo,
};

/// Memory for the RocksDB stores of one driver.
const STORE_MEMORY_BYTES: usize = 16 << 20;

/// How a driver is set up.
#[derive(Clone, Debug)]
pub struct TestDriverOptions {
    /// `application.id`: in front of internal topics' names.
    pub application_id: String,
    /// Wall-clock time at the beginning, in milliseconds since the epoch.
    pub now_ms: i64,
    /// `statestore.cache.max.bytes`.
    pub cache_bytes_max: usize,
    /// How to process. There is no waiting for inputs in a test driver.
    pub settings: StreamSettings,
}

impl Default for TestDriverOptions {
    fn default() -> Self {
        Self {
            application_id: "test".to_owned(),
            now_ms: 0,
            cache_bytes_max: 10 << 20,
            settings: StreamSettings::default(),
        }
    }
}

/// Runs a topology in a test.
///
/// ```
/// use brooklet_streams_core::StreamsError;
/// use brooklet_streams_core::test_driver::TopologyTestDriver;
/// use brooklet_streams_core::topology::{Consumed, Produced, Topology};
///
/// # fn main() -> Result<(), StreamsError> {
/// let mut builder = Topology::builder();
/// let lines = builder.add_source::<String, String>("lines", ["in"], Consumed::default())?;
/// builder.add_sink("copy", "out", Produced::default(), &[lines])?;
///
/// let driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("in")?;
/// let output = driver.output_topic::<String, String>("out");
/// input.pipe("brook".to_owned(), "trout".to_owned(), 7)?;
/// let record = output.read()?.expect("the copy");
/// assert_eq!((record.key.as_str(), record.value.as_str(), record.timestamp), ("brook", "trout", 7));
/// # Ok(())
/// # }
/// ```
pub struct TopologyTestDriver {
    inner: Rc<RefCell<Inner>>,
}

struct Inner {
    now_ms: i64,
    tasks: Vec<Task>,
    /// Where a topic's records go: task and input.
    routes: BTreeMap<Arc<str>, (usize, usize)>,
    /// End offsets of the topics that are read.
    ends: BTreeMap<Arc<str>, i64>,
    written: SharedWritten,
    /// Written and not yet read by the test, by topic.
    outputs: BTreeMap<Arc<str>, VecDeque<WrittenRecord>>,
    produced: BTreeSet<String>,
    /// Deleted when the driver is dropped; the stores above go first.
    _directory: Option<tempfile::TempDir>,
}

impl TopologyTestDriver {
    /// A driver with the defaults: application `test`, wall-clock time 0.
    ///
    /// # Errors
    /// When a task cannot be built, or its stores not be opened.
    pub fn new(topology: &Topology) -> Result<Self, StreamsError> {
        Self::with(topology, TestDriverOptions::default())
    }

    /// A driver with these options.
    ///
    /// # Errors
    /// When a task cannot be built, or its stores not be opened.
    pub fn with(topology: &Topology, options: TestDriverOptions) -> Result<Self, StreamsError> {
        let TestDriverOptions {
            application_id,
            now_ms,
            cache_bytes_max,
            mut settings,
        } = options;
        settings.task_idle_max_ms = -1;
        let written = SharedWritten::default();
        let mut environment = TaskEnvironment {
            application_id: application_id.as_str().into(),
            collector: RecordCollector::new(Box::new(TestProducer::new(&written, 1))),
            cache: ThreadCache::new(
                cache_bytes_max,
                settings.processing_error == crate::task::ErrorResponse::Continue,
            ),
            globals: GlobalStores::new(),
            settings,
        };
        let subtopologies = topology.subtopologies();
        let persistent = |id: u32| {
            topology
                .store_specs(id)
                .iter()
                .any(|spec| spec.backend == Backend::RocksDb)
        };
        let directory =
            if subtopologies
                .iter()
                .any(|subtopology| persistent(subtopology.id))
            {
                Some(tempfile::tempdir().map_err(|error| {
                    StreamsError::Other(format!("temporary directory: {error}"))
                })?)
            } else {
                None
            };
        let memory = Memory::new(STORE_MEMORY_BYTES);

        let mut inputs: BTreeMap<TaskId, Vec<TopicPartition>> = BTreeMap::new();
        for global in topology.global_stores() {
            let id = TaskId {
                subtopology: global.subtopology,
                partition: 0,
            };
            inputs.insert(id, vec![TopicPartition::new(global.topic, 0)]);
        }
        let globals = inputs.len();
        let mut order: Vec<TaskId> = inputs.keys().copied().collect();
        // A repartition topic that asks for more partitions still has one here.
        for task in topology.tasks_of_one_partition(&application_id) {
            order.push(task.id);
            inputs.insert(task.id, task.inputs);
        }

        let mut inner = Inner {
            now_ms,
            tasks: Vec::new(),
            routes: BTreeMap::new(),
            ends: BTreeMap::new(),
            written,
            outputs: BTreeMap::new(),
            produced: BTreeSet::new(),
            _directory: directory,
        };
        for (place, id) in order.into_iter().enumerate() {
            let specs = topology.store_specs(id.subtopology);
            let path = inner
                ._directory
                .as_ref()
                .map(|directory| directory.path().join(id.to_string()));
            let path = path.filter(|_| persistent(id.subtopology));
            let stores = Stores::open(path.as_deref(), &specs, &memory).map_err(|error| {
                StreamsError::Task {
                    task: id.to_string(),
                    error: error.into(),
                }
            })?;
            let inputs = inputs.remove(&id).unwrap_or_default();
            for (input, partition) in inputs.iter().enumerate() {
                inner
                    .routes
                    .insert(Arc::clone(&partition.topic), (place, input));
            }
            let task = Task::new(topology, id, inputs, stores, &environment, now_ms)?;
            if place < globals {
                environment.globals.extend(task.built_stores().clone());
            }
            inner.tasks.push(task);
        }
        Ok(Self {
            inner: Rc::new(RefCell::new(inner)),
        })
    }

    /// A topic to pipe records into, with default serdes.
    ///
    /// # Errors
    /// When the topology does not read the topic.
    pub fn input_topic<K: HasSerde, V: HasSerde>(
        &self,
        topic: &str,
    ) -> Result<TestInputTopic<K, V>, StreamsError> {
        self.input_topic_shared(topic, default_serde(), default_serde())
    }

    /// A topic to pipe records into, with these serdes.
    ///
    /// # Errors
    /// When the topology does not read the topic.
    pub fn input_topic_with<K: 'static, V: 'static>(
        &self,
        topic: &str,
        key: impl Serde<K>,
        value: impl Serde<V>,
    ) -> Result<TestInputTopic<K, V>, StreamsError> {
        self.input_topic_shared(topic, Arc::new(key), Arc::new(value))
    }

    fn input_topic_shared<K, V>(
        &self,
        topic: &str,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Result<TestInputTopic<K, V>, StreamsError> {
        let inner = self.inner.borrow();
        let Some((topic, _)) = inner.routes.get_key_value(topic) else {
            let known: Vec<&str> = inner.routes.keys().map(|topic| &**topic).collect();
            return Err(StreamsError::Other(format!(
                "the topology does not read topic {topic}; it reads {}",
                known.join(", ")
            )));
        };
        Ok(TestInputTopic {
            inner: Rc::clone(&self.inner),
            topic: Arc::clone(topic),
            key,
            value,
        })
    }

    /// A topic to read records from, with default serdes.
    pub fn output_topic<K: HasSerde, V: HasSerde>(&self, topic: &str) -> TestOutputTopic<K, V> {
        TestOutputTopic {
            inner: Rc::clone(&self.inner),
            topic: topic.to_owned(),
            key: default_serde(),
            value: default_serde(),
        }
    }

    /// A topic to read records from, with these serdes.
    pub fn output_topic_with<K: 'static, V: 'static>(
        &self,
        topic: &str,
        key: impl Serde<K>,
        value: impl Serde<V>,
    ) -> TestOutputTopic<K, V> {
        TestOutputTopic {
            inner: Rc::clone(&self.inner),
            topic: topic.to_owned(),
            key: Arc::new(key),
            value: Arc::new(value),
        }
    }

    /// Moves wall-clock time forward and calls the punctuations that are due.
    ///
    /// # Errors
    /// What stops a task.
    pub fn advance_wall_clock(&self, by_ms: i64) -> Result<(), StreamsError> {
        let mut inner = self.inner.borrow_mut();
        inner.now_ms += by_ms;
        let now_ms = inner.now_ms;
        for task in 0..inner.tasks.len() {
            if let Some(task) = inner.tasks.get_mut(task) {
                task.punctuate(now_ms)?;
            }
            inner.commit(task)?;
        }
        inner.complete()
    }

    /// Wall-clock time, in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.inner.borrow().now_ms
    }

    /// Topics that were written so far, changelogs and repartition topics included, by name.
    pub fn produced_topics(&self) -> Vec<String> {
        self.inner.borrow().produced.iter().cloned().collect()
    }

    /// Records dropped so far by all tasks, by reason.
    pub fn dropped(&self) -> DroppedRecords {
        let mut dropped = DroppedRecords::default();
        for task in &self.inner.borrow().tasks {
            dropped.add(task.dropped());
        }
        dropped
    }

    /// How many records each node has taken, by name.
    pub fn processed(&self) -> BTreeMap<Arc<str>, u64> {
        self.inner
            .borrow()
            .tasks
            .iter()
            .flat_map(Task::processed)
            .collect()
    }

    /// A key-value store, of a task or global.
    ///
    /// # Errors
    /// When there is none of that name, or it has another kind or other types.
    pub fn key_value_store<K: StoreKey, V: Datum>(
        &self,
        name: &str,
    ) -> Result<TestKeyValueStore<K, V>, StreamsError> {
        let (task, store) = self.inner.borrow().store(name)?;
        let store = store
            .key_value()
            .map_err(|error| StreamsError::Other(error.to_string()))?;
        Ok(TestKeyValueStore {
            inner: Rc::clone(&self.inner),
            task,
            store,
        })
    }

    /// A window store.
    ///
    /// # Errors
    /// When there is none of that name, or it has another kind or other types.
    pub fn window_store<K: StoreKey, V: Datum>(
        &self,
        name: &str,
    ) -> Result<TimestampedWindowStore<K, V>, StreamsError> {
        let (_, store) = self.inner.borrow().store(name)?;
        store
            .window()
            .map_err(|error| StreamsError::Other(error.to_string()))
    }
}

/// A topic that a test writes.
pub struct TestInputTopic<K, V> {
    inner: Rc<RefCell<Inner>>,
    topic: Arc<str>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K: 'static, V: 'static> TestInputTopic<K, V> {
    /// Writes a record at `timestamp` (milliseconds), and lets everything happen that follows from it.
    ///
    /// # Errors
    /// What stops a task, or a serde's.
    pub fn pipe(&self, key: K, value: V, timestamp: i64) -> Result<(), StreamsError> {
        self.pipe_record(Record::new(key, value, timestamp))
    }

    /// As [`TestInputTopic::pipe`], with headers.
    ///
    /// # Errors
    /// What stops a task, or a serde's.
    pub fn pipe_record(&self, record: Record<K, V>) -> Result<(), StreamsError> {
        let serialized = |error: crate::serde::SerdeError| {
            StreamsError::Other(format!("record for topic {}: {error}", self.topic))
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let has_key = !self.key.is_null(&record.key);
        if has_key {
            self.key
                .serialize(&self.topic, &record.key, &mut key)
                .map_err(serialized)?;
        }
        let has_value = !self.value.is_null(&record.value);
        if has_value {
            self.value
                .serialize(&self.topic, &record.value, &mut value)
                .map_err(serialized)?;
        }
        let written = WrittenRecord {
            key: has_key.then(|| key.into()),
            value: has_value.then(|| value.into()),
            timestamp: record.timestamp,
            headers: record.headers,
        };
        let mut inner = self.inner.borrow_mut();
        inner.feed(&self.topic, &written)?;
        inner.complete()
    }
}

/// A topic that a test reads.
pub struct TestOutputTopic<K, V> {
    inner: Rc<RefCell<Inner>>,
    topic: String,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K: 'static, V: 'static> TestOutputTopic<K, V> {
    /// The next record that was written and not read yet.
    ///
    /// # Errors
    /// When it cannot be read with these serdes; a null counts as such where the type has none.
    pub fn read(&self) -> Result<Option<Record<K, V>>, StreamsError> {
        let written = self
            .inner
            .borrow_mut()
            .outputs
            .get_mut(self.topic.as_str())
            .and_then(VecDeque::pop_front);
        let Some(WrittenRecord {
            key,
            value,
            timestamp,
            headers,
        }) = written
        else {
            return Ok(None);
        };
        let key = self.decode(&self.key, "key", key.as_ref())?;
        let value = self.decode(&self.value, "value", value.as_ref())?;
        Ok(Some(Record {
            key,
            value,
            timestamp,
            headers,
        }))
    }

    /// All records that were written and not read yet.
    ///
    /// # Errors
    /// As [`TestOutputTopic::read`].
    pub fn read_all(&self) -> Result<Vec<Record<K, V>>, StreamsError> {
        std::iter::from_fn(|| self.read().transpose()).collect()
    }

    /// How many records wait to be read.
    pub fn len(&self) -> usize {
        self.inner
            .borrow()
            .outputs
            .get(self.topic.as_str())
            .map_or(0, VecDeque::len)
    }

    /// Whether none wait to be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn decode<T: 'static>(
        &self,
        serde: &SharedSerde<T>,
        what: &str,
        bytes: Option<&Bytes>,
    ) -> Result<T, StreamsError> {
        let failed = |message: String| {
            StreamsError::Other(format!(
                "{what} of a record of topic {}: {message}",
                self.topic
            ))
        };
        match bytes {
            Some(bytes) => serde
                .deserialize(&self.topic, Payload::shared(bytes, bytes))
                .map_err(|error| failed(error.to_string())),
            None => serde
                .null()
                .ok_or_else(|| failed("is null; read it as an Option".to_owned())),
        }
    }
}

/// A store as a test sees it: reads go to the store itself.
pub struct TestKeyValueStore<K: StoreKey, V: Datum> {
    inner: Rc<RefCell<Inner>>,
    task: usize,
    store: TimestampedKeyValueStore<K, V>,
}

impl<K: StoreKey, V: Datum> TestKeyValueStore<K, V> {
    /// Sets a value from outside of the topology; `None` deletes.
    ///
    /// # Errors
    /// What the store reports.
    pub fn put(&self, key: &K, value: Option<V>, timestamp: i64) -> Result<(), ProcessError> {
        let mut inner = self.inner.borrow_mut();
        let task = inner
            .tasks
            .get_mut(self.task)
            .ok_or_else(|| ProcessError::new("the store's task is gone"))?;
        let _told: WrittenTo<V> = self.store.put(key, value, timestamp, task.context_mut())?;
        Ok(())
    }
}

impl<K: StoreKey, V: Datum> Deref for TestKeyValueStore<K, V> {
    type Target = TimestampedKeyValueStore<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl Inner {
    /// Hands a record to the task that reads the topic.
    fn feed(&mut self, topic: &Arc<str>, record: &WrittenRecord) -> Result<(), StreamsError> {
        let Some((task, input)) = self.routes.get(topic).copied() else {
            return Ok(());
        };
        let end = self.ends.entry(Arc::clone(topic)).or_insert(0);
        let offset = *end;
        *end += 1;
        let headers = record
            .headers
            .iter()
            .map(|header| (header.key.as_bytes(), header.value.as_deref()));
        let mut batch = BatchBuilder::new(256);
        batch
            .append_at(
                offset,
                record.timestamp,
                record.key.as_deref(),
                record.value.as_deref(),
                headers,
            )
            .map_err(|error| StreamsError::Client(error.into()))?;
        let fetched = Fetched {
            slot: Slot(0),
            batches: vec![batch.finish().freeze()],
            next_offset: offset + 1,
            end_offset: offset + 1,
            error: None,
        };
        match self.tasks.get_mut(task) {
            Some(task) => task.add_fetched(input, fetched),
            None => Ok(()),
        }
    }

    /// Processes until nothing is left to do, one record at a time.
    fn complete(&mut self) -> Result<(), StreamsError> {
        self.capture()?;
        let mut progress = true;
        while progress {
            progress = false;
            for place in 0..self.tasks.len() {
                let Some(task) = self.tasks.get_mut(place) else {
                    continue;
                };
                if task.process(self.now_ms, 1)? > 0 {
                    progress = true;
                    self.commit(place)?;
                    self.capture()?;
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, place: usize) -> Result<(), StreamsError> {
        let Some(task) = self.tasks.get_mut(place) else {
            return Ok(());
        };
        task.flush(self.now_ms)?;
        task.commit_stores(&Positions::default())
    }

    /// Takes what was written: for the test to read, and back into the topology where that reads it.
    fn capture(&mut self) -> Result<(), StreamsError> {
        let written = std::mem::take(&mut lock(&self.written).records);
        for (topic, _, record) in written {
            self.feed(&topic, &record)?;
            self.produced.insert(topic.to_string());
            self.outputs.entry(topic).or_default().push_back(record);
        }
        Ok(())
    }

    fn store(&self, name: &str) -> Result<(usize, BuiltStore), StreamsError> {
        let find =
            |(place, task): (usize, &Task)| Some((place, task.built_stores().get(name)?.clone()));
        self.tasks
            .iter()
            .enumerate()
            .find_map(find)
            .ok_or_else(|| StreamsError::Other(format!("the topology has no store {name}")))
    }
}

/// A record as a producer got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenRecord {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) timestamp: i64,
    pub(crate) headers: Headers,
}

/// What a producer was given, in order: topic, partition, record.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) records: Vec<(Arc<str>, i32, WrittenRecord)>,
}

/// Shared between a producer, which must be `Send`, and the driver.
pub(crate) type SharedWritten = Arc<Mutex<Written>>;

pub(crate) fn lock(written: &SharedWritten) -> std::sync::MutexGuard<'_, Written> {
    // Nothing panics while it is held.
    written.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A producer that keeps what it is given.
pub(crate) struct TestProducer {
    written: SharedWritten,
    topics: Vec<Arc<str>>,
    partitions: i32,
    ends: BTreeMap<(u32, i32), i64>,
    completions: Vec<Completion>,
}

impl TestProducer {
    /// To a cluster on which every topic exists with so many partitions.
    pub(crate) fn new(written: &SharedWritten, partitions: i32) -> Self {
        Self {
            written: Arc::clone(written),
            topics: Vec::new(),
            partitions,
            ends: BTreeMap::new(),
            completions: Vec::new(),
        }
    }
}

impl Producer for TestProducer {
    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        let place = self
            .topics
            .iter()
            .position(|topic| &**topic == name)
            .unwrap_or_else(|| {
                self.topics.push(name.into());
                self.topics.len() - 1
            });
        Ok(TopicHandle(u32::try_from(place).unwrap_or(u32::MAX)))
    }

    fn partitions(&mut self, _topic: TopicHandle) -> Option<i32> {
        Some(self.partitions)
    }

    fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        record: RecordRef<'_>,
    ) -> Result<(), ClientError> {
        let Some(name) = self.topics.get(topic.0 as usize) else {
            return Err(ClientError::new(
                ClientErrorKind::Fatal,
                format!("topic handle {} is not of this producer", topic.0),
            ));
        };
        let RecordRef {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let record = WrittenRecord {
            key: key.map(copy),
            value: value.map(copy),
            timestamp,
            headers: headers.clone(),
        };
        lock(&self.written)
            .records
            .push((Arc::clone(name), partition, record));
        let end = self.ends.entry((topic.0, partition)).or_insert(0);
        self.completions.push(Completion {
            topic,
            partition,
            records: 1,
            result: Ok(*end),
        });
        *end += 1;
        Ok(())
    }

    fn flush(&mut self, _now_ms: i64) {}

    fn poll(
        &mut self,
        _now_ms: i64,
        _waker: &Waker,
        completions: &mut Vec<Completion>,
    ) -> Result<(), ClientError> {
        completions.append(&mut self.completions);
        Ok(())
    }

    fn pending_records(&self) -> usize {
        0
    }

    fn pending_bytes(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::TopologyError;
    use crate::processor::{
        DropReason, InitContext, Processor, ProcessorContext, Punctuation, PunctuationType,
    };
    use crate::topology::{Consumed, InternalTopic, Produced};
    use crate::typed_store::{GlobalKeyValueStore, KeyValueStoreBuilder};

    /// Sends each word of a line under itself.
    struct Split;

    impl Processor<String, String, String, String> for Split {
        fn process(
            &mut self,
            record: Record<String, String>,
            context: &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            for word in record.value.split(' ') {
                context.forward(Record::new(
                    word.to_owned(),
                    word.to_owned(),
                    record.timestamp,
                ))?;
            }
            Ok(())
        }
    }

    /// Counts by key.
    struct Count(Option<TimestampedKeyValueStore<String, i64>>);

    impl Processor<String, String, String, i64> for Count {
        fn init(&mut self, context: &mut InitContext<'_, String, i64>) -> Result<(), ProcessError> {
            self.0 = Some(context.key_value_store("counts")?);
            context
                .schedule(100, PunctuationType::WallClockTime)
                .map(|_| ())
        }

        fn process(
            &mut self,
            record: Record<String, String>,
            context: &mut ProcessorContext<'_, String, i64>,
        ) -> Result<(), ProcessError> {
            let timestamp = record.timestamp;
            let counted = self
                .0
                .as_ref()
                .unwrap()
                .update(&record.key, context, |old| {
                    Ok((Some(old.map_or(0, |old| old.value) + 1), timestamp))
                })?;
            match counted {
                WrittenTo::Stored(Some(count)) => context.forward(record.with_value(count)),
                _ => Ok(()),
            }
        }

        fn punctuate(
            &mut self,
            _: Punctuation,
            timestamp: i64,
            context: &mut ProcessorContext<'_, String, i64>,
        ) -> Result<(), ProcessError> {
            context.forward(Record::new("at".to_owned(), timestamp, timestamp))
        }
    }

    /// Lines to words, through a repartition topic, to counts.
    fn word_count(store: KeyValueStoreBuilder<String, i64>) -> Result<Topology, TopologyError> {
        let mut builder = Topology::builder();
        let lines = builder.add_source("lines", ["text"], Consumed::default())?;
        let words = builder.add_processor("split", || Split, &[lines])?;
        builder.add_internal_topic(InternalTopic::repartition("words-repartition", None))?;
        builder.add_sink("move", "words-repartition", Produced::default(), &[words])?;
        let moved = builder.add_source("moved", ["words-repartition"], Consumed::default())?;
        let counts = builder.add_processor("count", || Count(None), &[moved])?;
        builder.add_state_store(store)?;
        builder.connect(counts, &["counts"])?;
        builder.add_sink("out", "counts-topic", Produced::default(), &[counts])?;
        builder.build()
    }

    #[test]
    fn what_is_piped_in_goes_through_repartition_topics_and_stores() {
        for store in [
            KeyValueStoreBuilder::new("counts"),
            KeyValueStoreBuilder::new("counts").in_memory(),
        ] {
            let driver = TopologyTestDriver::new(&word_count(store).unwrap()).unwrap();
            let input = driver.input_topic::<(), String>("text").unwrap();
            let output = driver.output_topic::<String, i64>("counts-topic");
            input.pipe((), "a b a".to_owned(), 5).unwrap();
            assert_eq!(
                driver.dropped().of(DropReason::NullKey),
                1,
                "a unit is a null"
            );

            let input = driver.input_topic::<String, String>("text").unwrap();
            input.pipe(String::new(), "a b a".to_owned(), 5).unwrap();
            let read: Vec<_> = output
                .read_all()
                .unwrap()
                .into_iter()
                .map(|record| (record.key, record.value, record.timestamp))
                .collect();
            assert_eq!(
                read,
                [
                    ("a".to_owned(), 1, 5),
                    ("b".to_owned(), 1, 5),
                    ("a".to_owned(), 2, 5)
                ]
            );

            let counts = driver.key_value_store::<String, i64>("counts").unwrap();
            assert_eq!(counts.read(&"a".to_owned()).unwrap().unwrap().value, 2);
            counts.put(&"a".to_owned(), Some(40), 6).unwrap();
            input.pipe(String::new(), "a".to_owned(), 7).unwrap();
            assert_eq!(output.read().unwrap().unwrap().value, 41);
            assert!(output.is_empty());
            assert_eq!(
                driver.produced_topics(),
                [
                    "counts-topic",
                    "test-counts-changelog",
                    "test-words-repartition"
                ]
            );
        }
    }

    #[test]
    fn wall_clock_time_moves_when_told_to() {
        let topology = word_count(KeyValueStoreBuilder::new("counts").in_memory()).unwrap();
        let driver = TopologyTestDriver::with(
            &topology,
            TestDriverOptions {
                now_ms: 1_000,
                ..TestDriverOptions::default()
            },
        )
        .unwrap();
        let output = driver.output_topic::<String, i64>("counts-topic");
        driver.advance_wall_clock(99).unwrap();
        assert!(output.is_empty());
        driver.advance_wall_clock(1).unwrap();
        assert_eq!(output.read().unwrap().unwrap().value, 1_100);
    }

    #[test]
    fn a_topic_or_store_that_is_not_there_is_named_with_those_that_are() {
        let driver = TopologyTestDriver::new(
            &word_count(KeyValueStoreBuilder::new("counts").in_memory()).unwrap(),
        )
        .unwrap();
        let error = driver
            .input_topic::<String, String>("txt")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the topology does not read topic txt; it reads test-words-repartition, text"
        );
        assert!(driver.key_value_store::<String, i64>("conts").is_err());
        assert!(driver.window_store::<String, i64>("counts").is_err());
    }

    /// Adds what a global store has of the key.
    struct Look(Option<GlobalKeyValueStore<String, String>>);

    impl Processor<String, String, String, String> for Look {
        fn init(
            &mut self,
            context: &mut InitContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            self.0 = Some(context.global_store("planes")?);
            Ok(())
        }

        fn process(
            &mut self,
            record: Record<String, String>,
            context: &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            let found = self.0.as_ref().unwrap().read(&record.key)?;
            let value = format!("{} {:?}", record.value, found.map(|found| found.value));
            context.forward(record.with_value(value))
        }
    }

    #[test]
    fn a_global_store_holds_its_topic_and_every_processor_may_read_it() {
        let mut builder = Topology::builder();
        let store = KeyValueStoreBuilder::<String, String>::new("planes").in_memory();
        builder
            .add_global_store::<String, String>(
                store,
                "read-planes",
                "planes-topic",
                Consumed::default(),
                "keep-planes",
            )
            .unwrap();
        let flights = builder
            .add_source("flights", ["flights"], Consumed::default())
            .unwrap();
        let looked = builder
            .add_processor("look", || Look(None), &[flights])
            .unwrap();
        builder
            .add_sink("out", "out", Produced::default(), &[looked])
            .unwrap();
        let driver = TopologyTestDriver::new(&builder.build().unwrap()).unwrap();

        let planes = driver
            .input_topic::<String, Option<String>>("planes-topic")
            .unwrap();
        let flights = driver.input_topic::<String, String>("flights").unwrap();
        let output = driver.output_topic::<String, String>("out");
        let fly = |value: &str| {
            flights.pipe("N1".to_owned(), value.to_owned(), 1).unwrap();
            output.read().unwrap().unwrap().value
        };
        assert_eq!(fly("one"), "one None");
        planes
            .pipe("N1".to_owned(), Some("Airbus".to_owned()), 100)
            .unwrap();
        assert_eq!(fly("two"), "two Some(\"Airbus\")");
        planes
            .pipe("N1".to_owned(), Some("Boeing".to_owned()), 50)
            .unwrap();
        assert_eq!(
            fly("three"),
            "three Some(\"Boeing\")",
            "the last offset wins, not the last time"
        );
        planes.pipe("N1".to_owned(), None, 60).unwrap();
        assert_eq!(fly("four"), "four None");
        assert_eq!(
            driver.produced_topics(),
            ["out"],
            "a global store has no changelog"
        );
    }
}
