//! One stream thread: polls its clients, restores and runs its tasks, commits. [`StreamThread::step`] does one round of that and never
//! waits, so that a thread, a test and a simulation drive the same code.
//!
//! ## The order of a commit (at least once)
//! 1. The tasks flush their record caches: store writes, changelog records and what goes downstream.
//! 2. The producer flushes; all output is acknowledged.
//! 3. The input offsets are committed and acknowledged.
//! 4. Each task's stores are written, together with the changelog positions that step 2 acknowledged.
//!
//! Exactly once, steps 2 and 3 are one transaction; see `stream_thread/exactly_once.rs` and `transaction.rs`.
//!
//! A crash between any two steps leaves stores behind offsets and changelogs, never ahead: what is missing is restored. Nothing is
//! processed while a commit is on its way; it is short, and every position of the tasks stands for one moment.

mod exactly_once;
mod opening;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use brooklet_state_stores::{
    Backend, Positions, PreparedStores, RestoredRecord, StoreError, StoreSpec, Stores,
};

use crate::cache::ThreadCache;
use crate::client::record_batch::{BatchCursor, RecordPlace};
use crate::client::{
    Admin, AdminRequest, AdminResponse, ClientError, ClientErrorKind, CommittedOffset, Completion,
    Consumer, Fetched, OffsetSpec, Producer, RequestId, Slot, TopicHandle, TopicId, TopicPartition,
};
use crate::error::StreamsError;
use crate::fault;
use crate::processor::DropReason;
use crate::task::{
    ErrorResponse, GlobalStores, RecordCollector, SharedCollector, StreamSettings, Task,
    TaskEnvironment,
};
use crate::topology::{AutoOffsetReset, TaskId};

use super::application::Application;
use super::metrics::ThreadMetrics;
use super::requests::Requests;
use super::restore::{self, Held, RebuildReason, Restoration};
use exactly_once::ExactlyOnce;
use opening::Reopening;

/// From so many missing records on, the stores of a task are restored in bulk.
/// Crash tests restore little, and in bulk all the same.
const BULK_RECORDS_MIN: i64 = if cfg!(feature = "fault-points") {
    100
} else {
    100_000
};

const UNCOMMITTED_END: OffsetSpec = OffsetSpec::Latest {
    read_committed: false,
};

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Something was done: step again at once.
    pub(crate) progressed: bool,
    /// Otherwise: step again at this time, in milliseconds, or when the waker is called.
    pub(crate) wake_at_ms: i64,
}

/// A task's place in its life.
enum State {
    /// Its stores are being filled from their changelogs.
    Restoring(Stores),
    /// Its stores are being deleted and opened, to be restored from the beginning.
    Emptying(Reopening),
    /// It processes. A global task only keeps its stores up to date.
    Running(Box<Task>),
    /// It was closed, or is between the two states above.
    Closed,
}

/// A store's changelog while it is restored.
struct Changelog {
    store: String,
    slot: Option<Slot>,
    position: i64,
    end: i64,
}

struct Input {
    partition: TopicPartition,
    start: CommittedOffset,
    /// Our own topic: what is committed is deleted from time to time.
    repartition: bool,
    slot: Option<Slot>,
    paused: bool,
    /// Of a global task: where the partition ended when the thread began; tasks wait until it is reached.
    load_to: i64,
}

struct ThreadTask {
    id: TaskId,
    global: bool,
    /// All of its stores are on disk.
    durable: bool,
    state: State,
    inputs: Vec<Input>,
    changelogs: Vec<Changelog>,
}

#[derive(Clone, Copy)]
enum Route {
    Input { task: usize, input: usize },
    Changelog { task: usize, changelog: usize },
}

#[derive(Default)]
enum Commit {
    #[default]
    Idle,
    /// Caches are flushed; output is on its way.
    Producing { since_ms: i64 },
    /// Offsets are on their way; without a request while it is not settled as whom to commit.
    Offsets {
        since_ms: i64,
        request: Option<RequestId>,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
    },
    /// Exactly once: a transaction is being ended, or undone.
    Transaction {
        since_ms: i64,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
    },
}

/// What the thread is told about one of its tasks.
#[derive(Clone)]
pub(crate) struct Assigned {
    pub(crate) id: TaskId,
    pub(crate) inputs: Vec<AssignedInput>,
    /// Keeps global stores up to date, a copy in each thread, from all partitions.
    pub(crate) global: bool,
}

/// An input partition, and where to begin.
#[derive(Clone)]
pub(crate) struct AssignedInput {
    pub(crate) partition: TopicPartition,
    pub(crate) start: CommittedOffset,
    pub(crate) repartition: bool,
}

/// One stream thread's state. See the module's comment.
pub(crate) struct StreamThread {
    application: Arc<Application>,
    metrics: Arc<ThreadMetrics>,
    name: String,
    /// From one; part of the transactional id.
    number: usize,
    consumer: Box<dyn Consumer>,
    admin: Box<dyn Admin>,
    collector: SharedCollector,
    cache: Rc<ThreadCache>,
    globals: GlobalStores,
    waker: Waker,
    tasks: Vec<ThreadTask>,
    routes: HashMap<Slot, Route>,
    commit: Commit,
    exactly_once: Option<ExactlyOnce>,
    last_commit_ms: i64,
    last_purge_ms: i64,
    uncommitted: bool,
    stopping: bool,
    /// Acknowledged end offset of each partition written to, exclusive.
    acknowledged: HashMap<(TopicHandle, i32), i64>,
    fetched: Vec<Fetched>,
    completions: Vec<Completion>,
    answers: Vec<(RequestId, Result<AdminResponse, ClientError>)>,
}

