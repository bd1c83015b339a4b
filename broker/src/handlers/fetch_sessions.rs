//! Fetch sessions (KIP-227): a client that fetches many partitions names only what changes, and is told only what changed.
//!
//! 1. `begin` looks at what a request says of its session: it has none, wants one, or goes on with one. In the last case the request's
//!    changes are applied to the session, and the request then names every partition of it.
//! 2. The fetch is served as any other.
//! 3. `Turn::finish` turns the answer into what the session's client has not been told yet, or keeps a new session.
//!
//! As in Kafka there are 1000 slots. A new session takes that of one not used for two minutes; else of one that is at least that old and has
//! fewer partitions; else the client gets none and sends full fetches. Beyond Kafka, partitions of all sessions are bounded: they
//! are memory that a client asks for with a few bytes each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_wire::{FetchRequest, FetchResponse};

use uuid::Uuid;

use crate::protocol::{ErrorCode, StrBytes, id_of, message, wire_id};

/// `max.incremental.fetch.session.cache.slots`.
const SLOTS: usize = 1000;
/// Partitions of all sessions.
const PARTITIONS_MAX: usize = 500_000;
/// A session may lose its slot when it was not used for so long, or, to a larger one, when it is so old.
const EVICTION_MS: i64 = 120_000;

/// The epoch of a request that begins a session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that has none, and ends the one it names.
const FINAL_EPOCH: i32 = -1;

/// A partition as a request names it: by name, or from v13 on by id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    topic: StrBytes,
    topic_id: Uuid,
    partition: i32,
}

impl Key {
    fn new(topic: &StrBytes, topic_id: Uuid, partition: i32) -> Self {
        Self {
            topic: topic.clone(),
            topic_id,
            partition,
        }
    }
}

/// A partition of a session.
#[derive(Debug)]
struct Cached {
    /// Its place in the order in which partitions are read.
    place: u64,
    request: FetchPartition,
    /// What the client was told last. -1 makes it be told again.
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    by_id: bool,
    created_at_ms: i64,
    used_at_ms: i64,
    next_place: u64,
    order: BTreeMap<u64, Key>,
    partitions: HashMap<Key, Cached>,
}

impl Session {
    fn put(&mut self, key: Key, request: FetchPartition) {
        if let Some(cached) = self.partitions.get_mut(&key) {
            cached.request = request;
            return;
        }
        let cached = Cached {
            place: self.next_place,
            request,
            high_watermark: -1,
            log_start_offset: -1,
        };
        self.order.insert(cached.place, key.clone());
        self.partitions.insert(key, cached);
        self.next_place += 1;
    }

    fn forget(&mut self, key: &Key) {
        if let Some(cached) = self.partitions.remove(key) {
            self.order.remove(&cached.place);
        }
    }

    /// Every partition, in order; neighbours of one topic together.
    fn topics(&self) -> Vec<FetchTopic> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for key in self.order.values() {
            let Some(cached) = self.partitions.get(key) else {
                continue;
            };
            let topic_id = wire_id(key.topic_id);
            match topics.last_mut() {
                Some(last) if last.topic == key.topic && last.topic_id == topic_id => {
                    last.partitions.push(cached.request.clone());
                }
                _ => topics.push(message!(FetchTopic {
                    topic: key.topic.clone(),
                    topic_id: topic_id,
                    partitions: vec![cached.request.clone()],
                })),
            }
        }
        topics
    }

    /// Whether the client has to be told this, which it then is. A partition with records goes to the end of the order, so that those behind
    /// it have their turn when an answer is full.
    fn tell(&mut self, key: &Key, data: &PartitionData) -> bool {
        let Some(cached) = self.partitions.get_mut(key) else {
            return true;
        };
        // If there are none in it they stand beside it.
        let has_records = data
            .records
            .as_ref()
            .is_none_or(|records| !records.is_empty());
        let is_news = has_records
            || data.error_code != 0
            || data.diverging_epoch.epoch >= 0
            || data.high_watermark != cached.high_watermark
            || data.log_start_offset != cached.log_start_offset;
        cached.log_start_offset = data.log_start_offset;
        // An error is told every time, and what is so once it has passed.
        cached.high_watermark = if data.error_code == 0 {
            data.high_watermark
        } else {
            -1
        };
        if has_records {
            self.order.remove(&cached.place);
            cached.place = self.next_place;
            self.order.insert(cached.place, key.clone());
            self.next_place += 1;
        }
        is_news
    }
}

