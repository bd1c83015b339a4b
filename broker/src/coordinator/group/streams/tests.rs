//! Streams groups by their heartbeats: single stories first, then many random ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::heartbeat::{Answer, Heartbeat, Status, Surroundings};
use super::records::StreamsRecord;
use super::tasks::testing::{show, tasks};
use super::tasks::{self, Assignment};
use super::topology::{InternalTopic, Problem, Subtopology, Topology};
use super::{State, StreamsError, StreamsGroup};
use crate::coordinator::group::{Commit, CommitKind, GroupError, MemberRef};
use crate::metadata::{Catalog, Command, GroupConfig, Topic};

/// A group, the topics around it, and what it has written.
struct World {
    group: StreamsGroup,
    log: Vec<StreamsRecord>,
    catalog: Catalog,
    config: GroupConfig,
    now_ms: i64,
    topics: u128,
}

impl World {
    fn new(topics: &[(&str, i32)]) -> Self {
        let mut world = Self {
            group: StreamsGroup::default(),
            log: Vec::new(),
            catalog: Catalog::default(),
            config: GroupConfig {
                streams_initial_rebalance_delay_ms: 0,
                streams_assignment_interval_ms: 0,
                ..GroupConfig::default()
            },
            now_ms: 1_000_000,
            topics: 0,
        };
        for (name, partition_count) in topics {
            world.create(name, *partition_count);
        }
        world
    }

    fn create(&mut self, name: &str, partition_count: i32) {
        self.topics += 1;
        self.catalog.replay(&Command::CreateTopic(Topic {
            name: name.into(),
            id: Uuid::from_u128(self.topics),
            partition_count,
            configs: BTreeMap::new(),
        }));
    }

    fn delete(&mut self, name: &str) {
        let id = self.catalog.topic(name).unwrap().id;
        self.catalog.replay(&Command::DeleteTopic { id });
    }

    fn write(&mut self, records: Vec<StreamsRecord>) {
        for record in records {
            self.group.replay(&record, self.now_ms);
            self.log.push(record);
        }
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) -> Result<Answer, StreamsError> {
        for (name, topic) in self.group.missing_topics(&heartbeat, &self.catalog) {
            self.create(&name, topic.partition_count);
        }
        let around = Surroundings {
            catalog: &self.catalog,
            config: self.config,
            size_max: 100,
            now_ms: self.now_ms,
        };
        let (records, answer) = self.group.heartbeat(heartbeat, around)?;
        self.write(records);
        Ok(answer)
    }

    fn pass(&mut self, time_ms: i64) {
        self.now_ms += time_ms;
        let records = self.group.expire(self.now_ms);
        self.write(records);
    }

    /// A restart: what is in the log, or what compaction would leave of it.
    fn restart(&mut self, is_compacted: bool) {
        if is_compacted {
            let key = |record: &StreamsRecord| record.encode("g").0;
            let mut last = BTreeMap::new();
            for (index, record) in self.log.iter().enumerate() {
                last.insert(key(record), index);
            }
            let mut index = 0;
            self.log.retain(|record| {
                index += 1;
                last[&key(record)] == index - 1
            });
        }
        let mut group = StreamsGroup::default();
        for record in &self.log {
            let (key, value) = record.encode("g");
            let version = i16::from_be_bytes([key[0], key[1]]);
            let (_, decoded) = StreamsRecord::decode(version, &key[2..], value.as_deref()).unwrap();
            group.replay(&decoded, self.now_ms);
        }
        let (before, after) = (self.group.describe(), group.describe());
        assert_eq!(before.epoch, after.epoch);
        assert_eq!(before.target_epoch, after.target_epoch);
        assert_eq!(before.state, after.state);
        assert_eq!(before.members, after.members);
        self.group = group;
    }
}

/// One sub-topology with a store over topic `a`, and one without over its repartition topic.
fn topology() -> Topology {
    let internal = |name: &str| InternalTopic {
        name: name.into(),
        ..InternalTopic::default()
    };
    Topology {
        epoch: 0,
        subtopologies: vec![
            Subtopology {
                id: "0".into(),
                source_topics: vec!["a".into()],
                changelog_topics: vec![internal("app-store-changelog")],
                repartition_sink_topics: vec!["app-r-repartition".into()],
                ..Subtopology::default()
            },
            Subtopology {
                id: "1".into(),
                repartition_source_topics: vec![internal("app-r-repartition")],
                ..Subtopology::default()
            },
        ],
    }
}