impl StreamThread {
    /// Takes on the tasks, opens their stores and begins to restore them. Exactly once, `producer` is initialised.
    pub(crate) fn new(
        application: Arc<Application>,
        metrics: Arc<ThreadMetrics>,
        name: &str,
        number: usize,
        waker: Waker,
        assigned: Vec<Assigned>,
        producer: Option<Box<dyn Producer>>,
    ) -> Result<Self, StreamsError> {
        let config = &application.config;
        let consumer = application.consumer(&format!("{name}-consumer"))?;
        let exactly_once = producer.is_some().then(|| {
            let own = assigned.iter().filter(|task| !task.global);
            ExactlyOnce::new(own.cloned().collect())
        });
        let producer = match producer {
            Some(initialized) => initialized,
            None => application.producer(&format!("{name}-producer"), None)?,
        };
        let collector = RecordCollector::new(producer);
        let admin = application.cluster.admin()?;
        let now_ms = application.clock.now_ms();
        let tasks = assigned.iter().filter(|task| !task.global).count();
        metrics.tasks.store(tasks as u64, Ordering::Relaxed);
        tracing::info!(thread = name, tasks, "stream thread starts");
        let cache_bytes = config.cache_bytes_max / config.stream_threads;
        let mut thread = Self {
            cache: ThreadCache::new(
                cache_bytes,
                config.processing_handler == ErrorResponse::Continue,
            ),
            globals: GlobalStores::default(),
            metrics,
            name: name.to_owned(),
            number,
            consumer,
            admin,
            collector,
            waker,
            tasks: Vec::new(),
            routes: HashMap::new(),
            commit: Commit::Idle,
            exactly_once,
            last_commit_ms: now_ms,
            last_purge_ms: now_ms,
            uncommitted: false,
            stopping: false,
            acknowledged: HashMap::new(),
            fetched: Vec::new(),
            completions: Vec::new(),
            answers: Vec::new(),
            application,
        };
        let mut requests = thread.application.requests()?;
        let opening = Opening::new(&thread.application, name, assigned, &mut requests)?;
        thread.open_tasks(opening, now_ms)?;
        Ok(thread)
    }

    fn open_tasks(&mut self, opening: Opening, now_ms: i64) -> Result<(), StreamsError> {
        let Opening { tasks, logs } = opening;
        // Global tasks come first: the others look their stores up.
        for (task, prepared) in tasks {
            self.open_task(task, prepared, &logs, now_ms)?;
        }
        Ok(())
    }

    /// One round. Never waits.
    ///
    /// # Errors
    /// What ends the thread: its tasks are then where their last commit left them.
    pub(crate) fn step(&mut self, now_ms: i64) -> Result<Step, StreamsError> {
        let progressed = match self.round(now_ms) {
            Ok(progressed) => progressed,
            Err(error) if self.exactly_once.is_some() => {
                self.recover(error, now_ms)?;
                true
            }
            Err(error) => return Err(error),
        };
        Ok(Step {
            progressed,
            wake_at_ms: self.wake_at_ms(now_ms),
        })
    }

    fn round(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        let mut progressed = self.poll_producer(now_ms)?;
        progressed |= match self.exactly_once {
            Some(_) => self.advance_transaction(now_ms)?,
            None => self.advance_commit(now_ms)?,
        };
        // While a commit is on its way the tasks stand still: what it writes stands for one moment.
        if matches!(self.commit, Commit::Idle) {
            progressed |= self.poll_emptying(now_ms)?;
            progressed |= self.poll_consumer(now_ms)?;
            if !self.stopping {
                progressed |= self.process(now_ms)?;
            }
            if self.commit_due(now_ms) {
                self.begin_commit(now_ms)?;
                progressed = true;
            }
        }
        Ok(progressed)
    }

    /// Asks for a last commit; [`StreamThread::stopped`] says when it is through.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether everything is committed after [`StreamThread::stop`].
    pub(crate) fn stopped(&self) -> bool {
        // Output that is held back is not waited for: it is produced again by the next life.
        let settled = !self.uncommitted || self.exactly_once.is_some() && self.is_any_blocked();
        self.stopping && matches!(self.commit, Commit::Idle) && settled
    }

    /// Whether every task processes.
    pub(crate) fn restored(&self) -> bool {
        self.tasks
            .iter()
            .all(|task| matches!(task.state, State::Running(_)))
            && self.globals_loaded()
    }

    /// Closes tasks and stores. What is not committed is dropped, to be processed again.
    pub(crate) fn close(mut self) -> Result<(), StreamsError> {
        for task in &mut self.tasks {
            if let State::Running(mut task) = std::mem::replace(&mut task.state, State::Closed) {
                task.close();
            }
        }
        tracing::info!(thread = self.name, "stream thread stopped");
        Ok(())
    }

    /// Whether deleting the stores of a task loses nothing: all that are on disk have a changelog.
    fn is_restorable(&self, id: TaskId, global: bool) -> bool {
        let application = &self.application;
        let changelogs = application
            .topology
            .changelogs(&application.config.application_id, id.subtopology);
        let has_changelog = |spec: &StoreSpec| {
            spec.backend != Backend::RocksDb
                || changelogs
                    .iter()
                    .any(|changelog| changelog.store == spec.name)
        };
        let specs = application.topology.store_specs(id.subtopology);
        global || specs.iter().all(has_changelog)
    }

    /// Opens a task's stores, and decides for each what is to be restored.
    fn open_task(
        &mut self,
        assigned: Assigned,
        prepared: Result<PreparedStores, StoreError>,
        logs: &Logs,
        now_ms: i64,
    ) -> Result<(), StreamsError> {
        let directory = store_directory(&self.application, &self.name, &assigned);
        let Assigned { id, inputs, global } = assigned;
        let application = Arc::clone(&self.application);
        let specs = application.topology.store_specs(id.subtopology);
        let mut stores = match prepared.and_then(PreparedStores::open) {
            // Only where nothing is lost by it.
            Err(error @ StoreError::Corrupt { .. }) if self.is_restorable(id, global) => {
                tracing::warn!(task = %id, %error, "stores are damaged: they are deleted, and rebuilt from their changelogs");
                Stores::delete(&directory)?;
                Stores::open(Some(&directory), &specs, &application.memory)?
            }
            opened => opened?,
        };
        let task = self.tasks.len();
        let mut restoring = Vec::new();
        if !global {
            (stores, restoring) = self.begin_restoration(task, id, stores, logs, now_ms)?;
        }
        if global {
            let does_not_fit = |partition: &TopicPartition| {
                let held = Held {
                    position: global_position(&stores, partition),
                    ahead: None,
                    is_of_other_topic: logs.is_other(&stores, &partition.topic, partition),
                };
                let decision = restore::decide(held, logs.start(partition), logs.end(partition));
                matches!(decision, Restoration::Rebuild { .. })
            };
            let mut partitions = inputs.iter().map(|input| &input.partition);
            if let Some(partition) = partitions.find(|partition| does_not_fit(partition)) {
                tracing::warn!(task = %id, %partition, "global store is loaded anew: what it holds does not fit its topic");
                drop(stores);
                Stores::delete(&directory)?;
                stores = Stores::open(Some(&directory), &specs, &application.memory)?;
            }
            let topics = inputs.iter().map(|input| &input.partition);
            logs.keep_ids(&mut stores, topics.map(|at| (&*at.topic, at)))?;
        }
        let inputs = inputs
            .into_iter()
            .map(|input| Input {
                load_to: match global {
                    true => logs.end(&input.partition),
                    false => 0,
                },
                partition: input.partition,
                start: input.start,
                repartition: input.repartition,
                slot: None,
                paused: false,
            })
            .collect();
        let durable = specs.iter().all(|spec| spec.backend == Backend::RocksDb);
        self.tasks.push(ThreadTask {
            id,
            global,
            durable,
            state: State::Restoring(stores),
            inputs,
            changelogs: restoring,
        });
        self.run_when_restored(task, now_ms)
    }

