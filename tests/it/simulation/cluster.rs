//! A Kafka cluster as a model: logs, transactions with their markers, one group. No disk, no thread, no clock: what is not certain is a seed's choice.
//!
//! - A transaction is `Ongoing`, then its outcome is known (`Ending`), then its markers are written one by one, and it has ended.
//! - Each beginning and each end of a transaction, also by time-out, brings another epoch; who comes with an older one is refused.
//! - A dead client's requests may be on their way still: they arrive later, or not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brooklet_streams_core::client::{
    ClientError, ClientErrorKind, CommittedOffset, MemberIdentity, NewTopic, TopicPartition,
    TransactionRequest,
};

use crate::programs::Random;

/// How a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    Aborted,
    /// Its transaction is open.
    Open,
    /// Not a record: the end of a transaction.
    Marker,
}

/// A record as it lies in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) timestamp: i64,
}

struct Entry {
    record: Stored,
    producer_id: i64,
    fate: Fate,
}

#[derive(Default)]
struct Partition {
    /// The index is the offset.
    entries: Vec<Entry>,
    start: i64,
    /// Producers with a transaction here, and its first offset.
    open: BTreeMap<i64, i64>,
}

impl Partition {
    fn end(&self) -> i64 {
        i64::try_from(self.entries.len()).unwrap()
    }

    fn stable_end(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.end())
    }
}

struct Topic {
    id: [u8; 16],
    partitions: Vec<Partition>,
}

/// Where the markers of a transaction go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log(TopicPartition),
    Offsets,
}

#[derive(Debug)]
enum Phase {
    Ended,
    Ongoing {
        since_ms: i64,
        places: BTreeSet<Place>,
    },
    /// The outcome is certain; these markers are not written yet.
    Ending {
        places: Vec<Place>,
    },
}

/// The transactions of one id.
struct Transactional {
    writer: Writer,
    phase: Phase,
    /// The outcome of the last.
    committed: bool,
    timeout_ms: i64,
}

/// A producer as the cluster knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

/// Who has the group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    instance: String,
    member: u64,
    generation: i32,
}

/// A request of a producer on its way.
pub(super) enum Flight {
    Batch(TopicPartition, Vec<Stored>),
    Step(TransactionRequest),
}

/// What a dead producer has sent.
pub(super) struct Late {
    pub(super) transactional_id: String,
    pub(super) writer: Writer,
    pub(super) flights: VecDeque<Flight>,
}

/// Why a batch is not in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The producer's last transaction is being ended: the same again.
    Busy,
    /// Another epoch has begun.
    Stale,
}

/// The cluster, with the time and the chance of its seed.
pub(super) struct Model {
    pub(super) random: Random,
    pub(super) now_ms: i64,
    /// Nothing fails any more.
    pub(super) calm: bool,
    /// One call in so many fails.
    pub(super) fault_every: u64,
    topics: BTreeMap<String, Topic>,
    transactions: BTreeMap<String, Transactional>,
    producers: i64,
    committed: BTreeMap<TopicPartition, CommittedOffset>,
    pending: BTreeMap<i64, BTreeMap<TopicPartition, CommittedOffset>>,
    holder: Option<Holder>,
    members: u64,
    generation: i32,
    rebalancing_until_ms: i64,
    late: Vec<Late>,
    /// How often a producer was asked to commit.
    pub(super) commits_asked: u64,
    /// What happened, how often.
    pub(super) happened: BTreeMap<&'static str, u64>,
    /// The last events, for the message of a failure.
    pub(super) events: VecDeque<String>,
    /// Of all events: the same seed gives the same.
    pub(super) digest: u64,
}

/// The model, shared by its clients.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Model>>);

