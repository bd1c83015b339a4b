//! A broker in the process: its parts, how it opens and stops, and what a caller in the same process uses.
//!
//! `Broker` is a handle; `Core` is what the handlers see. The core has no thread, socket or clock of its own: `flush_once` and `step`
//! are called by two threads of ours (`Drive::Threads`) or by the caller (`Drive::Manual`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use uuid::Uuid;

use crate::cleaning::{CleanerStats, Cleaning, Compacted};
use crate::config::{BrokerConfig, Drive, Flush};
use crate::coordinator::group::{self, GroupCoordinator, classic};
use crate::coordinator::producer_ids::ProducerIds;
use crate::coordinator::transaction::{self, TransactionCoordinator};
use crate::data_dir::{DataDir, Offsets};
use crate::deletions::{Deletions, Doomed};
use crate::error::BrokerError;
use crate::handlers::{self, FetchSessions, of_transaction};
use crate::log::cleaner::CleanError;
use crate::log::{AppendError, AppendOrigin, Appended, Log, LogConfig, LogError, OpenOptions};
use crate::metadata::{
    self, Catalog, Command, ConfigResource, GroupConfig, Journal, OFFSETS_TOPIC, Refusal,
    TRANSACTIONS_TOPIC, Topic, topic_config,
};
use crate::metrics::{self, Metrics};
use crate::protocol::compression::Codec;
use crate::protocol::record_batch::{BatchHeader, TimestampType};
use crate::protocol::{ApiRequest, ErrorCode, Request, RequestContext, Response};
use crate::reopening::Reopenings;
use crate::replica::{Dirty, Partition, PartitionError, Waiting, Watch};

/// An open broker. Cloning it is cheap; the last clone that is dropped stops the threads, without a clean shutdown: use `shutdown`.
#[derive(Debug, Clone)]
pub struct Broker {
    core: Arc<Core>,
    _threads: Option<Arc<Threads>>,
}

/// Called with the answer to a request.
pub type Answer = Box<dyn FnOnce(Response) + Send>;

/// Why a batch of a transaction is refused.
#[derive(Debug, thiserror::Error)]
pub enum TransactionalAppendError {
    /// The coordinator does not have the partition in an open transaction of this producer.
    #[error("{}", .0.message())]
    Refused(ErrorCode),
    /// The partition refuses.
    #[error(transparent)]
    Partition(#[from] PartitionError),
}

impl Broker {
    /// Opens the data directory, recovers what a crash left, and replays metadata and committed offsets.
    pub fn open(config: BrokerConfig) -> Result<Self, BrokerError> {
        let drive = config.drive;
        let core = Core::open(config)?;
        let threads = match drive {
            Drive::Manual => None,
            Drive::Threads => Some(Arc::new(Threads::start(&core)?)),
        };
        Ok(Self {
            core,
            _threads: threads,
        })
    }

    /// Makes a request, as a client would over the wire, and waits for its answer: on disk where the answer means that. For requests that do
    /// not wait for others; a long-polling fetch or a join holds the calling thread. With `Drive::Manual` it flushes as needed, and
    /// an answer that needs time to pass is `BrokerError::Closed`.
    pub fn call<R: ApiRequest>(&self, request: R) -> Result<R::Response, BrokerError> {
        let slot: Arc<(Mutex<Option<Response>>, Condvar)> = Arc::default();
        let filled = slot.clone();
        self.submit(
            &RequestContext::in_process("in-process"),
            request.into(),
            Box::new(move |response| {
                *filled.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
                filled.1.notify_all();
            }),
        );
        let mut response = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        if response.is_none() && self._threads.is_none() {
            // An answer may take several rounds: a transaction's outcome, then its markers.
            loop {
                drop(response);
                let synced = self.flush_once();
                response = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
                if response.is_some() {
                    break;
                }
                if synced == 0 {
                    return Err(BrokerError::Closed);
                }
            }
        }
        while response.is_none() {
            response = slot
                .1
                .wait(response)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let response = response.take().ok_or(BrokerError::Closed)?;
        R::Response::try_from(response).map_err(|_| BrokerError::Closed)
    }

    /// Makes a request; the answer comes when it is due, on whatever thread makes it so. The answer must be quick and must not call back
    /// into the broker.
    pub fn submit(&self, context: &RequestContext, request: Request, answer: Answer) {
        handlers::handle(&self.core, context, request, answer);
    }

    /// A partition that this broker leads.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<Arc<Partition>> {
        self.core.partition(topic, partition)
    }

    /// The partition that holds a group's committed offsets, if the topic is there.
    pub fn offsets_partition(&self, group: &str) -> Option<Arc<Partition>> {
        let index = self.core.offsets_partition_index(group);
        self.core.partition(OFFSETS_TOPIC, index)
    }

    /// Appends a batch of this transactional id's open transaction, which the partition was added to. As `Partition::append`; the first batch
    /// on a partition asks the coordinator whether the transaction is still open.
    pub fn append_in_transaction(
        &self,
        transactional_id: &str,
        partition: &Arc<Partition>,
        batch: BytesMut,
        now_ms: i64,
    ) -> Result<Appended, TransactionalAppendError> {
        let header = BatchHeader::parse(&batch)
            .map_err(|error| PartitionError::Append(AppendError::Corrupt(error)))?;
        let (by, base_sequence) = (
            transaction::Producer {
                id: header.producer_id(),
                epoch: header.producer_epoch(),
            },
            header.base_sequence(),
        );
        let guard = partition.begin_verification(by.id, by.epoch, base_sequence, 2, now_ms)?;
        if guard.is_some() {
            let at = (partition.topic().clone(), partition.index());
            self.core
                .transactions
                .verify(&self.core, transactional_id, by, &at)
                .map_err(|error| TransactionalAppendError::Refused(of_transaction(error)))?;
        }
        let (appended, wake) =
            partition.append_verified(batch, AppendOrigin::Client, guard, now_ms)?;
        wake.wake();
        Ok(appended)
    }

