//! Starting and stopping an application: Kafka Streams' `KafkaStreams`, as a builder ([`Streams`]) and a running instance ([`RunningStreams`]).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use brooklet_state_stores::Memory;

use crate::client::{
    AdminRequest, AdminResponse, Cluster, CommittedOffset, OffsetSpec, Producer, TopicPartition,
};
use crate::clock::{Clock, SystemClock};
use crate::config::{AutoOffsetReset, ErrorResponse, ProcessingGuarantee, StreamsConfig};
use crate::error::StreamsError;
use crate::topology::{TaskId, Topology, check_name};

use super::application::Application;
use super::aside::Aside;
use super::metrics::{CommitLatencies, Metric, ThreadMetrics};
use super::requests::{Requests, thread_waker};
use super::restoration_progress::RestorationProgress;
use super::state_directory::StateDirectory;
use super::stream_thread::{Assigned, AssignedInput, StreamThread};
use super::{caught_up, internal_topics};

/// An application that is about to start: a topology, a cluster, settings.
///
/// ```no_run
/// # fn cluster() -> impl brooklet_streams_core::client::Cluster + 'static { unreachable() }
/// # fn unreachable() -> brooklet_streams_core::client::kafka::KafkaCluster { panic!() }
/// # fn topology() -> brooklet_streams_core::topology::Topology { panic!() }
/// use brooklet_streams_core::Streams;
///
/// Streams::new("flight-delays", topology()).cluster(cluster()).set("commit.interval.ms", "1000").start()?.run_until_stopped()?;
/// # Ok::<(), brooklet_streams_core::StreamsError>(())
/// ```
#[must_use = "an application does nothing before start()"]
pub struct Streams {
    config: StreamsConfig,
    topology: Topology,
    cluster: Option<Arc<dyn Cluster>>,
    clock: Arc<dyn Clock>,
    /// The first setting that was refused; reported by `start`, so that settings chain.
    refused: Option<StreamsError>,
}

impl Streams {
    /// The application `application_id` (`application.id`: group id, prefix of internal topics, directory of its state).
    pub fn new(application_id: impl Into<String>, topology: Topology) -> Self {
        Self {
            config: StreamsConfig::new(application_id),
            topology,
            cluster: None,
            clock: Arc::new(SystemClock),
            refused: None,
        }
    }

    /// The cluster it reads from and writes to.
    pub fn cluster(mut self, cluster: impl Cluster + 'static) -> Self {
        self.cluster = Some(Arc::new(cluster));
        self
    }

    /// Sets a setting by Kafka's name; see [`StreamsConfig`]. A wrong one is reported by [`Streams::start`].
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(error) = self.config.set(name, value) {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// `processing.guarantee`.
    pub fn processing_guarantee(mut self, guarantee: ProcessingGuarantee) -> Self {
        self.config.processing_guarantee = guarantee;
        self
    }

    /// `state.dir`.
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.state_dir = directory.into();
        self
    }

    /// `num.stream.threads`, at least one.
    pub fn stream_threads(mut self, threads: usize) -> Self {
        self.config.stream_threads = threads.max(1);
        self
    }

