//! [`Consumer`] over librdkafka: each partition's messages are written again as one record batch a poll.
//!
//! ## Records are copied once more, into batches
//! librdkafka gives out messages, not the batches they came in. Everything behind this file knows one representation, so they are
//! re-encoded here: some 30 ns a record, against the 200 and more that librdkafka itself spends on one.
//!
//! ## Where the end is
//! librdkafka reports the end of what can be read as an event at that offset, also when the partition is empty, and past control
//! records and aborted transactions. That event moves the position and is the end offset. Between two of them the end is the high
//! watermark of the last fetch, which when reading committed records may be too high, never too low: a task waits until the event.

use std::sync::Arc;
use std::task::Waker;

use super::native::{self, Arrived, Client, Messages, Queue, Role, Topic, WakeCell};
use crate::client::record_batch::{BatchBuilder, BatchError};
use crate::client::{ClientError, ClientErrorKind, Consumer, Fetched, Slot, TopicPartition};

/// Messages taken in one call.
const MESSAGES_MAX: usize = 1024;

pub(super) struct KafkaConsumer {
    // Before the client: what is made from an instance goes before it.
    slots: Vec<Option<Partition>>,
    events: Queue,
    client: Arc<Client>,
    wake: Arc<WakeCell>,
    messages: Messages,
    /// At most so many bytes of one partition in one poll.
    batch_bytes: usize,
}

struct Partition {
    name: TopicPartition,
    queue: Queue,
    topic: Topic,
    position: i64,
    /// The last end told by an event.
    end_offset: i64,
    paused: bool,
    /// Fetches until an error that does not pass.
    running: bool,
    /// Size of the last batch: what the next one reserves.
    last_bytes: usize,
    /// An error that could not be returned where it happened.
    error: Option<ClientError>,
}

impl Partition {
    fn start(&mut self, offset: i64) {
        self.position = offset;
        match self.topic.start(self.name.partition, offset) {
            Ok(()) => self.running = true,
            Err(error) => self.error = Some(error),
        }
        // So that the next poll looks, whatever the queue's last event was.
        self.queue.set_ready();
    }

    fn stop(&mut self) {
        if self.running {
            self.running = false;
            if let Err(error) = self.topic.stop(self.name.partition) {
                tracing::debug!(partition = %self.name, %error, "not stopped");
            }
        }
    }
}

impl KafkaConsumer {
    pub(super) fn start(
        settings: &[(String, String)],
        partition_fetch_bytes_max: usize,
    ) -> Result<Self, ClientError> {
        let client = Client::start(Role::Consumer, settings)?;
        let wake = Arc::new(WakeCell::default());
        let events = Queue::of_client(&client, &wake)?;
        Ok(Self {
            slots: Vec::new(),
            events,
            client,
            wake,
            messages: Messages::with_capacity(MESSAGES_MAX),
            batch_bytes: partition_fetch_bytes_max,
        })
    }

    fn partition_mut(&mut self, slot: Slot) -> Option<&mut Partition> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }
}

impl Consumer for KafkaConsumer {
    fn add(&mut self, partition: &TopicPartition, offset: i64) -> Result<Slot, ClientError> {
        let wrong = |reason: &str| {
            ClientError::new(
                ClientErrorKind::Config,
                format_args!("{partition} at {offset}: {reason}"),
            )
        };
        if offset < 0 {
            return Err(wrong("the offset is negative"));
        }
        if self
            .slots
            .iter()
            .flatten()
            .any(|known| known.name == *partition)
        {
            return Err(wrong("already added"));
        }
        let topic = Topic::new(&self.client, &partition.topic, 0)?;
        let queue = Queue::of_partition(&self.client, &topic, partition.partition, &self.wake)?;
        topic.start(partition.partition, offset)?;
        let added = Partition {
            name: partition.clone(),
            queue,
            topic,
            position: offset,
            end_offset: -1,
            paused: false,
            running: true,
            last_bytes: 0,
            error: None,
        };
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(place) => *place = Some(added),
            None => self.slots.push(Some(added)),
        }
        u32::try_from(index)
            .map(Slot)
            .map_err(|_| wrong("too many partitions"))
    }

    fn remove(&mut self, slot: Slot) {
        if let Some(mut removed) = self.slots.get_mut(slot.0 as usize).and_then(Option::take) {
            removed.stop();
        }
    }

    fn seek(&mut self, slot: Slot, offset: i64) {
        let Some(partition) = self.partition_mut(slot) else {
            return;
        };
        // Stopping makes librdkafka drop what it has fetched, and starts from any state, also after an error.
        partition.stop();
        partition.error = None;
        partition.start(offset);
    }

    fn pause(&mut self, slot: Slot) {
        if let Some(partition) = self.partition_mut(slot) {
            partition.paused = true;
        }
    }

    fn resume(&mut self, slot: Slot) {
        if let Some(partition) = self.partition_mut(slot) {
            partition.paused = false;
            // What came meanwhile has announced itself already.
            partition.queue.set_ready();
        }
    }

    fn poll(
        &mut self,
        _now_ms: i64,
        waker: &Waker,
        fetched: &mut Vec<Fetched>,
    ) -> Result<(), ClientError> {
        // First, so that nothing that comes from now on goes unnoticed.
        self.wake.register(waker);
        if self.events.take_ready() {
            self.events.deliveries(|_| ());
            if let Some(error) = self.client.fatal_error() {
                return Err(error);
            }
        }
        let mut more = false;
        for (index, partition) in self.slots.iter_mut().enumerate() {
            let Some(partition) = partition else { continue };
            if partition.paused || !partition.queue.take_ready() {
                continue;
            }
            // Slots are handed out as u32.
            let slot = Slot(u32::try_from(index).unwrap_or(u32::MAX));
            if read(
                partition,
                slot,
                &mut self.messages,
                self.batch_bytes,
                fetched,
            ) {
                partition.queue.set_ready();
                more = true;
            }
        }
        if more {
            waker.wake_by_ref();
        }
        Ok(())
    }
}

