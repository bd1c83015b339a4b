//! The transaction coordinator: what is known of each transactional id, kept in `__transaction_state`.
//!
//! 1. A request is decided on the latest state of its id (`machine`, pure) and may ask for a record.
//! 2. The record is appended to the id's partition of the topic. When the high watermark passes it, it is replayed and the request answered.
//! 3. A durable PREPARE is the outcome. Its client is answered, and a marker goes to every partition of the transaction.
//! 4. When every marker is durable, COMPLETE is appended, and requests that waited for it are decided.
//!
//! So a commit is visible after two rounds of syncs: one makes PREPARE durable, the next all markers, whatever their number.
//!
//! ## Nobody waits for COMPLETE
//!
//! The next transaction may begin on a COMPLETE that is appended and not yet durable. Its ONGOING comes after the COMPLETE in the same
//! partition, both are synced together, and a crash takes a log's end away, never its middle: where ONGOING is found, COMPLETE is. Where both are lost, PREPARE is the
//! last record, and its markers are written again: they end nothing, for no batch of the next transaction is appended before its ONGOING
//! is durable. Where COMPLETE alone is lost it is the same. And a marker is never durable before its PREPARE, because it is not appended before
//! PREPARE is below the high watermark.
//!
//! ## Requests wait instead of being refused
//!
//! Kafka refuses a request that comes while a record is being written or markers are (CONCURRENT_TRANSACTIONS), and clients back off for
//! 20 to 100 ms: more than the whole commit takes here. Requests of an id are queued instead, in the order in which they came, and refused
//! after `HOLD_MS_MAX`. The price is a bounded queue for each busy id.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::Core;
use crate::coordinator::group::java_hash;
use crate::coordinator::pending::{self, Pending};
use crate::fault;
use crate::log::{AppendError, AppendOrigin, Marker};
use crate::metadata::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::protocol::record_batch::Builder;
use crate::replica::{Partition, PartitionError, Wake, Watch};

pub mod machine;
pub mod records;

#[cfg(test)]
mod tests;

use machine::{Decision, complete, decide, is_expired, time_out};
pub(crate) use machine::{Producer, Request, TransactionError};
pub(crate) use records::{State, TopicPartition, Transaction};

/// How long a request waits for the end of the transaction before it.
const HOLD_MS_MAX: i64 = 2000;

/// Requests that wait for one transactional id. A producer has five in flight at most.
const HELD_MAX: usize = 64;

/// When markers that could not be written are tried again.
const MARKERS_RETRY_MS: i64 = 500;

/// Locks over which the partitions of the topic are spread.
const SHARDS: usize = 16;

/// Called with what a request came to.
pub(crate) type Reply = Box<dyn FnOnce(Result<Producer, TransactionError>) + Send>;

/// Limits of transactions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// `transaction.max.timeout.ms`.
    pub(crate) timeout_ms_max: i32,
    /// `transactional.id.expiration.ms`.
    pub(crate) id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub(crate) time_out_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub(crate) expiration_interval_ms: i64,
}

/// The coordinator of every transactional id on this broker.
pub(crate) struct TransactionCoordinator {
    rules: Rules,
    /// By partition of the topic.
    shards: Vec<Mutex<Shard>>,
    next_time_out_ms: AtomicI64,
    next_expiration_ms: AtomicI64,
    /// When markers that could not be written are tried again; `i64::MAX` if all could.
    next_markers_ms: AtomicI64,
    closed: AtomicBool,
}

/// The ids of some partitions of the topic.
#[derive(Default)]
struct Shard {
    ids: HashMap<String, Entry>,
    /// Records that are appended but not yet durable, by partition of the topic, in log order.
    pending: Pending<Appended>,
    /// When requests that are held are given up, and of which id they are.
    deadlines: BTreeMap<(i64, u64), String>,
    next_held: u64,
}

/// One transactional id.
#[derive(Default)]
struct Entry {
    /// As replayed from durable records: what is told.
    durable: Option<Arc<Transaction>>,
    /// As of the last record that is appended: what is decided on. Ahead of `durable` by a record that `is_writing`, by a COMPLETE, or both.
    latest: Option<Arc<Transaction>>,
    /// A record that is not a COMPLETE is on its way to the disk: the next decision waits for it.
    is_writing: bool,
    markers: Markers,
    /// Answers that are being given outside the lock: what comes meanwhile must not overtake them.
    answering: usize,
    /// Requests in the order in which they came.
    held: VecDeque<Held>,
}