fn joining(id: &str, process: &str) -> Heartbeat {
    Heartbeat {
        member_id: id.into(),
        rebalance_timeout_ms: Some(10_000),
        client_id: "client".into(),
        client_host: "/host".into(),
        topology: Some(topology()),
        owned: Some(Assignment::default()),
        process_id: Some(process.into()),
        client_tags: Some(BTreeMap::new()),
        ..Heartbeat::default()
    }
}

fn alive(id: &str, member_epoch: i32) -> Heartbeat {
    Heartbeat {
        member_id: id.into(),
        member_epoch,
        client_id: "client".into(),
        client_host: "/host".into(),
        ..Heartbeat::default()
    }
}

fn owning(id: &str, member_epoch: i32, active: &[&str]) -> Heartbeat {
    Heartbeat {
        owned: Some(Assignment {
            active: tasks(active),
            ..Assignment::default()
        }),
        ..alive(id, member_epoch)
    }
}

/// `epoch: active | standby; statuses`.
fn picture(answer: &Answer) -> String {
    let tasks = answer.tasks.as_ref().map_or("same".to_owned(), |tasks| {
        format!("{} | {}", show(&tasks.active), show(&tasks.standby))
    });
    let status: Vec<_> = answer
        .status
        .iter()
        .map(|(status, _)| format!("{status:?}"))
        .collect();
    format!("{}: {tasks}; {}", answer.member_epoch, status.join(" "))
}

#[test]
fn the_first_member_is_given_everything_and_the_second_its_half_once_it_is_free() {
    let mut world = World::new(&[("a", 2)]);
    let first = world.heartbeat(joining("m1", "p1")).unwrap();
    assert_eq!(picture(&first), "2: 0_0 0_1 1_0 1_1 | ; ");
    assert_eq!(
        world
            .catalog
            .topic("app-store-changelog")
            .unwrap()
            .partition_count,
        2
    );
    assert_eq!(world.group.state(), State::Stable);
    let second = world.heartbeat(joining("m2", "p2")).unwrap();
    assert_eq!(picture(&second), "3:  | ; ", "nothing is free yet");
    let told = world.heartbeat(alive("m1", 2)).unwrap();
    assert_eq!(picture(&told), "2: 0_0 1_0 | ; ");
    assert_eq!(world.group.state(), State::Reconciling);
    assert_eq!(
        picture(&world.heartbeat(alive("m2", 3)).unwrap()),
        "3: same; "
    );
    let given_back = world.heartbeat(owning("m1", 2, &["0_0", "1_0"])).unwrap();
    assert_eq!(picture(&given_back), "3: same; ");
    assert_eq!(
        picture(&world.heartbeat(alive("m2", 3)).unwrap()),
        "3: 0_1 1_1 | ; "
    );
    assert_eq!(world.group.state(), State::Stable);
}

#[test]
fn a_member_that_leaves_leaves_its_tasks_to_the_others() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(joining("m2", "p2")).unwrap();
    let left = world.heartbeat(alive("m1", -1)).unwrap();
    assert_eq!(left.member_epoch, -1);
    assert_eq!(
        picture(&world.heartbeat(alive("m2", 3)).unwrap()),
        "4: 0_0 0_1 1_0 1_1 | ; "
    );
    world.heartbeat(alive("m2", -1)).unwrap();
    assert_eq!(world.group.state(), State::Empty);
    assert_eq!(
        world.heartbeat(alive("m2", 4)).unwrap_err(),
        GroupError::UnknownMember.into()
    );
}