    /// One round of group commit: syncs what is unsynced, advances high watermarks, wakes who waits. Returns how many partitions were synced.
    pub fn flush_once(&self) -> usize {
        self.core.dirty.flush_round()
    }

    /// Ends what has waited for too long, applies retention and writes checkpoints when they are due. Returns when it has to be called again.
    pub fn step(&self) -> i64 {
        self.core.step()
    }

    /// Compacts a partition now, whatever its dirty ratio, with the active segment. What each pass has done; `None` if there is no such
    /// partition, or its topic is not compacted.
    pub fn compact(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<Option<Vec<Compacted>>, CleanError> {
        let Some(partition) = self.core.partition(topic, partition) else {
            return Ok(None);
        };
        if partition.log_config().is_none_or(|config| !config.compact) {
            return Ok(None);
        }
        self.core.compact_now(&partition).map(Some)
    }

    /// What the cleaner has done since the broker was opened.
    pub fn cleaner_stats(&self) -> CleanerStats {
        self.core.cleaning.stats()
    }

    /// Stops cleanly: answers what waits, syncs and closes every log, and marks the directory, so that the next start re-reads nothing.
    /// Every other clone of this broker finds its partitions gone.
    pub fn shutdown(&self) -> Result<(), BrokerError> {
        if let Some(threads) = &self._threads {
            threads.stop();
        }
        self.core.shutdown()
    }

    /// Tells clients to connect here, unless the configuration says where.
    pub fn advertise(&self, host: &str, port: u16) {
        let mut endpoint = self
            .core
            .endpoint
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let config = &self.core.config;
        endpoint.0 = config
            .advertised_host
            .clone()
            .unwrap_or_else(|| host.to_owned());
        endpoint.1 = config.advertised_port.unwrap_or(port);
    }

    /// What it counts, in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        metrics::exposition(&self.core)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// Counts what an answer to a connection carries; returns the bytes of records in it.
    pub(crate) fn count_answer(&self, response: &Response) -> usize {
        self.core.count_answer(response)
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &BrokerConfig {
        &self.core.config
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The id of the cluster, which is this broker.
    pub fn cluster_id(&self) -> &str {
        &self.core.data_dir.cluster_id
    }
}

/// What the handlers see of a broker.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: BrokerConfig,
    pub(crate) data_dir: DataDir,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) groups: GroupCoordinator,
    pub(crate) transactions: TransactionCoordinator,
    pub(crate) cleaning: Cleaning,
    pub(crate) leader_epoch: i32,
    pub(crate) metrics: Metrics,
    pub(crate) fetch_sessions: Arc<FetchSessions>,
    pub(crate) opened_at_ms: i64,
    /// Serialises changes of the metadata; held while they are synced.
    journal: Mutex<Journal>,
    catalog: RwLock<Catalog>,
    partitions: RwLock<HashMap<Arc<str>, Vec<Arc<Partition>>, foldhash::fast::RandomState>>,
    producer_ids: Mutex<ProducerIds>,
    endpoint: RwLock<(String, u16)>,
    /// Defaults of topic configs: those the broker was opened with, under those that were set on it since.
    topic_defaults: RwLock<Arc<BTreeMap<String, String>>>,
    pub(crate) dirty: Arc<Dirty>,
    /// Keep the coordinators told of their topics' high watermarks.
    coordinator_watches: Mutex<Vec<Watch>>,
    /// Held from collecting offsets to the end of writing them: an older collection must not replace a newer one.
    checkpoint: Mutex<()>,
    next_retention_ms: AtomicI64,
    next_checkpoint_ms: AtomicI64,
    next_flush_ms: AtomicI64,
    deletions: Deletions,
    pub(crate) reopenings: Reopenings,
    closed: AtomicBool,
    timer: Timer,
}

/// Wakes the thread that calls `step` when a deadline earlier than the one it sleeps for appears.
#[derive(Debug)]
struct Timer {
    /// Set when deadlines have changed, or the thread has to stop.
    kicked: Mutex<bool>,
    changed: Condvar,
    /// What the thread sleeps for; the end of time while it is not asleep, so that whatever appears then makes it look again.
    asleep_until_ms: AtomicI64,
}

/// The wall clock may jump: the timer looks at it this often.
const TIMER_SLEEP_MAX: Duration = Duration::from_secs(10);

impl Default for Timer {
    fn default() -> Self {
        Self {
            kicked: Mutex::new(false),
            changed: Condvar::new(),
            asleep_until_ms: AtomicI64::new(i64::MAX),
        }
    }
}

impl Timer {
    fn kick(&self) {
        *self.kicked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Sleeps until the deadline, or until it is kicked.
    fn sleep(&self, now_ms: i64, deadline_ms: i64) {
        let mut kicked = self.kicked.lock().unwrap_or_else(PoisonError::into_inner);
        let time = Duration::from_millis(u64::try_from(deadline_ms - now_ms).unwrap_or(0))
            .min(TIMER_SLEEP_MAX);
        if !*kicked && !time.is_zero() {
            self.asleep_until_ms.store(deadline_ms, Ordering::SeqCst);
            kicked = self
                .changed
                .wait_timeout(kicked, time)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            self.asleep_until_ms.store(i64::MAX, Ordering::SeqCst);
        }
        *kicked = false;
    }
}

impl Core {
    fn open(config: BrokerConfig) -> Result<Arc<Self>, BrokerError> {
        let now_ms = config.clock.now_ms();
        let data_dir = DataDir::open(
            config.disk.clone(),
            &config.data_dir,
            config.node_id,
            config.lock_data_dir,
        )?;
        crate::replica::replay(
            data_dir.disk.as_ref(),
            &data_dir.path,
            data_dir.clean_shutdown,
        )?;
        let (mut journal, mut catalog) = Journal::open(data_dir.disk.as_ref(), &data_dir.path)?;
        if !data_dir.clean_shutdown {
            let command = Command::StartLeaderEpoch {
                epoch: catalog.leader_epoch() + 1,
            };
            journal.append(std::slice::from_ref(&command))?;
            catalog.replay(&command);
        }
        let host = config
            .advertised_host
            .clone()
            .unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = config.advertised_port.unwrap_or(9092);
        let rules = classic::Rules {
            initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
            session_timeout_ms_min: config.group_session_timeout_ms_min,
            session_timeout_ms_max: config.group_session_timeout_ms_max,
            size_max: config.group_size_max,
        };
        let journal_bytes_max = match config.flush {
            Flush::Durable => config.sync_journal_bytes_max,
            Flush::Os => 0,
        };
        let dirty = Dirty::new(data_dir.disk.clone(), &data_dir.path, journal_bytes_max);
        let (cleaning, cleaned) = Cleaning::open(data_dir.disk.as_ref(), &data_dir.path, &config);
        let core = Arc::new(Self {
            data_dir,
            cleaning,
            waiting: Arc::default(),
            groups: GroupCoordinator::new(rules),
            transactions: TransactionCoordinator::new(config.transaction_rules(), now_ms),
            leader_epoch: catalog.leader_epoch(),
            metrics: Metrics::default(),
            fetch_sessions: Arc::new(FetchSessions::new(now_ms)),
            opened_at_ms: now_ms,
            journal: Mutex::new(journal),
            partitions: RwLock::default(),
            producer_ids: Mutex::default(),
            endpoint: RwLock::new((host, port)),
            topic_defaults: RwLock::new(topic_defaults(&config, &catalog)),
            dirty: Arc::new(dirty),
            coordinator_watches: Mutex::default(),
            checkpoint: Mutex::default(),
            next_retention_ms: AtomicI64::new(
                now_ms.saturating_add(config.retention_check_interval_ms),
            ),
            next_checkpoint_ms: AtomicI64::new(
                now_ms.saturating_add(config.checkpoint_interval_ms),
            ),
            next_flush_ms: AtomicI64::new(
                now_ms.saturating_add(config.flush_scheduler_interval_ms),
            ),
            deletions: Deletions::default(),
            reopenings: Reopenings::default(),
            closed: AtomicBool::new(false),
            timer: Timer::default(),
            catalog: RwLock::default(),
            config,
        });
        for (name, partition_count) in catalog.take_deleted() {
            // The crash came between the command and the removal of the directories.
            if catalog.topic(&name).is_none()
                && let Err(error) = core.data_dir.remove_partitions(&name, 0..partition_count)
            {
                tracing::warn!(topic = %name, %error, "directories of a deleted topic not removed");
            }
        }
        core.data_dir.remove_deleted()?;
        let topics: Vec<_> = catalog.topics().cloned().collect();
        *core.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
        for topic in topics {
            core.open_partitions(&topic, 0, now_ms, true)?;
        }
        for ((topic, index), offset) in cleaned {
            if let Some(partition) = core.partition(&topic, index) {
                core.cleaning.resume(&partition, offset);
            }
        }
        core.forget_deleted_topics()?;
        core.transactions.recover(&core);
        Ok(core)
    }

