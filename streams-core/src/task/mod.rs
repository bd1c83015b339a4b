//! The engine: one sub-topology over one partition. No IO of its own, no threads, no clock.
//!
//! | question | file |
//! |---|---|
//! | how a task is built, which record comes next, what happens between records, what a commit takes | here |
//! | what waits of an input partition, and how a run goes through it | `input_queue.rs` |
//! | how a record goes through a node, and into a sink | `node.rs` |
//! | what sinks and changelogs write to | `collector.rs` |
//! | when punctuations are due | `punctuation.rs` |
//! | what is committed beside an offset | `offset_metadata.rs` |
//!
//! How a task works:
//! 1. Whoever drives it (the runtime, the test driver, a simulation) hands in what was fetched, and calls [`Task::process`].
//! 2. The task waits until every input has a record or is known to have none. Then it takes a *run* of records from the input whose head
//!    has the lowest event time, as long as it stays the lowest. Each record goes depth first through the whole sub-topology.
//! 3. Between two records, and only there: stream-time punctuations, evictions from the record cache, the end of the run when someone asked
//!    for a commit. So the length of runs does not show in the output.
//! 4. A commit is [`Task::flush`], then the producer's flush, then [`Task::offsets_to_commit`], then [`Task::commit_stores`].

mod collector;
mod input_queue;
mod node;
mod offset_metadata;
mod punctuation;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use brooklet_state_stores::{ChangelogSink, Positions, Stores};

pub use collector::{RecordCollector, SharedCollector};
pub(crate) use node::{BuildNode, BuildSource, ProcessorFactory, SinkFactory, SourceFactory};
pub(crate) use offset_metadata::OperatorTimes;
pub(crate) use punctuation::Punctuations;

use crate::cache::{TaskCaches, ThreadCache};
use crate::client::{CommittedOffset, Fetched, TopicHandle, TopicPartition};
use crate::error::{ProcessError, StreamsError};
use crate::processor::{DropReason, PunctuationType, TaskContext};
use crate::topology::{DroppedRecords, NodeKind, TaskId, Topology, changelog_topic};
use crate::typed_store::{BuiltStore, StoreSite};
use collector::CollectorChangelog;
use input_queue::{InputQueue, RunLimits};
use node::{NodeCell, NodeSite};

/// What is done about a record that cannot be read or processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorResponse {
    /// The task stops with the error (Kafka's `LogAndFail...`).
    #[default]
    Fail,
    /// The rest of that record's way is given up, it is counted, and the task goes on (Kafka's `LogAndContinue...`).
    Continue,
}

/// How a task processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// `max.task.idle.ms`: how long to wait, in milliseconds, for an input that is empty and has nothing more on the cluster. 0: only while
    /// its lag is unknown or above zero (KIP-695); -1: not at all.
    pub task_idle_max_ms: i64,
    /// `deserialization.exception.handler`.
    pub deserialization_error: ErrorResponse,
    /// `processing.exception.handler`.
    pub processing_error: ErrorResponse,
    /// `production.exception.handler`: of records that a sink cannot write (a serde fails, a topic's name is not valid).
    pub production_error: ErrorResponse,
    /// Uncommitted bytes in a task's stores that ask for an early commit (`statestore.uncommitted.max.bytes`).
    pub uncommitted_bytes_max: usize,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            task_idle_max_ms: 0,
            deserialization_error: ErrorResponse::Fail,
            processing_error: ErrorResponse::Fail,
            production_error: ErrorResponse::Fail,
            uncommitted_bytes_max: 64 << 20,
        }
    }
}

/// Global stores of a thread, by name: made by its tasks over global sub-topologies ([`Task::built_stores`]).
pub type GlobalStores = BTreeMap<String, BuiltStore>;

/// What the tasks of a thread share.
#[derive(Clone)]
pub struct TaskEnvironment {
    /// `application.id`.
    pub application_id: Arc<str>,
    /// Where output goes.
    pub collector: SharedCollector,
    /// The thread's record cache.
    pub cache: Rc<ThreadCache>,
    /// The thread's global stores.
    pub globals: GlobalStores,
    /// How to process.
    pub settings: StreamSettings,
}

