//! A thread's transactions, performed: what [`Transaction`] decides is asked of the producer, the stores and the cluster.
//!
//! While a transaction is being ended the tasks stand still, as in a commit at least once. What undoes a transaction is what a restart
//! does: the tasks are dropped with their stores' uncommitted rows and their caches, and opened anew from what the cluster has committed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use brooklet_state_stores::StoreError;

use super::opening::Reopening;
use super::{Assigned, Commit, Opening, State, StreamThread};
use crate::cache::ThreadCache;
use crate::client::{ClientError, TransactionRequest};
use crate::error::StreamsError;
use crate::fault;
use crate::runtime::transaction::{Action, Event, Failure, Offsets, Output, Phase, Transaction};
use crate::task::{ErrorResponse, RecordCollector};

/// How long to wait before what may pass is tried again.
const RETRY_MS: i64 = 50;

/// The transactions of a thread, with what is needed to begin anew.
pub(super) struct ExactlyOnce {
    pub(super) transaction: Transaction,
    /// The thread's own tasks, to be opened again.
    pub(super) assigned: Vec<Assigned>,
    /// What is put off for a moment.
    retry: Option<(i64, Action)>,
    /// Why the transaction was given up, for the message at the end.
    cause: Option<String>,
    /// Stores in which damage was found while they were open.
    damaged: Vec<PathBuf>,
    reopening: Option<Reopening>,
}

impl ExactlyOnce {
    pub(super) fn new(assigned: Vec<Assigned>) -> Self {
        Self {
            transaction: Transaction::open(),
            assigned,
            retry: None,
            cause: None,
            damaged: Vec::new(),
            reopening: None,
        }
    }
}

impl StreamThread {
    /// Whether what the producer reports belongs to a transaction that is given up.
    pub(super) fn is_given_up(&self) -> bool {
        self.exactly_once
            .as_ref()
            .is_some_and(|exactly_once| exactly_once.transaction.is_given_up())
    }

    /// Caches and producer were flushed: ends the transaction. Nothing is processed until it has ended.
    pub(super) fn end_transaction(&mut self, now_ms: i64) -> Result<(), StreamsError> {
        let mut offsets = Vec::new();
        for task in self.tasks.iter().filter(|task| !task.global) {
            if let State::Running(running) = &task.state {
                offsets.extend(running.offsets_to_commit());
            }
        }
        let has_offsets = !offsets.is_empty();
        self.commit = Commit::Transaction {
            since_ms: now_ms,
            offsets,
        };
        fault::point("caches-flushed");
        self.happened(Event::Flushed { has_offsets }, now_ms)?;
        self.advance_transaction(now_ms).map(drop)
    }

    /// Goes on with a transaction that is being ended, as far as answers are there.
    pub(super) fn advance_transaction(&mut self, now_ms: i64) -> Result<bool, StreamsError> {
        let mut progressed = false;
        if let Some(exactly_once) = &mut self.exactly_once
            && let Some((at_ms, action)) = exactly_once.retry
        {
            if now_ms < at_ms {
                return Ok(false);
            }
            exactly_once.retry = None;
            self.perform(action, now_ms)?;
        }
        while let Some(event) = self.next_event(now_ms)? {
            self.happened(event, now_ms)?;
            progressed = true;
        }
        if let Commit::Transaction { since_ms, .. } = self.commit {
            let phase = self.phase();
            self.check_commit_time(since_ms, now_ms, || {
                format!("the transaction is not ended ({phase:?})")
            })?;
        }
        Ok(progressed)
    }

    fn phase(&self) -> Option<Phase> {
        self.exactly_once
            .as_ref()
            .map(|exactly_once| exactly_once.transaction.phase())
    }