impl Entry {
    /// What is durable; and a COMPLETE, for what it says is: a crash that takes it away has it written again.
    fn told(&self) -> Option<&Arc<Transaction>> {
        let latest = self.latest.as_ref();
        latest
            .filter(|latest| is_complete(latest.state))
            .or(self.durable.as_ref())
    }
}

/// Where the markers of a transaction are whose outcome is durable.
#[derive(Default)]
enum Markers {
    /// There are none, or nobody has begun.
    #[default]
    None,
    /// These are written; a write to some other partition failed and is tried again.
    Failed(Written),
    /// Somebody is about to write those that are not written yet; not the first time if so. A second one must not: the transaction may be over
    /// when it gets to it, and a marker of a producer whose epoch is not bumped would end the next.
    Sending { written: Written, again: bool },
    /// On their way to the disk.
    Sent(Arc<Marking>),
}

/// Where markers are, and from which high watermark on they are durable.
type Written = Vec<(Arc<Partition>, i64)>;

struct Held {
    number: u64,
    deadline_ms: i64,
    request: Request,
    /// Taken for it, once it turned out to need one.
    new_producer_id: Option<i64>,
    reply: Reply,
}

/// A record that is in the log.
struct Appended {
    id: String,
    /// `None` is a tombstone.
    record: Option<Arc<Transaction>>,
    answer: Option<(Producer, Reply)>,
}

/// The markers of a transaction, from their append until they are durable.
struct Marking {
    id: String,
    transaction: Arc<Transaction>,
    markers: Written,
    watches: Mutex<Vec<Watch>>,
    is_done: AtomicBool,
}

/// What is done after the coordinator's lock is released.
#[derive(Default)]
struct After {
    calls: Vec<Box<dyn FnOnce() + Send>>,
    wakes: Vec<Wake>,
    /// PREPAREs that are durable now.
    prepared: Vec<(String, Arc<Transaction>)>,
    /// Partitions of the topic that were appended to: their high watermark may have advanced before the record was queued.
    appended: Vec<Arc<Partition>>,
    /// Ids of which a call is an answer.
    answered: Vec<String>,
    /// Ids whose first request needs a producer id.
    needs_producer_id: Vec<String>,
}

impl After {
    fn answer(
        &mut self,
        id: &str,
        entry: &mut Entry,
        reply: Reply,
        result: Result<Producer, TransactionError>,
    ) {
        entry.answering += 1;
        self.answered.push(id.to_owned());
        self.calls.push(Box::new(move || reply(result)));
    }

    fn is_empty(&self) -> bool {
        self.calls.is_empty()
            && self.wakes.is_empty()
            && self.prepared.is_empty()
            && self.appended.is_empty()
            && self.needs_producer_id.is_empty()
    }
}

impl std::fmt::Debug for TransactionCoordinator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TransactionCoordinator")
            .finish_non_exhaustive()
    }
}

impl TransactionCoordinator {
    pub(crate) fn new(rules: Rules, now_ms: i64) -> Self {
        Self {
            rules,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next_time_out_ms: AtomicI64::new(now_ms.saturating_add(rules.time_out_interval_ms)),
            next_expiration_ms: AtomicI64::new(now_ms.saturating_add(rules.expiration_interval_ms)),
            next_markers_ms: AtomicI64::new(i64::MAX),
            closed: AtomicBool::new(false),
        }
    }

    fn shard_of_partition(&self, partition: i32) -> &Mutex<Shard> {
        let index = usize::try_from(partition).unwrap_or(0) % SHARDS;
        match self.shards.get(index) {
            Some(shard) => shard,
            None => unreachable!("shard {index} of {SHARDS}"),
        }
    }

