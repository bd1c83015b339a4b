//! Groups on virtual time: requests in, effects out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::coordinator::group::MemberRef;

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;

/// A group with a clock, and the replies that came.
struct Fixture {
    group: ClassicGroup,
    rules: Rules,
    now_ms: i64,
    next_reply: ReplyId,
    joined: BTreeMap<ReplyId, Result<Joined, (GroupError, String)>>,
    synced: BTreeMap<ReplyId, Result<Synced, GroupError>>,
    /// Asked to be written, not yet durable.
    persist: Vec<GroupMetadata>,
}

impl Fixture {
    fn new(initial_rebalance_delay_ms: i64) -> Self {
        let rules = Rules {
            initial_rebalance_delay_ms,
            session_timeout_ms_min: 1,
            session_timeout_ms_max: 300_000,
            size_max: 3,
        };
        Self {
            group: ClassicGroup::new(0),
            rules,
            now_ms: 0,
            next_reply: 0,
            joined: BTreeMap::new(),
            synced: BTreeMap::new(),
            persist: Vec::new(),
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Joined(id, answer) => assert!(
                    self.joined.insert(id, answer).is_none(),
                    "join {id} answered twice"
                ),
                Effect::Synced(id, answer) => assert!(
                    self.synced.insert(id, answer).is_none(),
                    "sync {id} answered twice"
                ),
                Effect::Persist(metadata) => self.persist.push(metadata),
            }
        }
    }

    fn join_as(&mut self, member_id: &str, name: &str, change: impl FnOnce(&mut Join)) -> ReplyId {
        self.next_reply += 1;
        let reply = self.next_reply;
        let mut join = Join {
            member_id: member_id.to_owned(),
            new_member_id: name.to_owned(),
            instance_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), Bytes::from_static(b"topics"))],
            member_id_required: false,
            may_skip_assignment: true,
        };
        change(&mut join);
        let effects = self.group.join(join, reply, &self.rules, self.now_ms);
        self.perform(effects);
        reply
    }

    fn join_new(&mut self, name: &str) -> ReplyId {
        self.join_as("", name, |_| {})
    }

    fn rejoin(&mut self, name: &str) -> ReplyId {
        self.join_as(name, name, |_| {})
    }

    fn sync(
        &mut self,
        name: &str,
        generation: i32,
        assignments: &[(&str, &'static str)],
    ) -> ReplyId {
        self.next_reply += 1;
        let reply = self.next_reply;
        let assignments = assignments
            .iter()
            .map(|(id, bytes)| ((*id).to_owned(), Bytes::from_static(bytes.as_bytes())))
            .collect();
        let caller = Caller {
            member_id: name,
            instance_id: None,
            generation,
        };
        let effects = self
            .group
            .sync(caller, None, None, assignments, reply, self.now_ms);
        self.perform(effects);
        reply
    }

    fn heartbeat(&mut self, name: &str, generation: i32) -> Result<(), GroupError> {
        self.group.heartbeat(
            Caller {
                member_id: name,
                instance_id: None,
                generation,
            },
            self.now_ms,
        )
    }

    fn leave(&mut self, name: &str) -> Result<(), GroupError> {
        let (left, effects) = self.group.leave(name, None, &self.rules, self.now_ms);
        self.perform(effects);
        left
    }

    /// What was written is durable, or failed.
    fn persisted(&mut self, durable: bool) {
        for metadata in std::mem::take(&mut self.persist) {
            let effects = self
                .group
                .persisted(&metadata, durable, &self.rules, self.now_ms);
            self.perform(effects);
        }
    }

    fn advance(&mut self, by_ms: i64) {
        let end_ms = self.now_ms + by_ms;
        while let Some(deadline_ms) = self
            .group
            .next_deadline_ms()
            .filter(|deadline_ms| *deadline_ms <= end_ms)
        {
            self.now_ms = deadline_ms.max(self.now_ms);
            let effects = self.group.expire(&self.rules, self.now_ms);
            self.perform(effects);
            let next = self.group.next_deadline_ms();
            assert!(
                next.is_none_or(|next| next > self.now_ms),
                "expire left work due at {next:?}, now {}",
                self.now_ms
            );
        }
        self.now_ms = end_ms;
    }

    fn answer(&self, reply: ReplyId) -> &Joined {
        self.joined
            .get(&reply)
            .expect("join is answered")
            .as_ref()
            .unwrap()
    }

    fn refusal(&self, reply: ReplyId) -> GroupError {
        self.joined
            .get(&reply)
            .expect("join is answered")
            .as_ref()
            .unwrap_err()
            .0
    }

    fn assignment(&self, reply: ReplyId) -> Result<Bytes, GroupError> {
        self.synced
            .get(&reply)
            .expect("sync is answered")
            .clone()
            .map(|synced| synced.assignment)
    }

    /// Members a and b, stable in generation 2; a leads.
    fn stable_pair() -> Self {
        let mut fixture = Self::new(0);
        fixture.join_new("a");
        let b = fixture.join_new("b");
        let a = fixture.rejoin("a");
        assert_eq!(
            (fixture.answer(a).generation, fixture.answer(b).generation),
            (2, 2)
        );
        fixture.sync("a", 2, &[("a", "0"), ("b", "1")]);
        fixture.sync("b", 2, &[]);
        fixture.persisted(true);
        assert_eq!(fixture.group.state, State::Stable);
        fixture
    }
}

#[test]
fn the_first_member_waits_for_others_and_then_leads() {
    let mut fixture = Fixture::new(3000);
    let a = fixture.join_new("a");
    assert!(fixture.joined.is_empty());
    fixture.advance(2999);
    let b = fixture.join_new("b");
    // b came during the first delay, so there is another one.
    fixture.advance(1);
    assert!(fixture.joined.is_empty());
    fixture.advance(3000);
    assert_eq!(
        (fixture.answer(a).generation, fixture.answer(b).generation),
        (1, 1)
    );
    assert_eq!(fixture.answer(a).leader, "a");
    assert_eq!(fixture.answer(a).members.len(), 2);
    assert!(fixture.answer(b).members.is_empty());
}

#[test]
fn without_a_delay_the_first_member_has_its_generation_at_once() {
    let mut fixture = Fixture::new(0);
    let a = fixture.join_new("a");
    assert_eq!(fixture.answer(a).generation, 1);
}

#[test]
fn an_assignment_is_handed_out_only_when_it_is_durable() {
    let mut fixture = Fixture::new(0);
    fixture.join_new("a");
    let sync = fixture.sync("a", 1, &[("a", "all")]);
    assert!(fixture.synced.is_empty());
    assert_eq!(fixture.persist[0].members[0].assignment, "all");
    fixture.persisted(true);
    assert_eq!(fixture.assignment(sync), Ok(Bytes::from_static(b"all")));
    assert_eq!(fixture.group.state, State::Stable);
}

#[test]
fn an_assignment_that_is_not_written_is_not_handed_out() {
    let mut fixture = Fixture::new(0);
    fixture.join_new("a");
    let sync = fixture.sync("a", 1, &[("a", "all")]);
    fixture.persisted(false);
    assert_eq!(
        fixture.assignment(sync),
        Err(GroupError::CoordinatorNotAvailable)
    );
    assert_eq!(
        fixture.heartbeat("a", 1),
        Err(GroupError::RebalanceInProgress)
    );
}

#[test]
fn a_new_member_makes_the_others_join_again() {
    let mut fixture = Fixture::stable_pair();
    let c = fixture.join_new("c");
    assert_eq!(
        fixture.heartbeat("a", 2),
        Err(GroupError::RebalanceInProgress)
    );
    let a = fixture.rejoin("a");
    assert!(!fixture.joined.contains_key(&c));
    let b = fixture.rejoin("b");
    assert_eq!(
        [a, b, c].map(|reply| fixture.answer(reply).generation),
        [3, 3, 3]
    );
    assert_eq!(fixture.answer(c).leader, "a");
}

#[test]
fn a_member_that_does_not_come_back_is_out_after_the_rebalance_timeout() {
    let mut fixture = Fixture::stable_pair();
    let c = fixture.join_new("c");
    let a = fixture.rejoin("a");
    for _ in 0..12 {
        // b lives but does not join again.
        assert_eq!(
            fixture.heartbeat("b", 2),
            Err(GroupError::RebalanceInProgress)
        );
        fixture.advance(i64::from(REBALANCE_MS) / 12);
    }
    assert_eq!(
        (fixture.answer(a).generation, fixture.answer(c).generation),
        (3, 3)
    );
    assert_eq!(fixture.heartbeat("b", 3), Err(GroupError::UnknownMember));
}

#[test]
fn a_silent_member_is_out_after_its_session_timeout() {
    let mut fixture = Fixture::stable_pair();
    fixture.advance(6_000);
    assert_eq!(fixture.heartbeat("a", 2), Ok(()));
    fixture.advance(4_000);
    assert_eq!(fixture.heartbeat("b", 2), Err(GroupError::UnknownMember));
    let a = fixture.rejoin("a");
    assert_eq!(fixture.answer(a).generation, 3);
}

#[test]
fn a_member_that_leaves_makes_the_others_rebalance_at_once() {
    let mut fixture = Fixture::stable_pair();
    assert_eq!(fixture.leave("a"), Ok(()));
    assert_eq!(fixture.leave("a"), Err(GroupError::UnknownMember));
    let b = fixture.rejoin("b");
    assert_eq!(
        (
            fixture.answer(b).generation,
            fixture.answer(b).leader.as_str()
        ),
        (3, "b")
    );
}

#[test]
fn a_group_is_empty_when_its_last_member_has_left() {
    let mut fixture = Fixture::stable_pair();
    fixture.leave("a").unwrap();
    fixture.leave("b").unwrap();
    assert_eq!(fixture.group.state, State::Empty);
    let last = fixture.persist.last().unwrap();
    assert_eq!((last.generation, last.members.len()), (3, 0));
}

#[test]
fn a_member_that_never_syncs_is_out_after_the_rebalance_timeout() {
    let mut fixture = Fixture::stable_pair();
    fixture.join_new("c");
    fixture.rejoin("a");
    fixture.rejoin("b");
    let a = fixture.sync("a", 3, &[("a", "0")]);
    fixture.persist.clear();
    let b = fixture.sync("b", 3, &[]);
    for _ in 0..12 {
        assert_eq!(fixture.heartbeat("c", 3), Ok(()));
        fixture.advance(i64::from(REBALANCE_MS) / 12);
    }
    assert_eq!(fixture.assignment(a), Err(GroupError::RebalanceInProgress));
    assert_eq!(fixture.assignment(b), Err(GroupError::RebalanceInProgress));
    assert_eq!(fixture.heartbeat("c", 3), Err(GroupError::UnknownMember));
}

#[test]
fn a_new_member_that_can_is_given_its_id_first() {
    let mut fixture = Fixture::new(0);
    let first = fixture.join_as("", "a", |join| join.member_id_required = true);
    assert_eq!(
        fixture.joined[&first],
        Err((GroupError::MemberIdRequired, "a".to_owned()))
    );
    let second = fixture.join_as("a", "unused", |join| join.member_id_required = true);
    assert_eq!(fixture.answer(second).member_id, "a");
}

#[test]
fn an_id_that_is_not_used_expires_and_holds_nobody_up() {
    let mut fixture = Fixture::stable_pair();
    fixture.join_as("", "c", |join| join.member_id_required = true);
    let a = fixture.join_as("a", "a", |join| {
        join.protocols[0].1 = Bytes::from_static(b"other")
    });
    let b = fixture.rejoin("b");
    assert!(!fixture.joined.contains_key(&a));
    fixture.advance(i64::from(SESSION_MS));
    assert_eq!(
        (fixture.answer(a).generation, fixture.answer(b).generation),
        (3, 3)
    );
    let late = fixture.rejoin("c");
    assert_eq!(fixture.refusal(late), GroupError::UnknownMember);
}

#[test]
fn a_repeated_join_of_a_follower_changes_nothing() {
    let mut fixture = Fixture::stable_pair();
    let b = fixture.rejoin("b");
    assert_eq!(fixture.answer(b).generation, 2);
    assert_eq!(fixture.group.state, State::Stable);
    let sync = fixture.sync("b", 2, &[]);
    assert_eq!(fixture.assignment(sync), Ok(Bytes::from_static(b"1")));
}

#[test]
fn the_leader_joining_again_rebalances() {
    let mut fixture = Fixture::stable_pair();
    fixture.rejoin("a");
    assert_eq!(fixture.group.state, State::PreparingRebalance);
}

#[test]
fn strangers_and_old_generations_are_refused() {
    let mut fixture = Fixture::stable_pair();
    assert_eq!(fixture.heartbeat("x", 2), Err(GroupError::UnknownMember));
    assert_eq!(
        fixture.heartbeat("a", 1),
        Err(GroupError::IllegalGeneration)
    );
    let stranger = fixture.rejoin("x");
    assert_eq!(fixture.refusal(stranger), GroupError::UnknownMember);
    let sync = fixture.sync("a", 1, &[]);
    assert_eq!(fixture.assignment(sync), Err(GroupError::IllegalGeneration));
}

#[test]
fn members_without_a_common_protocol_are_refused() {
    let mut fixture = Fixture::stable_pair();
    let other = fixture.join_as("", "c", |join| join.protocols[0].0 = "sticky".into());
    assert_eq!(fixture.refusal(other), GroupError::InconsistentProtocol);
    let connect = fixture.join_as("", "c", |join| join.protocol_type = "connect".into());
    assert_eq!(fixture.refusal(connect), GroupError::InconsistentProtocol);
    let none = fixture.join_as("", "c", |join| join.protocols.clear());
    assert_eq!(fixture.refusal(none), GroupError::InconsistentProtocol);
}

#[test]
fn the_protocol_that_most_prefer_and_all_support_is_chosen() {
    let mut fixture = Fixture::new(3000);
    let prefer = |names: &'static [&'static str]| {
        move |join: &mut Join| {
            join.protocols = names
                .iter()
                .map(|name| ((*name).to_owned(), Bytes::new()))
                .collect()
        }
    };
    let a = fixture.join_as("", "a", prefer(&["range", "sticky"]));
    fixture.join_as("", "b", prefer(&["sticky", "range"]));
    fixture.join_as("", "c", prefer(&["lone", "sticky", "range"]));
    fixture.advance(10_000);
    assert_eq!(fixture.answer(a).protocol.as_deref(), Some("sticky"));
}