#[test]
fn a_new_group_waits_for_its_members() {
    let mut world = World::new(&[("a", 2)]);
    world.config.streams_initial_rebalance_delay_ms = 3000;
    let first = world.heartbeat(joining("m1", "p1")).unwrap();
    assert_eq!(picture(&first), "1:  | ; AssignmentDelayed");
    world.now_ms += 2000;
    let second = world.heartbeat(joining("m2", "p2")).unwrap();
    assert_eq!(picture(&second), "1:  | ; AssignmentDelayed");
    assert_eq!(world.group.next_deadline_ms(), Some(1_003_000));
    world.pass(1000);
    assert_eq!(
        picture(&world.heartbeat(alive("m1", 1)).unwrap()),
        "3: 0_0 1_0 | ; "
    );
    assert_eq!(
        picture(&world.heartbeat(alive("m2", 1)).unwrap()),
        "3: 0_1 1_1 | ; "
    );
}

#[test]
fn assignments_keep_their_distance() {
    let mut world = World::new(&[("a", 2)]);
    world.config.streams_assignment_interval_ms = 1000;
    world.heartbeat(joining("m1", "p1")).unwrap();
    let second = world.heartbeat(joining("m2", "p2")).unwrap();
    assert_eq!(picture(&second), "2:  | ; AssignmentDelayed");
    assert_eq!(world.group.state(), State::Assigning);
    world.now_ms += 1000;
    assert_eq!(
        picture(&world.heartbeat(alive("m1", 2)).unwrap()),
        "2: 0_0 1_0 | ; "
    );
}

#[test]
fn a_member_of_another_epoch_is_fenced_unless_an_answer_was_lost() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(joining("m2", "p2")).unwrap();
    world.heartbeat(alive("m1", 2)).unwrap();
    let told = world.heartbeat(owning("m1", 2, &["0_0", "1_0"])).unwrap();
    assert_eq!(told.member_epoch, 3);
    // It has not heard of epoch 3, and has nothing that it should not have.
    let again = world.heartbeat(owning("m1", 2, &["0_0", "1_0"])).unwrap();
    assert_eq!(again.member_epoch, 3);
    for wrong in [
        owning("m1", 2, &["0_1"]),
        alive("m1", 2),
        alive("m1", 1),
        alive("m1", 4),
    ] {
        let refused = world.heartbeat(wrong).unwrap_err();
        assert!(
            matches!(refused, StreamsError::FencedMemberEpoch(_)),
            "{refused:?}"
        );
    }
    assert_eq!(
        world.heartbeat(alive("m9", 3)).unwrap_err(),
        GroupError::UnknownMember.into()
    );
    // Joining again is always allowed, and shows everything.
    assert_eq!(
        picture(&world.heartbeat(joining("m1", "p1")).unwrap()),
        "3: 0_0 1_0 | ; "
    );
}

#[test]
fn tasks_whose_answer_was_lost_are_told_again() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(joining("m2", "p2")).unwrap();
    world.heartbeat(alive("m1", -1)).unwrap();
    world.heartbeat(alive("m2", 3)).unwrap();
    let again = world.heartbeat(owning("m2", 4, &[])).unwrap();
    assert_eq!(picture(&again), "4: 0_0 0_1 1_0 1_1 | ; ");
}

#[test]
fn tasks_that_are_not_there_cannot_be_owned() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    for name in ["0_2", "0_-1", "7_0"] {
        let refused = world.heartbeat(owning("m1", 2, &[name])).unwrap_err();
        assert!(
            matches!(refused, StreamsError::InvalidRequest(_)),
            "{refused:?}"
        );
    }
}

#[test]
fn the_first_topology_is_the_groups() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    let with = |change: fn(&mut Topology)| {
        let mut join = joining("m2", "p2");
        change(join.topology.as_mut().unwrap());
        join
    };
    let changed = with(|topology| topology.subtopologies.truncate(1));
    assert!(matches!(
        world.heartbeat(changed),
        Err(StreamsError::InvalidRequest(_))
    ));
    let newer = with(|topology| topology.epoch = 1);
    assert!(matches!(
        world.heartbeat(newer),
        Err(StreamsError::InvalidRequest(_))
    ));
    let reordered = with(|topology| topology.subtopologies.reverse());
    assert!(world.heartbeat(reordered).is_ok());

    let mut world = World::new(&[("a", 2)]);
    world
        .heartbeat(with(|topology| topology.epoch = 1))
        .unwrap();
    let stale = world.heartbeat(joining("m1", "p1")).unwrap();
    assert_eq!(stale.status[0].0, Status::StaleTopology);
}

