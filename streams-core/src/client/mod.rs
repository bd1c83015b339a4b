//! What the runtime needs of a cluster, as traits: fetch, produce, and requests (offsets, topics, groups).
//!
//! All of it is polled. Nothing here blocks: `poll(now, waker)` returns what is there, and calls `waker` once more is. So a stream
//! thread parks on one waker, and a simulation drives the same code without threads.
//!
//! Two implementations: rdkafka with a small wire client (`client/kafka/`) for any Kafka cluster, and the embedded adapter in the facade.

pub mod kafka;
pub mod record_batch;

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use crate::record::Headers;

/// A topic's name with a partition number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition, from zero.
    pub partition: i32,
}

impl TopicPartition {
    /// `topic`-`partition`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A failure of a client. Retriable ones are retried by the runtime until `task.timeout.ms`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// What a caller would do differently.
    pub kind: ClientErrorKind,
    /// What was asked of whom, and what came back.
    pub message: String,
}

impl ClientError {
    /// An error of `kind`.
    pub fn new(kind: ClientErrorKind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
        }
    }
}

/// What a caller would do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientErrorKind {
    /// Try again: coordinator loading, leader moving, time-out, connection lost.
    Retriable,
    /// The topic or partition does not exist.
    UnknownTopicOrPartition,
    /// The topic exists already.
    TopicExists,
    /// The position is outside the log.
    OffsetOutOfRange,
    /// A newer member or producer has taken over.
    Fenced,
    /// The transaction cannot be committed any more: abort it, then the same producer goes on.
    Abortable,
    /// The cluster no longer takes anything of this producer (its transaction timed out, its state is lost): a new one goes on.
    ProducerLost,
    /// The record or batch is too large.
    TooLarge,
    /// The settings do not fit (SASL on the wire client, a malformed address).
    Config,
    /// Anything else; final.
    Fatal,
}

/// Where clients come from. One for each cluster; cheap to share between threads.
pub trait Cluster: Send + Sync {
    /// A consumer with manual assignment.
    ///
    /// # Errors
    /// When the settings do not fit.
    fn consumer(&self, options: &ConsumerOptions) -> Result<Box<dyn Consumer>, ClientError>;

    /// A producer.
    ///
    /// # Errors
    /// When the settings do not fit.
    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, ClientError>;

    /// Requests to the cluster.
    ///
    /// # Errors
    /// When the settings do not fit.
    fn admin(&self) -> Result<Box<dyn Admin>, ClientError>;

    /// Takes the group `application_id` for this process, so that a second instance is refused. `process_id` stays the same over
    /// restarts of one instance (it is kept in the state directory), so that a restart takes its own place at once. `topics` are those
    /// whose offsets are committed (sources and repartition topics): the group names them, so that the cluster keeps their offsets.
    ///
    /// The default holds at once and commits as no member: for a cluster within the process, where the lock on the data directory
    /// already keeps a second one out.
    ///
    /// # Errors
    /// When the settings do not fit.
    fn claim(
        &self,
        application_id: &str,
        process_id: &str,
        topics: &[String],
    ) -> Result<Box<dyn Claim>, ClientError> {
        let _ = (application_id, process_id, topics);
        Ok(Box::new(HeldClaim))
    }

    /// How it is named in messages: `embedded ./data`, `127.0.0.1:9092`.
    fn name(&self) -> String;
}

/// The place of one instance in its group. Kept alive in the background until dropped, which leaves the group.
pub trait Claim: Send {
    /// How it stands; `waker` is called when that changes. Cheap: may be asked in every step.
    fn poll(&mut self, now_ms: i64, waker: &Waker) -> ClaimState;
}

/// How a [`Claim`] stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// Not known yet.
    Pending,
    /// The group is ours. Offsets are committed as this member, which may change while the claim is held.
    Held(MemberIdentity),
    /// Another instance has it; the text says which, and what to do.
    Refused(String),
    /// It was held and is not any more: another process took this instance's place. Stop without committing.
    Lost(String),
}

/// A claim that nobody contests.
struct HeldClaim;