#[test]
fn a_full_group_and_a_bad_session_timeout_are_refused() {
    let mut fixture = Fixture::new(3000);
    for name in ["a", "b", "c"] {
        fixture.join_new(name);
    }
    let fourth = fixture.join_new("d");
    assert_eq!(fixture.refusal(fourth), GroupError::MaxSizeReached);
    let hasty = fixture.join_as("", "e", |join| join.session_timeout_ms = 0);
    assert_eq!(fixture.refusal(hasty), GroupError::InvalidSessionTimeout);
}

#[test]
fn commits_come_from_members_of_the_generation_or_from_nobody() {
    let mut fixture = Fixture::stable_pair();
    let check = |group: &mut ClassicGroup, member_id: &str, generation: i32, kind| {
        let member = MemberRef {
            member_id: member_id.to_owned(),
            instance_id: None,
            generation,
        };
        let member = &member;
        group.check_commit(Commit { member, kind }, 0)
    };
    let group = &mut fixture.group;
    assert_eq!(check(group, "a", 2, CommitKind::Direct), Ok(()));
    assert_eq!(check(group, "a", 2, CommitKind::WithoutEpochs), Ok(()));
    let illegal = Err(GroupError::IllegalGeneration);
    assert_eq!(check(group, "a", 1, CommitKind::Direct), illegal);
    assert_eq!(check(group, "a", 1, CommitKind::Transactional), illegal);
    let unknown = Err(GroupError::UnknownMember);
    assert_eq!(check(group, "x", 2, CommitKind::Direct), unknown);
    assert_eq!(check(group, "", -1, CommitKind::Direct), unknown);
    assert_eq!(check(group, "", -1, CommitKind::Transactional), Ok(()));
    let mut empty = ClassicGroup::new(0);
    assert_eq!(check(&mut empty, "", -1, CommitKind::Direct), Ok(()));
    assert_eq!(check(&mut empty, "x", -1, CommitKind::Direct), Ok(()));
    assert_eq!(check(&mut empty, "x", 1, CommitKind::Direct), unknown);
}

