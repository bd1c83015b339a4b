//! What a user of the Processor API implements, and what the engine hands to it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::ProcessError;
use crate::record::{Datum, Record, RecordMetadata};

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
    fn process(&mut self, record: Record<KIn, VIn>, context: &mut ProcessorContext<'_, KOut, VOut>) -> Result<(), ProcessError>;

    /// A punctuation that [`InitContext::schedule`] asked for is due. `timestamp` is stream time or wall-clock time in milliseconds, as
    /// scheduled.
    ///
    /// # Errors
    /// As [`Processor::process`].
    fn punctuate(&mut self, punctuation: Punctuation, timestamp: i64, context: &mut ProcessorContext<'_, KOut, VOut>) -> Result<(), ProcessError> {
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
    fn receive(&mut self, record: Record<K, V>, task: &mut TaskContext) -> Result<(), ProcessError>;
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
    pub fn forward(&self, record: Record<K, V>, task: &mut TaskContext) -> Result<(), ProcessError> {
        let Some((last, rest)) = self.0.split_last() else { return Ok(()) };
        for link in rest {
            link.borrow_mut().receive(record.clone(), task)?;
        }
        last.borrow_mut().receive(record, task)
    }
}

/// What a task's nodes share while one record goes through: record context, times, counters, requests to the task.
pub struct TaskContext {
    /// Where the current record came from; `None` in a punctuation.
    pub(crate) metadata: Option<RecordMetadata>,
    /// Highest event time taken from the task's partitions, in milliseconds; -1 before the first.
    pub(crate) stream_time: i64,
    /// Wall-clock time of this step, in milliseconds.
    pub(crate) now_ms: i64,
    /// Somebody asked for an early commit.
    pub(crate) commit_requested: bool,
    /// Records dropped, and why: the sum is Kafka Streams' `dropped-records-total`.
    pub(crate) dropped: crate::topology::DroppedRecords,
    /// Output of the task.
    pub(crate) collector: crate::task::SharedCollector,
}

impl TaskContext {
    /// Where the record being processed was read from; `None` in a punctuation.
    pub fn record_metadata(&self) -> Option<&RecordMetadata> {
        self.metadata.as_ref()
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

    /// Counts a record that an operator drops, by reason.
    pub fn drop_record(&mut self, reason: DropReason) {
        self.dropped.count(reason);
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
    /// A partitioner chose no partition.
    NoPartition,
}

/// Handed to [`Processor::process`] and [`Processor::punctuate`].
pub struct ProcessorContext<'a, K, V> {
    pub(crate) children: &'a Children<K, V>,
    pub(crate) task: &'a mut TaskContext,
}

impl<K: Datum, V: Datum> ProcessorContext<'_, K, V> {
    /// Sends a record to every child, depth first.
    ///
    /// # Errors
    /// The first failure below: hand it on with `?`.
    #[inline]
    pub fn forward(&mut self, record: Record<K, V>) -> Result<(), ProcessError> {
        self.children.forward(record, self.task)
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

/// Handed to [`Processor::init`].
pub struct InitContext<'a, K, V> {
    pub(crate) node: &'a Arc<str>,
    pub(crate) children: &'a Children<K, V>,
    pub(crate) task: &'a mut crate::task::TaskSetup,
}

impl<K, V> InitContext<'_, K, V> {
    /// The node's name, as `describe()` prints it.
    pub fn node_name(&self) -> &Arc<str> {
        self.node
    }

    /// The edges out of this node, for what forwards outside of `process` (a cache's flush).
    pub fn children(&self) -> Children<K, V> {
        self.children.clone()
    }
}