impl Claim for HeldClaim {
    fn poll(&mut self, _now_ms: i64, _waker: &Waker) -> ClaimState {
        ClaimState::Held(MemberIdentity::simple())
    }
}

/// Settings of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// `client.id`.
    pub client_id: String,
    /// Whether records of open and aborted transactions are hidden.
    pub read_committed: bool,
    /// At most so many bytes a fetched batch of one partition (`max.partition.fetch.bytes`).
    pub partition_fetch_bytes_max: usize,
    /// Further settings under Kafka's names, passed to a client that knows them.
    pub properties: Vec<(String, String)>,
}

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// `client.id`.
    pub client_id: String,
    /// An open batch is sent when it has so many bytes (`batch.size`).
    pub batch_bytes: usize,
    /// An open batch is sent at the latest after so long (`linger.ms`).
    pub linger_ms: i64,
    /// Further settings under Kafka's names.
    pub properties: Vec<(String, String)>,
    /// Everything is written in transactions of this id; `None` writes without.
    pub transaction: Option<TransactionOptions>,
}

/// How a producer's transactions are known to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionOptions {
    /// `transactional.id`: a producer that initialises fences those before it that had the same one.
    pub transactional_id: String,
    /// `transaction.timeout.ms`: the cluster aborts a transaction that is open for longer.
    pub timeout_ms: i32,
    /// The group whose offsets the transactions commit.
    pub group: String,
}

/// A step of a producer's transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionRequest {
    /// Fences earlier producers of the same id, and waits until what they had open is ended.
    Initialize,
    /// Makes these offsets part of the open transaction. Output may still be on its way.
    SendOffsets {
        /// As whom: a member that the group has replaced is refused.
        member: MemberIdentity,
        /// What.
        offsets: Vec<(TopicPartition, CommittedOffset)>,
    },
    /// Ends the transaction: everything in it becomes visible, together. Only when all output is acknowledged.
    Commit,
    /// Ends the transaction: nothing in it ever becomes visible. What was not acknowledged is dropped.
    Abort,
}

/// A partition of a consumer: the index that [`Consumer::add`] returned. Reused after [`Consumer::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Fetches record batches of the partitions given to it.
pub trait Consumer: Send {
    /// Starts to fetch a partition at `offset`.
    ///
    /// # Errors
    /// When the partition cannot be fetched at all; a missing topic is reported by `poll`.
    fn add(&mut self, partition: &TopicPartition, offset: i64) -> Result<Slot, ClientError>;

    /// Stops to fetch it. What was fetched and not yet returned is dropped.
    fn remove(&mut self, slot: Slot);

    /// Fetches on from `offset`.
    fn seek(&mut self, slot: Slot, offset: i64);

    /// Returns nothing of this partition until [`Consumer::resume`]. The position stays.
    fn pause(&mut self, slot: Slot);

    /// Undoes [`Consumer::pause`].
    fn resume(&mut self, slot: Slot);

    /// Appends to `fetched` what has arrived, without waiting. When nothing more is there, `waker` is called once something is. The end
    /// offset of a partition is reported at least once after [`Consumer::add`], also when the partition is empty, and again whenever
    /// it has moved.
    ///
    /// # Errors
    /// What concerns the whole client; what concerns one partition is in [`Fetched::error`].
    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        fetched: &mut Vec<Fetched>,
    ) -> Result<(), ClientError>;
}

/// What one poll brought of one partition.
#[derive(Debug)]
pub struct Fetched {
    /// The partition.
    pub slot: Slot,
    /// Uncompressed record batches in format v2, in order of offset, without control batches and without the records of aborted
    /// transactions (when read committed). The first may begin before the position: records below it are to be skipped. May be empty.
    pub batches: Vec<Bytes>,
    /// The position after these batches, past control records and compacted offsets.
    pub next_offset: i64,
    /// End of what can be read: high watermark, or last stable offset when read committed; exclusive. -1 when not known, which is so
    /// only beside an error.
    pub end_offset: i64,
    /// Why this partition cannot be fetched; there are no batches then. Fetching goes on only after a `seek` or `remove`, except for retriable errors.
    pub error: Option<ClientError>,
}