    /// `commit.interval.ms`.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.config.commit_interval_ms =
            Some(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX));
        self
    }

    /// `max.task.idle.ms`: `None` never waits for an empty partition (-1).
    pub fn max_task_idle(mut self, idle: Option<Duration>) -> Self {
        self.config.max_task_idle_ms = idle.map_or(-1, |idle| {
            i64::try_from(idle.as_millis()).unwrap_or(i64::MAX)
        });
        self
    }

    /// `statestore.cache.max.bytes`: record cache of all threads together; 0 turns it off.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.config.cache_bytes_max = bytes;
        self
    }

    /// `state.memory.max.bytes`: block cache and write buffers of all RocksDB stores.
    pub fn state_memory_bytes(mut self, bytes: usize) -> Self {
        self.config.state_memory_bytes_max = bytes;
        self
    }

    /// `deserialization.exception.handler`.
    pub fn deserialization_handler(mut self, response: ErrorResponse) -> Self {
        self.config.deserialization_handler = response;
        self
    }

    /// `processing.exception.handler`.
    pub fn processing_handler(mut self, response: ErrorResponse) -> Self {
        self.config.processing_handler = response;
        self
    }

    /// `production.exception.handler`: of records that a sink cannot write.
    pub fn production_handler(mut self, response: ErrorResponse) -> Self {
        self.config.production_handler = response;
        self
    }

    /// Another clock than the machine's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts: takes the state directory and the group, creates internal topics, assigns tasks to threads. Restoration goes on in the
    /// threads. Blocks for as long as the cluster takes to answer; does not need, and does not mind, a tokio runtime.
    ///
    /// # Errors
    /// A refused setting, a missing source topic, an unreachable cluster, a second instance.
    pub fn start(self) -> Result<RunningStreams, StreamsError> {
        RunningStreams::spawn(self.begin(Aside::Threads)?)
    }

    /// Everything of a start but the threads.
    pub(crate) fn begin(self, aside: Aside) -> Result<Started, StreamsError> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let config = self.config;
        let invalid = |name: &str, message: &str| StreamsError::Config {
            name: name.to_owned(),
            message: message.to_owned(),
        };
        check_name(&config.application_id)
            .map_err(|error| invalid("application.id", &error.to_string()))?;
        let cluster = self.cluster.ok_or_else(|| invalid("bootstrap.servers", "no cluster is set: call .cluster(Cluster::embedded(dir)) or .cluster(Cluster::kafka(address))"))?;
        let state = StateDirectory::open(&config.state_dir, &config.application_id)?;
        let memory = Memory::new(config.state_memory_bytes_max);
        let application = Application {
            topology: self.topology,
            cluster,
            clock: self.clock,
            state,
            memory,
            restoration: RestorationProgress::new(),
            aside,
            claim: Mutex::default(),
            config,
        };
        let mut requests = application.requests()?;
        let partitions = prepare_topics(&application, &mut requests)?;
        application.hold_claim(&partitions)?;
        // Before offsets are asked for: nothing of an earlier life may be on its way then.
        let producers = match application.config.processing_guarantee {
            ProcessingGuarantee::AtLeastOnce => Vec::new(),
            ProcessingGuarantee::ExactlyOnce => {
                let threads = application.config.stream_threads;
                let threads_before = application.state.stream_threads(threads)?;
                let names: Vec<String> = (1..=threads)
                    .map(|number| application.thread_name(number))
                    .collect();
                application.initialize_producers(&names, threads_before)?
            }
        };
        let assigned = assign(&application, &mut requests, &partitions)?;
        Ok(Started {
            application,
            requests,
            assigned,
            producers,
        })
    }
}

/// An application whose threads are to take on their tasks.
pub(crate) struct Started {
    pub(crate) application: Application,
    requests: Requests,
    /// For each thread.
    pub(crate) assigned: Vec<Vec<Assigned>>,
    /// For each thread, initialised, exactly once.
    pub(crate) producers: Vec<Box<dyn Producer>>,
}

fn unexpected(what: &str) -> StreamsError {
    StreamsError::Other(format!(
        "the cluster answered a request for {what} with something else"
    ))
}

