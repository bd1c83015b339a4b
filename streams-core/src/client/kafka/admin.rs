//! [`Admin`] over the wire client: polled for stream threads, blocking for tools.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use kafka_wire::RequestResponsePair;

use super::wire::{Recipient, WireClient, error_code};
use crate::client::{Admin, AdminRequest, AdminResponse, ClientError, ClientErrorKind, RequestId};

type Answer = (RequestId, Result<AdminResponse, ClientError>);

#[derive(Default)]
struct Answers {
    ready: Vec<Answer>,
    waker: Option<Waker>,
}

/// Requests of one caller, answered by the wire thread.
pub(super) struct KafkaAdmin {
    wire: WireClient,
    next_id: u64,
    answers: Arc<Mutex<Answers>>,
}

impl KafkaAdmin {
    pub(super) fn new(wire: WireClient) -> Self {
        Self {
            wire,
            next_id: 0,
            answers: Arc::default(),
        }
    }
}

impl Admin for KafkaAdmin {
    fn submit(&mut self, request: AdminRequest) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let answers = Arc::clone(&self.answers);
        let reply = Box::new(move |answer| {
            let waker = {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.ready.push((id, answer));
                answers.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        self.wire.submit(request, None, reply);
        id
    }

    fn poll(&mut self, _now_ms: i64, waker: &Waker, answers: &mut Vec<Answer>) {
        let mut shared = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.append(&mut shared.ready);
        if !shared
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            shared.waker = Some(waker.clone());
        }
    }
}

/// A blocking client for tools: one request, one answer.
///
/// ```no_run
/// # use std::time::Duration;
/// # use brooklet_streams_core::client::{AdminRequest, AdminResponse, kafka::AdminClient};
/// let admin = AdminClient::connect("127.0.0.1:9092")?;
/// if let AdminResponse::Topics(topics) = admin.call(AdminRequest::ListTopics, Duration::from_secs(10))? {
///     for (name, partitions) in topics {
///         println!("{name} {partitions:?}");
///     }
/// }
/// # Ok::<(), brooklet_streams_core::client::ClientError>(())
/// ```
pub struct AdminClient {
    wire: WireClient,
}

impl AdminClient {
    /// A client of the cluster that one of `bootstrap` (`host:port,host:port`) belongs to. Connects with the first request.
    ///
    /// # Errors
    /// When `bootstrap` is malformed.
    pub fn connect(bootstrap: &str) -> Result<Self, ClientError> {
        Ok(Self {
            wire: WireClient::start(bootstrap)?,
        })
    }

    /// Sends `request` and waits for its answer, which comes within `timeout`. Blocks the calling thread.
    ///
    /// # Errors
    /// What the cluster answered, or [`ClientErrorKind::Retriable`] when it did not.
    pub fn call(
        &self,
        request: AdminRequest,
        timeout: Duration,
    ) -> Result<AdminResponse, ClientError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let reply = Box::new(move |answer| {
            // Nobody waits any more after the timeout below.
            let _ = sender.send(answer);
        });
        self.wire.submit(request, Some(timeout), reply);
        // The wire client keeps the timeout; this margin is for its thread to be scheduled.
        match receiver.recv_timeout(timeout + Duration::from_secs(5)) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(
                ClientError::new(ClientErrorKind::Fatal, "the wire client's thread has ended"),
            ),
        }
    }
}

impl AdminClient {
    /// Sends any request of the protocol and waits for its answer: what tools need beyond [`AdminRequest`]. `build` is given the version that
    /// both sides know. While `code` of the answer is one that passes (a coordinator that loads), it is asked again.
    ///
    /// # Errors
    /// [`ClientErrorKind::Retriable`] when there was no answer within `timeout`. Codes in the answer are the caller's: see
    /// [`AdminClient::check`].
    pub fn ask<R>(
        &self,
        to: Recipient,
        timeout: Duration,
        build: impl Fn(i16) -> R + Send + Sync + 'static,
        code: impl Fn(&R::Response) -> i16 + Send + Sync + 'static,
    ) -> Result<R::Response, ClientError>
    where
        R: RequestResponsePair + Send + Sync + 'static,
        R::Response: Send + 'static,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.wire.ask(to, timeout, build, code, move |answer| {
            // Nobody waits any more after the timeout below.
            let _ = sender.send(answer);
        });
        match receiver.recv_timeout(timeout + Duration::from_secs(5)) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(
                ClientError::new(ClientErrorKind::Fatal, "the wire client's thread has ended"),
            ),
        }
    }

    /// An error code of an answer as an error that names what was done; 0 is none.
    ///
    /// # Errors
    /// When the code is one.
    pub fn check(code: i16, what: &str, message: Option<&str>) -> Result<(), ClientError> {
        error_code::check(code, what, message)
    }
}

impl fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdminClient").field(&self.wire).finish()
    }
}