/// A topic known to a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicHandle(pub u32);

/// A record to be appended, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Key bytes; `None` is null.
    pub key: Option<&'a [u8]>,
    /// Value bytes; `None` is null.
    pub value: Option<&'a [u8]>,
    /// Event time in milliseconds.
    pub timestamp: i64,
    /// Headers.
    pub headers: &'a Headers,
}

/// Appends records to open batches and sends them.
pub trait Producer: Send {
    /// The handle of a topic, to be asked once.
    ///
    /// # Errors
    /// When the name is not valid. Whether the topic exists turns out later.
    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError>;

    /// Number of partitions of a topic, as known to the cluster now; `None` until the answer is there or while the topic does not exist.
    fn partitions(&mut self, topic: TopicHandle) -> Option<i32>;

    /// Writes one record straight into the open batch of the partition. Never waits.
    ///
    /// # Errors
    /// When the record is larger than the topic allows, or the producer has failed.
    fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        record: RecordRef<'_>,
    ) -> Result<(), ClientError>;

    /// Closes and sends all open batches, whatever their size and age.
    fn flush(&mut self, now_ms: i64);

    /// Drives sending; appends to `completions` what was acknowledged since the last call.
    ///
    /// # Errors
    /// What concerns the whole client; what concerns one batch is in [`Completion::result`].
    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        completions: &mut Vec<Completion>,
    ) -> Result<(), ClientError>;

    /// Records appended and not yet completed.
    fn pending_records(&self) -> usize;

    /// Bytes appended and not yet completed. The runtime stops to process above its limit (`buffer.memory`).
    fn pending_bytes(&self) -> usize;

    /// Asks for a step of its transactions, one at a time; [`Producer::poll_transaction`] answers. After `Initialize`, `Commit` and
    /// `Abort` a transaction is open, which costs nothing before the first record. A step that failed as
    /// [`ClientErrorKind::Retriable`] may be asked for again; it is done once.
    fn submit_transaction(&mut self, request: TransactionRequest) {
        let _ = request;
    }

    /// The answer to what was submitted, once; `waker` is called when it is there. [`Producer::poll`] is to be called meanwhile.
    ///
    /// An error says what to do by its kind: [`ClientErrorKind::Retriable`], [`ClientErrorKind::Abortable`],
    /// [`ClientErrorKind::ProducerLost`], [`ClientErrorKind::Fenced`]; any other is final.
    fn poll_transaction(&mut self, now_ms: i64, waker: &Waker) -> Option<Result<(), ClientError>> {
        let _ = (now_ms, waker);
        Some(Err(ClientError::new(
            ClientErrorKind::Config,
            "this producer has no transactions",
        )))
    }
}

/// One acknowledged (or failed) batch, or part of one.
#[derive(Debug)]
pub struct Completion {
    /// The topic.
    pub topic: TopicHandle,
    /// The partition.
    pub partition: i32,
    /// How many records.
    pub records: u32,
    /// Offset of the last of them, or why they failed.
    pub result: Result<i64, ClientError>,
}

/// Requests that are neither fetch nor produce.
pub trait Admin: Send {
    /// Sends a request. The answer comes from [`Admin::poll`] under the returned id. Time-outs and reconnects are the client's.
    fn submit(&mut self, request: AdminRequest) -> RequestId;

    /// Appends the answers that have arrived; calls `waker` once there are more.
    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        answers: &mut Vec<(RequestId, Result<AdminResponse, ClientError>)>,
    );
}

/// Names a request to an [`Admin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What tells a topic from another that has its name later, or on another cluster.
pub type TopicId = [u8; 16];

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Copies; -1 is the cluster's default.
    pub replication_factor: i16,
    /// Settings under Kafka's names.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with the cluster's defaults.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            replication_factor: -1,
            configs: Vec::new(),
        }
    }

    /// With a setting under Kafka's name.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }
}