/// Checks the topics of the user, and creates the internal ones. The partition count of each that is read.
fn prepare_topics(
    application: &Application,
    requests: &mut Requests,
) -> Result<HashMap<String, i32>, StreamsError> {
    let Application {
        config, topology, ..
    } = application;
    let missing = |what: &str, topic: &str| {
        let cluster = application.cluster.name();
        StreamsError::Other(format!(
            "{what} topic {topic} does not exist on {cluster}: create it first, e.g. `brooklet topic create {topic} --partitions 4`"
        ))
    };
    let mut partitions = HashMap::new();
    for (topic, found) in internal_topics::describe(requests, topology.source_topics())? {
        let count = found.ok_or_else(|| missing("source", &topic))?;
        partitions.insert(topic, count);
    }
    for (topic, found) in internal_topics::describe(requests, topology.sink_topics())? {
        found.ok_or_else(|| missing("sink", &topic))?;
    }
    let known = |topic: &str| partitions.get(topic).copied();
    let mut internal = topology.internal_topics(
        &config.application_id,
        known,
        config.window_changelog_additional_retention_ms,
    )?;
    for topic in &mut internal {
        topic.replication_factor = config.replication_factor;
        topic
            .configs
            .extend(config.internal_topic_configs.iter().cloned());
    }
    internal_topics::create(requests, &internal)?;
    for topic in internal
        .into_iter()
        .filter(|topic| topology.is_repartition_topic(&config.application_id, &topic.name))
    {
        partitions.insert(topic.name, topic.partitions);
    }
    Ok(partitions)
}

/// Which tasks there are, where their inputs begin, and which thread takes them.
fn assign(
    application: &Application,
    requests: &mut Requests,
    partitions: &HashMap<String, i32>,
) -> Result<Vec<Vec<Assigned>>, StreamsError> {
    let Application {
        config, topology, ..
    } = application;
    let id = &config.application_id;
    let tasks = topology.tasks(id, |topic| partitions.get(topic).copied())?;
    let inputs: Vec<TopicPartition> = tasks
        .iter()
        .flat_map(|task| task.inputs.iter().cloned())
        .collect();
    let globals: Vec<(TaskId, Vec<TopicPartition>)> = topology
        .global_stores()
        .into_iter()
        .map(|global| {
            let count = partitions.get(&global.topic).copied().unwrap_or(0);
            let inputs = (0..count)
                .map(|partition| TopicPartition::new(global.topic.as_str(), partition))
                .collect();
            (
                TaskId {
                    subtopology: global.subtopology,
                    partition: 0,
                },
                inputs,
            )
        })
        .collect();
    let starts = starting_offsets(application, requests, &inputs)?;
    let input = |partition: TopicPartition, start: CommittedOffset| AssignedInput {
        repartition: topology.is_repartition_topic(id, &partition.topic),
        partition,
        start,
    };
    let from_the_start = || CommittedOffset {
        offset: 0,
        metadata: String::new(),
    };
    let mut threads: Vec<Vec<Assigned>> = (0..config.stream_threads)
        .map(|_| {
            globals
                .iter()
                .map(|(id, inputs)| Assigned {
                    id: *id,
                    global: true,
                    inputs: inputs
                        .iter()
                        .map(|partition| input(partition.clone(), from_the_start()))
                        .collect(),
                })
                .collect()
        })
        .collect();
    for (index, task) in tasks.into_iter().enumerate() {
        let inputs = task.inputs.into_iter().map(|partition| {
            let start = starts
                .get(&partition)
                .cloned()
                .unwrap_or_else(from_the_start);
            input(partition, start)
        });
        let assigned = Assigned {
            id: task.id,
            global: false,
            inputs: inputs.collect(),
        };
        if let Some(thread) = threads.get_mut(index % config.stream_threads) {
            thread.push(assigned);
        }
    }
    Ok(threads)
}