/// What nodes may ask for while a task is set up.
pub(crate) struct TaskSetup {
    pub(crate) context: TaskContext,
    stores: BTreeMap<String, BuiltStore>,
    globals: GlobalStores,
    /// Stores connected to the node that is being initialised.
    connected: Vec<String>,
}

impl TaskSetup {
    pub(crate) fn connected(&self, node: &str, store: &str) -> Result<&BuiltStore, ProcessError> {
        let is_connected = self.connected.iter().any(|name| name == store);
        if let Some(store) = self.stores.get(store).filter(|_| is_connected) {
            return Ok(store);
        }
        Err(ProcessError::new(if self.globals.contains_key(store) {
            format!("store {store} is global: look it up with global_store({store:?})")
        } else {
            format!(
                "store {store} is not connected to {node}: declare it with add_state_store and call connect({node}, &[{store:?}])"
            )
        }))
    }

    pub(crate) fn global(&self, store: &str) -> Result<&BuiltStore, ProcessError> {
        self.globals.get(store).ok_or_else(|| {
            ProcessError::new(format!(
                "there is no global store {store}: declare it with add_global_store"
            ))
        })
    }
}

/// Where the changes of a store go.
#[derive(Clone, Debug)]
pub struct TaskChangelog {
    /// The store.
    pub store: String,
    /// The partition of its changelog.
    pub partition: TopicPartition,
    /// The producer's handle of the topic.
    pub handle: TopicHandle,
}

/// One sub-topology over one partition, with its stores.
pub struct Task {
    id: TaskId,
    settings: StreamSettings,
    context: TaskContext,
    inputs: Vec<Input>,
    /// Names and nodes, by index of the topology; `None` for sources and nodes of other sub-topologies.
    nodes: Vec<Option<Rc<RefCell<dyn NodeCell>>>>,
    names: Vec<Arc<str>>,
    caches: TaskCaches,
    stores: Stores,
    built_stores: BTreeMap<String, BuiltStore>,
    changelogs: Vec<TaskChangelog>,
    output_topics: Vec<TopicHandle>,
    is_closed: bool,
}

struct Input {
    partition: TopicPartition,
    queue: Box<dyn InputQueue>,
    /// Event time of the head; `None` when it is not known whether there is one.
    head: Option<i64>,
    /// Until when an empty input is waited for.
    idle_until_ms: Option<i64>,
    /// Offset and partition time, as committed last.
    committed: Option<(i64, i64)>,
}

