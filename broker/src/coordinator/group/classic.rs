//! A classic consumer group: members agree on a protocol, one of them (the leader) assigns, all are told.
//!
//! ```text
//! Empty ──join──► PreparingRebalance ──all joined, or timeout──► CompletingRebalance ──leader's assignment durable──► Stable
//!   ▲                    ▲   │ nobody left                              │ join, leave, timeout                          │
//!   └────────────────────┼───┘                                          │                                               │
//!                        └──────────────────────────────────────────────┴───────────────────────────────────────────────┘
//! ```
//!
//! A pure state machine: requests and the time go in, `Effect`s come out. It keeps the replies of members that wait (for the others to
//! join, for the leader to assign) as `ReplyId`s; its deadlines are values that `expire(now)` looks at.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::kind::OffsetExpiry;
use super::records::{GroupMetadata, MemberMetadata};
use super::{Commit, CommitKind, GroupError};

/// Names a reply that is owed.
pub(crate) type ReplyId = u64;

/// How long a member that joined while a rebalance waits may be silent.
const JOINING_TIMEOUT_MS: i64 = 300_000;

/// Where a group is in its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    /// The word that ListGroups and DescribeGroups use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// Limits of the broker.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) initial_rebalance_delay_ms: i64,
    pub(crate) session_timeout_ms_min: i64,
    pub(crate) session_timeout_ms_max: i64,
    pub(crate) size_max: usize,
}

/// A request to join.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Empty for a new member.
    pub(crate) member_id: String,
    /// The id a new member is given. Randomness is the caller's.
    pub(crate) new_member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout_ms: i32,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) protocol_type: String,
    /// In the member's order of preference, with its metadata for each.
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) member_id_required: bool,
    /// The client understands that a leader that is back need not assign.
    pub(crate) may_skip_assignment: bool,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) member_id: String,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: String,
    /// For the leader only: id, instance id, metadata.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
    /// The leader is back and need not assign: the assignment stays (KIP-814).
    pub(crate) skip_assignment: bool,
}

/// The answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignment: Bytes,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Answer a join; an error comes with the member id it is about.
    Joined(ReplyId, Result<Joined, (GroupError, String)>),
    /// Answer a sync.
    Synced(ReplyId, Result<Synced, GroupError>),
    /// Write this as the group's metadata, then call `persisted` with its generation.
    Persist(GroupMetadata),
}

/// Who a request says it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) member_id: &'a str,
    pub(crate) instance_id: Option<&'a str>,
    pub(crate) generation: i32,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    pub(crate) session_timeout_ms: i32,
    pub(crate) rebalance_timeout_ms: i32,
    awaiting_join: Option<ReplyId>,
    awaiting_sync: Option<ReplyId>,
    /// Has sent its sync in this generation.
    synced: bool,
    heartbeat_deadline_ms: i64,
}

impl Member {
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    fn heard_of(&mut self, now_ms: i64) {
        self.heartbeat_deadline_ms = now_ms + i64::from(self.session_timeout_ms);
    }
}

/// When a rebalance stops waiting for members.
#[derive(Debug, Clone, Copy)]
struct JoinWindow {
    deadline_ms: i64,
    /// The group was empty: it waits for others to appear, in steps, for as long as new ones come and this allows.
    initial: Option<Initial>,
}

#[derive(Debug, Clone, Copy)]
struct Initial {
    remaining_ms: i64,
    member_added: bool,
}

/// A group.
#[derive(Debug)]
pub(crate) struct ClassicGroup {
    pub(crate) state: State,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) members: BTreeMap<String, Member>,
    static_members: BTreeMap<String, String>,
    /// Ids given out with MEMBER_ID_REQUIRED, until when they may be used.
    pending: BTreeMap<String, i64>,
    join_window: Option<JoinWindow>,
    /// Members that have not synced by then are removed.
    sync_deadline_ms: Option<i64>,
    state_since_ms: i64,
}

