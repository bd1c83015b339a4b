//! [`Producer`] over librdkafka, idempotent, with acks from all replicas.
//!
//! ## Batches are librdkafka's
//! It has no way to close open batches without waiting for them, so `flush` cannot. Instead they never stay open long: `linger.ms` is
//! cut to [`LINGER_MS_MAX`]. While a broker is busy with one batch librdkafka fills the next, so throughput does not suffer.
//!
//! ## Transactions have a thread
//! librdkafka's calls wait. They run on a thread of the producer's own, one at a time, and never longer than [`CALL_MS_MAX`] before they
//! say so: asked again, they go on.
//!
//! ## The number of partitions is the wire client's
//! librdkafka's own metadata calls wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Waker;
use std::thread;

use bytes::Bytes;

use super::admin::KafkaAdmin;
use super::native::{self, Client, Delivery, Queue, Refused, Role, Topic, WakeCell};
use crate::client::{
    Admin, AdminRequest, AdminResponse, ClientError, ClientErrorKind, Completion, Producer,
    RecordRef, RequestId, TopicHandle, TransactionOptions, TransactionRequest,
};
use crate::record::Headers;

pub(super) const LINGER_MS_MAX: i64 = 5;

/// How soon an unanswered question for a topic's partitions is asked again: it may be created any moment.
const UNKNOWN_REFRESH_MS: i64 = 100;
/// As `metadata.max.age.ms`.
const KNOWN_REFRESH_MS: i64 = 300_000;
/// Counted for each record beside its bytes: what librdkafka keeps for one.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// How long a call of a transaction waits before it is to be made again.
const CALL_MS_MAX: i32 = 1_000;

/// The answer to the request of this number.
type Answer = Arc<Mutex<Option<(u64, Result<(), ClientError>)>>>;

/// The thread that makes librdkafka's waiting calls. It ends when this is dropped, after the call under way.
struct Transactions {
    requests: mpsc::Sender<(u64, TransactionRequest)>,
    /// How many were submitted. An abort may be while offsets are on their way, whose answer is then nobody's.
    submitted: u64,
    answer: Answer,
}

impl Transactions {
    fn start(
        client: &Arc<Client>,
        wake: &Arc<WakeCell>,
        group: String,
    ) -> Result<Self, ClientError> {
        let (requests, received) = mpsc::channel::<(u64, TransactionRequest)>();
        let answer: Answer = Arc::default();
        let (client, wake, answers) = (Arc::clone(client), Arc::clone(wake), Arc::clone(&answer));
        thread::Builder::new()
            .name("brooklet-transactions".to_owned())
            .spawn(move || {
                // An `Initialize`, `Commit` or `Abort` that is done and whose successor could not be begun is not done twice.
                let mut ended = false;
                for (number, request) in received {
                    let result = perform(&client, &group, &request, &mut ended);
                    *answers.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some((number, result));
                    wake.wake();
                }
            })
            .map_err(|error| {
                ClientError::new(
                    ClientErrorKind::Fatal,
                    format_args!("thread for transactions: {error}"),
                )
            })?;
        Ok(Self {
            requests,
            submitted: 0,
            answer,
        })
    }
}

fn perform(
    client: &Client,
    group: &str,
    request: &TransactionRequest,
    ended: &mut bool,
) -> Result<(), ClientError> {
    if let TransactionRequest::SendOffsets { member, offsets } = request {
        return client.send_offsets_to_transaction(group, member, offsets, CALL_MS_MAX);
    }
    if !*ended {
        match request {
            TransactionRequest::Initialize => client.init_transactions(CALL_MS_MAX)?,
            TransactionRequest::Commit => client.commit_transaction(CALL_MS_MAX)?,
            _ => client.abort_transaction(CALL_MS_MAX)?,
        }
        *ended = true;
    }
    client.begin_transaction()?;
    *ended = false;
    Ok(())
}

pub(super) struct KafkaProducer {
    // Before the client: what is made from an instance goes before it.
    topics: Vec<ProducedTopic>,
    deliveries: Queue,
    client: Arc<Client>,
    wake: Arc<WakeCell>,
    /// Absent where the wire client refuses the settings.
    metadata: Option<KafkaAdmin>,
    answers: Vec<(RequestId, Result<AdminResponse, ClientError>)>,
    /// Records that librdkafka had no room for; in order, before all later ones.
    overflow: VecDeque<Overflow>,
    completed: Vec<Completion>,
    pending_records: usize,
    pending_bytes: usize,
    now_ms: i64,
    transactions: Option<Transactions>,
}