    /// What has happened since the last look.
    fn next_event(&mut self, now_ms: i64) -> Result<Option<Event>, StreamsError> {
        let Some(exactly_once) = &self.exactly_once else {
            return Ok(None);
        };
        let transaction = exactly_once.transaction;
        if let Phase::Sending { output, offsets } = transaction.phase() {
            if output == Output::Unacknowledged {
                self.poll_producer(now_ms)?;
                if self.collector.borrow_mut().producer_mut().pending_records() == 0 {
                    fault::point("output-acknowledged");
                    return Ok(Some(Event::OutputAcknowledged));
                }
            }
            if offsets == Offsets::Unsent && self.application.member(&self.waker)?.is_some() {
                return Ok(Some(Event::MemberKnown));
            }
        }
        if transaction.phase() == Phase::Reopening {
            return self.poll_reopening(now_ms);
        }
        if !transaction.awaits_answer() {
            return Ok(None);
        }
        let answer = self
            .collector
            .borrow_mut()
            .producer_mut()
            .poll_transaction(now_ms, &self.waker);
        match answer {
            None => Ok(None),
            Some(Ok(())) => {
                match transaction.phase() {
                    Phase::Sending { .. } => fault::point("offsets-sent"),
                    Phase::Committing => fault::point("transaction-committed"),
                    Phase::Aborting => fault::point("transaction-aborted"),
                    _ => {}
                }
                Ok(Some(Event::Done))
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn happened(&mut self, event: Event, now_ms: i64) -> Result<(), StreamsError> {
        let Some(exactly_once) = &mut self.exactly_once else {
            return Ok(());
        };
        let action = exactly_once.transaction.on(event);
        self.perform(action, now_ms)
    }

    fn perform(&mut self, action: Action, now_ms: i64) -> Result<(), StreamsError> {
        match action {
            Action::Wait => {}
            Action::SendOffsets => {
                // Known a moment ago; a change since shows in the answer.
                let Some(member) = self.application.member(&self.waker)? else {
                    return self.happened(Event::Failed(Failure::Retriable), now_ms);
                };
                let offsets = match &self.commit {
                    Commit::Transaction { offsets, .. } => offsets.clone(),
                    _ => Vec::new(),
                };
                self.ask(TransactionRequest::SendOffsets { member, offsets });
            }
            Action::Commit => {
                fault::point("before-commit");
                self.ask(TransactionRequest::Commit);
                fault::point("commit-asked");
            }
            Action::Store => {
                let Commit::Transaction { since_ms, offsets } = std::mem::take(&mut self.commit)
                else {
                    return Ok(());
                };
                self.commit_stores(since_ms, now_ms, &offsets)?;
                fault::point("stores-committed");
                if let Some(exactly_once) = &mut self.exactly_once {
                    exactly_once.cause = None;
                }
                self.happened(Event::Stored, now_ms)?;
            }
            Action::Abort => {
                self.drop_tasks(now_ms);
                self.ask(TransactionRequest::Abort);
            }
            Action::Replace => {
                self.drop_tasks(now_ms);
                let producer = self
                    .application
                    .producer(&format!("{}-producer", self.name), Some(self.number))?;
                self.collector = RecordCollector::new(producer);
                self.ask(TransactionRequest::Initialize);
            }
            Action::Initialize => self.ask(TransactionRequest::Initialize),
            Action::Reopen => self.begin_reopening(now_ms)?,
            // The caller has the error that led here.
            Action::Stop => {
                let cause = self
                    .exactly_once
                    .as_ref()
                    .and_then(|exactly_once| exactly_once.cause.clone());
                return Err(StreamsError::Other(
                    cause.unwrap_or_else(|| "the transaction cannot go on".to_owned()),
                ));
            }
        }
        Ok(())
    }

    fn ask(&mut self, request: TransactionRequest) {
        self.collector
            .borrow_mut()
            .producer_mut()
            .submit_transaction(request);
    }

    /// Undoes the transaction after `error`, or hands the error back when that is of no use.
    pub(super) fn recover(&mut self, error: StreamsError, now_ms: i64) -> Result<(), StreamsError> {
        let failure = match (client_error(&error), corrupt(&error)) {
            (Some(client), _) => Failure::of(client.kind),
            // Found when it was read. Opening them anew might not find it.
            (None, Some(directory)) if self.may_delete(directory) => {
                if let Some(exactly_once) = &mut self.exactly_once {
                    exactly_once.damaged.push(directory.clone());
                }
                Failure::Abortable
            }
            (None, _) => return Err(error),
        };
        if failure == Failure::Fenced {
            // When another process took this one's place in the group, this says which.
            self.application.member(&self.waker)?;
        }
        let Some(exactly_once) = &mut self.exactly_once else {
            return Err(error);
        };
        let before = exactly_once.transaction.phase();
        let action = exactly_once.transaction.on(Event::Failed(failure));
        exactly_once.retry = None;
        if action == Action::Stop {
            return Err(match failure {
                Failure::Final => error,
                Failure::Fenced => StreamsError::SecondInstance(format!(
                    "{}: its transactions were fenced again and again: another process uses the same application.id and the same process id \
                     (a copy of this state directory?): {error}",
                    self.name
                )),
                _ => StreamsError::Other(format!(
                    "{}: its transactions failed again and again, none was committed between them: {error}",
                    self.name
                )),
            });
        }
        tracing::warn!(thread = self.name, %error, phase = ?before, next = ?action, "transaction failed");
        exactly_once.cause = Some(error.to_string());
        if !matches!(self.commit, Commit::Transaction { .. }) {
            self.commit = Commit::Transaction {
                since_ms: now_ms,
                offsets: Vec::new(),
            };
        }
        if failure == Failure::Retriable {
            exactly_once.retry = Some((now_ms.saturating_add(RETRY_MS), action));
            // Who is refused at once each time never comes to the end of a step.
            if let Commit::Transaction { since_ms, .. } = self.commit {
                self.check_commit_time(since_ms, now_ms, || error.to_string())?;
            }
            return Ok(());
        }
        self.metrics.aborted_total.fetch_add(1, Ordering::Relaxed);
        match self.perform(action, now_ms) {
            Ok(()) => Ok(()),
            // A producer that cannot be made for now.
            Err(error) => self.recover(error, now_ms),
        }
    }

    /// Whether these are stores of a task of this thread, and what they hold can be restored.
    fn may_delete(&self, directory: &Path) -> bool {
        self.tasks.iter().any(|task| {
            !task.global
                && self.application.state.task(task.id) == directory
                && self.is_restorable(task.id, false)
        })
    }

    /// Drops the tasks with all that is uncommitted of them. What keeps global stores up to date stays: it writes nothing.
    fn drop_tasks(&mut self, now_ms: i64) {
        let globals = self.tasks.iter().take_while(|task| task.global).count();
        let mut changelogs = Vec::new();
        for mut task in self.tasks.drain(globals..) {
            for slot in task.inputs.iter().filter_map(|input| input.slot) {
                self.consumer.remove(slot);
                self.routes.remove(&slot);
            }
            changelogs.append(&mut task.changelogs);
            if let State::Running(mut running) = std::mem::replace(&mut task.state, State::Closed) {
                running.close();
            }
        }
        self.forget_changelogs(&changelogs, now_ms);
        self.acknowledged.clear();
    }

    /// Begins to open the thread's tasks as a start does: what the cluster and the disk are to be waited for is waited for elsewhere.
    fn begin_reopening(&mut self, now_ms: i64) -> Result<(), StreamsError> {
        // A reopening that failed half-way begins anew.
        self.drop_tasks(now_ms);
        let Some(exactly_once) = &mut self.exactly_once else {
            return Ok(());
        };
        let damaged = std::mem::take(&mut exactly_once.damaged);
        let assigned = exactly_once.assigned.clone();
        let given_up = exactly_once.reopening.take();
        let reopening = self.reopen(given_up, damaged, assigned)?;
        if let Some(exactly_once) = &mut self.exactly_once {
            exactly_once.reopening = Some(reopening);
        }
        Ok(())
    }

    /// Takes over the opened tasks, if they are there.
    fn poll_reopening(&mut self, now_ms: i64) -> Result<Option<Event>, StreamsError> {
        let Some(exactly_once) = &mut self.exactly_once else {
            return Ok(None);
        };
        let Some(opening) = exactly_once.reopening.as_ref().and_then(Reopening::poll) else {
            return Ok(None);
        };
        exactly_once.reopening = None;
        self.finish_reopening(opening?, now_ms)?;
        Ok(Some(Event::Reopened))
    }

    /// Goes on with what was waited for.
    fn finish_reopening(&mut self, opening: Opening, now_ms: i64) -> Result<(), StreamsError> {
        let config = &self.application.config;
        self.cache = ThreadCache::new(
            config.cache_bytes_max / config.stream_threads,
            config.processing_handler == ErrorResponse::Continue,
        );
        self.open_tasks(opening, now_ms)?;
        self.commit = Commit::Idle;
        self.last_commit_ms = now_ms;
        tracing::info!(thread = self.name, "tasks are open again");
        fault::point("tasks-reopened");
        Ok(())
    }
}

/// The directory of stores that `error` says are damaged.
fn corrupt(error: &StreamsError) -> Option<&PathBuf> {
    match at_the_bottom::<StoreError>(error)? {
        StoreError::Corrupt { directory, .. } => Some(directory),
        _ => None,
    }
}

/// The client's error at the bottom of `error`, if there is one.
pub(super) fn client_error(error: &StreamsError) -> Option<&ClientError> {
    at_the_bottom(error)
}

/// The first error of this type among `error` and what caused it: a task, a typed store and a changelog each wrap what they report.
fn at_the_bottom<E: Error + 'static>(error: &StreamsError) -> Option<&E> {
    let outermost: &(dyn Error + 'static) = match error {
        StreamsError::Process { error, .. } | StreamsError::Task { error, .. } => error.cause(),
        StreamsError::Client(error) => error,
        StreamsError::Store(error) => error,
        _ => return None,
    };
    std::iter::successors(Some(outermost), |&error| error.source())
        .find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientErrorKind;
    use crate::error::ProcessError;

    /// What a typed store makes of its bytes' error.
    #[derive(Debug, thiserror::Error)]
    #[error("store counts: {0}")]
    struct InAStore(#[source] StoreError);

    #[test]
    fn a_clients_error_is_found_under_the_store_and_the_task_that_wrap_it() {
        let fenced = ClientError::new(ClientErrorKind::Fenced, "fenced");
        let error = StreamsError::Process {
            task: "1_1".to_owned(),
            topic: "t".to_owned(),
            partition: 1,
            offset: 89,
            error: ProcessError::new(InAStore(StoreError::Changelog(Box::new(fenced)))),
        };
        assert_eq!(
            client_error(&error).map(|error| error.kind),
            Some(ClientErrorKind::Fenced)
        );
        assert_eq!(corrupt(&error), None);
    }
}