/// The sessions of a broker.
#[derive(Debug, Default)]
pub(crate) struct FetchSessions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<i32, Session>,
    last_id: i32,
    partition_count: usize,
    evicted: u64,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sessions: usize,
    pub(crate) partitions: usize,
    pub(crate) evicted: u64,
}

/// One request's part in a session.
#[derive(Debug)]
pub(crate) enum Turn {
    /// None: every answer is a whole one.
    Sessionless,
    /// It asks for one, with these partitions.
    Begin {
        partitions: Vec<(Key, FetchPartition)>,
        by_id: bool,
    },
    /// It goes on with this one.
    Continue { id: i32 },
}

impl State {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partition_count -= session.partitions.len();
        }
    }

    /// Makes room for one more session, if that is allowed.
    fn make_room(&mut self, size: usize, now_ms: i64) -> bool {
        if self.sessions.len() >= SLOTS {
            let Some(victim) = self.victim(size, now_ms) else {
                return false;
            };
            self.remove(victim);
            self.evicted += 1;
        }
        self.partition_count + size <= PARTITIONS_MAX
    }

    fn victim(&self, size: usize, now_ms: i64) -> Option<i32> {
        let unused = self
            .sessions
            .iter()
            .min_by_key(|(_, session)| session.used_at_ms)
            .filter(|(_, session)| now_ms - session.used_at_ms > EVICTION_MS);
        let smaller = || {
            self.sessions
                .iter()
                .filter(|(_, session)| {
                    now_ms - session.created_at_ms > EVICTION_MS && session.partitions.len() < size
                })
                .min_by_key(|(id, session)| (session.partitions.len(), **id))
        };
        unused.or_else(smaller).map(|(id, _)| *id)
    }

    /// An id that no session has; never 0, which stands for none.
    fn next_id(&mut self) -> i32 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1).max(1);
            if !self.sessions.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }
}

impl FetchSessions {
    /// Sessions whose ids begin at random, as it were: a client that comes back after a restart finds another's unlikely.
    pub(crate) fn new(seed: i64) -> Self {
        let sessions = Self::default();
        // The lower bits of the time: any of them does.
        sessions.lock().last_id = (seed & i64::from(i32::MAX)) as i32;
        sessions
    }