impl Task {
    /// Builds the task and initialises its processors. `stores` were opened with [`Topology::store_specs`] and are restored.
    ///
    /// # Errors
    /// When the sub-topology does not exist, an input is not of it, a processor's `init` fails, or a store has other types than asked for.
    pub fn new(
        topology: &Topology,
        id: TaskId,
        inputs: Vec<TopicPartition>,
        stores: Stores,
        environment: &TaskEnvironment,
        now_ms: i64,
    ) -> Result<Self, StreamsError> {
        let failed = |error: ProcessError| StreamsError::Task {
            task: id.to_string(),
            error,
        };
        let graph = &topology.graph;
        let Some(subtopology) = graph.subtopology(id.subtopology) else {
            return Err(StreamsError::Other(format!(
                "task {id}: the topology has no sub-topology {}",
                id.subtopology
            )));
        };
        let application_id = &environment.application_id;

        // Stores, upstream first: their caches are flushed in this order.
        let mut caches = TaskCaches::new(&environment.cache);
        let mut built_stores = BTreeMap::new();
        let mut changelogs = Vec::new();
        for declared in graph.stores_of(&subtopology) {
            let topic = changelog_topic(application_id, declared.name());
            let mut changelog = None;
            if declared.is_logged() {
                let handle = environment
                    .collector
                    .borrow_mut()
                    .producer_mut()
                    .topic(&topic)?;
                let sink = CollectorChangelog {
                    collector: Rc::clone(&environment.collector),
                    topic: handle,
                    partition: id.partition,
                };
                changelog = Some(Box::new(sink) as Box<dyn ChangelogSink>);
                let partition = TopicPartition::new(topic.as_str(), id.partition);
                changelogs.push(TaskChangelog {
                    store: declared.name().to_owned(),
                    partition,
                    handle,
                });
            }
            let site = StoreSite {
                stores: &stores,
                changelog_topic: topic.into(),
                changelog,
                caches: &mut caches,
            };
            built_stores.insert(
                declared.name().to_owned(),
                declared.builder.build(site).map_err(failed)?,
            );
        }

        // Nodes, children first: a child that two parents share is one.
        let source_by_topic = graph.source_by_topic(application_id);
        let mut links: Vec<Option<Box<dyn Any>>> = graph.nodes.iter().map(|_| None).collect();
        let mut nodes: Vec<Option<Rc<RefCell<dyn NodeCell>>>> =
            graph.nodes.iter().map(|_| None).collect();
        let mut queues: Vec<(TopicPartition, Box<dyn InputQueue>)> = Vec::new();
        let mut output_topics = Vec::new();
        for index in subtopology.nodes.iter().rev() {
            let node = graph.node(*index);
            let children = node
                .children
                .iter()
                .filter_map(|child| links.get(*child)?.as_deref())
                .collect();
            let topic = match &node.kind {
                NodeKind::Sink {
                    topic: Some(topic), ..
                } => Some(graph.cluster_topic(application_id, topic)),
                _ => None,
            };
            if let Some(topic) = &topic {
                output_topics.push(
                    environment
                        .collector
                        .borrow_mut()
                        .producer_mut()
                        .topic(topic)?,
                );
            }
            let site = NodeSite {
                name: &node.name,
                index: *index,
                children,
                collector: &environment.collector,
                topic,
            };
            match &node.kind {
                NodeKind::Source { build, .. } => {
                    let partitions: Vec<TopicPartition> = inputs
                        .iter()
                        .filter(|input| source_by_topic.get(&input.topic) == Some(index))
                        .cloned()
                        .collect();
                    let built = build.build(site, &partitions).map_err(failed)?;
                    queues.extend(partitions.into_iter().zip(built.queues));
                }
                NodeKind::Processor { build } | NodeKind::Sink { build, .. } => {
                    let built = build.build(site).map_err(failed)?;
                    if let (Some(link), Some(cell)) = (links.get_mut(*index), nodes.get_mut(*index))
                    {
                        *link = Some(built.link);
                        *cell = Some(built.cell);
                    }
                }
            }
        }
        output_topics.extend(changelogs.iter().map(|changelog| changelog.handle));

        let mut ordered = Vec::with_capacity(inputs.len());
        for partition in inputs {
            let Some(place) = queues.iter().position(|(of, _)| *of == partition) else {
                return Err(StreamsError::Other(format!(
                    "task {id}: {partition} is no input of sub-topology {}",
                    id.subtopology
                )));
            };
            let (_, queue) = queues.swap_remove(place);
            ordered.push(Input {
                partition,
                queue,
                head: None,
                idle_until_ms: None,
                committed: None,
            });
        }

        let mut context = TaskContext::new(id, environment.settings.processing_error, now_ms);
        context.production_error = environment.settings.production_error;
        let mut setup = TaskSetup {
            context,
            stores: built_stores,
            globals: environment.globals.clone(),
            connected: Vec::new(),
        };
        for (index, node) in nodes.iter().enumerate() {
            if let Some(node) = node {
                setup.connected.clone_from(&graph.node(index).stores);
                node.borrow_mut().init(&mut setup).map_err(failed)?;
            }
        }
        Ok(Self {
            id,
            settings: environment.settings.clone(),
            context: setup.context,
            inputs: ordered,
            nodes,
            names: graph
                .nodes
                .iter()
                .map(|node| Arc::clone(&node.name))
                .collect(),
            caches,
            stores,
            built_stores: setup.stores,
            changelogs,
            output_topics,
            is_closed: false,
        })
    }

