//! [`Producer`] over the broker in this process: open batches are handed over as they are, acknowledged is what the high watermark has passed.
//!
//! ## A transaction here
//! 1. The first record for a partition asks the coordinator to add it, together with the group's partition of offsets: one record of the
//!    coordinator, written while the task goes on processing. Batches that are full before it is durable are held.
//! 2. A commit's offsets and the last batches are made durable by one round of syncs.
//! 3. The end is a record of the coordinator: durable, it is the outcome, by a second round. Markers follow; nobody waits for them but readers.
//!
//! Each end brings the next epoch (KIP-890), so sequences begin with zero in every transaction.
//!
//! ## A log that has failed
//! The broker opens it anew, as another partition in the same place. Batches wait for that as long as [`FAILED_PATIENCE_MS`], in their order, and
//! go on there. What was appended and not acknowledged is appended again, from a copy; in a transaction there is none: it fails, and the
//! transaction is undone and its records are made again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use brooklet_broker::log::AppendError;
use brooklet_broker::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use brooklet_broker::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use brooklet_broker::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, TxnOffsetCommitRequest,
};
use brooklet_broker::protocol::{Request, RequestContext, Response};
use brooklet_broker::replica::Watch;
use brooklet_broker::{Broker, Partition, PartitionError, TransactionalAppendError};
use brooklet_streams_core::client::record_batch::{BatchBuilder, Writer};
use brooklet_streams_core::client::{
    ClientError, ClientErrorKind, CommittedOffset, Completion, MemberIdentity, Producer,
    ProducerOptions, RecordRef, TopicHandle, TopicPartition, TransactionOptions,
    TransactionRequest,
};
use bytes::BytesMut;

use super::admin::{by_topic, check, unexpected};
use super::{FAILED_PATIENCE_MS, Wake, failed_for_good, watch};

/// When a partition is tried again that has refused a batch and whose log goes on: there was no room.
const REFUSED_BACKOFF_MS: i64 = 100;

/// A partition with its open batch.
struct Open {
    partition: Arc<Partition>,
    _watch: Watch,
    builder: BatchBuilder,
    /// When the first record of the open batch came.
    since_ms: i64,
    membership: Membership,
    /// Of the next batch in this transaction.
    sequence: i32,
    /// Closed and to be appended: once the partition is part of the transaction, or takes batches again.
    held: VecDeque<Held>,
    /// Takes no batches for now.
    refusal: Option<Refusal>,
}

/// A partition that has refused a batch for its disk's sake.
struct Refusal {
    since_ms: i64,
    again_ms: i64,
    reason: String,
}

/// Whether a partition is part of the open transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Membership {
    No,
    Asked,
    Yes,
}

struct Held {
    batch: BytesMut,
    records: u32,
    bytes: usize,
}

struct ProducerTopic {
    name: Arc<str>,
    partitions: Vec<Open>,
}

/// A batch that is appended and not yet acknowledged.
struct Sent {
    topic: TopicHandle,
    partition: i32,
    at: Arc<Partition>,
    last_offset: i64,
    records: u32,
    bytes: usize,
    /// To append it again; `None` in a transaction.
    again: Option<BytesMut>,
}

pub(super) struct EmbeddedProducer {
    broker: Broker,
    batch_bytes: usize,
    linger_ms: i64,
    wake: Arc<Wake>,
    names: HashMap<Arc<str>, TopicHandle>,
    topics: Vec<ProducerTopic>,
    sent: VecDeque<Sent>,
    failed: Vec<Completion>,
    /// Partitions with a refusal, each once.
    refusing: Vec<(TopicHandle, i32)>,
    pending_records: usize,
    pending_bytes: usize,
    now_ms: i64,
    transactions: Option<Transactions>,
}

/// The transactions of a producer.
struct Transactions {
    options: TransactionOptions,
    context: RequestContext,
    /// Id and epoch, once initialised.
    producer: Option<(i64, i16)>,
    /// Partitions that are to be added, and those that are being added.
    wanted: Vec<(TopicHandle, i32)>,
    adding: Option<Vec<(TopicHandle, i32)>>,
    /// The group's partition of offsets.
    offsets: Membership,
    /// The coordinator knows of the transaction.
    begun: bool,
    /// Offsets are on their way: nothing is asked before their answer, which is that of nothing else.
    sending_offsets: bool,
    /// What was submitted and cannot be asked of the broker yet.
    request: Option<TransactionRequest>,
    answer: Option<Result<(), ClientError>>,
    /// What ends the transaction, to be told by the next poll.
    failure: Option<ClientError>,
    mail: Arc<Mutex<Vec<Mail>>>,
}