/// Committed offsets, or where the reset policy says to begin.
pub(super) fn starting_offsets(
    application: &Application,
    requests: &mut Requests,
    inputs: &[TopicPartition],
) -> Result<HashMap<TopicPartition, CommittedOffset>, StreamsError> {
    let Application {
        config, topology, ..
    } = application;
    let fetch = AdminRequest::FetchOffsets {
        group: config.application_id.clone(),
        partitions: inputs.to_vec(),
    };
    let AdminResponse::CommittedOffsets(committed) = requests.call(fetch)? else {
        return Err(unexpected("committed offsets"));
    };
    let mut starts: HashMap<TopicPartition, CommittedOffset> = committed
        .into_iter()
        .filter_map(|(partition, offset)| Some((partition, offset?)))
        .collect();
    let missing: Vec<(TopicPartition, OffsetSpec)> = inputs
        .iter()
        .filter(|partition| !starts.contains_key(*partition))
        .map(|partition| {
            let id = &config.application_id;
            // Everything in a repartition topic is this application's own, whatever the policy for its input.
            let reset = if topology.is_repartition_topic(id, &partition.topic) {
                AutoOffsetReset::Earliest
            } else {
                topology
                    .offset_reset(id, &partition.topic)
                    .unwrap_or(config.auto_offset_reset)
            };
            match reset {
                AutoOffsetReset::Earliest => Ok((partition.clone(), OffsetSpec::Earliest)),
                AutoOffsetReset::Latest => Ok((
                    partition.clone(),
                    OffsetSpec::Latest {
                        read_committed: false,
                    },
                )),
                AutoOffsetReset::None => Err(StreamsError::Other(format!(
                    "{partition} has no committed offset, and auto.offset.reset is none"
                ))),
            }
        })
        .collect::<Result<_, _>>()?;
    if !missing.is_empty() {
        let AdminResponse::Offsets(offsets) = requests.call(AdminRequest::ListOffsets(missing))?
        else {
            return Err(unexpected("offsets"));
        };
        for (partition, offset) in offsets {
            starts.insert(
                partition,
                CommittedOffset {
                    offset: offset?,
                    metadata: String::new(),
                },
            );
        }
    }
    Ok(starts)
}

/// Where an application is in its life: Kafka Streams' `KafkaStreams.State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stores are being restored.
    Rebalancing,
    /// Every task processes.
    Running,
    /// It was told to stop.
    PendingShutdown,
    /// It has stopped, everything committed.
    NotRunning,
    /// A thread has failed: all have stopped.
    Error,
}

/// What the threads and the handle share.
struct Shared {
    stop: AtomicBool,
    status: Mutex<Status>,
    changed: Condvar,
}

struct Status {
    threads: usize,
    restored: usize,
    ended: usize,
    commits: u64,
    error: Option<String>,
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status());
        self.changed.notify_all();
    }
}

/// Stops an application from anywhere: a signal handler, another thread. Cheap to clone.
#[derive(Clone)]
pub struct StopHandle {
    shared: Arc<Shared>,
    wakers: Arc<Vec<Waker>>,
}

impl StopHandle {
    /// Asks the threads to commit and end. Returns at once.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.change(|_| {});
        for waker in self.wakers.iter() {
            waker.wake_by_ref();
        }
    }
}

/// A started application. Dropping it stops it.
pub struct RunningStreams {
    application: Arc<Application>,
    shared: Arc<Shared>,
    stop: StopHandle,
    threads: Vec<(String, Arc<ThreadMetrics>, Option<JoinHandle<()>>)>,
    requests: Mutex<Requests>,
    inputs: Vec<TopicPartition>,
}

