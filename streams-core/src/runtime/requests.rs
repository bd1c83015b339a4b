//! Asking the cluster at the edge: one request, wait for its answer, with retries.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::client::{Admin, AdminRequest, AdminResponse, ClientError, ClientErrorKind};
use crate::clock::Clock;

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// A waker for the calling thread, which is to park in [`Clock::wait`].
pub(crate) fn thread_waker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// An admin client whose caller waits.
pub(crate) struct Requests {
    admin: Box<dyn Admin>,
    clock: Arc<dyn Clock>,
    timeout_ms: i64,
}

impl Requests {
    /// Requests that are given up `timeout_ms` after they were first sent.
    pub(crate) fn new(admin: Box<dyn Admin>, clock: Arc<dyn Clock>, timeout_ms: i64) -> Self {
        Self {
            admin,
            clock,
            timeout_ms,
        }
    }

    /// Sends `request` and waits for its answer. Retriable errors are retried until the time-out.
    pub(crate) fn call(&mut self, request: AdminRequest) -> Result<AdminResponse, ClientError> {
        let waker = thread_waker();
        let deadline_ms = self.clock.now_ms().saturating_add(self.timeout_ms);
        let mut answers = Vec::new();
        let mut backoff = Duration::from_millis(10);
        loop {
            let id = self.admin.submit(request.clone());
            let answer = 'answer: loop {
                let now_ms = self.clock.now_ms();
                self.admin.poll(now_ms, &waker, &mut answers);
                for (answered, answer) in answers.drain(..) {
                    if answered == id {
                        break 'answer answer;
                    }
                }
                if now_ms >= deadline_ms {
                    return Err(ClientError::new(
                        ClientErrorKind::Retriable,
                        format!("no answer within {} ms", self.timeout_ms),
                    ));
                }
                self.clock.wait(Duration::from_millis(100));
            };
            match answer {
                Err(error)
                    if error.kind == ClientErrorKind::Retriable
                        && self.clock.now_ms() < deadline_ms =>
                {
                    tracing::debug!(%error, "request will be retried");
                    self.clock.wait(backoff);
                    backoff = (backoff * 2).min(Duration::from_secs(1));
                }
                answer => return answer,
            }
        }
    }
}