#[test]
fn a_static_leader_that_restarts_leads_on_without_a_rebalance() {
    let mut fixture = Fixture::new(0);
    let of = |join: &mut Join| join.instance_id = Some("i".into());
    fixture.join_as("", "a", of);
    fixture.sync("a", 1, &[("a", "1")]);
    fixture.persisted(true);
    assert_eq!(fixture.group.state, State::Stable);
    let back = fixture.join_as("", "b", of);
    let told = fixture.joined[&back].clone().unwrap();
    assert_eq!((told.generation, told.leader.as_str()), (1, "b"));
    assert!(told.skip_assignment && told.members.len() == 1);
    assert_eq!(fixture.group.state, State::Stable);
    fixture.persisted(true);
    let sync = fixture.sync("b", 1, &[]);
    assert_eq!(fixture.assignment(sync), Ok(Bytes::from_static(b"1")));
    // An older client is not told that it leads: it would assign anew.
    let older = fixture.join_as("", "c", |join| {
        of(join);
        join.may_skip_assignment = false;
    });
    let told = fixture.joined[&older].clone().unwrap();
    assert_eq!((told.generation, told.leader.as_str()), (1, "b"));
    assert!(!told.skip_assignment && told.members.is_empty());
    assert_eq!(fixture.group.leader.as_deref(), Some("c"));
}