    /// What the request has to do with a session. One that goes on names every partition of the session afterwards.
    pub(crate) fn begin(
        &self,
        request: &mut FetchRequest,
        by_id: bool,
        now_ms: i64,
    ) -> Result<Turn, ErrorCode> {
        let id = request.session_id;
        if matches!(request.session_epoch, INITIAL_EPOCH | FINAL_EPOCH) {
            if id != 0 {
                self.lock().remove(id);
            }
            if request.session_epoch == FINAL_EPOCH || request.topics.is_empty() {
                return Ok(Turn::Sessionless);
            }
            return Ok(Turn::Begin {
                partitions: named(&request.topics),
                by_id,
            });
        }
        let mut state = self.lock();
        let session = state
            .sessions
            .get_mut(&id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.partitions.len();
        for (key, partition) in named(&request.topics) {
            session.put(key, partition);
        }
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                session.forget(&Key::new(&topic.topic, id_of(topic.topic_id), *partition));
            }
        }
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        session.used_at_ms = now_ms;
        request.topics = session.topics();
        let after = session.partitions.len();
        state.partition_count = state.partition_count - before + after;
        if after == 0 {
            state.remove(id);
            return Ok(Turn::Sessionless);
        }
        if state.partition_count > PARTITIONS_MAX {
            // The client begins a new one, and is told then that there is no room.
            state.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(Turn::Continue { id })
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            sessions: state.sessions.len(),
            partitions: state.partition_count,
            evicted: state.evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(
        &self,
        partitions: Vec<(Key, FetchPartition)>,
        by_id: bool,
        response: &FetchResponse,
        now_ms: i64,
    ) -> i32 {
        let mut session = Session {
            epoch: INITIAL_EPOCH + 1,
            by_id,
            created_at_ms: now_ms,
            used_at_ms: now_ms,
            next_place: 0,
            order: BTreeMap::new(),
            partitions: HashMap::new(),
        };
        for (key, partition) in partitions {
            session.put(key, partition);
        }
        let mut state = self.lock();
        if !state.make_room(session.partitions.len(), now_ms) {
            return 0;
        }
        for topic in &response.responses {
            for data in &topic.partitions {
                let key = Key::new(&topic.topic, id_of(topic.topic_id), data.partition_index);
                session.tell(&key, data);
            }
        }
        let id = state.next_id();
        state.partition_count += session.partitions.len();
        state.sessions.insert(id, session);
        id
    }
}

fn named(topics: &[FetchTopic]) -> Vec<(Key, FetchPartition)> {
    let of = |topic: &FetchTopic| {
        let partitions = topic.partitions.iter();
        let key = |partition: &FetchPartition| {
            Key::new(&topic.topic, id_of(topic.topic_id), partition.partition)
        };
        partitions
            .map(|partition| (key(partition), partition.clone()))
            .collect::<Vec<_>>()
    };
    topics.iter().flat_map(of).collect()
}

impl Turn {
    /// Makes a whole answer the one that this client gets.
    pub(crate) fn finish(
        self,
        sessions: &Arc<FetchSessions>,
        response: &mut FetchResponse,
        now_ms: i64,
    ) {
        match self {
            Self::Sessionless => {}
            Self::Begin { partitions, by_id } => {
                response.session_id = sessions.create(partitions, by_id, response, now_ms);
            }
            Self::Continue { id } => {
                response.session_id = id;
                let mut state = sessions.lock();
                // It may have lost its slot while the request waited: the client hears of it with its next request.
                let Some(session) = state.sessions.get_mut(&id) else {
                    return;
                };
                response
                    .responses
                    .retain_mut(|topic: &mut FetchableTopicResponse| {
                        let (name, topic_id) = (topic.topic.clone(), topic.topic_id);
                        topic.partitions.retain(|data| {
                            session.tell(
                                &Key::new(&name, id_of(topic_id), data.partition_index),
                                data,
                            )
                        });
                        !topic.partitions.is_empty()
                    });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use bytes::Bytes;
    use kafka_wire::fetch_request::ForgottenTopic;

    use super::*;

    fn request(id: i32, epoch: i32, partitions: &[i32]) -> FetchRequest {
        let topic = message!(FetchTopic {
            topic: "t".into(),
            partitions: partitions
                .iter()
                .map(|index| message!(FetchPartition { partition: *index }))
                .collect(),
        });
        message!(FetchRequest {
            session_id: id,
            session_epoch: epoch,
            topics: if partitions.is_empty() {
                Vec::new()
            } else {
                vec![topic]
            },
        })
    }

    /// What a fetch of these answers: partition, high watermark, records.
    fn response(partitions: &[(i32, i64, &'static str)]) -> FetchResponse {
        message!(FetchResponse {
            responses: vec![message!(FetchableTopicResponse {
                topic: "t".into(),
                partitions: partitions
                    .iter()
                    .map(|(index, high_watermark, records)| message!(PartitionData {
                        partition_index: *index,
                        high_watermark: *high_watermark,
                        records: Some(Bytes::from_static(records.as_bytes())),
                    }))
                    .collect(),
            })],
        })
    }

    fn indexes(topics: &[FetchTopic]) -> Vec<i32> {
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.partition).collect()
    }

    fn told(response: &FetchResponse) -> Vec<i32> {
        let partitions = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions);
        partitions.map(|data| data.partition_index).collect()
    }

    fn begin(sessions: &Arc<FetchSessions>, partitions: &[i32], now_ms: i64) -> i32 {
        let mut request = request(0, 0, partitions);
        let turn = sessions.begin(&mut request, false, now_ms).unwrap();
        let all: Vec<_> = partitions.iter().map(|index| (*index, 5, "")).collect();
        let mut response = response(&all);
        turn.finish(sessions, &mut response, now_ms);
        assert_eq!(told(&response), partitions, "a first answer is whole");
        response.session_id
    }

    #[test]
    fn a_session_names_everything_and_is_told_what_is_new() {
        let sessions = Arc::new(FetchSessions::new(7));
        let id = begin(&sessions, &[0, 1, 2], 0);
        assert_ne!(id, 0);
        let mut next = request(id, 1, &[]);
        let turn = sessions.begin(&mut next, false, 0).unwrap();
        assert_eq!(indexes(&next.topics), [0, 1, 2]);
        let mut answer = response(&[(0, 5, ""), (1, 6, "xx"), (2, 5, "")]);
        turn.finish(&sessions, &mut answer, 0);
        assert_eq!(told(&answer), [1]);
        assert_eq!(answer.session_id, id);
        // What had records is read last the next time; a high watermark alone is news, too.
        let mut next = request(id, 2, &[]);
        let turn = sessions.begin(&mut next, false, 0).unwrap();
        assert_eq!(indexes(&next.topics), [0, 2, 1]);
        let mut answer = response(&[(0, 5, ""), (2, 7, ""), (1, 6, "")]);
        turn.finish(&sessions, &mut answer, 0);
        assert_eq!(told(&answer), [2]);
    }

    #[test]
    fn an_error_is_told_until_it_has_passed_and_then_what_is_so() {
        let sessions = Arc::new(FetchSessions::new(0));
        let id = begin(&sessions, &[0], 0);
        for (epoch, error_code, expected) in [(1, 3, 1), (2, 3, 1), (3, 0, 1), (4, 0, 0)] {
            let turn = sessions
                .begin(&mut request(id, epoch, &[]), false, 0)
                .unwrap();
            let mut answer = response(&[(0, 5, "")]);
            answer.responses[0].partitions[0].error_code = error_code;
            turn.finish(&sessions, &mut answer, 0);
            assert_eq!(told(&answer).len(), expected, "epoch {epoch}");
        }
    }

    #[test]
    fn partitions_are_added_and_forgotten_and_the_last_ends_the_session() {
        let sessions = Arc::new(FetchSessions::new(0));
        let id = begin(&sessions, &[0, 1], 0);
        let mut next = request(id, 1, &[2]);
        next.forgotten_topics_data = vec![message!(ForgottenTopic {
            topic: "t".into(),
            partitions: vec![0],
        })];
        sessions.begin(&mut next, false, 0).unwrap();
        assert_eq!(indexes(&next.topics), [1, 2]);
        assert_eq!(sessions.counts().partitions, 2);
        let mut last = request(id, 2, &[]);
        last.forgotten_topics_data = vec![message!(ForgottenTopic {
            topic: "t".into(),
            partitions: vec![1, 2],
        })];
        assert!(matches!(
            sessions.begin(&mut last, false, 0),
            Ok(Turn::Sessionless)
        ));
        assert_eq!(
            (sessions.counts().sessions, sessions.counts().partitions),
            (0, 0)
        );
    }

    #[test]
    fn a_wrong_id_epoch_or_way_of_naming_is_refused() {
        let sessions = Arc::new(FetchSessions::new(0));
        let id = begin(&sessions, &[0], 0);
        let refused = |id: i32, epoch: i32, by_id: bool| {
            sessions
                .begin(&mut request(id, epoch, &[]), by_id, 0)
                .unwrap_err()
        };
        assert_eq!(refused(id + 1, 1, false), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(refused(id, 2, false), ErrorCode::InvalidFetchSessionEpoch);
        assert_eq!(refused(id, 1, true), ErrorCode::FetchSessionTopicIdError);
        // The end of a session by its client.
        sessions
            .begin(&mut request(id, FINAL_EPOCH, &[0]), false, 0)
            .unwrap();
        assert_eq!(refused(id, 1, false), ErrorCode::FetchSessionIdNotFound);
    }

    #[test]
    fn a_full_cache_gives_the_slot_of_an_unused_or_a_smaller_session() {
        let sessions = Arc::new(FetchSessions::new(0));
        let first = begin(&sessions, &[0], 0);
        for _ in 1..SLOTS {
            assert_ne!(begin(&sessions, &[0, 1], 0), 0);
        }
        // All are young.
        assert_eq!(begin(&sessions, &[0, 1, 2], EVICTION_MS), 0);
        // All are used, and old enough: the smallest goes to a larger one, and none to one as small.
        let later = EVICTION_MS + 1;
        for session in sessions.lock().sessions.values_mut() {
            session.used_at_ms = later;
        }
        assert_eq!(begin(&sessions, &[0], later), 0);
        assert_ne!(begin(&sessions, &[0, 1], later), 0);
        assert!(!sessions.lock().sessions.contains_key(&first));
        // One that is not used goes first, whatever its size.
        let idle = *sessions.lock().sessions.keys().next().unwrap();
        sessions.lock().sessions.get_mut(&idle).unwrap().used_at_ms = -1;
        assert_ne!(begin(&sessions, &[0], later), 0);
        assert!(!sessions.lock().sessions.contains_key(&idle));
        assert_eq!(sessions.counts().sessions, SLOTS);
        assert_eq!(sessions.counts().evicted, 2);
    }

    #[test]
    fn epochs_wrap_past_those_that_mean_something_else() {
        let sessions = Arc::new(FetchSessions::new(i64::MAX));
        let id = begin(&sessions, &[0], 0);
        assert!(id > 0);
        sessions.lock().sessions.get_mut(&id).unwrap().epoch = i32::MAX;
        sessions
            .begin(&mut request(id, i32::MAX, &[]), false, 0)
            .unwrap();
        assert!(sessions.begin(&mut request(id, 1, &[]), false, 0).is_ok());
    }
}