    /// Decides for each store of a task what is to be restored, and begins to fetch it.
    fn begin_restoration(
        &mut self,
        task: usize,
        id: TaskId,
        mut stores: Stores,
        logs: &Logs,
        now_ms: i64,
    ) -> Result<(Stores, Vec<Changelog>), StreamsError> {
        let mut decisions = Vec::new();
        for (store, partition) in changelogs(&self.application, id, false) {
            let (start, end) = (logs.start(&partition), logs.end(&partition));
            let held = Held {
                position: stores.positions().offset(&store),
                ahead: stores.ahead(&store),
                is_of_other_topic: logs.is_other(&stores, &store, &partition),
            };
            let decision = restore::decide(held, start, end);
            decisions.push((store, partition, decision, end));
        }
        if let Some((store, reason)) =
            decisions
                .iter()
                .find_map(|(store, _, decision, _)| match decision {
                    Restoration::Rebuild { reason, .. } => Some((store, reason)),
                    _ => None,
                })
        {
            let why = match reason {
                RebuildReason::BehindLogStart => "its changelog no longer has what it lacks",
                RebuildReason::BeyondEnd => {
                    "its changelog ends before what it holds: the cluster or the topic was created anew"
                }
                RebuildReason::OtherTopic => {
                    "its changelog is another topic than the one it was written with: the cluster or the topic was created anew"
                }
                RebuildReason::Begun => "its first restoration was cut off",
            };
            tracing::warn!(task = %id, store, "store is rebuilt from its changelog: {why}");
            self.check_restorable(id)?;
            drop(stores);
            let (directory, specs) = (
                self.application.state.task(id),
                self.application.topology.store_specs(id.subtopology),
            );
            Stores::delete(&directory)?;
            stores = Stores::open(Some(&directory), &specs, &self.application.memory)?;
            for (_, partition, decision, end) in &mut decisions {
                *decision = restore::decide(Held::default(), logs.start(partition), *end);
            }
        }
        let changelogs = decisions.iter();
        logs.keep_ids(
            &mut stores,
            changelogs.map(|(store, partition, ..)| (store.as_str(), partition)),
        )?;
        let missing = |decision: Restoration, end: i64| match decision {
            Restoration::Complete => 0,
            Restoration::From(from) | Restoration::Rebuild { from, .. } => end - from,
        };
        // All of a task or none.
        let is_bulk = decisions
            .iter()
            .any(|(_, _, decision, end)| missing(*decision, *end) >= BULK_RECORDS_MIN);
        let mut restoring = Vec::new();
        for (store, partition, decision, end) in decisions {
            let from = match decision {
                Restoration::Complete => {
                    if stores.positions().offset(&store).is_none() {
                        let mut positions = Positions::default();
                        positions.set_offset(&store, end);
                        stores.commit(&positions)?;
                    }
                    continue;
                }
                Restoration::From(from) | Restoration::Rebuild { from, .. } => from,
            };
            tracing::info!(task = %id, store, records = end - from, "restoring from {partition}");
            if is_bulk {
                stores.begin_bulk(&store)?;
            }
            let records = u64::try_from(end - from).unwrap_or(0);
            self.metrics
                .restore_remaining
                .fetch_add(records, Ordering::Relaxed);
            self.application.restoration.add(records, now_ms);
            let slot = self.consumer.add(&partition, from)?;
            self.routes.insert(
                slot,
                Route::Changelog {
                    task,
                    changelog: restoring.len(),
                },
            );
            restoring.push(Changelog {
                store,
                slot: Some(slot),
                position: from,
                end,
            });
        }
        Ok((stores, restoring))
    }

    /// The stores of a task are in one database, which is about to be deleted.
    fn check_restorable(&self, id: TaskId) -> Result<(), StreamsError> {
        if self.is_restorable(id, false) {
            return Ok(());
        }
        Err(StreamsError::Other(format!(
            "task {id}: a store is to be rebuilt from its changelog, and another in its database has none: delete {} to go on without what that one holds",
            self.application.state.task(id).display()
        )))
    }

    /// Restores the stores of a task from the beginning: a changelog no longer has what was to be fetched of it next.
    fn restore_anew(&mut self, index: usize, now_ms: i64) -> Result<(), StreamsError> {
        let Some(task) = self.tasks.get_mut(index) else {
            return Ok(());
        };
        let State::Restoring(stores) = std::mem::replace(&mut task.state, State::Closed) else {
            return Ok(());
        };
        drop(stores);
        let changelogs = std::mem::take(&mut task.changelogs);
        let inputs = task.inputs.iter().map(|input| AssignedInput {
            partition: input.partition.clone(),
            start: input.start.clone(),
            repartition: input.repartition,
        });
        let assigned = Assigned {
            id: task.id,
            inputs: inputs.collect(),
            global: false,
        };
        let (id, durable) = (task.id, task.durable);
        self.forget_changelogs(&changelogs, now_ms);
        self.check_restorable(id)?;
        let on_disk = durable.then(|| self.application.state.task(id));
        let emptying = self.reopen(None, on_disk.into_iter().collect(), vec![assigned])?;
        if let Some(task) = self.tasks.get_mut(index) {
            task.state = State::Emptying(emptying);
        }
        Ok(())
    }

