//! Topics from outside of a topology: creating them, writing typed records, reading to the end. For loading data, for examples and tests;
//! a service that produces all day uses its own Kafka client.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::record_batch::BatchCursor;
use crate::client::{
    AdminRequest, AdminResponse, ClientError, ClientErrorKind, Cluster, Completion,
    ConsumerOptions, NewTopic, OffsetSpec, Producer, ProducerOptions, RecordRef, Slot, TopicHandle,
    TopicPartition,
};
use crate::clock::{Clock, SystemClock};
use crate::error::StreamsError;
use crate::partitioner::partition_of_key;
use crate::record::Record;
use crate::serde::{Payload, SharedSerde};
use crate::topology::{Consumed, Partitions, Produced};

use super::requests::{Requests, thread_waker};

/// How long the cluster may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Unacknowledged bytes above which a writer waits.
const PENDING_BYTES_MAX: usize = 16 << 20;

fn requests(cluster: &dyn Cluster) -> Result<Requests, StreamsError> {
    Ok(Requests::new(
        cluster.admin()?,
        Arc::new(SystemClock),
        i64::try_from(TIMEOUT.as_millis()).unwrap_or(i64::MAX),
    ))
}

/// One request to the cluster, and its answer.
///
/// # Errors
/// When the cluster does not answer, or refuses.
pub fn request(
    cluster: &dyn Cluster,
    request: AdminRequest,
) -> Result<AdminResponse, StreamsError> {
    Ok(requests(cluster)?.call(request)?)
}