#[test]
fn a_static_member_that_restarts_keeps_its_assignment() {
    let mut fixture = Fixture::new(3000);
    fixture.join_new("a");
    fixture.join_as("", "s1", |join| join.instance_id = Some("i".into()));
    fixture.advance(10_000);
    fixture.sync("a", 1, &[("a", "0"), ("s1", "1")]);
    fixture.persisted(true);
    let back = fixture.join_as("", "s2", |join| join.instance_id = Some("i".into()));
    assert_eq!(
        (
            fixture.answer(back).member_id.as_str(),
            fixture.answer(back).generation
        ),
        ("s2", 1)
    );
    let sync = fixture.sync("s2", 1, &[]);
    assert_eq!(fixture.assignment(sync), Ok(Bytes::from_static(b"1")));
    // The new id is written, and the old one is fenced.
    assert!(
        fixture.persist[0]
            .members
            .iter()
            .any(|member| member.member_id == "s2")
    );
    let caller = Caller {
        member_id: "s1",
        instance_id: Some("i"),
        generation: 1,
    };
    assert_eq!(
        fixture.group.heartbeat(caller, fixture.now_ms),
        Err(GroupError::FencedInstanceId)
    );
}

#[test]
fn a_restored_group_is_as_its_record_says_and_its_members_may_go_on() {
    let fixture = Fixture::stable_pair();
    let mut restored = ClassicGroup::restore(&fixture.group.metadata(), 1_000_000);
    assert_eq!((restored.state, restored.generation), (State::Stable, 2));
    let caller = Caller {
        member_id: "b",
        instance_id: None,
        generation: 2,
    };
    assert_eq!(restored.heartbeat(caller, 1_005_000), Ok(()));
    restored.expire(&fixture.rules, 1_010_000);
    assert_eq!(restored.members.keys().collect::<Vec<_>>(), ["b"]);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Join(usize),
        Sync(usize),
        Heartbeat(usize),
        Leave(usize),
        Persisted(bool),
        Advance(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_usize).prop_map(Step::Join),
            4 => (0..3_usize).prop_map(Step::Sync),
            2 => (0..3_usize).prop_map(Step::Heartbeat),
            1 => (0..3_usize).prop_map(Step::Leave),
            3 => any::<bool>().prop_map(Step::Persisted),
            2 => (0..70_000_i64).prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// Whatever happens, every reply comes at most once (the fixture asserts it), deadlines are used up, and after long silence
        /// the group is empty and owes nobody an answer.
        #[test]
        fn every_request_is_answered_once(steps in prop::collection::vec(step(), 0..60), delay_ms in 0..4000_i64) {
            let mut fixture = Fixture::new(delay_ms);
            let names = ["a", "b", "c"];
            let (mut joins, mut syncs) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Join(index) => {
                        let known = fixture.group.members.contains_key(names[index]);
                        joins.push(if known { fixture.rejoin(names[index]) } else { fixture.join_new(names[index]) });
                    }
                    Step::Sync(index) => {
                        let generation = fixture.group.generation;
                        syncs.push(fixture.sync(names[index], generation, &[(names[index], "x")]));
                    }
                    Step::Heartbeat(index) => {
                        let generation = fixture.group.generation;
                        let _ = fixture.heartbeat(names[index], generation);
                    }
                    Step::Leave(index) => {
                        let _ = fixture.leave(names[index]);
                    }
                    Step::Persisted(durable) => fixture.persisted(durable),
                    Step::Advance(by_ms) => fixture.advance(by_ms),
                }
            }
            for _ in 0..20 {
                fixture.persisted(true);
                fixture.advance(400_000);
            }
            prop_assert_eq!(fixture.group.state, State::Empty);
            prop_assert!(joins.iter().all(|reply| fixture.joined.contains_key(reply)));
            prop_assert!(syncs.iter().all(|reply| fixture.synced.contains_key(reply)));
        }
    }
}