#[test]
fn what_is_wrong_with_topics_is_told_and_assigned_as_soon_as_it_is_right() {
    let mut world = World::new(&[]);
    let first = world.heartbeat(joining("m1", "p1")).unwrap();
    assert_eq!(picture(&first), "2:  | ; Topics(MissingSourceTopics)");
    assert_eq!(world.group.state(), State::NotReady);
    world.create("a", 3);
    world.create("app-store-changelog", 2);
    let second = world.heartbeat(alive("m1", 2)).unwrap();
    assert_eq!(picture(&second), "3: same; Topics(IncorrectlyPartitioned)");
    world.delete("app-store-changelog");
    let third = world.heartbeat(alive("m1", 3)).unwrap();
    assert_eq!(picture(&third), "4: 0_0 0_1 0_2 1_0 1_1 1_2 | ; ");
    assert_eq!(world.group.state(), State::Stable);
    // The source goes: so do the tasks.
    world.delete("a");
    let fourth = world.heartbeat(alive("m1", 4)).unwrap();
    assert_eq!(picture(&fourth), "4:  | ; Topics(MissingSourceTopics)");
    assert_eq!(world.group.state(), State::NotReady);
}

#[test]
fn topics_that_could_not_be_created_are_named_with_the_reason() {
    let mut world = World::new(&[("a", 1)]);
    let join = Heartbeat {
        creation_failed: BTreeMap::from([("app-r-repartition".to_owned(), "no room".to_owned())]),
        ..joining("m1", "p1")
    };
    let missing = world.group.missing_topics(&join, &world.catalog);
    assert_eq!(
        missing.keys().collect::<Vec<_>>(),
        ["app-r-repartition", "app-store-changelog"]
    );
    let around = Surroundings {
        catalog: &world.catalog,
        config: world.config,
        size_max: 1,
        now_ms: 0,
    };
    let (_, answer) = world.group.heartbeat(join, around).unwrap();
    let (status, detail) = &answer.status[0];
    assert_eq!(*status, Status::Topics(Problem::MissingInternalTopics));
    assert!(
        detail.contains("app-r-repartition could not be created: no room"),
        "{detail}"
    );
}

#[test]
fn silent_members_and_those_who_keep_their_tasks_are_fenced() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(joining("m2", "p2")).unwrap();
    world.heartbeat(alive("m1", 2)).unwrap();
    // m1 has ten seconds to give back its tasks.
    for _ in 0..4 {
        world.pass(2500);
        world.heartbeat(alive("m2", 3)).unwrap();
        let _ = world.heartbeat(alive("m1", 2));
    }
    assert_eq!(world.group.members.keys().collect::<Vec<_>>(), ["m2"]);
    assert_eq!(
        picture(&world.heartbeat(alive("m2", 3)).unwrap_or_default())
            .split(':')
            .next(),
        Some("0"),
        "m2 went on meanwhile"
    );
    let epoch = world.group.members["m2"].current.member_epoch;
    let picture = picture(&world.heartbeat(joining("m2", "p2")).unwrap());
    assert_eq!(picture, format!("{epoch}: 0_0 0_1 1_0 1_1 | ; "));
    world.pass(44_999);
    assert_eq!(world.group.state(), State::Stable);
    world.pass(1);
    assert_eq!(world.group.state(), State::Empty);
    assert_eq!(world.group.next_deadline_ms(), None);
}

