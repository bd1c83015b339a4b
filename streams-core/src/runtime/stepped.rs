//! An application that does nothing by itself: a simulation decides which of its threads takes a step, when what is done aside is done, and what
//! time it is. The code that runs is that of [`Streams::start`].

use std::sync::Arc;
use std::sync::mpsc;
use std::task::Waker;

use super::application::Application;
use super::aside::{Aside, Job};
use super::metrics::{Metric, ThreadMetrics};
use super::stream_thread::StreamThread;
use super::streams::{Started, Streams};
use crate::error::StreamsError;

/// A started application whose threads are stepped by the caller. Dropped without [`SteppedStreams::close`] it is as good as killed:
/// nothing is committed.
pub struct SteppedStreams {
    application: Arc<Application>,
    threads: Vec<(Arc<ThreadMetrics>, StreamThread)>,
    aside: mpsc::Receiver<Job>,
}

impl SteppedStreams {
    /// Starts as [`Streams::start`] does, without a thread. Waits are the clock's: [`crate::clock::Clock::wait`].
    ///
    /// # Errors
    /// As [`Streams::start`].
    pub fn start(streams: Streams) -> Result<Self, StreamsError> {
        let (queue, aside) = mpsc::channel();
        let Started {
            application,
            assigned,
            producers,
            ..
        } = streams.begin(Aside::Queue(queue))?;
        let application = Arc::new(application);
        let mut producers = producers.into_iter();
        let mut threads = Vec::new();
        for (number, tasks) in (1..).zip(assigned) {
            let metrics = Arc::new(ThreadMetrics::default());
            let thread = StreamThread::new(
                Arc::clone(&application),
                Arc::clone(&metrics),
                &application.thread_name(number),
                number,
                Waker::noop().clone(),
                tasks,
                producers.next(),
            )?;
            threads.push((metrics, thread));
        }
        Ok(Self {
            application,
            threads,
            aside,
        })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// One round of a thread; whether it has done anything.
    ///
    /// # Errors
    /// What ends the thread, and with it the application.
    pub fn step(&mut self, thread: usize) -> Result<bool, StreamsError> {
        let now_ms = self.application.clock.now_ms();
        match self.threads.get_mut(thread) {
            Some((_, thread)) => Ok(thread.step(now_ms)?.progressed),
            None => Ok(false),
        }
    }

    /// Does the next of what is to be done aside of the threads; whether there was something.
    pub fn step_aside(&mut self) -> bool {
        match self.aside.try_recv() {
            Ok(job) => {
                job();
                true
            }
            Err(_) => false,
        }
    }

    /// Asks the threads for a last commit.
    pub fn stop(&mut self) {
        for (_, thread) in &mut self.threads {
            thread.stop();
        }
    }

    /// Whether all have made it.
    pub fn stopped(&self) -> bool {
        self.threads.iter().all(|(_, thread)| thread.stopped())
    }

    /// Whether every task processes.
    pub fn restored(&self) -> bool {
        self.threads.iter().all(|(_, thread)| thread.restored())
    }

    /// The sum over all threads of the metric of this name.
    pub fn metric_total(&self, name: &str) -> f64 {
        let mut metrics: Vec<Metric> = Vec::new();
        for (thread, _) in &self.threads {
            thread.report("", &mut metrics);
        }
        let of_name = metrics.iter().filter(|metric| metric.name == name);
        of_name.map(|metric| metric.value).sum()
    }

    /// Closes tasks and stores, and leaves the group.
    ///
    /// # Errors
    /// When a thread cannot be closed.
    pub fn close(mut self) -> Result<(), StreamsError> {
        for (_, thread) in self.threads.drain(..) {
            thread.close()?;
        }
        self.application.release_claim();
        Ok(())
    }
}
