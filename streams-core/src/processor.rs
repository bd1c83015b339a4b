//! What a user of the Processor API implements, and what the engine hands to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::ProcessError;
use crate::record::{Datum, Headers, Record, RecordMetadata};
use crate::task::{ErrorResponse, OperatorTimes, Punctuations, TaskSetup};
use crate::topology::{DroppedRecords, TaskId};
use crate::typed_store::{
    BuiltStore, GlobalKeyValueStore, StoreKey, TimestampedKeyValueStore, TimestampedWindowStore,
};

/// One node's code: takes records of type `KIn, VIn`, forwards records of type `KOut, VOut` to its children.
///
/// A task makes its own processor from a [`ProcessorSupplier`] and calls it from one thread (KIP-478).
pub trait Processor<KIn, VIn, KOut, VOut>: 'static {
    /// Called once before the first record: look up stores, schedule punctuations.
    ///
    /// # Errors
    /// An error keeps the task from starting.
    fn init(&mut self, context: &mut InitContext<'_, KOut, VOut>) -> Result<(), ProcessError> {
        let _ = context;
        Ok(())
    }

    /// Processes one record: changes state, forwards.
    ///
    /// # Errors
    /// What the processing-exception handler gets to see, with the node's name.
    fn process(
        &mut self,
        record: Record<KIn, VIn>,
        context: &mut ProcessorContext<'_, KOut, VOut>,
    ) -> Result<(), ProcessError>;

    /// A punctuation that [`InitContext::schedule`] asked for is due. `timestamp` is stream time or wall-clock time in milliseconds, as
    /// scheduled.
    ///
    /// # Errors
    /// As [`Processor::process`].
    fn punctuate(
        &mut self,
        punctuation: Punctuation,
        timestamp: i64,
        context: &mut ProcessorContext<'_, KOut, VOut>,
    ) -> Result<(), ProcessError> {
        let _ = (punctuation, timestamp, context);
        Ok(())
    }

    /// Called once when the task ends cleanly. Stores are closed by the engine.
    fn close(&mut self) {}
}

/// Makes a processor for each task. Closures `|| MyProcessor::new()` are suppliers.
pub trait ProcessorSupplier<KIn, VIn, KOut, VOut>: Send + Sync + 'static {
    /// The processor's type.
    type Processor: Processor<KIn, VIn, KOut, VOut>;

    /// A new processor.
    fn processor(&self) -> Self::Processor;
}

impl<KIn, VIn, KOut, VOut, P, F> ProcessorSupplier<KIn, VIn, KOut, VOut> for F
where
    F: Fn() -> P + Send + Sync + 'static,
    P: Processor<KIn, VIn, KOut, VOut>,
{
    type Processor = P;

    fn processor(&self) -> P {
        self()
    }
}

/// Names one scheduled punctuation of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Punctuation(pub u32);

/// Which time a punctuation follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PunctuationType {
    /// Event time of the task: fires only while records arrive. First due at once, with the first record (stream time 0).
    StreamTime,
    /// The machine's time. First due one interval from now.
    WallClockTime,
}

/// A typed edge into a node of the same task. One virtual call a hop; shared where two parents meet.
pub type Link<K, V> = Rc<RefCell<dyn Receive<K, V>>>;

/// What a node does with a record that reaches it. Implemented by the engine's nodes.
pub trait Receive<K, V> {
    /// Takes `record` through this node and, depth first, through everything below it.
    ///
    /// # Errors
    /// The first failure below; the error names the node.
    fn receive(&mut self, record: Record<K, V>, task: &mut TaskContext)
    -> Result<(), ProcessError>;
}

/// The edges out of a node, in order of declaration.
pub struct Children<K, V>(SmallVec<[Link<K, V>; 2]>);