struct ProducedTopic {
    name: Arc<str>,
    topic: Topic,
    partitions: Option<i32>,
    asked: Option<RequestId>,
    asked_at_ms: Option<i64>,
}

struct Overflow {
    topic: TopicHandle,
    partition: i32,
    key: Option<Bytes>,
    value: Option<Bytes>,
    timestamp: i64,
    headers: Headers,
    bytes: usize,
}

impl KafkaProducer {
    pub(super) fn start(
        settings: &[(String, String)],
        metadata: Option<KafkaAdmin>,
        transaction: Option<&TransactionOptions>,
    ) -> Result<Self, ClientError> {
        let client = Client::start(Role::Producer, settings)?;
        let wake = Arc::new(WakeCell::default());
        let deliveries = Queue::of_client(&client, &wake)?;
        let transactions = transaction
            .map(|options| Transactions::start(&client, &wake, options.group.clone()))
            .transpose()?;
        Ok(Self {
            transactions,
            topics: Vec::new(),
            deliveries,
            client,
            wake,
            metadata,
            answers: Vec::new(),
            overflow: VecDeque::new(),
            completed: Vec::new(),
            pending_records: 0,
            pending_bytes: 0,
            now_ms: 0,
        })
    }

    /// Sends what librdkafka had no room for, as far as it has room now. A record that it refuses for good is completed as failed.
    fn drain_overflow(&mut self) {
        while let Some(record) = self.overflow.pop_front() {
            let Some(topic) = self.topics.get(record.topic.0 as usize) else {
                continue;
            };
            let borrowed = RecordRef {
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                timestamp: record.timestamp,
                headers: &record.headers,
            };
            match native::produce(&topic.topic, record.partition, borrowed, record.bytes) {
                Ok(()) => {}
                Err(Refused::Full) => {
                    self.overflow.push_front(record);
                    return;
                }
                Err(Refused::Error(error)) => {
                    self.pending_records -= 1;
                    self.pending_bytes -= record.bytes;
                    self.completed.push(Completion {
                        topic: record.topic,
                        partition: record.partition,
                        records: 1,
                        result: Err(error),
                    });
                }
            }
        }
    }

    fn take_metadata(&mut self, waker: &Waker) {
        let Some(metadata) = &mut self.metadata else {
            return;
        };
        metadata.poll(self.now_ms, waker, &mut self.answers);
        for (id, answer) in self.answers.drain(..) {
            let Some(topic) = self.topics.iter_mut().find(|topic| topic.asked == Some(id)) else {
                continue;
            };
            topic.asked = None;
            match answer {
                Ok(AdminResponse::Topics(topics)) => {
                    topic.partitions = topics.first().and_then(|(_, count)| *count)
                }
                Ok(_) => {}
                // What was known stays good.
                Err(error) => {
                    tracing::debug!(topic = &*topic.name, %error, "number of partitions not known")
                }
            }
        }
    }
}

/// Adds a delivery to the run of the same partition, or begins one.
fn complete(completions: &mut Vec<Completion>, delivery: &Delivery) {
    let topic = TopicHandle(delivery.tag);
    if delivery.is_ok() {
        if let Some(last) = completions.last_mut()
            && last.topic == topic
            && last.partition == delivery.partition
            && let Ok(offset) = &mut last.result
        {
            last.records += 1;
            *offset = delivery.offset;
            return;
        }
        completions.push(Completion {
            topic,
            partition: delivery.partition,
            records: 1,
            result: Ok(delivery.offset),
        });
        return;
    }
    let error = native::error_of(
        delivery.code,
        format_args!("producing to partition {}", delivery.partition),
    );
    if let Some(last) = completions.last_mut()
        && last.topic == topic
        && last.partition == delivery.partition
        && last
            .result
            .as_ref()
            .err()
            .is_some_and(|known| known.message == error.message)
    {
        last.records += 1;
        return;
    }
    completions.push(Completion {
        topic,
        partition: delivery.partition,
        records: 1,
        result: Err(error),
    });
}