    /// Finishes deletions that a crash cut short: no checkpoint and no committed offset may outlive its topic, or a new topic of the same
    /// name would inherit them.
    fn forget_deleted_topics(self: &Arc<Self>) -> Result<(), BrokerError> {
        let noted = [
            &self.data_dir.recovery_points,
            &self.data_dir.log_start_offsets,
        ];
        if noted
            .iter()
            .flat_map(|offsets| offsets.keys())
            .any(|(name, _)| self.topic(name).is_none())
        {
            self.write_checkpoints()?;
        }
        let mut any = false;
        for name in self.groups.committed_topics() {
            if self.topic(&name).is_none() {
                self.groups.topic_deleted(self, &name);
                any = true;
            }
        }
        if any {
            self.dirty.flush_round();
        }
        Ok(())
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.config.clock.now_ms()
    }

    /// Opens the logs of a topic's partitions from `first` on. What the directory noted of them when it was opened counts only
    /// `at_start`: a topic that is created later may have the name of one that was deleted since.
    fn open_partitions(
        self: &Arc<Self>,
        topic: &Topic,
        first: i32,
        now_ms: i64,
        at_start: bool,
    ) -> Result<(), BrokerError> {
        let noted = |offsets: &Offsets, key: &(String, i32)| {
            offsets.get(key).copied().filter(|_| at_start).unwrap_or(0)
        };
        let config = self.log_config(&topic.configs);
        let mut opened = Vec::new();
        for index in first..topic.partition_count {
            let key = (topic.name.to_string(), index);
            let options = OpenOptions {
                dir: self.data_dir.partition_dir(&topic.name, index),
                topic_id: topic.id,
                config: config.clone(),
                clean_shutdown: at_start && self.data_dir.clean_shutdown,
                recovery_point: noted(&self.data_dir.recovery_points, &key),
                log_start_offset: noted(&self.data_dir.log_start_offsets, &key),
            };
            let log = match Log::open(self.data_dir.disk.clone(), options.clone(), now_ms) {
                Err(LogError::TopicId { path, found, .. }) => {
                    // Left by a deleted topic of the same name: the journal is the truth, the directory is not.
                    tracing::warn!(path = %path.display(), %found, "removing the directory of a deleted topic");
                    self.data_dir
                        .remove_partitions(&topic.name, index..index + 1)?;
                    let fresh = OpenOptions {
                        recovery_point: 0,
                        log_start_offset: 0,
                        ..options
                    };
                    Log::open(self.data_dir.disk.clone(), fresh, now_ms)?.0
                }
                opened => {
                    let (log, recovery) = opened?;
                    if recovery.bytes_truncated > 0 {
                        tracing::warn!(topic = %topic.name, partition = index, bytes = recovery.bytes_truncated, "torn tail truncated");
                    }
                    log
                }
            };
            opened.push(Arc::new(Partition::new(
                topic.name.clone(),
                topic.id,
                index,
                self.leader_epoch,
                self.config.flush,
                log,
                self.dirty.clone(),
            )));
        }
        if &*topic.name == OFFSETS_TOPIC {
            for partition in &opened {
                self.groups.load(self, partition, now_ms).map_err(|error| {
                    BrokerError::Corrupt {
                        path: self
                            .data_dir
                            .partition_dir(OFFSETS_TOPIC, partition.index()),
                        reason: error.to_string(),
                    }
                })?;
                let (core, watched) = (Arc::downgrade(self), Arc::downgrade(partition));
                let watch = partition.watch(Arc::new(move || {
                    if let (Some(core), Some(partition)) = (core.upgrade(), watched.upgrade()) {
                        core.groups.advance(&core, &partition);
                    }
                }));
                self.coordinator_watches
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(watch);
            }
        }
        if &*topic.name == TRANSACTIONS_TOPIC {
            for partition in &opened {
                self.transactions
                    .load(partition)
                    .map_err(|error| BrokerError::Corrupt {
                        path: self
                            .data_dir
                            .partition_dir(TRANSACTIONS_TOPIC, partition.index()),
                        reason: error.to_string(),
                    })?;
                let (core, watched) = (Arc::downgrade(self), Arc::downgrade(partition));
                let watch = partition.watch(Arc::new(move || {
                    if let (Some(core), Some(partition)) = (core.upgrade(), watched.upgrade()) {
                        core.transactions.advance(&core, &partition);
                    }
                }));
                self.coordinator_watches
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(watch);
            }
        }
        let mut partitions = self
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        partitions
            .entry(topic.name.clone())
            .or_default()
            .extend(opened);
        Ok(())
    }