#[test]
fn a_static_member_comes_back_to_its_tasks() {
    let mut world = World::new(&[("a", 2)]);
    let join = |id: &str| Heartbeat {
        instance_id: Some("i".into()),
        ..joining(id, "p1")
    };
    let with_instance = |heartbeat: Heartbeat| Heartbeat {
        instance_id: Some("i".into()),
        ..heartbeat
    };
    assert_eq!(
        picture(&world.heartbeat(join("m1")).unwrap()),
        "2: 0_0 0_1 1_0 1_1 | ; "
    );
    assert!(matches!(
        world.heartbeat(join("m2")),
        Err(StreamsError::UnreleasedInstanceId(_))
    ));
    assert_eq!(
        world.heartbeat(with_instance(alive("m2", 2))).unwrap_err(),
        GroupError::FencedInstanceId.into()
    );
    assert_eq!(
        world
            .heartbeat(with_instance(alive("m1", -2)))
            .unwrap()
            .member_epoch,
        -2
    );
    world.heartbeat(joining("other", "p2")).unwrap();
    world.restart(true);
    let epoch = world.group.epoch;
    let back = world.heartbeat(join("m2")).unwrap();
    assert_eq!(world.group.epoch, epoch, "nothing has changed");
    assert_eq!(
        picture(&back),
        "3: 0_0 1_0 | ; ",
        "the other's half is free, because it comes back without tasks"
    );
    assert!(!world.group.members.contains_key("m1"));
    assert_eq!(
        world.heartbeat(with_instance(alive("m1", -1))).unwrap_err(),
        GroupError::FencedInstanceId.into()
    );
    world.heartbeat(with_instance(alive("m2", -1))).unwrap();
    assert_eq!(world.group.members.keys().collect::<Vec<_>>(), ["other"]);
}

#[test]
fn one_member_can_shut_all_down() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(joining("m2", "p2")).unwrap();
    world
        .heartbeat(Heartbeat {
            shutdown_application: true,
            ..alive("m1", -1)
        })
        .unwrap();
    let told = world.heartbeat(alive("m2", 3)).unwrap();
    let (status, detail) = told.status.last().unwrap();
    assert_eq!(*status, Status::ShutdownApplication);
    assert!(detail.contains("m1"), "{detail}");
    world.heartbeat(alive("m2", -1)).unwrap();
    let again = world.heartbeat(joining("m3", "p3")).unwrap();
    assert_eq!(again.status, [], "an empty group has forgotten it");
}

#[test]
fn members_hear_who_has_what() {
    let mut world = World::new(&[("a", 2)]);
    world.config.streams_standby_replicas = 1;
    let join = |id: &str, port| Heartbeat {
        user_endpoint: Some(("h".into(), port)),
        ..joining(id, id)
    };
    let first = world.heartbeat(join("m1", 1)).unwrap();
    let endpoints = first.endpoints.unwrap();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(
        endpoints[0].active,
        [
            ("a".to_owned(), vec![0, 1]),
            ("app-r-repartition".to_owned(), vec![0, 1])
        ]
    );
    let same = Heartbeat {
        endpoint_epoch: first.endpoint_epoch,
        ..alive("m1", 2)
    };
    assert_eq!(
        world.heartbeat(same.clone()).unwrap().endpoints,
        None,
        "it knows"
    );
    let second = world.heartbeat(join("m2", 2)).unwrap();
    assert_eq!(second.endpoints.as_ref().unwrap().len(), 2);
    let told = world.heartbeat(same).unwrap();
    let ports: Vec<_> = told
        .endpoints
        .unwrap()
        .iter()
        .map(|endpoint| endpoint.port)
        .collect();
    assert_eq!(ports, [2, 1]);
    world.heartbeat(owning("m1", 2, &["0_0", "1_0"])).unwrap();
    let second = world.heartbeat(alive("m2", 3)).unwrap();
    let endpoints = second.endpoints.unwrap();
    assert_eq!(
        endpoints[1].active,
        [
            ("a".to_owned(), vec![1]),
            ("app-r-repartition".to_owned(), vec![1])
        ]
    );
    assert_eq!(endpoints[1].standby, [("a".to_owned(), vec![0])]);
}