/// Answers of the broker, from whatever thread.
enum Mail {
    Added(Result<(), ClientError>),
    OffsetsTaken(Result<(), ClientError>),
    /// Initialised, or ended: the producer that goes on.
    Producer(Result<(i64, i16), ClientError>),
}

impl EmbeddedProducer {
    pub(super) fn new(broker: Broker, options: &ProducerOptions) -> Self {
        Self {
            broker,
            batch_bytes: options.batch_bytes,
            linger_ms: options.linger_ms,
            wake: Arc::default(),
            names: HashMap::new(),
            topics: Vec::new(),
            sent: VecDeque::new(),
            failed: Vec::new(),
            refusing: Vec::new(),
            pending_records: 0,
            pending_bytes: 0,
            now_ms: 0,
            transactions: options.transaction.clone().map(|options| Transactions {
                options,
                context: RequestContext::in_process("embedded"),
                producer: None,
                wanted: Vec::new(),
                adding: None,
                offsets: Membership::No,
                begun: false,
                sending_offsets: false,
                request: None,
                answer: None,
                failure: None,
                mail: Arc::default(),
            }),
        }
    }

    /// Hands the open batch of a partition over to the broker.
    fn send(&mut self, topic: TopicHandle, partition: i32) {
        let Some(open) = usize::try_from(partition).ok().and_then(|index| {
            self.topics
                .get_mut(topic.0 as usize)?
                .partitions
                .get_mut(index)
        }) else {
            return;
        };
        let (records, bytes) = (open.builder.records(), open.builder.size_bytes());
        if records == 0 {
            return;
        }
        let batch = if let Some(transactions) = &self.transactions {
            let (producer_id, producer_epoch) = transactions.producer.unwrap_or((-1, -1));
            let batch = open.builder.finish_as(&Writer {
                producer_id,
                producer_epoch,
                base_sequence: open.sequence,
                is_transactional: true,
            });
            open.sequence = after(open.sequence, records);
            batch
        } else {
            open.builder.finish()
        };
        open.held.push_back(Held {
            batch,
            records,
            bytes,
        });
        if self.transactions.is_none() || open.membership == Membership::Yes {
            self.hand_over(topic, partition);
        }
    }

    fn open(&mut self, topic: TopicHandle, partition: i32) -> Option<&mut Open> {
        let index = usize::try_from(partition).ok()?;
        self.topics
            .get_mut(topic.0 as usize)?
            .partitions
            .get_mut(index)
    }

    /// Appends the closed batches of a partition, in their order, unless it takes none for now.
    fn hand_over(&mut self, topic: TopicHandle, partition: i32) {
        let now_ms = self.now_ms;
        loop {
            let Some(open) = self.open(topic, partition) else {
                return;
            };
            if open.refusal.is_some() || open.held.is_empty() {
                return;
            }
            if open.partition.has_failed() {
                // What was appended there before goes first: the next poll knows of it.
                let reason = open.partition.failure().unwrap_or_default();
                self.refused(topic, partition, reason);
                return;
            }
            let Some(Held {
                batch,
                records,
                bytes,
            }) = open.held.pop_front()
            else {
                return;
            };
            let at = Arc::clone(&open.partition);
            let again = self.transactions.is_none().then(|| batch.clone());
            let appended = match &self.transactions {
                None => at.append(batch, now_ms).map_err(append_failed),
                Some(transactions) => self
                    .broker
                    .append_in_transaction(
                        &transactions.options.transactional_id,
                        &at,
                        batch,
                        now_ms,
                    )
                    .map_err(|error| match error {
                        TransactionalAppendError::Refused(code) => {
                            match check(
                                code.code(),
                                format_args!("{}-{partition}", at.topic()),
                                None,
                            ) {
                                Err(error) => error,
                                Ok(()) => unexpected("an append in a transaction"),
                            }
                        }
                        TransactionalAppendError::Partition(error) => append_failed(error),
                    }),
            };
            match (appended, again) {
                (Ok(appended), again) => self.sent.push_back(Sent {
                    topic,
                    partition,
                    at,
                    last_offset: appended.last_offset,
                    records,
                    bytes,
                    again,
                }),
                (Err(error), Some(batch)) if may_pass(&error) => {
                    if let Some(open) = self.open(topic, partition) {
                        open.held.push_front(Held {
                            batch,
                            records,
                            bytes,
                        });
                    }
                    self.refused(topic, partition, error.message);
                    return;
                }
                (Err(error), _) => self.fail(topic, partition, (records, bytes), error),
            }
        }
    }

