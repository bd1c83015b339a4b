//! One stream thread: polls its clients, restores and runs its tasks, commits. [`StreamThread::step`] does one round of that and never
//! waits, so that a thread, a test and a simulation drive the same code.
//!
//! ## The order of a commit (at least once)
//! 1. The tasks flush their record caches: store writes, changelog records and what goes downstream.
//! 2. The producer flushes; all output is acknowledged.
//! 3. The input offsets are committed and acknowledged.
//! 4. Each task's stores are written, together with the changelog positions that step 2 acknowledged.
//!
//! A crash between any two steps leaves stores behind offsets and changelogs, never ahead: what is missing is restored. Nothing is
//! processed while a commit is on its way; it is short, and every position of the tasks stands for one moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use brooklet_state_stores::{Positions, Stores};

use crate::client::{
    Admin, AdminRequest, AdminResponse, ClientErrorKind, CommittedOffset, Completion, Consumer, Fetched, MemberIdentity, RequestId, Slot, TopicHandle,
    TopicPartition,
};
use crate::error::StreamsError;
use crate::task::{SharedCollector, Task};
use crate::topology::TaskId;

use super::application::Application;
use super::metrics::ThreadMetrics;
use super::restore::{self, Restoration};

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
    /// It processes.
    Running(Task),
    /// It was closed, or is being moved between the two states above.
    Closed,
}

struct Changelog {
    store: String,
    partition: TopicPartition,
    slot: Option<Slot>,
    position: i64,
    end: i64,
}

struct Input {
    partition: TopicPartition,
    start: i64,
    repartition: bool,
    slot: Option<Slot>,
    paused: bool,
    committed: i64,
}

struct ThreadTask {
    id: TaskId,
    state: State,
    inputs: Vec<Input>,
    changelogs: Vec<Changelog>,
    /// Handle of each changelog of a running task: where its acknowledged positions are found.
    logged: Vec<(String, TopicHandle, i32)>,
}

#[derive(Clone, Copy)]
enum Route {
    Input { task: usize, input: usize },
    Changelog { task: usize, changelog: usize },
}

enum Commit {
    Idle,
    /// Caches are flushed; output is on its way.
    Producing { since_ms: i64 },
    /// Offsets are on their way.
    Offsets { since_ms: i64, request: RequestId, sent: Vec<(TopicPartition, CommittedOffset)> },
}

/// What the thread is told about one of its tasks.
pub(crate) struct Assigned {
    pub(crate) id: TaskId,
    pub(crate) inputs: Vec<AssignedInput>,
}

/// An input partition, and where to begin.
pub(crate) struct AssignedInput {
    pub(crate) partition: TopicPartition,
    pub(crate) start: CommittedOffset,
    pub(crate) repartition: bool,
}

/// One stream thread's state. See the module's comment.
pub(crate) struct StreamThread {
    application: Arc<Application>,
    metrics: Arc<ThreadMetrics>,
    consumer: Box<dyn Consumer>,
    admin: Box<dyn Admin>,
    collector: SharedCollector,
    member: MemberIdentity,
    waker: Waker,
    tasks: Vec<ThreadTask>,
    routes: Vec<Option<Route>>,
    commit: Commit,
    last_commit_ms: i64,
    last_purge_ms: i64,
    processed_since_commit: bool,
    stopping: bool,
    /// Acknowledged end offset of each partition written to, exclusive.
    acknowledged: HashMap<(TopicHandle, i32), i64>,
    fetched: Vec<Fetched>,
    completions: Vec<Completion>,
    answers: Vec<(RequestId, Result<AdminResponse, crate::client::ClientError>)>,
}

impl StreamThread {
    /// Takes on the tasks, opens their stores and begins to restore them.
    pub(crate) fn new(
        application: Arc<Application>,
        metrics: Arc<ThreadMetrics>,
        name: &str,
        member: MemberIdentity,
        waker: Waker,
        assigned: Vec<Assigned>,
    ) -> Result<Self, StreamsError> {
        let config = &application.config;
        let consumer = application.consumer(&format!("{name}-consumer"))?;
        let collector = application.collector(&format!("{name}-producer"))?;
        let admin = application.cluster.admin()?;
        let now_ms = application.clock.now_ms();
        metrics.tasks.store(assigned.len() as u64, Ordering::Relaxed);
        tracing::info!(thread = name, tasks = assigned.len(), commit_interval_ms = config.commit_interval_ms, "stream thread starts");
        let mut thread = Self {
            metrics,
            consumer,
            admin,
            collector,
            member,
            waker,
            tasks: Vec::new(),
            routes: Vec::new(),
            commit: Commit::Idle,
            last_commit_ms: now_ms,
            last_purge_ms: now_ms,
            processed_since_commit: false,
            stopping: false,
            acknowledged: HashMap::new(),
            fetched: Vec::new(),
            completions: Vec::new(),
            answers: Vec::new(),
            application,
        };
        for task in assigned {
            thread.open_task(task)?;
        }
        thread.begin_restoration()?;
        Ok(thread)
    }

    /// One round. Never waits.
    ///
    /// # Errors
    /// What ends the thread: its tasks are then where their last commit left them.
    pub(crate) fn step(&mut self, now_ms: i64) -> Result<Step, StreamsError> {
        let mut progressed = self.poll_producer(now_ms)?;
        progressed |= self.poll_consumer(now_ms)?;
        progressed |= self.advance_commit(now_ms)?;
        if matches!(self.commit, Commit::Idle) {
            if !self.stopping {
                progressed |= self.process(now_ms)?;
            }
            if self.commit_due(now_ms) {
                self.begin_commit(now_ms)?;
                progressed = true;
            }
        }
        let wake_at_ms = (self.last_commit_ms + self.application.config.commit_interval_ms).min(now_ms + self.application.config.poll_ms).max(now_ms + 1);
        Ok(Step { progressed, wake_at_ms })
    }

    /// Asks for a last commit; [`StreamThread::stopped`] says when it is through.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether everything is committed after [`StreamThread::stop`].
    pub(crate) fn stopped(&self) -> bool {
        self.stopping && matches!(self.commit, Commit::Idle) && !self.processed_since_commit
    }

    /// Whether every task processes.
    pub(crate) fn restored(&self) -> bool {
        self.tasks.iter().all(|task| matches!(task.state, State::Running(_)))
    }

    /// Closes tasks and stores. What is not committed is dropped, to be processed again.
    pub(crate) fn close(mut self) -> Result<(), StreamsError> {
        for task in &mut self.tasks {
            if let State::Running(task) = std::mem::replace(&mut task.state, State::Closed) {
                task.close()?;
            }
        }
        Ok(())
    }
}