    /// Begins to restore what was emptied.
    fn poll_emptying(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        let mut progressed = false;
        for index in 0..self.tasks.len() {
            let Some(task) = self.tasks.get_mut(index) else {
                continue;
            };
            let State::Emptying(emptying) = &task.state else {
                continue;
            };
            let Some(opening) = emptying.poll() else {
                continue;
            };
            task.state = State::Closed;
            progressed = true;
            let id = task.id;
            let Opening { tasks, logs } = opening.map_err(|error| self.abortable(error))?;
            for (assigned, prepared) in tasks {
                let stores = prepared?.open()?;
                let (stores, changelogs) =
                    self.begin_restoration(index, id, stores, &logs, now_ms)?;
                if let Some(task) = self.tasks.get_mut(index) {
                    for (input, from) in task.inputs.iter_mut().zip(assigned.inputs) {
                        input.start = from.start;
                    }
                    task.state = State::Restoring(stores);
                    task.changelogs = changelogs;
                }
            }
            self.run_when_restored(index, now_ms)?;
        }
        Ok(progressed)
    }

    /// Exactly once, what the cluster did not answer of a task is asked again after the transaction is undone and all tasks are opened anew.
    fn abortable(&self, error: StreamsError) -> StreamsError {
        if self.exactly_once.is_some() && exactly_once::client_error(&error).is_some() {
            return ClientError::new(ClientErrorKind::Abortable, error).into();
        }
        error
    }

    /// Fetches no more of these, and counts what was missing of them as missing no longer.
    fn forget_changelogs(&mut self, changelogs: &[Changelog], now_ms: i64) {
        for changelog in changelogs {
            let left = u64::try_from(changelog.end - changelog.position).unwrap_or(0);
            self.metrics
                .restore_remaining
                .fetch_sub(left, Ordering::Relaxed);
            self.application.restoration.forget(left, now_ms);
            if let Some(slot) = changelog.slot {
                self.consumer.remove(slot);
                self.routes.remove(&slot);
            }
        }
    }

    /// Turns a task whose stores are complete into a running one, and begins to fetch its inputs.
    fn run_when_restored(&mut self, index: usize, now_ms: i64) -> Result<(), StreamsError> {
        let Some(task) = self.tasks.get_mut(index) else {
            return Ok(());
        };
        if !matches!(task.state, State::Restoring(_))
            || task
                .changelogs
                .iter()
                .any(|changelog| changelog.slot.is_some())
        {
            return Ok(());
        }
        let State::Restoring(stores) = std::mem::replace(&mut task.state, State::Closed) else {
            return Ok(());
        };
        let config = &self.application.config;
        let environment = TaskEnvironment {
            application_id: config.application_id.as_str().into(),
            collector: Rc::clone(&self.collector),
            cache: Rc::clone(&self.cache),
            globals: self.globals.clone(),
            settings: StreamSettings {
                task_idle_max_ms: config.max_task_idle_ms,
                deserialization_error: config.deserialization_handler,
                processing_error: config.processing_handler,
                production_error: config.production_handler,
                uncommitted_bytes_max: usize::try_from(config.uncommitted_bytes_max)
                    .unwrap_or(usize::MAX),
            },
        };
        let partitions = task
            .inputs
            .iter()
            .map(|input| input.partition.clone())
            .collect();
        if task.global {
            // Each thread's copy knows its own place in the topic.
            for input in &mut task.inputs {
                let position = global_position(&stores, &input.partition);
                input.start = CommittedOffset {
                    offset: position.unwrap_or(input.start.offset),
                    metadata: String::new(),
                };
            }
        }
        // What the stores hold of their changelogs is acknowledged.
        let held: Vec<(String, i64)> = stores
            .positions()
            .offsets()
            .map(|(store, offset)| (store.to_owned(), offset))
            .collect();
        let mut running = Task::new(
            &self.application.topology,
            task.id,
            partitions,
            stores,
            &environment,
            now_ms,
        )?;
        for changelog in running.changelogs() {
            if let Some((_, offset)) = held.iter().find(|(store, _)| *store == changelog.store) {
                self.acknowledged
                    .insert((changelog.handle, changelog.partition.partition), *offset);
            }
        }
        for (number, input) in task.inputs.iter_mut().enumerate() {
            running.set_position(number, input.start.offset, &input.start.metadata);
            let slot = self.consumer.add(&input.partition, input.start.offset)?;
            input.slot = Some(slot);
            self.routes.insert(
                slot,
                Route::Input {
                    task: index,
                    input: number,
                },
            );
        }
        if task.global {
            self.globals.extend(
                running
                    .built_stores()
                    .iter()
                    .map(|(name, store)| (name.clone(), store.clone())),
            );
        }
        task.state = State::Running(Box::new(running));
        // Where a reset policy begins is committed as well.
        self.uncommitted = true;
        tracing::debug!(task = %task.id, "task runs");
        Ok(())
    }

    /// Whether the global stores hold what their topics held when the thread began.
    fn globals_loaded(&self) -> bool {
        self.tasks
            .iter()
            .filter(|task| task.global)
            .all(|task| match &task.state {
                State::Running(running) => task.inputs.iter().enumerate().all(|(number, input)| {
                    running
                        .position(number)
                        .is_some_and(|position| position >= input.load_to)
                }),
                State::Restoring(_) | State::Emptying(_) | State::Closed => false,
            })
    }

    fn poll_producer(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        self.collector.borrow_mut().producer_mut().poll(
            now_ms,
            &self.waker,
            &mut self.completions,
        )?;
        let progressed = !self.completions.is_empty();
        let given_up = self.is_given_up();
        let in_transaction = self.exactly_once.is_some();
        for completion in self.completions.drain(..) {
            let offset = match completion.result {
                Ok(offset) => offset,
                // Its transaction is undone.
                Err(_) if given_up => continue,
                // The record is not in the transaction, and cannot come into it behind those after it.
                Err(error) if in_transaction && error.kind == ClientErrorKind::Retriable => {
                    return Err(ClientError::new(ClientErrorKind::Abortable, error).into());
                }
                Err(error) => return Err(error.into()),
            };
            let end = self
                .acknowledged
                .entry((completion.topic, completion.partition))
                .or_insert(0);
            *end = (*end).max(offset + 1);
        }
        Ok(progressed)
    }

