//! The client traits of the streams library over a broker inside the process: the one place where the two halves meet.
//!
//! Nothing is encoded and nothing waits: a fetch shares the batches of the partition's tail, an append hands the open batch over, and a
//! partition's high watermark wakes the stream thread.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use brooklet_broker::disk::Disk;
use brooklet_broker::log::{AbortedTransaction, ReadError};
use brooklet_broker::protocol::compression::Codec;
use brooklet_broker::protocol::record_batch;
use brooklet_broker::replica::Watch;
use brooklet_broker::{
    Broker, BrokerConfig, BrokerError, Flush, Isolation, Partition, PartitionError,
};
use brooklet_streams_core::client::record_batch::BatchBuilder;
use brooklet_streams_core::client::{
    Admin, ClientError, ClientErrorKind, Cluster, Consumer, ConsumerOptions, Fetched, Producer,
    ProducerOptions, Slot, TopicPartition,
};
use bytes::Bytes;

use producer::EmbeddedProducer;

mod admin;
mod producer;
#[cfg(test)]
mod tests;

/// There is no way to the broker that larger fetches would shorten, and what is decoded while it is in the nearest caches costs less.
const FETCH_BYTES_MAX: usize = 256 << 10;
/// How long a failed log is waited for to be opened anew: the broker has tried four times by then. Kafka's clients wait for ever, but there the
/// broker's own stop is seen; here its disk is the application's own.
const FAILED_PATIENCE_MS: i64 = 30_000;
/// A decompressed batch is refused above this size: it comes from whoever may produce to the broker.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// A broker in this process.
pub(crate) struct EmbeddedCluster {
    broker: Broker,
    name: String,
}

impl EmbeddedCluster {
    /// Opens the broker's data directory, or creates it.
    pub(crate) fn open(
        directory: &Path,
        flush: Flush,
        properties: &[(String, String)],
        disk: Option<&Arc<dyn Disk>>,
    ) -> Result<Self, BrokerError> {
        let mut config = BrokerConfig::new(directory);
        config.flush = flush;
        if let Some(disk) = disk {
            config.disk = Arc::clone(disk);
            config.lock_data_dir = false;
        }
        for (name, value) in properties {
            config = config.property(name, value)?;
        }
        Ok(Self {
            broker: Broker::open(config)?,
            name: format!("the embedded broker in {}", directory.display()),
        })
    }
}

impl Drop for EmbeddedCluster {
    fn drop(&mut self) {
        if let Err(error) = self.broker.shutdown() {
            tracing::error!(%error, "{} did not stop cleanly", self.name);
        }
    }
}