impl ClassicGroup {
    pub(crate) fn new(now_ms: i64) -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_window: None,
            sync_deadline_ms: None,
            state_since_ms: now_ms,
        }
    }

    /// The group as its last record says, after a restart: its members have one session timeout to show up.
    pub(crate) fn restore(metadata: &GroupMetadata, now_ms: i64) -> Self {
        let mut group = Self::new(metadata.state_timestamp_ms.max(0));
        group.generation = metadata.generation;
        group.protocol_type = Some(metadata.protocol_type.clone()).filter(|name| !name.is_empty());
        group.protocol = metadata.protocol.clone();
        group.leader = metadata.leader.clone();
        for member in &metadata.members {
            if let Some(instance_id) = &member.instance_id {
                group
                    .static_members
                    .insert(instance_id.clone(), member.member_id.clone());
            }
            let protocol = metadata.protocol.clone().unwrap_or_default();
            group.members.insert(
                member.member_id.clone(),
                Member {
                    instance_id: member.instance_id.clone(),
                    client_id: member.client_id.clone(),
                    client_host: member.client_host.clone(),
                    protocols: vec![(protocol, member.subscription.clone())],
                    assignment: member.assignment.clone(),
                    session_timeout_ms: member.session_timeout_ms,
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    awaiting_join: None,
                    awaiting_sync: None,
                    synced: true,
                    heartbeat_deadline_ms: now_ms + i64::from(member.session_timeout_ms),
                },
            );
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
        }
        group
    }

    /// What a consumer group was, as a classic one whose members rebalance next. The members' protocols come in the members' order.
    pub(crate) fn taken_over(
        metadata: &GroupMetadata,
        protocols: Vec<Vec<(String, Bytes)>>,
        now_ms: i64,
    ) -> Self {
        let mut group = Self::restore(metadata, now_ms);
        for (member, protocols) in metadata.members.iter().zip(protocols) {
            if let Some(member) = group.members.get_mut(&member.member_id) {
                member.protocols = protocols;
            }
        }
        group.protocol = group.choose_protocol();
        group
    }

    /// Makes the members join again.
    pub(crate) fn start_rebalance(&mut self, rules: &Rules, now_ms: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.rebalance(rules, now_ms, &mut effects);
        effects
    }

    /// A member joins, or joins again.
    pub(crate) fn join(
        &mut self,
        join: Join,
        reply: ReplyId,
        rules: &Rules,
        now_ms: i64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let member_id = join.member_id.clone();
        if let Err((error, member_id)) = self.try_join(join, reply, rules, now_ms, &mut effects) {
            effects.push(Effect::Joined(reply, Err((error, member_id))));
        } else if let Some(member) = self.members.get_mut(&member_id) {
            member.heard_of(now_ms);
        }
        effects
    }

    fn try_join(
        &mut self,
        join: Join,
        reply: ReplyId,
        rules: &Rules,
        now_ms: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (GroupError, String)> {
        let refuse = |error: GroupError| Err((error, join.member_id.clone()));
        let session = i64::from(join.session_timeout_ms);
        if session < rules.session_timeout_ms_min || session > rules.session_timeout_ms_max {
            return refuse(GroupError::InvalidSessionTimeout);
        }
        if self.state == State::Dead {
            return refuse(GroupError::CoordinatorNotAvailable);
        }
        if !self.accepts_protocols(&join) {
            return refuse(GroupError::InconsistentProtocol);
        }
        let known = self.members.contains_key(&join.member_id);
        if join.member_id.is_empty() {
            if self.members.len() + self.pending.len() >= rules.size_max {
                return refuse(GroupError::MaxSizeReached);
            }
            if let Some(instance_id) = join.instance_id.clone() {
                return self.join_static(instance_id, join, reply, rules, now_ms, effects);
            }
            if join.member_id_required {
                self.pending
                    .insert(join.new_member_id.clone(), now_ms + session);
                return Err((GroupError::MemberIdRequired, join.new_member_id));
            }
            let id = join.new_member_id.clone();
            self.add(id, join, reply, rules, now_ms, effects);
            return Ok(());
        }
        if let Some(instance_id) = &join.instance_id {
            match self.static_members.get(instance_id) {
                Some(owner) if *owner != join.member_id => {
                    return refuse(GroupError::FencedInstanceId);
                }
                None if !self.pending.contains_key(&join.member_id) => {
                    return refuse(GroupError::UnknownMember);
                }
                _ => {}
            }
        }
        if self.pending.remove(&join.member_id).is_some() {
            let id = join.member_id.clone();
            self.add(id, join, reply, rules, now_ms, effects);
            return Ok(());
        }
        if !known {
            return refuse(GroupError::UnknownMember);
        }
        let unchanged = self
            .members
            .get(&join.member_id)
            .is_some_and(|member| member.protocols == join.protocols);
        let leads = self.leader.as_deref() == Some(&join.member_id);
        match self.state {
            State::Empty | State::Dead => refuse(GroupError::UnknownMember),
            // Its answer was lost: the same again.
            State::CompletingRebalance if unchanged => {
                effects.push(self.joined(&join.member_id, reply));
                Ok(())
            }
            State::Stable if unchanged && !leads => {
                effects.push(self.joined(&join.member_id, reply));
                Ok(())
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                let id = join.member_id.clone();
                self.update(&id, join, reply, now_ms, effects);
                self.rebalance(rules, now_ms, effects);
                Ok(())
            }
        }
    }

    /// A static member comes without an id: new, or back after a restart of its process.
    fn join_static(
        &mut self,
        instance_id: String,
        join: Join,
        reply: ReplyId,
        rules: &Rules,
        now_ms: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (GroupError, String)> {
        let id = join.new_member_id.clone();
        let Some(old_id) = self.static_members.insert(instance_id, id.clone()) else {
            self.add(id, join, reply, rules, now_ms, effects);
            return Ok(());
        };
        let Some(mut member) = self.members.remove(&old_id) else {
            self.add(id, join, reply, rules, now_ms, effects);
            return Ok(());
        };
        // Whoever still waits under the old id has been replaced.
        if let Some(waiting) = member.awaiting_join.take() {
            effects.push(Effect::Joined(
                waiting,
                Err((GroupError::FencedInstanceId, old_id.clone())),
            ));
        }
        if let Some(waiting) = member.awaiting_sync.take() {
            effects.push(Effect::Synced(waiting, Err(GroupError::FencedInstanceId)));
        }
        let unchanged = member.protocols == join.protocols;
        let led = self.leader.as_deref() == Some(&old_id);
        if led {
            self.leader = Some(id.clone());
        }
        self.members.insert(id.clone(), member);
        if self.state == State::Stable && unchanged {
            // The assignment stays; the record has to know the new id before the next restart.
            let mut answer = self.joined(&id, reply);
            if led && let Effect::Joined(_, Ok(joined)) = &mut answer {
                if join.may_skip_assignment {
                    joined.skip_assignment = true;
                } else {
                    // It would assign anew if it knew that it leads, and nobody would ask for that.
                    joined.leader = old_id;
                    joined.members = Vec::new();
                }
            }
            effects.push(answer);
            if let Some(member) = self.members.get_mut(&id) {
                member.heard_of(now_ms);
            }
            effects.push(Effect::Persist(self.metadata()));
            return Ok(());
        }
        self.update(&id, join, reply, now_ms, effects);
        self.rebalance(rules, now_ms, effects);
        Ok(())
    }

    fn accepts_protocols(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        // Names that do not fit into a record.
        if join.protocol_type.len() > i16::MAX as usize
            || join
                .protocols
                .iter()
                .any(|(name, _)| name.len() > i16::MAX as usize)
        {
            return false;
        }
        let others: Vec<_> = self
            .members
            .iter()
            .filter(|(id, _)| **id != join.member_id)
            .map(|(_, member)| member)
            .collect();
        if others.is_empty() {
            return true;
        }
        self.protocol_type
            .as_deref()
            .is_none_or(|name| name == join.protocol_type)
            && join.protocols.iter().any(|(name, _)| {
                others
                    .iter()
                    .all(|member| member.protocols.iter().any(|(other, _)| other == name))
            })
    }

    fn add(
        &mut self,
        id: String,
        join: Join,
        reply: ReplyId,
        rules: &Rules,
        now_ms: i64,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(instance_id) = &join.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        self.protocol_type = Some(join.protocol_type);
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(
            id,
            Member {
                instance_id: join.instance_id,
                client_id: join.client_id,
                client_host: join.client_host,
                protocols: join.protocols,
                assignment: Bytes::new(),
                session_timeout_ms: join.session_timeout_ms,
                rebalance_timeout_ms: join.rebalance_timeout_ms.max(0),
                awaiting_join: Some(reply),
                awaiting_sync: None,
                synced: false,
                heartbeat_deadline_ms: now_ms + JOINING_TIMEOUT_MS,
            },
        );
        if let Some(JoinWindow {
            initial: Some(initial),
            ..
        }) = &mut self.join_window
        {
            initial.member_added = true;
        }
        self.rebalance(rules, now_ms, effects);
    }

    fn update(
        &mut self,
        id: &str,
        join: Join,
        reply: ReplyId,
        now_ms: i64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if let Some(superseded) = member.awaiting_join.replace(reply) {
            // The same member asked again on another connection: the older request gets an answer it can retry.
            effects.push(Effect::Joined(
                superseded,
                Err((GroupError::RebalanceInProgress, id.to_owned())),
            ));
        }
        member.protocols = join.protocols;
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms.max(0);
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.heard_of(now_ms);
        self.protocol_type = Some(join.protocol_type);
    }

    /// Starts a rebalance unless one is under way, and ends it if nobody has to be waited for.
    fn rebalance(&mut self, rules: &Rules, now_ms: i64, effects: &mut Vec<Effect>) {
        if self.state == State::CompletingRebalance {
            self.fail_syncs(GroupError::RebalanceInProgress, now_ms, effects);
        }
        if self.state != State::PreparingRebalance {
            let longest = self.rebalance_timeout_ms();
            self.join_window = Some(if self.state == State::Empty {
                let delay = rules.initial_rebalance_delay_ms;
                let initial = Initial {
                    remaining_ms: (longest - delay).max(0),
                    member_added: false,
                };
                JoinWindow {
                    deadline_ms: now_ms + delay,
                    initial: Some(initial),
                }
            } else {
                JoinWindow {
                    deadline_ms: now_ms + longest,
                    initial: None,
                }
            });
            self.enter(State::PreparingRebalance, now_ms);
            self.sync_deadline_ms = None;
        }
        self.maybe_complete_join(rules, now_ms, effects);
    }

    fn rebalance_timeout_ms(&self) -> i64 {
        self.members
            .values()
            .map(|member| i64::from(member.rebalance_timeout_ms))
            .max()
            .unwrap_or(0)
    }

    fn maybe_complete_join(&mut self, rules: &Rules, now_ms: i64, effects: &mut Vec<Effect>) {
        let (State::PreparingRebalance, Some(window)) = (self.state, self.join_window) else {
            return;
        };
        let due = window.deadline_ms <= now_ms;
        let all_joined = self.pending.is_empty()
            && self
                .members
                .values()
                .all(|member| member.awaiting_join.is_some());
        match window.initial {
            Some(initial) if due && initial.member_added && initial.remaining_ms > 0 => {
                let delay = rules
                    .initial_rebalance_delay_ms
                    .min(initial.remaining_ms)
                    .max(1);
                let initial = Initial {
                    remaining_ms: initial.remaining_ms - delay,
                    member_added: false,
                };
                self.join_window = Some(JoinWindow {
                    deadline_ms: now_ms + delay,
                    initial: Some(initial),
                });
            }
            Some(_) if !due && !self.members.is_empty() => {}
            None if !due && !all_joined => {}
            _ => self.complete_join(now_ms, effects),
        }
    }

    fn complete_join(&mut self, now_ms: i64, effects: &mut Vec<Effect>) {
        // Members that did not come are out; static ones may still come back within their session.
        let absent: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.forget(&id);
        }
        let present = |member: &Member| member.awaiting_join.is_some();
        if !self.members.is_empty() && !self.members.values().any(present) {
            // Only static members that are away: wait another round for them.
            let longest = self.rebalance_timeout_ms().max(1);
            self.join_window = Some(JoinWindow {
                deadline_ms: now_ms + longest,
                initial: None,
            });
            return;
        }
        let leader_is_present = self
            .leader
            .as_ref()
            .and_then(|id| self.members.get(id))
            .is_some_and(present);
        if !leader_is_present {
            self.leader = self
                .members
                .iter()
                .find(|(_, member)| present(member))
                .map(|(id, _)| id.clone());
        }
        self.join_window = None;
        self.generation = if self.generation == i32::MAX {
            1
        } else {
            self.generation + 1
        };
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(State::Empty, now_ms);
            effects.push(Effect::Persist(self.metadata()));
            return;
        }
        self.protocol = self.choose_protocol();
        self.enter(State::CompletingRebalance, now_ms);
        self.sync_deadline_ms = Some(now_ms + self.rebalance_timeout_ms().max(1));
        let waiting: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| {
                member.synced = false;
                let reply = member.awaiting_join.take()?;
                member.heard_of(now_ms);
                Some((id.clone(), reply))
            })
            .collect();
        for (id, reply) in waiting {
            effects.push(self.joined(&id, reply));
        }
    }

    /// Each member votes for the first of its protocols that all support; the one with most votes wins.
    fn choose_protocol(&self) -> Option<String> {
        let supported_by_all = |name: &str| {
            self.members
                .values()
                .all(|member| member.protocols.iter().any(|(other, _)| other == name))
        };
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member
                .protocols
                .iter()
                .find(|(name, _)| supported_by_all(name))
            {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes
            .into_iter()
            .max_by_key(|(_, votes)| *votes)
            .map(|(name, _)| name.to_owned())
    }

    fn joined(&self, id: &str, reply: ReplyId) -> Effect {
        let protocol = self.protocol.clone().unwrap_or_default();
        let leads = self.leader.as_deref() == Some(id);
        let members = if leads {
            let of = |(id, member): (&String, &Member)| {
                (
                    id.clone(),
                    member.instance_id.clone(),
                    member.metadata(&protocol),
                )
            };
            self.members.iter().map(of).collect()
        } else {
            Vec::new()
        };
        Effect::Joined(
            reply,
            Ok(Joined {
                member_id: id.to_owned(),
                generation: self.generation,
                protocol_type: self.protocol_type.clone(),
                protocol: self.protocol.clone(),
                leader: self.leader.clone().unwrap_or_default(),
                members,
                skip_assignment: false,
            }),
        )
    }

    /// A member asks for its assignment; the leader brings everybody's.
    pub(crate) fn sync(
        &mut self,
        caller: Caller<'_>,
        protocol_type: Option<&str>,
        protocol: Option<&str>,
        assignments: Vec<(String, Bytes)>,
        reply: ReplyId,
        now_ms: i64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Err(error) = self.try_sync(
            caller,
            protocol_type,
            protocol,
            assignments,
            reply,
            now_ms,
            &mut effects,
        ) {
            effects.push(Effect::Synced(reply, Err(error)));
        }
        effects
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one request")]
    fn try_sync(
        &mut self,
        caller: Caller<'_>,
        protocol_type: Option<&str>,
        protocol: Option<&str>,
        assignments: Vec<(String, Bytes)>,
        reply: ReplyId,
        now_ms: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), GroupError> {
        self.check(caller)?;
        let differs =
            |said: Option<&str>, ours: &Option<String>| said.is_some() && said != ours.as_deref();
        if differs(protocol_type, &self.protocol_type) || differs(protocol, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        let leads = self.leader.as_deref() == Some(caller.member_id);
        let state = self.state;
        let answer = (self.protocol_type.clone(), self.protocol.clone());
        let member = self
            .members
            .get_mut(caller.member_id)
            .ok_or(GroupError::UnknownMember)?;
        match state {
            State::Empty | State::Dead => Err(GroupError::UnknownMember),
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::Stable => {
                member.heard_of(now_ms);
                let (protocol_type, protocol) = answer;
                let synced = Synced {
                    protocol_type,
                    protocol,
                    assignment: member.assignment.clone(),
                };
                effects.push(Effect::Synced(reply, Ok(synced)));
                Ok(())
            }
            State::CompletingRebalance => {
                member.synced = true;
                if let Some(superseded) = member.awaiting_sync.replace(reply) {
                    effects.push(Effect::Synced(
                        superseded,
                        Err(GroupError::RebalanceInProgress),
                    ));
                }
                if leads {
                    let mut metadata = self.metadata();
                    for member in &mut metadata.members {
                        let found = assignments.iter().find(|(id, _)| *id == member.member_id);
                        member.assignment = found
                            .map(|(_, assignment)| assignment.clone())
                            .unwrap_or_default();
                    }
                    effects.push(Effect::Persist(metadata));
                }
                Ok(())
            }
        }
    }

    /// What `Effect::Persist` asked for is durable, or failed. An assignment is handed out only now.
    pub(crate) fn persisted(
        &mut self,
        metadata: &GroupMetadata,
        durable: bool,
        rules: &Rules,
        now_ms: i64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.state != State::CompletingRebalance || self.generation != metadata.generation {
            return effects;
        }
        if !durable {
            self.fail_syncs(GroupError::CoordinatorNotAvailable, now_ms, &mut effects);
            self.rebalance(rules, now_ms, &mut effects);
            return effects;
        }
        for of in &metadata.members {
            if let Some(member) = self.members.get_mut(&of.member_id) {
                member.assignment = of.assignment.clone();
            }
        }
        self.enter(State::Stable, now_ms);
        let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
        for member in self.members.values_mut() {
            if let Some(reply) = member.awaiting_sync.take() {
                member.heard_of(now_ms);
                let (protocol_type, protocol) = (protocol_type.clone(), protocol.clone());
                let synced = Synced {
                    protocol_type,
                    protocol,
                    assignment: member.assignment.clone(),
                };
                effects.push(Effect::Synced(reply, Ok(synced)));
            }
        }
        effects
    }

    /// A member says that it is alive.
    pub(crate) fn heartbeat(&mut self, caller: Caller<'_>, now_ms: i64) -> Result<(), GroupError> {
        self.check(caller)?;
        let state = self.state;
        let member = self
            .members
            .get_mut(caller.member_id)
            .ok_or(GroupError::UnknownMember)?;
        member.heard_of(now_ms);
        match state {
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
            State::Empty | State::Dead => Err(GroupError::UnknownMember),
        }
    }

    /// Whether a commit may be made: by a member of the current generation, or by nobody's member when the group has none.
    pub(crate) fn check_commit(
        &mut self,
        commit: Commit<'_>,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        let is_transactional = commit.kind == CommitKind::Transactional;
        let caller = commit.member.caller();
        if caller.generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if commit.member.names_nobody() {
            // A transaction's producer may be no member at all.
            return if is_transactional {
                Ok(())
            } else {
                Err(GroupError::UnknownMember)
            };
        }
        self.check(caller)?;
        // A rebalance does not refuse a transaction that was begun before.
        if self.state == State::CompletingRebalance && !is_transactional {
            return Err(GroupError::RebalanceInProgress);
        }
        if let Some(member) = self.members.get_mut(caller.member_id) {
            member.heard_of(now_ms);
        }
        Ok(())
    }

    /// A member leaves. Either of the ids names it; an administrator knows only the instance id.
    pub(crate) fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        rules: &Rules,
        now_ms: i64,
    ) -> (Result<(), GroupError>, Vec<Effect>) {
        let mut effects = Vec::new();
        let id = match instance_id {
            Some(instance_id) => match self.static_members.get(instance_id) {
                None => return (Err(GroupError::UnknownMember), effects),
                Some(id) if !member_id.is_empty() && id != member_id => {
                    return (Err(GroupError::FencedInstanceId), effects);
                }
                Some(id) => id.clone(),
            },
            None => member_id.to_owned(),
        };
        if self.pending.remove(&id).is_some() {
            self.maybe_complete_join(rules, now_ms, &mut effects);
            return (Ok(()), effects);
        }
        if !self.members.contains_key(&id) {
            return (Err(GroupError::UnknownMember), effects);
        }
        self.remove(&id, rules, now_ms, &mut effects);
        (Ok(()), effects)
    }

    fn remove(&mut self, id: &str, rules: &Rules, now_ms: i64, effects: &mut Vec<Effect>) {
        if let Some(member) = self.forget(id) {
            if let Some(reply) = member.awaiting_join {
                effects.push(Effect::Joined(
                    reply,
                    Err((GroupError::UnknownMember, id.to_owned())),
                ));
            }
            if let Some(reply) = member.awaiting_sync {
                effects.push(Effect::Synced(reply, Err(GroupError::UnknownMember)));
            }
        }
        match self.state {
            State::Stable | State::CompletingRebalance => self.rebalance(rules, now_ms, effects),
            State::PreparingRebalance => self.maybe_complete_join(rules, now_ms, effects),
            State::Empty | State::Dead => {}
        }
    }

    fn forget(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        if let Some(instance_id) = &member.instance_id
            && self
                .static_members
                .get(instance_id)
                .is_some_and(|owner| owner == id)
        {
            self.static_members.remove(instance_id);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Ends what has waited for too long.
    pub(crate) fn expire(&mut self, rules: &Rules, now_ms: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let pending = self.pending.len();
        self.pending.retain(|_, deadline_ms| *deadline_ms > now_ms);
        if self.pending.len() != pending {
            self.maybe_complete_join(rules, now_ms, &mut effects);
        }
        let silent: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| {
                member
                    .expires_ms()
                    .is_some_and(|deadline_ms| deadline_ms <= now_ms)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            self.remove(&id, rules, now_ms, &mut effects);
        }
        if self.state == State::CompletingRebalance
            && self
                .sync_deadline_ms
                .is_some_and(|deadline_ms| deadline_ms <= now_ms)
        {
            self.sync_deadline_ms = None;
            let missing: Vec<_> = self
                .members
                .iter()
                .filter(|(_, member)| !member.synced)
                .map(|(id, _)| id.clone())
                .collect();
            for id in missing {
                self.remove(&id, rules, now_ms, &mut effects);
            }
        }
        self.maybe_complete_join(rules, now_ms, &mut effects);
        effects
    }

    /// When `expire` has something to do at the earliest.
    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        let join = self
            .join_window
            .filter(|_| self.state == State::PreparingRebalance)
            .map(|window| window.deadline_ms);
        let sync = self
            .sync_deadline_ms
            .filter(|_| self.state == State::CompletingRebalance);
        let pending = self.pending.values().copied();
        self.members
            .values()
            .filter_map(Member::expires_ms)
            .chain(join)
            .chain(sync)
            .chain(pending)
            .min()
    }

    /// Topics that members subscribe to; `None` if the protocol does not say.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        if self.protocol_type.as_deref() != Some("consumer") {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            for (_, metadata) in &member.protocols {
                topics.extend(crate::protocol::subscribed_topics(metadata)?);
            }
        }
        Some(topics)
    }

    /// Whether somebody was told an id to join with.
    pub(crate) fn expects_somebody(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How its offsets expire; `None`: not while it is like this.
    pub(crate) fn offset_expiry(&self) -> Option<OffsetExpiry> {
        let (since_ms, subscribed) = match (&self.protocol_type, self.state) {
            // It never had members.
            (None, _) => (None, BTreeSet::new()),
            (Some(_), State::Empty) => (Some(self.state_since_ms), BTreeSet::new()),
            (Some(_), State::Stable) => (None, self.subscribed_topics()?),
            (Some(_), _) => return None,
        };
        Some(OffsetExpiry {
            since_ms,
            subscribed,
        })
    }

    /// Whether the group has had no generation and expects nobody.
    pub(crate) fn is_unused(&self) -> bool {
        self.state == State::Empty
            && self.generation == 0
            && self.members.is_empty()
            && self.pending.is_empty()
    }

    /// Ends every wait with this error: the group is removed, or the coordinator stops.
    pub(crate) fn fail_all(&mut self, error: GroupError, now_ms: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.fail_syncs(error, now_ms, &mut effects);
        for (id, member) in &mut self.members {
            if let Some(reply) = member.awaiting_join.take() {
                member.heard_of(now_ms);
                effects.push(Effect::Joined(reply, Err((error, id.clone()))));
            }
        }
        effects
    }

    fn fail_syncs(&mut self, error: GroupError, now_ms: i64, effects: &mut Vec<Effect>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            member.synced = false;
            if let Some(reply) = member.awaiting_sync.take() {
                // It was kept waiting, not silent: its session begins again.
                member.heard_of(now_ms);
                effects.push(Effect::Synced(reply, Err(error)));
            }
        }
    }

    fn check(&self, caller: Caller<'_>) -> Result<(), GroupError> {
        if let Some(instance_id) = caller.instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(GroupError::UnknownMember),
                Some(owner) if owner != caller.member_id => {
                    return Err(GroupError::FencedInstanceId);
                }
                Some(_) => {}
            }
        }
        if !self.members.contains_key(caller.member_id) {
            return Err(GroupError::UnknownMember);
        }
        if caller.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(())
    }

    fn enter(&mut self, state: State, now_ms: i64) {
        self.state = state;
        self.state_since_ms = now_ms;
    }

    /// The group as a record, with the assignments that members have now.
    pub(crate) fn metadata(&self) -> GroupMetadata {
        let protocol = self.protocol.clone().unwrap_or_default();
        let of = |(id, member): (&String, &Member)| MemberMetadata {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(&protocol),
            assignment: member.assignment.clone(),
        };
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_since_ms,
            members: self.members.iter().map(of).collect(),
        }
    }
}

impl Member {
    /// When its silence ends its membership; a member whose request is kept waiting is not silent.
    fn expires_ms(&self) -> Option<i64> {
        (self.awaiting_join.is_none() && self.awaiting_sync.is_none())
            .then_some(self.heartbeat_deadline_ms)
    }
}

#[cfg(test)]
mod tests;