#[test]
fn a_zombie_commits_nothing() {
    let mut world = World::new(&[("a", 2)]);
    let refused = Err(GroupError::StaleMemberEpoch);
    let check = |world: &World, member_id: &str, generation, kind, partitions: &[(&str, i32)]| {
        let member = &MemberRef {
            member_id: member_id.to_owned(),
            instance_id: None,
            generation,
        };
        let commit = Commit { member, kind };
        world.group.check_commit(commit, partitions.iter().copied())
    };
    let (direct, transactional) = (CommitKind::Direct, CommitKind::Transactional);
    assert_eq!(
        check(&world, "", -1, direct, &[("a", 0)]),
        Ok(()),
        "an empty group takes anybody's"
    );
    world.heartbeat(joining("m1", "p1")).unwrap();
    assert_eq!(
        check(&world, "", -1, direct, &[("a", 0)]),
        Err(GroupError::UnknownMember)
    );
    assert_eq!(check(&world, "", -1, transactional, &[("a", 0)]), Ok(()));
    assert_eq!(
        check(&world, "m1", 2, direct, &[("a", 0), ("a", 1)]),
        Ok(())
    );
    assert_eq!(
        check(&world, "m1", 2, CommitKind::WithoutEpochs, &[("a", 0)]),
        Err(GroupError::UnsupportedVersion)
    );
    assert_eq!(check(&world, "m1", 3, direct, &[("a", 0)]), refused);
    world.heartbeat(joining("m2", "p2")).unwrap();
    world.heartbeat(alive("m1", 2)).unwrap();
    assert_eq!(
        check(&world, "m1", 2, direct, &[("a", 1)]),
        Ok(()),
        "while it gives it back"
    );
    world.heartbeat(owning("m1", 2, &["0_0", "1_0"])).unwrap();
    assert_eq!(
        check(&world, "m1", 2, direct, &[("a", 0)]),
        Ok(()),
        "it has had it since"
    );
    assert_eq!(
        check(&world, "m1", 2, direct, &[("a", 0), ("a", 1)]),
        refused,
        "it has given one back"
    );
    assert_eq!(check(&world, "m1", 2, direct, &[("b", 0)]), refused);
    assert_eq!(world.group.check_fetch(None, -1), Ok(()));
    assert_eq!(world.group.check_fetch(Some("m1"), 3), Ok(()));
    assert_eq!(world.group.check_fetch(Some("m1"), 2), refused);
    assert_eq!(
        world.group.check_fetch(Some("m9"), 2),
        Err(GroupError::UnknownMember)
    );
}

#[test]
fn more_standbys_are_assigned_when_the_group_is_configured_so() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(joining("m2", "p2")).unwrap();
    world.heartbeat(alive("m1", 2)).unwrap();
    world.heartbeat(owning("m1", 2, &["0_0", "1_0"])).unwrap();
    world.heartbeat(alive("m2", 3)).unwrap();
    world.config.streams_standby_replicas = 1;
    assert_eq!(
        picture(&world.heartbeat(alive("m1", 3)).unwrap()),
        "4: 0_0 1_0 | 0_1; "
    );
    assert_eq!(
        picture(&world.heartbeat(alive("m2", 3)).unwrap()),
        "4: 0_1 1_1 | 0_0; "
    );
}

#[test]
fn tombstones_leave_nothing() {
    let mut world = World::new(&[("a", 2)]);
    world.heartbeat(joining("m1", "p1")).unwrap();
    world.heartbeat(alive("m1", -1)).unwrap();
    let tombstones = world.group.tombstones();
    assert!(tombstones.iter().all(StreamsRecord::is_tombstone));
    let gone: Vec<_> = tombstones
        .iter()
        .map(|record| world.group.replay(record, 0))
        .collect();
    assert_eq!(gone, [false, true, false]);
    let keys = |records: &[StreamsRecord]| -> BTreeSet<_> {
        records.iter().map(|record| record.encode("g").0).collect()
    };
    let live: BTreeSet<_> = keys(&world.log);
    let dead: BTreeSet<_> = keys(&tombstones);
    let of_members = |key: &&Vec<u8>| [19, 21, 22].contains(&key[1]);
    assert!(
        live.iter()
            .filter(|key| !of_members(key))
            .all(|key| dead.contains(key))
    );
}

/// A small generator of chance, from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A stream thread as the group does not see it.
#[derive(Debug, Clone, Default)]
struct Thread {
    process: String,
    epoch: i32,
    /// What it was told to have.
    told: Assignment,
    /// What it has.
    owned: Assignment,
    /// Whether it has said what it has since that changed.
    has_said: bool,
}