    /// Where to begin with an input, and what was committed with that offset (the partition's time, as Kafka Streams encodes it).
    pub fn set_position(&mut self, input: usize, offset: i64, metadata: &str) {
        if let Some(input) = self.inputs.get_mut(input) {
            let (partition_time, operator_times) =
                offset_metadata::decode(metadata).unwrap_or((-1, Vec::new()));
            // Each input has those of its own last commit: the latest is the highest.
            for (node, time) in operator_times {
                let known = &self.context.operator_times;
                if let Some((_, own)) = known.iter().find(|(name, _)| **name == *node) {
                    own.set(own.get().max(time));
                }
            }
            input.queue.raw_mut().begin_at(offset, partition_time);
            // What we commit has metadata. Without it this is where a reset policy says to begin, which is to be committed.
            input.committed = (!metadata.is_empty()).then(|| input.progress());
            self.context.stream_time = self.context.stream_time.max(partition_time);
        }
    }

    /// Adds what was fetched of an input, in order.
    ///
    /// # Errors
    /// When the batches are malformed.
    pub fn add_fetched(&mut self, input: usize, fetched: Fetched) -> Result<(), StreamsError> {
        let Some(Input {
            queue, partition, ..
        }) = self.inputs.get_mut(input)
        else {
            return Err(StreamsError::Other(format!(
                "task {} has no input {input}",
                self.id
            )));
        };
        let Fetched {
            batches,
            next_offset,
            end_offset,
            ..
        } = fetched;
        queue
            .raw_mut()
            .push(batches, next_offset, end_offset)
            .map_err(|error| StreamsError::Process {
                task: self.id.to_string(),
                topic: partition.topic.to_string(),
                partition: partition.partition,
                offset: next_offset,
                error: error.into(),
            })
    }

    /// Takes at most `records_max` records, and stops earlier when none may be taken yet or someone asked for a commit. Says how many.
    ///
    /// # Errors
    /// The first record that the handlers do not let pass. The task is not to be used any further, nor committed.
    pub fn process(&mut self, now_ms: i64, records_max: usize) -> Result<usize, StreamsError> {
        self.context.now_ms = now_ms;
        let mut taken = 0;
        self.between_records()?;
        while taken < records_max
            && !self.context.commit_requested
            && self.context.held_records == 0
        {
            let Some((chosen, timestamp_max)) = self.choose(now_ms)? else {
                break;
            };
            let Some(input) = self.inputs.get_mut(chosen) else {
                break;
            };
            let limits = RunLimits {
                timestamp_max,
                records_max: records_max - taken,
                settings: &self.settings,
                caches: &self.caches,
            };
            taken += input.queue.run(&limits, &mut self.context)?;
            input.head = input.queue.head_timestamp(&mut self.context)?;
            self.between_records()?;
        }
        Ok(taken)
    }

    /// Calls wall-clock punctuations that are due; says whether there were any.
    ///
    /// # Errors
    /// As [`Task::process`].
    pub fn punctuate(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        self.context.now_ms = now_ms;
        let called = self.call_due(PunctuationType::WallClockTime, now_ms)?;
        if called {
            self.between_records()?;
        }
        Ok(called)
    }

    /// First step of a commit: writes and emits what the record cache holds.
    ///
    /// # Errors
    /// As [`Task::process`].
    pub fn flush(&mut self, now_ms: i64) -> Result<(), StreamsError> {
        self.context.now_ms = now_ms;
        let result = self.caches.flush(&mut self.context);
        self.context.metadata = None;
        result.map_err(|error| self.failed(error))
    }

    /// Offsets that changed since the last commit, to be committed once all output is acknowledged.
    pub fn offsets_to_commit(&self) -> Vec<(TopicPartition, CommittedOffset)> {
        let times = &self.context.operator_times;
        self.inputs
            .iter()
            .filter(|input| input.committed != Some(input.progress()))
            .map(|input| {
                let (offset, partition_time) = input.progress();
                let metadata = offset_metadata::encode(partition_time, times);
                (
                    input.partition.clone(),
                    CommittedOffset { offset, metadata },
                )
            })
            .collect()
    }