    fn fail(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        (records, bytes): (u32, usize),
        error: ClientError,
    ) {
        self.pending_records -= records as usize;
        self.pending_bytes -= bytes;
        self.failed.push(Completion {
            topic,
            partition,
            records,
            result: Err(error),
        });
    }

    /// The partition takes no batches for now.
    fn refused(&mut self, topic: TopicHandle, partition: i32, reason: String) {
        let now_ms = self.now_ms;
        let Some(open) = self.open(topic, partition) else {
            return;
        };
        if open.refusal.is_none() {
            open.refusal = Some(Refusal {
                since_ms: now_ms,
                again_ms: now_ms.saturating_add(REFUSED_BACKOFF_MS),
                reason,
            });
            self.refusing.push((topic, partition));
        }
    }

    /// Takes back what was appended to logs that have failed since.
    fn take_back(&mut self) {
        let mut failed: Vec<Arc<Partition>> = Vec::new();
        for sent in &self.sent {
            if sent.at.has_failed() && !failed.iter().any(|known| Arc::ptr_eq(known, &sent.at)) {
                failed.push(Arc::clone(&sent.at));
            }
        }
        if failed.is_empty() {
            return;
        }
        // Failed partitions stay failed and acknowledge no more: all that is left of one is taken, so its order stays.
        let (lost, sent) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|sent: &Sent| {
                sent.at.high_watermark() <= sent.last_offset
                    && failed.iter().any(|failed| Arc::ptr_eq(failed, &sent.at))
            });
        self.sent = sent;
        let mut lost: VecDeque<Sent> = lost;
        while let Some(sent) = lost.pop_back() {
            let (topic, partition) = (sent.topic, sent.partition);
            let (records, bytes) = (sent.records, sent.bytes);
            let reason = sent.at.failure().unwrap_or_default();
            match (sent.again, self.open(topic, partition)) {
                (Some(batch), Some(open)) => {
                    open.held.push_front(Held {
                        batch,
                        records,
                        bytes,
                    });
                    self.refused(topic, partition, reason);
                }
                _ => {
                    let message = format!(
                        "{}-{partition}: its log has failed: {reason}",
                        sent.at.topic()
                    );
                    let error = ClientError::new(ClientErrorKind::Retriable, message);
                    self.fail(topic, partition, (records, bytes), error);
                }
            }
        }
    }

    /// Tries partitions again that took no batches.
    fn retry_refusing(&mut self) {
        let now_ms = self.now_ms;
        for (topic, partition) in std::mem::take(&mut self.refusing) {
            let name = self
                .topics
                .get(topic.0 as usize)
                .map(|topic| Arc::clone(&topic.name));
            let (broker, wake) = (self.broker.clone(), Arc::clone(&self.wake));
            let Some((name, open)) = name.zip(self.open(topic, partition)) else {
                continue;
            };
            let Some(refusal) = open.refusal.take() else {
                continue;
            };
            if open.held.is_empty() {
                continue;
            }
            let mut error = None;
            let mut waits = now_ms < refusal.again_ms;
            if open.partition.has_failed() {
                match broker.partition(&name, partition) {
                    Some(current) if !Arc::ptr_eq(&current, &open.partition) => {
                        open._watch = watch(&current, &wake);
                        open.partition = current;
                        waits = false;
                    }
                    Some(_) => waits = true,
                    None => {
                        error = Some(ClientError::new(
                            ClientErrorKind::UnknownTopicOrPartition,
                            format!("{name}-{partition} does not exist any more"),
                        ));
                    }
                }
            }
            if error.is_none() && now_ms - refusal.since_ms > FAILED_PATIENCE_MS {
                error = Some(ClientError::new(
                    ClientErrorKind::Retriable,
                    format!("{name}-{partition}: {}", failed_for_good(&refusal.reason)),
                ));
            }
            if let Some(error) = error {
                for held in std::mem::take(&mut open.held) {
                    let size = (held.records, held.bytes);
                    self.fail(topic, partition, size, error.clone());
                }
            } else if waits {
                open.refusal = Some(refusal);
                self.refusing.push((topic, partition));
            } else {
                self.hand_over(topic, partition);
                // Refused again: it has been so for longer.
                if let Some(again) = self
                    .open(topic, partition)
                    .and_then(|open| open.refusal.as_mut())
                {
                    again.since_ms = refusal.since_ms;
                }
            }
        }
    }

    fn send_all(&mut self, due: impl Fn(&Open) -> bool) {
        for topic in 0..self.topics.len() {
            let partitions = self
                .topics
                .get(topic)
                .map_or(0, |topic| topic.partitions.len());
            for partition in 0..partitions {
                let is_due = self
                    .topics
                    .get(topic)
                    .and_then(|topic| topic.partitions.get(partition))
                    .is_some_and(|open| !open.builder.is_empty() && due(open));
                if is_due
                    && let (Ok(topic), Ok(partition)) =
                        (u32::try_from(topic), i32::try_from(partition))
                {
                    self.send(TopicHandle(topic), partition);
                }
            }
        }
    }

    /// Learns the partitions of a topic that exists by now.
    fn learn(&mut self, topic: TopicHandle) {
        let Some(known) = self.topics.get_mut(topic.0 as usize) else {
            return;
        };
        while let Ok(index) = i32::try_from(known.partitions.len())
            && let Some(partition) = self.broker.partition(&known.name, index)
        {
            let _watch = watch(&partition, &self.wake);
            known.partitions.push(Open {
                partition,
                _watch,
                builder: BatchBuilder::new(self.batch_bytes),
                since_ms: 0,
                membership: Membership::No,
                sequence: 0,
                held: VecDeque::new(),
                refusal: None,
            });
        }
    }
}