struct Simulation {
    seed: u64,
    chance: Chance,
    world: World,
    threads: BTreeMap<String, Thread>,
    joined: usize,
    story: Vec<String>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let mut world = World::new(&[("a", 5)]);
        world.config.streams_standby_replicas = chance.below(3) as i32;
        world.config.streams_assignment_interval_ms = [0, 1000][chance.below(2)];
        world.config.streams_initial_rebalance_delay_ms = [0, 3000][chance.below(2)];
        Self {
            seed,
            chance,
            world,
            threads: BTreeMap::new(),
            joined: 0,
            story: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.chance.below(24) {
            0 if self.threads.len() < 6 => self.start(),
            1 => self.stop(),
            2 => self.crash(),
            3 => {
                let is_compacted = self.chance.one_in(2);
                self.story
                    .push(format!("restart, compacted: {is_compacted}"));
                self.world.restart(is_compacted);
            }
            4 => {
                let time_ms = [100, 1000, 9000][self.chance.below(3)];
                self.world.pass(time_ms);
            }
            5 if self.chance.one_in(4) => match self.world.catalog.topic("a").is_some() {
                true => {
                    self.story.push("topic a is deleted".into());
                    self.world.delete("a");
                }
                false => self.world.create("a", 5),
            },
            _ => {
                if let Some(id) = self.any_thread() {
                    let is_lost = self.chance.one_in(8);
                    self.beat(&id, is_lost);
                }
            }
        }
        self.check();
    }

    fn any_thread(&mut self) -> Option<String> {
        let which = self.chance.below(self.threads.len().max(1));
        self.threads.keys().nth(which).cloned()
    }

    fn start(&mut self) {
        self.joined += 1;
        let id = format!("m{}", self.joined);
        let process = format!("p{}", self.chance.below(3));
        self.story.push(format!("{id} of {process} starts"));
        let thread = Thread {
            process,
            ..Thread::default()
        };
        self.threads.insert(id, thread);
    }

    fn stop(&mut self) {
        let Some(id) = self.any_thread() else { return };
        self.story.push(format!("{id} leaves"));
        self.threads.remove(&id);
        let _ = self.world.heartbeat(alive(&id, -1));
    }

    fn crash(&mut self) {
        let Some(id) = self.any_thread() else { return };
        self.story.push(format!("{id} crashes"));
        self.threads.remove(&id);
    }

    fn beat(&mut self, id: &str, is_lost: bool) {
        let Some(thread) = self.threads.get_mut(id) else {
            return;
        };
        // It does what it was told, or not yet: what it gives up it gives up first.
        if thread.owned != thread.told && self.chance.below(3) > 0 {
            thread.owned = thread.told.clone();
            thread.has_said = false;
        }
        let mut heartbeat = match thread.epoch {
            0 => joining(id, &thread.process),
            epoch => alive(id, epoch),
        };
        if !thread.has_said {
            heartbeat.owned = Some(thread.owned.clone());
        }
        let sent = format!("{id} beats, epoch {}", thread.epoch);
        let answer = self.world.heartbeat(heartbeat);
        let thread = self.threads.get_mut(id).unwrap();
        match answer {
            Ok(_) if is_lost => {
                // It says everything again.
                thread.has_said = false;
                self.story.push(format!("{sent}: the answer is lost"));
            }
            Ok(answer) => {
                self.story.push(format!("{sent}: {}", picture(&answer)));
                thread.epoch = answer.member_epoch;
                thread.has_said = true;
                if let Some(told) = answer.tasks {
                    // A task that it does not have is begun at once, one that it loses is given up when it can be.
                    thread.told = told;
                }
            }
            Err(
                StreamsError::FencedMemberEpoch(_) | StreamsError::Group(GroupError::UnknownMember),
            ) => {
                self.story.push(format!("{sent}: fenced"));
                let process = thread.process.clone();
                *thread = Thread {
                    process,
                    ..Thread::default()
                };
            }
            // Its tasks are of before the topics went.
            Err(StreamsError::InvalidRequest(_)) if self.world.group.topology.is_none() => {
                thread.epoch = 0
            }
            Err(error) => panic!("{error}\n{}", self.picture()),
        }
    }