    /// Last step of a commit, once the offsets are committed: makes the stores' changes durable, with the changelog offsets they stand for.
    ///
    /// # Errors
    /// When a store cannot be written.
    pub fn commit_stores(&mut self, positions: &Positions) -> Result<(), StreamsError> {
        self.stores
            .commit(positions)
            .map_err(|error| StreamsError::Task {
                task: self.id.to_string(),
                error: error.into(),
            })?;
        for input in &mut self.inputs {
            input.committed = Some(input.progress());
        }
        self.context.commit_requested = false;
        Ok(())
    }

    /// Ends the task: processors are closed in topological order, and let go of their stores. Nothing is committed.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        for node in self.nodes.iter().flatten() {
            node.borrow_mut().close();
        }
        for input in &mut self.inputs {
            input.queue.close();
        }
    }

    /// The task's name.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Its input partitions; their places are the numbers that other methods take.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &TopicPartition> {
        self.inputs.iter().map(|input| &input.partition)
    }

    /// Records of an input that wait here. The runtime stops to fetch above `buffered.records.per.partition`.
    pub fn input_buffered(&self, input: usize) -> usize {
        self.inputs
            .get(input)
            .map_or(0, |input| input.queue.raw().buffered)
    }

    /// The offset to go on from: everything below is processed.
    pub fn position(&self, input: usize) -> Option<i64> {
        self.inputs
            .get(input)
            .map(|input| input.queue.raw().position())
    }

    /// Whether a processor asked for a commit, or the stores hold too much that is not committed.
    pub fn wants_commit(&self) -> bool {
        let uncommitted_bytes = self.uncommitted_bytes();
        self.context.commit_requested
            || (uncommitted_bytes > 0 && uncommitted_bytes >= self.settings.uncommitted_bytes_max)
    }

    /// Bytes that the next commit writes.
    pub fn uncommitted_bytes(&self) -> usize {
        self.stores.uncommitted_bytes()
    }

    /// The topic of a sink that records are held back for, because the cluster does not know it (yet). Until it does the task takes no
    /// records, and must not be committed.
    pub fn is_blocked(&self) -> Option<Arc<str>> {
        self.nodes
            .iter()
            .flatten()
            .find_map(|node| node.borrow().held_for())
    }

    /// When the next wall-clock punctuation is due, in milliseconds since the epoch.
    pub fn next_wall_clock_punctuation(&self) -> Option<i64> {
        self.context
            .punctuations
            .next_due(PunctuationType::WallClockTime)
    }

    /// When an input that is waited for (`max.task.idle.ms` above zero) is waited for no longer.
    pub fn idle_until_ms(&self, now_ms: i64) -> Option<i64> {
        self.inputs
            .iter()
            .filter_map(|input| input.idle_until_ms)
            .filter(|until_ms| *until_ms > now_ms)
            .min()
    }

    /// Topics with fixed names that the task writes, changelogs included: processing begins once the producer knows their partitions.
    pub fn output_topics(&self) -> &[TopicHandle] {
        &self.output_topics
    }

    /// Where its stores' changes go.
    pub fn changelogs(&self) -> &[TaskChangelog] {
        &self.changelogs
    }

    /// Records dropped so far.
    pub fn dropped(&self) -> &DroppedRecords {
        &self.context.dropped
    }

    /// Highest event time taken, in milliseconds; -1 before the first record.
    pub fn stream_time(&self) -> i64 {
        self.context.stream_time
    }

    /// How many records each node has taken (`process-total`), sources first, by name.
    pub fn processed(&self) -> Vec<(Arc<str>, u64)> {
        let name = |index: usize| {
            self.names
                .get(index)
                .cloned()
                .unwrap_or_else(|| Arc::from(""))
        };
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for input in &self.inputs {
            *counts.entry(input.queue.node()).or_default() += input.queue.processed();
        }
        for (index, node) in self.nodes.iter().enumerate() {
            counts.extend(node.as_ref().map(|node| (index, node.borrow().processed())));
        }
        counts
            .into_iter()
            .map(|(index, count)| (name(index), count))
            .collect()
    }

    /// The stores' bytes: positions, snapshots, restoration.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// As [`Task::stores`], to be changed.
    pub fn stores_mut(&mut self) -> &mut Stores {
        &mut self.stores
    }

    /// The stores with their types, by name.
    pub fn built_stores(&self) -> &BTreeMap<String, BuiltStore> {
        &self.built_stores
    }

    /// The task's context, for reading stores from outside of processing.
    pub(crate) fn context_mut(&mut self) -> &mut TaskContext {
        &mut self.context
    }

    /// The input to take from, and the event time up to which it stays the one: heads are taken in order of event time, and among equal
    /// ones in order of inputs. `None`: nothing is there, or an input must be waited for.
    fn choose(&mut self, now_ms: i64) -> Result<Option<(usize, i64)>, StreamsError> {
        let mut chosen: Option<(i64, usize)> = None;
        let mut missing = false;
        for (place, input) in self.inputs.iter_mut().enumerate() {
            if input.head.is_none() {
                input.head = input.queue.head_timestamp(&mut self.context)?;
            }
            match input.head {
                None => missing = true,
                Some(head) => {
                    chosen = Some(chosen.map_or((head, place), |least| least.min((head, place))))
                }
            }
        }
        let Some((_, chosen)) = chosen else {
            return Ok(None);
        };
        if missing && self.waits_for_input(now_ms) {
            return Ok(None);
        }
        let mut timestamp_max = i64::MAX;
        for (place, input) in self.inputs.iter().enumerate() {
            match input.head {
                Some(head) if place < chosen => timestamp_max = timestamp_max.min(head - 1),
                Some(head) if place > chosen => timestamp_max = timestamp_max.min(head),
                _ => {}
            }
        }
        Ok(Some((chosen, timestamp_max)))
    }

    /// Whether an empty input must be waited for (KIP-353, KIP-695).
    fn waits_for_input(&mut self, now_ms: i64) -> bool {
        let idle_max_ms = self.settings.task_idle_max_ms;
        if idle_max_ms < 0 {
            return false;
        }
        let mut waits = false;
        for input in &mut self.inputs {
            if input.head.is_some() || !input.queue.raw().is_caught_up() {
                input.idle_until_ms = None;
                waits |= input.head.is_none();
                continue;
            }
            let until = *input
                .idle_until_ms
                .get_or_insert(now_ms.saturating_add(idle_max_ms));
            waits |= now_ms < until;
        }
        waits
    }

    /// What may happen between two records, in this order: evictions, stream-time punctuations, sending of what sinks held back.
    fn between_records(&mut self) -> Result<(), StreamsError> {
        self.evict()?;
        if self.context.stream_time >= self.context.punctuations.stream_due_ms {
            self.call_due(PunctuationType::StreamTime, self.context.stream_time)?;
            self.evict()?;
        }
        if self.context.held_records > 0 {
            for node in self.nodes.iter().flatten() {
                let result = node.borrow_mut().retry_held(&mut self.context);
                result.map_err(|error| StreamsError::Task {
                    task: self.id.to_string(),
                    error,
                })?;
            }
        }
        Ok(())
    }

    fn evict(&mut self) -> Result<(), StreamsError> {
        if self.caches.wants_eviction() {
            let result = self.caches.evict(&mut self.context);
            self.context.metadata = None;
            result.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn call_due(&mut self, kind: PunctuationType, time_ms: i64) -> Result<bool, StreamsError> {
        let mut called = false;
        while let Some((punctuation, node)) = self.context.punctuations.take_due(kind, time_ms) {
            called = true;
            self.context.metadata = None;
            self.context.record_timestamp = time_ms;
            let Some(node) = self.nodes.get(node).cloned().flatten() else {
                continue;
            };
            let result = node
                .borrow_mut()
                .punctuate(punctuation, time_ms, &mut self.context);
            if let Err(error) = result {
                let handled = self.context.handle(
                    self.settings.processing_error,
                    DropReason::Processing,
                    error,
                );
                handled.map_err(|error| self.failed(error))?;
            }
        }
        Ok(called)
    }

    fn failed(&self, error: ProcessError) -> StreamsError {
        StreamsError::Task {
            task: self.id.to_string(),
            error,
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.close();
    }
}

impl Input {
    /// Offset and partition time, as they would be committed.
    fn progress(&self) -> (i64, i64) {
        let raw = self.queue.raw();
        (raw.position(), raw.partition_time)
    }
}