    fn lock(&self, core: &Core, id: &str) -> MutexGuard<'_, Shard> {
        lock(self.shard_of_partition(core.transactions_partition_index(id)))
    }

    /// Replays a partition of the topic, at start.
    pub(crate) fn load(&self, partition: &Partition) -> Result<(), PartitionError> {
        let mut shard = lock(self.shard_of_partition(partition.index()));
        pending::load(partition, |_, record| {
            let Some((record, key)) = record.and_then(|record| Some((record, record.key?))) else {
                return;
            };
            let decoded = records::decode_key(key)
                .and_then(|id| Ok((id, record.value.map(Transaction::decode).transpose()?)));
            match decoded {
                Ok((id, value)) => shard.replay(&id, value.map(Arc::new)),
                Err(error) => {
                    tracing::warn!(partition = partition.index(), offset = record.offset, %error, "transaction record skipped");
                }
            }
        })?;
        shard.start();
        Ok(())
    }

    /// Finishes what a crash interrupted: transactions whose outcome is decided get their markers. Those that are open stay so until their
    /// producer or their time-out ends them.
    pub(crate) fn recover(&self, core: &Arc<Core>) {
        let mut after = After::default();
        for shard in &self.shards {
            lock(shard).collect_prepared(core, &mut after);
        }
        self.run(core, after);
    }

    /// A request to a transactional id. It may wait for the one before it, and for what it writes to be durable.
    pub(crate) fn handle(&self, core: &Arc<Core>, id: &str, request: Request, reply: Reply) {
        if id.is_empty() || id.len() > records::ID_BYTES_MAX {
            return reply(Err(TransactionError::InvalidRequest));
        }
        if let Request::Init { timeout_ms, .. } = &request {
            if !(1..=self.rules.timeout_ms_max).contains(timeout_ms) {
                return reply(Err(TransactionError::InvalidTimeout));
            }
            if core.ensure_transactions_topic().is_err() {
                return reply(Err(TransactionError::CoordinatorNotAvailable));
            }
        }
        let now_ms = core.now_ms();
        let deadline_ms = now_ms.saturating_add(HOLD_MS_MAX);
        let mut after = After::default();
        let mut shard = self.lock(core, id);
        let is_init = matches!(request, Request::Init { .. });
        let refused = if self.closed.load(Ordering::Acquire) {
            Some(TransactionError::CoordinatorNotAvailable)
        } else {
            match shard.ids.get(id) {
                Some(entry) if entry.held.len() >= HELD_MAX => Some(TransactionError::Concurrent),
                // Only a producer that begins makes an id known.
                None if !is_init => Some(TransactionError::InvalidProducerIdMapping),
                Some(_) | None => None,
            }
        };
        if let Some(error) = refused {
            drop(shard);
            return reply(Err(error));
        }
        let number = shard.next_held;
        shard.next_held += 1;
        shard.deadlines.insert((deadline_ms, number), id.to_owned());
        shard
            .ids
            .entry(id.to_owned())
            .or_default()
            .held
            .push_back(Held {
                number,
                deadline_ms,
                request,
                new_producer_id: None,
                reply,
            });
        shard.decide_held(core, id, now_ms, &mut after);
        let is_held = shard.deadlines.contains_key(&(deadline_ms, number));
        drop(shard);
        self.run(core, after);
        if is_held {
            core.deadline_at(deadline_ms);
        }
    }

    /// Whether a request of this id still waits, or has its answer on the way. What must not overtake it comes through [`Self::handle`] too.
    pub(crate) fn is_busy(&self, core: &Core, id: &str) -> bool {
        let shard = self.lock(core, id);
        shard
            .ids
            .get(id)
            .is_some_and(|entry| entry.is_writing || entry.answering > 0 || !entry.held.is_empty())
    }

    /// Whether a partition is in the open transaction of this producer, durably.
    pub(crate) fn verify(
        &self,
        core: &Core,
        id: &str,
        by: Producer,
        partition: &TopicPartition,
    ) -> Result<(), TransactionError> {
        if id.is_empty() {
            return Err(TransactionError::InvalidRequest);
        }
        let shard = self.lock(core, id);
        let entry = shard.ids.get(id);
        let latest = entry.and_then(|entry| entry.latest.as_deref());
        machine::verify(latest, by, partition)?;
        let durable = entry.and_then(|entry| entry.durable.as_deref());
        machine::verify(durable, by, partition)
    }

    /// What is durable of an id.
    pub(crate) fn describe(&self, core: &Core, id: &str) -> Option<Arc<Transaction>> {
        self.lock(core, id).ids.get(id)?.told().cloned()
    }

    /// What is durable of every id, in no order.
    pub(crate) fn list(&self) -> Vec<(String, Arc<Transaction>)> {
        let mut listed = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let ids = shard.ids.iter();
            listed.extend(ids.filter_map(|(id, entry)| Some((id.clone(), entry.told()?.clone()))));
        }
        listed
    }

    /// The high watermark of a partition of the topic has advanced, or the partition failed.
    pub(crate) fn advance(&self, core: &Arc<Core>, partition: &Partition) {
        let mut after = After::default();
        self.take_durable(core, partition, &mut after);
        self.run(core, after);
    }

    fn take_durable(&self, core: &Arc<Core>, partition: &Partition, after: &mut After) {
        let now_ms = core.now_ms();
        let mut shard = lock(self.shard_of_partition(partition.index()));
        while let Some(settled) = shard.pending.take_settled(partition) {
            shard.written(core, settled.then, settled.is_durable, now_ms, after);
        }
    }

    /// Performs what was decided, and what follows from that.
    fn run(&self, core: &Arc<Core>, mut after: After) {
        while !after.is_empty() {
            let now = std::mem::take(&mut after);
            for call in now.calls {
                call();
            }
            for wake in now.wakes {
                wake.wake();
            }
            for id in now.answered {
                let mut shard = self.lock(core, &id);
                if let Some(entry) = shard.ids.get_mut(&id) {
                    entry.answering = entry.answering.saturating_sub(1);
                }
                shard.decide_held(core, &id, core.now_ms(), &mut after);
            }
            for id in now.needs_producer_id {
                let taken = core.next_producer_id();
                self.give_producer_id(core, &id, taken.ok(), &mut after);
            }
            for partition in now.appended {
                self.take_durable(core, &partition, &mut after);
            }
            for (id, transaction) in now.prepared {
                self.send_markers(core, id, transaction);
            }
        }
    }

    fn give_producer_id(
        &self,
        core: &Arc<Core>,
        id: &str,
        producer_id: Option<i64>,
        after: &mut After,
    ) {
        let mut shard = self.lock(core, id);
        let Some(entry) = shard.ids.get_mut(id) else {
            return;
        };
        match (entry.held.front_mut(), producer_id) {
            (Some(held), Some(_)) => held.new_producer_id = producer_id,
            (Some(_), None) => {
                shard.refuse_first(id, TransactionError::CoordinatorNotAvailable, after);
            }
            // It was given up meanwhile; the id is lost, there are enough.
            (None, _) => {}
        }
        shard.decide_held(core, id, core.now_ms(), after);
    }

    /// Writes the markers of a transaction whose PREPARE is durable.
    fn send_markers(&self, core: &Arc<Core>, id: String, transaction: Arc<Transaction>) {
        let now_ms = core.now_ms();
        let marker = Marker {
            producer_id: transaction.producer_id,
            producer_epoch: transaction.producer_epoch,
            commit: transaction.state == State::PrepareCommit,
            coordinator_epoch: core.leader_epoch,
            transaction_version: transaction.client_version,
        };
        let (mut markers, again) = {
            let mut shard = self.lock(core, &id);
            match shard.ids.get_mut(&id).map(|entry| &mut entry.markers) {
                Some(Markers::Sending { written, again }) => (std::mem::take(written), *again),
                _ => (Written::new(), false),
            }
        };
        let mut wakes = Vec::new();
        let mut failed = false;
        fault::point("prepare-durable");
        for (topic, index) in &transaction.partitions {
            // Of a topic that was deleted nothing is left to end.
            let Some(partition) = core.partition(topic, *index) else {
                continue;
            };
            if markers
                .iter()
                .any(|(written, _): &(Arc<Partition>, i64)| Arc::ptr_eq(written, &partition))
            {
                continue;
            }
            match partition.append_marker(marker, now_ms) {
                Ok((appended, wake)) => {
                    if **topic == *OFFSETS_TOPIC {
                        core.groups.transaction_ended(
                            core,
                            &partition,
                            marker.producer_id,
                            marker.commit,
                            &appended,
                        );
                    }
                    wakes.push(wake);
                    markers.push((partition, appended.last_offset + 1));
                    fault::point("marker-appended");
                }
                Err(PartitionError::Gone(_)) => {
                    // Deleted; or its log has just been opened anew, and the marker goes to that.
                    let there = core.partition(topic, *index);
                    failed |= there.is_some_and(|there| there.topic_id() == partition.topic_id());
                }
                // Somebody has ended it there already, with a later epoch.
                Err(PartitionError::Append(
                    error @ (AppendError::InvalidProducerEpoch { .. }
                    | AppendError::CoordinatorFenced { .. }),
                )) => {
                    tracing::warn!(transactional_id = %id, %topic, partition = index, %error, "marker not needed");
                }
                Err(error) if again => {
                    tracing::debug!(transactional_id = %id, %topic, partition = index, %error, "marker still not written");
                    failed = true;
                }
                Err(error) => {
                    tracing::error!(transactional_id = %id, %topic, partition = index, %error, "marker not written");
                    failed = true;
                }
            }
        }
        if failed {
            let mut shard = self.lock(core, &id);
            if let Some(entry) = shard.ids.get_mut(&id) {
                entry.markers = Markers::Failed(markers);
            }
            drop(shard);
            for wake in wakes {
                wake.wake();
            }
            let retry_ms = now_ms.saturating_add(MARKERS_RETRY_MS);
            self.next_markers_ms.fetch_min(retry_ms, Ordering::AcqRel);
            core.deadline_at(retry_ms);
            return;
        }
        let marking = Arc::new(Marking {
            id,
            transaction,
            markers,
            watches: Mutex::default(),
            is_done: AtomicBool::new(false),
        });
        {
            let mut shard = self.lock(core, &marking.id);
            if let Some(entry) = shard.ids.get_mut(&marking.id) {
                entry.markers = Markers::Sent(marking.clone());
            }
        }
        for (partition, _) in &marking.markers {
            let (weak_core, weak_marking) = (Arc::downgrade(core), Arc::downgrade(&marking));
            let watch = partition.watch(Arc::new(move || {
                if let (Some(core), Some(marking)) = (weak_core.upgrade(), weak_marking.upgrade()) {
                    core.transactions.look_at_markers(&core, &marking);
                }
            }));
            marking
                .watches
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(watch);
        }
        for wake in wakes {
            wake.wake();
        }
        // What came before the watches were there.
        self.look_at_markers(core, &marking);
    }

    /// A partition with a marker has advanced or failed: if every marker is durable the transaction is complete.
    fn look_at_markers(&self, core: &Arc<Core>, marking: &Arc<Marking>) {
        let mut reopened = false;
        let mut is_durable = |(partition, end_offset): &(Arc<Partition>, i64)| {
            partition.high_watermark() >= *end_offset
                || (partition.has_failed()
                    && match core.partition(partition.topic(), partition.index()) {
                        Some(there) if there.topic_id() == partition.topic_id() => {
                            // The marker went with the end of the failed log, whose place another has taken.
                            reopened |= !Arc::ptr_eq(&there, partition);
                            false
                        }
                        // Deleted: there is nothing to wait for.
                        _ => true,
                    })
        };
        // All of them are looked at.
        let durable = marking.markers.iter().filter(|marker| is_durable(marker));
        let all_durable = durable.count() == marking.markers.len();
        if reopened && !self.closed.load(Ordering::Acquire) {
            self.send_lost_markers(core, marking);
            return;
        }
        if self.closed.load(Ordering::Acquire)
            || !all_durable
            || marking.is_done.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let now_ms = core.now_ms();
        let mut after = After::default();
        let mut shard = self.lock(core, &marking.id);
        if let Some(entry) = shard.ids.get_mut(&marking.id)
            && matches!(&entry.markers, Markers::Sent(of) if Arc::ptr_eq(of, marking))
        {
            entry.markers = Markers::None;
            let completed = complete(&marking.transaction, now_ms);
            fault::point("markers-durable");
            shard.write(core, &marking.id, Some(completed), None, now_ms, &mut after);
            shard.decide_held(core, &marking.id, now_ms, &mut after);
        }
        drop(shard);
        let watches = std::mem::take(
            &mut *marking
                .watches
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        drop(watches);
        self.run(core, after);
    }

    /// Some markers were cut off a failed log that is open again: they are written once more, with the next retry.
    fn send_lost_markers(&self, core: &Arc<Core>, marking: &Arc<Marking>) {
        let written = marking
            .markers
            .iter()
            .filter_map(|(partition, end_offset)| {
                let there = core.partition(partition.topic(), partition.index());
                let there = there.filter(|there| there.topic_id() == partition.topic_id());
                match there {
                    Some(there) if !Arc::ptr_eq(&there, partition) => {
                        // What was durable in the failed log is in the other.
                        (partition.high_watermark() >= *end_offset).then_some((there, *end_offset))
                    }
                    _ => Some((partition.clone(), *end_offset)),
                }
            });
        let written = written.collect();
        let mut shard = self.lock(core, &marking.id);
        let Some(entry) = shard.ids.get_mut(&marking.id) else {
            return;
        };
        if !matches!(&entry.markers, Markers::Sent(of) if Arc::ptr_eq(of, marking)) {
            return;
        }
        entry.markers = Markers::Failed(written);
        drop(shard);
        let watches = std::mem::take(
            &mut *marking
                .watches
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        drop(watches);
        let retry_ms = core.now_ms().saturating_add(MARKERS_RETRY_MS);
        self.next_markers_ms.fetch_min(retry_ms, Ordering::AcqRel);
        core.deadline_at(retry_ms);
    }

    /// Refuses requests that have waited for too long, aborts transactions that are open for too long, and forgets ids that are idle for
    /// too long.
    pub(crate) fn expire(&self, core: &Arc<Core>, now_ms: i64) {
        let time_out_is_due = is_due(
            &self.next_time_out_ms,
            self.rules.time_out_interval_ms,
            now_ms,
        );
        let expiration_is_due = is_due(
            &self.next_expiration_ms,
            self.rules.expiration_interval_ms,
            now_ms,
        );
        let markers_are_due = self.next_markers_ms.load(Ordering::Acquire) <= now_ms;
        if markers_are_due {
            self.next_markers_ms.store(i64::MAX, Ordering::Release);
        }
        let mut after = After::default();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.refuse_late(core, now_ms, &mut after);
            if time_out_is_due {
                shard.abort_timed_out(core, now_ms, &mut after);
            }
            if time_out_is_due || markers_are_due {
                shard.collect_prepared(core, &mut after);
            }
            if time_out_is_due {
                // A COMPLETE after which nothing came.
                for index in shard.pending.partitions() {
                    if let Some(partition) = core.partition(TRANSACTIONS_TOPIC, index) {
                        partition.mark_dirty();
                    }
                }
            }
            if expiration_is_due {
                shard.forget_idle(core, self.rules.id_expiration_ms, now_ms, &mut after);
            }
        }
        self.run(core, after);
    }

    pub(crate) fn next_deadline_ms(&self) -> i64 {
        let periodic = self
            .next_time_out_ms
            .load(Ordering::Acquire)
            .min(self.next_expiration_ms.load(Ordering::Acquire))
            .min(self.next_markers_ms.load(Ordering::Acquire));
        let held = self.shards.iter().filter_map(|shard| {
            let shard = lock(shard);
            let ((deadline_ms, _), _) = shard.deadlines.first_key_value()?;
            Some(*deadline_ms)
        });
        held.fold(periodic, i64::min)
    }

    /// Answers everything that waits: the broker stops.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut replies = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.deadlines.clear();
            let pending = shard.pending.take_all();
            replies.extend(pending.filter_map(|appended| Some(appended.answer?.1)));
            for entry in shard.ids.values_mut() {
                entry.markers = Markers::None;
                replies.extend(entry.held.drain(..).map(|held| held.reply));
            }
        }
        for reply in replies {
            reply(Err(TransactionError::CoordinatorNotAvailable));
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_due(next_ms: &AtomicI64, interval_ms: i64, now_ms: i64) -> bool {
    let is_due = next_ms.load(Ordering::Acquire) <= now_ms;
    if is_due {
        next_ms.store(now_ms.saturating_add(interval_ms), Ordering::Release);
    }
    is_due
}

impl Shard {
    /// Applies a durable record: the only thing that changes what is told of an id.
    fn replay(&mut self, id: &str, record: Option<Arc<Transaction>>) {
        match record {
            Some(record) => self.ids.entry(id.to_owned()).or_default().durable = Some(record),
            None => {
                if let Some(entry) = self.ids.get_mut(id) {
                    entry.durable = None;
                }
                self.remove_if_unused(id);
            }
        }
    }

    /// Nothing is on its way: decisions go on from what is durable.
    fn start(&mut self) {
        for entry in self.ids.values_mut() {
            entry.latest = entry.durable.clone();
        }
    }

    fn remove_if_unused(&mut self, id: &str) {
        let is_unused = self.ids.get(id).is_some_and(|entry| {
            entry.durable.is_none()
                && entry.latest.is_none()
                && !entry.is_writing
                && entry.answering == 0
                && entry.held.is_empty()
        });
        if is_unused {
            self.ids.remove(id);
        }
    }

    /// A record is durable, or never will be.
    fn written(
        &mut self,
        core: &Arc<Core>,
        appended: Appended,
        is_durable: bool,
        now_ms: i64,
        after: &mut After,
    ) {
        let id = appended.id;
        let Some(entry) = self.ids.get_mut(&id) else {
            return;
        };
        let is_complete = appended
            .record
            .as_ref()
            .is_some_and(|record| is_complete(record.state));
        if !is_complete {
            entry.is_writing = false;
        }
        if let Some((producer, reply)) = appended.answer {
            let result = if is_durable {
                Ok(producer)
            } else {
                Err(TransactionError::CoordinatorNotAvailable)
            };
            after.answer(&id, entry, reply, result);
        }
        if is_durable {
            if let Some(record) = appended
                .record
                .as_ref()
                .filter(|record| record.state.is_prepared())
            {
                entry.markers = Markers::Sending {
                    written: Written::new(),
                    again: false,
                };
                after.prepared.push((id.clone(), record.clone()));
            }
            self.replay(&id, appended.record);
        } else {
            // The partition has failed: back to what is known to be on disk. Nothing more can be written until a restart reads what is there.
            entry.latest = entry.durable.clone();
        }
        self.decide_held(core, &id, now_ms, after);
    }

    /// Decides what is held of an id, in order, as far as it can be.
    fn decide_held(&mut self, core: &Arc<Core>, id: &str, now_ms: i64, after: &mut After) {
        loop {
            let Some(entry) = self.ids.get_mut(id) else {
                return;
            };
            if entry.is_writing || entry.answering > 0 {
                return;
            }
            let Some(held) = entry.held.front() else {
                break;
            };
            let latest = entry.latest.as_deref();
            match decide(latest, &held.request, held.new_producer_id, now_ms) {
                Decision::Wait => return,
                Decision::NeedsProducerId => {
                    after.needs_producer_id.push(id.to_owned());
                    return;
                }
                Decision::Fence(record) => {
                    if !self.write(core, id, Some(record), None, now_ms, after) {
                        self.refuse_first(id, TransactionError::CoordinatorNotAvailable, after);
                    }
                }
                Decision::Answer(result) => {
                    if let Some(held) = self.take_first(id)
                        && let Some(entry) = self.ids.get_mut(id)
                    {
                        after.answer(id, entry, held.reply, result);
                    }
                }
                Decision::Write(record, producer) => {
                    if let Some(held) = self.take_first(id) {
                        let answer = Some((producer, held.reply));
                        self.write(core, id, Some(record), answer, now_ms, after);
                    }
                }
            }
        }
        self.remove_if_unused(id);
    }

    fn take_first(&mut self, id: &str) -> Option<Held> {
        let held = self.ids.get_mut(id)?.held.pop_front()?;
        self.deadlines.remove(&(held.deadline_ms, held.number));
        Some(held)
    }

    fn refuse_first(&mut self, id: &str, error: TransactionError, after: &mut After) {
        if let Some(held) = self.take_first(id)
            && let Some(entry) = self.ids.get_mut(id)
        {
            after.answer(id, entry, held.reply, Err(error));
        }
    }

    /// Appends a record (`None`: a tombstone) and queues what follows from it. Whether it was appended; if not, whoever waits for it is told.
    fn write(
        &mut self,
        core: &Arc<Core>,
        id: &str,
        record: Option<Transaction>,
        answer: Option<(Producer, Reply)>,
        now_ms: i64,
        after: &mut After,
    ) -> bool {
        let partition = core
            .transactions_partition(id)
            .filter(|partition| !partition.has_failed());
        let appended = partition.and_then(|partition| {
            let mut builder = Builder::new();
            let value = record.as_ref().map(Transaction::encode);
            builder.append(
                now_ms,
                Some(&records::encode_key(id)),
                value.as_deref(),
                &[],
            );
            let (batch, origin) = (builder.build(), AppendOrigin::Coordinator);
            let is_complete = record
                .as_ref()
                .is_some_and(|record| is_complete(record.state));
            let appended = if is_complete {
                partition.append_unhurried(batch, origin, now_ms)
            } else {
                partition.append_quietly(batch, origin, now_ms)
            };
            match appended {
                Ok((appended, wake)) => Some((partition, appended, wake)),
                Err(error) => {
                    tracing::error!(transactional_id = id, %error, "transaction record not written");
                    None
                }
            }
        });
        let Some(entry) = self.ids.get_mut(id) else {
            return false;
        };
        let Some((partition, appended, wake)) = appended else {
            if let Some((_, reply)) = answer {
                let error = TransactionError::CoordinatorNotAvailable;
                after.answer(id, entry, reply, Err(error));
            }
            return false;
        };
        match record.as_ref().map(|record| record.state) {
            Some(state) if state.is_prepared() => fault::point("prepare-appended"),
            Some(state) if is_complete(state) => fault::point("complete-appended"),
            _ => {}
        }
        let record = record.map(Arc::new);
        entry.is_writing |= !record
            .as_ref()
            .is_some_and(|record| is_complete(record.state));
        entry.latest = record.clone();
        let written = Appended {
            id: id.to_owned(),
            record,
            answer,
        };
        self.pending.push(&partition, &appended, written);
        after.wakes.push(wake);
        after.appended.push(partition);
        true
    }

    fn refuse_late(&mut self, core: &Arc<Core>, now_ms: i64, after: &mut After) {
        while let Some(first) = self.deadlines.first_entry() {
            if first.key().0 > now_ms {
                return;
            }
            let number = first.key().1;
            let id = first.remove();
            if let Some(entry) = self.ids.get_mut(&id)
                && let Some(at) = entry.held.iter().position(|held| held.number == number)
                && let Some(held) = entry.held.remove(at)
            {
                after.answer(&id, entry, held.reply, Err(TransactionError::Concurrent));
            }
            self.decide_held(core, &id, now_ms, after);
        }
    }

    fn abort_timed_out(&mut self, core: &Arc<Core>, now_ms: i64, after: &mut After) {
        let due: Vec<_> = self
            .ids
            .iter()
            .filter(|(_, entry)| !entry.is_writing)
            .filter_map(|(id, entry)| {
                Some((id.clone(), time_out(entry.latest.as_deref()?, now_ms)?))
            })
            .collect();
        for (id, record) in due {
            tracing::info!(
                transactional_id = id,
                producer_id = record.producer_id,
                "transaction timed out"
            );
            self.write(core, &id, Some(record), None, now_ms, after);
        }
    }

    /// Transactions whose outcome is durable and whose markers nobody is writing: found at start, or left by a failure.
    fn collect_prepared(&mut self, core: &Core, after: &mut After) {
        for (id, entry) in &mut self.ids {
            let Some(durable) = entry
                .durable
                .as_ref()
                .filter(|durable| durable.state.is_prepared())
            else {
                continue;
            };
            let is_latest = entry.latest.as_ref() == Some(durable);
            let can_complete = || {
                core.transactions_partition(id)
                    .is_some_and(|partition| !partition.has_failed())
            };
            let (written, again) = match &mut entry.markers {
                Markers::None if is_latest && can_complete() => (Written::new(), false),
                Markers::Failed(written) if is_latest && can_complete() => {
                    (std::mem::take(written), true)
                }
                _ => continue,
            };
            entry.markers = Markers::Sending { written, again };
            after.prepared.push((id.clone(), durable.clone()));
        }
    }

    fn forget_idle(
        &mut self,
        core: &Arc<Core>,
        expiration_ms: i64,
        now_ms: i64,
        after: &mut After,
    ) {
        let due: Vec<_> = self
            .ids
            .iter()
            .filter(|(_, entry)| !entry.is_writing && entry.held.is_empty() && entry.answering == 0)
            .filter(|(_, entry)| {
                let latest = entry.latest.as_deref();
                latest.is_some_and(|latest| is_expired(latest, expiration_ms, now_ms))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            tracing::info!(transactional_id = id, "transactional id expired");
            self.write(core, &id, None, None, now_ms, after);
        }
    }
}

fn is_complete(state: State) -> bool {
    matches!(state, State::CompleteCommit | State::CompleteAbort)
}

/// The partition of the topic that a transactional id belongs to.
pub(crate) fn partition_of(id: &str, partition_count: i32) -> i32 {
    (java_hash(id) & i32::MAX) % partition_count.max(1)
}

/// Configs of the topic.
pub(crate) fn topic_configs(segment_bytes: i32) -> BTreeMap<String, String> {
    [
        ("cleanup.policy", "compact".to_owned()),
        ("compression.type", "uncompressed".to_owned()),
        ("segment.bytes", segment_bytes.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