    /// No active task is with two threads, and no process has a task twice, whatever the threads have and are about to begin.
    fn check(&self) {
        let mut active = BTreeMap::new();
        let mut copies = BTreeMap::new();
        for (id, thread) in &self.threads {
            // Fenced ones do not know it yet: they are told with their next heartbeat, and their commits are refused.
            if !self.world.group.members.contains_key(id) {
                continue;
            }
            for task in tasks::each(&thread.owned.active) {
                let other = active.insert(task, id);
                assert_eq!(
                    other,
                    None,
                    "{task:?} is active with {id} too\n{}",
                    self.picture()
                );
            }
            for task in tasks::each(&thread.owned.active).chain(tasks::each(&thread.owned.standby))
            {
                let other = copies.insert((thread.process.as_str(), task), id);
                assert_eq!(
                    other,
                    None,
                    "process {} has {task:?} twice, with {id}\n{}",
                    thread.process,
                    self.picture()
                );
            }
        }
        let of_members: i32 = self
            .world
            .group
            .members
            .values()
            .map(|member| member.current.member_epoch)
            .max()
            .unwrap_or(0);
        assert!(
            of_members
                <= self
                    .world
                    .group
                    .epoch
                    .max(self.world.group.target_epoch.epoch),
            "{}",
            self.picture()
        );
    }

    /// Everybody beats until all is as it should be.
    fn settle(&mut self) {
        if self.world.catalog.topic("a").is_none() {
            self.world.create("a", 5);
        }
        if self.threads.is_empty() {
            self.start();
        }
        let mut rounds = 0;
        while self.world.group.state() != State::Stable
            || self
                .threads
                .values()
                .any(|thread| thread.owned != thread.told)
            || !self.world.group.members.keys().eq(self.threads.keys())
        {
            rounds += 1;
            assert!(rounds < 150, "does not converge\n{}", self.picture());
            self.world.pass(1000);
            for id in self.threads.keys().cloned().collect::<Vec<_>>() {
                self.beat(&id, false);
                self.check();
            }
        }
        let mut active = BTreeMap::new();
        for (id, thread) in &self.threads {
            for task in tasks::each(&thread.owned.active) {
                active.insert(task, id.clone());
            }
        }
        assert_eq!(
            active.len(),
            10,
            "every task is with somebody\n{}",
            self.picture()
        );
        let processes: BTreeSet<_> = self
            .threads
            .values()
            .map(|thread| &thread.process)
            .collect();
        let replicas =
            (self.world.config.streams_standby_replicas as usize).min(processes.len() - 1);
        let standbys: usize = self
            .threads
            .values()
            .map(|thread| tasks::each(&thread.owned.standby).count())
            .sum();
        assert_eq!(standbys, 5 * replicas, "{}", self.picture());
        let counts: Vec<_> = self
            .threads
            .values()
            .map(|thread| tasks::each(&thread.owned.active).count())
            .collect();
        assert!(
            counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
            "{counts:?}\n{}",
            self.picture()
        );
    }

    fn picture(&self) -> String {
        let members: Vec<_> = self
            .world
            .group
            .members
            .iter()
            .map(|(id, member)| {
                format!(
                    "{id}: {:?} target {:?}",
                    member.current,
                    self.world.group.target.get(id)
                )
            })
            .collect();
        let last = self.story.len().saturating_sub(40);
        format!(
            "seed {}\nlast steps:\n  {}\nmembers:\n  {}\nthreads: {:#?}",
            self.seed,
            self.story[last..].join("\n  "),
            members.join("\n  "),
            self.threads
        )
    }
}

#[test]
fn no_task_is_active_twice_and_all_settles_whatever_happens() {
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..3 {
            for _ in 0..120 {
                simulation.step();
            }
            simulation.settle();
        }
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    let story = |seed| {
        let mut simulation = Simulation::new(seed);
        for _ in 0..200 {
            simulation.step();
        }
        (simulation.story, simulation.world.log)
    };
    assert_eq!(story(7), story(7));
}