/// Creates topics; one that exists already with the same number of partitions is fine.
///
/// # Errors
/// When a topic exists with another number of partitions, or the cluster refuses it.
pub fn create(cluster: &dyn Cluster, topics: &[NewTopic]) -> Result<(), StreamsError> {
    let mut requests = requests(cluster)?;
    let AdminResponse::PerTopic(results) =
        requests.call(AdminRequest::CreateTopics(topics.to_vec()))?
    else {
        return Err(StreamsError::Other(
            "the cluster answered a CreateTopics request with something else".to_owned(),
        ));
    };
    for (topic, result) in results {
        match result {
            Err(error) if error.kind == ClientErrorKind::TopicExists => {
                let wanted = topics
                    .iter()
                    .find(|new| new.name == topic)
                    .map_or(-1, |new| new.partitions);
                let found = super::internal_topics::describe(&mut requests, vec![topic.clone()])?
                    .into_iter()
                    .find_map(|(_, partitions)| partitions);
                if wanted > 0 && found.is_some_and(|found| found != wanted) {
                    return Err(StreamsError::Other(format!(
                        "topic {topic} exists with {} partitions, not {wanted}",
                        found.unwrap_or(0)
                    )));
                }
            }
            Err(error) => {
                return Err(StreamsError::Other(format!(
                    "topic {topic} cannot be created: {error}"
                )));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The end offsets of all partitions of a topic: how many records it holds when nothing was deleted and nothing was written in transactions;
/// `None` when it does not exist.
///
/// # Errors
/// When the cluster does not answer.
pub fn end_offsets(cluster: &dyn Cluster, topic: &str) -> Result<Option<Vec<i64>>, StreamsError> {
    ends(cluster, topic, false)
}

/// How long a reader waits for transactions that are open where it is to end.
const OPEN_TRANSACTIONS_PATIENCE: Duration = Duration::from_secs(15);

/// The ends up to which committed records can be read, once the transactions are ended that were open when this was called: the outcome of
/// one is certain a moment before its readers are told.
fn settled_ends(cluster: &dyn Cluster, topic: &str) -> Result<Option<Vec<i64>>, StreamsError> {
    let Some(written) = ends(cluster, topic, false)? else {
        return Ok(None);
    };
    let deadline = Instant::now() + OPEN_TRANSACTIONS_PATIENCE;
    loop {
        let stable = ends(cluster, topic, true)?;
        let is_settled = stable.as_ref().is_none_or(|stable| {
            let mut both = stable.iter().zip(&written);
            both.all(|(stable, written)| stable >= written)
        });
        if is_settled || Instant::now() >= deadline {
            return Ok(stable);
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}

fn ends(
    cluster: &dyn Cluster,
    topic: &str,
    read_committed: bool,
) -> Result<Option<Vec<i64>>, StreamsError> {
    let mut requests = requests(cluster)?;
    let described = super::internal_topics::describe(&mut requests, vec![topic.to_owned()])?;
    let Some((_, Some(partitions))) = described.into_iter().next() else {
        return Ok(None);
    };
    let asked = (0..partitions)
        .map(|partition| {
            (
                TopicPartition::new(topic, partition),
                OffsetSpec::Latest { read_committed },
            )
        })
        .collect();
    let AdminResponse::Offsets(mut offsets) = requests.call(AdminRequest::ListOffsets(asked))?
    else {
        return Err(StreamsError::Other(
            "the cluster answered a ListOffsets request with something else".to_owned(),
        ));
    };
    offsets.sort_by_key(|(partition, _)| partition.partition);
    Ok(Some(
        offsets
            .into_iter()
            .map(|(_, offset)| offset)
            .collect::<Result<_, _>>()?,
    ))
}

/// Writes typed records to a topic, partitioned as Kafka's Java clients do (murmur2 of the key's bytes).
pub struct TopicWriter<K, V> {
    topic: Arc<str>,
    producer: Box<dyn Producer>,
    handle: TopicHandle,
    partitions: i32,
    produced: Produced<K, V>,
    next_unkeyed: i32,
    key: Vec<u8>,
    value: Vec<u8>,
    completions: Vec<Completion>,
    failed: Option<ClientError>,
    since_poll: u32,
    /// Records of each partition that are to be passed over; see [`TopicWriter::resume`].
    present: Vec<i64>,
}

impl<K: 'static, V: 'static> TopicWriter<K, V> {
    /// A writer to a topic that exists.
    ///
    /// # Errors
    /// When the topic does not exist.
    pub fn new(
        cluster: &dyn Cluster,
        topic: &str,
        produced: Produced<K, V>,
    ) -> Result<Self, StreamsError> {
        let options = ProducerOptions {
            client_id: format!("brooklet-writer-{topic}"),
            batch_bytes: 256 << 10,
            linger_ms: 20,
            properties: Vec::new(),
            transaction: None,
        };
        let mut producer = cluster.producer(&options)?;
        let handle = producer.topic(topic)?;
        let deadline = Instant::now() + TIMEOUT;
        let waker = thread_waker();
        let mut completions = Vec::new();
        let partitions = loop {
            producer.poll(SystemClock.now_ms(), &waker, &mut completions)?;
            if let Some(partitions) = producer.partitions(handle) {
                break partitions;
            }
            if super::internal_topics::describe(&mut requests(cluster)?, vec![topic.to_owned()])?
                .iter()
                .all(|(_, partitions)| partitions.is_none())
                || Instant::now() > deadline
            {
                return Err(StreamsError::Other(format!(
                    "topic {topic} does not exist on {}",
                    cluster.name()
                )));
            }
            thread::park_timeout(Duration::from_millis(20));
        };
        Ok(Self {
            topic: topic.into(),
            producer,
            handle,
            partitions,
            produced,
            next_unkeyed: 0,
            key: Vec::new(),
            value: Vec::new(),
            completions,
            failed: None,
            since_poll: 0,
            present: Vec::new(),
        })
    }

    /// Goes on where an earlier writer of the same sequence of records was interrupted: of each partition, as many records are passed
    /// over as it holds already. The topic must hold nothing else, and nothing of it may have been deleted.
    #[must_use]
    pub fn resume(mut self, end_offsets: Vec<i64>) -> Self {
        self.present = end_offsets;
        self
    }

    /// Appends a record. Waits only while too much is unacknowledged.
    ///
    /// # Errors
    /// When the record cannot be written as bytes, or an earlier one has failed.
    pub fn send(&mut self, record: &Record<K, V>) -> Result<(), StreamsError> {
        let write_error = |what: &str, topic: &str, error| {
            StreamsError::Other(format!(
                "{what} of a record for topic {topic} cannot be written: {error}"
            ))
        };
        let (key, value) = (&self.produced.key_serde(), &self.produced.value_serde());
        self.key.clear();
        self.value.clear();
        let key_present = !key.is_null(&record.key);
        if key_present {
            key.serialize(&self.topic, &record.key, &mut self.key)
                .map_err(|error| write_error("the key", &self.topic, error))?;
        }
        let value_present = !value.is_null(&record.value);
        if value_present {
            value
                .serialize(&self.topic, &record.value, &mut self.value)
                .map_err(|error| write_error("the value", &self.topic, error))?;
        }
        let chosen = self
            .produced
            .partitioner
            .as_ref()
            .map(|choose| choose(&self.topic, &record.key, &record.value, self.partitions));
        let partition = match chosen {
            Some(Partitions::One(partition)) => partition,
            Some(Partitions::Many(_)) => {
                return Err(StreamsError::Other(format!(
                    "the partitioner for topic {} chose several partitions; a TopicWriter writes to one",
                    self.topic
                )));
            }
            _ if key_present => partition_of_key(
                &self.key,
                self.produced.key.unpartitioned_bytes(),
                self.partitions,
            ),
            _ => {
                self.next_unkeyed = (self.next_unkeyed + 1) % self.partitions;
                self.next_unkeyed
            }
        };
        if let Some(present) = usize::try_from(partition)
            .ok()
            .and_then(|partition| self.present.get_mut(partition))
            .filter(|present| **present > 0)
        {
            *present -= 1;
            return Ok(());
        }
        let bytes = RecordRef {
            key: key_present.then_some(&*self.key),
            value: value_present.then_some(&*self.value),
            timestamp: record.timestamp,
            headers: &record.headers,
        };
        self.producer.append(self.handle, partition, bytes)?;
        self.since_poll += 1;
        if self.since_poll >= 1_000 {
            self.since_poll = 0;
            self.poll()?;
            let waker = thread_waker();
            while self.producer.pending_bytes() > PENDING_BYTES_MAX {
                self.poll_with(&waker)?;
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Waits until everything is acknowledged.
    ///
    /// # Errors
    /// When a record has failed, or the cluster does not answer for a minute.
    pub fn flush(&mut self) -> Result<(), StreamsError> {
        let waker = thread_waker();
        let deadline = Instant::now() + TIMEOUT;
        self.producer.flush(SystemClock.now_ms());
        loop {
            self.poll_with(&waker)?;
            if self.producer.pending_records() == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(StreamsError::Other(format!(
                    "{} records for topic {} are not acknowledged after {TIMEOUT:?}",
                    self.producer.pending_records(),
                    self.topic
                )));
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn poll(&mut self) -> Result<(), StreamsError> {
        self.poll_with(&thread_waker())
    }

    fn poll_with(&mut self, waker: &std::task::Waker) -> Result<(), StreamsError> {
        self.producer
            .poll(SystemClock.now_ms(), waker, &mut self.completions)?;
        for completion in self.completions.drain(..) {
            if let Err(error) = completion.result {
                self.failed.get_or_insert(error);
            }
        }
        match &self.failed {
            Some(error) => Err(StreamsError::Client(error.clone())),
            None => Ok(()),
        }
    }
}

/// Reads a topic from its beginning to the end that it has now, partition by partition interleaved as they arrive. `record` gets the
/// partition, the offset and the record; a null key or value of a type without null is an error. Committed records only: transactions that
/// are open now are waited for.
///
/// # Errors
/// When the topic does not exist, cannot be read, or holds other bytes than the serdes expect.
pub fn read<K: 'static, V: 'static>(
    cluster: &dyn Cluster,
    topic: &str,
    consumed: &Consumed<K, V>,
    mut record: impl FnMut(i32, i64, Record<K, V>),
) -> Result<(), StreamsError> {
    let mut requests = requests(cluster)?;
    let ends = settled_ends(cluster, topic)?.ok_or_else(|| {
        StreamsError::Other(format!(
            "topic {topic} does not exist on {}",
            cluster.name()
        ))
    })?;
    let partitions: Vec<TopicPartition> = (0i32..)
        .zip(&ends)
        .map(|(partition, _)| TopicPartition::new(topic, partition))
        .collect();
    let asked = partitions
        .iter()
        .map(|partition| (partition.clone(), OffsetSpec::Earliest))
        .collect();
    let AdminResponse::Offsets(starts) = requests.call(AdminRequest::ListOffsets(asked))? else {
        return Err(StreamsError::Other(
            "the cluster answered a ListOffsets request with something else".to_owned(),
        ));
    };
    let starts: HashMap<TopicPartition, i64> = starts
        .into_iter()
        .map(|(partition, start)| Ok((partition, start?)))
        .collect::<Result<_, ClientError>>()?;
    let options = ConsumerOptions {
        client_id: format!("brooklet-reader-{topic}"),
        read_committed: true,
        partition_fetch_bytes_max: 1 << 20,
        properties: Vec::new(),
    };
    let mut consumer = cluster.consumer(&options)?;
    let mut left: HashMap<Slot, (i32, i64, i64)> = HashMap::new();
    for (partition, end) in partitions.iter().zip(&ends) {
        let start = starts.get(partition).copied().unwrap_or(0);
        if start < *end {
            left.insert(
                consumer.add(partition, start)?,
                (partition.partition, start, *end),
            );
        }
    }
    let waker = thread_waker();
    let mut fetched = Vec::new();
    let mut deadline = Instant::now() + TIMEOUT;
    while !left.is_empty() {
        consumer.poll(SystemClock.now_ms(), &waker, &mut fetched)?;
        if fetched.is_empty() {
            if Instant::now() > deadline {
                return Err(StreamsError::Other(format!(
                    "topic {topic} cannot be read to its end: nothing arrived for {TIMEOUT:?}"
                )));
            }
            thread::park_timeout(Duration::from_millis(20));
            continue;
        }
        for fetched in fetched.drain(..) {
            let Some((partition, position, end)) = left.get_mut(&fetched.slot) else {
                continue;
            };
            match fetched.error {
                Some(error) if error.kind == ClientErrorKind::Retriable => continue,
                Some(error) => return Err(error.into()),
                None => deadline = Instant::now() + TIMEOUT,
            }
            for batch in fetched.batches {
                let mut cursor = BatchCursor::new(batch).map_err(ClientError::from)?;
                cursor.skip_below(*position).map_err(ClientError::from)?;
                while let Some(view) = cursor.next().map_err(ClientError::from)? {
                    if view.offset >= *end {
                        break;
                    }
                    let bad = |what: &str, error: String| {
                        StreamsError::Other(format!(
                            "{topic}-{partition} at offset {}: {what}: {error}",
                            view.offset
                        ))
                    };
                    let key = decode(topic, consumed.key_serde(), view.key)
                        .map_err(|error| bad("key", error))?;
                    let value = decode(topic, consumed.value_serde(), view.value)
                        .map_err(|error| bad("value", error))?;
                    let headers = view.headers.to_headers().map_err(ClientError::from)?;
                    record(
                        *partition,
                        view.offset,
                        Record {
                            key,
                            value,
                            timestamp: view.timestamp,
                            headers,
                        },
                    );
                }
            }
            *position = fetched.next_offset;
            if *position >= *end {
                consumer.remove(fetched.slot);
                left.remove(&fetched.slot);
            }
        }
    }
    Ok(())
}

fn decode<T: 'static>(
    topic: &str,
    serde: &SharedSerde<T>,
    bytes: Option<Payload<'_>>,
) -> Result<T, String> {
    match bytes {
        Some(bytes) => serde
            .deserialize(topic, bytes)
            .map_err(|error| error.to_string()),
        None => serde
            .null()
            .ok_or_else(|| "null, which this type has not: read it as an Option".to_owned()),
    }
}