impl Cluster for EmbeddedCluster {
    fn consumer(&self, options: &ConsumerOptions) -> Result<Box<dyn Consumer>, ClientError> {
        Ok(Box::new(EmbeddedConsumer {
            broker: self.broker.clone(),
            isolation: if options.read_committed {
                Isolation::ReadCommitted
            } else {
                Isolation::ReadUncommitted
            },
            fetch_bytes_max: options.partition_fetch_bytes_max.min(FETCH_BYTES_MAX),
            wake: Arc::default(),
            slots: Vec::new(),
            free: Vec::new(),
        }))
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, ClientError> {
        Ok(Box::new(EmbeddedProducer::new(
            self.broker.clone(),
            options,
        )))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, ClientError> {
        Ok(Box::new(admin::EmbeddedAdmin::new(self.broker.clone())))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Remembers whom to wake, and whether somebody was already woken since the last poll.
#[derive(Default)]
struct Wake {
    waker: Mutex<Option<Waker>>,
    armed: AtomicBool,
}

impl Wake {
    fn arm(&self, waker: &Waker) {
        let mut known = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        drop(known);
        self.armed.store(true, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.armed.swap(false, Ordering::SeqCst)
            && let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner)
        {
            waker.wake_by_ref();
        }
    }
}

fn watch(partition: &Partition, wake: &Arc<Wake>) -> Watch {
    let wake = Arc::clone(wake);
    partition.watch(Arc::new(move || wake.wake()))
}

fn failed_for_good(reason: &str) -> String {
    format!(
        "the broker's log has failed and has not come back for {} s, its disk needs care: {reason}",
        FAILED_PATIENCE_MS / 1000
    )
}

struct ConsumerSlot {
    at: TopicPartition,
    /// `None` while the topic does not exist.
    partition: Option<(Arc<Partition>, Watch)>,
    position: i64,
    /// The end that was last reported.
    reported_end: i64,
    paused: bool,
    /// Reported an error that only a seek ends.
    stuck: bool,
    /// When it was found that the partition has failed.
    failed_since_ms: Option<i64>,
}

struct EmbeddedConsumer {
    broker: Broker,
    isolation: Isolation,
    fetch_bytes_max: usize,
    wake: Arc<Wake>,
    slots: Vec<Option<ConsumerSlot>>,
    free: Vec<usize>,
}

impl EmbeddedConsumer {
    fn slot(&mut self, slot: Slot) -> Option<&mut ConsumerSlot> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }
}

impl Consumer for EmbeddedConsumer {
    fn add(&mut self, partition: &TopicPartition, offset: i64) -> Result<Slot, ClientError> {
        let added = Some(ConsumerSlot {
            at: partition.clone(),
            partition: None,
            position: offset,
            reported_end: -1,
            paused: false,
            stuck: false,
            failed_since_ms: None,
        });
        let index = match self.free.pop() {
            Some(index) => {
                if let Some(slot) = self.slots.get_mut(index) {
                    *slot = added;
                }
                index
            }
            None => {
                self.slots.push(added);
                self.slots.len() - 1
            }
        };
        u32::try_from(index)
            .map(Slot)
            .map_err(|_| ClientError::new(ClientErrorKind::Fatal, "too many partitions"))
    }

    fn remove(&mut self, slot: Slot) {
        let index = slot.0 as usize;
        if let Some(removed @ Some(_)) = self.slots.get_mut(index) {
            *removed = None;
            self.free.push(index);
        }
    }

    fn seek(&mut self, slot: Slot, offset: i64) {
        if let Some(slot) = self.slot(slot) {
            slot.position = offset;
            slot.stuck = false;
            slot.failed_since_ms = None;
            slot.reported_end = -1;
        }
    }

    fn pause(&mut self, slot: Slot) {
        if let Some(slot) = self.slot(slot) {
            slot.paused = true;
        }
    }

    fn resume(&mut self, slot: Slot) {
        if let Some(slot) = self.slot(slot) {
            slot.paused = false;
        }
    }

    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        fetched: &mut Vec<Fetched>,
    ) -> Result<(), ClientError> {
        // Armed before looking: what arrives while we look wakes us again.
        self.wake.arm(waker);
        for (slot, index) in self.slots.iter_mut().zip(0u32..) {
            let Some(slot) = slot else { continue };
            if slot.stuck {
                continue;
            }
            if let Some(found) = poll_slot(
                slot,
                Slot(index),
                &self.broker,
                &self.wake,
                self.isolation,
                self.fetch_bytes_max,
                now_ms,
            ) {
                slot.stuck = found
                    .error
                    .as_ref()
                    .is_some_and(|error| error.kind != ClientErrorKind::Retriable);
                fetched.push(found);
            }
        }
        Ok(())
    }
}

fn poll_slot(
    slot: &mut ConsumerSlot,
    id: Slot,
    broker: &Broker,
    wake: &Arc<Wake>,
    isolation: Isolation,
    bytes_max: usize,
    now_ms: i64,
) -> Option<Fetched> {
    let failed = |slot: &ConsumerSlot, kind: ClientErrorKind, message: String| Fetched {
        slot: id,
        batches: Vec::new(),
        next_offset: slot.position,
        end_offset: slot.reported_end.max(slot.position),
        error: Some(ClientError::new(kind, format!("{}: {message}", slot.at))),
    };
    if slot.partition.is_none() {
        match broker.partition(&slot.at.topic, slot.at.partition) {
            Some(partition) => {
                let watch = watch(&partition, wake);
                slot.partition = Some((partition, watch));
            }
            None => {
                return Some(failed(
                    slot,
                    ClientErrorKind::UnknownTopicOrPartition,
                    "does not exist".to_owned(),
                ));
            }
        }
    }
    let (partition, _) = slot.partition.as_ref()?;
    let has_failed = partition.has_failed();
    // Its log opened anew is another partition, which holds all that was ever seen here; until then this one reads on.
    if has_failed
        && let Some(current) = broker.partition(&slot.at.topic, slot.at.partition)
        && !Arc::ptr_eq(&current, partition)
    {
        let watch = watch(&current, wake);
        slot.partition = Some((current, watch));
        slot.failed_since_ms = None;
    } else if !has_failed {
        slot.failed_since_ms = None;
    }
    let (partition, _) = slot.partition.as_ref()?;
    let end = partition.end_offset(isolation);
    // What is behind its end never comes: nor a marker, that would show what is held back.
    if has_failed && !slot.paused && slot.position >= end && partition.has_failed() {
        let since_ms = *slot.failed_since_ms.get_or_insert(now_ms);
        if now_ms - since_ms > FAILED_PATIENCE_MS
            && let Some(reason) = partition.failure()
        {
            let message = failed_for_good(&reason);
            return Some(failed(slot, ClientErrorKind::Fatal, message));
        }
    }
    if slot.paused || (slot.position == end && slot.reported_end == end) {
        return None;
    }
    match partition.fetch(slot.position, bytes_max, isolation) {
        Ok(found) => {
            let end_offset = match isolation {
                Isolation::ReadUncommitted => found.high_watermark,
                Isolation::ReadCommitted => found.last_stable_offset,
            };
            if found.batches.is_empty()
                && found.next_offset == slot.position
                && slot.reported_end == end_offset
            {
                return None;
            }
            let mut batches = Vec::with_capacity(found.batches.len());
            let committed = if found.aborted.is_empty() {
                found.batches
            } else {
                committed(found.batches, &found.aborted)
            };
            for batch in committed {
                if let Err(message) = readable(batch, &mut batches) {
                    return Some(failed(slot, ClientErrorKind::Fatal, message));
                }
            }
            slot.position = found.next_offset;
            slot.reported_end = end_offset;
            Some(Fetched {
                slot: id,
                batches,
                next_offset: found.next_offset,
                end_offset,
                error: None,
            })
        }
        Err(PartitionError::Read(error @ ReadError::OutOfRange { .. })) => Some(failed(
            slot,
            ClientErrorKind::OffsetOutOfRange,
            error.to_string(),
        )),
        Err(PartitionError::Gone(_)) => {
            slot.partition = None;
            Some(failed(
                slot,
                ClientErrorKind::Retriable,
                "was deleted".to_owned(),
            ))
        }
        Err(error) => Some(failed(slot, ClientErrorKind::Fatal, error.to_string())),
    }
}

/// What of `fetched` is not in the transactions of `aborted`, each of which reaches from its first offset to its marker.
fn committed(fetched: Vec<Bytes>, aborted: &[AbortedTransaction]) -> Vec<Bytes> {
    let mut ahead: Vec<&AbortedTransaction> = aborted.iter().collect();
    ahead.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut open: Vec<i64> = Vec::new();
    let mut committed = Vec::with_capacity(fetched.len());
    for bytes in fetched {
        let mut from = 0;
        for batch in record_batch::batches(&bytes) {
            let place = from..from + batch.size_bytes();
            from = place.end;
            while let Some(begun) = ahead.pop_if(|next| next.first_offset <= batch.last_offset()) {
                open.push(begun.producer_id);
            }
            let producer_id = batch.producer_id();
            if batch.is_control() {
                if batch.end_transaction().is_some_and(|marker| !marker.commit) {
                    open.retain(|id| *id != producer_id);
                }
            } else if !(batch.is_transactional() && open.contains(&producer_id)) {
                committed.push(bytes.slice(place));
            }
        }
    }
    committed
}

/// Appends to `readable` the batches of `batch` as the stream side reads them: uncompressed. Untouched bytes where they are that already.
fn readable(batch: Bytes, readable: &mut Vec<Bytes>) -> Result<(), String> {
    if record_batch::batches(&batch).all(|batch| matches!(batch.codec(), Ok(Codec::None))) {
        readable.push(batch);
        return Ok(());
    }
    let mut scratch = Vec::new();
    for batch in record_batch::batches(&batch) {
        if batch.is_control() {
            continue;
        }
        let mut rebuilt = BatchBuilder::new(batch.size_bytes() * 2);
        for record in batch
            .records(&mut scratch, DECOMPRESSED_BYTES_MAX)
            .map_err(|error| error.to_string())?
        {
            let record = record.map_err(|error| error.to_string())?;
            rebuilt
                .append_at(
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    record.headers(),
                )
                .map_err(|error| error.to_string())?;
        }
        if !rebuilt.is_empty() {
            readable.push(rebuilt.finish().freeze());
        }
    }
    Ok(())
}
