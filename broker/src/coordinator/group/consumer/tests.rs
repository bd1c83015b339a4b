//! A consumer group on virtual time: first by hand, then with many clients that a seed drives.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use kafka_wire as wire;
use kafka_wire_core::ApiVersion;

use super::*;
use crate::coordinator::group::MemberRef;
use crate::coordinator::group::classic::{Caller, Join};
use crate::metadata::{Command, Topic};
use crate::protocol::message;

const SESSION_MS: i64 = 45_000;
const REBALANCE_MS: i32 = 60_000;
const INTERVAL_MS: i64 = 1000;

fn rules() -> ConsumerRules {
    ConsumerRules {
        session_timeout_ms: SESSION_MS,
        heartbeat_interval_ms: 5000,
        size_max: 100,
        assignors: vec![Assignor::Uniform, Assignor::Range],
        upgrade: true,
        downgrade: false,
        assignment_interval_ms: INTERVAL_MS,
        regex_refresh_interval_ms: 600_000,
        classic_size_max: 100,
    }
}

/// A group, the topics, the time, and the log that the group has written.
struct World {
    group: ConsumerGroup,
    rules: ConsumerRules,
    catalog: Catalog,
    now_ms: i64,
    log: Vec<ConsumerRecord>,
    topics_made: u128,
}

impl World {
    fn new() -> Self {
        Self {
            group: ConsumerGroup::new(),
            rules: rules(),
            catalog: Catalog::default(),
            now_ms: 1_000_000,
            log: Vec::new(),
            topics_made: 0,
        }
    }

    fn create(&mut self, name: &str, partition_count: i32) -> Uuid {
        self.topics_made += 1;
        let id = Uuid::from_u128(self.topics_made);
        self.catalog.replay(&Command::CreateTopic(Topic {
            name: name.into(),
            id,
            partition_count,
            configs: Default::default(),
        }));
        id
    }

    fn grow(&mut self, name: &str, partition_count: i32) {
        let id = self.catalog.topic(name).unwrap().id;
        self.catalog.replay(&Command::SetPartitionCount {
            id,
            partition_count,
        });
    }

    fn delete(&mut self, name: &str) {
        let id = self.catalog.topic(name).unwrap().id;
        self.catalog.replay(&Command::DeleteTopic { id });
    }