impl Producer for EmbeddedProducer {
    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        if let Some(topic) = self.names.get(name) {
            return Ok(*topic);
        }
        let handle = TopicHandle(
            u32::try_from(self.topics.len())
                .map_err(|_| ClientError::new(ClientErrorKind::Fatal, "too many topics"))?,
        );
        let name: Arc<str> = name.into();
        self.topics.push(ProducerTopic {
            name: Arc::clone(&name),
            partitions: Vec::new(),
        });
        self.names.insert(name, handle);
        self.learn(handle);
        Ok(handle)
    }

    fn partitions(&mut self, topic: TopicHandle) -> Option<i32> {
        if self.topics.get(topic.0 as usize)?.partitions.is_empty() {
            self.learn(topic);
        }
        let count = self.topics.get(topic.0 as usize)?.partitions.len();
        i32::try_from(count).ok().filter(|count| *count > 0)
    }

    fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        record: RecordRef<'_>,
    ) -> Result<(), ClientError> {
        let known = self.topics.get_mut(topic.0 as usize);
        let name = known
            .as_ref()
            .map_or_else(|| "?".into(), |known| Arc::clone(&known.name));
        let Some(open) = usize::try_from(partition)
            .ok()
            .and_then(|index| known?.partitions.get_mut(index))
        else {
            return Err(ClientError::new(
                ClientErrorKind::UnknownTopicOrPartition,
                format!("{name}-{partition} does not exist"),
            ));
        };
        if let Some(transactions) = &mut self.transactions
            && open.membership == Membership::No
        {
            if transactions.producer.is_none() {
                return Err(ClientError::new(
                    ClientErrorKind::ProducerLost,
                    format!("record for {name}-{partition}: the producer is not initialised"),
                ));
            }
            open.membership = Membership::Asked;
            transactions.wanted.push((topic, partition));
        }
        let before = open.builder.size_bytes();
        if open.builder.is_empty() {
            open.since_ms = self.now_ms;
        }
        open.builder.append(record).map_err(|error| {
            ClientError::new(
                ClientErrorKind::TooLarge,
                format!("record for {name}-{partition}: {error}"),
            )
        })?;
        let size = open.builder.size_bytes();
        self.pending_records += 1;
        self.pending_bytes += size - before;
        if size >= self.batch_bytes {
            self.send(topic, partition);
        }
        Ok(())
    }

    fn flush(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.send_all(|_| true);
        self.advance_transaction();
    }

    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        completions: &mut Vec<Completion>,
    ) -> Result<(), ClientError> {
        self.now_ms = now_ms;
        let linger_ms = self.linger_ms;
        self.send_all(|open| now_ms - open.since_ms >= linger_ms);
        self.wake.arm(waker);
        self.advance_transaction();
        if let Some(transactions) = &mut self.transactions
            && let Some(failure) = transactions.failure.take()
        {
            return Err(failure);
        }
        if self.sent.iter().any(|sent| sent.at.has_failed()) {
            self.take_back();
        }
        if !self.refusing.is_empty() {
            self.retry_refusing();
        }
        completions.append(&mut self.failed);
        // Acknowledged is what the high watermark has passed. Batches of one partition are acknowledged in order, those of several are not.
        let (pending_records, pending_bytes) = (&mut self.pending_records, &mut self.pending_bytes);
        self.sent.retain(|sent| {
            if sent.at.high_watermark() <= sent.last_offset {
                return true;
            }
            *pending_records -= sent.records as usize;
            *pending_bytes -= sent.bytes;
            completions.push(Completion {
                topic: sent.topic,
                partition: sent.partition,
                records: sent.records,
                result: Ok(sent.last_offset),
            });
            false
        });
        Ok(())
    }

    fn pending_records(&self) -> usize {
        self.pending_records
    }

    fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    fn submit_transaction(&mut self, request: TransactionRequest) {
        if request == TransactionRequest::Abort {
            self.drop_pending();
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.answer = None;
            transactions.failure = None;
            transactions.request = Some(request);
        }
        self.advance_transaction();
    }

    fn poll_transaction(&mut self, now_ms: i64, waker: &Waker) -> Option<Result<(), ClientError>> {
        self.now_ms = now_ms;
        self.wake.arm(waker);
        self.advance_transaction();
        match &mut self.transactions {
            Some(transactions) => transactions.answer.take(),
            None => Some(Err(ClientError::new(
                ClientErrorKind::Config,
                "this producer has no transactional.id",
            ))),
        }
    }
}