impl Producer for KafkaProducer {
    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        if let Some(known) = self.topics.iter().position(|topic| &*topic.name == name) {
            return Ok(handle(known));
        }
        let new = handle(self.topics.len());
        let topic = Topic::new(&self.client, name, new.0)?;
        self.topics.push(ProducedTopic {
            name: Arc::from(name),
            topic,
            partitions: None,
            asked: None,
            asked_at_ms: None,
        });
        Ok(new)
    }

    fn partitions(&mut self, topic: TopicHandle) -> Option<i32> {
        let (Some(topic), Some(metadata)) =
            (self.topics.get_mut(topic.0 as usize), &mut self.metadata)
        else {
            return None;
        };
        let refresh_ms = if topic.partitions.is_some() {
            KNOWN_REFRESH_MS
        } else {
            UNKNOWN_REFRESH_MS
        };
        let due = topic
            .asked_at_ms
            .is_none_or(|asked_at_ms| self.now_ms - asked_at_ms >= refresh_ms);
        if topic.asked.is_none() && due {
            topic.asked =
                Some(metadata.submit(AdminRequest::DescribeTopics(vec![topic.name.to_string()])));
            topic.asked_at_ms = Some(self.now_ms);
        }
        topic.partitions
    }

    fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        record: RecordRef<'_>,
    ) -> Result<(), ClientError> {
        let Some(produced) = self.topics.get(topic.0 as usize) else {
            return Err(ClientError::new(
                ClientErrorKind::Fatal,
                format_args!("topic handle {} is not of this producer", topic.0),
            ));
        };
        let bytes = record.key.map_or(0, <[u8]>::len)
            + record.value.map_or(0, <[u8]>::len)
            + RECORD_OVERHEAD_BYTES;
        let refused = if self.overflow.is_empty() {
            native::produce(&produced.topic, partition, record, bytes)
        } else {
            Err(Refused::Full)
        };
        match refused {
            Ok(()) => {}
            Err(Refused::Full) => self.overflow.push_back(Overflow {
                topic,
                partition,
                key: record.key.map(Bytes::copy_from_slice),
                value: record.value.map(Bytes::copy_from_slice),
                timestamp: record.timestamp,
                headers: record.headers.clone(),
                bytes,
            }),
            Err(Refused::Error(error)) => return Err(error),
        }
        self.pending_records += 1;
        self.pending_bytes += bytes;
        Ok(())
    }

    fn flush(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.drain_overflow();
    }

    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        completions: &mut Vec<Completion>,
    ) -> Result<(), ClientError> {
        self.now_ms = now_ms;
        // First, so that nothing that comes from now on goes unnoticed.
        self.wake.register(waker);
        if self.deliveries.take_ready() {
            let Self {
                deliveries,
                completed,
                pending_records,
                pending_bytes,
                ..
            } = self;
            deliveries.deliveries(|delivery| {
                *pending_records -= 1;
                *pending_bytes -= delivery.bytes;
                // Its transaction has failed or is being aborted. Why, the next step of it tells: librdkafka commits nothing any more.
                if !delivery.is_purged() {
                    complete(completed, &delivery);
                }
            });
        }
        self.drain_overflow();
        self.take_metadata(waker);
        completions.append(&mut self.completed);
        match self.client.fatal_error() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn pending_records(&self) -> usize {
        self.pending_records
    }

    fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    fn submit_transaction(&mut self, request: TransactionRequest) {
        if request == TransactionRequest::Abort {
            // Not given to librdkafka yet, so it cannot drop them.
            for record in self.overflow.drain(..) {
                self.pending_records -= 1;
                self.pending_bytes -= record.bytes;
            }
        }
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        transactions.submitted += 1;
        let number = transactions.submitted;
        if transactions.requests.send((number, request)).is_err() {
            let ended = ClientError::new(
                ClientErrorKind::ProducerLost,
                "the thread for transactions has ended",
            );
            *transactions
                .answer
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some((number, Err(ended)));
        }
    }

    fn poll_transaction(&mut self, _now_ms: i64, waker: &Waker) -> Option<Result<(), ClientError>> {
        self.wake.register(waker);
        let Some(transactions) = &self.transactions else {
            return Some(Err(ClientError::new(
                ClientErrorKind::Config,
                "this producer has no transactional.id",
            )));
        };
        let (number, answer) = transactions
            .answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        (number == transactions.submitted).then_some(answer)
    }
}

fn handle(index: usize) -> TopicHandle {
    // An application has nowhere near four billion topics.
    TopicHandle(u32::try_from(index).unwrap_or(u32::MAX))
}