impl<K, V> Clone for Children<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Children<K, V> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<K, V> Children<K, V> {
    /// Edges to `links`, in that order.
    pub fn new(links: impl IntoIterator<Item = Link<K, V>>) -> Self {
        Self(links.into_iter().collect())
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Datum, V: Datum> Children<K, V> {
    /// Sends `record` to every child, depth first, in order. Clones for all but the last.
    ///
    /// # Errors
    /// The first failure below.
    #[inline]
    pub fn forward(
        &self,
        record: Record<K, V>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        let Some((last, rest)) = self.0.split_last() else {
            return Ok(());
        };
        for link in rest {
            link.borrow_mut().receive(record.clone(), task)?;
        }
        last.borrow_mut().receive(record, task)
    }

    /// Sends `record` to one child, counted from zero in order of declaration.
    ///
    /// # Errors
    /// When there is no such child, or a failure below.
    #[inline]
    pub fn forward_to(
        &self,
        child: usize,
        record: Record<K, V>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        let link = self.0.get(child).ok_or_else(|| {
            ProcessError::new(format!(
                "there is no child {child}: the node has {}",
                self.0.len()
            ))
        })?;
        link.borrow_mut().receive(record, task)
    }
}

/// What a task's nodes share while one record goes through: record context, times, counters, requests to the task.
pub struct TaskContext {
    /// The task.
    pub(crate) id: TaskId,
    /// Where the current record came from; `None` in a punctuation.
    pub(crate) metadata: Option<RecordMetadata>,
    /// Event time of the record that was taken from the input, or of the punctuation.
    pub(crate) record_timestamp: i64,
    /// Headers of the record that the node at work was given; none in a punctuation.
    pub(crate) headers: Headers,
    /// Highest event time taken from the task's partitions, in milliseconds; -1 before the first.
    pub(crate) stream_time: i64,
    /// Wall-clock time of this step, in milliseconds.
    pub(crate) now_ms: i64,
    /// Somebody asked for an early commit.
    pub(crate) commit_requested: bool,
    /// Stream times of operators, committed with the offsets.
    pub(crate) operator_times: OperatorTimes,
    /// Records that sinks hold back because their topic is not known to the cluster yet.
    pub(crate) held_records: usize,
    /// What is done about a record that a processor fails on.
    pub(crate) processing_error: ErrorResponse,
    /// What is done about a record that a sink cannot write.
    pub(crate) production_error: ErrorResponse,
    /// Records dropped, and why: the sum is Kafka Streams' `dropped-records-total`.
    pub(crate) dropped: DroppedRecords,
    /// What is due when.
    pub(crate) punctuations: Punctuations,
}

impl TaskContext {
    pub(crate) fn new(id: TaskId, processing_error: ErrorResponse, now_ms: i64) -> Self {
        Self {
            id,
            metadata: None,
            record_timestamp: -1,
            headers: Headers::default(),
            stream_time: -1,
            now_ms,
            commit_requested: false,
            operator_times: Vec::new(),
            held_records: 0,
            processing_error,
            production_error: ErrorResponse::Fail,
            dropped: DroppedRecords::default(),
            punctuations: Punctuations::default(),
        }
    }

    /// The task's name.
    pub fn task_id(&self) -> TaskId {
        self.id
    }

    /// Where the record being processed was read from; `None` in a punctuation.
    pub fn record_metadata(&self) -> Option<&RecordMetadata> {
        self.metadata.as_ref()
    }

    /// Event time of the record that was taken from the input, in milliseconds; in a punctuation its time. Records that processors make
    /// may have other timestamps.
    pub fn record_timestamp(&self) -> i64 {
        self.record_timestamp
    }

    /// Highest event time the task has seen, in milliseconds, the current record included; -1 before the first.
    pub fn stream_time(&self) -> i64 {
        self.stream_time
    }

    /// Wall-clock time of this step, in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Asks the task to commit before its next interval (Kafka's `ProcessorContext#commit`).
    pub fn request_commit(&mut self) {
        self.commit_requested = true;
    }

    /// Makes `headers` those of the record at work. Returns the ones before when they are others: to be put back.
    #[inline]
    pub(crate) fn with_headers(&mut self, headers: &Headers) -> Option<Headers> {
        (!self.headers.is_same(headers))
            .then(|| std::mem::replace(&mut self.headers, headers.clone()))
    }

    /// As [`TaskContext::handle`], of a record that a sink cannot write: what the production handler says. When that says to fail it is a
    /// failure like any other below a processor.
    #[cold]
    pub(crate) fn handle_production(&mut self, error: ProcessError) -> Result<(), ProcessError> {
        match self.production_error {
            ErrorResponse::Continue => {
                self.handle(ErrorResponse::Continue, DropReason::Production, error)
            }
            ErrorResponse::Fail => {
                self.handle(self.processing_error, DropReason::Processing, error)
            }
        }
    }

    /// Does what a handler says about `error`: hands it back, or counts the record as dropped and goes on.
    #[cold]
    pub(crate) fn handle(
        &mut self,
        response: ErrorResponse,
        reason: DropReason,
        error: ProcessError,
    ) -> Result<(), ProcessError> {
        if response == ErrorResponse::Fail || error.is_final() {
            return Err(error);
        }
        let (topic, partition, offset) = self
            .metadata
            .as_ref()
            .map_or(("", -1, -1), |at| (&*at.topic, at.partition, at.offset));
        tracing::warn!(task = %self.id, topic, partition, offset, %error, "record dropped: the handler says to go on");
        self.drop_record(reason);
        Ok(())
    }

    /// Counts a record that an operator drops, by reason.
    pub fn drop_record(&mut self, reason: DropReason) {
        self.dropped.count(reason);
    }

    /// Ends a punctuation; may be called from within it.
    pub fn cancel(&mut self, punctuation: Punctuation) {
        self.punctuations.cancel(punctuation);
    }
}

/// Why a record was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// A null key where one is needed.
    NullKey,
    /// A null value where one is needed.
    NullValue,
    /// Older than the window's end plus grace: per window, as Kafka counts.
    Late,
    /// A negative timestamp from the extractor.
    InvalidTimestamp,
    /// A window store no longer keeps this window.
    ExpiredWindow,
    /// The deserialization handler said to go on.
    Deserialization,
    /// The processing handler said to go on.
    Processing,
    /// The production handler said to go on.
    Production,
    /// A partitioner chose no partition.
    NoPartition,
}

impl DropReason {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::NoPartition as usize + 1;
}

/// Handed to [`Processor::process`] and [`Processor::punctuate`]. Also a [`TaskContext`].
pub struct ProcessorContext<'a, K, V> {
    pub(crate) node: usize,
    pub(crate) children: &'a Children<K, V>,
    pub(crate) task: &'a mut TaskContext,
}