    fn poll_consumer(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        self.consumer.poll(now_ms, &self.waker, &mut self.fetched)?;
        let mut fetched = std::mem::take(&mut self.fetched);
        let progressed = !fetched.is_empty();
        // Behind the rest of what was fetched, which is of the slots as they are.
        let mut out_of_range = Vec::new();
        for fetched in fetched.drain(..) {
            match self.routes.get(&fetched.slot).copied() {
                Some(Route::Input { task, input }) => self.take_input(task, input, fetched)?,
                Some(Route::Changelog { task, changelog }) => {
                    let has_next = self.take_changelog(task, changelog, fetched, now_ms)?;
                    out_of_range.extend((!has_next).then_some(task));
                }
                // Removed since.
                None => {}
            }
        }
        self.fetched = fetched;
        for task in out_of_range {
            self.restore_anew(task, now_ms)?;
        }
        Ok(progressed)
    }

    fn take_input(
        &mut self,
        task: usize,
        number: usize,
        fetched: Fetched,
    ) -> Result<(), StreamsError> {
        let Some(ThreadTask {
            global,
            inputs,
            state: State::Running(running),
            ..
        }) = self.tasks.get_mut(task)
        else {
            return Ok(());
        };
        let Some(input) = inputs.get_mut(number) else {
            return Ok(());
        };
        match &fetched.error {
            None => {}
            Some(error) if error.kind == ClientErrorKind::Retriable => {
                tracing::debug!(partition = %input.partition, %error, "fetch will be retried");
                return Ok(());
            }
            Some(error) if error.kind == ClientErrorKind::OffsetOutOfRange => {
                let config = &self.application.config;
                let of_source = self
                    .application
                    .topology
                    .offset_reset(&config.application_id, &input.partition.topic);
                let reset = if *global {
                    AutoOffsetReset::Earliest
                } else {
                    of_source.unwrap_or(config.auto_offset_reset)
                };
                let spec = match reset {
                    AutoOffsetReset::Earliest => OffsetSpec::Earliest,
                    AutoOffsetReset::Latest => OffsetSpec::Latest {
                        read_committed: false,
                    },
                    AutoOffsetReset::None => return Err(StreamsError::Client(error.clone())),
                };
                let to = list_offsets(
                    &mut self.application.requests()?,
                    std::slice::from_ref(&input.partition),
                    spec,
                )?;
                let to = to.get(&input.partition).copied().unwrap_or(0);
                tracing::warn!(partition = %input.partition, %error, to, "position is outside of the log; it is reset as auto.offset.reset says");
                running.set_position(number, to, "");
                self.uncommitted = true;
                self.consumer.seek(fetched.slot, to);
                return Ok(());
            }
            Some(error) => return Err(StreamsError::Client(error.clone())),
        }
        // Also past control records and gaps, which nobody processes.
        self.uncommitted |= running
            .position(number)
            .is_some_and(|position| fetched.next_offset > position);
        running.add_fetched(number, fetched)?;
        if let Some(slot) = input.slot
            && !input.paused
            && running.input_buffered(number)
                > self.application.config.buffered_records_per_partition
        {
            input.paused = true;
            self.consumer.pause(slot);
        }
        Ok(())
    }

    /// Writes what arrived of a changelog into its store. Whether the changelog still has what comes next.
    fn take_changelog(
        &mut self,
        task: usize,
        number: usize,
        fetched: Fetched,
        now_ms: i64,
    ) -> Result<bool, StreamsError> {
        let Some(ThreadTask {
            id,
            changelogs,
            state: State::Restoring(stores),
            ..
        }) = self.tasks.get_mut(task)
        else {
            return Ok(true);
        };
        let Some(changelog) = changelogs.get_mut(number) else {
            return Ok(true);
        };
        match fetched.error {
            None => {}
            Some(error) if error.kind == ClientErrorKind::Retriable => return Ok(true),
            // Deleted since the thread asked where the changelog begins.
            Some(error) if error.kind == ClientErrorKind::OffsetOutOfRange => {
                tracing::warn!(task = %id, store = changelog.store, position = changelog.position, %error, "the changelog no longer has what is to be restored next: the task's stores are restored from the beginning");
                return Ok(false);
            }
            Some(error) => {
                return Err(StreamsError::Other(format!(
                    "task {id}, store {}: its changelog cannot be read at offset {}: {error}",
                    changelog.store, changelog.position
                )));
            }
        }
        let restored = restore_batches(stores, changelog, fetched)?;
        fault::point("restoring");
        self.metrics
            .restored_total
            .fetch_add(restored, Ordering::Relaxed);
        let remaining = &self.metrics.restore_remaining;
        let left = remaining.load(Ordering::Relaxed).saturating_sub(restored);
        remaining.store(left, Ordering::Relaxed);
        self.application.restoration.advance(restored, now_ms);
        if changelog.position >= changelog.end
            && let Some(slot) = changelog.slot.take()
        {
            stores.finish_bulk(&changelog.store)?;
            fault::point("restored");
            tracing::info!(task = %id, store = changelog.store, "restored");
            self.consumer.remove(slot);
            self.routes.remove(&slot);
            self.run_when_restored(task, now_ms)?;
        }
        Ok(true)
    }

    fn process(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        let config = &self.application.config;
        let loaded = self.globals_loaded();
        let mut processed = 0;
        let mut punctuated = false;
        for task in &mut self.tasks {
            let State::Running(running) = &mut task.state else {
                continue;
            };
            if !task.global && !loaded {
                continue;
            }
            if self.collector.borrow_mut().producer_mut().pending_bytes() > config.output_bytes_max
            {
                self.collector.borrow_mut().producer_mut().flush(now_ms);
                break;
            }
            if !task.global && !outputs_known(running, &self.collector) {
                continue;
            }
            let taken = running.process(now_ms, config.run_records_max)?;
            punctuated |= running.punctuate(now_ms)?;
            processed += taken;
            for (number, input) in task.inputs.iter_mut().enumerate() {
                if let Some(slot) = input.slot
                    && input.paused
                    && running.input_buffered(number) <= config.buffered_records_per_partition
                {
                    input.paused = false;
                    self.consumer.resume(slot);
                }
            }
        }
        self.uncommitted |= processed > 0 || punctuated;
        if processed > 0 {
            fault::point("processed");
            if self.exactly_once.is_some() && fault::undoes() {
                let kind = ClientErrorKind::Abortable;
                return Err(ClientError::new(kind, "a fault point").into());
            }
            self.metrics
                .process_total
                .fetch_add(processed as u64, Ordering::Relaxed);
        }
        Ok(processed > 0 || punctuated)
    }