impl Shared {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let fault_every = [20, 40, 100, 400][random.below(4) as usize];
        Self(Arc::new(Mutex::new(Model {
            random,
            now_ms: 1_000_000,
            calm: false,
            fault_every,
            topics: BTreeMap::new(),
            transactions: BTreeMap::new(),
            producers: 0,
            committed: BTreeMap::new(),
            pending: BTreeMap::new(),
            holder: None,
            members: 0,
            generation: 0,
            rebalancing_until_ms: 0,
            late: Vec::new(),
            commits_asked: 0,
            happened: BTreeMap::new(),
            events: VecDeque::new(),
            digest: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Model> {
        // A test that has panicked prints what is here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn error(kind: ClientErrorKind, what: &str) -> ClientError {
    ClientError::new(kind, format!("simulated: {what}"))
}

/// For the message of a failure.
const EVENTS_KEPT: usize = 300;

impl Model {
    /// Writes down what happened.
    pub(super) fn note(&mut self, what: &'static str, of: impl std::fmt::Display) {
        *self.happened.entry(what).or_default() += 1;
        let event = format!("{} {what} {of}", self.now_ms);
        for byte in event.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.random.below(count) == 0
    }

    /// Whether a call fails now.
    pub(super) fn fails(&mut self) -> bool {
        let every = self.fault_every;
        !self.calm && self.one_in(every)
    }

    /// Whether something that would be late sometimes is late.
    pub(super) fn is_late(&mut self) -> bool {
        !self.calm && self.one_in(3)
    }

    /// One of the kinds in which a cluster refuses who is not the producer any more.
    pub(super) fn lost(&mut self) -> ClientErrorKind {
        if self.one_in(2) {
            ClientErrorKind::ProducerLost
        } else {
            ClientErrorKind::Fenced
        }
    }

    // Topics.

    pub(super) fn create(&mut self, new: &NewTopic) -> Result<(), ClientError> {
        if self.topics.contains_key(&new.name) {
            return Err(error(ClientErrorKind::TopicExists, &new.name));
        }
        let mut id = [0; 16];
        id[0] = u8::try_from(self.topics.len() + 1).unwrap();
        let partitions = (0..new.partitions).map(|_| Partition::default()).collect();
        self.topics
            .insert(new.name.clone(), Topic { id, partitions });
        Ok(())
    }

    pub(super) fn partition_count(&self, topic: &str) -> Option<i32> {
        let count = self.topics.get(topic)?.partitions.len();
        Some(i32::try_from(count).unwrap())
    }

    pub(super) fn topic_id(&self, topic: &str) -> Option<[u8; 16]> {
        Some(self.topics.get(topic)?.id)
    }

    pub(super) fn topic_names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    fn log(&mut self, at: &TopicPartition) -> Option<&mut Partition> {
        let index = usize::try_from(at.partition).ok()?;
        self.topics.get_mut(&*at.topic)?.partitions.get_mut(index)
    }

    /// Start, last stable offset and end of a log.
    pub(super) fn offsets(&mut self, at: &TopicPartition) -> Option<(i64, i64, i64)> {
        let log = self.log(at)?;
        Some((log.start, log.stable_end(), log.end()))
    }

    pub(super) fn delete_below(&mut self, at: &TopicPartition, offset: i64) -> Option<i64> {
        let log = self.log(at)?;
        log.start = log.start.max(offset.min(log.stable_end()));
        Some(log.start)
    }

    /// Of a log from `position`: committed records with their offsets, and the position behind what was looked at.
    pub(super) fn read(
        &mut self,
        at: &TopicPartition,
        position: i64,
        entries_max: usize,
        read_committed: bool,
    ) -> (Vec<(i64, Stored)>, i64) {
        let Some(log) = self.log(at) else {
            return (Vec::new(), position);
        };
        let end = if read_committed {
            log.stable_end()
        } else {
            log.end()
        };
        let mut records = Vec::new();
        let mut next = position;
        while next < end && next - position < i64::try_from(entries_max).unwrap_or(i64::MAX) {
            let entry = &log.entries[usize::try_from(next).unwrap()];
            let is_read = match entry.fate {
                Fate::Marker => false,
                Fate::Committed => true,
                Fate::Aborted | Fate::Open => !read_committed,
            };
            if is_read {
                records.push((next, entry.record.clone()));
            }
            next += 1;
        }
        (records, next)
    }

    /// All committed records of a topic, whatever was deleted; nothing is open in it.
    pub(super) fn all_committed(&self, topic: &str) -> Vec<(i32, Stored)> {
        let mut all = Vec::new();
        for (number, log) in (0..).zip(&self.topics[topic].partitions) {
            for entry in &log.entries {
                assert_ne!(entry.fate, Fate::Open, "{topic}-{number}");
                if entry.fate == Fate::Committed {
                    all.push((number, entry.record.clone()));
                }
            }
        }
        all
    }

    /// Writes outside of a transaction.
    pub(super) fn append(&mut self, at: &TopicPartition, record: Stored) {
        self.log(at).unwrap().entries.push(Entry {
            record,
            producer_id: -1,
            fate: Fate::Committed,
        });
    }

    // Transactions.

    /// Writes a batch in a transaction; the offset of its last record.
    pub(super) fn append_as(
        &mut self,
        id: &str,
        writer: Writer,
        at: &TopicPartition,
        records: &[Stored],
    ) -> Result<i64, Refusal> {
        self.join(id, writer, Place::Log(at.clone()))?;
        let log = self.log(at).unwrap();
        let first = log.end();
        log.open.entry(writer.id).or_insert(first);
        let entries = records.iter().map(|record| Entry {
            record: record.clone(),
            producer_id: writer.id,
            fate: Fate::Open,
        });
        log.entries.extend(entries);
        let last = log.end() - 1;
        self.note(
            "append",
            format_args!("{id} {writer:?} {at} {first}..={last}"),
        );
        Ok(last)
    }

    fn join(&mut self, id: &str, writer: Writer, place: Place) -> Result<(), Refusal> {
        let now_ms = self.now_ms;
        let known = self.transactions.get_mut(id).ok_or(Refusal::Stale)?;
        if known.writer != writer {
            return Err(Refusal::Stale);
        }
        match &mut known.phase {
            Phase::Ending { .. } => return Err(Refusal::Busy),
            Phase::Ongoing { places, .. } => {
                places.insert(place);
            }
            phase @ Phase::Ended => {
                *phase = Phase::Ongoing {
                    since_ms: now_ms,
                    places: BTreeSet::from([place]),
                }
            }
        }
        Ok(())
    }

    /// Does a step of a producer's transactions; as whom it goes on.
    pub(super) fn step(
        &mut self,
        id: &str,
        writer: Option<Writer>,
        timeout_ms: i64,
        step: &TransactionRequest,
    ) -> Result<Writer, ClientError> {
        let busy = || error(ClientErrorKind::Retriable, "the last transaction is ending");
        if *step == TransactionRequest::Initialize {
            return self.initialize(id, timeout_ms);
        }
        let writer =
            writer.ok_or_else(|| error(ClientErrorKind::ProducerLost, "not initialised"))?;
        match step {
            TransactionRequest::Initialize => self.initialize(id, timeout_ms),
            TransactionRequest::SendOffsets { member, offsets } => {
                self.check_member(member)?;
                match self.join(id, writer, Place::Offsets) {
                    Ok(()) => {}
                    Err(Refusal::Busy) => return Err(busy()),
                    Err(Refusal::Stale) => {
                        self.note("stale offsets", id);
                        let kind = self.lost();
                        return Err(error(kind, "offsets of an older epoch"));
                    }
                }
                let pending = self.pending.entry(writer.id).or_default();
                pending.extend(offsets.iter().cloned());
                self.note("offsets", format_args!("{id} {writer:?} {offsets:?}"));
                Ok(writer)
            }
            TransactionRequest::Commit | TransactionRequest::Abort => {
                let is_commit = *step == TransactionRequest::Commit;
                let Some(known) = self.transactions.get_mut(id) else {
                    return Err(error(ClientErrorKind::ProducerLost, "not known"));
                };
                let ended_before = Writer {
                    epoch: writer.epoch + 1,
                    ..writer
                };
                if known.writer == ended_before && known.committed == is_commit {
                    // Asked again.
                    return Ok(known.writer);
                }
                if known.writer != writer {
                    let kind = self.lost();
                    self.note("stale end", id);
                    return Err(error(kind, "an end in an older epoch"));
                }
                match known.phase {
                    Phase::Ended if is_commit => Ok(writer),
                    // What is on its way of it may not come into the next (KIP-890).
                    Phase::Ended => {
                        known.committed = false;
                        known.writer.epoch += 1;
                        Ok(known.writer)
                    }
                    Phase::Ending { .. } => Err(busy()),
                    Phase::Ongoing { .. } => Ok(self.end(id, is_commit)),
                }
            }
        }
    }

    fn initialize(&mut self, id: &str, timeout_ms: i64) -> Result<Writer, ClientError> {
        let producers = &mut self.producers;
        let known = self.transactions.entry(id.to_owned()).or_insert_with(|| {
            *producers += 1;
            Transactional {
                writer: Writer {
                    id: *producers,
                    epoch: -1,
                },
                phase: Phase::Ended,
                committed: false,
                timeout_ms,
            }
        });
        known.timeout_ms = timeout_ms;
        match known.phase {
            Phase::Ended => {
                known.writer.epoch += 1;
                let writer = known.writer;
                self.note("initialized", format_args!("{id} {writer:?}"));
                Ok(writer)
            }
            Phase::Ongoing { .. } => {
                self.end(id, false);
                Err(error(
                    ClientErrorKind::Retriable,
                    "what was open is being ended",
                ))
            }
            Phase::Ending { .. } => Err(error(
                ClientErrorKind::Retriable,
                "the last transaction is ending",
            )),
        }
    }

    /// The outcome of what is ongoing; as whom the producer goes on.
    fn end(&mut self, id: &str, is_commit: bool) -> Writer {
        let known = self.transactions.get_mut(id).unwrap();
        let Phase::Ongoing { places, .. } = std::mem::replace(&mut known.phase, Phase::Ended)
        else {
            panic!("{id} has nothing to end");
        };
        known.committed = is_commit;
        known.writer.epoch += 1;
        known.phase = Phase::Ending {
            places: places.into_iter().collect(),
        };
        let writer = known.writer;
        let what = if is_commit { "commit" } else { "abort" };
        self.note(what, format_args!("{id} {writer:?}"));
        writer
    }

    fn write_marker(&mut self, id: &str) {
        let many = self.random.below(8) as usize;
        let Some(known) = self.transactions.get_mut(id) else {
            return;
        };
        let Phase::Ending { places } = &mut known.phase else {
            return;
        };
        let producer_id = known.writer.id;
        let is_commit = known.committed;
        let place = (!places.is_empty()).then(|| places.remove(many % places.len()));
        if places.is_empty() {
            known.phase = Phase::Ended;
        }
        match place {
            None => {}
            Some(Place::Log(at)) => {
                let log = self.log(&at).unwrap();
                let first = log.open.remove(&producer_id).unwrap_or(log.end());
                let first = usize::try_from(first).unwrap();
                for entry in &mut log.entries[first..] {
                    if entry.producer_id == producer_id && entry.fate == Fate::Open {
                        entry.fate = if is_commit {
                            Fate::Committed
                        } else {
                            Fate::Aborted
                        };
                    }
                }
                log.entries.push(Entry {
                    record: Stored {
                        key: None,
                        value: None,
                        timestamp: 0,
                    },
                    producer_id,
                    fate: Fate::Marker,
                });
                self.note("marker", format_args!("{at} {producer_id} {is_commit}"));
            }
            Some(Place::Offsets) => {
                let pending = self.pending.remove(&producer_id).unwrap_or_default();
                if is_commit {
                    self.committed.extend(pending);
                }
                self.note(
                    "marker of offsets",
                    format_args!("{producer_id} {is_commit}"),
                );
            }
        }
    }

    /// What the cluster does by itself: markers, time-outs, what dead clients have sent.
    pub(super) fn go_on(&mut self) {
        let ids: Vec<String> = self.transactions.keys().cloned().collect();
        for id in ids {
            let known = &self.transactions[&id];
            match &known.phase {
                Phase::Ended => {}
                Phase::Ending { places } => {
                    let markers = if self.calm { places.len().max(1) } else { 1 };
                    if !self.is_late() {
                        for _ in 0..markers {
                            self.write_marker(&id);
                        }
                    }
                }
                Phase::Ongoing { since_ms, .. } => {
                    if self.now_ms - since_ms > known.timeout_ms {
                        self.note("time-out", &id);
                        self.end(&id, false);
                    }
                }
            }
        }
        if !self.late.is_empty() && (self.calm || self.one_in(4)) {
            self.let_late_arrive();
        }
    }

    /// The next request of a dead client; or none of it ever.
    fn let_late_arrive(&mut self) {
        let which = self.random.below(self.late.len() as u64) as usize;
        let lost = self.one_in(4);
        let late = &mut self.late[which];
        let flight = late.flights.pop_front();
        let (id, writer) = (late.transactional_id.clone(), late.writer);
        if lost || flight.is_none() {
            self.late.swap_remove(which);
            return;
        }
        let arrived = match flight {
            Some(Flight::Batch(at, records)) => self.append_as(&id, writer, &at, &records).is_ok(),
            Some(Flight::Step(step)) => self.step(&id, Some(writer), 10_000, &step).is_ok(),
            None => false,
        };
        let what = if arrived { "late" } else { "late and refused" };
        self.note(what, &id);
    }

    pub(super) fn leave_behind(&mut self, late: Late) {
        if !late.flights.is_empty() && !self.calm {
            self.late.push(late);
        }
    }

    /// Whether every transaction has ended, with all its markers.
    pub(super) fn is_settled(&self) -> bool {
        self.late.is_empty()
            && self
                .transactions
                .values()
                .all(|known| matches!(known.phase, Phase::Ended))
    }

    // The group.

    /// Takes the group over; as which member.
    pub(super) fn claim(&mut self, instance: &str) -> u64 {
        self.members += 1;
        self.generation += 1;
        let member = self.members;
        self.note("claim", member);
        self.holder = Some(Holder {
            instance: instance.to_owned(),
            member: self.members,
            generation: self.generation,
        });
        self.members
    }

    /// Begins a rebalance; who has the group has it in another generation then.
    pub(super) fn rebalance(&mut self) {
        self.generation += 1;
        self.rebalancing_until_ms =
            self.now_ms + 20 + i64::try_from(self.random.below(200)).unwrap();
        if let Some(holder) = &mut self.holder {
            holder.generation = self.generation;
        }
        self.note("rebalance", self.generation);
    }

    pub(super) fn is_rebalancing(&self) -> bool {
        self.now_ms < self.rebalancing_until_ms
    }

    /// The generation of a member; `None` when another has its place.
    pub(super) fn generation_of(&self, member: u64) -> Option<i32> {
        let holder = self.holder.as_ref()?;
        (holder.member == member).then_some(holder.generation)
    }

    fn check_member(&mut self, member: &MemberIdentity) -> Result<(), ClientError> {
        if self.is_rebalancing() {
            return Err(error(ClientErrorKind::Retriable, "the group rebalances"));
        }
        let Some(holder) = &self.holder else {
            return Err(error(ClientErrorKind::Retriable, "no such member"));
        };
        if holder.member.to_string() == member.member_id {
            if holder.generation == member.generation {
                return Ok(());
            }
            self.note("old generation", &member.member_id);
            return Err(error(ClientErrorKind::Retriable, "an older generation"));
        }
        let is_replaced = member.instance_id.as_deref() == Some(&*holder.instance);
        self.note("zombie refused", &member.member_id);
        Err(if is_replaced {
            error(ClientErrorKind::Fenced, "another member of this instance")
        } else {
            error(ClientErrorKind::Retriable, "no such member")
        })
    }

    /// Commits outside of a transaction.
    pub(super) fn commit_offsets(
        &mut self,
        member: &MemberIdentity,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<(), ClientError> {
        self.check_member(member)?;
        self.committed.extend(offsets.iter().cloned());
        Ok(())
    }

    /// The committed offset, while no transaction is about to change it.
    pub(super) fn committed(
        &self,
        at: &TopicPartition,
    ) -> Result<Option<CommittedOffset>, ClientError> {
        if self
            .pending
            .values()
            .any(|pending| pending.contains_key(at))
        {
            return Err(error(
                ClientErrorKind::Retriable,
                "offsets of an open transaction",
            ));
        }
        Ok(self.committed.get(at).cloned())
    }
}