impl RunningStreams {
    fn spawn(started: Started) -> Result<Self, StreamsError> {
        let Started {
            application,
            requests,
            assigned,
            producers,
        } = started;
        let application = Arc::new(application);
        let inputs = assigned
            .iter()
            .flatten()
            .filter(|task| !task.global)
            .flat_map(|task| task.inputs.iter().map(|input| input.partition.clone()))
            .collect();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            status: Mutex::new(Status {
                threads: assigned.len(),
                restored: 0,
                ended: 0,
                commits: 0,
                error: None,
            }),
            changed: Condvar::new(),
        });
        let mut threads = Vec::new();
        let mut wakers = Vec::new();
        let mut producers = producers.into_iter();
        for (number, tasks) in (1..).zip(assigned) {
            let name = application.thread_name(number);
            let producer = producers.next();
            let metrics = Arc::new(ThreadMetrics::default());
            let (send_waker, receive_waker) = mpsc::channel();
            let run = ThreadRun {
                application: Arc::clone(&application),
                shared: Arc::clone(&shared),
                metrics: Arc::clone(&metrics),
                name: name.clone(),
                number,
            };
            let handle = thread::Builder::new()
                .name(name.clone())
                .spawn(move || {
                    let waker = thread_waker();
                    // The receiver waits for it below.
                    let _ = send_waker.send(waker.clone());
                    run.run(waker, tasks, producer);
                })
                .map_err(|error| {
                    // Those that have started end.
                    shared.stop.store(true, Ordering::SeqCst);
                    StreamsError::Other(format!("thread {name} cannot be started: {error}"))
                })?;
            if let Ok(waker) = receive_waker.recv() {
                wakers.push(waker);
            }
            threads.push((name, metrics, Some(handle)));
        }
        let stop = StopHandle {
            shared: Arc::clone(&shared),
            wakers: Arc::new(wakers),
        };
        Ok(Self {
            application,
            shared,
            stop,
            threads,
            requests: Mutex::new(requests),
            inputs,
        })
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        let status = self.shared.status();
        if status.error.is_some() {
            State::Error
        } else if status.ended == status.threads {
            State::NotRunning
        } else if self.shared.stop.load(Ordering::SeqCst) {
            State::PendingShutdown
        } else if status.restored == status.threads {
            State::Running
        } else {
            State::Rebalancing
        }
    }

    /// A handle that stops it from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Counters under Kafka Streams' names.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (name, thread, _) in &self.threads {
            thread.report(name, &mut metrics);
        }
        metrics
    }

    /// The sum over all threads of the metric of this name, e.g. `process-total`.
    pub fn metric_total(&self, name: &str) -> f64 {
        self.metrics()
            .iter()
            .filter(|metric| metric.name == name)
            .map(|metric| metric.value)
            .sum()
    }

    /// How many commits were made, and how long they took.
    pub fn commit_latencies(&self) -> CommitLatencies {
        CommitLatencies::of(self.threads.iter().map(|(_, metrics, _)| &**metrics))
    }

    /// Records between the committed offsets and the ends of all inputs, repartition topics included.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn lag(&self) -> Result<u64, StreamsError> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        caught_up::lag(
            &mut requests,
            &self.application.config.application_id,
            &self.inputs,
        )
    }

    /// Waits until all input that is there has been processed and committed, through all repartition topics.
    ///
    /// # Errors
    /// When a thread fails, or `timeout` passes; the message says how many records remain.
    pub fn wait_until_caught_up(&self, timeout: Duration) -> Result<(), StreamsError> {
        let deadline = Instant::now() + timeout;
        loop {
            let commits = {
                let status = self.shared.status();
                if status.error.is_some() || status.ended > 0 {
                    return Err(ended_early(&status));
                }
                status.commits
            };
            let lag = self.lag()?;
            if lag == 0 {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StreamsError::Other(format!(
                    "{lag} records are not yet processed and committed after {timeout:?}"
                )));
            }
            // Nothing can have changed before the next commit.
            let status = self.shared.status();
            drop(
                self.shared
                    .changed
                    .wait_timeout_while(status, left, |status| {
                        status.commits == commits && status.error.is_none() && status.ended == 0
                    }),
            );
        }
    }

    /// Stops: the threads commit, close their stores and end.
    ///
    /// # Errors
    /// The failure of a thread, if one has failed.
    pub fn stop(mut self) -> Result<(), StreamsError> {
        self.stop.stop();
        self.join()
    }

    /// Blocks until the process is told to stop (SIGINT, SIGTERM, [`StopHandle::stop`]) or a thread fails, then stops.
    ///
    /// # Errors
    /// The failure of a thread, if one has failed.
    pub fn run_until_stopped(mut self) -> Result<(), StreamsError> {
        super::signal::stop_on_signal(self.stop.clone())?;
        let status = self.shared.status();
        drop(
            self.shared
                .changed
                .wait_while(status, |status| {
                    status.ended < status.threads
                        && status.error.is_none()
                        && !self.shared.stop.load(Ordering::SeqCst)
                })
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.stop.stop();
        self.join()
    }

    fn join(&mut self) -> Result<(), StreamsError> {
        for (_, _, handle) in &mut self.threads {
            if let Some(handle) = handle.take()
                && handle.join().is_err()
            {
                self.shared.change(|status| {
                    status
                        .error
                        .get_or_insert_with(|| "a stream thread panicked".to_owned());
                });
            }
        }
        self.application.release_claim();
        match self.shared.status().error.take() {
            Some(error) => Err(StreamsError::Other(error)),
            None => Ok(()),
        }
    }
}

