//! What the threads of one application instance share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use brooklet_state_stores::Memory;

use crate::client::{
    Claim, ClaimState, ClientError, Cluster, Consumer, ConsumerOptions, MemberIdentity,
    ProducerOptions,
};
use crate::clock::Clock;
use crate::config::StreamsConfig;
use crate::error::StreamsError;
use crate::task::{RecordCollector, SharedCollector};
use crate::topology::Topology;

use super::requests::{Requests, thread_waker};
use super::state_directory::StateDirectory;

/// Settings, topology and cluster of a running instance.
pub(crate) struct Application {
    pub(crate) config: StreamsConfig,
    pub(crate) topology: Topology,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: StateDirectory,
    pub(crate) memory: Memory,
    /// The claim on the group; let go when the instance has stopped.
    pub(crate) claim: Mutex<Option<Box<dyn Claim>>>,
}

impl Application {
    /// A consumer under this client id.
    pub(crate) fn consumer(&self, client_id: &str) -> Result<Box<dyn Consumer>, ClientError> {
        self.cluster.consumer(&ConsumerOptions {
            client_id: client_id.to_owned(),
            read_committed: false,
            partition_fetch_bytes_max: self.config.partition_fetch_bytes_max,
            properties: self.config.consumer_properties.clone(),
        })
    }

    /// The output of a thread: a producer under this client id.
    pub(crate) fn collector(&self, client_id: &str) -> Result<SharedCollector, ClientError> {
        let producer = self.cluster.producer(&ProducerOptions {
            client_id: client_id.to_owned(),
            batch_bytes: self.config.batch_bytes,
            linger_ms: self.config.linger_ms,
            properties: self.config.producer_properties.clone(),
        })?;
        Ok(RecordCollector::new(producer))
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
        let deadline = Instant::now() + Duration::from_millis(patience_ms.unsigned_abs());
        while self.member(&waker)?.is_none() {
            if Instant::now() >= deadline {
                return Err(StreamsError::Other(format!(
                    "group {} on {} cannot be joined: its coordinator does not answer",
                    self.config.application_id,
                    self.cluster.name()
                )));
            }
            thread::park_timeout(Duration::from_millis(100));
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
