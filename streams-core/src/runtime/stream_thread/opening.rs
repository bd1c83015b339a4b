//! Opening tasks anew beside their thread: what the cluster and the disk are to be waited for is waited for by another thread that lives as long.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use brooklet_state_stores::Stores;

use super::{Assigned, Opening, StreamThread};
use crate::error::StreamsError;
use crate::runtime::application::Application;
use crate::runtime::aside::Doing;
use crate::runtime::streams::starting_offsets;

/// Tasks that are being opened on a thread of their own.
pub(super) struct Reopening {
    opened: mpsc::Receiver<Result<Opening, StreamsError>>,
    /// Dropped, it waits until what is open can be closed.
    _doing: Doing,
}

impl Reopening {
    /// The opened tasks, once, when they are there.
    pub(super) fn poll(&self) -> Option<Result<Opening, StreamsError>> {
        match self.opened.try_recv() {
            Ok(opening) => Some(opening),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => Some(Err(StreamsError::Other(
                "the thread that opens tasks has panicked".to_owned(),
            ))),
        }
    }
}

impl StreamThread {
    /// Begins to open tasks as a start does, after the stores in `damaged` are deleted. What `given_up` has open is closed first.
    pub(super) fn reopen(
        &self,
        given_up: Option<Reopening>,
        damaged: Vec<PathBuf>,
        assigned: Vec<Assigned>,
    ) -> Result<Reopening, StreamsError> {
        let application = Arc::clone(&self.application);
        let (name, waker) = (self.name.clone(), self.waker.clone());
        let (send, opened) = mpsc::channel();
        let job = move || {
            // What that has open is locked.
            drop(given_up);
            let opening = open_anew(&application, &name, damaged, assigned);
            // Nobody waits for it any more when the thread has ended.
            let _ = send.send(opening);
            waker.wake();
        };
        let aside = &self.application.aside;
        let doing = aside.begin(&format!("{}-opening", self.name), Box::new(job))?;
        Ok(Reopening {
            opened,
            _doing: doing,
        })
    }
}

/// Deletes what is damaged, opens what is there, and asks the cluster where everything is.
fn open_anew(
    application: &Application,
    thread_name: &str,
    damaged: Vec<PathBuf>,
    mut assigned: Vec<Assigned>,
) -> Result<Opening, StreamsError> {
    for directory in damaged {
        tracing::warn!(directory = %directory.display(), "stores are deleted, to be rebuilt from their changelogs");
        Stores::delete(&directory)?;
    }
    let partitions: Vec<_> = assigned
        .iter()
        .flat_map(|task| task.inputs.iter().map(|input| input.partition.clone()))
        .collect();
    let mut requests = application.requests()?;
    let starts = starting_offsets(application, &mut requests, &partitions)?;
    for input in assigned.iter_mut().flat_map(|task| &mut task.inputs) {
        if let Some(start) = starts.get(&input.partition) {
            input.start = start.clone();
        }
    }
    Opening::new(application, thread_name, assigned, &mut requests)
}
