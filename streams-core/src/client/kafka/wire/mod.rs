//! Our own small client for everything that is neither fetch nor produce: metadata, topics, offsets, groups.
//!
//! librdkafka commits offsets only under its own member id and lacks much of admin, so these requests travel by our own hand, on the
//! `kafka-wire` codec. One thread with a tokio runtime of its own performs them: connections (`connection`), the cluster's brokers and
//! coordinators (`brokers`), a request as calls to the right ones (`requests`), the place in a group (`claim`). Nothing outside waits.
//!
//! ## A thread of its own, not the caller's runtime
//! Stream threads have none, and an application's `#[tokio::main]` must not be able to starve heartbeats. The price is one thread a
//! cluster.

mod brokers;
mod claim;
mod connection;
pub(super) mod error_code;
mod requests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::brokers::Brokers;
pub(super) use self::claim::WireClaim;
pub use self::requests::Recipient;
use crate::client::{AdminRequest, AdminResponse, ClientError, ClientErrorKind};
use kafka_wire::RequestResponsePair;

/// As `default.api.timeout.ms`: for a request with all its attempts.
const API_PATIENCE: Duration = Duration::from_secs(60);
/// As `request.timeout.ms`: for one answer of one broker.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long the thread waits for members to leave their groups at the end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// What a finished request calls.
type Reply = Box<dyn FnOnce(Result<AdminResponse, ClientError>) + Send>;

enum Job {
    Request {
        request: AdminRequest,
        patience: Duration,
        reply: Reply,
    },
    Claim(Box<claim::ClaimTask>),
    /// Whatever a tool asks.
    Ask(Box<dyn FnOnce(Arc<Brokers>) -> Asking + Send>),
}

type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends requests to the thread that performs them. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct WireClient {
    /// Unbounded, but each job is one that a caller waits for, so there are no more than callers make.
    jobs: mpsc::UnboundedSender<Job>,
    bootstrap: Arc<[String]>,
}

impl WireClient {
    /// Starts the thread. Connects with the first request only.
    pub(super) fn start(bootstrap: &str) -> Result<Self, ClientError> {
        let bootstrap: Arc<[String]> = parse_bootstrap(bootstrap)?.into();
        let (jobs, received) = mpsc::unbounded_channel();
        let brokers = Brokers::new(bootstrap.to_vec(), "brooklet", REQUEST_PATIENCE);
        let failed = |error: std::io::Error| {
            ClientError::new(ClientErrorKind::Fatal, format_args!("wire client: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(failed)?;
        thread::Builder::new()
            .name("brooklet-wire".to_owned())
            .spawn(move || runtime.block_on(serve(Arc::new(brokers), received)))
            .map_err(failed)?;
        Ok(Self { jobs, bootstrap })
    }

    /// Performs `request` in the background and then calls `reply`, on the wire thread: it must not block.
    pub(super) fn submit(&self, request: AdminRequest, patience: Option<Duration>, reply: Reply) {
        let job = Job::Request {
            request,
            patience: patience.unwrap_or(API_PATIENCE),
            reply,
        };
        if let Err(mpsc::error::SendError(Job::Request { reply, .. })) = self.jobs.send(job) {
            // Only when the thread has died of a bug.
            reply(Err(ClientError::new(
                ClientErrorKind::Fatal,
                "the wire client's thread has ended",
            )));
        }
    }

    /// Sends one request to whom it is meant for; `build` is given the version that both sides know. Tried again while `code` of the answer is
    /// one that passes. `reply` is dropped when there is no answer within `patience`.
    pub(super) fn ask<R, B, C>(
        &self,
        to: Recipient,
        patience: Duration,
        build: B,
        code: C,
        reply: impl FnOnce(Result<R::Response, ClientError>) + Send + 'static,
    ) where
        R: RequestResponsePair + Send + Sync + 'static,
        R::Response: Send,
        B: Fn(i16) -> R + Send + Sync + 'static,
        C: Fn(&R::Response) -> i16 + Send + Sync + 'static,
    {
        let job = Job::Ask(Box::new(move |brokers| {
            Box::pin(async move {
                let asked = requests::ask(&brokers, &to, patience, &build, &code).await;
                reply(asked);
            })
        }));
        // When the thread is gone the reply is dropped here, which its receiver sees.
        let _ = self.jobs.send(job);
    }

    /// Takes a place in a group; see [`crate::client::Cluster::claim`].
    pub(super) fn claim(&self, group: &str, instance_id: &str, topics: &[String]) -> WireClaim {
        let (claim, task) = WireClaim::new(
            self.clone(),
            self.bootstrap.to_vec(),
            group,
            instance_id,
            topics,
        );
        // When the thread is gone the task is dropped here, which the claim reports.
        let _ = self.jobs.send(Job::Claim(Box::new(task)));
        claim
    }
}

async fn serve(brokers: Arc<Brokers>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut claims = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Request {
                request,
                patience,
                reply,
            } => {
                let brokers = Arc::clone(&brokers);
                // Not joined: its reply is the last thing it does, and at the end nobody is there to take it.
                tokio::spawn(
                    async move { reply(requests::execute(&brokers, request, patience).await) },
                );
            }
            Job::Ask(ask) => {
                tokio::spawn(ask(Arc::clone(&brokers)));
            }
            Job::Claim(task) => {
                claims.spawn(task.run());
            }
        }
        while claims.try_join_next().is_some() {}
    }
    // Nobody holds the client any more, so the claims are dropped or about to be; they still say good-bye.
    let _ = tokio::time::timeout(LEAVE_PATIENCE, async {
        while claims.join_next().await.is_some() {}
    })
    .await;
}

/// `host:port,host:port` as addresses. IPv6 hosts are in brackets.
fn parse_bootstrap(bootstrap: &str) -> Result<Vec<String>, ClientError> {
    let mut addresses = Vec::new();
    for entry in bootstrap
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        // A listener name in front, as Kafka's own configs have it, is not part of the address.
        let address = entry
            .rsplit_once("://")
            .map_or(entry, |(_, address)| address);
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !valid {
            return Err(ClientError::new(
                ClientErrorKind::Config,
                format_args!("bootstrap.servers: {entry:?} is not host:port"),
            ));
        }
        addresses.push(address.to_owned());
    }
    if addresses.is_empty() {
        return Err(ClientError::new(
            ClientErrorKind::Config,
            "bootstrap.servers is empty, want host:port",
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn bootstrap_is_a_list_of_hosts_and_ports() {
        assert_eq!(
            parse_bootstrap("a:1, PLAINTEXT://b:2,,[::1]:3").unwrap(),
            ["a:1", "b:2", "[::1]:3"]
        );
        for wrong in ["", "a", "a:", ":9092", "a:70000", "a:1,b"] {
            assert_eq!(
                parse_bootstrap(wrong).unwrap_err().kind,
                ClientErrorKind::Config,
                "{wrong:?}"
            );
        }
    }
}