/// Appends what has come of one partition. Returns whether more is there than was taken.
fn read(
    partition: &mut Partition,
    slot: Slot,
    messages: &mut Messages,
    bytes_max: usize,
    fetched: &mut Vec<Fetched>,
) -> bool {
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new(partition.last_bytes);
    let mut error = partition.error.take();
    let mut heard = error.is_some();
    let mut read_bytes = 0;
    let mut emptied = false;
    while error.is_none() && !emptied && read_bytes < bytes_max {
        let reported;
        (emptied, reported) = partition.queue.consume(messages);
        for message in messages.iter() {
            heard = true;
            match message.arrived() {
                Arrived::Record if message.offset() < partition.position => {}
                Arrived::Record => {
                    let before = builder.size_bytes();
                    let (offset, timestamp) = (message.offset(), message.timestamp());
                    let (key, value, headers) = (message.key(), message.value(), message.headers());
                    let appended =
                        match builder.append_at(offset, timestamp, key, value, headers.clone()) {
                            // A gap that one batch cannot span, or two gigabytes: the next one begins here.
                            Err(BatchError::Malformed { .. } | BatchError::TooLarge { .. })
                                if !builder.is_empty() =>
                            {
                                batches.push(builder.finish().freeze());
                                builder.append_at(offset, timestamp, key, value, headers)
                            }
                            appended => appended,
                        };
                    if let Err(failed) = appended {
                        error = Some(ClientError::new(
                            ClientErrorKind::Fatal,
                            format_args!("{} at {offset}: {failed}", partition.name),
                        ));
                        break;
                    }
                    read_bytes += builder.size_bytes().saturating_sub(before);
                    partition.position = offset + 1;
                }
                Arrived::End => {
                    partition.position = partition.position.max(message.offset());
                    partition.end_offset = message.offset();
                }
                Arrived::Error(code) => {
                    let text = message.error_text();
                    error = Some(native::error_of(
                        code,
                        format_args!(
                            "fetching {} at {}: {text}",
                            partition.name, partition.position
                        ),
                    ));
                    break;
                }
            }
        }
        messages.clear();
        if let Some(reported) = reported {
            heard = true;
            error.get_or_insert(reported);
        }
    }
    if !heard {
        return false;
    }
    if !builder.is_empty() {
        partition.last_bytes = builder.size_bytes();
        batches.push(builder.finish().freeze());
    }
    if error
        .as_ref()
        .is_some_and(|error| error.kind != ClientErrorKind::Retriable)
    {
        partition.stop();
    }
    let ended = partition.end_offset >= partition.position;
    let end_offset = if batches.is_empty() || ended {
        // Told by an event at this very position; or only an error has come, and the end is as little known as before.
        partition.end_offset
    } else {
        partition
            .topic
            .high_watermark(partition.name.partition)
            .unwrap_or(-1)
            .max(partition.position)
    };
    if error.is_some() && !batches.is_empty() {
        // An error comes without batches: who stops at the error has what came before it.
        fetched.push(Fetched {
            slot,
            batches: std::mem::take(&mut batches),
            next_offset: partition.position,
            end_offset,
            error: None,
        });
    }
    fetched.push(Fetched {
        slot,
        batches,
        next_offset: partition.position,
        end_offset,
        error,
    });
    !emptied && partition.running
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        for mut partition in self.slots.drain(..).flatten() {
            partition.stop();
        }
    }
}