/// Which offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Log start offset.
    Earliest,
    /// High watermark, or last stable offset when `read_committed`.
    Latest {
        /// Which of the two.
        read_committed: bool,
    },
    /// First record at or after this time, in milliseconds; the end when there is none.
    Timestamp(i64),
}

/// A committed offset: the next to be read, with metadata (partition time, as Kafka Streams encodes it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to be read.
    pub offset: i64,
    /// Text of at most 4096 bytes.
    pub metadata: String,
}

/// As whom offsets are committed. Empty and -1: not a member (simple commits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Member id, or empty.
    pub member_id: String,
    /// Generation or member epoch, or -1.
    pub generation: i32,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
}

impl MemberIdentity {
    /// Not a member of the group.
    pub fn simple() -> Self {
        Self {
            member_id: String::new(),
            generation: -1,
            instance_id: None,
        }
    }
}

/// A request to the cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AdminRequest {
    /// Partition counts of topics, without creating them. Answer: [`AdminResponse::Topics`].
    DescribeTopics(Vec<String>),
    /// All topics of the cluster. Answer: [`AdminResponse::Topics`].
    ListTopics,
    /// Ids of topics. Answer: [`AdminResponse::TopicIds`].
    TopicIds(Vec<String>),
    /// Creates topics. Answer: [`AdminResponse::PerTopic`].
    CreateTopics(Vec<NewTopic>),
    /// Deletes topics. Answer: [`AdminResponse::PerTopic`].
    DeleteTopics(Vec<String>),
    /// Settings of a topic. Answer: [`AdminResponse::Configs`].
    DescribeTopicConfigs(String),
    /// Offsets of partitions. Answer: [`AdminResponse::Offsets`].
    ListOffsets(Vec<(TopicPartition, OffsetSpec)>),
    /// Deletes records below the offsets (repartition topics, KIP-811). Answer: [`AdminResponse::Offsets`] with the new log starts.
    DeleteRecords(Vec<(TopicPartition, i64)>),
    /// Committed offsets of a group; empty `partitions` means all. Answer: [`AdminResponse::CommittedOffsets`].
    FetchOffsets {
        /// The group.
        group: String,
        /// Which partitions.
        partitions: Vec<TopicPartition>,
    },
    /// Commits offsets of a group. Answer: [`AdminResponse::Done`].
    CommitOffsets {
        /// The group.
        group: String,
        /// As whom.
        member: MemberIdentity,
        /// What.
        offsets: Vec<(TopicPartition, CommittedOffset)>,
    },
    /// The groups of the cluster. Answer: [`AdminResponse::Groups`].
    ListGroups,
    /// One group with its members. Answer: [`AdminResponse::Group`].
    DescribeGroup(String),
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AdminResponse {
    /// Done.
    Done,
    /// Topics with their partition count; `None`: the topic does not exist.
    Topics(Vec<(String, Option<i32>)>),
    /// Topics with their id; `None`: the topic does not exist, or the cluster is from before ids (Kafka 2.8).
    TopicIds(Vec<(String, Option<TopicId>)>),
    /// The result for each topic.
    PerTopic(Vec<(String, Result<(), ClientError>)>),
    /// Settings under Kafka's names.
    Configs(Vec<(String, String)>),
    /// Offsets.
    Offsets(Vec<(TopicPartition, Result<i64, ClientError>)>),
    /// Committed offsets; `None`: nothing committed.
    CommittedOffsets(Vec<(TopicPartition, Option<CommittedOffset>)>),
    /// Group ids with their protocol type and state.
    Groups(Vec<GroupListing>),
    /// One group.
    Group(GroupDescription),
}

/// A group in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// `group.id`.
    pub group: String,
    /// `consumer`, or empty for simple commits.
    pub protocol_type: String,
    /// Kafka's name of its state.
    pub state: String,
}

/// A group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// `group.id`.
    pub group: String,
    /// Kafka's name of its state.
    pub state: String,
    /// Kafka's name of the assignor.
    pub protocol: String,
    /// The members.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// Assigned partitions, where the assignment is the consumer protocol's.
    pub assignment: Vec<TopicPartition>,
}
