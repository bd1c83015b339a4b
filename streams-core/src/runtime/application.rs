//! What the threads of one application instance share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use brooklet_state_stores::Memory;

use crate::client::{
    Claim, ClaimState, ClientError, ClientErrorKind, Cluster, Consumer, ConsumerOptions,
    MemberIdentity, Producer, ProducerOptions, TransactionOptions, TransactionRequest,
};
use crate::clock::Clock;
use crate::config::StreamsConfig;
use crate::error::StreamsError;
use crate::topology::Topology;

use super::aside::Aside;
use super::requests::{Requests, thread_waker};
use super::restoration_progress::RestorationProgress;
use super::state_directory::StateDirectory;

/// Settings, topology and cluster of a running instance.
pub(crate) struct Application {
    pub(crate) config: StreamsConfig,
    pub(crate) topology: Topology,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: StateDirectory,
    pub(crate) memory: Memory,
    pub(crate) restoration: RestorationProgress,
    pub(crate) aside: Aside,
    /// The claim on the group; let go when the instance has stopped.
    pub(crate) claim: Mutex<Option<Box<dyn Claim>>>,
}

impl Application {
    /// A consumer under this client id.
    pub(crate) fn consumer(&self, client_id: &str) -> Result<Box<dyn Consumer>, ClientError> {
        self.cluster.consumer(&ConsumerOptions {
            client_id: client_id.to_owned(),
            read_committed: self.config.is_exactly_once(),
            partition_fetch_bytes_max: self.config.partition_fetch_bytes_max,
            properties: self.config.consumer_properties.clone(),
        })
    }

    /// The output of a thread: a producer under this client id, that writes in transactions when `transactions_of` names a thread.
    pub(crate) fn producer(
        &self,
        client_id: &str,
        transactions_of: Option<usize>,
    ) -> Result<Box<dyn Producer>, ClientError> {
        let transaction = transactions_of.map(|thread| TransactionOptions {
            transactional_id: self.transactional_id(thread),
            timeout_ms: self.config.transaction_timeout_ms,
            group: self.config.application_id.clone(),
        });
        self.cluster.producer(&ProducerOptions {
            client_id: client_id.to_owned(),
            batch_bytes: self.config.batch_bytes,
            linger_ms: self.config.linger_ms,
            properties: self.config.producer_properties.clone(),
            transaction,
        })
    }

    /// Of a stream thread, numbered from one.
    pub(crate) fn thread_name(&self, number: usize) -> String {
        format!("{}-StreamThread-{number}", self.config.application_id)
    }

    /// As Kafka Streams names it. The process id is kept in the state directory, so that a restart fences its earlier life and ends what
    /// that left open; another instance has another one, and is fenced by its place in the group.
    fn transactional_id(&self, thread: usize) -> String {
        format!(
            "{}-{}-{thread}",
            self.config.application_id,
            self.state.process_id()
        )
    }

    /// Producers for `threads` threads, from one, fencing those of an earlier life. When this returns, nothing of that life is open: the
    /// offsets and changelogs that are read from now on are final.
    pub(crate) fn initialize_producers(
        &self,
        names: &[String],
        threads_before: usize,
    ) -> Result<Vec<Box<dyn Producer>>, StreamsError> {
        let waker = thread_waker();
        let mut waiting = Vec::new();
        for thread in 1..=names.len().max(threads_before) {
            let client_id = names
                .get(thread - 1)
                .map_or_else(|| "earlier".to_owned(), |name| format!("{name}-producer"));
            let mut producer = self.producer(&client_id, Some(thread))?;
            producer.submit_transaction(TransactionRequest::Initialize);
            waiting.push((producer, false));
        }
        let patience_ms = self.config.task_timeout_ms.clamp(30_000, 60_000);
        let deadline_ms = self.clock.now_ms() + patience_ms;
        let mut completions = Vec::new();
        loop {
            let now_ms = self.clock.now_ms();
            let mut problem = None;
            for (producer, done) in &mut waiting {
                if *done {
                    continue;
                }
                producer.poll(now_ms, &waker, &mut completions)?;
                match producer.poll_transaction(now_ms, &waker) {
                    None => {}
                    Some(Ok(())) => *done = true,
                    Some(Err(error)) if error.kind == ClientErrorKind::Retriable => {
                        tracing::debug!(%error, "initialisation of a producer will be retried");
                        problem = Some(error);
                        producer.submit_transaction(TransactionRequest::Initialize);
                    }
                    Some(Err(error)) => return Err(error.into()),
                }
            }
            if waiting.iter().all(|(_, done)| *done) {
                break;
            }
            if self.clock.now_ms() >= deadline_ms {
                let why = problem.map_or_else(
                    || "its transaction coordinator does not answer".to_owned(),
                    |error| error.to_string(),
                );
                return Err(StreamsError::Other(format!(
                    "transactions of {} on {} cannot be begun: {why}",
                    self.config.application_id,
                    self.cluster.name()
                )));
            }
            self.clock.wait(Duration::from_millis(50));
        }
        waiting.truncate(names.len());
        Ok(waiting.into_iter().map(|(producer, _)| producer).collect())
    }

    /// Requests whose caller waits: for starting, not for running.
    pub(crate) fn requests(&self) -> Result<Requests, ClientError> {
        Ok(Requests::new(
            self.cluster.admin()?,
            Arc::clone(&self.clock),
            self.config.task_timeout_ms.min(60_000),
        ))
    }

    /// Waits until the group is ours. `partitions` has the topics whose offsets will be committed.
    pub(crate) fn hold_claim(&self, partitions: &HashMap<String, i32>) -> Result<(), StreamsError> {
        let mut topics: Vec<String> = partitions.keys().cloned().collect();
        topics.sort_unstable();
        let claim = self.cluster.claim(
            &self.config.application_id,
            &self.state.process_id().to_string(),
            &topics,
        )?;
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim);
        let waker = thread_waker();
        let patience_ms = self.config.task_timeout_ms.clamp(30_000, 60_000);
        let deadline_ms = self.clock.now_ms() + patience_ms;
        while self.member(&waker)?.is_none() {
            if self.clock.now_ms() >= deadline_ms {
                return Err(StreamsError::Other(format!(
                    "group {} on {} cannot be joined: its coordinator does not answer",
                    self.config.application_id,
                    self.cluster.name()
                )));
            }
            self.clock.wait(Duration::from_millis(100));
        }
        Ok(())
    }

    /// As whom to commit now; `None` while the group settles.
    pub(crate) fn member(&self, waker: &Waker) -> Result<Option<MemberIdentity>, StreamsError> {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claim) = claim.as_mut() else {
            return Ok(Some(MemberIdentity::simple()));
        };
        match claim.poll(self.clock.now_ms(), waker) {
            ClaimState::Held(member) => Ok(Some(member)),
            ClaimState::Pending => Ok(None),
            ClaimState::Refused(message) | ClaimState::Lost(message) => {
                Err(StreamsError::SecondInstance(message))
            }
        }
    }

    /// Leaves the group.
    pub(crate) fn release_claim(&self) {
        self.claim
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}
