//! What has to wait for the cluster or the disk is done aside of a stream thread, whose steps never wait.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::error::StreamsError;

/// Something to be done aside.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Who does it.
pub(crate) enum Aside {
    /// A thread for each, which lives as long.
    Threads,
    /// Whoever has the other end, one after the other.
    #[cfg_attr(not(feature = "simulation"), allow(dead_code))]
    Queue(mpsc::Sender<Job>),
}

/// Something that is being done aside.
pub(crate) struct Doing(Option<JoinHandle<()>>);

impl Aside {
    /// Has it done, under this name.
    pub(crate) fn begin(&self, name: &str, job: Job) -> Result<Doing, StreamsError> {
        match self {
            Self::Threads => match thread::Builder::new().name(name.to_owned()).spawn(job) {
                Ok(thread) => Ok(Doing(Some(thread))),
                Err(error) => Err(StreamsError::Other(format!(
                    "thread {name} cannot be started: {error}"
                ))),
            },
            Self::Queue(queue) => {
                // Nobody waits for it when the other end is gone.
                let _ = queue.send(job);
                Ok(Doing(None))
            }
        }
    }
}

impl Drop for Doing {
    /// Waits until a thread has ended. What is in a queue comes before whatever is begun later.
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}