    fn commit_due(&self, now_ms: i64) -> bool {
        let wants = |task: &ThreadTask| match &task.state {
            State::Running(running) => running.wants_commit() && running.is_blocked().is_none(),
            State::Restoring(_) | State::Emptying(_) | State::Closed => false,
        };
        // What it wrote is in the transaction, and where it has read is not certain: the transaction waits for it.
        if self.exactly_once.is_some() && self.is_any_blocked() {
            return false;
        }
        // A clock that was set back must not put commits off.
        let waiting = 0..self.commit_interval_ms();
        self.tasks.iter().any(wants)
            || self.uncommitted
                && (self.stopping || !waiting.contains(&(now_ms - self.last_commit_ms)))
    }

    /// The configured one. A task that waits for a topic is asked again now and then, and does not make commits of nothing all the time.
    fn commit_interval_ms(&self) -> i64 {
        let config = &self.application.config;
        let interval_ms = config.commit_interval_ms();
        if interval_ms < config.poll_ms && self.is_any_blocked() {
            return config.poll_ms;
        }
        interval_ms
    }

    fn is_any_blocked(&self) -> bool {
        self.tasks.iter().any(|task| match &task.state {
            State::Running(running) => running.is_blocked().is_some(),
            State::Restoring(_) | State::Emptying(_) | State::Closed => false,
        })
    }

    fn begin_commit(&mut self, now_ms: i64) -> Result<(), StreamsError> {
        for task in &mut self.tasks {
            if let State::Running(running) = &mut task.state {
                running.flush(now_ms)?;
            }
        }
        self.collector.borrow_mut().producer_mut().flush(now_ms);
        if self.exactly_once.is_some() {
            // What the caches sent on may be held back for a topic that is not known yet: the transaction waits for that.
            if self.is_any_blocked() {
                return Ok(());
            }
            return self.end_transaction(now_ms);
        }
        self.commit = Commit::Producing { since_ms: now_ms };
        self.advance_commit(now_ms).map(drop)
    }