impl<K: Datum, V: Datum> ProcessorContext<'_, K, V> {
    /// Sends a record to every child, depth first.
    ///
    /// # Errors
    /// When its timestamp is negative, or the first failure below: hand it on with `?`.
    #[inline]
    pub fn forward(&mut self, record: Record<K, V>) -> Result<(), ProcessError> {
        check_timestamp(record.timestamp)?;
        self.children.forward(record, self.task)
    }

    /// Sends a record to one child, counted from zero in order of declaration.
    ///
    /// # Errors
    /// When there is no such child, its timestamp is negative, or a failure below.
    #[inline]
    pub fn forward_to(&mut self, child: usize, record: Record<K, V>) -> Result<(), ProcessError> {
        check_timestamp(record.timestamp)?;
        self.children.forward_to(child, record, self.task)
    }
}

/// No window, store or topic takes a time before the epoch: said where it is made, not where it gets lost.
#[inline]
fn check_timestamp(timestamp: i64) -> Result<(), ProcessError> {
    if timestamp < 0 {
        return Err(negative_timestamp(timestamp));
    }
    Ok(())
}

#[cold]
fn negative_timestamp(timestamp: i64) -> ProcessError {
    ProcessError::new(format!(
        "a record was forwarded with the negative timestamp {timestamp}"
    ))
}

impl<K, V> ProcessorContext<'_, K, V> {
    /// As [`InitContext::schedule`].
    ///
    /// # Errors
    /// When the interval is below one millisecond.
    pub fn schedule(
        &mut self,
        interval_ms: i64,
        kind: PunctuationType,
    ) -> Result<Punctuation, ProcessError> {
        self.task
            .punctuations
            .schedule(self.node, None, interval_ms, kind, self.task.now_ms)
    }
}

impl<K, V> std::ops::Deref for ProcessorContext<'_, K, V> {
    type Target = TaskContext;

    fn deref(&self) -> &TaskContext {
        self.task
    }
}

impl<K, V> std::ops::DerefMut for ProcessorContext<'_, K, V> {
    fn deref_mut(&mut self) -> &mut TaskContext {
        self.task
    }
}