    pub(crate) fn partition(&self, topic: &str, partition: i32) -> Option<Arc<Partition>> {
        let partitions = self
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        partitions
            .get(topic)?
            .get(usize::try_from(partition).ok()?)
            .cloned()
    }

    /// Puts another in the place of this one; `false` if it is not there any more.
    pub(crate) fn replace_partition(&self, this: &Arc<Partition>, other: Arc<Partition>) -> bool {
        let mut partitions = self
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let place = partitions
            .get_mut(this.topic())
            .and_then(|partitions| partitions.iter_mut().find(|there| Arc::ptr_eq(there, this)));
        let is_there = place.is_some();
        if let Some(place) = place {
            *place = other;
        }
        is_there
    }

    pub(crate) fn all_partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .flatten()
            .cloned()
            .collect()
    }

    /// A topic by name.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.read_catalog(|catalog| catalog.topic(name).cloned())
    }

    /// A topic by id.
    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.read_catalog(|catalog| catalog.topic_by_id(id).cloned())
    }

    /// Looks at the metadata.
    pub(crate) fn read_catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn count_answer(&self, response: &Response) -> usize {
        match response {
            Response::Produce(response) => {
                let mut partitions = response
                    .responses
                    .iter()
                    .flat_map(|topic| &topic.partition_responses);
                if partitions.any(|partition| partition.error_code != 0) {
                    self.metrics.failed_produces.fetch_add(1, Ordering::Relaxed);
                }
                0
            }
            Response::Fetch(response) => {
                handlers::count_fetched(self, response, &[]);
                let topics = response.responses.iter();
                let parts = topics.flat_map(|topic| &topic.partitions);
                parts
                    .filter_map(|data| Some(data.records.as_ref()?.len()))
                    .sum()
            }
            Response::StoredFetch(answer) => {
                handlers::count_fetched(self, &answer.response, &answer.records);
                answer.held_bytes()
            }
            _ => 0,
        }
    }