    /// Decides, and replays what was decided, as the coordinator does.
    fn decide<T, E>(
        &mut self,
        decide: impl FnOnce(&mut ConsumerGroup, View<'_>) -> Result<Decided<T>, E>,
    ) -> Result<T, E> {
        self.decide_with(None, decide)
    }

    /// The same for a heartbeat that may bring an expression.
    fn decide_with<T, E>(
        &mut self,
        brought: Option<&str>,
        decide: impl FnOnce(&mut ConsumerGroup, View<'_>) -> Result<Decided<T>, E>,
    ) -> Result<T, E> {
        let topics_version = self.catalog.topics_version();
        let unresolved = self
            .group
            .unresolved(brought, topics_version, &self.rules, self.now_ms);
        let matches =
            Expressions::default().resolve(&unresolved, |lend| lend(&self.catalog), || self.now_ms);
        let view = View {
            now_ms: self.now_ms,
            catalog: &self.catalog,
            topics_version: self.catalog.topics_version(),
            rules: &self.rules,
            matches: &matches,
        };
        // Looked at now and then: it takes its time.
        let before = self
            .log
            .len()
            .is_multiple_of(16)
            .then(|| self.group.durable());
        let decided = decide(&mut self.group, view);
        assert!(
            before.is_none_or(|before| before == self.group.durable()),
            "a decision changes nothing durable"
        );
        let decided = decided?;
        for record in decided.records {
            let gone = self.group.replay(&record, &self.rules, self.now_ms);
            assert!(!gone);
            self.log.push(record);
        }
        Ok(decided.answer)
    }

    fn heartbeat(&mut self, request: Heartbeat) -> Result<HeartbeatAnswer, Refusal> {
        let brought = request.regex.clone();
        self.decide_with(brought.as_deref(), |group, view| {
            group.heartbeat(request, view)
        })
    }

    fn expire(&mut self) {
        let _ = self.decide(|group, view| group.expire(view).ok_or(()));
    }

    fn advance(&mut self, by_ms: i64) {
        self.now_ms += by_ms;
        self.expire();
    }

    /// What is left of the log after compaction: the last record of each key, and of tombstones those that `keep` says.
    fn compacted(&self, mut keep: impl FnMut() -> bool) -> Vec<ConsumerRecord> {
        let mut last: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (index, record) in self.log.iter().enumerate() {
            last.insert(record.encode("g").0, index);
        }
        let is_last: BTreeSet<usize> = last.into_values().collect();
        let records = self.log.iter().enumerate();
        records
            .filter(|(index, record)| is_last.contains(index) && (!record.is_tombstone() || keep()))
            .map(|(_, record)| record.clone())
            .collect()
    }

    fn loaded(&self, log: &[ConsumerRecord]) -> ConsumerGroup {
        let mut group = ConsumerGroup::new();
        for record in log {
            let (key, value) = record.encode("g");
            let version = i16::from_be_bytes([key[0], key[1]]);
            let (name, decoded) =
                ConsumerRecord::decode(version, &key[2..], value.as_deref()).unwrap();
            assert_eq!((name.as_str(), &decoded), ("g", record));
            group.replay(&decoded, &self.rules, self.now_ms);
        }
        group
    }
}

fn join(member_id: &str, topics: &[&str]) -> Heartbeat {
    Heartbeat {
        member_id: member_id.to_owned(),
        rebalance_timeout_ms: Some(REBALANCE_MS),
        topics: Some(topics.iter().map(|name| (*name).to_owned()).collect()),
        owned: Some(Partitions::new()),
        client_id: "c".into(),
        client_host: "/h".into(),
        ..Heartbeat::default()
    }
}

fn beat(member_id: &str, member_epoch: i32) -> Heartbeat {
    Heartbeat {
        member_id: member_id.to_owned(),
        member_epoch,
        client_id: "c".into(),
        client_host: "/h".into(),
        ..Heartbeat::default()
    }
}

fn owning(mut request: Heartbeat, owned: &PartitionEpochs) -> Heartbeat {
    request.owned = Some(names_only(owned));
    request
}

fn names_only(partitions: &PartitionEpochs) -> Partitions {
    let of = |(topic, partitions): (&Uuid, &BTreeMap<i32, i32>)| {
        (*topic, partitions.keys().copied().collect())
    };
    partitions.iter().map(of).collect()
}

fn count(partitions: &PartitionEpochs) -> usize {
    partitions.values().map(BTreeMap::len).sum()
}

fn error<T>(result: Result<T, Refusal>) -> Option<GroupError> {
    result.err().map(|refusal| refusal.error)
}

#[test]
fn the_first_member_gets_everything_and_a_second_half_of_it_once_it_is_given_up() {
    let mut world = World::new();
    world.create("t", 4);
    let a = world.heartbeat(join("a", &["t"])).unwrap();
    let a_has = a.assignment.unwrap();
    assert_eq!(count(&a_has), 4);
    world.advance(INTERVAL_MS);
    let b = world.heartbeat(join("b", &["t"])).unwrap();
    assert_eq!(count(&b.assignment.unwrap()), 0);
    assert!(b.member_epoch > a.member_epoch);
    assert_eq!(world.group.state_name(), "Reconciling");
    // It is told what it keeps, and stays at its epoch until it has given up the rest.
    let told = world
        .heartbeat(owning(beat("a", a.member_epoch), &a_has))
        .unwrap();
    let kept = told.assignment.unwrap();
    assert_eq!((told.member_epoch, count(&kept)), (a.member_epoch, 2));
    assert_eq!(
        world
            .heartbeat(beat("b", b.member_epoch))
            .unwrap()
            .assignment,
        None
    );
    let told = world
        .heartbeat(owning(beat("a", a.member_epoch), &kept))
        .unwrap();
    assert_eq!(told.member_epoch, b.member_epoch);
    let told = world.heartbeat(beat("b", b.member_epoch)).unwrap();
    assert_eq!(count(&told.assignment.unwrap()), 2);
    assert_eq!(world.group.state_name(), "Stable");
}

#[test]
fn a_lost_answer_is_told_again_to_the_previous_epoch_and_to_no_other() {
    let mut world = World::new();
    world.create("t", 2);
    let a = world.heartbeat(join("a", &["t"])).unwrap();
    let has = a.assignment.unwrap();
    world.grow("t", 3);
    world.advance(INTERVAL_MS);
    let lost = world.heartbeat(beat("a", a.member_epoch)).unwrap();
    assert_eq!(lost.member_epoch, a.member_epoch + 1);
    let again = world
        .heartbeat(owning(beat("a", a.member_epoch), &has))
        .unwrap();
    assert_eq!(again.member_epoch, lost.member_epoch);
    let without = world.heartbeat(beat("a", a.member_epoch));
    assert_eq!(error(without), Some(GroupError::FencedMemberEpoch));
    let newer = world.heartbeat(beat("a", lost.member_epoch + 1));
    assert_eq!(error(newer), Some(GroupError::FencedMemberEpoch));
    let older = world.heartbeat(owning(beat("a", a.member_epoch - 1), &has));
    assert_eq!(error(older), Some(GroupError::FencedMemberEpoch));
}

#[test]
fn silence_ends_a_membership_and_a_slow_revocation_too() {
    let mut world = World::new();
    world.create("t", 2);
    let a = world.heartbeat(join("a", &["t"])).unwrap();
    world.advance(SESSION_MS - 1);
    assert_eq!(world.group.members().len(), 1);
    world.advance(1);
    assert_eq!(world.group.members().len(), 0);
    let late = world.heartbeat(beat("a", a.member_epoch));
    assert_eq!(error(late), Some(GroupError::UnknownMember));

    let a = world.heartbeat(join("a", &["t"])).unwrap();
    let has = a.assignment.unwrap();
    world.advance(INTERVAL_MS);
    let b = world.heartbeat(join("b", &["t"])).unwrap();
    let beats = |world: &mut World| {
        let told = world.heartbeat(owning(beat("a", a.member_epoch), &has));
        world.heartbeat(beat("b", b.member_epoch)).unwrap();
        told
    };
    for _ in 0..6 {
        // It has been told to give up, and says that it still has both.
        assert_eq!(beats(&mut world).unwrap().member_epoch, a.member_epoch);
        world.advance(9000);
    }
    world.advance(6001);
    assert_eq!(error(beats(&mut world)), Some(GroupError::UnknownMember));
}

#[test]
fn a_static_member_comes_back_to_its_partitions() {
    let mut world = World::new();
    world.create("t", 4);
    let with = |mut request: Heartbeat| {
        request.instance_id = Some("i".into());
        request
    };
    let a = world.heartbeat(with(join("a", &["t"]))).unwrap();
    let has = a.assignment.unwrap();
    let again = world.heartbeat(with(join("b", &["t"])));
    assert_eq!(error(again), Some(GroupError::UnreleasedInstanceId));
    world
        .heartbeat(with(beat("a", STATIC_LEAVE_EPOCH)))
        .unwrap();
    let epoch = world.group.epoch();
    let b = world.heartbeat(with(join("b", &["t"]))).unwrap();
    assert_eq!(names_only(&b.assignment.unwrap()), names_only(&has));
    assert_eq!((b.member_epoch, world.group.epoch()), (epoch, epoch));
    let old = world.heartbeat(with(beat("a", a.member_epoch)));
    assert_eq!(error(old), Some(GroupError::FencedInstanceId));
    let nobody = Heartbeat {
        instance_id: Some("x".into()),
        ..beat("b", b.member_epoch)
    };
    assert_eq!(
        error(world.heartbeat(nobody)),
        Some(GroupError::UnknownMember)
    );
}

#[test]
fn a_full_group_takes_nobody() {
    let mut world = World::new();
    world.rules.size_max = 1;
    world.create("t", 1);
    let a = world.heartbeat(join("a", &["t"])).unwrap();
    assert_eq!(
        error(world.heartbeat(join("b", &["t"]))),
        Some(GroupError::MaxSizeReached)
    );
    assert!(world.heartbeat(beat("a", a.member_epoch)).is_ok());
}

#[test]
fn a_regular_expression_follows_the_topics() {
    let mut world = World::new();
    world.create("log-a", 1);
    let request = Heartbeat {
        topics: None,
        regex: Some("log-.*".into()),
        ..join("a", &[])
    };
    let a = world.heartbeat(request).unwrap();
    assert_eq!(count(&a.assignment.unwrap()), 1);
    world.create("log-b", 2);
    world.create("other", 1);
    world.advance(INTERVAL_MS);
    let told = world.heartbeat(beat("a", a.member_epoch)).unwrap();
    assert_eq!(count(&told.assignment.unwrap()), 3);
    let bad = Heartbeat {
        topics: None,
        regex: Some("[".into()),
        ..join("b", &[])
    };
    assert_eq!(
        error(world.heartbeat(bad)),
        Some(GroupError::InvalidRegularExpression)
    );
    world.delete("log-a");
    world.advance(INTERVAL_MS);
    let told = world.heartbeat(beat("a", told.member_epoch)).unwrap();
    assert_eq!(count(&told.assignment.unwrap()), 2);
    // With the last member of the expression its record goes.
    world.heartbeat(beat("a", LEAVE_EPOCH)).unwrap();
    assert!(world.group.regexes.is_empty());
}

#[test]
fn commits_of_an_older_epoch_are_for_what_the_member_has_had_since() {
    let mut world = World::new();
    let topic = world.create("t", 2);
    let a = world.heartbeat(join("a", &["t"])).unwrap();
    world.grow("t", 3);
    world.advance(INTERVAL_MS);
    let now = world.heartbeat(beat("a", a.member_epoch)).unwrap();
    assert_eq!(now.member_epoch, a.member_epoch + 1);
    let member = |generation| MemberRef {
        member_id: "a".into(),
        instance_id: None,
        generation,
    };
    let check = |generation, kind, partitions: &[i32]| {
        let member = &member(generation);
        let partitions = partitions.iter().map(|partition| (topic, *partition));
        world
            .group
            .check_commit(Commit { member, kind }, partitions)
    };
    let (direct, transactional) = (CommitKind::Direct, CommitKind::Transactional);
    let stale = Err(GroupError::StaleMemberEpoch);
    assert_eq!(check(now.member_epoch, direct, &[0, 2]), Ok(()));
    assert_eq!(check(now.member_epoch + 1, direct, &[0]), stale);
    assert_eq!(check(a.member_epoch, direct, &[0]), Ok(()));
    assert_eq!(check(a.member_epoch, transactional, &[0]), Ok(()));
    assert_eq!(check(a.member_epoch, direct, &[0, 2]), stale, "all or none");
    assert_eq!(
        check(now.member_epoch, CommitKind::WithoutEpochs, &[0]),
        Err(GroupError::UnsupportedVersion)
    );
    assert_eq!(
        world.group.check_fetch(Some("a"), a.member_epoch),
        Err(GroupError::StaleMemberEpoch)
    );
    assert_eq!(world.group.check_fetch(None, -1), Ok(()));
}

#[test]
fn assignments_are_computed_once_in_an_interval() {
    let mut world = World::new();
    world.create("t", 2);
    let a = world.heartbeat(join("a", &["t"])).unwrap();
    let b = world.heartbeat(join("b", &["t"])).unwrap();
    assert_eq!(b.member_epoch, a.member_epoch);
    assert_eq!(world.group.state_name(), "Assigning");
    world.advance(INTERVAL_MS);
    let b = world.heartbeat(beat("b", b.member_epoch)).unwrap();
    assert_eq!(b.member_epoch, a.member_epoch + 1);
}

/// The metadata of a classic consumer.
fn subscription(topics: &BTreeSet<String>, owned: &BTreeMap<String, Vec<i32>>) -> Bytes {
    let owned = owned.iter().map(|(topic, partitions)| {
        message!(wire::consumer_protocol_subscription::TopicPartition {
            topic: topic.as_str().into(),
            partitions: partitions.clone(),
        })
    });
    let message = message!(wire::ConsumerProtocolSubscription {
        topics: topics.iter().map(|name| name.as_str().into()).collect(),
        owned_partitions: owned.collect(),
    });
    let mut buffer = BytesMut::new();
    wire::encode_consumer_protocol_subscription(&mut buffer, &message, ApiVersion::new(1)).unwrap();
    buffer.freeze()
}

fn classic_join(member_id: &str, metadata: Bytes) -> Join {
    Join {
        member_id: member_id.to_owned(),
        new_member_id: String::new(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "/h".into(),
        session_timeout_ms: SESSION_MS as i32,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), metadata)],
        member_id_required: true,
        may_skip_assignment: true,
    }
}