/// Handed to [`Processor::init`]: the only place to look up stores.
pub struct InitContext<'a, K, V> {
    pub(crate) name: &'a Arc<str>,
    pub(crate) node: usize,
    pub(crate) children: &'a Children<K, V>,
    pub(crate) setup: &'a mut TaskSetup,
}

impl<K, V> InitContext<'_, K, V> {
    /// The node's name, as `describe()` prints it.
    pub fn node_name(&self) -> &Arc<str> {
        self.name
    }

    /// The task's name.
    pub fn task_id(&self) -> TaskId {
        self.setup.context.id
    }

    /// Wall-clock time in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.setup.context.now_ms
    }

    /// This node's own stream time, the highest event time that has come to it in milliseconds, -1 before the first: for it to keep. It
    /// is committed with the offsets, and is here again after a restart.
    pub fn stream_time(&mut self) -> Rc<Cell<i64>> {
        let times = &mut self.setup.context.operator_times;
        if let Some((_, time)) = times.iter().find(|(name, _)| name == self.name) {
            return Rc::clone(time);
        }
        let time = Rc::new(Cell::new(-1));
        times.push((Arc::clone(self.name), Rc::clone(&time)));
        time
    }

    /// The edges out of this node, for what forwards outside of `process` (a cache's flush).
    pub fn children(&self) -> Children<K, V> {
        self.children.clone()
    }

    /// Asks for [`Processor::punctuate`] every `interval_ms` of stream time or of wall-clock time (KIP-138). By stream time first with the
    /// first record, by wall-clock time first after one interval; intervals that were missed are one call.
    ///
    /// # Errors
    /// When the interval is below one millisecond.
    pub fn schedule(
        &mut self,
        interval_ms: i64,
        kind: PunctuationType,
    ) -> Result<Punctuation, ProcessError> {
        let now_ms = self.now_ms();
        self.setup
            .context
            .punctuations
            .schedule(self.node, None, interval_ms, kind, now_ms)
    }

    /// As [`InitContext::schedule`], first due at `start_ms` (KIP-1146).
    ///
    /// # Errors
    /// When the interval is below one millisecond, or the start is negative.
    pub fn schedule_at(
        &mut self,
        start_ms: i64,
        interval_ms: i64,
        kind: PunctuationType,
    ) -> Result<Punctuation, ProcessError> {
        let now_ms = self.now_ms();
        self.setup.context.punctuations.schedule(
            self.node,
            Some(start_ms),
            interval_ms,
            kind,
            now_ms,
        )
    }

    /// Ends a punctuation.
    pub fn cancel(&mut self, punctuation: Punctuation) {
        self.setup.context.cancel(punctuation);
    }

    /// A store that is connected to this node, of whatever kind and types.
    ///
    /// # Errors
    /// When it is not connected; the message says what to do.
    pub fn store(&self, name: &str) -> Result<BuiltStore, ProcessError> {
        self.setup.connected(self.name, name).cloned()
    }

    /// A key-value store that is connected to this node.
    ///
    /// # Errors
    /// When it is not connected, or has another kind or other types; the message says what to do.
    pub fn key_value_store<SK: StoreKey, SV: Datum>(
        &self,
        name: &str,
    ) -> Result<TimestampedKeyValueStore<SK, SV>, ProcessError> {
        self.setup.connected(self.name, name)?.key_value()
    }

    /// A window store that is connected to this node.
    ///
    /// # Errors
    /// When it is not connected, or has another kind or other types; the message says what to do.
    pub fn window_store<SK: StoreKey, SV: Datum>(
        &self,
        name: &str,
    ) -> Result<TimestampedWindowStore<SK, SV>, ProcessError> {
        self.setup.connected(self.name, name)?.window()
    }

    /// A global store, to be read. Every processor may, without being connected.
    ///
    /// # Errors
    /// When there is none of that name, or it has other types.
    pub fn global_store<SK: StoreKey, SV: Datum>(
        &self,
        name: &str,
    ) -> Result<GlobalKeyValueStore<SK, SV>, ProcessError> {
        Ok(self.setup.global(name)?.key_value()?.read_only())
    }
}