/// The sequence after `records` more; it begins anew after the largest, as Kafka's.
fn after(sequence: i32, records: u32) -> i32 {
    let sum = i64::from(sequence) + i64::from(records);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

fn append_failed(error: PartitionError) -> ClientError {
    let kind = match &error {
        PartitionError::Gone(_) => ClientErrorKind::UnknownTopicOrPartition,
        PartitionError::Append(
            AppendError::TooLarge { .. } | AppendError::LargerThanSegment { .. },
        ) => ClientErrorKind::TooLarge,
        PartitionError::Append(
            AppendError::InvalidProducerEpoch { .. }
            | AppendError::OutOfOrderSequence { .. }
            | AppendError::InvalidTxnState { .. },
        ) => ClientErrorKind::ProducerLost,
        // KAFKA_STORAGE_ERROR: there may be room again, or the log is opened anew.
        PartitionError::Append(AppendError::Log(_)) | PartitionError::Log(_) => {
            ClientErrorKind::Retriable
        }
        _ => ClientErrorKind::Fatal,
    };
    ClientError::new(kind, error)
}

/// Whether the same batch may be taken a moment later, or by what has taken the partition's place.
fn may_pass(error: &ClientError) -> bool {
    matches!(
        error.kind,
        ClientErrorKind::Retriable | ClientErrorKind::UnknownTopicOrPartition
    )
}

fn initialized(response: Response) -> Result<(i64, i16), ClientError> {
    let Response::InitProducerId(response) = response else {
        return Err(unexpected("a producer id"));
    };
    check(
        response.error_code,
        "initialising the transactional producer",
        None,
    )?;
    Ok((response.producer_id, response.producer_epoch))
}

fn ended(response: Response, before: (i64, i16)) -> Result<(i64, i16), ClientError> {
    let Response::EndTxn(response) = response else {
        return Err(unexpected("the end of a transaction"));
    };
    check(response.error_code, "ending the transaction", None)?;
    Ok(if response.producer_id >= 0 {
        (response.producer_id, response.producer_epoch)
    } else {
        before
    })
}

fn added(response: Response) -> Result<(), ClientError> {
    let Response::AddPartitionsToTxn(response) = response else {
        return Err(unexpected("partitions of a transaction"));
    };
    check(
        response.error_code,
        "adding partitions to the transaction",
        None,
    )?;
    for topic in response
        .results_by_transaction
        .iter()
        .flat_map(|result| &result.topic_results)
    {
        for partition in &topic.results_by_partition {
            check(
                partition.partition_error_code,
                format_args!(
                    "adding {}-{} to the transaction",
                    topic.name.as_str(),
                    partition.partition_index
                ),
                None,
            )?;
        }
    }
    Ok(())
}

fn offsets_taken(response: Response, group: &str) -> Result<(), ClientError> {
    let Response::TxnOffsetCommit(response) = response else {
        return Err(unexpected("offsets of a transaction"));
    };
    for topic in &response.topics {
        for partition in &topic.partitions {
            check(
                partition.error_code,
                format_args!(
                    "offset of {}-{} of group {group} in the transaction",
                    topic.name.as_str(),
                    partition.partition_index
                ),
                None,
            )?;
        }
    }
    Ok(())
}

fn offsets_request(
    options: &TransactionOptions,
    (producer_id, producer_epoch): (i64, i16),
    member: &MemberIdentity,
    offsets: &[(TopicPartition, CommittedOffset)],
) -> TxnOffsetCommitRequest {
    let mut request = TxnOffsetCommitRequest::default();
    request.transactional_id = options.transactional_id.as_str().into();
    request.group_id = options.group.as_str().into();
    request.producer_id = producer_id;
    request.producer_epoch = producer_epoch;
    request.generation_id_or_member_epoch = member.generation;
    request.member_id = member.member_id.as_str().into();
    request.group_instance_id = member.instance_id.as_deref().map(Into::into);
    request.topics = by_topic(offsets.iter().map(|(at, committed)| (at, committed)))
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = TxnOffsetCommitRequestTopic::default();
            topic.name = name.into();
            topic.partitions = partitions
                .into_iter()
                .map(|(index, committed)| {
                    let mut partition = TxnOffsetCommitRequestPartition::default();
                    partition.partition_index = index;
                    partition.committed_offset = committed.offset;
                    partition.committed_leader_epoch = -1;
                    partition.committed_metadata = Some(committed.metadata.as_str().into());
                    partition
                })
                .collect();
            topic
        })
        .collect();
    request
}