    /// Host and port that clients are told.
    pub(crate) fn endpoint(&self) -> (String, u16) {
        self.endpoint
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn lock_journal(&self) -> Result<MutexGuard<'_, Journal>, BrokerError> {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            Err(BrokerError::Closed)
        } else {
            Ok(journal)
        }
    }

    /// Partitions of all topics may be so many; the broker's own topics are there whatever clients created.
    fn check_partitions_max(&self, topic: &str, added: i64) -> Result<(), Refusal> {
        let max = self.config.partitions_max;
        let count = self.read_catalog(Catalog::partition_count);
        if metadata::is_internal(topic) || count.saturating_add(added) <= max {
            return Ok(());
        }
        Err(Refusal::TooManyPartitions(format!(
            "{added} more partition(s) for topic {topic} would be more than the {max} of brooklet.partitions.max: there are {count}"
        )))
    }

    /// Makes a command durable, then applies it.
    fn commit(&self, journal: &mut Journal, command: &Command) -> Result<(), BrokerError> {
        journal.append(std::slice::from_ref(command))?;
        self.catalog
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .replay(command);
        Ok(())
    }

    /// Creates a topic; it is durable when this returns. With `validate_only` nothing is created.
    pub(crate) fn create_topic(
        self: &Arc<Self>,
        name: &str,
        partition_count: i32,
        configs: BTreeMap<String, String>,
        validate_only: bool,
    ) -> Result<Arc<Topic>, ChangeError> {
        let mut journal = self.lock_journal()?;
        let command = self.read_catalog(|catalog| {
            catalog.decide_create(name, Uuid::new_v4(), partition_count, configs)
        })?;
        self.check_partitions_max(name, i64::from(partition_count))?;
        let Command::CreateTopic(topic) = &command else {
            unreachable!("decide_create returned {command:?}");
        };
        let topic = Arc::new(topic.clone());
        if !validate_only {
            // Between the two a client may see the topic without its partitions: it is told that the leader is not there yet.
            self.commit(&mut journal, &command)?;
            self.open_partitions(&topic, 0, self.now_ms(), false)?;
            tracing::info!(topic = name, partition_count, "topic created");
        }
        Ok(topic)
    }

    /// Deletes a topic with its records and committed offsets.
    pub(crate) fn delete_topic(self: &Arc<Self>, name: &str) -> Result<(), ChangeError> {
        let mut journal = self.lock_journal()?;
        let topic = self
            .topic(name)
            .ok_or_else(|| Refusal::UnknownTopic(name.to_owned()))?;
        self.commit(&mut journal, &Command::DeleteTopic { id: topic.id })?;
        let removed = self
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        let removed = removed.unwrap_or_default();
        for partition in &removed {
            self.metrics.deleted_traffic.add(partition.traffic());
            drop(partition.take_log());
        }
        self.delete_dirs(name, topic.partition_count);
        // Before anybody can create the name anew: what is noted of the old topic's logs does not hold for the new one's.
        if let Err(error) = self.write_checkpoints() {
            tracing::error!(topic = name, %error, "checkpoints still name a deleted topic");
        }
        if let Err(error) = self.forget_cleaned(topic.id) {
            tracing::error!(topic = name, %error, "cleaner checkpoint still names a deleted topic");
        }
        drop(journal);
        // Not before: who waits for a partition may go on to what needs the journal.
        for partition in &removed {
            partition.wake();
        }
        self.groups.topic_deleted(self, name);
        tracing::info!(topic = name, "topic deleted");
        Ok(())
    }

    /// Deletes the directories of a topic. As in Kafka the broker's delay holds, not the topic's.
    fn delete_dirs(&self, topic: &str, partition_count: i32) {
        match self.data_dir.rename_partitions(topic, 0..partition_count) {
            Ok(renamed) => {
                let defaults = self.topic_defaults();
                let delay_ms = log_config(&BTreeMap::new(), &defaults).file_delete_delay_ms;
                self.remove_later(delay_ms, renamed.into_iter().map(Doomed::Dir));
            }
            Err(error) => {
                tracing::warn!(topic, %error, "directories of a deleted topic not removed");
            }
        }
    }

    /// Removes files under names that nobody opens, after this time.
    fn remove_later(&self, delay_ms: i64, doomed: impl IntoIterator<Item = Doomed>) {
        let now_ms = self.now_ms();
        let due_ms = now_ms.saturating_add(delay_ms.max(0));
        self.deletions.put(due_ms, doomed);
        if delay_ms <= 0 {
            let disk = self.data_dir.disk.as_ref();
            self.deletions.remove_due(disk, now_ms);
        } else {
            self.deadline_at(due_ms);
        }
    }

    /// Sees to the files of a partition's deleted segments.
    pub(crate) fn remove_deleted_segments(&self, partition: &Partition) {
        let (delay_ms, files) = partition.take_deleted();
        if !files.is_empty() {
            self.remove_later(delay_ms, files.into_iter().map(Doomed::File));
        }
    }

    /// Adds partitions to a topic.
    pub(crate) fn set_partition_count(
        self: &Arc<Self>,
        name: &str,
        partition_count: i32,
        validate_only: bool,
    ) -> Result<(), ChangeError> {
        let mut journal = self.lock_journal()?;
        let command =
            self.read_catalog(|catalog| catalog.decide_partition_count(name, partition_count))?;
        let known = self.topic(name).map_or(0, |topic| topic.partition_count);
        self.check_partitions_max(name, i64::from(partition_count - known))?;
        if validate_only {
            return Ok(());
        }
        // Those that are open: an earlier change may have failed between its command and its logs.
        let before = self
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .map_or(0, Vec::len);
        let before = i32::try_from(before).unwrap_or(i32::MAX);
        self.commit(&mut journal, &command)?;
        if let Some(topic) = self.topic(name) {
            self.open_partitions(&topic, before, self.now_ms(), false)?;
        }
        Ok(())
    }

    /// Replaces the configs set on a topic; they are in force when this returns.
    pub(crate) fn set_topic_configs(
        &self,
        name: &str,
        validate_only: bool,
        change: impl FnOnce(&BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal>,
    ) -> Result<(), ChangeError> {
        let mut journal = self.lock_journal()?;
        let topic = self
            .topic(name)
            .ok_or_else(|| Refusal::UnknownTopic(name.to_owned()))?;
        let configs = change(&topic.configs)?;
        if validate_only || configs == topic.configs {
            return Ok(());
        }
        let log_config = self.log_config(&configs);
        self.commit(
            &mut journal,
            &Command::SetTopicConfigs {
                id: topic.id,
                configs,
            },
        )?;
        for index in 0..topic.partition_count {
            if let Some(partition) = self.partition(name, index) {
                partition.set_config(log_config.clone());
            }
        }
        Ok(())
    }

    /// Configs that were set on a broker or a group while it runs, or none.
    pub(crate) fn configs(&self, resource: &ConfigResource) -> BTreeMap<String, String> {
        self.read_catalog(|catalog| catalog.configs(resource).cloned())
            .unwrap_or_default()
    }

    /// The configs in force for a group, whether or not it exists.
    pub(crate) fn group_config(&self, group: &str) -> GroupConfig {
        let set = self.configs(&ConfigResource::Group(group.to_owned()));
        GroupConfig::new(&set, &self.config.group_settings)
    }

    /// Defaults of topic configs in force, by the topic's name for them.
    pub(crate) fn topic_defaults(&self) -> Arc<BTreeMap<String, String>> {
        self.topic_defaults
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the configs set on a broker or a group; they are in force when this returns.
    pub(crate) fn set_configs(
        &self,
        resource: &ConfigResource,
        validate_only: bool,
        change: impl FnOnce(&BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal>,
    ) -> Result<(), ChangeError> {
        let mut journal = self.lock_journal()?;
        let current = self.configs(resource);
        let configs = change(&current)?;
        if validate_only || configs == current {
            return Ok(());
        }
        let command = Command::SetConfigs {
            resource: resource.clone(),
            configs,
        };
        self.commit(&mut journal, &command)?;
        if matches!(resource, ConfigResource::Broker(_)) {
            let defaults = self.read_catalog(|catalog| topic_defaults(&self.config, catalog));
            *self
                .topic_defaults
                .write()
                .unwrap_or_else(PoisonError::into_inner) = defaults;
            let topics: Vec<_> = self.read_catalog(|catalog| catalog.topics().cloned().collect());
            for topic in topics {
                let log_config = self.log_config(&topic.configs);
                for index in 0..topic.partition_count {
                    if let Some(partition) = self.partition(&topic.name, index) {
                        partition.set_config(log_config.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// A producer id that nobody has had.
    pub(crate) fn next_producer_id(&self) -> Result<i64, BrokerError> {
        let mut ids = self
            .producer_ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.take() {
            return Ok(id);
        }
        let mut journal = self.lock_journal()?;
        let block = ProducerIds::block_after(self.read_catalog(Catalog::producer_ids_end));
        self.commit(&mut journal, &Command::ReserveProducerIds { end: block.1 })?;
        ids.start(block);
        ids.take().ok_or(BrokerError::Closed)
    }

    /// The partition that holds a group's records, if the topic is there.
    pub(crate) fn offsets_partition(&self, group: &str) -> Option<Arc<Partition>> {
        self.partition(OFFSETS_TOPIC, self.offsets_partition_index(group))
    }

    pub(crate) fn offsets_partition_index(&self, group: &str) -> i32 {
        let count = self
            .topic(OFFSETS_TOPIC)
            .map_or(self.config.offsets_topic_partitions, |topic| {
                topic.partition_count
            });
        group::partition_of(group, count)
    }

    /// Creates the offsets topic if it is not there. Not to be called by the coordinator under its lock: opening its partitions loads them.
    pub(crate) fn ensure_offsets_topic(self: &Arc<Self>) -> Result<(), ChangeError> {
        if self.topic(OFFSETS_TOPIC).is_some_and(|topic| {
            self.partition(OFFSETS_TOPIC, topic.partition_count - 1)
                .is_some()
        }) {
            return Ok(());
        }
        match self.create_topic(
            OFFSETS_TOPIC,
            self.config.offsets_topic_partitions,
            group::offsets_topic_configs(),
            false,
        ) {
            Ok(_) | Err(ChangeError::Refused(Refusal::TopicExists(_))) => Ok(()),
            Err(error) => {
                tracing::error!(%error, "offsets topic not created");
                Err(error)
            }
        }
    }

    /// The partition that holds a transactional id's records, if the topic is there.
    pub(crate) fn transactions_partition(&self, id: &str) -> Option<Arc<Partition>> {
        self.partition(TRANSACTIONS_TOPIC, self.transactions_partition_index(id))
    }

    pub(crate) fn transactions_partition_index(&self, id: &str) -> i32 {
        let count = self
            .topic(TRANSACTIONS_TOPIC)
            .map_or(self.config.transactions_topic_partitions, |topic| {
                topic.partition_count
            });
        transaction::partition_of(id, count)
    }

    /// Creates the topic of transactions if it is not there. Not to be called by the coordinator under its lock.
    pub(crate) fn ensure_transactions_topic(self: &Arc<Self>) -> Result<(), ChangeError> {
        if self.topic(TRANSACTIONS_TOPIC).is_some_and(|topic| {
            self.partition(TRANSACTIONS_TOPIC, topic.partition_count - 1)
                .is_some()
        }) {
            return Ok(());
        }
        match self.create_topic(
            TRANSACTIONS_TOPIC,
            self.config.transactions_topic_partitions,
            transaction::topic_configs(self.config.transactions_topic_segment_bytes),
            false,
        ) {
            Ok(_) | Err(ChangeError::Refused(Refusal::TopicExists(_))) => Ok(()),
            Err(error) => {
                tracing::error!(%error, "topic of transactions not created");
                Err(error)
            }
        }
    }

    fn log_config(&self, overrides: &BTreeMap<String, String>) -> LogConfig {
        LogConfig {
            producer_id_expiration_ms: self.config.producer_id_expiration_ms,
            ..log_config(overrides, &self.topic_defaults())
        }
    }

    /// Deadlines have changed, nobody knows how: `step` has to look again.
    pub(crate) fn deadlines_changed(&self) {
        self.timer.kick();
    }

    /// There is a deadline: if it is earlier than what the timer sleeps for, it has to look again.
    pub(crate) fn deadline_at(&self, deadline_ms: i64) {
        if deadline_ms < self.timer.asleep_until_ms.load(Ordering::SeqCst) {
            self.timer.kick();
        }
    }

    /// A round of group commit.
    pub(crate) fn flush_round(&self) -> usize {
        self.dirty.flush_round()
    }

    fn step(self: &Arc<Self>) -> i64 {
        let now_ms = self.now_ms();
        self.waiting.expire(now_ms);
        self.groups.expire(self, now_ms);
        self.transactions.expire(self, now_ms);
        if self.next_retention_ms.load(Ordering::Acquire) <= now_ms {
            self.apply_retention(now_ms);
            self.next_retention_ms.store(
                now_ms.saturating_add(self.config.retention_check_interval_ms),
                Ordering::Release,
            );
        }
        self.deletions
            .remove_due(self.data_dir.disk.as_ref(), now_ms);
        if self.config.drive == Drive::Manual {
            self.dirty.checkpoint();
        }
        self.reopen_failed(now_ms);
        if self.config.drive == Drive::Manual {
            self.clean_if_due(now_ms);
        }
        if self.next_checkpoint_ms.load(Ordering::Acquire) <= now_ms {
            self.dirty.request_checkpoint();
            if self.config.flush == Flush::Os {
                // Nobody waits for it, but files that were rolled stay open until they are synced, and recovery is shorter.
                for partition in self.all_partitions() {
                    partition.mark_dirty();
                }
                if self.config.drive == Drive::Manual {
                    self.dirty.flush_round();
                }
            }
            for partition in self.all_partitions() {
                partition.release_tail_if_idle();
            }
            if let Err(error) = self.write_checkpoints() {
                tracing::error!(%error, "checkpoints not written");
            }
            self.next_checkpoint_ms.store(
                now_ms.saturating_add(self.config.checkpoint_interval_ms),
                Ordering::Release,
            );
        }
        if self.next_flush_ms.load(Ordering::Acquire) <= now_ms {
            let next_ms = now_ms.saturating_add(self.config.flush_scheduler_interval_ms);
            // What would be due by the next look is not left until then.
            for partition in self.all_partitions() {
                partition.mark_dirty_if_due(next_ms);
            }
            if self.config.drive == Drive::Manual {
                self.dirty.flush_round();
            }
            self.next_flush_ms.store(next_ms, Ordering::Release);
        }
        let periodic = [
            &self.next_retention_ms,
            &self.next_checkpoint_ms,
            &self.next_flush_ms,
        ]
        .into_iter()
        .map(|next_ms| next_ms.load(Ordering::Acquire))
        .fold(i64::MAX, i64::min);
        let cleaning = Some(self.cleaning.next_ms()).filter(|_| self.config.drive == Drive::Manual);
        [
            cleaning,
            self.waiting.next_deadline_ms(),
            self.groups.next_deadline_ms(),
            self.deletions.next_ms(),
            self.reopenings.next_ms(),
            Some(self.transactions.next_deadline_ms()),
        ]
        .into_iter()
        .flatten()
        .fold(periodic, i64::min)
    }

    fn apply_retention(&self, now_ms: i64) {
        for partition in self.all_partitions() {
            let applied = partition.apply_retention(now_ms);
            // Also those that DeleteRecords has deleted in the process.
            self.remove_deleted_segments(&partition);
            match applied {
                Ok(0) => {}
                Ok(segments) => {
                    tracing::info!(topic = %partition.topic(), partition = partition.index(), segments, "retention deleted segments");
                }
                Err(error) => {
                    tracing::error!(topic = %partition.topic(), partition = partition.index(), %error, "retention failed")
                }
            }
        }
    }

    fn write_checkpoints(&self) -> Result<(), BrokerError> {
        let _checkpoint = self.lock_checkpoint()?;
        let (recovery_points, log_starts, high_watermarks) = self.checkpoints();
        self.data_dir
            .write_checkpoints(&recovery_points, &log_starts, &high_watermarks)
    }

    /// Notes log start offsets, so that what DeleteRecords removed stays removed.
    pub(crate) fn write_log_start_offsets(&self) -> Result<(), BrokerError> {
        let _checkpoint = self.lock_checkpoint()?;
        self.data_dir.write_log_start_offsets(&self.checkpoints().1)
    }

    /// The turn to write checkpoints. None is given once the logs are closed: there is nothing left to collect.
    fn lock_checkpoint(&self) -> Result<MutexGuard<'_, ()>, BrokerError> {
        let checkpoint = self
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            Err(BrokerError::Closed)
        } else {
            Ok(checkpoint)
        }
    }

    fn checkpoints(&self) -> (Offsets, Offsets, Offsets) {
        let (mut recovery_points, mut log_starts, mut high_watermarks) =
            (Offsets::new(), Offsets::new(), Offsets::new());
        for partition in self.all_partitions() {
            if let Some((recovery_point, log_start)) = partition.checkpoint() {
                let key = (partition.topic().to_string(), partition.index());
                high_watermarks.insert(key.clone(), partition.high_watermark().min(recovery_point));
                recovery_points.insert(key.clone(), recovery_point);
                log_starts.insert(key, log_start);
            }
        }
        (recovery_points, log_starts, high_watermarks)
    }

    fn shutdown(self: &Arc<Self>) -> Result<(), BrokerError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.cleaning.stop();
        // Waits for a change of the metadata that is under way; later ones are refused.
        let _journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        // First what can still be acknowledged: a produce that is written and waits for the disk has succeeded.
        self.dirty.flush_round();
        self.waiting.close();
        self.transactions.close();
        self.groups.close(self);
        let _checkpoint = self
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (mut recovery_points, log_starts, mut high_watermarks) = self.checkpoints();
        for partition in self.all_partitions() {
            let Some(log) = partition.take_log() else {
                continue;
            };
            partition.wake();
            let key = (partition.topic().to_string(), partition.index());
            let end = log.log_end_offset();
            log.close()?;
            recovery_points.insert(key.clone(), end);
            high_watermarks.insert(key, end);
        }
        self.data_dir
            .write_checkpoints(&recovery_points, &log_starts, &high_watermarks)?;
        self.data_dir.write_clean_shutdown()
    }
}

/// Why a change of the metadata was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// It is not allowed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be written.
    #[error(transparent)]
    Failed(#[from] BrokerError),
}

/// Defaults of topic configs: this broker's over the cluster's, both set while it ran, over those it was opened with.
fn topic_defaults(config: &BrokerConfig, catalog: &Catalog) -> Arc<BTreeMap<String, String>> {
    let mut defaults = config.topic_defaults.clone();
    // As Kafka: what is looked at so often is synced so often, unless it says otherwise.
    if config.flush_scheduler_interval_ms < i64::MAX {
        defaults
            .entry("flush.ms".to_owned())
            .or_insert_with(|| config.flush_scheduler_interval_ms.to_string());
    }
    for id in [None, Some(config.node_id)] {
        for (name, value) in catalog
            .configs(&ConfigResource::Broker(id))
            .into_iter()
            .flatten()
        {
            if let Some(definition) = topic_config::by_server_name(name) {
                defaults.insert(definition.name.to_owned(), value.clone());
            }
        }
    }
    Arc::new(defaults)
}

/// What a log obeys: the topic's configs over the broker's over Kafka's.
fn log_config(
    overrides: &BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
) -> LogConfig {
    let value = |name: &str| match topic_config::by_name(name) {
        Some(definition) => topic_config::effective(definition, overrides, defaults).0,
        None => unreachable!("{name} is not in the table of topic configs"),
    };
    // Values were checked against the table when they were set.
    let number = |name: &str| value(name).parse::<i64>().unwrap_or(0);
    let limit = |name: &str| Some(number(name)).filter(|number| (0..i64::MAX).contains(number));
    let small = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
    let policy = value("cleanup.policy");
    let compact = policy.split(',').any(|word| word == "compact");
    let compaction_lag_max_ms = limit("max.compaction.lag.ms");
    let segment_ms = number("segment.ms");
    LogConfig {
        segment_bytes: small("segment.bytes"),
        segment_jitter_ms: number("segment.jitter.ms"),
        // What has to be compacted in time has to be out of the active segment by then.
        segment_ms: compaction_lag_max_ms
            .filter(|_| compact)
            .map_or(segment_ms, |lag_ms| segment_ms.min(lag_ms)),
        index_interval_bytes: small("index.interval.bytes"),
        index_bytes_max: small("segment.index.bytes"),
        message_bytes_max: small("max.message.bytes"),
        retention_ms: limit("retention.ms"),
        retention_bytes: limit("retention.bytes").and_then(|bytes| u64::try_from(bytes).ok()),
        codec: match value("compression.type") {
            "uncompressed" => Some(Codec::None),
            name => Codec::ALL.into_iter().find(|codec| codec.name() == name),
        },
        compression_level: match value("compression.type") {
            // -1 is the codec's own.
            "gzip" => Some(number("compression.gzip.level")).filter(|level| *level > 0),
            "zstd" => Some(number("compression.zstd.level")),
            _ => None,
        }
        .and_then(|level| i32::try_from(level).ok()),
        flush_messages_max: limit("flush.messages"),
        flush_ms_max: limit("flush.ms"),
        preallocate: value("preallocate") == "true",
        file_delete_delay_ms: number("file.delete.delay.ms"),
        timestamp_type: if value("message.timestamp.type") == "LogAppendTime" {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        },
        timestamp_before_max_ms: limit("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: limit("message.timestamp.after.max.ms"),
        delete: policy.split(',').any(|word| word == "delete"),
        compact,
        // Between zero and one: the table has checked.
        cleanable_ratio_min_ppm: (value("min.cleanable.dirty.ratio")
            .parse::<f64>()
            .unwrap_or(0.5)
            * 1e6) as u32,
        compaction_lag_min_ms: number("min.compaction.lag.ms"),
        compaction_lag_max_ms,
        delete_retention_ms: number("delete.retention.ms"),
        ..LogConfig::default()
    }
}

/// The threads of `Drive::Threads`: one for fsyncs, one for deadlines, one for compaction.
#[derive(Debug)]
struct Threads {
    core: Arc<Core>,
    handles: Mutex<Vec<JoinHandle<()>>>,
    stopped: Arc<AtomicBool>,
}

impl Threads {
    fn start(core: &Arc<Core>) -> Result<Self, BrokerError> {
        let stopped = Arc::new(AtomicBool::new(false));
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let failed = BrokerError::disk("starting a thread for", &core.data_dir.path);
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(failed)
        };
        let flushed = core.clone();
        let flusher = spawn(
            "broker-flusher",
            Box::new(move || {
                while flushed.dirty.wait() {
                    flushed.dirty.flush_round();
                }
            }),
        )?;
        let checkpointed = core.clone();
        let checkpointer = spawn(
            "broker-checkpoint",
            Box::new(move || while checkpointed.dirty.checkpoint_when_due() {}),
        )?;
        let (stepped, stop) = (core.clone(), stopped.clone());
        let timer = spawn(
            "broker-timer",
            Box::new(move || {
                while !stop.load(Ordering::Acquire) {
                    let next_ms = stepped.step();
                    stepped.timer.sleep(stepped.now_ms(), next_ms);
                }
            }),
        )?;
        let mut handles = vec![flusher, checkpointer, timer];
        if core.config.cleaner_enabled {
            let cleaned = core.clone();
            let clean = Box::new(move || cleaned.clean_until_stopped());
            handles.push(spawn("broker-cleaner", clean)?);
        }
        Ok(Self {
            core: core.clone(),
            handles: Mutex::new(handles),
            stopped,
        })
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.core.dirty.stop();
        self.core.cleaning.stop();
        self.core.timer.kick();
        let handles =
            std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            // A thread cannot wait for itself: an answer may hold the last handle on the broker.
            if handle.thread().id() != std::thread::current().id() && handle.join().is_err() {
                tracing::error!("a broker thread panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