/// A client that believes what it is told.
#[derive(Debug, Clone)]
struct Client {
    id: String,
    instance_id: Option<String>,
    is_classic: bool,
    epoch: i32,
    joined: bool,
    /// A classic one has to ask for its assignment.
    has_to_sync: bool,
    /// After an answer that did not come it says everything.
    says_all: bool,
    topics: BTreeSet<String>,
    /// What it was told to have.
    told: Partitions,
    /// What it has.
    owned: Partitions,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

struct Simulation {
    world: World,
    random: Random,
    clients: Vec<Client>,
    clients_made: usize,
    seed: u64,
}

const TOPICS: [&str; 4] = ["t0", "t1", "t2", "u0"];

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.create("t0", 6);
        world.create("t1", 3);
        let mut random = Random(seed);
        if random.one_in(3) {
            world.rules.assignors.reverse();
        }
        if random.one_in(3) {
            world.rules.assignment_interval_ms = 0;
        }
        Self {
            world,
            random,
            clients: Vec::new(),
            clients_made: 0,
            seed,
        }
    }

    fn subscription(&mut self) -> BTreeSet<String> {
        if self.random.one_in(2) {
            return ["t0".to_owned(), "t1".to_owned()].into();
        }
        let count = 1 + self.random.below(3);
        (0..count)
            .map(|_| TOPICS[self.random.below(TOPICS.len())].to_owned())
            .collect()
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..=1 if self.clients.len() < 12 => self.add_client(),
            2 => self.change_topics(),
            3 => self.crash(),
            4 => self.leave(),
            5 => self.restart_static(),
            6 => self.change_subscription(),
            7 => self.reload(),
            8..=10 => {
                let by_ms = [10, 500, 1500, 5000, 9000][self.random.below(5)];
                self.world.advance(by_ms);
            }
            11..=18 => self.settle_one(),
            _ => {
                let lost = self.random.one_in(6);
                if !self.clients.is_empty() {
                    let index = self.random.below(self.clients.len());
                    self.talk(index, lost);
                }
            }
        }
        self.check();
    }

    fn add_client(&mut self) {
        self.clients_made += 1;
        let index = self.clients_made;
        // A classic member joins a group that is there.
        let is_classic = self.random.one_in(3) && !self.world.group.is_empty();
        let instance_id = (!is_classic && self.random.one_in(3)).then(|| format!("i{index}"));
        let topics = self.subscription();
        self.clients.push(Client {
            id: format!("m{index}"),
            instance_id,
            is_classic,
            epoch: 0,
            joined: false,
            has_to_sync: false,
            says_all: false,
            topics,
            told: Partitions::new(),
            owned: Partitions::new(),
        });
    }

    fn change_topics(&mut self) {
        let name = TOPICS[self.random.below(TOPICS.len())];
        match self
            .world
            .catalog
            .topic(name)
            .map(|topic| topic.partition_count)
        {
            None => drop(self.world.create(name, 1 + self.random.below(6) as i32)),
            Some(_) if self.random.one_in(4) => self.world.delete(name),
            Some(count) if count < 12 => self.world.grow(name, count + 1),
            Some(_) => {}
        }
    }

    /// It is never heard of again.
    fn crash(&mut self) {
        if !self.clients.is_empty() {
            let index = self.random.below(self.clients.len());
            self.clients.swap_remove(index);
        }
    }

    fn leave(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.random.below(self.clients.len());
        let client = self.clients.swap_remove(index);
        if client.is_classic {
            let leaving = [(client.id, None)];
            let left: Result<_, ()> = self
                .world
                .decide(|group, view| Ok(group.classic_leave(&leaving, view)));
            drop(left);
        } else {
            let request = Heartbeat {
                instance_id: client.instance_id,
                ..beat(&client.id, LEAVE_EPOCH)
            };
            let _ = self.world.heartbeat(request);
        }
    }

    /// A static member's process restarts: it leaves for a while and is back under another id.
    fn restart_static(&mut self) {
        let Some(index) = self
            .clients
            .iter()
            .position(|client| client.instance_id.is_some())
        else {
            return;
        };
        let client = &mut self.clients[index];
        let request = Heartbeat {
            instance_id: client.instance_id.clone(),
            ..beat(&client.id, STATIC_LEAVE_EPOCH)
        };
        self.clients_made += 1;
        client.id = format!("m{}", self.clients_made);
        client.joined = false;
        client.epoch = 0;
        client.owned.clear();
        client.told.clear();
        let _ = self.world.heartbeat(request);
    }

    fn change_subscription(&mut self) {
        let topics = self.subscription();
        if self.clients.is_empty() {
            return;
        }
        let index = self.random.below(self.clients.len());
        if self.clients[index].joined {
            self.clients[index].topics = topics;
        }
    }

    /// The coordinator starts again: from the whole log, and from what compaction leaves of it.
    fn reload(&mut self) {
        let live = self.world.group.durable();
        assert!(
            live == self.world.loaded(&self.world.log).durable(),
            "seed {}",
            self.seed
        );
        let random = &mut self.random;
        let compacted = self.world.compacted(|| random.one_in(2));
        let loaded = self.world.loaded(&compacted);
        assert!(
            live == loaded.durable(),
            "seed {}: {live:?} is not {:?}",
            self.seed,
            loaded.durable()
        );
        self.world.group = loaded;
    }

    /// A client gives up what it was told to, then takes what it was told to have.
    fn settle_one(&mut self) {
        if !self.clients.is_empty() {
            let index = self.random.below(self.clients.len());
            self.settle(index);
        }
    }

    fn settle(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.owned = client.told.clone();
    }

    fn talk(&mut self, index: usize, lost: bool) {
        if self.clients[index].is_classic {
            return self.talk_classic(index, lost);
        }
        let client = &self.clients[index];
        let mut request = if client.joined {
            Heartbeat {
                owned: Some(client.owned.clone()),
                ..beat(&client.id, client.epoch)
            }
        } else {
            join(&client.id, &[])
        };
        request.instance_id = client.instance_id.clone();
        request.topics = Some(client.topics.clone());
        request.rebalance_timeout_ms = client.says_all.then_some(REBALANCE_MS);
        if !client.joined {
            request.rebalance_timeout_ms = Some(REBALANCE_MS);
        }
        let answer = self.world.heartbeat(request);
        let client = &mut self.clients[index];
        client.says_all = lost;
        if lost {
            return;
        }
        match answer {
            Ok(answer) => {
                client.joined = true;
                client.epoch = answer.member_epoch;
                if let Some(assignment) = answer.assignment {
                    client.told = names_only(&assignment);
                    // What it may no longer have it gives up before it says anything else; what it may have it takes later.
                    if client.owned.iter().all(|(topic, partitions)| {
                        client
                            .told
                            .get(topic)
                            .is_some_and(|told| partitions.is_subset(told))
                    }) {
                        client.owned = client.told.clone();
                    }
                }
            }
            Err(refusal) => self.refused(index, refusal.error),
        }
    }

    fn refused(&mut self, index: usize, error: GroupError) {
        let client = &mut self.clients[index];
        match error {
            GroupError::FencedMemberEpoch
            | GroupError::UnknownMember
            | GroupError::IllegalGeneration => {
                client.owned.clear();
                client.told.clear();
                client.joined = false;
                client.has_to_sync = false;
                client.epoch = 0;
            }
            // Its answer was lost when it joined: only its session ends this. Or its protocols are not the group's.
            GroupError::UnreleasedInstanceId | GroupError::RebalanceInProgress => {}
            other => unreachable!("seed {}: {other:?}", self.seed),
        }
    }

    /// An eager member: it gives up everything before it joins.
    fn talk_classic(&mut self, index: usize, lost: bool) {
        let client = self.clients[index].clone();
        let caller = Caller {
            member_id: &client.id,
            instance_id: None,
            generation: client.epoch,
        };
        if !client.joined {
            if self.world.group.is_empty() {
                return;
            }
            self.clients[index].owned.clear();
            self.clients[index].told.clear();
            let metadata = subscription(&client.topics, &BTreeMap::new());
            let join = classic_join(&client.id, metadata);
            let joined = self
                .world
                .decide(|group, view| group.classic_join(&join, view));
            match joined {
                Ok(joined) if !lost => {
                    let client = &mut self.clients[index];
                    client.joined = true;
                    client.has_to_sync = true;
                    client.epoch = joined.generation;
                }
                Ok(_) => {}
                Err((refusal, _)) => self.refused(index, refusal.error),
            }
        } else if client.has_to_sync {
            let view = View {
                now_ms: self.world.now_ms,
                catalog: &self.world.catalog,
                topics_version: self.world.catalog.topics_version(),
                rules: &self.world.rules,
                matches: &NO_MATCHES,
            };
            match self
                .world
                .group
                .classic_sync(caller, Some("consumer"), Some("range"), view)
            {
                Ok(synced) if !lost => {
                    let (partitions, _) =
                        crate::protocol::consumer_assignment(&synced.assignment).unwrap();
                    let named = partitions.into_iter().map(|(name, partitions)| {
                        let topic = self.world.catalog.topic(&name).unwrap().id;
                        (topic, partitions.into_iter().collect())
                    });
                    let client = &mut self.clients[index];
                    client.told = named.collect();
                    client.owned = client.told.clone();
                    client.has_to_sync = false;
                }
                Ok(_) => {}
                Err(refusal) => {
                    self.clients[index].joined = refusal.error != GroupError::RebalanceInProgress;
                    self.refused(index, refusal.error);
                }
            }
        } else {
            let view = View {
                now_ms: self.world.now_ms,
                catalog: &self.world.catalog,
                topics_version: self.world.catalog.topics_version(),
                rules: &self.world.rules,
                matches: &NO_MATCHES,
            };
            match self.world.group.classic_heartbeat(caller, view) {
                Ok(()) => {}
                Err(GroupError::RebalanceInProgress) => self.clients[index].joined = false,
                Err(error) => self.refused(index, error),
            }
        }
    }

    /// Nobody who is a member has what another member has.
    fn check(&self) {
        let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for client in &self.clients {
            let is_member = self.world.group.members().contains_key(&client.id);
            if !is_member || !client.joined {
                continue;
            }
            for (topic, partitions) in &client.owned {
                for partition in partitions {
                    let other = owners.insert((*topic, *partition), &client.id);
                    assert!(
                        other.is_none(),
                        "seed {}: {} and {other:?} have {topic}-{partition}\n{:#?}",
                        self.seed,
                        client.id,
                        self.world.group
                    );
                }
            }
        }
        let mut targets = BTreeSet::new();
        for (topic, partitions) in self.world.group.targets.values().flatten() {
            for partition in partitions {
                assert!(
                    targets.insert((*topic, *partition)),
                    "seed {}: two targets have {topic}-{partition}",
                    self.seed
                );
            }
        }
    }

    /// Nothing changes any more: every partition gets an owner, and stays there.
    fn quiet(&mut self) {
        // Those that are silent run out of time.
        for _ in 0..30 {
            for index in 0..self.clients.len() {
                self.settle(index);
                self.talk(index, false);
                self.check();
                self.settle(index);
            }
            self.world.advance(5000);
        }
        let group = &self.world.group;
        let clients: BTreeSet<&str> = self
            .clients
            .iter()
            .map(|client| client.id.as_str())
            .collect();
        let members: BTreeSet<&str> = group.members().keys().map(String::as_str).collect();
        // A classic client does not come to a group that is not there.
        if members.is_empty() && self.clients.iter().all(|client| client.is_classic) {
            return;
        }
        assert_eq!(clients, members, "seed {}", self.seed);
        assert_eq!(
            group.state_name(),
            "Stable",
            "seed {}: {group:#?}",
            self.seed
        );
        let mut wanted = BTreeSet::new();
        for client in &self.clients {
            for topic in client
                .topics
                .iter()
                .filter_map(|name| self.world.catalog.topic(name))
            {
                wanted.extend((0..topic.partition_count).map(|partition| (topic.id, partition)));
            }
        }
        let mut owned = BTreeSet::new();
        for client in &self.clients {
            for (topic, partitions) in &client.owned {
                owned.extend(partitions.iter().map(|partition| (*topic, *partition)));
            }
        }
        assert_eq!(owned, wanted, "seed {}: {:#?}", self.seed, self.clients);
        let before: Vec<_> = self
            .clients
            .iter()
            .map(|client| client.owned.clone())
            .collect();
        let records = self.world.log.len();
        for index in 0..self.clients.len() {
            self.talk(index, false);
        }
        let after: Vec<_> = self
            .clients
            .iter()
            .map(|client| client.owned.clone())
            .collect();
        assert!(
            before == after && records == self.world.log.len(),
            "seed {}",
            self.seed
        );
    }
}

#[test]
fn many_members_come_and_go_and_no_partition_has_two_owners() {
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..3 {
            for _ in 0..250 {
                simulation.step();
            }
            simulation.quiet();
            simulation.reload();
        }
    }
}

#[test]
fn a_restart_after_any_record_is_followed_by_the_same_group() {
    let mut simulation = Simulation::new(7);
    for _ in 0..150 {
        simulation.step();
    }
    let world = &simulation.world;
    // Whatever part of the last decisions was lost, what is loaded takes the rest of the log and is the same again.
    for cut in 0..world.log.len() {
        let mut group = world.loaded(&world.log[..cut]);
        for record in &world.log[cut..] {
            group.replay(record, &world.rules, world.now_ms);
        }
        assert!(group.durable() == world.group.durable(), "cut at {cut}");
    }
}