impl EmbeddedProducer {
    /// Takes the broker's answers in, and asks for what can be asked for.
    fn advance_transaction(&mut self) {
        let Some(transactions) = &self.transactions else {
            return;
        };
        let mail = std::mem::take(
            &mut *transactions
                .mail
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for mail in mail {
            self.take(mail);
        }
        self.add_wanted();
        self.ask();
    }

    fn take(&mut self, mail: Mail) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        match mail {
            Mail::Producer(Ok(producer)) => {
                transactions.producer = Some(producer);
                transactions.begun = false;
                transactions.offsets = Membership::No;
                transactions.answer = Some(Ok(()));
                for open in self
                    .topics
                    .iter_mut()
                    .flat_map(|topic| &mut topic.partitions)
                {
                    open.membership = Membership::No;
                    open.sequence = 0;
                }
            }
            Mail::Producer(Err(error)) => transactions.answer = Some(Err(error)),
            Mail::OffsetsTaken(taken) => {
                transactions.sending_offsets = false;
                // Else something else was submitted since: nobody waits for this.
                if transactions.request.is_none() {
                    transactions.answer = Some(taken);
                }
            }
            Mail::Added(result) => {
                let partitions = transactions.adding.take().unwrap_or_default();
                match result {
                    Ok(()) => {
                        if transactions.offsets == Membership::Asked {
                            transactions.offsets = Membership::Yes;
                        }
                        for (topic, partition) in partitions {
                            self.begin_on(topic, partition);
                        }
                    }
                    Err(error) if error.kind == ClientErrorKind::Retriable => {
                        if transactions.offsets == Membership::Asked {
                            transactions.offsets = Membership::No;
                        }
                        transactions.wanted.extend(partitions);
                    }
                    Err(error) => transactions.failure = Some(error),
                }
            }
        }
    }

    /// The partition is part of the transaction: what was held goes into it.
    fn begin_on(&mut self, topic: TopicHandle, partition: i32) {
        let Some(open) = self.open(topic, partition) else {
            return;
        };
        open.membership = Membership::Yes;
        self.hand_over(topic, partition);
    }