impl Drop for RunningStreams {
    fn drop(&mut self) {
        self.stop.stop();
        if let Err(error) = self.join() {
            tracing::error!(%error, "application stopped with an error");
        }
    }
}

fn ended_early(status: &Status) -> StreamsError {
    StreamsError::Other(
        status
            .error
            .clone()
            .unwrap_or_else(|| "the application was stopped".to_owned()),
    )
}

/// What runs on one thread: steps until told to stop.
struct ThreadRun {
    application: Arc<Application>,
    shared: Arc<Shared>,
    metrics: Arc<ThreadMetrics>,
    name: String,
    number: usize,
}

impl ThreadRun {
    fn run(self, waker: Waker, tasks: Vec<Assigned>, producer: Option<Box<dyn Producer>>) {
        let shared = Arc::clone(&self.shared);
        let name = self.name.clone();
        /// Counts the thread as ended however it ends, so that nobody waits for it for ever.
        struct Ended(Arc<Shared>);
        impl Drop for Ended {
            fn drop(&mut self) {
                let panicked = thread::panicking();
                if panicked {
                    self.0.stop.store(true, Ordering::SeqCst);
                }
                self.0.change(|status| {
                    status.ended += 1;
                    if panicked {
                        status
                            .error
                            .get_or_insert_with(|| "a stream thread panicked".to_owned());
                    }
                });
            }
        }
        let _ended = Ended(Arc::clone(&shared));
        if let Err(error) = self.steps(waker, tasks, producer) {
            tracing::error!(thread = name, %error, "stream thread failed; the application stops");
            shared.change(|status| {
                status.error.get_or_insert_with(|| error.to_string());
            });
            shared.stop.store(true, Ordering::SeqCst);
        }
    }

    fn steps(
        self,
        waker: Waker,
        tasks: Vec<Assigned>,
        producer: Option<Box<dyn Producer>>,
    ) -> Result<(), StreamsError> {
        let clock = Arc::clone(&self.application.clock);
        let mut thread = StreamThread::new(
            self.application,
            Arc::clone(&self.metrics),
            &self.name,
            self.number,
            waker,
            tasks,
            producer,
        )?;
        let mut restored = false;
        let mut commits = 0;
        loop {
            if self.shared.stop.load(Ordering::SeqCst) {
                thread.stop();
            }
            let now_ms = clock.now_ms();
            let step = thread.step(now_ms)?;
            if !restored && thread.restored() {
                restored = true;
                self.shared.change(|status| status.restored += 1);
            }
            let now_commits = self.metrics.commit_total.load(Ordering::Relaxed);
            if now_commits != commits {
                commits = now_commits;
                self.shared.change(|status| status.commits += 1);
            }
            if thread.stopped() {
                return thread.close();
            }
            if !step.progressed {
                let wait_ms = u64::try_from(step.wake_at_ms - now_ms).unwrap_or(0);
                thread::park_timeout(Duration::from_millis(wait_ms));
            }
        }
    }
}