    fn advance_commit(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        if let Commit::Producing { since_ms } = self.commit {
            self.poll_producer(now_ms)?;
            let pending = self.collector.borrow_mut().producer_mut().pending_records();
            if pending > 0 {
                return self.check_commit_time(since_ms, now_ms, || {
                    format!("{pending} records of output are not acknowledged")
                });
            }
            let mut offsets = Vec::new();
            for task in self.tasks.iter().filter(|task| !task.global) {
                if let State::Running(running) = &task.state
                    && running.is_blocked().is_none()
                {
                    offsets.extend(running.offsets_to_commit());
                }
            }
            if offsets.is_empty() {
                self.commit_stores(since_ms, now_ms, &offsets)?;
                return Ok(true);
            }
            self.commit = Commit::Offsets {
                since_ms,
                request: None,
                offsets,
            };
        }
        self.submit_offsets()?;
        self.admin.poll(now_ms, &self.waker, &mut self.answers);
        let mut answers = std::mem::take(&mut self.answers);
        let mut progressed = false;
        for (id, answer) in answers.drain(..) {
            let Commit::Offsets {
                since_ms,
                request,
                offsets,
            } = &mut self.commit
            else {
                continue;
            };
            if *request != Some(id) {
                // A purge of repartition topics; the next one deletes what this one could not.
                continue;
            }
            let since_ms = *since_ms;
            let offsets = std::mem::take(offsets);
            match answer {
                Ok(_) => {
                    progressed = true;
                    self.commit_stores(since_ms, now_ms, &offsets)?;
                }
                Err(error) if error.kind == ClientErrorKind::Retriable => {
                    tracing::warn!(thread = self.name, %error, "commit of offsets will be retried");
                    self.commit = Commit::Offsets {
                        since_ms,
                        request: None,
                        offsets,
                    };
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.answers = answers;
        if let Commit::Offsets { since_ms, .. } = self.commit {
            self.check_commit_time(since_ms, now_ms, || {
                "the offsets are not acknowledged".to_owned()
            })?;
        }
        Ok(progressed)
    }

    /// Whether the commit has taken longer than `task.timeout.ms`.
    fn check_commit_time(
        &self,
        since_ms: i64,
        now_ms: i64,
        state: impl FnOnce() -> String,
    ) -> Result<bool, StreamsError> {
        let limit_ms = self.application.config.task_timeout_ms;
        if now_ms - since_ms > limit_ms {
            return Err(StreamsError::Other(format!(
                "commit: {} after task.timeout.ms, {limit_ms} ms",
                state()
            )));
        }
        Ok(false)
    }

    /// Sends the offsets of the commit under way, unless they are sent or the group is not settled.
    fn submit_offsets(&mut self) -> Result<(), StreamsError> {
        let Commit::Offsets {
            request: request @ None,
            offsets,
            ..
        } = &mut self.commit
        else {
            return Ok(());
        };
        if let Some(member) = self.application.member(&self.waker)? {
            let group = self.application.config.application_id.clone();
            *request = Some(self.admin.submit(AdminRequest::CommitOffsets {
                group,
                member,
                offsets: offsets.clone(),
            }));
        }
        Ok(())
    }

    /// Last step of a commit: the stores take what the acknowledged offsets stand for.
    fn commit_stores(
        &mut self,
        since_ms: i64,
        now_ms: i64,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<(), StreamsError> {
        let (mut dropped, mut late) = (0, 0);
        let mut blocked = false;
        for task in &mut self.tasks {
            let State::Running(running) = &mut task.state else {
                continue;
            };
            if let Some(topic) = running.is_blocked() {
                tracing::warn!(task = %task.id, %topic, "not committed: the cluster does not know the topic that it writes to");
                blocked = true;
                continue;
            }
            let mut positions = Positions::default();
            for changelog in running.changelogs() {
                if let Some(end) = self
                    .acknowledged
                    .get(&(changelog.handle, changelog.partition.partition))
                {
                    positions.set_offset(&changelog.store, *end);
                }
            }
            // A store in memory is loaded from the start again.
            if task.durable && task.global {
                for (number, input) in task.inputs.iter().enumerate() {
                    if let Some(position) = running.position(number) {
                        positions.set_metadata(
                            input.partition.to_string(),
                            position.to_be_bytes().to_vec(),
                        );
                    }
                }
            }
            running.commit_stores(&positions)?;
            dropped += running.dropped().total();
            late += running.dropped().of(DropReason::Late);
        }
        // A step's time stands still, and an embedded commit may be over within one.
        let took_ms = u64::try_from(self.application.clock.now_ms() - since_ms).unwrap_or(0);
        self.metrics.dropped_total.store(dropped, Ordering::Relaxed);
        self.metrics.late_total.store(late, Ordering::Relaxed);
        self.metrics
            .commit_latency_ms_total
            .fetch_add(took_ms, Ordering::Relaxed);
        self.metrics
            .commit_latency_ms_max
            .fetch_max(took_ms, Ordering::Relaxed);
        self.metrics.commit_latencies.count(took_ms);
        self.metrics.commit_total.fetch_add(1, Ordering::Release);
        self.commit = Commit::Idle;
        // What a stop leaves uncommitted is processed again.
        self.uncommitted = blocked && !self.stopping;
        self.last_commit_ms = now_ms;
        if now_ms - self.last_purge_ms >= self.application.config.repartition_purge_interval_ms {
            self.last_purge_ms = now_ms;
            let repartition: Vec<(TopicPartition, i64)> = offsets
                .iter()
                .filter(|(partition, _)| {
                    self.tasks
                        .iter()
                        .flat_map(|task| &task.inputs)
                        .any(|input| input.repartition && input.partition == *partition)
                })
                .map(|(partition, committed)| (partition.clone(), committed.offset))
                .collect();
            if !repartition.is_empty() {
                self.admin.submit(AdminRequest::DeleteRecords(repartition));
            }
        }
        Ok(())
    }

    fn wake_at_ms(&self, now_ms: i64) -> i64 {
        let config = &self.application.config;
        let mut wake_at_ms = now_ms.saturating_add(config.poll_ms);
        if !matches!(self.commit, Commit::Idle) {
            // Only an answer leads on, and it wakes us.
            return wake_at_ms;
        }
        if self.uncommitted {
            let due_ms = self
                .last_commit_ms
                .saturating_add(self.commit_interval_ms());
            wake_at_ms = wake_at_ms.min(due_ms);
        }
        for task in &self.tasks {
            if let State::Running(running) = &task.state {
                for due_ms in [
                    running.next_wall_clock_punctuation(),
                    running.idle_until_ms(now_ms),
                ]
                .into_iter()
                .flatten()
                {
                    wake_at_ms = wake_at_ms.min(due_ms);
                }
            }
        }
        wake_at_ms.max(now_ms + 1)
    }
}

/// Tasks that are about to be opened, with all that the cluster and the disk have to be waited for: not to be done within a step.
struct Opening {
    tasks: Vec<(Assigned, Result<PreparedStores, StoreError>)>,
    logs: Logs,
}

/// What the cluster says of changelogs, and of the topics of global stores.
struct Logs {
    starts: HashMap<TopicPartition, i64>,
    ends: HashMap<TopicPartition, i64>,
    /// Those of topics that have one: all but on Kafka before 2.8.
    ids: HashMap<String, TopicId>,
}

impl Logs {
    fn start(&self, partition: &TopicPartition) -> i64 {
        self.starts.get(partition).copied().unwrap_or(0)
    }

    fn end(&self, partition: &TopicPartition) -> i64 {
        self.ends.get(partition).copied().unwrap_or(0)
    }

    /// Whether what `name`, a store, holds of its topic is of another topic than the one that has its name now. `name` is the topic's own
    /// where a store has several topics.
    fn is_other(&self, stores: &Stores, name: &str, partition: &TopicPartition) -> bool {
        let held = stores.positions().metadata(&id_key(name));
        match (held, self.ids.get(&*partition.topic)) {
            (Some(held), Some(id)) => held != id.as_slice(),
            // Written before ids were kept.
            _ => false,
        }
    }

    /// Keeps the ids of the topics beside the positions in them. Before there is a position: what is restored or written later is of these.
    fn keep_ids<'a>(
        &self,
        stores: &mut Stores,
        of: impl Iterator<Item = (&'a str, &'a TopicPartition)>,
    ) -> Result<(), StreamsError> {
        let mut positions = Positions::default();
        for (name, partition) in of {
            let key = id_key(name);
            if let Some(id) = self.ids.get(&*partition.topic)
                && stores.positions().metadata(&key) != Some(id.as_slice())
            {
                positions.set_metadata(key, id.to_vec());
            }
        }
        if positions.all_metadata().next().is_some() {
            stores.commit(&positions)?;
        }
        Ok(())
    }
}

/// The name under which a store keeps the id of its topic; no partition has such a name.
fn id_key(name: &str) -> String {
    format!("topic-id:{name}")
}

impl Opening {
    fn new(
        application: &Application,
        thread_name: &str,
        assigned: Vec<Assigned>,
        requests: &mut Requests,
    ) -> Result<Self, StreamsError> {
        let (mut of_changelogs, mut of_globals) = (Vec::new(), Vec::new());
        for task in &assigned {
            if task.global {
                of_globals.extend(task.inputs.iter().map(|input| input.partition.clone()));
            }
            let changelogs = changelogs(application, task.id, task.global);
            of_changelogs.extend(changelogs.into_iter().map(|(_, partition)| partition));
        }
        let prepared = prepare_stores(application, thread_name, &assigned);
        let mut starts = list_offsets(requests, &of_changelogs, OffsetSpec::Earliest)?;
        starts.extend(list_offsets(requests, &of_globals, OffsetSpec::Earliest)?);
        let mut ends = if application.config.is_exactly_once() {
            stable_ends(application, requests, &of_changelogs)?
        } else {
            list_offsets(requests, &of_changelogs, UNCOMMITTED_END)?
        };
        ends.extend(list_offsets(requests, &of_globals, UNCOMMITTED_END)?);
        let topics = of_changelogs.iter().chain(&of_globals);
        let names: BTreeSet<String> = topics.map(|at| at.topic.to_string()).collect();
        Ok(Self {
            tasks: assigned.into_iter().zip(prepared).collect(),
            logs: Logs {
                starts,
                ends,
                ids: topic_ids(requests, names.into_iter().collect())?,
            },
        })
    }
}

fn store_directory(application: &Application, thread_name: &str, task: &Assigned) -> PathBuf {
    let state = &application.state;
    if task.global {
        state.global(thread_name, task.id)
    } else {
        state.task(task.id)
    }
}

/// The stores of a task that have a changelog, and where it is.
fn changelogs(
    application: &Application,
    id: TaskId,
    global: bool,
) -> Vec<(String, TopicPartition)> {
    if global {
        return Vec::new();
    }
    application
        .topology
        .changelogs(&application.config.application_id, id.subtopology)
        .into_iter()
        .map(|changelog| {
            (
                changelog.store,
                TopicPartition::new(changelog.topic, id.partition),
            )
        })
        .collect()
}

/// Opens the databases of all tasks at once: each waits for the disk some ten times.
fn prepare_stores(
    application: &Application,
    thread_name: &str,
    assigned: &[Assigned],
) -> Vec<Result<PreparedStores, StoreError>> {
    thread::scope(|scope| {
        let opening: Vec<_> = assigned
            .iter()
            .map(|task| {
                let (directory, specs) = (
                    store_directory(application, thread_name, task),
                    application.topology.store_specs(task.id.subtopology),
                );
                scope.spawn(move || Stores::prepare(Some(&directory), &specs, &application.memory))
            })
            .collect();
        opening
            .into_iter()
            .map(|opening| {
                opening
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// The ends of changelogs that no transaction is open in. What an earlier life left open is being ended by those who know it; until
/// then its records are neither to be restored nor to be passed over.
fn stable_ends(
    application: &Application,
    requests: &mut Requests,
    partitions: &[TopicPartition],
) -> Result<HashMap<TopicPartition, i64>, StreamsError> {
    let written = list_offsets(requests, partitions, UNCOMMITTED_END)?;
    let timeout_ms = i64::from(application.config.transaction_timeout_ms);
    // The cluster looks for transactions that have timed out every ten seconds.
    let deadline_ms = application.clock.now_ms() + 2 * timeout_ms + 20_000;
    loop {
        let stable = list_offsets(
            requests,
            partitions,
            OffsetSpec::Latest {
                read_committed: true,
            },
        )?;
        let open = written
            .iter()
            .find(|(partition, end)| stable.get(*partition).is_some_and(|stable| stable < *end));
        let Some((partition, _)) = open else {
            return Ok(stable);
        };
        if application.clock.now_ms() >= deadline_ms {
            tracing::warn!(%partition, "a transaction is open in this changelog for too long: what it wrote is not restored");
            return Ok(stable);
        }
        application.clock.wait(Duration::from_millis(10));
    }
}

/// How much of a partition of its topic a global store holds, exclusive.
fn global_position(stores: &Stores, partition: &TopicPartition) -> Option<i64> {
    let bytes = stores.positions().metadata(&partition.to_string())?;
    bytes.try_into().ok().map(i64::from_be_bytes)
}

/// Whether the partition counts of all topics that the task writes to are known.
fn outputs_known(task: &Task, collector: &SharedCollector) -> bool {
    let mut collector = collector.borrow_mut();
    let producer = collector.producer_mut();
    task.output_topics()
        .iter()
        .all(|topic| producer.partitions(*topic).is_some())
}

/// Writes fetched changelog batches into the store; the number of records.
fn restore_batches(
    stores: &mut Stores,
    changelog: &mut Changelog,
    fetched: Fetched,
) -> Result<u64, StreamsError> {
    // Borrowed from the fetched bytes until they are in the database's batch.
    let mut places: Vec<(usize, RecordPlace)> = Vec::new();
    let position = changelog.position;
    for (number, batch) in fetched.batches.iter().enumerate() {
        let mut cursor = BatchCursor::new(batch.clone()).map_err(ClientError::from)?;
        cursor.skip_below(position).map_err(ClientError::from)?;
        places.reserve(cursor.remaining());
        while let Some(place) = cursor.next_place().map_err(ClientError::from)? {
            // Beyond the end may be only what a zombie wrote; the task goes on from the end.
            if place.offset >= changelog.end {
                break;
            }
            places.push((number, place));
        }
    }
    changelog.position = fetched.next_offset.min(changelog.end).max(position);
    let records = places.iter().filter_map(|(number, place)| {
        let batch = fetched.batches.get(*number)?;
        let slice = |range: &Range<usize>| batch.get(range.clone()).unwrap_or_default();
        Some(RestoredRecord {
            key: slice(place.key.as_ref()?),
            value: place.value.as_ref().map(slice),
            timestamp_ms: Some(place.timestamp),
        })
    });
    stores.restore(&changelog.store, records, changelog.position)?;
    Ok(u64::try_from(changelog.position - position).unwrap_or(0))
}

fn topic_ids(
    requests: &mut Requests,
    names: Vec<String>,
) -> Result<HashMap<String, TopicId>, StreamsError> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let AdminResponse::TopicIds(ids) = requests.call(AdminRequest::TopicIds(names))? else {
        return Err(StreamsError::Other(
            "the cluster answered a request for topics with something else".to_owned(),
        ));
    };
    let known = ids.into_iter().filter_map(|(name, id)| Some((name, id?)));
    Ok(known.collect())
}

fn list_offsets(
    requests: &mut Requests,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<HashMap<TopicPartition, i64>, StreamsError> {
    if partitions.is_empty() {
        return Ok(HashMap::new());
    }
    let asked = partitions
        .iter()
        .map(|partition| (partition.clone(), spec))
        .collect();
    let AdminResponse::Offsets(offsets) = requests.call(AdminRequest::ListOffsets(asked))? else {
        return Err(StreamsError::Other(
            "the cluster answered a ListOffsets request with something else".to_owned(),
        ));
    };
    offsets
        .into_iter()
        .map(|(partition, offset)| Ok((partition, offset?)))
        .collect()
}