    /// Has partitions added to the transaction; the first time together with that of the group's offsets.
    fn add_wanted(&mut self) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        let Some((producer_id, producer_epoch)) = transactions.producer else {
            return;
        };
        if transactions.wanted.is_empty() || transactions.adding.is_some() {
            return;
        }
        let wanted = std::mem::take(&mut transactions.wanted);
        let mut by_name: HashMap<&str, Vec<i32>> = HashMap::new();
        for (topic, partition) in &wanted {
            if let Some(topic) = self.topics.get(topic.0 as usize) {
                by_name.entry(&topic.name).or_default().push(*partition);
            }
        }
        let offsets = (transactions.offsets == Membership::No)
            .then(|| self.broker.offsets_partition(&transactions.options.group))
            .flatten();
        if let Some(offsets) = &offsets {
            by_name
                .entry(offsets.topic())
                .or_default()
                .push(offsets.index());
            transactions.offsets = Membership::Asked;
        }
        let mut transaction = AddPartitionsToTxnTransaction::default();
        transaction.transactional_id = transactions.options.transactional_id.as_str().into();
        transaction.producer_id = producer_id;
        transaction.producer_epoch = producer_epoch;
        transaction.topics = by_name
            .into_iter()
            .map(|(name, partitions)| {
                let mut topic = AddPartitionsToTxnTopic::default();
                topic.name = name.into();
                topic.partitions = partitions;
                topic
            })
            .collect();
        let mut request = AddPartitionsToTxnRequest::default();
        request.transactions = vec![transaction];
        transactions.adding = Some(wanted);
        transactions.begun = true;
        self.submit(request, |response| Mail::Added(added(response)));
    }

    /// Asks the broker for what was submitted, once what must come first is done.
    fn ask(&mut self) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        // Partitions that are being added, and offsets on their way, belong to the transaction that is to be ended.
        if transactions.adding.is_some()
            || !transactions.wanted.is_empty()
            || transactions.sending_offsets
        {
            return;
        }
        let Some(request) = transactions.request.take() else {
            return;
        };
        let is_commit = request == TransactionRequest::Commit;
        match request {
            TransactionRequest::Initialize => {
                let mut request = InitProducerIdRequest::default();
                request.transactional_id =
                    Some(transactions.options.transactional_id.as_str().into());
                request.transaction_timeout_ms = transactions.options.timeout_ms;
                request.producer_id = -1;
                request.producer_epoch = -1;
                self.submit(request, |response| Mail::Producer(initialized(response)));
            }
            TransactionRequest::SendOffsets { member, offsets } => {
                let Some(producer) = transactions.producer else {
                    return;
                };
                transactions.begun = true;
                transactions.sending_offsets = true;
                let group = transactions.options.group.clone();
                let request = offsets_request(&transactions.options, producer, &member, &offsets);
                self.submit(request, move |response| {
                    Mail::OffsetsTaken(offsets_taken(response, &group))
                });
            }
            TransactionRequest::Commit | TransactionRequest::Abort => {
                let producer = match transactions.producer {
                    Some(producer) if transactions.begun => producer,
                    // Nothing was written: there is nothing to end.
                    _ => {
                        transactions.answer = Some(Ok(()));
                        return;
                    }
                };
                let mut request = EndTxnRequest::default();
                request.transactional_id = transactions.options.transactional_id.as_str().into();
                (request.producer_id, request.producer_epoch) = producer;
                request.committed = is_commit;
                self.submit(request, move |response| {
                    Mail::Producer(ended(response, producer))
                });
            }
        }
    }

    fn submit(
        &self,
        request: impl Into<Request>,
        read: impl FnOnce(Response) -> Mail + Send + 'static,
    ) {
        let Some(transactions) = &self.transactions else {
            return;
        };
        let (mail, wake) = (Arc::clone(&transactions.mail), Arc::clone(&self.wake));
        let answer = Box::new(move |response| {
            mail.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(read(response));
            wake.wake();
        });
        self.broker
            .submit(&transactions.context, request.into(), answer);
    }

    /// Forgets what is not acknowledged: its transaction is being aborted.
    fn drop_pending(&mut self) {
        for open in self
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            open.builder = BatchBuilder::new(self.batch_bytes);
            open.held.clear();
            // Those that were not asked for yet are not part of it.
            if open.membership == Membership::Asked {
                open.membership = Membership::No;
            }
        }
        self.sent.clear();
        self.failed.clear();
        (self.pending_records, self.pending_bytes) = (0, 0);
        if let Some(transactions) = &mut self.transactions {
            transactions.wanted.clear();
        }
    }
}
